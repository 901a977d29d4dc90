package unibiomed

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// TestTokenizerVectors compares every vector of the real-size tokenizer: ids, text, and the stop rule.
func TestTokenizerVectors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "language.gguf")
	require.NoError(t, checkpoint.WriteTokenizer(golden.Path(t, "golden", "tokenizer", "qwen2.5-unibiomed"), path))
	m, err := bindings.Open(context.Background(), bindings.Files{Language: path}, bindings.Params{VocabOnly: true}, bindings.Call{})
	require.NoError(t, err)
	defer m.Close()
	tok, err := prompt.NewTokenizer(m, m.Info().Vocab, func(id int32) bool { return m.TokenKind(id)&bindings.TokenAdded != 0 })
	require.NoError(t, err)
	require.Equal(t, 151679, tok.Len())

	var vectors struct {
		Encode []struct {
			Kind, Text string
			IDs        []int32
		}
		Decode []struct {
			Kind, Text string
			IDs        []int32
		}
		Stop []struct {
			IDs  []int32
			Stop bool
		}
	}
	golden.JSON(t, &vectors, "golden", "tokenizer", "vectors.json")
	require.Len(t, vectors.Encode, 795)
	for _, v := range vectors.Encode {
		ids, err := tok.Encode(v.Text)
		require.NoError(t, err)
		if len(ids) == 0 {
			ids = []int32{}
		}
		require.Equal(t, v.IDs, ids, "%s %q", v.Kind, v.Text)
	}
	require.Len(t, vectors.Decode, 530)
	for _, v := range vectors.Decode {
		require.Equal(t, v.Text, tok.Decode(v.IDs), "%s %v", v.Kind, v.IDs)
	}
	require.NotEmpty(t, vectors.Stop)
	for _, v := range vectors.Stop {
		var rule prompt.StopRule
		got := false
		for _, id := range v.IDs {
			got = rule.Push(tok.Bytes(id))
		}
		require.Equal(t, v.Stop, got, "%v", v.IDs)
	}
}
