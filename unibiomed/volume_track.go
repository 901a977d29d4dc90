package unibiomed

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// A targetTrack follows one [SEG] of a target.
type targetTrack struct {
	target int
	*bindings.Track
}

// track asks about the prompted pictures, then follows the targets from the first of them to the end and back to the beginning. Of
// pictures that a journal holds nothing is computed as long as their direction is complete.
func (r *volumeRun) track(ctx context.Context) error {
	if len(r.prompted) == 0 { // nothing shows body
		return nil
	}
	first, _ := slices.BinarySearch(r.picks, r.prompted[0])
	var forth, back []int // positions in picks, in the order of the walk
	for k := first; k < len(r.picks); k++ {
		if !slices.Contains(r.prompted, r.picks[k]) {
			forth = append(forth, k)
		}
	}
	for k := first - 1; k >= 0; k-- {
		back = append(back, k)
	}
	if err := r.checkKnown(); err != nil {
		return err
	}
	complete := func(ks []int) bool {
		return !slices.ContainsFunc(ks, func(k int) bool { _, ok := r.done[r.picks[k]]; return !ok })
	}
	if complete(forth) && complete(back) && !slices.ContainsFunc(r.prompted, func(n int) bool { _, ok := r.done[n]; return !ok }) {
		return nil
	}

	tracks, answers, err := r.promptTracks(ctx)
	defer func() {
		for _, t := range tracks {
			t.Close()
		}
	}()
	if err != nil {
		return err
	}
	for _, n := range r.prompted {
		k, _ := slices.BinarySearch(r.picks, n)
		if err := r.step(ctx, tracks, k, answers); err != nil {
			return fmt.Errorf("slice %d: %w", n, err)
		}
	}
	for _, walk := range [][]int{forth, back} {
		if complete(walk) {
			continue
		}
		for _, t := range tracks {
			t.Rewind()
		}
		for _, k := range walk {
			if err := r.step(ctx, tracks, k, nil); err != nil {
				return fmt.Errorf("slice %d: %w", r.picks[k], err)
			}
		}
	}
	return nil
}

// checkKnown compares the pictures that a journal holds with those of the volume.
func (r *volumeRun) checkKnown() error {
	for _, n := range r.picks {
		if _, ok := r.done[n]; ok {
			img, err := r.viewer.Picture(n)
			if err != nil {
				return err
			}
			if _, err := r.known(n, img); err != nil {
				return err
			}
		}
	}
	return nil
}

// promptTracks asks for each target about the prompted pictures together, as the model sees volumes, and opens a track for
// each [SEG] of the answers. The tracks that it returns are the caller's also when it fails.
func (r *volumeRun) promptTracks(ctx context.Context) (tracks []targetTrack, answers []string, err error) {
	var pictures []*imaging.RGB
	for _, n := range r.prompted {
		img, err := r.viewer.Picture(n)
		if err != nil {
			return nil, nil, err
		}
		pictures = append(pictures, img)
		defer r.forget(ctx, img, slice)
	}
	for i, target := range r.targets {
		a, err := r.askTogether(ctx, pictures, target)
		if err != nil {
			return tracks, nil, err
		}
		r.addTimings(a.turn.Timings)
		answers = append(answers, a.turn.Answer)
		for h := a.hidden; len(h) > 0; h = h[r.info.Embd:] {
			t, err := r.model.NewTrack(h[:r.info.Embd])
			if err != nil {
				return tracks, nil, err
			}
			tracks = append(tracks, targetTrack{i, t})
		}
	}
	return tracks, answers, nil
}

func (r *volumeRun) askTogether(ctx context.Context, pictures []*imaging.RGB, target string) (*answering, error) {
	q := Request{Input: Input{Slices: pictures}, Prompt: prompt.Segment(target), Target: target, MaxNewTokens: r.options.MaxNewTokens}
	if err := r.validate(&q); err != nil {
		return nil, err
	}
	release, err := r.acquire(ctx)
	if err != nil {
		return nil, err
	}
	defer release()
	defer r.images.trim()
	start := time.Now()
	a := &answering{Pipeline: r.Pipeline, Request: q, turn: &Turn{Timings: Timings{}}}
	if err := a.speak(ctx); err != nil {
		return nil, err
	}
	a.turn.Timings.add("total", start)
	return a, nil
}

// step decodes the picture at position k of picks with every track: prompted if there are answers, else from memory.
func (r *volumeRun) step(ctx context.Context, tracks []targetTrack, k int, answers []string) error {
	n := r.picks[k]
	img, err := r.viewer.Picture(n)
	if err != nil {
		return err
	}
	found, bits := make([]VolumeSlice, len(r.targets)), make([]*imaging.Mask, len(r.targets))
	for i := range found {
		if found[i].Tracked = answers == nil; answers != nil {
			found[i].Answer = answers[i]
		}
	}
	if len(tracks) > 0 {
		err := r.decodeTracks(ctx, tracks, k, img, answers != nil, found, bits)
		r.forget(ctx, img, slice)
		if err != nil {
			return err
		}
	}
	return r.keep(n, img, found, bits)
}

// decodeTracks fills found and bits. Tracks count in pictures that are segmented, so that the memory reaches as far when some
// are left out.
func (r *volumeRun) decodeTracks(ctx context.Context, tracks []targetTrack, k int, img *imaging.RGB, prompted bool, found []VolumeSlice, bits []*imaging.Mask) error {
	release, err := r.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	began := time.Now()
	a := &answering{Pipeline: r.Pipeline, turn: &Turn{Timings: Timings{}}, workers: r.Pipeline.options.Threads}
	f, shared, err := a.features(ctx, slice, img)
	if err != nil {
		return err
	}
	if !shared {
		defer f.Close()
	}
	for _, t := range tracks {
		start := time.Now()
		decode := t.Step
		if prompted {
			decode = t.Prompt
		}
		m, err := decode(ctx, k, f, bindings.Call{})
		if err != nil {
			return err
		}
		a.turn.Timings.add("masks", start)
		start = time.Now()
		mask, err := a.upsample(m, 0, img)
		if err != nil {
			return err
		}
		iou, object, selected := a.scores(m, 0)
		bits[t.target] = found[t.target].add(bits[t.target], mask, iou, object, selected)
		a.turn.Timings.add("resize", start)
	}
	a.turn.Timings.add("total", began)
	r.addTimings(a.turn.Timings)
	return nil
}
