package resample

import (
	"fmt"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// Mask resizes mask logits twice, as the reference does, and returns where they are above 0: [side,side] bilinear to
// [mid,mid], the size of the segmentation image, then bilinear to [height,width]. One resize from side to the image
// would give another mask.
//
// Both filters are PyTorch's: half-pixel centres, no antialias, f32. Beside the mask, memory is side*mid floats and
// a few rows for each worker. workers is the number of goroutines; it defaults to GOMAXPROCS.
func Mask(logits []float32, side, mid, width, height, workers int) (*imaging.Mask, error) {
	r, err := newMaskResizer(logits, side, mid, width, height)
	if err != nil {
		return nil, err
	}
	out := imaging.NewMask(width, height)
	parallel(height, workers, func(from, to int) {
		rows := r.rows()
		for y := from; y < to; y++ {
			dst := out.Pix[y*width : (y+1)*width]
			for x, v := range rows.at(y) {
				if v > 0 {
					dst[x] = 1
				}
			}
		}
	})
	return out, nil
}

// MaskRows gives the resized logits row by row from the top: the values that Mask compares with 0. values holds width
// floats and is valid until row returns.
func MaskRows(logits []float32, side, mid, width, height int, row func(y int, values []float32)) error {
	r, err := newMaskResizer(logits, side, mid, width, height)
	if err != nil {
		return err
	}
	rows := r.rows()
	for y := range height {
		row(y, rows.at(y))
	}
	return nil
}

// A lerp is one axis of a bilinear filter: output i is w0*input[i0] + w1*input[i1].
type lerp struct {
	i0, i1 []int32
	w0, w1 []float32
}

func newLerp(in, out int) *lerp {
	l := &lerp{make([]int32, out), make([]int32, out), make([]float32, out), make([]float32, out)}
	scale := float32(in) / float32(out)
	for i := range out {
		at := max(0, float32(scale*(float32(i)+0.5))-0.5) // the conversion prevents a fused operation
		i0 := min(int(at), in-1)
		w1 := max(0, min(at-float32(i0), 1))
		l.i0[i], l.i1[i] = int32(i0), int32(min(i0+1, in-1))
		l.w0[i], l.w1[i] = 1-w1, w1
	}
	return l
}

// across filters one row to another width.
func (l *lerp) across(dst, src []float32) {
	for x := range dst {
		dst[x] = mix(l.w0[x], src[l.i0[x]], l.w1[x], src[l.i1[x]])
	}
}

// between mixes two rows.
func between(dst, a, b []float32, wa, wb float32) {
	for i := range dst {
		dst[i] = mix(wa, a[i], wb, b[i])
	}
}

// mix is wa*a + wb*b. The conversions keep compilers from fusing the operations, so that masks are the same on every
// processor.
func mix(wa, a, wb, b float32) float32 { return float32(wa*a) + float32(wb*b) }

// A maskResizer holds what the rows of one mask share.
type maskResizer struct {
	mid, width int
	wide       []float32 // [side,mid]: the logits after the first horizontal pass
	toMid      *lerp     // side -> mid, serves both axes
	toWidth    *lerp     // mid -> width
	toHeight   *lerp     // mid -> height
}

func newMaskResizer(logits []float32, side, mid, width, height int) (*maskResizer, error) {
	for _, n := range []int{side, mid, width, height} {
		if n < 1 || n > maxSide {
			return nil, fmt.Errorf("resample: mask sizes %d, %d, %dx%d, want 1 to %d", side, mid, width, height, maxSide)
		}
	}
	if len(logits) != side*side {
		return nil, fmt.Errorf("resample: got %d logits, want %d*%d", len(logits), side, side)
	}
	r := &maskResizer{mid: mid, width: width, wide: make([]float32, side*mid),
		toMid: newLerp(side, mid), toWidth: newLerp(mid, width), toHeight: newLerp(mid, height)}
	for y := range side {
		r.toMid.across(r.wide[y*mid:(y+1)*mid], logits[y*side:(y+1)*side])
	}
	return r, nil
}

// maskRows computes output rows in ascending order, keeping the two middle rows that the last one was made of.
type maskRows struct {
	*maskResizer
	square []float32    // a row of the [mid,mid] logits
	kept   [2][]float32 // rows of [mid,width]: the row keptAt[i], or none where that is negative
	keptAt [2]int32
	out    []float32
}

func (r *maskResizer) rows() *maskRows {
	return &maskRows{maskResizer: r, square: make([]float32, r.mid), kept: [2][]float32{make([]float32, r.width), make([]float32, r.width)},
		keptAt: [2]int32{-1, -1}, out: make([]float32, r.width)}
}

// at returns row y of the resized logits, valid until the next call.
func (r *maskRows) at(y int) []float32 {
	i0, i1 := r.toHeight.i0[y], r.toHeight.i1[y]
	a := r.middle(i0, i1)
	b := r.middle(i1, i0)
	between(r.out, a, b, r.toHeight.w0[y], r.toHeight.w1[y])
	return r.out
}

// middle returns row i of the [mid,mid] logits at full width, and does not evict row keep.
func (r *maskRows) middle(i, keep int32) []float32 {
	slot := 0
	switch {
	case r.keptAt[0] == i:
		return r.kept[0]
	case r.keptAt[1] == i:
		return r.kept[1]
	case r.keptAt[0] == keep:
		slot = 1
	}
	row := func(k int32) []float32 { return r.wide[int(k)*r.mid : int(k+1)*r.mid] }
	between(r.square, row(r.toMid.i0[i]), row(r.toMid.i1[i]), r.toMid.w0[i], r.toMid.w1[i])
	r.toWidth.across(r.kept[slot], r.square)
	r.keptAt[slot] = i
	return r.kept[slot]
}
