package unibiomed

import (
	"context"
	"fmt"
	"time"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

// ground draws a mask for every [SEG] of turns about one input that has a hidden state.
func ground(ctx context.Context, turns []*answering) error {
	var pictures []*answering
	for _, a := range turns {
		switch n := a.nameFindings(); {
		case n == 0:
		case a.Image == nil:
			if err := a.groundSlices(ctx, n); err != nil {
				return err
			}
		case a.Trace != nil: // a trace is of one turn
			if err := groundImage(ctx, []*answering{a}); err != nil {
				return err
			}
		default:
			pictures = append(pictures, a)
		}
	}
	if len(pictures) == 0 {
		return nil
	}
	return groundImage(ctx, pictures)
}

// nameFindings makes a finding of every [SEG] that has a hidden state, and returns their number.
func (a *answering) nameFindings() int {
	if a.Image == nil && len(a.Slices) == 0 {
		return 0
	}
	n := len(a.hidden) / a.info.Embd
	a.Trace.Add("seg_hidden", a.hidden, n, a.info.Embd)
	if n == 0 {
		a.Trace.Add("seg_embedding", nil, 0, a.info.MaskEmbd)
		return 0
	}
	phrases := prompt.Phrases(a.turn.Raw, a.Target)
	a.turn.Findings = make([]Finding, n)
	for i := range a.turn.Findings {
		a.turn.Findings[i].Phrase = phrases[i]
	}
	return n
}

// features runs SAM 2's image encoder, unless the image was seen before. shared says that the cache owns them.
func (a *answering) features(ctx context.Context, r route, img *imaging.RGB) (f *bindings.Features, shared bool, err error) {
	seen := a.images.get(keyOf(img, r))
	if seen.features != nil && a.Trace == nil {
		return seen.features, true, nil
	}
	start := time.Now()
	rounding := tiles.Image
	if r == slice {
		rounding = tiles.Video
	}
	side := a.info.MaskImageSize
	input, err := tiles.SAMInput(img, side, a.info.MaskImageMean, a.info.MaskImageStd, rounding, a.workers)
	if err != nil {
		return nil, false, err
	}
	a.turn.Timings.add("prepare", start)
	c := a.call("features")
	if a.Trace != nil {
		if _, have := a.Trace.Tensor("sam_input"); have {
			c.Trace = nil // of a video only slice 0 is traced
		} else {
			a.Trace.Add("sam_input", input, 3, side, side)
		}
	}
	start = time.Now()
	if f, err = a.model.EncodeImage(ctx, input, c); err != nil {
		return nil, false, err
	}
	a.turn.Timings.add("features", start)
	if seen.features != nil || r == slice {
		return f, false, nil // slices are many and large: they are not kept
	}
	seen.features = f
	a.images.grew(seen, a.featureBytes())
	return f, true, nil
}

// featureBytes is the size of F0, F1, F2 and P2.
func (p *Pipeline) featureBytes() int64 {
	d, l, s := int64(p.info.MaskEmbd), int64(p.info.MaskSize), int64(p.info.FeatureSize)
	return 4 * (d/8*l*l + d/4*(l/2)*(l/2) + 2*d*s*s)
}

// groundImage draws the masks of turns about one picture: its features are computed once, and every [SEG] is decoded in the same batches.
func groundImage(ctx context.Context, turns []*answering) error {
	a := turns[0]
	f, shared, err := a.features(ctx, picture, a.Image)
	if err != nil {
		return err
	}
	if !shared {
		defer f.Close()
	}
	var hidden []float32
	for _, t := range turns {
		hidden = append(hidden, t.hidden...)
	}
	n := len(hidden) / a.info.Embd
	start := time.Now()
	masks, err := a.model.DecodeMasks(ctx, f, hidden, n, a.call("masks"))
	if err != nil {
		return err
	}
	took := float64(time.Since(start).Microseconds()) / 1000
	at := 0
	for _, t := range turns {
		t.turn.Timings["masks"] += took * float64(len(t.turn.Findings)) / float64(n)
		start := time.Now()
		for i := range t.turn.Findings {
			t.traceLogits(fmt.Sprintf("mask_logits.%d", i), ".strided", ".selected", masks, at)
			bits, err := t.upsample(masks, at, t.Image)
			if err != nil {
				return err
			}
			finding := &t.turn.Findings[i]
			finding.PredictedIoU, finding.ObjectScore, finding.Selected = t.scores(masks, at)
			finding.setMask(bits)
			at++
			if t.Progress != nil {
				t.Progress("resize", float64(at)/float64(n))
			}
		}
		t.turn.Timings.add("resize", start)
	}
	return nil
}

// groundSlices prompts the first slices and tracks the rest, every [SEG] on its own; features are computed once a slice.
func (a *answering) groundSlices(ctx context.Context, n int) error {
	tracks := make([]*bindings.Track, n)
	defer func() {
		for _, t := range tracks {
			t.Close()
		}
	}()
	for i := range tracks {
		t, err := a.model.NewTrack(a.hidden[i*a.info.Embd : (i+1)*a.info.Embd])
		if err != nil {
			return err
		}
		tracks[i] = t
	}
	for index, img := range a.Slices {
		if err := a.groundSlice(ctx, tracks, index, img); err != nil {
			return fmt.Errorf("slice %d: %w", index, err)
		}
		if a.Progress != nil {
			a.Progress("slices", float64(index+1)/float64(len(a.Slices)))
		}
	}
	for i := range a.turn.Findings {
		f := &a.turn.Findings[i]
		best := 0
		for k, s := range f.Slices {
			f.AreaPx += s.AreaPx
			if s.AreaPx > f.Slices[best].AreaPx {
				best = k
			}
		}
		// The scores of a volume's finding are those of its largest slice.
		f.PredictedIoU, f.ObjectScore, f.Selected, f.BBox = f.Slices[best].PredictedIoU, f.Slices[best].ObjectScore, f.Slices[best].Selected, f.Slices[best].BBox
		f.Status = status(f.AreaPx)
	}
	return nil
}

func (a *answering) groundSlice(ctx context.Context, tracks []*bindings.Track, index int, img *imaging.RGB) error {
	f, shared, err := a.features(ctx, slice, img)
	if err != nil {
		return err
	}
	if !shared {
		defer f.Close()
	}
	tracked := index >= a.info.PromptedSlices
	for i, t := range tracks {
		start := time.Now()
		c := a.call("masks")
		c.Progress = nil
		if i > 0 {
			c.Trace = nil // the golden names have no place for a second [SEG] of a volume
		}
		step := t.Prompt
		if tracked {
			step = t.Step
		}
		masks, err := step(ctx, index, f, c)
		if err != nil {
			return err
		}
		a.turn.Timings.add("masks", start)
		if i == 0 {
			a.traceLogits(fmt.Sprintf("slice.%d.mask_logits", index), "", "_selected", masks, 0)
		}
		start = time.Now()
		bits, err := a.upsample(masks, 0, img)
		if err != nil {
			return err
		}
		s := SliceMask{Slice: index, Tracked: tracked, Bits: bits, AreaPx: bits.Area(), BBox: bbox(bits), Mask: &MaskRef{RLE: rle.Encode(bits)}}
		s.PredictedIoU, s.ObjectScore, s.Selected = a.scores(masks, 0)
		a.turn.Findings[i].Slices = append(a.turn.Findings[i].Slices, s)
		a.turn.Timings.add("resize", start)
	}
	return nil
}

// upsample brings the logits of prompt i to the grid of img and cuts them at 0.
func (a *answering) upsample(m *bindings.Masks, i int, img *imaging.RGB) (*imaging.Mask, error) {
	side := a.info.MaskSize
	return resample.Mask(m.Logits[i*side*side:(i+1)*side*side], side, a.info.MaskImageSize, img.Width, img.Height, a.workers)
}

func (a *answering) scores(m *bindings.Masks, i int) (iou, object float32, selected int32) {
	selected = m.Selected[i]
	return m.IoU[i*a.info.Masks+int(selected)], m.ObjectScore[i], selected
}

// traceLogits puts the logits of prompt i, traced as name, under their golden names: all masks, and the selected one.
func (a *answering) traceLogits(name, all, selected string, m *bindings.Masks, i int) {
	if a.Trace == nil {
		return
	}
	a.Trace.rename(name, name+all)
	side := a.info.MaskSize
	a.Trace.Add(name+selected, m.Logits[i*side*side:(i+1)*side*side], side, side)
}
