// Package gguf writes and reads GGUF files, version 3, little-endian.
//
// A file is a header of counts, key-value pairs, tensor infos, and the tensors' bytes, each tensor at a multiple of the alignment.
// Shapes here are row-major, slowest axis first; the file stores them the other way around.
package gguf

import (
	"fmt"
	"math"
	"math/bits"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
)

type (
	// A FormatError says that the file is broken.
	FormatError = fileerr.FormatError
	// An UnsupportedError says that the file is sound, but holds what this package does not read.
	UnsupportedError = fileerr.UnsupportedError
)

const (
	magic   = "GGUF"
	version = 3

	// Alignment of tensor data, in bytes, in the files that a Writer makes.
	Alignment = 32

	maxName = 63 // bytes of a tensor's name that ggml holds
	maxDims = 4
)

// A Type is an element type, by its number in the file.
type Type uint32

// The types that model files use.
const (
	F32   Type = 0
	F16   Type = 1
	Q4_0  Type = 2
	Q4_1  Type = 3
	Q5_0  Type = 6
	Q5_1  Type = 7
	Q8_0  Type = 8
	Q4_K  Type = 12
	Q5_K  Type = 13
	Q6_K  Type = 14
	IQ4NL Type = 20
	BF16  Type = 30
)

// A layout says how a type packs a row: so many elements in so many bytes.
type layout struct {
	name            string
	elements, bytes int64
}

// From ggml's block structs: a block of 32 has one or two f16 scales, one of 256 has scales of scales.
var layouts = map[Type]layout{
	F32: {"f32", 1, 4}, F16: {"f16", 1, 2}, BF16: {"bf16", 1, 2},
	Q4_0: {"q4_0", 32, 18}, Q4_1: {"q4_1", 32, 20}, Q5_0: {"q5_0", 32, 22}, Q5_1: {"q5_1", 32, 24}, Q8_0: {"q8_0", 32, 34},
	Q4_K: {"q4_k", 256, 144}, Q5_K: {"q5_k", 256, 176}, Q6_K: {"q6_k", 256, 210}, IQ4NL: {"iq4_nl", 32, 18},
}

// ParseType returns the type called name, for instance "q8_0".
func ParseType(name string) (Type, bool) {
	for t, l := range layouts {
		if l.name == name {
			return t, true
		}
	}
	return 0, false
}

// String returns the type's name, or its number when it has none here.
func (t Type) String() string {
	if l, ok := layouts[t]; ok {
		return l.name
	}
	return fmt.Sprintf("type %d", uint32(t))
}

// Block returns how many elements of a row are packed together, 0 for an unknown type.
func (t Type) Block() int64 { return layouts[t].elements }

// RowBytes returns the bytes of a row of n elements, and false when the type can't hold such a row.
func (t Type) RowBytes(n int64) (int64, bool) {
	l, ok := layouts[t]
	if !ok || n < 0 || n%l.elements != 0 || n/l.elements > math.MaxInt64/l.bytes {
		return 0, false
	}
	return n / l.elements * l.bytes, true
}

// A Tensor describes one tensor of a file.
type Tensor struct {
	Name  string
	Type  Type
	Shape []int64 // slowest axis first, 1 to 4 axes
	Start int64   // of its first byte, from the start of the file
	Bytes int64
}

// Rows returns the number of rows and the elements of one; a row is the fastest axis.
func (t Tensor) Rows() (rows, length int64) {
	rows = 1
	for _, n := range t.Shape[:len(t.Shape)-1] {
		rows *= n
	}
	return rows, t.Shape[len(t.Shape)-1]
}

// size returns the bytes of a tensor, and false when the shape does not fit the type or overflows.
func size(t Type, shape []int64) (int64, bool) {
	if len(shape) < 1 || len(shape) > maxDims {
		return 0, false
	}
	row, ok := t.RowBytes(shape[len(shape)-1])
	if !ok {
		return 0, false
	}
	total := uint64(row)
	elements := uint64(shape[len(shape)-1])
	for _, n := range shape[:len(shape)-1] {
		if n < 0 {
			return 0, false
		}
		var hi, hi2 uint64
		hi, total = bits.Mul64(total, uint64(n))
		hi2, elements = bits.Mul64(elements, uint64(n))
		if hi|hi2 != 0 || total > math.MaxInt64-Alignment || elements > math.MaxInt64 {
			return 0, false
		}
	}
	return int64(total), true
}

// A KV is a key and its value: uint8, int8, uint16, int16, uint32, int32, uint64, int64, float32, float64, bool, string,
// or a slice of one of these.
type KV struct {
	Key   string
	Value any
}

// Value types, by their number in the file.
const (
	kindUint8 = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

func align(n, alignment int64) int64 { return (n + alignment - 1) / alignment * alignment }
