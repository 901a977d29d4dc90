package bindings

import (
	"context"
	"math"
	"runtime"
	"sync"
	"unsafe"
)

// Features are SAM 2's image features of one image. They never change, and any number of decodes may use them at once.
type Features struct {
	lifetime
}

// Masks are the results of the mask decoder for N prompts. L is Info.MaskSize, M is Info.Masks, D is Info.MaskEmbd.
type Masks struct {
	N           int
	Logits      []float32 // [N, L, L], of the selected mask; above 0 is inside
	IoU         []float32 // [N, M], predicted, one for each mask of a prompt
	ObjectScore []float32 // [N], raw logit: above 0 the object is there
	Selected    []int32   // [N], index among M
	Embedding   []float32 // [N, D], the projected [SEG]; nil for tracked slices
}

// EncodeImage computes the features of an image [3, MaskImageSize, MaskImageSize] of normalised RGB.
func (m *Model) EncodeImage(ctx context.Context, image []float32, c Call) (*Features, error) {
	const op = "encode image"
	if err := m.grounded(op); err != nil {
		return nil, err
	}
	if err := length(op, "image", len(image), 3, m.info.MaskImageSize, m.info.MaskImageSize); err != nil {
		return nil, err
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	var out handle
	err = do(ctx, op, c, func(call *cCall, e *cError) int32 { return ubFeaturesEncode(h, &image[0], &out, call, e) })
	if err != nil {
		return nil, err
	}
	return newFeatures(out), nil
}

// FeaturesFrom makes features from given tensors, for tests that start at a later stage:
// f0 [D/8, L, L], f1 [D/4, L/2, L/2] and f2 [D, FeatureSize, FeatureSize].
func (m *Model) FeaturesFrom(f0, f1, f2 []float32) (*Features, error) {
	const op = "features from tensors"
	if err := m.grounded(op); err != nil {
		return nil, err
	}
	d, l, s := m.info.MaskEmbd, m.info.MaskSize, m.info.FeatureSize
	if err := length(op, "f0", len(f0), d/8, l, l); err != nil {
		return nil, err
	}
	if err := length(op, "f1", len(f1), d/4, l/2, l/2); err != nil {
		return nil, err
	}
	if err := length(op, "f2", len(f2), d, s, s); err != nil {
		return nil, err
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	var out handle
	var e cError
	if rc := ubFeaturesFrom(h, &f0[0], &f1[0], &f2[0], &out, &e); rc != ok {
		return nil, e.err(op, rc)
	}
	return newFeatures(out), nil
}

func newFeatures(h handle) *Features {
	f := &Features{}
	start(f, &f.lifetime, "image features", h, ubFeaturesFree)
	return f
}

// Close frees the features once the calls in progress have ended. It returns nil, and is safe on nil and to repeat.
func (f *Features) Close() error {
	if f != nil {
		f.close()
	}
	return nil
}

// DecodeMasks decodes n prompts over one image. Hidden [n, Embd] are the language model's states at the [SEG] tokens.
func (m *Model) DecodeMasks(ctx context.Context, f *Features, hidden []float32, n int, c Call) (*Masks, error) {
	const op = "decode masks"
	if err := m.grounded(op); err != nil {
		return nil, err
	}
	if f == nil {
		return nil, invalid(op, "got no features")
	}
	if n < 1 || n > math.MaxInt32 {
		return nil, invalid(op, "got %d prompts, want 1 or more", n)
	}
	if err := length(op, "hidden", len(hidden), n, m.info.Embd); err != nil {
		return nil, err
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	features, err := f.enter(op)
	if err != nil {
		return nil, err
	}
	defer f.leave()
	return masks(ctx, op, m.info, n, true, c, func(out *cMasks, call *cCall, e *cError) int32 {
		return ubMasksDecode(h, features, &hidden[0], int32(n), out, call, e)
	})
}

// masks allocates the results of n prompts and lets decode fill them.
func masks(ctx context.Context, op string, i Info, n int, embedding bool, c Call, decode func(*cMasks, *cCall, *cError) int32) (*Masks, error) {
	m := &Masks{
		N:           n,
		Logits:      make([]float32, n*i.MaskSize*i.MaskSize),
		IoU:         make([]float32, n*i.Masks),
		ObjectScore: make([]float32, n),
		Selected:    make([]int32, n),
	}
	if embedding {
		m.Embedding = make([]float32, n*i.MaskEmbd)
	}
	out := &cMasks{size: uint32(unsafe.Sizeof(cMasks{}))}
	out.logits, out.iou, out.objectScore = first(m.Logits), first(m.IoU), first(m.ObjectScore)
	out.selected, out.embedding = first(m.Selected), first(m.Embedding)

	// The struct is Go memory with Go pointers in it, which C may see only while they are pinned.
	var pin runtime.Pinner
	defer pin.Unpin()
	for _, p := range []*float32{out.logits, out.iou, out.objectScore, out.embedding} {
		if p != nil {
			pin.Pin(p)
		}
	}
	pin.Pin(out.selected)

	if err := do(ctx, op, c, func(call *cCall, e *cError) int32 { return decode(out, call, e) }); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Model) grounded(op string) error {
	if m.info.MaskSize == 0 {
		return invalid(op, "the model was opened without its grounding file")
	}
	return nil
}

// A Track follows one [SEG] through the slices of a volume by SAM 2's memory. Its calls queue for it.
type Track struct {
	lifetime
	turn sync.Mutex // the library serves one call at a time
	info Info
}

// NewTrack makes a track for a [SEG] with the language model's state hidden [Embd].
func (m *Model) NewTrack(hidden []float32) (*Track, error) {
	const op = "new track"
	if err := m.grounded(op); err != nil {
		return nil, err
	}
	if err := length(op, "hidden", len(hidden), m.info.Embd); err != nil {
		return nil, err
	}
	if len(hidden) == 0 {
		return nil, invalid(op, "the model was opened without its language file")
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	var out handle
	var e cError
	if rc := ubTrackOpen(h, &hidden[0], &out, &e); rc != ok {
		return nil, e.err(op, rc)
	}
	t := &Track{info: m.info}
	start(t, &t.lifetime, "track", out, ubTrackClose)
	return t, nil
}

// Close frees the track once the calls in progress have ended. It returns nil, and is safe on nil and to repeat.
func (t *Track) Close() error {
	if t != nil {
		t.close()
	}
	return nil
}

// Prompt decodes a slice with the track's [SEG], as DecodeMasks does, and memorises it. Slice is its index in the volume.
func (t *Track) Prompt(ctx context.Context, slice int, f *Features, c Call) (*Masks, error) {
	return t.decode(ctx, "prompt slice", slice, f, true, c, ubTrackPrompt)
}

// Step decodes a slice from memory, without a prompt, and memorises it.
func (t *Track) Step(ctx context.Context, slice int, f *Features, c Call) (*Masks, error) {
	return t.decode(ctx, "track slice", slice, f, false, c, ubTrackStep)
}

func (t *Track) decode(ctx context.Context, op string, slice int, f *Features, prompted bool, c Call,
	call func(handle, int32, handle, *cMasks, *cCall, *cError) int32) (*Masks, error) {
	if slice < 0 || slice > math.MaxInt32 {
		return nil, invalid(op, "slice is %d, want 0 or more", slice)
	}
	if f == nil {
		return nil, invalid(op, "got no features")
	}
	h, err := t.enter(op)
	if err != nil {
		return nil, err
	}
	defer t.leave()
	features, err := f.enter(op)
	if err != nil {
		return nil, err
	}
	defer f.leave()
	t.turn.Lock()
	defer t.turn.Unlock()
	return masks(ctx, op, t.info, 1, prompted, c, func(out *cMasks, cc *cCall, e *cError) int32 {
		return call(h, int32(slice), features, out, cc, e)
	})
}

// Rewind forgets tracked slices and keeps prompted ones, to start again in the other direction.
func (t *Track) Rewind() {
	h, err := t.enter("rewind")
	if err != nil {
		return
	}
	defer t.leave()
	t.turn.Lock()
	defer t.turn.Unlock()
	ubTrackRewind(h)
}
