package bindings_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/bindings"
)

// FuzzCheck changes the heads of a model's files, which the check in C++ reads before llama.cpp and ggml see them. The weights behind a
// head are a hole in the file, as the check does not look at them. testdata/fuzz has small files of every kind of damage.
func FuzzCheck(f *testing.F) {
	parts := []string{"language.gguf", "vision.gguf", "grounding.gguf"}
	const head = 1 << 17 // the heads of these files are shorter
	var sizes []int64
	path := filepath.Join(f.TempDir(), "fuzz.gguf")
	check := func(t testing.TB, part uint8, data []byte) error {
		require.NoError(t, os.WriteFile(path, data, 0o600))
		if len(data) >= head { // with room for the weights that a whole head speaks of
			require.NoError(t, os.Truncate(path, max(int64(len(data)), sizes[part])))
		}
		return bindings.Check([]bindings.Files{{Language: path}, {Vision: path}, {Grounding: path}}[part])
	}
	for part, name := range parts {
		data, err := os.ReadFile(filepath.Join("..", "models", "unibiomed-nano", name))
		require.NoError(f, err)
		sizes = append(sizes, int64(len(data)))
		require.NoError(f, check(f, uint8(part), data[:head]))
		f.Add(uint8(part), data[:head])
		f.Add(uint8(part), data[:head/16])
	}
	f.Fuzz(func(t *testing.T, part uint8, data []byte) {
		err := check(t, part%3, data)
		if err == nil {
			return
		}
		var typed *bindings.Error
		require.ErrorAs(t, err, &typed)
		require.Contains(t, []bindings.Code{bindings.Format, bindings.Unsupported}, typed.Code, "%v", err)
		require.NotContains(t, typed.Msg, "\n")
	})
}
