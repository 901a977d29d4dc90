package models

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/models/examples"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
)

// said is what a model says about the examples.
type said struct {
	texts []string
	masks []*imaging.Mask
	took  time.Duration
}

// opening is how an answer with a mask begins. The training draws one of several at random, so that which of them has the largest logit
// is a coin's toss that rounding turns over.
var opening = regexp.MustCompile(`^(It is |Sure, |Sure, it is |Sure, the segmentation result is )?\[SEG\]`)

// TestQuantizations asks models of every type the same about the examples and compares them with f32: the table of
// docs/performance.md, printed by -v. The state of training in reference/nano is the f32 model.
func TestQuantizations(t *testing.T) {
	root := t.TempDir()
	make := func(typ string) string {
		dir := filepath.Join(root, typ)
		_, err := checkpoint.Convert(t.Context(), filepath.Join("..", "reference", "nano"), dir, checkpoint.Options{
			Language: typ, Vision: typ, Grounding: typ, Quantizer: unibiomed.Quantizer(0),
		})
		require.NoError(t, err)
		return dir
	}
	exact := make("f32")
	want := interview(t, exact, "")
	drawn := 0
	for _, m := range want.masks {
		if m.Area() > 0 {
			drawn++
		}
	}
	require.Greater(t, drawn, 5, "too few masks to compare")
	line := func(typ, cache string, size int64, iou float64, same, alike int, took time.Duration) {
		t.Logf("| %s | %s | %.1f | %.4f | %d, %d of %d | %.2f |", typ, cache, float64(size)/1e6, iou, same, alike, len(want.texts), took.Seconds()/want.took.Seconds())
	}
	t.Logf("| type | KV cache | MB | mean mask IoU | same texts, same but for the opening | time, f32 = 1 |")
	line("f32", "f32", folderSize(t, exact), 1, len(want.texts), len(want.texts), want.took)
	for _, tt := range []struct {
		typ, cache string
		iou        float64 // at least, the bars of the design; 0: printed only
		texts      float64 // share of those alike but for the opening
	}{
		{"f32", "f16", 0.995, 1},
		{"f16", "f16", 0.995, 0.95},
		{"bf16", "f16", 0.99, 0.95},
		{"q8_0", "f16", 0.97, 0.95},
		{"q8_0", "q8_0", 0.95, 0.9},
		{"q4_k_m", "f16", 0, 0},
	} {
		t.Run(fmt.Sprintf("%s with a cache of %s", tt.typ, tt.cache), func(t *testing.T) {
			dir := filepath.Join(root, tt.typ)
			if _, err := os.Stat(dir); err != nil {
				dir = make(tt.typ)
			}
			got := interview(t, dir, tt.cache)
			same, alike, sum := 0, 0, 0.0
			for i, text := range got.texts {
				if text == want.texts[i] {
					same++
				}
				if opening.ReplaceAllString(text, "[SEG]") == opening.ReplaceAllString(want.texts[i], "[SEG]") {
					alike++
				} else {
					t.Logf("%q where f32 says %q", text, want.texts[i])
				}
			}
			for i, m := range got.masks {
				o, err := metrics.Count(m, want.masks[i])
				require.NoError(t, err)
				if o.Pred+o.Truth == 0 {
					sum++
				} else {
					sum += o.IoU()
				}
			}
			iou := sum / float64(len(want.masks))
			line(tt.typ, tt.cache, folderSize(t, dir), iou, same, alike, got.took)
			require.GreaterOrEqual(t, iou, tt.iou)
			require.GreaterOrEqual(t, float64(alike), tt.texts*float64(len(want.texts)))
		})
	}
}

// interview asks for the masks of every example, its modality, an abnormality, and what is in its box.
func interview(t *testing.T, dir, cache string) said {
	p, err := unibiomed.Open(t.Context(), dir, unibiomed.Options{KVCache: cache})
	require.NoError(t, err)
	defer p.Close()
	all, err := examples.All()
	require.NoError(t, err)
	var out said
	for _, e := range all {
		img, _, err := e.Open()
		require.NoError(t, err)
		in := unibiomed.Input{Image: img}
		start := time.Now()
		masks, err := p.Segment(t.Context(), in, e.Targets, unibiomed.Observers{})
		require.NoError(t, err)
		for i := range masks.Turns {
			out.texts = append(out.texts, masks.Turns[i].Raw)
		}
		if len(masks.Turns) == 0 {
			out.texts = append(out.texts, masks.Raw)
		}
		kind, err := p.Ask(t.Context(), unibiomed.Request{Input: in, Prompt: "What modality is this image?"})
		require.NoError(t, err)
		found, err := p.Recognize(t.Context(), in, unibiomed.Observers{})
		require.NoError(t, err)
		place, err := p.Region(t.Context(), in, unibiomed.Place{Box: e.Box()}, false, unibiomed.Observers{})
		require.NoError(t, err)
		out.took += time.Since(start)
		out.texts = append(out.texts, kind.Raw, found.Raw, place.Raw)
		for _, f := range masks.Findings {
			require.NotNil(t, f.Bits)
			out.masks = append(out.masks, f.Bits)
		}
	}
	return out
}

func folderSize(t *testing.T, dir string) (n int64) {
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		n += info.Size()
	}
	return n
}
