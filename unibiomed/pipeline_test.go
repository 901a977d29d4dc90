package unibiomed

import (
	"context"
	"errors"
	"image"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// TestQuantizedParity holds quantized models to the bars of the design: texts and mean IoU against f32's golden masks. With -v it prints the
// table of docs/performance.md.
func TestQuantizedParity(t *testing.T) {
	tests := []struct {
		typ     string
		meanIoU float64 // at least; 0: printed only
	}{
		{"f32", 0.9999},
		{"f16", 0.995},
		{"bf16", 0.995},
		{"q8_0", 0.99},
		{"q6_k", 0},
		{"q5_k_m", 0},
		{"q4_k_m", 0.97},
		{"q4_0", 0},
		{"iq4_nl", 0},
	}
	var exact time.Duration
	for _, tt := range tests {
		t.Run(tt.typ, func(t *testing.T) {
			if tt.meanIoU == 0 && !testing.Verbose() {
				t.Skip("only printed, with -v")
			}
			p := openTiny(t, tt.typ, Options{})
			var images, slices []float64 // IoU of masks; each kind keeps the bar by itself
			var cases, same int
			var took time.Duration
			for _, c := range goldenCases(t) {
				if testing.Short() && (c.Tiles > 1 || len(c.Video) > 0) {
					continue
				}
				r := c.request(t)
				start := time.Now()
				res, err := p.Ask(context.Background(), r)
				require.NoError(t, err)
				took += time.Since(start)
				cases++
				if c.Decoded == res.Raw {
					same++
				}
				for i, f := range res.Findings {
					for k, slice := range f.Slices {
						slices = append(slices, maskIoU(t, slice.Bits, c.Slices[k].Mask))
					}
					if len(c.Video) == 0 && i < len(c.Masks) { // a text that differs may name more
						images = append(images, maskIoU(t, f.Bits, c.Masks[i].File))
					}
				}
			}
			if exact == 0 {
				exact = took
			}
			t.Logf("| %s | %.4f of %d | %.4f of %d | %d of %d | %.2f |", tt.typ, mean(images), len(images), mean(slices), len(slices), same, cases, took.Seconds()/exact.Seconds())
			if tt.meanIoU > 0 {
				require.Equal(t, cases, same, "texts that equal f32's")
				require.GreaterOrEqual(t, mean(images), tt.meanIoU, "mean IoU of %d masks", len(images))
				if !testing.Short() {
					require.GreaterOrEqual(t, mean(slices), tt.meanIoU, "mean IoU of %d slices", len(slices))
				}
			}
		})
	}
}

func mean(values []float64) float64 {
	sum := 0.0
	for _, v := range values {
		sum += v
	}
	return sum / float64(len(values))
}

// maskIoU compares a mask with a golden one; two empty ones are the same.
func maskIoU(t *testing.T, got *imaging.Mask, file string) float64 {
	t.Helper()
	want, err := imaging.DecodeMaskFile(golden.Path(t, "golden", "tiny", "cases", file), imaging.Options{})
	require.NoError(t, err)
	o, err := metrics.Count(got, want)
	require.NoError(t, err)
	if o.Pred+o.Truth == 0 {
		return 1
	}
	return o.IoU()
}

// nuclei is the one-tile image of several golden cases.
func nuclei(t testing.TB) Input {
	t.Helper()
	path := golden.Path(t, "data", "microscopy", "dsb2018_6fc83b33896f.png")
	img, err := imaging.DecodeFile(path, imaging.Options{})
	require.NoError(t, err)
	return Input{Image: img, File: path}
}

func calls(t *testing.T, p *Pipeline, s bindings.Stage) uint64 {
	t.Helper()
	stats, err := p.Stats()
	require.NoError(t, err)
	return stats[s].Calls
}

func TestASecondQuestionCostsItsOwnTokens(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	in := nuclei(t)
	first, err := p.Segment(context.Background(), in, []string{"nuclei in pathology"}, Observers{})
	require.NoError(t, err)
	require.Zero(t, first.PrefixTokens)
	require.Equal(t, Present, first.Findings[0].Status)

	second, err := p.Segment(context.Background(), in, []string{"nuclei in pathology", "cells in pathology"}, Observers{})
	require.NoError(t, err)
	for _, turn := range second.Turns {
		require.Greater(t, turn.PrefixTokens, 256, "the image stands in the cache")
		require.NotContains(t, turn.Timings, "vision")
		require.NotContains(t, turn.Timings, "features")
	}
	require.Equal(t, uint64(1), calls(t, p, bindings.StageVision))
	require.Equal(t, uint64(1), calls(t, p, bindings.StageFeatures))
	require.Equal(t, first.Findings[0].AreaPx, second.Turns[0].Findings[0].AreaPx)
}

// Two [SEG] of one answer are one pass of the image encoder and one batch of the mask decoder; bench shows the same for five.
func TestMasksOfAnAnswerShareOneImageEncoding(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	for _, c := range goldenCases(t) {
		if c.Name != "twoseg_5tile" {
			continue
		}
		res, err := p.Ask(context.Background(), c.request(t))
		require.NoError(t, err)
		require.Len(t, res.Findings, 2)
		stats, err := p.Stats()
		require.NoError(t, err)
		require.Equal(t, uint64(1), stats[bindings.StageFeatures].Calls)
		require.Equal(t, uint64(1), stats[bindings.StageMasks].Calls)
		require.Equal(t, uint64(2), stats[bindings.StageMasks].Items)
		return
	}
	t.Fatal("no case twoseg_5tile")
}

// The targets of one call share an encoding and one batch of the mask decoder, and get what each gets alone.
func TestTargetsAreDecodedTogether(t *testing.T) {
	targets := []string{"nuclei in pathology", "liver in abdomen CT", "nuclei in pathology"}
	in := nuclei(t)
	p := openTiny(t, "f32", Options{})
	together, err := p.Segment(t.Context(), in, targets, Observers{})
	require.NoError(t, err)
	stats, err := p.Stats()
	require.NoError(t, err)
	require.Equal(t, uint64(1), stats[bindings.StageFeatures].Calls)
	require.Equal(t, uint64(1), stats[bindings.StageMasks].Calls)
	require.Len(t, together.Turns, len(targets))
	for i, target := range targets {
		turn := together.Turns[i]
		require.GreaterOrEqual(t, turn.Timings["total"], turn.Timings.stages())
		alone, err := openTiny(t, "f32", Options{}).Segment(t.Context(), in, []string{target}, Observers{})
		require.NoError(t, err)
		require.Equal(t, alone.Raw, turn.Raw)
		require.Len(t, turn.Findings, len(alone.Findings))
		for k, f := range turn.Findings {
			require.Equal(t, alone.Findings[k].Phrase, f.Phrase)
			require.InDelta(t, alone.Findings[k].AreaPx, f.AreaPx, 2)
			require.InDelta(t, alone.Findings[k].PredictedIoU, f.PredictedIoU, 1e-4)
		}
	}
}

// The last answer is a guess of the next one: where it is right, one run decodes all of it; where it is wrong, nothing changes.
func TestAnswersAreGuessed(t *testing.T) {
	for _, typ := range []string{"f32", "q8_0"} {
		t.Run(typ, func(t *testing.T) {
			p := openTiny(t, typ, Options{})
			for _, c := range goldenCases(t) {
				if c.Image == "" || c.Tiles > 1 {
					continue
				}
				fresh, err := openTiny(t, typ, Options{}).Ask(t.Context(), c.request(t))
				require.NoError(t, err)
				if typ == "f32" {
					require.Equal(t, c.GeneratedIDs, fresh.TokenIDs)
				}
				for round := range 2 {
					before := calls(t, p, bindings.StageDecode)
					res, err := p.Ask(t.Context(), c.request(t))
					require.NoError(t, err)
					require.Equal(t, fresh.TokenIDs, res.TokenIDs, c.Name)
					require.Equal(t, res.PromptTokens+len(res.TokenIDs)-1, p.session.native.Length(), "what was computed ahead is taken back")
					if runs := calls(t, p, bindings.StageDecode) - before; round == 1 {
						require.Equal(t, (len(res.TokenIDs)-1+bindings.DecodeAtOnce-1)/bindings.DecodeAtOnce, int(runs), c.Name)
					}
				}
			}
		})
	}
}

func TestAnotherImageIsNotMistakenForTheLast(t *testing.T) {
	p := openTiny(t, "f32", Options{CacheBytes: -1})
	ask := Request{Input: nuclei(t), Prompt: "<image>\nWhich imaging modality is shown?"}
	res, err := p.Ask(context.Background(), ask)
	require.NoError(t, err)
	require.Equal(t, "This is a pathology image.", res.Answer)
	pet, err := imaging.DecodeFile(golden.Path(t, "data", "pet", "ibsi_STS_001_PET_slice.png"), imaging.Options{})
	require.NoError(t, err)
	ask.Image = pet
	res, err = p.Ask(context.Background(), ask)
	require.NoError(t, err)
	require.Equal(t, "This is a pet image.", res.Answer)
}

func TestTurnsGoOnFromPast(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	in := nuclei(t)
	first, err := p.Ask(context.Background(), Request{Input: in, Prompt: "<image>Please segment nuclei in pathology."})
	require.NoError(t, err)
	second, err := p.Ask(context.Background(), Request{Input: in, PastText: first.Past, Prompt: "Can you highlight the nuclei with a segmentation mask?"})
	require.NoError(t, err)
	require.Equal(t, "Sure, [SEG].", second.Answer)
	require.Len(t, second.Findings, 1, "the [SEG] of the past is not answered again")
	require.Greater(t, second.PrefixTokens, first.PromptTokens)
}

func TestManyGoroutines(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	in := nuclei(t)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			res, err := p.Segment(context.Background(), in, []string{"nuclei in pathology"}, Observers{})
			if err != nil || res.Findings[0].AreaPx == 0 {
				t.Errorf("result %v, error %v", res, err)
			}
		})
	}
	wg.Wait()
	require.NoError(t, p.Close())
	require.NoError(t, p.Close())
	_, err := p.Recognize(context.Background(), in, Observers{})
	require.ErrorIs(t, err, ErrClosed)
}

func TestCancelInEveryStage(t *testing.T) {
	p := openTiny(t, "f32", Options{CacheBytes: -1})
	in := nuclei(t)
	for _, stage := range []string{"vision", "prefill", "features", "masks"} {
		ctx, cancel := context.WithCancel(context.Background())
		o := Observers{Progress: func(s string, done float64) {
			if s == stage {
				cancel()
			}
		}}
		_, err := p.Segment(ctx, in, []string{"nuclei in pathology"}, o)
		cancel()
		if stage == "masks" && err == nil {
			continue // its one pass had ended when the context did
		}
		require.ErrorIs(t, err, context.Canceled, stage)
	}
	res, err := p.Segment(context.Background(), in, []string{"nuclei in pathology"}, Observers{})
	require.NoError(t, err, "the pipeline goes on serving")
	require.Equal(t, Present, res.Findings[0].Status)
}

func TestWhatCantBeAsked(t *testing.T) {
	p := openTiny(t, "f32", Options{Context: 256})
	in := nuclei(t)
	ctx := context.Background()
	mask := imaging.NewMask(5, 5)
	tests := []struct {
		name string
		do   func() error
		want string
	}{
		{"empty prompt", func() error { _, err := p.Ask(ctx, Request{Input: in}); return err }, "prompt: is empty"},
		{"mask token in the prompt", func() error { _, err := p.Ask(ctx, Request{Input: in, Prompt: "[SEG]"}); return err }, "prompt: contains the reserved token [SEG] at byte 0"},
		{"mask token in a target", func() error { _, err := p.Segment(ctx, in, []string{"x [SEG]"}, Observers{}); return err }, "prompt: contains the reserved token [SEG] at byte 24"},
		{"no target", func() error { _, err := p.Segment(ctx, in, nil, Observers{}); return err }, "target: is missing"},
		{"empty target", func() error { _, err := p.Segment(ctx, in, []string{" "}, Observers{}); return err }, "target 0: is empty"},
		{"no image", func() error { _, err := p.Recognize(ctx, Input{}, Observers{}); return err }, "image: is missing"},
		{"image and slices", func() error {
			_, err := p.Ask(ctx, Request{Input: Input{Image: in.Image, Slices: []*imaging.RGB{in.Image}}, Prompt: "x"})
			return err
		}, "slices: are given beside an image: give one of the two"},
		{"slices of two sizes", func() error {
			_, err := p.Ask(ctx, Request{Input: Input{Slices: []*imaging.RGB{in.Image, imaging.NewRGB(4, 4)}}, Prompt: "x"})
			return err
		}, "slice 1: is 4 x 4, slice 0 is 360 x 360"},
		{"mask prompt of another size", func() error {
			_, err := p.Ask(ctx, Request{Input: in, Prompt: "x", MaskPrompts: []*imaging.Mask{mask}})
			return err
		}, "mask prompt 0: is 5 x 5, the image is 360 x 360"},
		{"box outside", func() error {
			_, err := p.Region(ctx, in, Place{Box: image.Rect(350, 0, 370, 10)}, false, Observers{})
			return err
		}, "box: 350,0,20,10 leaves the image of 360 x 360"},
		{"empty region mask", func() error {
			_, err := p.Region(ctx, in, Place{Mask: imaging.NewMask(360, 360)}, false, Observers{})
			return err
		}, "mask: has no pixel inside"},
		{"negative limit", func() error { _, err := p.Ask(ctx, Request{Input: in, Prompt: "x", MaxNewTokens: -1}); return err }, "max new tokens: is -1, want at least 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.do()
			require.EqualError(t, err, tt.want)
			var bad *InputError
			var text *prompt.Error
			require.True(t, errors.As(err, &bad) || errors.As(err, &text))
		})
	}
	t.Run("beyond the context", func(t *testing.T) {
		_, err := p.Ask(ctx, Request{Input: in, Prompt: "Please segment the nuclei and the nuclei and the nuclei and the nuclei and the nuclei."})
		var full *ContextError
		require.ErrorAs(t, err, &full)
		require.Greater(t, full.Need+1, full.Capacity)
	})
	t.Run("a model folder that is not there", func(t *testing.T) {
		_, err := Open(ctx, filepath.Join(t.TempDir(), "none"), Options{})
		require.ErrorContains(t, err, "none")
	})
	t.Run("a device that is not there", func(t *testing.T) {
		_, err := Open(ctx, tiny(t, "f32"), Options{Device: "cuda7"})
		require.ErrorIs(t, err, bindings.DeviceFailed)
	})
	t.Run("a KV cache of no such type", func(t *testing.T) {
		_, err := Open(ctx, tiny(t, "f32"), Options{KVCache: "q4_0"})
		require.ErrorIs(t, err, bindings.InvalidArgument)
		require.ErrorContains(t, err, "kv_cache is 'q4_0', want auto, f32, f16 or q8_0")
	})
	t.Run("a memory limit below the plan", func(t *testing.T) {
		_, err := Open(ctx, tiny(t, "f32"), Options{MemoryLimit: 1 << 20})
		require.ErrorIs(t, err, bindings.NoMemory)
	})
}

// The cache's type is what the plan says and what a session takes; in f16 and q8_0 the answers of the golden cases stay.
func TestKVCache(t *testing.T) {
	plan := func(cache string) uint64 {
		p, err := PlanMemory(tiny(t, "q8_0"), Options{KVCache: cache})
		require.NoError(t, err)
		return p.KVCache
	}
	require.Equal(t, plan("f16"), plan(""))
	require.Equal(t, 2*plan("f16"), plan("f32"))
	require.Equal(t, plan("f16")*34/64, plan("q8_0"), "blocks of 32 bytes with a scale of two")

	for _, tt := range []struct{ typ, cache string }{{"f32", "f16"}, {"q8_0", "f32"}, {"q8_0", "q8_0"}} {
		t.Run(tt.typ+" with a cache of "+tt.cache, func(t *testing.T) {
			p := openTiny(t, tt.typ, Options{KVCache: tt.cache})
			for _, c := range goldenCases(t) {
				if len(c.Video) > 0 || c.Tiles > 1 {
					continue
				}
				res, err := p.Ask(t.Context(), c.request(t))
				require.NoError(t, err)
				require.Equal(t, c.Decoded, res.Raw, c.Name)
			}
		})
	}
}

func TestLargestPart(t *testing.T) {
	m := imaging.NewMask(8, 6)
	for _, p := range []image.Point{{0, 0}, {5, 2}, {6, 3}, {5, 4}} { // diagonal neighbours belong together
		m.Pix[p.Y*m.Width+p.X] = 255
	}
	require.Equal(t, image.Rect(5, 2, 7, 5), largestPart(m))
	require.True(t, largestPart(imaging.NewMask(3, 3)).Empty())
}

func TestWholeCharacters(t *testing.T) {
	for in, want := range map[string]int{"": 0, "a": 1, "\xc3": 0, "\xc3\xa9": 2, "a\xf0\x9f\x98": 1, "\xff": 1, "\x80\x80\x80\x80": 4} {
		require.Equal(t, want, wholeCharacters([]byte(in)), "%q", in)
	}
}
