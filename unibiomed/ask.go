package unibiomed

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

// An Input is what is asked about: a picture, the slices of one volume, or nothing.
type Input struct {
	// Image is a picture, RGB as decoded.
	Image *imaging.RGB
	// Slices are the slices of one volume in order, all of one size. The language model sees the first few
	// (Info.PromptedSlices), SAM 2 all: it prompts those and tracks the rest by memory (spec/model.md 10).
	Slices []*imaging.RGB
	// File and Files name them in the result.
	File  string
	Files []string
}

// A Request is one instruction.
type Request struct {
	Input
	// Prompt is used verbatim. <image> is put in front when an image is given, it is missing, and there is no past text.
	Prompt string
	// PastText holds earlier turns verbatim, as Turn.Past gives it. The image must be given again.
	PastText string
	// MaskPrompts are <vp> regions in the image's grid. UniBiomed was not trained on them: prefer Region's box.
	MaskPrompts []*imaging.Mask
	// MaxNewTokens bounds the answer. It defaults to DefaultMaxNewTokens.
	MaxNewTokens int
	// Target is the phrase of a [SEG] that the answer does not name itself.
	Target string
	Observers
}

// Observers hear how a call goes on. All may be nil. They are called from the calling goroutine's call only, one at a time.
type Observers struct {
	// Progress hears the share of a stage that is done, 0 to 1.
	Progress func(stage string, done float64)
	// Token hears each generated token's bytes as text, as they come; cut characters come whole with a later token.
	Token func(text string)
	// Trace collects every stage's tensors. With it nothing is taken from caches.
	Trace *Trace
}

// An InputError is an input that can't be asked about.
type InputError struct {
	Field string // "image", "slices", "mask prompt 2", "box", "max new tokens", ...
	Msg   string
}

func (e *InputError) Error() string { return e.Field + ": " + e.Msg }

// A ContextError says that a prompt does not fit into the conversation's positions.
type ContextError struct{ Need, Capacity int }

func (e *ContextError) Error() string {
	return fmt.Sprintf("the prompt takes %d positions and an answer at least one, the context holds %d", e.Need, e.Capacity)
}

// Ask runs one instruction. Canceling ctx stops within one block of the running stage, or between tokens.
// Errors: InputError, prompt.Error, ContextError, bindings.Error, ErrClosed.
func (p *Pipeline) Ask(ctx context.Context, r Request) (*Result, error) {
	turn, err := p.turn(ctx, "ask", r)
	if err != nil {
		return nil, err
	}
	return p.result(r.Input, turn), nil
}

// result makes the document of turns about one input.
func (p *Pipeline) result(in Input, turns ...*Turn) *Result {
	res := &Result{
		Schema: Schema,
		Model:  ModelRef{Name: p.manifest.Name, SHA256: p.manifest.Source.SHA256, Quantization: p.manifest.Quantization},
		Notice: Notice,
	}
	switch {
	case in.Image != nil:
		res.Image = &ImageRef{File: in.File, Width: in.Image.Width, Height: in.Image.Height, Tiles: p.tileCount(in.Image)}
	case len(in.Slices) > 0:
		res.Image = &ImageRef{Files: in.Files, Width: in.Slices[0].Width, Height: in.Slices[0].Height, Tiles: min(len(in.Slices), p.info.PromptedSlices)}
	}
	if len(turns) == 1 {
		res.Turn = *turns[0]
		return res
	}
	res.Findings, res.Timings = []Finding{}, Timings{}
	for _, t := range turns {
		res.Turns = append(res.Turns, *t)
		res.Findings = append(res.Findings, t.Findings...)
		for stage, ms := range t.Timings {
			res.Timings[stage] += ms
		}
	}
	return res
}

// turn runs one instruction with the device to itself.
func (p *Pipeline) turn(ctx context.Context, task string, r Request) (*Turn, error) {
	turns, err := p.together(ctx, task, []Request{r})
	if err != nil {
		return nil, err
	}
	return turns[0], nil
}

// together runs instructions about one input with the device to itself. Each is answered in words first, then the masks of all are
// drawn in one go. The first turn that has a mask carries the time of the image's features.
func (p *Pipeline) together(ctx context.Context, task string, requests []Request) ([]*Turn, error) {
	for i := range requests {
		if err := p.validate(&requests[i]); err != nil {
			return nil, err
		}
	}
	release, err := p.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	defer p.images.trim()

	all, turns := make([]*answering, len(requests)), make([]*Turn, len(requests))
	for i, r := range requests {
		start := time.Now()
		turns[i] = &Turn{Task: task, Prompt: r.Prompt, Findings: []Finding{}, Timings: Timings{}}
		all[i] = &answering{Pipeline: p, Request: r, turn: turns[i]}
		if err := all[i].speak(ctx); err != nil {
			return nil, err
		}
		turns[i].Timings.add("total", start)
		turns[i].Timings["total"] -= turns[i].Timings.stages()
	}
	if err := ground(ctx, all); err != nil {
		return nil, err
	}
	for _, t := range turns {
		t.Timings["total"] += t.Timings.stages()
	}
	return turns, nil
}

func (p *Pipeline) validate(r *Request) error {
	if r.Image != nil && len(r.Slices) > 0 {
		return &InputError{"slices", "are given beside an image: give one of the two"}
	}
	for i, s := range append(slices.Clone(r.Slices), r.Image) {
		if s == nil {
			if i < len(r.Slices) {
				return &InputError{fmt.Sprintf("slice %d", i), "is nil"}
			}
			continue
		}
		if s.Width < 1 || s.Height < 1 || len(s.Pix) != 3*s.Width*s.Height {
			return &InputError{"image", fmt.Sprintf("is %d x %d with %d bytes, want %d", s.Width, s.Height, len(s.Pix), 3*s.Width*s.Height)}
		}
		if i < len(r.Slices) && (s.Width != r.Slices[0].Width || s.Height != r.Slices[0].Height) {
			return &InputError{fmt.Sprintf("slice %d", i), fmt.Sprintf("is %d x %d, slice 0 is %d x %d", s.Width, s.Height, r.Slices[0].Width, r.Slices[0].Height)}
		}
	}
	if len(r.MaskPrompts) > 0 && r.Image == nil {
		return &InputError{"mask prompt 0", "needs an image"}
	}
	for i, m := range r.MaskPrompts {
		if m == nil || m.Width != r.Image.Width || m.Height != r.Image.Height {
			w, h := 0, 0
			if m != nil {
				w, h = m.Width, m.Height
			}
			return &InputError{fmt.Sprintf("mask prompt %d", i), fmt.Sprintf("is %d x %d, the image is %d x %d", w, h, r.Image.Width, r.Image.Height)}
		}
	}
	if r.MaxNewTokens < 0 {
		return &InputError{"max new tokens", fmt.Sprintf("is %d, want at least 1", r.MaxNewTokens)}
	}
	if r.MaxNewTokens == 0 {
		r.MaxNewTokens = DefaultMaxNewTokens
	}
	return nil
}

// tileSpec is what tiling needs of the model.
func (p *Pipeline) tileSpec() tiles.Spec {
	return tiles.Spec{
		Size: p.info.TileSize, Min: p.info.TileMin, Max: p.info.TileMax,
		Thumbnail: p.info.Thumbnail, Mean: p.info.TileMean, Std: p.info.TileStd,
	}
}

func (p *Pipeline) tileCount(img *imaging.RGB) int {
	s := p.tileSpec()
	return tiles.Choose(img.Width, img.Height, s.Size, s.Min, s.Max).Count(s.Thumbnail)
}

// answering is one turn at work.
type answering struct {
	*Pipeline
	Request
	turn *Turn

	cells   [][]bool  // of each mask prompt, over the last tile's tokens
	hidden  []float32 // [n, Embd], the states at [SEG]
	visual  [32]byte  // what the embeddings were made of
	workers int
}

// speak makes the answer's text, and the hidden states that its masks are drawn from.
func (a *answering) speak(ctx context.Context) error {
	a.workers = a.options.Threads
	text, err := a.assemble()
	if err != nil {
		return err
	}
	ids, err := a.tokenizer.Encode(text)
	if err != nil {
		return err
	}
	if a.Image != nil || len(a.Slices) > 0 {
		for i, id := range ids {
			if id == a.ids.context {
				ids[i] = bindings.Embedding
			}
		}
	}
	if a.session == nil {
		native, err := a.model.NewSession(ctx, 0)
		if err != nil {
			return err
		}
		a.Pipeline.session = &session{native: native}
	}
	if need, capacity := len(ids), a.session.native.Capacity(); need+1 > capacity {
		return &ContextError{Need: need, Capacity: capacity}
	}
	embeddings, err := a.embeddings(ctx)
	if err != nil {
		return err
	}
	if err := a.generate(ctx, ids, embeddings); err != nil {
		return err
	}
	a.turn.Past = prompt.Past(text, a.turn.Raw)
	return nil
}

// assemble writes the prompt's text; the number of embeddings is known from sizes alone, so that a prompt that can't be
// answered fails before anything is computed.
func (a *answering) assemble() (string, error) {
	switch {
	case a.Image != nil:
		side := int(math.Sqrt(float64(a.info.TileTokens)))
		v := &prompt.Visual{Groups: []int{a.info.TileTokens * a.tileCount(a.Image)}}
		for _, m := range a.MaskPrompts {
			cells := resample.Cells(m, side)
			a.cells = append(a.cells, cells)
			v.Regions = append(v.Regions, count(cells))
		}
		return prompt.Assemble(a.Prompt, a.PastText, v)
	case len(a.Slices) > 0:
		v := &prompt.Visual{}
		for range min(len(a.Slices), a.info.PromptedSlices) {
			v.Groups = append(v.Groups, a.info.TileTokens)
		}
		return prompt.Assemble(a.Prompt, a.PastText, v)
	default:
		return prompt.Assemble(a.Prompt, a.PastText, nil)
	}
}

func count(cells []bool) int {
	n := 0
	for _, c := range cells {
		if c {
			n++
		}
	}
	return n
}

// embeddings returns the rows that take the place of <IMG_CONTEXT>, [n, Embd].
func (a *answering) embeddings(ctx context.Context) ([]float32, error) {
	h := sha256.New()
	var rows []float32
	switch {
	case a.Image != nil:
		seen, err := a.encode(ctx, picture, a.Image)
		if err != nil {
			return nil, err
		}
		h.Write(seen.key[:])
		rows = seen.embeddings
		if len(a.cells) > 0 {
			rows = slices.Clone(rows)
			last := seen.embeddings[len(seen.embeddings)-a.info.TileTokens*a.info.Embd:]
			for _, cells := range a.cells {
				binary.Write(h, binary.LittleEndian, cells)
				for i, inside := range cells {
					if inside {
						rows = append(rows, last[i*a.info.Embd:(i+1)*a.info.Embd]...)
					}
				}
			}
		}
	case len(a.Slices) > 0:
		prompted := a.Slices[:min(len(a.Slices), a.info.PromptedSlices)]
		for _, s := range prompted {
			seen, err := a.encode(ctx, slice, s)
			if err != nil {
				return nil, err
			}
			h.Write(seen.key[:])
			rows = append(rows, seen.embeddings...)
		}
	}
	h.Sum(a.visual[:0])
	return rows, nil
}

// encode runs the vision tower over a picture's tiles, or over a whole slice, unless it was seen before.
func (a *answering) encode(ctx context.Context, r route, img *imaging.RGB) (*seenImage, error) {
	seen := a.images.get(keyOf(img, r))
	if seen.embeddings != nil && a.Trace == nil {
		return seen, nil
	}
	start := time.Now()
	var data []float32
	var err error
	n, s := 1, a.tileSpec()
	if r == picture {
		var t tiles.Tiles
		if t, err = tiles.Split(img, s, a.workers); err == nil {
			n, data = t.N, t.Data
		}
	} else {
		data, err = tiles.Whole(img, s, a.workers)
	}
	if err != nil {
		return nil, err
	}
	a.Trace.addRows("vit_input", data, n, 3, s.Size, s.Size)
	a.turn.Timings.add("prepare", start)

	start = time.Now()
	out, err := a.model.EncodeTiles(ctx, data, n, a.call("vision"))
	if err != nil {
		return nil, err
	}
	a.turn.Timings.add("vision", start)
	if seen.embeddings == nil {
		a.images.grew(seen, 4*int64(len(out)))
	}
	seen.tiles, seen.embeddings = n, out
	return seen, nil
}

// call hands progress and trace of a native stage to the observers.
func (a *answering) call(stage string) bindings.Call {
	var c bindings.Call
	if a.Progress != nil {
		c.Progress = func(done float32) { a.Progress(stage, float64(done)) }
	}
	if a.Trace != nil {
		c.Trace = func(name string, data []float32, shape []int) {
			// Tiles and slices come batch by batch and stack up.
			if stage == "vision" || (name == "sparse_tokens" && len(a.Slices) > 0) {
				a.Trace.addRows(name, data, shape...)
			} else {
				a.Trace.Add(name, data, shape...)
			}
		}
	}
	return c
}
