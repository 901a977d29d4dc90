// Package metrics scores masks and answers against ground truth, in two ways.
//
// The official scores repeat UniBiomed's evaluation scripts, with their omissions, so that numbers can be compared with
// published ones: only the first 300 instances, none without ground truth, substrings for accuracy, no cost for masks
// that match nothing. The strict scores leave nothing out: every instance counts, an empty truth asks for an empty
// prediction, unmatched masks count as 0, and texts must be equal.
//
// All functions only read their inputs and are safe for concurrent use.
package metrics

import (
	"fmt"
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// An Overlap counts the pixels of a predicted and a true mask, and those inside both.
type Overlap struct{ Pred, Truth, Both int }

// Count compares two masks of one size.
func Count(pred, truth *imaging.Mask) (Overlap, error) {
	if pred.Width != truth.Width || pred.Height != truth.Height {
		return Overlap{}, fmt.Errorf("metrics: a prediction of %dx%d and a truth of %dx%d", pred.Width, pred.Height, truth.Width, truth.Height)
	}
	var o Overlap
	for i, p := range pred.Pix {
		t := truth.Pix[i]
		if p != 0 {
			o.Pred++
			if t != 0 {
				o.Both++
			}
		}
		if t != 0 {
			o.Truth++
		}
	}
	return o, nil
}

// Dice is 2|P and T| / (|P| + |T|), from 0 to 1, or NaN when both masks are empty.
func (o Overlap) Dice() float64 { return 2 * float64(o.Both) / float64(o.Pred+o.Truth) }

// IoU is |P and T| / |P or T|, from 0 to 1, or NaN when both masks are empty.
func (o Overlap) IoU() float64 { return float64(o.Both) / float64(o.Pred+o.Truth-o.Both) }

// orOne gives two empty masks the score of a perfect match.
func orOne(score float64) float64 {
	if math.IsNaN(score) {
		return 1
	}
	return score
}

// ResizeTruth brings the grey levels of a true mask to the size of the prediction as the official scripts do: OpenCV's
// bilinear filter on 8-bit values, in its fixed-point arithmetic. Every level above 0 is then inside. An unchanged size
// returns m itself.
func ResizeTruth(m *imaging.Mask, width, height int) *imaging.Mask {
	if m.Width == width && m.Height == height {
		return m
	}
	out := imaging.NewMask(width, height)
	if m.Width == 2*width && m.Height == 2*height {
		// OpenCV takes the mean of each 2x2 block when both sides halve.
		for y := range height {
			for x := range width {
				p := m.Pix[2*y*m.Width+2*x:]
				out.Pix[y*width+x] = uint8((int(p[0]) + int(p[1]) + int(p[m.Width]) + int(p[m.Width+1]) + 2) >> 2)
			}
		}
		return out
	}
	across, down := cvAxis(m.Width, width, true), cvAxis(m.Height, height, false)
	row := func(y int) []uint8 { return m.Pix[y*m.Width : (y+1)*m.Width] }
	for y, v := range down {
		a, b := row(v.i0), row(v.i1)
		for x, h := range across {
			top := int(a[h.i0])*h.w0 + int(a[h.i1])*h.w1
			bottom := int(b[h.i0])*h.w0 + int(b[h.i1])*h.w1
			out.Pix[y*width+x] = uint8((v.w0*(top>>4)>>16 + v.w1*(bottom>>4)>>16 + 2) >> 2)
		}
	}
	return out
}

// cvWeight is one output position of OpenCV's bilinear filter: two inputs with weights of 11 fraction bits.
type cvWeight struct{ i0, i1, w0, w1 int }

// cvAxis returns the weights of one axis. Beyond the edge both inputs are the edge; across, the first then has the whole
// weight, while down it stays split, which rounds differently.
func cvAxis(in, out int, whole bool) []cvWeight {
	axis := make([]cvWeight, out)
	scale := float64(in) / float64(out)
	for x := range axis {
		at := float32((float64(x)+0.5)*scale - 0.5)
		i := int(math.Floor(float64(at)))
		f := at - float32(i)
		if whole && (i < 0 || i >= in-1) {
			f = 0
		}
		axis[x] = cvWeight{max(i, 0), min(i+1, in-1), int(math.RoundToEven(float64((1 - f) * 2048))), int(math.RoundToEven(float64(f * 2048)))}
	}
	return axis
}
