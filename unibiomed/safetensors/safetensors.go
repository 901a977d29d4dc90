// Package safetensors reads and writes safetensors files.
//
// A file is a little-endian u64, the length of a JSON header; the header, which gives each tensor a dtype, a shape and the range
// of its bytes; and the bytes. Reading is lazy and bounded: Open takes the header only, compares every number in it with the
// size of the file, and allocates nothing that the file merely claims.
package safetensors

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"os"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
)

type (
	// A FormatError says that the file is broken.
	FormatError = fileerr.FormatError
	// An UnsupportedError says that the file is sound, but holds what this package does not read.
	UnsupportedError = fileerr.UnsupportedError
)

// Limits of what is read. A header of 16 MiB describes a hundred thousand tensors.
const (
	maxHeader = 16 << 20
	maxDims   = 8
)

// A DType is an element type, by its name in the header.
type DType string

// The element types that Floats reads.
const (
	F32  DType = "F32"
	F16  DType = "F16"
	BF16 DType = "BF16"
	U8   DType = "U8"
)

var dtypeSize = map[DType]int64{
	"BOOL": 1, U8: 1, "I8": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "U16": 2, F16: 2, BF16: 2,
	"I32": 4, "U32": 4, F32: 4, "I64": 8, "U64": 8, "F64": 8,
}

// Size returns the bytes of one element, 0 for an unknown type.
func (d DType) Size() int64 { return dtypeSize[d] }

// A Tensor is one entry of the header.
type Tensor struct {
	Name  string
	DType DType
	Shape []int64 // slowest axis first
	Start int64   // of its first byte, from the start of the file
	Bytes int64
}

// Elements returns the number of elements.
func (t Tensor) Elements() int64 { return t.Bytes / t.DType.Size() }

// A File is an open safetensors file. It is safe for concurrent use.
type File struct {
	Name     string // as errors name it
	Size     int64  // in bytes
	Tensors  []Tensor
	Metadata map[string]string

	r      io.ReaderAt
	close  func() error
	byName map[string]int
}

// Open opens the file at path.
func Open(path string) (*File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	st, err := f.Stat()
	if err == nil && !st.Mode().IsRegular() {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	file, err := NewFile(f, st.Size(), path)
	if err != nil {
		f.Close()
		return nil, err
	}
	file.close = f.Close
	return file, nil
}

// NewFile reads the header of a file of size bytes. Errors call it name.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	if size < 8 {
		return nil, fileerr.Format(name, "size", size, "at least 8 bytes")
	}
	var word [8]byte
	if _, err := r.ReadAt(word[:], 0); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	length := binary.LittleEndian.Uint64(word[:])
	if length < 2 || length > uint64(size-8) {
		return nil, fileerr.Format(name, "header length", length, fmt.Sprintf("2 to %d, the bytes that follow it", size-8))
	}
	if length > maxHeader {
		return nil, fileerr.Unsupported(name, "header length", length, fmt.Sprintf("at most %d", maxHeader))
	}
	header := make([]byte, length)
	if _, err := r.ReadAt(header, 8); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	f := &File{Name: name, Size: size, r: r, close: func() error { return nil }}
	if err := f.parse(header); err != nil {
		return nil, err
	}
	return f, f.checkRanges(8 + int64(length))
}

// Close closes the file.
func (f *File) Close() error { return f.close() }

// Tensor returns the tensor of that name.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.Tensors[i], true
}

// ReadAt reads bytes of the file.
func (f *File) ReadAt(p []byte, off int64) (int, error) { return f.r.ReadAt(p, off) }

// ReadFloats reads len(dst) elements of t, the first of them element start, as f32. The DType must be F32, F16 or BF16.
func (f *File) ReadFloats(t Tensor, start int64, dst []float32) error {
	if start < 0 || int64(len(dst)) > t.Elements()-start {
		return fmt.Errorf("safetensors: %s: elements %d to %d of %d", t.Name, start, start+int64(len(dst)), t.Elements())
	}
	buf := make([]byte, min(int64(len(dst))*t.DType.Size(), 1<<20))
	step := int64(len(buf)) / t.DType.Size()
	for len(dst) > 0 {
		n := min(step, int64(len(dst)))
		b := buf[:n*t.DType.Size()]
		if _, err := f.r.ReadAt(b, t.Start+start*t.DType.Size()); err != nil {
			return fmt.Errorf("%s: tensor %s: %w", f.Name, t.Name, err)
		}
		if err := Floats(t.DType, dst[:n], b); err != nil {
			return &UnsupportedError{File: f.Name, Field: t.Name, Got: string(t.DType), Want: "F32, F16 or BF16"}
		}
		dst, start = dst[n:], start+n
	}
	return nil
}

// Floats widens src, whole elements of type d, into dst, which has an f32 for each of them.
func Floats(d DType, dst []float32, src []byte) error {
	if int64(len(dst))*d.Size() != int64(len(src)) {
		return fmt.Errorf("safetensors: %d bytes of %s for %d elements", len(src), d, len(dst))
	}
	switch d {
	case F32:
		for i := range dst {
			dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
		}
	case BF16:
		for i := range dst {
			dst[i] = half.FromBF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	case F16:
		for i := range dst {
			dst[i] = half.FromF16(binary.LittleEndian.Uint16(src[2*i:]))
		}
	default:
		return fmt.Errorf("safetensors: %s is no float of 16 or 32 bits", d)
	}
	return nil
}

// parse fills Tensors, with Start counted from the end of the header, and Metadata.
func (f *File) parse(header []byte) error {
	d := strictjson.NewDecoder(bytes.NewReader(header))
	f.byName = map[string]int{}
	entry := "header"
	err := d.Object(func(name string) error {
		if name == "__metadata__" {
			entry = name
			f.Metadata = map[string]string{}
			return d.Object(func(key string) (err error) {
				f.Metadata[key], err = d.String()
				return err
			})
		}
		entry = "tensor " + fileerr.Quote(name)
		t := Tensor{Name: name}
		var ends []int64
		err := d.Object(func(field string) error {
			switch field {
			case "dtype":
				s, err := d.String()
				t.DType = DType(s)
				return err
			case "shape":
				return f.ints(d, entry+" shape", maxDims, &t.Shape)
			case "data_offsets":
				return f.ints(d, entry+" data_offsets", 2, &ends)
			}
			return d.Skip()
		})
		if err != nil {
			return err
		}
		if t.DType == "" || t.Shape == nil || ends == nil {
			return errors.New("dtype, shape or data_offsets is missing")
		}
		if t.DType.Size() == 0 {
			return fileerr.Unsupported(f.Name, entry+" dtype", fileerr.Quote(string(t.DType)), "F32, F16, BF16 or another type of the format")
		}
		if len(ends) != 2 || ends[0] > ends[1] {
			return fileerr.Format(f.Name, entry+" data_offsets", ends, "a start and an end")
		}
		size := uint64(t.DType.Size())
		for _, n := range t.Shape {
			hi, lo := bits.Mul64(size, uint64(n))
			if hi != 0 || lo > math.MaxInt64 {
				return fileerr.Format(f.Name, entry+" shape", t.Shape, "a size below 2^63 bytes")
			}
			size = lo
		}
		t.Start, t.Bytes = ends[0], int64(size)
		if ends[1]-ends[0] != t.Bytes {
			return fileerr.Format(f.Name, entry+" data_offsets", fmt.Sprintf("%d bytes", ends[1]-ends[0]),
				fmt.Sprintf("%d, as %s %v takes", t.Bytes, t.DType, t.Shape))
		}
		f.Tensors = append(f.Tensors, t)
		entry = "header"
		return nil
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return strictjson.Problem(f.Name, entry, err, "a safetensors header")
	}
	return nil
}

func (f *File) ints(d *strictjson.Decoder, field string, most int, out *[]int64) error {
	*out = []int64{}
	return d.Array(func(i int) error {
		if i >= most {
			return fileerr.Unsupported(f.Name, field, "more than "+fmt.Sprint(most)+" numbers", fmt.Sprintf("at most %d", most))
		}
		n, err := d.Int(math.MaxInt64)
		*out = append(*out, n)
		return err
	})
}

// checkRanges sorts the tensors by place, and checks that they fill the file from data to its end with no hole or overlap.
func (f *File) checkRanges(data int64) error {
	slices.SortFunc(f.Tensors, func(a, b Tensor) int {
		// An empty tensor comes before the one that starts where it stands.
		if a.Start != b.Start {
			return cmp.Compare(a.Start, b.Start)
		}
		if a.Bytes != b.Bytes {
			return cmp.Compare(a.Bytes, b.Bytes)
		}
		return strings.Compare(a.Name, b.Name)
	})
	end := int64(0)
	for i := range f.Tensors {
		t := &f.Tensors[i]
		f.byName[t.Name] = i
		if t.Start != end {
			return fileerr.Format(f.Name, "tensor "+fileerr.Quote(t.Name)+" data_offsets",
				fmt.Sprintf("start %d", t.Start), fmt.Sprintf("%d, where the tensor before it ends", end))
		}
		if t.Bytes > f.Size-data-end {
			return fileerr.Format(f.Name, "tensor "+fileerr.Quote(t.Name)+" data_offsets",
				fmt.Sprintf("end %d", uint64(end)+uint64(t.Bytes)), fmt.Sprintf("at most %d, the bytes after the header", f.Size-data))
		}
		end += t.Bytes
		t.Start += data
	}
	if end != f.Size-data {
		return fileerr.Format(f.Name, "size", fmt.Sprintf("%d bytes after the header", f.Size-data), fmt.Sprintf("%d, the end of the last tensor", end))
	}
	return nil
}
