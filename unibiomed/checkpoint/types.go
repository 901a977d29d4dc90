package checkpoint

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// Types lists the names of the types that a part can be stored in.
func Types() []string {
	return []string{"f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_0", "iq4_nl"}
}

// PlainTypes lists the Types that store all matrices alike: those that a TensorType takes.
func PlainTypes() []string {
	return slices.DeleteFunc(Types(), func(name string) bool { return schemes[name].base != schemes[name].raised })
}

// A Quantizer packs rows of f32 into blocks of a type such as "q8_0". rows*rowLength values come in; dst has the exact size.
// The types f32, f16 and bf16 need none.
type Quantizer interface {
	Quantize(typ string, src []float32, rows, rowLength int, dst []byte) error
}

// A QuantizerFunc is a function that is a Quantizer.
type QuantizerFunc func(typ string, src []float32, rows, rowLength int, dst []byte) error

// Quantize calls the function.
func (f QuantizerFunc) Quantize(typ string, src []float32, rows, rowLength int, dst []byte) error {
	return f(typ, src, rows, rowLength, dst)
}

// A scheme is what a type name of the command stands for.
type scheme struct {
	base   gguf.Type
	raised gguf.Type // of the matrices that suffer most from few bits
	ftype  uint32    // llama.cpp's general.file_type
}

var schemes = map[string]scheme{
	"f32":    {gguf.F32, gguf.F32, 0},
	"f16":    {gguf.F16, gguf.F16, 1},
	"bf16":   {gguf.BF16, gguf.BF16, 32},
	"q8_0":   {gguf.Q8_0, gguf.Q8_0, 7},
	"q6_k":   {gguf.Q6_K, gguf.Q6_K, 18},
	"q5_k_m": {gguf.Q5_K, gguf.Q6_K, 17},
	"q4_k_m": {gguf.Q4_K, gguf.Q5_K, 15},
	"q4_0":   {gguf.Q4_0, gguf.Q4_0, 2},
	"iq4_nl": {gguf.IQ4NL, gguf.IQ4NL, 25},
}

// fallbacks is the next type to try when a row does not fill a type's blocks; f16 holds any row.
var fallbacks = map[gguf.Type]gguf.Type{
	gguf.Q6_K: gguf.Q8_0, gguf.Q5_K: gguf.Q5_1, gguf.Q4_K: gguf.Q5_0, gguf.IQ4NL: gguf.Q8_0,
	gguf.Q8_0: gguf.F16, gguf.Q5_1: gguf.F16, gguf.Q5_0: gguf.F16, gguf.Q4_0: gguf.F16,
}

// isMatrix reports whether a tensor of a part takes the part's type; all others are f32. See docs/model-folder.md, "Types".
func isMatrix(part Part, name string, dims int) bool {
	if dims != 2 || !strings.HasSuffix(name, ".weight") || strings.HasSuffix(name, "patch_embed.weight") {
		return false
	}
	switch part {
	case Grounding:
		return strings.HasPrefix(name, "trunk.") || strings.HasPrefix(name, "neck.") || strings.HasPrefix(name, "memory_attention.")
	}
	return true
}

// isRaised reports whether the *_m types store the matrix one step higher: the second matrix of each MLP, whose input is
// not normalised; the value projections; and the matrix that makes the logits.
func isRaised(part Part, name string, tied bool) bool {
	switch part {
	case Language:
		return name == "output.weight" || (tied && name == "token_embd.weight") ||
			strings.HasSuffix(name, ".ffn_down.weight") || strings.HasSuffix(name, ".attn_v.weight")
	case Vision:
		return strings.HasSuffix(name, ".mlp.fc2.weight")
	}
	return strings.HasSuffix(name, ".mlp.1.weight") || strings.HasSuffix(name, ".linear2.weight") || strings.HasSuffix(name, ".v_proj.weight")
}

// typeOf returns the type that a tensor is stored in, and the one it would have if its rows fitted.
func (s scheme) typeOf(part Part, name string, shape []int64, tied bool) (stored, wanted gguf.Type) {
	if !isMatrix(part, name, len(shape)) {
		return gguf.F32, gguf.F32
	}
	wanted = s.base
	if isRaised(part, name, tied) {
		wanted = s.raised
	}
	stored = wanted
	for {
		if _, ok := stored.RowBytes(shape[len(shape)-1]); ok {
			return stored, wanted
		}
		stored = fallbacks[stored]
	}
}

// An encoder packs f32 values into a type.
type encoder struct {
	quantizer Quantizer
	out       []byte
}

// encode packs rows, which are rows*length values of the tensor called name, the first of them element first. The result is
// valid until the next call. Values that are not finite, or that the type can't hold, are refused.
func (e *encoder) encode(t gguf.Type, values []float32, rows, length int, file, name string, first int64) ([]byte, error) {
	limit := float32(math.MaxFloat32)
	if t != gguf.F32 && t != gguf.BF16 {
		limit = 65504 // the largest f16, in which all other types store values or scales
	}
	for i, v := range values {
		if v >= -limit && v <= limit {
			continue
		}
		if v-v == 0 {
			return nil, fileerr.Unsupported(file, "tensor "+name, fmt.Sprintf("%g at element %d", v, first+int64(i)),
				fmt.Sprintf("values of at most 65504 for %s: take f32 or bf16", t))
		}
		return nil, fileerr.Format(file, "tensor "+name, fmt.Sprintf("%g at element %d", v, first+int64(i)), "finite values")
	}
	rowBytes, ok := t.RowBytes(int64(length))
	if !ok {
		return nil, fmt.Errorf("checkpoint: %s can't hold a row of %d", t, length)
	}
	n := rows * int(rowBytes)
	if cap(e.out) < n {
		e.out = make([]byte, n)
	}
	out := e.out[:n]
	switch t {
	case gguf.F32:
		for i, v := range values {
			binary.LittleEndian.PutUint32(out[4*i:], math.Float32bits(v))
		}
	case gguf.F16:
		for i, v := range values {
			binary.LittleEndian.PutUint16(out[2*i:], half.ToF16(v))
		}
	case gguf.BF16:
		for i, v := range values {
			b := half.ToBF16(v)
			if b&0x7f80 == 0x7f80 { // the largest f32 values round up to infinity
				b--
			}
			binary.LittleEndian.PutUint16(out[2*i:], b)
		}
	default:
		if err := e.quantizer.Quantize(t.String(), values, rows, length, out); err != nil {
			return nil, fmt.Errorf("%s: tensor %s: %w", file, name, err)
		}
	}
	return out, nil
}
