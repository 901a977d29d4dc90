package examples

import (
	"fmt"
	"math"
	"math/rand/v2"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

const phantomWidth, phantomHeight = 384, 288

// Phantom draws a made-up image of 384 x 288 pixels and the mask of what it shows: "lesion" (dermoscopy), "polyp" (endoscopy) or
// "drusen" (OCT). The same name gives the same pixels every time. A phantom looks like its modality only roughly.
func Phantom(name string) (*imaging.RGB, *imaging.Mask, error) {
	paint, ok := map[string]func(x, y float64, n *noise) (rgb [3]float64, inside bool){
		"lesion": lesion, "polyp": polyp, "drusen": drusen,
	}[name]
	if !ok {
		return nil, nil, fmt.Errorf("examples: no phantom %q: lesion, polyp, drusen", name)
	}
	img, mask := imaging.NewRGB(phantomWidth, phantomHeight), imaging.NewMask(phantomWidth, phantomHeight)
	n := newNoise()
	for y := range phantomHeight {
		row := img.Row(y)
		for x := range phantomWidth {
			rgb, inside := paint(float64(x), float64(y), n)
			for k, v := range rgb {
				row[3*x+k] = uint8(math.Round(max(0, min(255, v))))
			}
			if inside {
				mask.Pix[y*mask.Width+x] = 255
			}
		}
	}
	return img, mask, nil
}

// lesion: skin with a brown spot of an uneven outline, darker inside.
func lesion(x, y float64, n *noise) ([3]float64, bool) {
	dx, dy := (x-196)/92, (y-140)/70
	angle := math.Atan2(dy, dx)
	edge := 1 + 0.09*math.Sin(3*angle+0.7) + 0.06*math.Sin(7*angle)
	r := math.Hypot(dx, dy) / edge
	grain := 9*n.at(x/3, y/3) + 14*n.at(x/28, y/28)
	skin := [3]float64{222 + grain, 168 + grain, 150 + grain}
	in := smooth(1.06, 0.94, r)
	mottle := 26*n.at(x/9+50, y/9) - 30*smooth(0.8, 0.1, r)
	spot := [3]float64{118 + mottle, 72 + 0.8*mottle, 56 + 0.7*mottle}
	return mix(skin, spot, in), r < 1
}

// polyp: a wet pink wall around a dark opening, and a round bump with a highlight.
func polyp(x, y float64, n *noise) ([3]float64, bool) {
	depth := math.Hypot((x-150)/190, (y-90)/150)
	fold := 10 * math.Sin(14*depth+2*n.at(x/60, y/60))
	light := 60 + 150*smooth(0.1, 0.9, depth) + fold + 8*n.at(x/5, y/5)
	wall := [3]float64{light, 0.52 * light, 0.42 * light}
	dx, dy := (x-248)/62, (y-168)/54
	r := math.Hypot(dx, dy)
	dome := 150 + 80*math.Sqrt(max(0, 1-r*r)) + 8*n.at(x/6, y/6+90)
	bump := [3]float64{dome, 0.5 * dome, 0.45 * dome}
	out := mix(wall, bump, smooth(1.03, 0.97, r))
	shine := 170 * math.Exp(-(math.Pow((x-232)/9, 2) + math.Pow((y-146)/6, 2)))
	for k := range out {
		out[k] += shine
	}
	// The corners of an endoscope's picture are black.
	frame := smooth(1.36, 1.3, math.Hypot((x-192)/192, (y-144)/144))
	return mix([3]float64{6, 6, 6}, out, frame), r < 1
}

// drusen: bright layers of the retina above a band that bumps push up.
func drusen(x, y float64, n *noise) ([3]float64, bool) {
	bend := 12 * math.Pow((x-192)/192, 2)
	pit := 26 * math.Exp(-math.Pow((x-192)/46, 2))
	var lift float64
	for _, b := range [...][3]float64{{96, 20, 17}, {176, 15, 13}, {262, 24, 20}} { // centre, width, height
		lift = max(lift, b[2]*math.Exp(-math.Pow((x-b[0])/b[1], 2)))
	}
	top, base := 96+bend+pit, 182+bend
	v := 14.0
	layer := func(from, to, value float64) {
		if y >= from && y < to {
			v = value
		}
	}
	layer(top, top+14, 150)
	layer(top+14, base-34, 84)
	layer(base-34, base-22-lift, 58)
	layer(base-22-lift, base-lift, 112)
	inside := y >= base-lift && y < base
	if inside {
		v = 128
	}
	layer(base-lift-5, base-lift, 205)
	layer(base, base+12, 215)
	layer(base+12, base+60, 120-1.6*(y-base-12))
	v += (0.35*v + 10) * (n.at(x, y) + 0.6*n.at(x/2+31, y/2)) // speckle
	return [3]float64{v, v, v}, inside && lift > 2.5
}

// smooth rises from 0 at from to 1 at to.
func smooth(from, to, v float64) float64 {
	t := max(0, min(1, (v-from)/(to-from)))
	return t * t * (3 - 2*t)
}

func mix(a, b [3]float64, share float64) (out [3]float64) {
	for k := range out {
		out[k] = a[k] + (b[k]-a[k])*share
	}
	return out
}

// noise is a lattice of fixed random values in -0.5..0.5, linear between its points.
type noise [64 * 64]float64

func newNoise() *noise {
	random := rand.New(rand.NewPCG(7, 11))
	var n noise
	for i := range n {
		n[i] = random.Float64() - 0.5
	}
	return &n
}

func (n *noise) at(x, y float64) float64 {
	x0, y0 := math.Floor(x), math.Floor(y)
	fx, fy := x-x0, y-y0
	v := func(dx, dy int) float64 { return n[(int(y0)+dy)&63*64+(int(x0)+dx)&63] }
	return (v(0, 0)*(1-fx)+v(1, 0)*fx)*(1-fy) + (v(0, 1)*(1-fx)+v(1, 1)*fx)*fy
}
