package gguf

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
)

// Limits of what is read: everything before the tensor data, which for a vocabulary of 151,679 is 6 MB, and the number of
// array elements and tensors, which cost more memory than file.
const (
	maxHeader   = 128 << 20
	maxElements = 8 << 20
	maxTensors  = 1 << 16
	maxKeys     = 1 << 16
)

// A File is an open GGUF file. It is safe for concurrent use.
type File struct {
	Name    string // as errors name it
	Size    int64
	KV      []KV     // in file order
	Tensors []Tensor // in file order

	r        io.ReaderAt
	close    func() error
	keys     map[string]any
	byName   map[string]int
	elements int
}

// Open opens the file at path and reads everything but the tensors' bytes.
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

// NewFile reads a file of size bytes. Errors call it name.
func NewFile(r io.ReaderAt, size int64, name string) (*File, error) {
	f := &File{Name: name, Size: size, r: r, close: func() error { return nil }, keys: map[string]any{}, byName: map[string]int{}}
	limit := min(size, maxHeader)
	s := &scanner{f: f, r: bufio.NewReaderSize(io.NewSectionReader(r, 0, limit), 1<<16), limit: limit}
	if err := f.parse(s); err != nil {
		return nil, err
	}
	return f, nil
}

// Close closes the file.
func (f *File) Close() error { return f.close() }

// Value returns the value of key, or nil.
func (f *File) Value(key string) any { return f.keys[key] }

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

// Read fills p with bytes of t from off on.
func (f *File) Read(t Tensor, off int64, p []byte) error {
	if off < 0 || off > t.Bytes || int64(len(p)) > t.Bytes-off {
		return fmt.Errorf("gguf: tensor %s: bytes %d to %d of %d", t.Name, off, off+int64(len(p)), t.Bytes)
	}
	if _, err := f.r.ReadAt(p, t.Start+off); err != nil {
		return fmt.Errorf("%s: tensor %s: %w", f.Name, t.Name, err)
	}
	return nil
}

func (f *File) parse(s *scanner) error {
	var head [4]byte
	s.bytes("magic", head[:])
	if s.err == nil && string(head[:]) != magic {
		return fileerr.Format(f.Name, "magic", fileerr.Quote(string(head[:])), fileerr.Quote(magic))
	}
	if v := s.u32("version"); s.err == nil && v != version {
		return fileerr.Unsupported(f.Name, "version", v, version)
	}
	nTensors, nKeys := s.u64("tensor count"), s.u64("key count")
	if s.err != nil {
		return s.err
	}
	// The smallest tensor info has 8+1+4+8+4+8 bytes, the smallest pair 8+1+4+1.
	if nTensors > maxTensors || nTensors > uint64(s.left())/33 {
		return fileerr.Format(f.Name, "tensor count", nTensors, fmt.Sprintf("at most %d", min(maxTensors, s.left()/33)))
	}
	if nKeys > maxKeys || nKeys > uint64(s.left())/14 {
		return fileerr.Format(f.Name, "key count", nKeys, fmt.Sprintf("at most %d", min(maxKeys, s.left()/14)))
	}
	for range nKeys {
		key := s.str("key")
		if s.err == nil && key == "" {
			return fileerr.Format(f.Name, "key", "an empty one", "a name")
		}
		value := s.value("key "+fileerr.Quote(key), s.u32("key "+fileerr.Quote(key)))
		if s.err != nil {
			return s.err
		}
		if _, twice := f.keys[key]; twice {
			return fileerr.Format(f.Name, "key "+fileerr.Quote(key), "a second one", "one")
		}
		f.keys[key] = value
		f.KV = append(f.KV, KV{key, value})
	}
	alignment := int64(Alignment)
	if v, ok := f.keys["general.alignment"]; ok {
		n, ok := v.(uint32)
		if !ok || n == 0 || n&(n-1) != 0 || n > 1<<20 {
			return fileerr.Format(f.Name, "general.alignment", v, "a u32, a power of two")
		}
		alignment = int64(n)
	}
	for range nTensors {
		if err := f.tensor(s); err != nil {
			return err
		}
	}
	return f.place(align(s.pos, alignment), alignment)
}

// tensor reads one tensor info, with Start counted from the start of the data.
func (f *File) tensor(s *scanner) error {
	name := s.str("tensor name")
	field := "tensor " + fileerr.Quote(name)
	dims := s.u32(field + " dimensions")
	if s.err != nil {
		return s.err
	}
	if name == "" || len(name) > maxName {
		return fileerr.Format(f.Name, field+" name", fmt.Sprintf("%d bytes", len(name)), fmt.Sprintf("1 to %d", maxName))
	}
	if dims < 1 || dims > maxDims {
		return fileerr.Format(f.Name, field+" dimensions", dims, fmt.Sprintf("1 to %d", maxDims))
	}
	t := Tensor{Name: name, Shape: make([]int64, dims)}
	for d := int(dims) - 1; d >= 0; d-- {
		n := s.u64(field + " shape")
		if s.err == nil && (n < 1 || n > math.MaxInt64) {
			return fileerr.Format(f.Name, field+" shape", n, "1 to 2^63-1 on each axis")
		}
		t.Shape[d] = int64(n)
	}
	t.Type = Type(s.u32(field + " type"))
	start := s.u64(field + " offset")
	if s.err != nil {
		return s.err
	}
	if _, ok := layouts[t.Type]; !ok {
		return fileerr.Unsupported(f.Name, field+" type", uint32(t.Type), "one of f32 f16 bf16 q8_0 q6_k q5_k q4_k q5_1 q5_0 q4_1 q4_0 iq4_nl")
	}
	var ok bool
	if t.Bytes, ok = size(t.Type, t.Shape); !ok {
		return fileerr.Format(f.Name, field+" shape", t.Shape, fmt.Sprintf("one that %s can hold, below 2^63 bytes", t.Type))
	}
	if start > math.MaxInt64 {
		return fileerr.Format(f.Name, field+" offset", start, "less than 2^63")
	}
	t.Start = int64(start)
	if _, twice := f.byName[name]; twice {
		return fileerr.Format(f.Name, field, "a second one", "one")
	}
	f.byName[name] = len(f.Tensors)
	f.Tensors = append(f.Tensors, t)
	return nil
}

// place checks that each tensor is aligned, in the file, and apart from the others, and counts Start from the start of the file.
func (f *File) place(data, alignment int64) error {
	order := make([]*Tensor, len(f.Tensors))
	for i := range f.Tensors {
		t := &f.Tensors[i]
		order[i] = t
		field := "tensor " + fileerr.Quote(t.Name) + " offset"
		if t.Start%alignment != 0 {
			return fileerr.Format(f.Name, field, t.Start, fmt.Sprintf("a multiple of %d", alignment))
		}
		if data > f.Size || t.Start > f.Size-data || t.Bytes > f.Size-data-t.Start {
			return fileerr.Format(f.Name, field, fmt.Sprintf("%d bytes from %d on", t.Bytes, t.Start),
				fmt.Sprintf("at most the %d bytes after the header", max(0, f.Size-data)))
		}
	}
	slices.SortStableFunc(order, func(a, b *Tensor) int {
		if a.Start < b.Start {
			return -1
		} else if a.Start > b.Start {
			return 1
		}
		return 0
	})
	for i, t := range order {
		if i > 0 && t.Start < order[i-1].Start+order[i-1].Bytes {
			return fileerr.Format(f.Name, "tensor "+fileerr.Quote(t.Name)+" offset", t.Start,
				fmt.Sprintf("at least %d, where %s ends", order[i-1].Start+order[i-1].Bytes, fileerr.Quote(order[i-1].Name)))
		}
	}
	for _, t := range order {
		t.Start += data
	}
	return nil
}

// A scanner reads numbers and strings up to a limit, and remembers the first failure.
type scanner struct {
	f     *File
	r     *bufio.Reader
	pos   int64
	limit int64
	err   error
}

func (s *scanner) left() int64 { return s.limit - s.pos }

// need checks that n more bytes are there.
func (s *scanner) need(field string, n uint64) bool {
	if s.err != nil {
		return false
	}
	if n > uint64(s.left()) {
		if s.limit < s.f.Size {
			s.err = fileerr.Unsupported(s.f.Name, field, fmt.Sprintf("%d bytes from %d on", n, s.pos), fmt.Sprintf("a header of at most %d bytes", int64(maxHeader)))
		} else {
			s.err = fileerr.Format(s.f.Name, field, fmt.Sprintf("%d bytes from %d on", n, s.pos), fmt.Sprintf("at most %d, where the file ends", s.left()))
		}
		return false
	}
	return true
}

func (s *scanner) bytes(field string, p []byte) {
	if !s.need(field, uint64(len(p))) {
		return
	}
	n, err := io.ReadFull(s.r, p)
	s.pos += int64(n)
	if err != nil {
		s.err = fmt.Errorf("%s: %s: %w", s.f.Name, field, err)
	}
}

func (s *scanner) u32(field string) uint32 {
	var b [4]byte
	s.bytes(field, b[:])
	return binary.LittleEndian.Uint32(b[:])
}

func (s *scanner) u64(field string) uint64 {
	var b [8]byte
	s.bytes(field, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (s *scanner) str(field string) string {
	n := s.u64(field + " length")
	if !s.need(field, n) {
		return ""
	}
	b := make([]byte, n)
	s.bytes(field, b)
	return string(b)
}

// value reads a value of a kind.
func (s *scanner) value(field string, kind uint32) any {
	if s.err != nil {
		return nil
	}
	switch kind {
	case kindUint8:
		return scalar[uint8](s, field)
	case kindInt8:
		return scalar[int8](s, field)
	case kindUint16:
		return scalar[uint16](s, field)
	case kindInt16:
		return scalar[int16](s, field)
	case kindUint32:
		return scalar[uint32](s, field)
	case kindInt32:
		return scalar[int32](s, field)
	case kindFloat32:
		return scalar[float32](s, field)
	case kindUint64:
		return scalar[uint64](s, field)
	case kindInt64:
		return scalar[int64](s, field)
	case kindFloat64:
		return scalar[float64](s, field)
	case kindBool:
		return s.bool(field)
	case kindString:
		return s.str(field)
	case kindArray:
		return s.array(field)
	}
	s.err = fileerr.Format(s.f.Name, field+" type", kind, "0 to 12")
	return nil
}

func (s *scanner) bool(field string) bool {
	var b [1]byte
	s.bytes(field, b[:])
	if s.err == nil && b[0] > 1 {
		s.err = fileerr.Format(s.f.Name, field, b[0], "0 or 1, a bool")
	}
	return b[0] == 1
}

func scalar[T any](s *scanner, field string) any {
	v := numbers[T](s, field, 1)
	if s.err != nil {
		return nil
	}
	return v[0]
}

func numbers[T any](s *scanner, field string, n uint64) []T {
	var zero T
	if !s.need(field, n*uint64(binary.Size(zero))) {
		return nil
	}
	v := make([]T, n)
	b := make([]byte, n*uint64(binary.Size(zero)))
	s.bytes(field, b)
	binary.Decode(b, binary.LittleEndian, v)
	return v
}

func (s *scanner) array(field string) any {
	kind, n := s.u32(field+" type"), s.u64(field+" count")
	if s.err != nil {
		return nil
	}
	if n > maxElements || s.f.elements+int(n) > maxElements {
		s.err = fileerr.Unsupported(s.f.Name, field+" count", n, fmt.Sprintf("at most %d array elements in a file", maxElements))
		return nil
	}
	s.f.elements += int(n)
	switch kind {
	case kindUint8:
		return numbers[uint8](s, field, n)
	case kindInt8:
		return numbers[int8](s, field, n)
	case kindUint16:
		return numbers[uint16](s, field, n)
	case kindInt16:
		return numbers[int16](s, field, n)
	case kindUint32:
		return numbers[uint32](s, field, n)
	case kindInt32:
		return numbers[int32](s, field, n)
	case kindFloat32:
		return numbers[float32](s, field, n)
	case kindUint64:
		return numbers[uint64](s, field, n)
	case kindInt64:
		return numbers[int64](s, field, n)
	case kindFloat64:
		return numbers[float64](s, field, n)
	case kindBool:
		if !s.need(field, n) {
			return nil
		}
		v := make([]bool, n)
		for i := range v {
			v[i] = s.bool(field)
		}
		return v
	case kindString:
		if !s.need(field, 8*n) {
			return nil
		}
		v := make([]string, n)
		for i := range v {
			if v[i] = s.str(field); s.err != nil {
				return nil
			}
		}
		return v
	case kindArray:
		s.err = fileerr.Unsupported(s.f.Name, field, "an array of arrays", "an array of numbers, bools or strings")
		return nil
	}
	s.err = fileerr.Format(s.f.Name, field+" type", kind, "0 to 12")
	return nil
}
