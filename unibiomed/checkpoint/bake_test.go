package checkpoint

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// shared returns a path among the project's shared inputs, or skips the test where they are absent.
func shared(t testing.TB, path string) string {
	root := os.Getenv("UNIBIOMED_SHARED")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared")
	}
	path = filepath.Join(root, filepath.FromSlash(path))
	if _, err := os.Stat(path); err != nil {
		t.Skipf("needs the shared inputs (UNIBIOMED_SHARED): %v", err)
	}
	return path
}

func readTensor(t testing.TB, f *safetensors.File, name string) ([]float32, []int64) {
	tensor, ok := f.Tensor(name)
	require.True(t, ok, name)
	values := make([]float32, tensor.Elements())
	require.NoError(t, f.ReadFloats(tensor, 0, values))
	return values, tensor.Shape
}

// TestDensePositionsEqualTheReference compares the table bit by bit with the reference's, which keeps every fourth row and column.
func TestDensePositionsEqualTheReference(t *testing.T) {
	f, err := safetensors.Open(shared(t, "golden/preprocess/dense_pe.safetensors"))
	require.NoError(t, err)
	defer f.Close()
	gaussian, _ := readTensor(t, f, "gaussian_matrix_f32")
	want, shape := readTensor(t, f, "dense_pe_bf16_strided_f32")
	require.Equal(t, []int64{256, 16, 16}, shape)
	y := 0
	require.NoError(t, densePositions(gaussian, 64, 256, func(row []float32) error {
		for x := 0; y%4 == 0 && x < 64; x += 4 {
			for c := range 256 {
				w, g := want[(c*16+y/4)*16+x/4], row[x*256+c]
				require.Equal(t, math.Float32bits(w), math.Float32bits(g), "channel %d, row %d, column %d: got %v, want %v", c, y, x, g, w)
			}
		}
		y++
		return nil
	}))
	require.Equal(t, 64, y)
}
