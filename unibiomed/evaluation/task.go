package evaluation

import (
	"cmp"
	"context"
	"fmt"
	"image"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// A Task is a kind of question that can be scored.
type Task string

const (
	Segment   Task = "segment"   // draw each target, and nothing for what is absent
	Recognize Task = "recognize" // name and draw the abnormality
	Region    Task = "region"    // name what is in the box of each target
	Modality  Task = "modality"  // name the imaging modality, in words only
	Presence  Task = "presence"  // say whether each target, or what is absent, is there, in words only
)

// Tasks lists all tasks.
func Tasks() []Task { return []Task{Segment, Recognize, Region, Modality, Presence} }

// A TaskError says that a sample can't be used for a task.
type TaskError struct {
	ID   string
	Task Task
	Msg  string
}

func (e *TaskError) Error() string { return fmt.Sprintf("%s: %s: %s", e.ID, e.Task, e.Msg) }

// modalityQuestion is what Modality asks.
const modalityQuestion = prompt.ImagePlaceholder + "\nWhich imaging modality is this?"

// presenceQuestion is what Presence asks.
const presenceQuestion = prompt.ImagePlaceholder + "\nIs there a %s in this image?"

// Asks reports whether a task has a question about the sample.
func (t Task) Asks(s Sample) bool {
	switch t {
	case Segment, Presence:
		return len(s.phrases()) > 0
	case Recognize:
		_, ok := s.finding()
		return ok
	case Region:
		return len(s.Targets) > 0
	case Modality:
		return s.Modality != ""
	}
	return false
}

// finding is what recognition must name and draw: nothing, or the targets with a label. An image of which neither is known is not asked.
func (s Sample) finding() (f struct {
	Label   string
	Targets []Target
}, ok bool) {
	if strings.EqualFold(s.Findings, prompt.NoFindings) {
		f.Label = prompt.NoFindings
		return f, true
	}
	for _, t := range s.Targets {
		if t.Label != "" {
			f.Label, f.Targets = cmp.Or(f.Label, t.Label), append(f.Targets, t)
		}
	}
	return f, len(f.Targets) > 0
}

// truth reads a target's mask in the grid of the image; resized says that the file had another size (spec/evaluation.md 1).
func (t Target) truth(width, height int) (m *imaging.Mask, resized bool, err error) {
	m, err = imaging.DecodeMaskFile(t.Mask, imaging.Options{})
	if err != nil {
		return nil, false, err
	}
	if m.Width == width && m.Height == height {
		return m, false, nil
	}
	return metrics.ResizeTruth(m, width, height), true, nil
}

// Ask puts the questions of a task about a sample to the model. The results come in the order that Score expects: one for
// segment (a turn a target, then a turn an absent phrase), recognize and modality; one a phrase for presence, in the order of segment; one
// a target for region, nil where the target's mask is empty and has no box.
func (t Task) Ask(ctx context.Context, p *unibiomed.Pipeline, s Sample, o unibiomed.Observers) ([]*unibiomed.Result, error) {
	img, err := imaging.DecodeFile(s.Image, imaging.Options{})
	if err != nil {
		return nil, err
	}
	in := unibiomed.Input{Image: img, File: s.ID}
	one := func(res *unibiomed.Result, err error) ([]*unibiomed.Result, error) {
		if err != nil {
			return nil, err
		}
		return []*unibiomed.Result{res}, nil
	}
	switch t {
	case Segment:
		return one(p.Segment(ctx, in, s.phrases(), o))
	case Recognize:
		return one(p.Recognize(ctx, in, o))
	case Modality:
		return one(p.Ask(ctx, unibiomed.Request{Input: in, Prompt: modalityQuestion, Observers: o}))
	case Presence:
		var results []*unibiomed.Result
		for _, phrase := range s.phrases() {
			name, _, _ := strings.Cut(phrase, " in ")
			res, err := p.Ask(ctx, unibiomed.Request{Input: in, Prompt: fmt.Sprintf(presenceQuestion, name), Observers: o})
			if err != nil {
				return nil, err
			}
			results = append(results, res)
		}
		return results, nil
	case Region:
		results := make([]*unibiomed.Result, len(s.Targets))
		for i, target := range s.Targets {
			m, _, err := target.truth(img.Width, img.Height)
			if err != nil {
				return nil, err
			}
			if m.Bounds() == (image.Rectangle{}) {
				continue
			}
			if results[i], err = p.Region(ctx, in, unibiomed.Place{Mask: m}, false, o); err != nil {
				return nil, err
			}
		}
		return results, nil
	}
	return nil, &TaskError{s.ID, t, "is no task"}
}

func (s Sample) phrases() []string {
	var out []string
	for _, t := range s.Targets {
		out = append(out, t.Phrase)
	}
	out = append(out, s.Absent...)
	if s.Foreign != "" {
		out = append(out, s.Foreign)
	}
	return out
}

// absent says of what kind phrase i of s.phrases() is.
func (s Sample) absent(i int) (absent, foreign bool) {
	return i >= len(s.Targets), i >= len(s.Targets)+len(s.Absent)
}

// An Item is what was measured of one question.
type Item struct {
	Phrase  string `json:"phrase"`            // asked for, or what the answer must say
	Absent  bool   `json:"absent,omitempty"`  // the image does not show it
	Foreign bool   `json:"foreign,omitempty"` // absent, and of another modality
	Order   int    `json:"order"`             // Target.Order
	Answer  string `json:"answer"`            // as generated
	Segs    int    `json:"segs"`              // findings of the answer

	// Of segment: pixels of the first mask (none without one), of the truth, and of both.
	Pixels  *Pixels `json:"pixels,omitempty"`
	Resized bool    `json:"resized,omitempty"` // the truth was brought to the image's size

	// Of segment: earlier targets of the image whose truths overlap with this one's by a Dice of less than one half, and how many of
	// those got another mask than this one (a Dice below 0.9 between the answers), or none while this one is empty too: whether answers
	// follow the question.
	Others    int `json:"others,omitempty"`
	Followed  int `json:"followed,omitempty"`
	BothEmpty int `json:"both_empty,omitempty"`

	// Of segment: pixels of the baselines. Not in journals.
	Baselines map[string]*Pixels `json:"-"`

	// Of recognize: the number of true masks and the scores of the matched ones.
	Expected int     `json:"expected,omitempty"`
	Official float64 `json:"official,omitempty"`
	Strict   float64 `json:"strict,omitempty"`
}

// Pixels counts those of a prediction, of the truth, and those inside both.
type Pixels struct {
	Pred  int `json:"pred"`
	Truth int `json:"truth"`
	Both  int `json:"both"`
}

// Score compares the results of Ask with the truth. Masks are taken from Finding.Bits.
func (t Task) Score(s Sample, results []*unibiomed.Result) ([]Item, error) {
	want := 1
	switch t {
	case Region:
		want = len(s.Targets)
	case Presence:
		want = len(s.phrases())
	}
	if len(results) != want {
		return nil, &TaskError{s.ID, t, fmt.Sprintf("%d results, want %d", len(results), want)}
	}
	switch t {
	case Segment:
		return scoreSegment(s, results[0])
	case Recognize:
		return scoreRecognize(s, results[0])
	case Modality:
		return []Item{{Phrase: s.Modality, Answer: results[0].Raw}}, nil
	case Presence:
		var items []Item
		for i, phrase := range s.phrases() {
			item := Item{Phrase: phrase, Answer: results[i].Raw}
			item.Absent, item.Foreign = s.absent(i)
			items = append(items, item)
		}
		return items, nil
	case Region:
		items := []Item{}
		for i, target := range s.Targets {
			if results[i] != nil {
				items = append(items, Item{Phrase: target.Phrase, Order: target.Order, Answer: results[i].Raw})
			}
		}
		return items, nil
	}
	return nil, &TaskError{s.ID, t, "is no task"}
}

// turns are those of a result, whether it has one or several.
func turns(r *unibiomed.Result) []unibiomed.Turn {
	if len(r.Turns) > 0 {
		return r.Turns
	}
	return []unibiomed.Turn{r.Turn}
}

func scoreSegment(s Sample, res *unibiomed.Result) ([]Item, error) {
	phrases, answers := s.phrases(), turns(res)
	if len(answers) != len(phrases) {
		return nil, &TaskError{s.ID, Segment, fmt.Sprintf("%d answers to %d targets", len(answers), len(phrases))}
	}
	if res.Image == nil {
		return nil, &TaskError{s.ID, Segment, "the result has no image"}
	}
	items := make([]Item, len(phrases))
	var preds, truths []*imaging.Mask // of the targets so far
	for i, turn := range answers {
		item := Item{Phrase: phrases[i], Answer: turn.Raw, Segs: len(turn.Findings)}
		item.Absent, item.Foreign = s.absent(i)
		pred := imaging.NewMask(res.Image.Width, res.Image.Height)
		if len(turn.Findings) > 0 && turn.Findings[0].Bits != nil {
			pred = turn.Findings[0].Bits // the official script takes the first too
		}
		truth := imaging.NewMask(res.Image.Width, res.Image.Height)
		if !item.Absent {
			item.Order = s.Targets[i].Order
			var err error
			if truth, item.Resized, err = s.Targets[i].truth(res.Image.Width, res.Image.Height); err != nil {
				return nil, err
			}
		}
		o, err := metrics.Count(pred, truth)
		if err != nil {
			return nil, &TaskError{s.ID, Segment, err.Error()}
		}
		item.Pixels = &Pixels{o.Pred, o.Truth, o.Both}
		if !item.Absent {
			for k := range preds {
				a, err := metrics.Count(truths[k], truth)
				if err != nil {
					return nil, &TaskError{s.ID, Segment, err.Error()}
				}
				if diceOrOne(a) >= 0.5 {
					continue
				}
				item.Others++
				b, err := metrics.Count(preds[k], pred)
				switch {
				case err != nil:
					return nil, &TaskError{s.ID, Segment, err.Error()}
				case b.Pred+b.Truth == 0:
					item.BothEmpty++
				case b.Dice() < 0.9:
					item.Followed++
				}
			}
			preds, truths = append(preds, pred), append(truths, truth)
		}
		items[i] = item
	}
	return items, nil
}

func scoreRecognize(s Sample, res *unibiomed.Result) ([]Item, error) {
	f, ok := s.finding()
	if !ok || res.Image == nil {
		return nil, &TaskError{s.ID, Recognize, "the image has no known finding"}
	}
	var pred, truth []*imaging.Mask
	for _, finding := range res.Findings {
		if finding.Bits != nil {
			pred = append(pred, finding.Bits)
		}
	}
	for _, t := range f.Targets {
		m, _, err := t.truth(res.Image.Width, res.Image.Height)
		if err != nil {
			return nil, err
		}
		truth = append(truth, m)
	}
	if len(truth) == 0 { // a healthy image asks for one mask without a pixel
		truth = []*imaging.Mask{imaging.NewMask(res.Image.Width, res.Image.Height)}
	}
	matched, err := metrics.Match(pred, truth)
	if err != nil {
		return nil, &TaskError{s.ID, Recognize, err.Error()}
	}
	item := Item{Phrase: f.Label, Answer: res.Raw, Segs: len(pred), Expected: len(truth), Official: matched.Official, Strict: matched.Strict}
	return []Item{item}, nil
}
