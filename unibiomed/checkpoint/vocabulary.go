package checkpoint

import (
	"os"
	"path/filepath"

	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// WriteTokenizer makes a language file without weights at path from the tokenizer files in the folder source. It opens with
// bindings.Params.VocabOnly and in llama.cpp's vocabulary-only mode: for tools that count or compare tokens.
// The file appears whole or not at all.
func WriteTokenizer(source, path string) error {
	tok, err := readTokenizer(source, map[string][]byte{})
	if err != nil {
		return err
	}
	tokens, _ := tok.arrays()
	// Readers want the sizes of a model even where they load none: these are the smallest.
	c := &config{language: languageConfig{
		vocab: len(tokens), hidden: 32, ffn: 32, layers: 1, heads: 1, kvHeads: 1, context: 1, rmsEps: 1e-6, ropeTheta: 1e6,
	}}
	f, err := os.CreateTemp(filepath.Dir(path), ".unibiomed-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	w, err := gguf.NewWriter(f, c.languageKeys(tok, &Manifest{Name: filepath.Base(source)}, schemes["f32"]), nil)
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	if err := f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}
