package unibiomed

import (
	"context"
	"fmt"
	"image"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// Segment draws one mask for each target phrase, such as "liver in abdomen CT" (spec/prompting.md 9 lists the wording that
// the model knows). The image and the prompt's beginning are computed once, and the masks of all targets are
// decoded together. A target that the model answers without a mask gives an empty finding.
func (p *Pipeline) Segment(ctx context.Context, in Input, targets []string, o Observers) (*Result, error) {
	if len(targets) == 0 {
		return nil, &InputError{"target", "is missing"}
	}
	if in.Image == nil && len(in.Slices) == 0 {
		return nil, &InputError{"image", "is missing"}
	}
	for i, t := range targets {
		if strings.TrimSpace(t) == "" {
			return nil, &InputError{fmt.Sprintf("target %d", i), "is empty"}
		}
	}
	requests := make([]Request, len(targets))
	for i, target := range targets {
		requests[i] = Request{Input: in, Prompt: prompt.Segment(target), Target: target, Observers: o}
	}
	turns, err := p.together(ctx, "segment", requests)
	if err != nil {
		return nil, err
	}
	for i, turn := range turns {
		if len(turn.Findings) == 0 {
			turn.Findings = []Finding{p.noMask(in, targets[i])}
		}
	}
	return p.result(in, turns...), nil
}

// noMask is the finding of a target for which the answer has no [SEG].
func (p *Pipeline) noMask(in Input, target string) Finding {
	f := Finding{Phrase: strings.TrimSuffix(strings.TrimSpace(target), "."), Status: Empty}
	if in.Image != nil {
		f.setMask(imaging.NewMask(in.Image.Width, in.Image.Height))
	}
	return f
}

// Recognize looks for abnormalities: phrase and mask pairs, or the phrase "no findings" with an empty mask.
func (p *Pipeline) Recognize(ctx context.Context, in Input, o Observers) (*Result, error) {
	return p.single(ctx, "recognize", in, prompt.Recognize(), o)
}

// Report writes a grounded report; with an anatomy, it answers whether that shows an abnormality.
func (p *Pipeline) Report(ctx context.Context, in Input, anatomy string, o Observers) (*Result, error) {
	return p.single(ctx, "report", in, prompt.Report(anatomy), o)
}

func (p *Pipeline) single(ctx context.Context, task string, in Input, text string, o Observers) (*Result, error) {
	if in.Image == nil && len(in.Slices) == 0 {
		return nil, &InputError{"image", "is missing"}
	}
	turn, err := p.turn(ctx, task, Request{Input: in, Prompt: text, Observers: o})
	if err != nil {
		return nil, err
	}
	return p.result(in, turn), nil
}

// A Place is a region of an image: a box in pixels, or a mask whose largest connected part is boxed.
type Place struct {
	Box  image.Rectangle
	Mask *imaging.Mask
}

// Region says what is in a place. The model sees the image with the place's bounding box drawn in green, as it was trained
// (spec/prompting.md 8.4); with describe it is asked for a caption. Image in the result is unmarked.
// A mask without a pixel is an InputError.
func (p *Pipeline) Region(ctx context.Context, in Input, at Place, describe bool, o Observers) (*Result, error) {
	if in.Image == nil {
		return nil, &InputError{"image", "is missing"}
	}
	box, err := at.boxIn(in.Image)
	if err != nil {
		return nil, err
	}
	marked := in
	marked.Image = in.Image.Clone()
	marked.Image.DrawBox(box)
	return p.single(ctx, "region", marked, prompt.Region(describe), o)
}

func (at Place) boxIn(img *imaging.RGB) (image.Rectangle, error) {
	bounds := image.Rect(0, 0, img.Width, img.Height)
	if at.Mask != nil {
		if !at.Box.Empty() {
			return image.Rectangle{}, &InputError{"box", "is given beside a mask: give one of the two"}
		}
		if at.Mask.Width != img.Width || at.Mask.Height != img.Height {
			return image.Rectangle{}, &InputError{"mask", fmt.Sprintf("is %d x %d, the image is %d x %d", at.Mask.Width, at.Mask.Height, img.Width, img.Height)}
		}
		box := largestPart(at.Mask)
		if box.Empty() {
			return image.Rectangle{}, &InputError{"mask", "has no pixel inside"}
		}
		return box, nil
	}
	if at.Box.Empty() {
		return image.Rectangle{}, &InputError{"box", fmt.Sprintf("%d,%d,%d,%d is empty", at.Box.Min.X, at.Box.Min.Y, at.Box.Dx(), at.Box.Dy())}
	}
	if !at.Box.In(bounds) {
		return image.Rectangle{}, &InputError{"box", fmt.Sprintf("%d,%d,%d,%d leaves the image of %d x %d", at.Box.Min.X, at.Box.Min.Y, at.Box.Dx(), at.Box.Dy(), img.Width, img.Height)}
	}
	return at.Box, nil
}

// largestPart returns the bounding box of the largest 8-connected part of m, the first one among equals.
func largestPart(m *imaging.Mask) image.Rectangle {
	seen := make([]bool, len(m.Pix))
	var best image.Rectangle
	bestArea := 0
	var stack []int
	for start, v := range m.Pix {
		if v == 0 || seen[start] {
			continue
		}
		area, box := 0, image.Rectangle{}
		seen[start] = true
		for stack = append(stack[:0], start); len(stack) > 0; {
			i := stack[len(stack)-1]
			stack = stack[:len(stack)-1]
			x, y := i%m.Width, i/m.Width
			area++
			box = box.Union(image.Rect(x, y, x+1, y+1))
			for ny := max(y-1, 0); ny <= min(y+1, m.Height-1); ny++ {
				for nx := max(x-1, 0); nx <= min(x+1, m.Width-1); nx++ {
					if j := ny*m.Width + nx; m.Pix[j] != 0 && !seen[j] {
						seen[j] = true
						stack = append(stack, j)
					}
				}
			}
		}
		if area > bestArea {
			best, bestArea = box, area
		}
	}
	return best
}

// Analyze needs no instruction: it recognizes, reports, and segments what was named. The turns come in that order in one
// result; image and prefix are computed once.
func (p *Pipeline) Analyze(ctx context.Context, in Input, o Observers) (*Result, error) {
	if in.Image == nil && len(in.Slices) == 0 {
		return nil, &InputError{"image", "is missing"}
	}
	var turns []*Turn
	named := map[string]bool{}
	var targets []string
	ask := func(task, text, target string) error {
		turn, err := p.turn(ctx, task, Request{Input: in, Prompt: text, Target: target, Observers: o})
		if err != nil {
			return err
		}
		turns = append(turns, turn)
		for _, f := range turn.Findings {
			// A report's span holds the phrase and sentences after it; the phrase alone is a target.
			phrase, _, _ := strings.Cut(f.Phrase, ". ")
			key := strings.ToLower(phrase)
			if task != "segment" && phrase != "" && !strings.HasPrefix(key, prompt.NoFindings) && !named[key] {
				named[key] = true
				targets = append(targets, phrase)
			}
		}
		return nil
	}
	if err := ask("recognize", prompt.Recognize(), ""); err != nil {
		return nil, err
	}
	if err := ask("report", prompt.Report(""), ""); err != nil {
		return nil, err
	}
	for _, t := range targets {
		if err := ask("segment", prompt.Segment(t), t); err != nil {
			return nil, err
		}
	}
	return p.result(in, turns...), nil
}
