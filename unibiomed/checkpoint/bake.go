package checkpoint

import (
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
)

// bakes lists the tables of SAM 2 that depend on nothing but its weights and sizes.
func (s samConfig) bakes() []bake {
	trunk := samPrefix + "image_encoder.trunk."
	side, features := s.image/4, s.image/s.stride
	c, window := s.embed, s.windows[0]
	return []bake{{
		part: Grounding, to: "trunk.pos_embed", shape: shape(side, side, c),
		from: []rule{
			{from: trunk + "pos_embed", fromShape: shape(1, c, s.background[0], s.background[1])},
			{from: trunk + "pos_embed_window", fromShape: shape(1, c, window, window)},
		},
		rows: func(in [][]float32, each func([]float32) error) error {
			return trunkPositions(in[0], s.background[0], s.background[1], in[1], window, side, c, each)
		},
	}, {
		part: Grounding, to: "decoder.dense_pe", shape: shape(features, features, s.d),
		from: []rule{{from: samPrefix + "sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix", fromShape: shape(2, s.d/2)}},
		rows: func(in [][]float32, each func([]float32) error) error {
			return densePositions(in[0], features, s.d, each)
		},
	}}
}

// trunkPositions makes Hiera's position table [side, side, channels], row by row: the background [channels, h, w] resized
// bicubically, plus the window [channels, window, window] repeated (spec/model.md 6.1).
func trunkPositions(background []float32, h, w int, window []float32, windowSide, side, channels int, each func([]float32) error) error {
	ys, xs := cubicTaps(h, side), cubicTaps(w, side)
	row := make([]float32, side*channels)
	column := make([]float64, w) // one channel of the background, resized along y
	for y := range side {
		for c := range channels {
			plane := background[c*h*w : (c+1)*h*w]
			for x := range w {
				sum := 0.0
				for k, i := range ys[y].index {
					sum += ys[y].weight[k] * float64(plane[i*w+x])
				}
				column[x] = sum
			}
			tile := window[(c*windowSide+y%windowSide)*windowSide:][:windowSide]
			for x := range side {
				sum := 0.0
				for k, i := range xs[x].index {
					sum += xs[x].weight[k] * column[i]
				}
				row[x*channels+c] = float32(sum + float64(tile[x%windowSide]))
			}
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return nil
}

// taps are the four samples that make one output of a cubic resize.
type taps struct {
	index  [4]int
	weight [4]float64
}

// cubicTaps gives the taps of PyTorch's bicubic along one axis: a = -0.75, half-pixel centres, no antialias, edges repeated.
func cubicTaps(in, out int) []taps {
	const a = -0.75
	near := func(x float64) float64 { return ((a+2)*x-(a+3))*x*x + 1 }  // |x| <= 1
	far := func(x float64) float64 { return ((a*x-5*a)*x+8*a)*x - 4*a } // 1 < |x| < 2
	t := make([]taps, out)
	for o := range t {
		x := (float64(o)+0.5)*float64(in)/float64(out) - 0.5
		floor := math.Floor(x)
		f := x - floor
		t[o].weight = [4]float64{far(1 + f), near(f), near(1 - f), far(2 - f)}
		for k := range t[o].index {
			t[o].index[k] = min(max(int(floor)-1+k, 0), in-1)
		}
	}
	return t
}

// densePositions makes the mask decoder's position table [side, side, d], row by row, from the Gaussian matrix [2, d/2]. Every
// step is rounded to bf16 as the reference does (pitfalls P7): its decoder was trained with this coarse table.
func densePositions(gaussian []float32, side, d int, each func([]float32) error) error {
	n := d / 2
	g := make([]float32, len(gaussian))
	for i, v := range gaussian {
		g[i] = toBF16(v)
	}
	u := make([]float32, side)
	for i := range u {
		u[i] = toBF16(2*((float32(i)+0.5)/float32(side)) - 1)
	}
	const tau = float32(2 * math.Pi) // stays f32: rounding it too would be off by up to 0.115
	row := make([]float32, side*d)
	for y := range side {
		for x := range side {
			out := row[x*d : (x+1)*d]
			for k := range n {
				// The conversions keep each product rounded to f32: Go may otherwise fuse them with the sum.
				p := toBF16(float32(u[x]*g[k]) + float32(u[y]*g[n+k]))
				a := float64(toBF16(p * tau))
				out[k], out[n+k] = toBF16(float32(math.Sin(a))), toBF16(float32(math.Cos(a)))
			}
		}
		if err := each(row); err != nil {
			return err
		}
	}
	return nil
}

func toBF16(f float32) float32 { return half.FromBF16(half.ToBF16(f)) }
