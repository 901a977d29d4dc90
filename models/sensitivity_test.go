package models

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/models/examples"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

// A stage is a result that layers of one part of the model lead to.
const (
	visionEmbeddings = iota
	hiddenState      // at [SEG] after a question
	maskLogits       // of vectors that do not depend on the weights under test
	stageCount
)

// TestSensitivity stores one group of layers at a time in q8_0, all others in f32, and compares what the stage behind it computes with
// the f32 model: the tables of docs/performance.md, printed by -v. UNIBIOMED_ACCEL chooses the arithmetic of the run. The state of
// training in reference/nano is the f32 model; UNIBIOMED_SENSITIVITY names another f32 model folder, of which only whole parts are measured.
func TestSensitivity(t *testing.T) {
	exact, whole := os.Getenv("UNIBIOMED_SENSITIVITY"), true
	if exact == "" {
		exact, whole = filepath.Join(t.TempDir(), "f32"), false
		_, err := checkpoint.Convert(t.Context(), filepath.Join("..", "reference", "nano"), exact, checkpoint.Options{})
		require.NoError(t, err)
	}
	want := measureStages(t, exact, whole)
	t.Logf("| layers in q8_0 | vision embeddings | hidden state | mask logits |")
	parts := [stageCount]float64{}
	for _, g := range []struct {
		name, pattern string
		stage         int
		part          bool
	}{
		{"vision tower", "blocks.*", visionEmbeddings, true},
		{"- attn.qkv", "blocks.*.attn.qkv.weight", visionEmbeddings, false},
		{"- attn.proj", "blocks.*.attn.proj.weight", visionEmbeddings, false},
		{"- mlp.fc1", "blocks.*.mlp.fc1.weight", visionEmbeddings, false},
		{"- mlp.fc2", "blocks.*.mlp.fc2.weight", visionEmbeddings, false},
		{"- first block", "blocks.0.*", visionEmbeddings, false},
		{"- last block of 8", "blocks.7.*", visionEmbeddings, false},
		{"projector", "projector.*", visionEmbeddings, true},
		{"language model", "blk.*", hiddenState, true},
		{"- attn_q, attn_k", "blk.*.attn_[qk].weight", hiddenState, false},
		{"- attn_v", "blk.*.attn_v.weight", hiddenState, false},
		{"- attn_output", "blk.*.attn_output.weight", hiddenState, false},
		{"- ffn_gate, ffn_up", "blk.*.ffn_[gu]*.weight", hiddenState, false},
		{"- ffn_down", "blk.*.ffn_down.weight", hiddenState, false},
		{"- first block", "blk.0.*", hiddenState, false},
		{"- last block of 4", "blk.3.*", hiddenState, false},
		{"token embeddings", "token_embd.weight", hiddenState, true},
		{"trunk", "trunk.*", maskLogits, true},
		{"- attn.qkv", "trunk.blocks.*.attn.qkv.weight", maskLogits, false},
		{"- attn.proj", "trunk.blocks.*.attn.proj.weight", maskLogits, false},
		{"- mlp.0", "trunk.blocks.*.mlp.0.weight", maskLogits, false},
		{"- mlp.1", "trunk.blocks.*.mlp.1.weight", maskLogits, false},
		{"- first stage", "trunk.blocks.0.*", maskLogits, false},
		{"- change of width", "trunk.blocks.[0-9]*.proj.weight", maskLogits, false},
		{"neck", "neck.*", maskLogits, true},
	} {
		if whole && !g.part {
			continue
		}
		dir := filepath.Join(t.TempDir(), "q8_0")
		_, err := checkpoint.Quantize(t.Context(), exact, dir, checkpoint.Options{
			Quantizer: unibiomed.Quantizer(0), Tensors: []checkpoint.TensorType{{Pattern: g.pattern, Type: "q8_0"}},
		})
		require.NoError(t, err)
		got := measureStages(t, dir, whole)
		require.NoError(t, os.RemoveAll(dir))
		cells := [stageCount]string{}
		e := relativeRMS(got[g.stage], want[g.stage])
		cells[g.stage] = fmt.Sprintf("%.4f", e)
		t.Logf("| %s | %s | %s | %s |", g.name, cells[0], cells[1], cells[2])
		require.Positive(t, e, "%s: quantizing changed nothing", g.name)
		if whole {
			continue // random weights may amplify any error
		}
		require.Less(t, e, 0.2, g.name)
		if g.part {
			parts[g.stage] = e
		} else {
			require.Less(t, e, 1.5*parts[g.stage], "%s loses more than the whole part", g.name)
		}
	}
}

// measureStages runs a model on the first four examples, one tile and one question each; whole: on the first of them only.
func measureStages(t *testing.T, dir string, whole bool) (out [stageCount][]float32) {
	p, err := unibiomed.Open(t.Context(), dir, unibiomed.Options{KVCache: "f32"})
	require.NoError(t, err)
	defer p.Close()
	all, err := examples.All()
	require.NoError(t, err)
	if whole {
		all = all[:1]
	} else {
		all = all[:4]
	}
	model, info, none := p.Native(), p.Info(), bindings.Call{}
	seg, ok := p.Tokenizer().ID(prompt.Seg)
	require.True(t, ok)
	slot, ok := p.Tokenizer().ID(prompt.ImageContext)
	require.True(t, ok)
	session, err := model.NewSession(t.Context(), 1024)
	require.NoError(t, err)
	defer session.Close()
	for n, e := range all {
		img, _, err := e.Open()
		require.NoError(t, err)

		cut, err := tiles.Split(img, tiles.Spec{Size: info.TileSize, Min: 1, Max: 1, Mean: info.TileMean, Std: info.TileStd}, 0)
		require.NoError(t, err)
		embeddings, err := model.EncodeTiles(t.Context(), cut.Data, 1, none)
		require.NoError(t, err)
		out[visionEmbeddings] = append(out[visionEmbeddings], embeddings...)

		// The tower's error is its own: the language model reads embeddings that do not depend on it.
		text, err := prompt.Assemble(prompt.Segment(e.Targets[0]), "", &prompt.Visual{Groups: []int{info.TileTokens}})
		require.NoError(t, err)
		ids, err := p.Tokenizer().Encode(text)
		require.NoError(t, err)
		for i := range ids {
			if ids[i] == slot {
				ids[i] = bindings.Embedding
			}
		}
		hidden := make([]float32, info.Embd)
		require.NoError(t, session.Truncate(0))
		require.NoError(t, session.Prefill(t.Context(), ids, waves(len(embeddings), n), bindings.Outputs{}, none))
		require.NoError(t, session.Decode(t.Context(), []int32{seg}, bindings.Outputs{Hidden: hidden}))
		out[hiddenState] = append(out[hiddenState], hidden...)

		input, err := tiles.SAMInput(img, info.MaskImageSize, info.MaskImageMean, info.MaskImageStd, tiles.Image, 0)
		require.NoError(t, err)
		features, err := model.EncodeImage(t.Context(), input, none)
		require.NoError(t, err)
		masks, err := model.DecodeMasks(t.Context(), features, waves(info.Embd, n), 1, none)
		features.Close()
		require.NoError(t, err)
		out[maskLogits] = append(out[maskLogits], masks.Logits...)
	}
	return out
}

// waves are n values of standard deviation 1, the same for the same number.
func waves(n, number int) []float32 {
	v := make([]float32, n)
	for i := range v {
		v[i] = float32(math.Sqrt2 * math.Sin(float64(i)*1.7+float64(number)+float64(i*i%97)))
	}
	return v
}

func relativeRMS(got, want []float32) float64 {
	var d, s float64
	for i := range want {
		d += math.Pow(float64(got[i])-float64(want[i]), 2)
		s += math.Pow(float64(want[i]), 2)
	}
	return math.Sqrt(d / s)
}
