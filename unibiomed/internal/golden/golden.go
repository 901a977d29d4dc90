// Package golden lets tests read the shared reference data: folder ../shared beside the repository, or the one that
// UNIBIOMED_SHARED names.
package golden

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Path returns the path of a shared file or folder, and skips the test when it is absent.
func Path(t testing.TB, elem ...string) string {
	t.Helper()
	root := os.Getenv("UNIBIOMED_SHARED")
	if root == "" {
		_, here, _, _ := runtime.Caller(0)
		root = filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "shared")
	}
	p := filepath.Join(append([]string{root}, elem...)...)
	if _, err := os.Stat(p); err != nil {
		t.Skipf("no reference data at %s: put the shared folder beside the repository or set UNIBIOMED_SHARED", p)
	}
	return p
}

// JSON decodes a shared JSON file into v.
func JSON(t testing.TB, v any, elem ...string) {
	t.Helper()
	b, err := os.ReadFile(Path(t, elem...))
	if err == nil {
		err = json.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A Tensor is one entry of a safetensors file, row-major.
type Tensor struct {
	DType string // "F32", "U8", "BF16"
	Shape []int
	Data  []byte
}

// F32 returns the values of an F32 tensor.
func (x Tensor) F32(t testing.TB) []float32 {
	t.Helper()
	if x.DType != "F32" {
		t.Fatalf("golden tensor has type %q, want F32", x.DType)
	}
	v := make([]float32, len(x.Data)/4)
	for i := range v {
		v[i] = math.Float32frombits(binary.LittleEndian.Uint32(x.Data[4*i:]))
	}
	return v
}

// Tensors reads a shared safetensors file. The files are ours, so that only their names are checked.
func Tensors(t testing.TB, elem ...string) map[string]Tensor {
	t.Helper()
	b, err := os.ReadFile(Path(t, elem...))
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(b)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(b[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	tensors := map[string]Tensor{}
	for name, raw := range header {
		if name == "__metadata__" {
			continue
		}
		var e struct {
			DType   string    `json:"dtype"`
			Shape   []int     `json:"shape"`
			Offsets [2]uint64 `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			t.Fatal(err)
		}
		tensors[name] = Tensor{e.DType, e.Shape, b[8+n+e.Offsets[0] : 8+n+e.Offsets[1]]}
	}
	return tensors
}
