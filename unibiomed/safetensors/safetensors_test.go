package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

// file makes a file of a header and data.
func file(header, data string) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), data...)
}

func entryOf(dtype, shape, offsets string) string {
	return `{"dtype":"` + dtype + `","shape":` + shape + `,"data_offsets":` + offsets + `}`
}

// broken are files that must be refused, with a part of the message.
var broken = []struct {
	name        string
	data        []byte
	want        string
	unsupported bool
}{
	{name: "empty file", data: nil, want: "size: got 0"},
	{name: "length word cut", data: []byte{1, 0, 0}, want: "size: got 3"},
	{name: "header longer than the file", data: binary.LittleEndian.AppendUint64(nil, 100), want: "header length: got 100"},
	{name: "header length overflows", data: append(binary.LittleEndian.AppendUint64(nil, math.MaxUint64), "{}"...), want: "header length: got 18446744073709551615"},
	{name: "header too small", data: file("", "  "), want: "header length: got 0"},
	{name: "no JSON", data: file("tensors!", ""), want: "header: got invalid character"},
	{name: "an array", data: file("[]", ""), want: "header: got an array, want an object"},
	{name: "cut in a string", data: file(`{"a":{"dty`, ""), want: "unexpected EOF"},
	{name: "something after the header", data: file("{}{}", ""), want: "after the document's end"},
	{name: "tensor twice", data: file(`{"a":`+entryOf("F32", "[1]", "[0,4]")+`,"a":`+entryOf("F32", "[1]", "[0,4]")+`}`, "0123"), want: `name "a" stands twice`},
	{name: "dtype twice", data: file(`{"a":{"dtype":"F32","dtype":"U8","shape":[4],"data_offsets":[0,4]}}`, "0123"), want: `name "dtype" stands twice`},
	{name: "dtype in other case", data: file(`{"a":{"Dtype":"F32","shape":[1],"data_offsets":[0,4]}}`, "0123"), want: "is missing"},
	{name: "unknown dtype", data: file(`{"a":`+entryOf("Q4", "[1]", "[0,4]")+`}`, "0123"), want: `dtype: got "Q4"`, unsupported: true},
	{name: "dtype is a number", data: file(`{"a":{"dtype":1,"shape":[1],"data_offsets":[0,4]}}`, "0123"), want: "got 1, want a string"},
	{name: "negative axis", data: file(`{"a":`+entryOf("F32", "[-1]", "[0,4]")+`}`, "0123"), want: "got -1, want a whole number"},
	{name: "fractional axis", data: file(`{"a":`+entryOf("F32", "[1.5]", "[0,4]")+`}`, "0123"), want: "got 1.5, want a whole number"},
	{name: "shape overflows", data: file(`{"a":`+entryOf("F32", "[4294967296,4294967296]", "[0,4]")+`}`, "0123"), want: "a size below 2^63 bytes"},
	{name: "too many axes", data: file(`{"a":`+entryOf("F32", "[1,1,1,1,1,1,1,1,1]", "[0,4]")+`}`, "0123"), want: "more than 8 numbers", unsupported: true},
	{name: "offsets backwards", data: file(`{"a":`+entryOf("F32", "[1]", "[4,0]")+`}`, "0123"), want: "a start and an end"},
	{name: "one offset", data: file(`{"a":`+entryOf("F32", "[1]", "[4]")+`}`, "0123"), want: "a start and an end"},
	{name: "shape and offsets disagree", data: file(`{"a":`+entryOf("F32", "[2]", "[0,4]")+`}`, "0123"), want: "got 4 bytes, want 8, as F32 [2] takes"},
	{name: "overlap", data: file(`{"a":`+entryOf("F32", "[1]", "[0,4]")+`,"b":`+entryOf("F32", "[1]", "[2,6]")+`}`, "012345"), want: `tensor "b" data_offsets: got start 2, want 4`},
	{name: "hole", data: file(`{"a":`+entryOf("F32", "[1]", "[0,4]")+`,"b":`+entryOf("F32", "[1]", "[8,12]")+`}`, "0123456789ab"), want: "got start 8, want 4"},
	{name: "data cut", data: file(`{"a":`+entryOf("F32", "[2]", "[0,8]")+`}`, "0123"), want: "got end 8, want at most 4"},
	{name: "more data than tensors", data: file(`{"a":`+entryOf("F32", "[1]", "[0,4]")+`}`, "01234"), want: "size: got 5 bytes after the header, want 4"},
	{name: "metadata is a list", data: file(`{"__metadata__":[]}`, ""), want: "__metadata__: got an array"},
	{name: "deep nesting", data: file(`{"a":{"x":`+strings.Repeat("[", 100)+strings.Repeat("]", 100)+`}}`, ""), want: "nested deeper"},
}

func TestBrokenFiles(t *testing.T) {
	for _, tt := range broken {
		t.Run(tt.name, func(t *testing.T) {
			_, err := NewFile(bytes.NewReader(tt.data), int64(len(tt.data)), "x.safetensors")
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, "x.safetensors")
			var format *FormatError
			var unsupported *UnsupportedError
			require.Equal(t, tt.unsupported, errors.As(err, &unsupported), "%v", err)
			require.Equal(t, !tt.unsupported, errors.As(err, &format), "%v", err)
		})
	}
}

func TestHeaderLimit(t *testing.T) {
	size := int64(maxHeader) * 4
	word := binary.LittleEndian.AppendUint64(nil, maxHeader+1)
	_, err := NewFile(bytes.NewReader(word), size, "x") // nothing after the length word is read
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
}

func TestReadsEveryFloatType(t *testing.T) {
	header := `{"__metadata__":{"format":"pt"},"h":` + entryOf("F16", "[2]", "[8,12]") + `,"f":` + entryOf("F32", "[2,1]", "[0,8]") +
		`,"none":` + entryOf("F32", "[0,3]", "[8,8]") + `,"b":` + entryOf("BF16", "[1]", "[12,14]") + `,"u":` + entryOf("U8", "[]", "[14,15]") + `}`
	data := file(header, "\x00\x00\x80\x3f\x00\x00\x00\xc0"+"\x00\x3c\x00\xc0"+"\x80\x3f"+"\x07")
	f, err := NewFile(bytes.NewReader(data), int64(len(data)), "x")
	require.NoError(t, err)
	require.Equal(t, map[string]string{"format": "pt"}, f.Metadata)
	var names []string
	for _, tensor := range f.Tensors {
		names = append(names, tensor.Name)
	}
	require.Equal(t, []string{"f", "none", "h", "b", "u"}, names, "in the order of their bytes")
	for name, want := range map[string][]float32{"f": {1, -2}, "h": {1, -2}, "b": {1}, "none": {}} {
		tensor, ok := f.Tensor(name)
		require.True(t, ok)
		got := make([]float32, tensor.Elements())
		require.NoError(t, f.ReadFloats(tensor, 0, got))
		require.Equal(t, want, got, name)
	}
	h, _ := f.Tensor("h")
	one := make([]float32, 1)
	require.NoError(t, f.ReadFloats(h, 1, one))
	require.Equal(t, float32(-2), one[0])
	require.Error(t, f.ReadFloats(h, 2, one), "past its end")
	u, _ := f.Tensor("u")
	var unsupported *UnsupportedError
	require.ErrorAs(t, f.ReadFloats(u, 0, one), &unsupported)
}

func TestWriterRoundTrip(t *testing.T) {
	dir := t.TempDir()
	rapid.Check(t, func(t *rapid.T) {
		path := filepath.Join(dir, "trace.safetensors")
		w, err := Create(path)
		require.NoError(t, err)
		type tensor struct {
			shape []int
			data  []float32
		}
		tensors := rapid.MapOf(rapid.StringN(1, 12, -1), rapid.Custom(func(t *rapid.T) tensor {
			shape := rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "shape")
			n := 1
			for _, s := range shape {
				n *= s
			}
			return tensor{shape, rapid.SliceOfN(rapid.Float32(), n, n).Draw(t, "data")}
		})).Filter(func(m map[string]tensor) bool { _, bad := m["__metadata__"]; return !bad }).Draw(t, "tensors")
		for name, x := range tensors {
			require.NoError(t, w.Add(name, x.shape, x.data))
		}
		require.NoError(t, w.Close())
		require.NoError(t, w.Close(), "closing again")
		f, err := Open(path)
		require.NoError(t, err)
		defer f.Close()
		require.Len(t, f.Tensors, len(tensors))
		for name, x := range tensors {
			got, ok := f.Tensor(name)
			require.True(t, ok, name)
			require.Len(t, got.Shape, len(x.shape))
			for i := range x.shape {
				require.EqualValues(t, x.shape[i], got.Shape[i])
			}
			data := make([]float32, len(x.data))
			require.NoError(t, f.ReadFloats(got, 0, data))
			require.Equal(t, x.data, data)
		}
	})
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, left, 1, "no temporary file stays")
}

func TestWriterRefusesAndAborts(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "x.safetensors")
	w, err := Create(path)
	require.NoError(t, err)
	require.NoError(t, w.Add("a", []int{2}, []float32{1, 2}))
	require.ErrorContains(t, w.Add("a", []int{1}, []float32{1}), "taken")
	require.ErrorContains(t, w.Add("b", []int{3}, []float32{1}), "got 1 values, want 3")
	require.ErrorContains(t, w.Add("c", []int{-1}, nil), "shape [-1]")
	w.Abort()
	require.Error(t, w.Add("d", []int{0}, nil))
	require.NoError(t, w.Close())
	left, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, left)

	_, err = Create(filepath.Join(dir, "absent", "x.safetensors"))
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// writeFolder writes safetensors files of one-element tensors and an index.
func writeFolder(t *testing.T, shards map[string][]string, index map[string]string) string {
	dir := t.TempDir()
	for shard, names := range shards {
		w, err := Create(filepath.Join(dir, shard))
		require.NoError(t, err)
		for _, name := range names {
			require.NoError(t, w.Add(name, []int{1}, []float32{1}))
		}
		require.NoError(t, w.Close())
	}
	if index != nil {
		data, err := json.Marshal(map[string]any{"metadata": map[string]any{"total_size": 8}, "weight_map": index})
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, IndexName), data, 0o666))
	}
	return dir
}

func TestFolders(t *testing.T) {
	const one, two = "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"
	both := map[string][]string{one: {"a"}, two: {"b"}}
	tests := []struct {
		name   string
		shards map[string][]string
		index  map[string]string
		want   string // a part of the error; empty: it opens
	}{
		{name: "one file", shards: map[string][]string{SingleName: {"a", "b"}}},
		{name: "two shards", shards: both, index: map[string]string{"a": one, "b": two}},
		{name: "nothing", want: "and neither is"},
		{name: "a shard is missing", shards: map[string][]string{one: {"a"}}, index: map[string]string{"a": one, "b": two}, want: two},
		{name: "the index names the other shard", shards: both, index: map[string]string{"a": two, "b": one}, want: `weight_map "a": got ` + two},
		{name: "the index lacks a tensor", shards: map[string][]string{one: {"a", "c"}, two: {"b"}}, index: map[string]string{"a": one, "b": two}, want: `no entry for "c"`},
		{name: "no shard holds a tensor", shards: both, index: map[string]string{"a": one, "b": two, "c": two}, want: "a file that holds the tensor"},
		{name: "a tensor in both shards", shards: map[string][]string{one: {"a"}, two: {"a", "b"}}, index: map[string]string{"a": one, "b": two}, want: `weight_map "a"`},
		{name: "a shard elsewhere", shards: both, index: map[string]string{"a": "../" + one}, want: "in the same folder"},
		{name: "an empty index", shards: both, index: map[string]string{}, want: "no tensors"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, err := OpenFolder(writeFolder(t, tt.shards, tt.index))
			if tt.want != "" {
				require.ErrorContains(t, err, tt.want)
				return
			}
			require.NoError(t, err)
			defer f.Close()
			for _, name := range []string{"a", "b"} {
				file, tensor, ok := f.Tensor(name)
				require.True(t, ok)
				require.NoError(t, file.ReadFloats(tensor, 0, make([]float32, 1)))
			}
			_, _, ok := f.Tensor("c")
			require.False(t, ok)
		})
	}
}

func FuzzNewFile(f *testing.F) {
	for _, b := range broken {
		f.Add(b.data)
	}
	f.Add(file(`{"a":`+entryOf("BF16", "[2,1]", "[0,4]")+`,"b":`+entryOf("F32", "[]", "[4,8]")+`}`, "01234567"))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := NewFile(bytes.NewReader(data), int64(len(data)), "x")
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors {
			require.LessOrEqual(t, tensor.Start+tensor.Bytes, int64(len(data)))
			file.ReadFloats(tensor, 0, make([]float32, tensor.Elements()))
		}
	})
}

func FuzzIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{"total_size":1},"weight_map":{"a":"model-00001-of-00002.safetensors"}}`))
	f.Add([]byte(`{"weight_map":{"a":1}}`))
	f.Add([]byte(`{"weight_map":{}}`))
	f.Add([]byte(`[]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if weights, err := parseIndex("x", data); err == nil {
			require.NotEmpty(t, weights)
		}
	})
}
