package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// write makes a file of keys and tensors, whose bytes count up.
func write(t require.TestingT, kv []KV, tensors []Tensor) []byte {
	var b bytes.Buffer
	w, err := NewWriter(&b, kv, tensors)
	require.NoError(t, err)
	for _, x := range tensors {
		n, ok := size(x.Type, x.Shape)
		require.True(t, ok)
		data := make([]byte, n)
		for i := range data {
			data[i] = byte(i)
		}
		for len(data) > 0 { // in pieces
			k := min(len(data), 5)
			require.NoError(t, w.Write(x.Name, data[:k]))
			data = data[k:]
		}
	}
	require.NoError(t, w.Close())
	require.EqualValues(t, w.Size(), b.Len())
	return b.Bytes()
}

func read(data []byte) (*File, error) {
	return NewFile(bytes.NewReader(data), int64(len(data)), "x.gguf")
}

var everyKind = []KV{
	{"u8", uint8(1)}, {"i8", int8(-1)}, {"u16", uint16(2)}, {"i16", int16(-2)}, {"u32", uint32(3)}, {"i32", int32(-3)},
	{"u64", uint64(4)}, {"i64", int64(-4)}, {"f32", float32(0.5)}, {"f64", 0.25}, {"yes", true}, {"no", false}, {"text", "näh"}, {"none", ""},
	{"u32s", []uint32{1, 2, 3}}, {"i32s", []int32{-1}}, {"f32s", []float32{}}, {"texts", []string{"a", "", "c"}}, {"bools", []bool{true, false}},
	{"u8s", []uint8{9}}, {"i8s", []int8{-9}}, {"u16s", []uint16{9}}, {"i16s", []int16{9}}, {"u64s", []uint64{9}}, {"i64s", []int64{9}}, {"f64s", []float64{9}},
}

func TestRoundTrip(t *testing.T) {
	tensors := []Tensor{
		{Name: "a", Type: F32, Shape: []int64{3}},
		{Name: "b", Type: Q8_0, Shape: []int64{5, 64}},
		{Name: "c", Type: F16, Shape: []int64{1, 2, 3, 7}},
	}
	data := write(t, everyKind, tensors)
	f, err := read(data)
	require.NoError(t, err)
	require.Equal(t, everyKind, f.KV)
	require.Equal(t, "näh", f.Value("text"))
	require.Nil(t, f.Value("absent"))
	require.Len(t, f.Tensors, 3)
	for i, want := range tensors {
		got := f.Tensors[i]
		require.Equal(t, want.Name, got.Name)
		require.Equal(t, want.Type, got.Type)
		require.Equal(t, want.Shape, got.Shape)
		require.Zero(t, got.Start%Alignment)
		p := make([]byte, got.Bytes)
		require.NoError(t, f.Read(got, 0, p))
		require.Equal(t, byte(got.Bytes-1), p[got.Bytes-1])
		require.Error(t, f.Read(got, 1, p), "past its end")
	}
	b, ok := f.Tensor("b")
	require.True(t, ok)
	require.EqualValues(t, 5*2*34, b.Bytes)
	rows, length := b.Rows()
	require.EqualValues(t, 5, rows)
	require.EqualValues(t, 64, length)
	// The file stores the fastest axis first.
	i := bytes.Index(data, []byte("\x01\x00\x00\x00\x00\x00\x00\x00b"))
	require.EqualValues(t, 64, binary.LittleEndian.Uint64(data[i+13:]))
}

func TestRoundTripProperty(t *testing.T) {
	types := []Type{F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K, IQ4NL}
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z.]{1,63}`), 0, 6, rapid.ID).Draw(t, "names")
		var tensors []Tensor
		for _, name := range names {
			typ := rapid.SampledFrom(types).Draw(t, "type")
			shape := rapid.SliceOfN(rapid.Int64Range(1, 3), 1, 4).Draw(t, "shape")
			shape[len(shape)-1] *= typ.Block()
			tensors = append(tensors, Tensor{Name: name, Type: typ, Shape: shape})
		}
		keys := rapid.MapOf(rapid.StringMatching(`[a-z.]{1,20}`), rapid.Uint32()).Draw(t, "keys")
		var kv []KV
		for k, v := range keys {
			if k != "general.alignment" {
				kv = append(kv, KV{k, v})
			}
		}
		f, err := read(write(t, kv, tensors))
		require.NoError(t, err)
		require.Len(t, f.Tensors, len(tensors))
		require.Equal(t, kv, f.KV)
	})
}

func TestTypes(t *testing.T) {
	for typ, l := range layouts {
		got, ok := ParseType(typ.String())
		require.True(t, ok)
		require.Equal(t, typ, got)
		n, ok := typ.RowBytes(512)
		require.True(t, ok)
		require.Equal(t, 512/l.elements*l.bytes, n)
	}
	_, ok := ParseType("q3_k")
	require.False(t, ok)
	_, ok = Q4_K.RowBytes(896)
	require.False(t, ok, "896 is no multiple of 256")
	_, ok = F32.RowBytes(math.MaxInt64)
	require.False(t, ok)
	require.Equal(t, "type 99", Type(99).String())
}

func TestWriterRefuses(t *testing.T) {
	tests := []struct {
		name    string
		kv      []KV
		tensors []Tensor
		want    string
	}{
		{name: "key twice", kv: []KV{{"a", true}, {"a", true}}, want: "twice"},
		{name: "no such type", kv: []KV{{"a", 1}}, want: "a value of type int"},
		{name: "name too long", tensors: []Tensor{{Name: strings.Repeat("x", 64), Shape: []int64{1}}}, want: "longer than 63"},
		{name: "name twice", tensors: []Tensor{{Name: "a", Shape: []int64{1}}, {Name: "a", Shape: []int64{1}}}, want: "taken"},
		{name: "row does not fit", tensors: []Tensor{{Name: "a", Type: Q8_0, Shape: []int64{33}}}, want: "q8_0 can't hold shape [33]"},
		{name: "no shape", tensors: []Tensor{{Name: "a"}}, want: "can't hold"},
		{name: "too large", tensors: []Tensor{{Name: "a", Shape: []int64{1 << 40, 1 << 40}}}, want: "can't hold"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewWriter(&bytes.Buffer{}, tt.kv, tt.tensors)
			require.ErrorContains(t, err, tt.want)
		})
	}
	w, err := NewWriter(&bytes.Buffer{}, nil, []Tensor{{Name: "a", Shape: []int64{2}}, {Name: "b", Shape: []int64{1}}})
	require.NoError(t, err)
	require.ErrorContains(t, w.Write("b", make([]byte, 4)), "out of turn")
	require.ErrorContains(t, w.Write("a", make([]byte, 9)), "out of turn")
	require.ErrorContains(t, w.Close(), "tensor a lacks 8 bytes")
}

// A builder makes files that a Writer would not.
type builder struct{ b []byte }

func (b *builder) u32(n uint32) *builder { b.b = binary.LittleEndian.AppendUint32(b.b, n); return b }
func (b *builder) u64(n uint64) *builder { b.b = binary.LittleEndian.AppendUint64(b.b, n); return b }
func (b *builder) raw(s string) *builder { b.b = append(b.b, s...); return b }
func (b *builder) str(s string) *builder { return b.u64(uint64(len(s))).raw(s) }
func (b *builder) info(name string, typ uint32, offset uint64, dims ...uint64) *builder {
	b.str(name).u32(uint32(len(dims)))
	for _, d := range dims {
		b.u64(d)
	}
	return b.u32(typ).u64(offset)
}

func head(tensors, keys uint64) *builder {
	return (&builder{}).raw("GGUF").u32(3).u64(tensors).u64(keys)
}

// padded adds zeros up to a size.
func (b *builder) padded(n int) []byte { return append(b.b, make([]byte, max(0, n-len(b.b)))...) }

var broken = []struct {
	name        string
	data        []byte
	want        string
	unsupported bool
}{
	{name: "empty file", data: nil, want: "magic: got 4 bytes from 0 on"},
	{name: "another magic", data: []byte("GGML\x03\x00\x00\x00"), want: `magic: got "GGML"`},
	{name: "version 2", data: (&builder{}).raw("GGUF").u32(2).padded(64), want: "version: got 2", unsupported: true},
	{name: "big-endian", data: (&builder{}).raw("GGUF").raw("\x00\x00\x00\x03").padded(64), want: "version: got 50331648", unsupported: true},
	{name: "tensor count lies", data: head(1<<40, 0).padded(100), want: "tensor count: got 1099511627776"},
	{name: "key count lies", data: head(0, 1<<60).padded(100), want: "key count"},
	{name: "key longer than the file", data: head(0, 1).u64(1 << 50).padded(100), want: "key: got 1125899906842624 bytes"},
	{name: "empty key", data: head(0, 1).str("").padded(100), want: "an empty one"},
	{name: "key twice", data: head(0, 2).str("a").u32(kindBool).raw("\x01").str("a").u32(kindBool).raw("\x01").padded(100), want: "a second one"},
	{name: "value cut", data: head(0, 1).str("abcdef").u32(kindUint64).raw("123").b, want: `key "abcdef": got 8 bytes`},
	{name: "unknown kind", data: head(0, 1).str("a").u32(13).padded(100), want: "got 13, want 0 to 12"},
	{name: "a bool of 2", data: head(0, 1).str("a").u32(kindBool).raw("\x02").padded(100), want: "0 or 1, a bool"},
	{name: "array count lies", data: head(0, 1).str("a").u32(kindArray).u32(kindUint64).u64(1 << 20).padded(100), want: "bytes from"},
	{name: "array count overflows", data: head(0, 1).str("a").u32(kindArray).u32(kindUint64).u64(1 << 61).padded(100), want: "array elements", unsupported: true},
	{name: "strings lie", data: head(0, 1).str("a").u32(kindArray).u32(kindString).u64(8).padded(100), want: "bytes from"},
	{name: "array of arrays", data: head(0, 1).str("a").u32(kindArray).u32(kindArray).u64(1).padded(100), want: "an array of arrays", unsupported: true},
	{name: "alignment of 3", data: head(0, 1).str("general.alignment").u32(kindUint32).u32(3).padded(100), want: "a power of two"},
	{name: "alignment of 0", data: head(0, 1).str("general.alignment").u32(kindUint32).u32(0).padded(100), want: "a power of two"},
	{name: "alignment is a text", data: head(0, 1).str("general.alignment").u32(kindString).str("32").padded(100), want: "a power of two"},
	{name: "tensor name too long", data: head(1, 0).info(strings.Repeat("x", 64), 0, 0, 1).padded(200), want: "got 64 bytes, want 1 to 63"},
	{name: "no axes", data: head(1, 0).info("a", 0, 0).padded(200), want: "dimensions: got 0"},
	{name: "five axes", data: head(1, 0).info("a", 0, 0, 1, 1, 1, 1, 1).padded(200), want: "dimensions: got 5"},
	{name: "axis of 0", data: head(1, 0).info("a", 0, 0, 0).padded(200), want: "got 0, want 1 to"},
	{name: "shape overflows", data: head(1, 0).info("a", 0, 0, 1<<40, 1<<40).padded(200), want: "below 2^63 bytes"},
	{name: "elements overflow", data: head(1, 0).info("a", uint32(Q4_0), 0, 32, 1<<62).padded(200), want: "below 2^63 bytes"},
	{name: "row does not fit", data: head(1, 0).info("a", uint32(Q8_0), 0, 33).padded(200), want: "one that q8_0 can hold"},
	{name: "unknown type", data: head(1, 0).info("a", 77, 0, 1).padded(200), want: "type: got 77", unsupported: true},
	{name: "offset unaligned", data: head(1, 0).info("a", 0, 4, 1).padded(200), want: "a multiple of 32"},
	{name: "offset beyond 2^63", data: head(1, 0).info("a", 0, 1<<63, 1).padded(200), want: "less than 2^63"},
	{name: "data cut", data: head(1, 0).info("a", 0, 0, 100).padded(200), want: "got 400 bytes from 0 on"},
	{name: "offset beyond the file", data: head(1, 0).info("a", 0, 1<<40, 1).padded(200), want: "bytes after the header"},
	{name: "tensor twice", data: head(2, 0).info("a", 0, 0, 1).info("a", 0, 32, 1).padded(300), want: "a second one"},
	{name: "overlap", data: head(2, 0).info("a", 0, 0, 16).info("b", 0, 32, 1).padded(300), want: `where "a" ends`},
}

func TestBrokenFiles(t *testing.T) {
	for _, tt := range broken {
		t.Run(tt.name, func(t *testing.T) {
			_, err := read(tt.data)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "x.gguf")
			var format *FormatError
			var unsupported *UnsupportedError
			require.Equal(t, tt.unsupported, errors.As(err, &unsupported), "%v", err)
			require.Equal(t, !tt.unsupported, errors.As(err, &format), "%v", err)
		})
	}
}

func TestEveryCutIsRefused(t *testing.T) {
	data := write(t, everyKind, []Tensor{{Name: "a", Type: F32, Shape: []int64{2, 8}}})
	for n := range len(data) {
		_, err := read(data[:n])
		require.Error(t, err, "cut at %d of %d", n, len(data))
	}
}

func FuzzNewFile(f *testing.F) {
	for _, b := range broken {
		f.Add(b.data)
	}
	f.Add(write(f, everyKind, []Tensor{{Name: "a", Type: F32, Shape: []int64{3}}, {Name: "b", Type: Q4_K, Shape: []int64{2, 256}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := read(data)
		if err != nil {
			return
		}
		for _, x := range file.Tensors {
			p := make([]byte, x.Bytes) // the reader vouches for them
			require.NoError(t, file.Read(x, 0, p))
		}
	})
}
