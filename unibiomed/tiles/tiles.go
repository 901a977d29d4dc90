// Package tiles turns an RGB image into the inputs of the two image encoders: square tiles for the vision tower, and
// one stretched square for SAM 2. The constants come from the model's file, the arithmetic is the reference's.
//
// All functions only read their inputs and are safe for concurrent use.
package tiles

import (
	"fmt"
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
)

// A Grid says into how many tiles an image is cut.
type Grid struct{ Columns, Rows int }

// Count returns the number of tiles: one for each cell, and the thumbnail, which is added only when there is more than
// one cell.
func (g Grid) Count(thumbnail bool) int {
	n := g.Columns * g.Rows
	if thumbnail && n != 1 {
		n++
	}
	return n
}

// Choose returns the grid of least to most tiles whose aspect ratio is closest to that of a width x height image. Of
// equally close grids, a larger one wins when the image has more than half the pixels of its tiles.
// All arguments are at least 1, and least <= most.
func Choose(width, height, tileSize, least, most int) Grid {
	ratio := float64(width) / float64(height)
	best, closest := Grid{1, 1}, math.Inf(1)
	for n := least; n <= most; n++ {
		// Grids of equal size have different ratios on either side of any image's, so their order does not matter.
		for columns := 1; columns <= n; columns++ {
			if n%columns != 0 {
				continue
			}
			g := Grid{columns, n / columns}
			d := math.Abs(ratio - float64(g.Columns)/float64(g.Rows))
			// The products stay far below 2^53, so that the comparison is exact in floats.
			if d < closest || d == closest && float64(width)*float64(height) > 0.5*float64(tileSize)*float64(tileSize)*float64(n) {
				best, closest = g, d
			}
		}
	}
	return best
}

// A Spec is how a model wants its tiles: the Tile fields of bindings.Info.
type Spec struct {
	// Size is the side of a tile in pixels.
	Size int
	// Min and Max bound the number of grid cells.
	Min, Max int
	// Thumbnail appends the whole image as the last tile when there are several.
	Thumbnail bool
	// Mean and Std normalise each of R, G, B, in units of full intensity (0 to 1).
	Mean, Std [3]float32
}

func (s Spec) check() error {
	if s.Size < 1 || s.Size > 1<<14 || s.Min < 1 || s.Max < s.Min || s.Max > 1024 {
		return fmt.Errorf("tiles: tile size %d, %d to %d tiles: want a size of 1 to 16384 and 1 <= least <= most <= 1024", s.Size, s.Min, s.Max)
	}
	return checkStd(s.Std)
}

func checkStd(std [3]float32) error {
	for _, v := range std {
		if !(v > 0) {
			return fmt.Errorf("tiles: standard deviations %v, want them above 0", std)
		}
	}
	return nil
}

// Tiles are the normalised tiles of one image.
type Tiles struct {
	Grid Grid
	N    int       // number of tiles, the thumbnail included
	Data []float32 // [N, 3, Size, Size]: tiles row by row, then the thumbnail; channels R, G, B
}

// Split resizes img to a grid of tiles, ignoring its aspect ratio, and cuts it. The thumbnail is resized from img itself.
// workers is the number of goroutines of each resize; it defaults to GOMAXPROCS.
func Split(img *imaging.RGB, s Spec, workers int) (Tiles, error) {
	if err := s.check(); err != nil {
		return Tiles{}, err
	}
	if img.Width < 1 || img.Height < 1 {
		return Tiles{}, fmt.Errorf("tiles: image of %dx%d pixels", img.Width, img.Height)
	}
	g := Choose(img.Width, img.Height, s.Size, s.Min, s.Max)
	whole, err := resample.Cubic(img, s.Size*g.Columns, s.Size*g.Rows, workers)
	if err != nil {
		return Tiles{}, err
	}
	t := Tiles{Grid: g, N: g.Count(s.Thumbnail)}
	plane := s.Size * s.Size
	t.Data = make([]float32, t.N*3*plane)
	lut := tileTable(s.Mean, s.Std)
	for n := range g.Columns * g.Rows {
		lut.fill(t.Data[n*3*plane:(n+1)*3*plane], whole, n%g.Columns*s.Size, n/g.Columns*s.Size, s.Size)
	}
	if cells := g.Columns * g.Rows; t.N > cells {
		small, err := resample.Cubic(img, s.Size, s.Size, workers)
		if err != nil {
			return Tiles{}, err
		}
		lut.fill(t.Data[cells*3*plane:], small, 0, 0, s.Size)
	}
	return t, nil
}

// Whole resizes img to a single tile [3, Size, Size], as slices of a volume are.
func Whole(img *imaging.RGB, s Spec, workers int) ([]float32, error) {
	if err := s.check(); err != nil {
		return nil, err
	}
	small, err := resample.Cubic(img, s.Size, s.Size, workers)
	if err != nil {
		return nil, err
	}
	data := make([]float32, 3*s.Size*s.Size)
	tileTable(s.Mean, s.Std).fill(data, small, 0, 0, s.Size)
	return data, nil
}

// Rounding is how the reference normalises the input of SAM 2. Either way the constants are first rounded to bf16.
type Rounding int

const (
	// Image rounds to bf16 after each step: division by 255, subtraction, division. It is for single images.
	Image Rounding = iota
	// Video computes in f32 and rounds to bf16 once. It is for slices of a volume.
	Video
)

// SAMInput resizes img to a square of size pixels, ignoring its aspect ratio, and normalises it: [3, size, size], channels
// R, G, B, values that bf16 holds exactly. mean and std are as in Spec.
func SAMInput(img *imaging.RGB, size int, mean, std [3]float32, r Rounding, workers int) ([]float32, error) {
	if size < 1 || size > 1<<14 {
		return nil, fmt.Errorf("tiles: image size %d, want 1 to 16384", size)
	}
	if err := checkStd(std); err != nil {
		return nil, err
	}
	square, err := resample.Cubic(img, size, size, workers)
	if err != nil {
		return nil, err
	}
	data := make([]float32, 3*size*size)
	samTable(mean, std, r).fill(data, square, 0, 0, size)
	return data, nil
}

// A table holds the normalised value of each level of each channel.
type table [3][256]float32

// fill normalises the square of img at (x0, y0) into dst, channel by channel.
func (t *table) fill(dst []float32, img *imaging.RGB, x0, y0, side int) {
	plane := side * side
	for y := range side {
		src := img.Row(y0 + y)[3*x0 : 3*(x0+side)]
		r, g, b := dst[y*side:][:side], dst[plane+y*side:][:side], dst[2*plane+y*side:][:side]
		for x := range r {
			p := src[3*x : 3*x+3 : 3*x+3]
			r[x], g[x], b[x] = t[0][p[0]], t[1][p[1]], t[2][p[2]]
		}
	}
}

// tileTable: f32 in two steps, v/255 and then (v - mean)/std; one fused step would change the last bit.
func tileTable(mean, std [3]float32) *table {
	t := new(table)
	for c := range t {
		for v := range t[c] {
			t[c][v] = (float32(float32(v)/255) - mean[c]) / std[c]
		}
	}
	return t
}

func samTable(mean, std [3]float32, r Rounding) *table {
	step := bf16
	if r == Video {
		step = func(v float32) float32 { return v }
	}
	t := new(table)
	for c := range t {
		m, s := bf16(mean[c]), bf16(std[c])
		for v := range t[c] {
			t[c][v] = bf16(step(step(float32(v)/255)-m) / s)
		}
	}
	return t
}

// bf16 rounds a finite value to the nearest of those with 8 significant bits, ties to even.
func bf16(v float32) float32 {
	b := math.Float32bits(v)
	return math.Float32frombits((b + 0x7fff + b>>16&1) &^ 0xffff)
}
