// Package resample resizes images and masks with the exact arithmetic of the reference: Pillow 10.2's bicubic filter on
// 8-bit RGB, PyTorch's bilinear filter on mask logits, and nearest neighbours for mask prompts.
//
// All functions only read their inputs and are safe for concurrent use.
package resample

import (
	"fmt"
	"math"
	"runtime"

	"golang.org/x/sync/errgroup"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// maxSide bounds the sides of what is allocated, so that a product of two sides never overflows.
const maxSide = 1 << 20

// precision is the number of fraction bits of a filter weight.
const precision = 22

// Cubic resizes src to width x height as Image.resize of Pillow 10.2 does without a filter argument: bicubic with
// a = -0.5, widened when it shrinks, horizontal pass first, rounded to 8 bits between the passes. The result is equal
// bit by bit. An unchanged size gives a copy.
//
// workers is the number of goroutines; it defaults to GOMAXPROCS. The result does not depend on it.
func Cubic(src *imaging.RGB, width, height, workers int) (*imaging.RGB, error) {
	if src.Width < 1 || src.Height < 1 || src.Width > maxSide || src.Height > maxSide || len(src.Pix) != 3*src.Width*src.Height {
		return nil, fmt.Errorf("resample: source of %dx%d with %d values, want 1 to %d on each side and three values a pixel",
			src.Width, src.Height, len(src.Pix), maxSide)
	}
	if width < 1 || height < 1 || width > maxSide || height > maxSide {
		return nil, fmt.Errorf("resample: target size %dx%d, want 1 to %d on each side", width, height, maxSide)
	}
	if width == src.Width && height == src.Height {
		return src.Clone(), nil
	}
	if width != src.Width {
		out := imaging.NewRGB(width, src.Height)
		f := newFilter(src.Width, width)
		parallel(src.Height, workers, func(from, to int) {
			for y := from; y < to; y++ {
				f.acrossRow(out.Row(y), src.Row(y))
			}
		})
		src = out
	}
	if height != src.Height {
		out := imaging.NewRGB(width, height)
		f := newFilter(src.Height, height)
		parallel(height, workers, func(from, to int) {
			sums := make([]int32, 3*width)
			for y := from; y < to; y++ {
				f.downColumns(out.Row(y), src, y, sums)
			}
		})
		src = out
	}
	return src, nil
}

// A filter holds, for each output index of one axis, a window of input indices and their weights.
type filter struct {
	first   []int   // first input index of each window
	begin   []int   // where its weights begin; one more entry than outputs
	weights []int32 // fixed point with precision fraction bits
}

func newFilter(in, out int) *filter {
	scale := float64(in) / float64(out)
	stretch := max(scale, 1)
	support := 2 * stretch
	f := &filter{first: make([]int, out), begin: make([]int, out+1)}
	var window []float64
	for x := range out {
		centre := float64((float64(x) + 0.5) * scale)
		first := max(0, int(centre-support+0.5))
		last := min(in, int(centre+support+0.5))
		window = window[:0]
		sum := 0.0
		for i := first; i < last; i++ {
			w := keys((float64(i) - centre + 0.5) / stretch)
			window = append(window, w)
			sum += w
		}
		for _, w := range window {
			if sum != 0 {
				w /= sum
			}
			f.weights = append(f.weights, int32(math.Round(w*(1<<precision)))) // halves away from zero
		}
		f.first[x], f.begin[x+1] = first, len(f.weights)
	}
	return f
}

// keys is the cubic convolution kernel of Keys (1981) with a = -0.5, zero from 2 on. The conversions keep compilers
// from fusing operations, so that weights are the same on every processor.
func keys(x float64) float64 {
	const a = -0.5
	x = math.Abs(x)
	switch {
	case x < 1:
		return float64(float64(float64((a+2)*x)-(a+3))*x*x) + 1
	case x < 2:
		return (float64(float64(float64((x-5)*x)+8)*x) - 4) * a
	}
	return 0
}

// acrossRow filters one row of pixels to another width.
func (f *filter) acrossRow(dst, src []uint8) {
	for x, first := range f.first {
		weights := f.weights[f.begin[x]:f.begin[x+1]]
		p := src[3*first : 3*(first+len(weights))]
		const half = 1 << (precision - 1)
		r, g, b := int32(half), int32(half), int32(half)
		for i, w := range weights {
			q := p[3*i : 3*i+3 : 3*i+3]
			r += int32(q[0]) * w
			g += int32(q[1]) * w
			b += int32(q[2]) * w
		}
		d := dst[3*x : 3*x+3 : 3*x+3]
		d[0], d[1], d[2] = clip(r), clip(g), clip(b)
	}
}

// downColumns computes output row y from the rows of src. sums is scratch space of one row.
func (f *filter) downColumns(dst []uint8, src *imaging.RGB, y int, sums []int32) {
	for i := range sums {
		sums[i] = 1 << (precision - 1)
	}
	weights := f.weights[f.begin[y]:f.begin[y+1]]
	first := f.first[y]
	// Four rows at a time keep the sums in registers longer.
	for len(weights) >= 4 {
		a, b, c, d := src.Row(first), src.Row(first+1), src.Row(first+2), src.Row(first+3)
		wa, wb, wc, wd := weights[0], weights[1], weights[2], weights[3]
		b, c, d, s := b[:len(a)], c[:len(a)], d[:len(a)], sums[:len(a)]
		for i, v := range a {
			s[i] += int32(v)*wa + int32(b[i])*wb + int32(c[i])*wc + int32(d[i])*wd
		}
		weights, first = weights[4:], first+4
	}
	for _, w := range weights {
		row := src.Row(first)
		s := sums[:len(row)]
		for i, v := range row {
			s[i] += int32(v) * w
		}
		first++
	}
	for i, v := range sums {
		dst[i] = clip(v)
	}
}

func clip(v int32) uint8 { return uint8(max(0, min(v>>precision, 255))) }

// parallel splits 0..n into ranges of equal length and runs them on workers goroutines.
func parallel(n, workers int, run func(from, to int)) {
	if workers <= 0 {
		workers = runtime.GOMAXPROCS(0)
	}
	workers = min(workers, n)
	if workers <= 1 {
		run(0, n)
		return
	}
	var g errgroup.Group
	for i := range workers {
		g.Go(func() error {
			run(n*i/workers, n*(i+1)/workers)
			return nil
		})
	}
	g.Wait()
}
