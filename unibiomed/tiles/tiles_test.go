package tiles_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
	"pgregory.net/rapid"
)

// TestChoose repeats the table of sizes that people meet.
func TestChoose(t *testing.T) {
	tests := []struct {
		name          string
		width, height int
		grid          tiles.Grid
		tiles         int
	}{
		{"small square", 512, 512, tiles.Grid{Columns: 1, Rows: 1}, 1},
		{"largest square of one tile", 633, 633, tiles.Grid{Columns: 1, Rows: 1}, 1},
		{"one pixel more", 634, 634, tiles.Grid{Columns: 2, Rows: 2}, 5},
		{"the training size", 1024, 1024, tiles.Grid{Columns: 3, Rows: 3}, 10},
		{"4:3", 640, 480, tiles.Grid{Columns: 4, Rows: 3}, 13},
		{"5:4, as 5x4 exceeds 12 tiles", 1280, 1024, tiles.Grid{Columns: 4, Rows: 3}, 13},
		{"portrait", 480, 640, tiles.Grid{Columns: 3, Rows: 4}, 13},
		{"wide screen", 1920, 1080, tiles.Grid{Columns: 4, Rows: 2}, 9},
		{"a column of pixels", 1, 20000, tiles.Grid{Columns: 1, Rows: 12}, 13},
		{"one pixel", 1, 1, tiles.Grid{Columns: 1, Rows: 1}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			g := tiles.Choose(tt.width, tt.height, 448, 1, 12)
			require.Equal(t, tt.grid, g)
			require.Equal(t, tt.tiles, g.Count(true))
			require.Equal(t, tt.grid.Columns*tt.grid.Rows, g.Count(false))
		})
	}
}

// TestChooseAsDefined compares with the rule as the specification words it: all pairs by ascending product.
func TestChooseAsDefined(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.IntRange(1, 5000).Draw(t, "width"), rapid.IntRange(1, 5000).Draw(t, "height")
		size := rapid.SampledFrom([]int{1, 14, 448}).Draw(t, "tile")
		least := rapid.IntRange(1, 6).Draw(t, "least")
		most := rapid.IntRange(least, 14).Draw(t, "most")
		best, closest := tiles.Grid{Columns: 1, Rows: 1}, math.Inf(1)
		for n := least; n <= most; n++ {
			for i := 1; i <= n; i++ {
				for j := 1; j <= n; j++ {
					if i*j != n {
						continue
					}
					d := math.Abs(float64(w)/float64(h) - float64(i)/float64(j))
					if d < closest || d == closest && 2*w*h > size*size*n {
						best, closest = tiles.Grid{Columns: i, Rows: j}, d
					}
				}
			}
		}
		require.Equal(t, best, tiles.Choose(w, h, size, least, most))
	})
}

// TestSplitOrder: tiles go row by row and the thumbnail comes last.
func TestSplitOrder(t *testing.T) {
	// 3x2 squares of 4 pixels, each of its own level.
	img := imaging.NewRGB(12, 8)
	for i := range img.Pix {
		x, y := i/3%12, i/3/12
		img.Pix[i] = uint8(51 * (y/4*3 + x/4))
	}
	s := tiles.Spec{Size: 4, Min: 1, Max: 12, Thumbnail: true, Std: [3]float32{1, 1, 1}}
	got, err := tiles.Split(img, s, 2)
	require.NoError(t, err)
	require.Equal(t, tiles.Grid{Columns: 3, Rows: 2}, got.Grid)
	require.Equal(t, 7, got.N)
	require.Len(t, got.Data, 7*3*4*4)
	for n := range 6 {
		for _, v := range got.Data[n*48 : (n+1)*48] {
			require.Equal(t, float32(51*n)/255, v, "tile %d", n)
		}
	}
	whole, err := tiles.Whole(img, s, 1)
	require.NoError(t, err)
	require.Equal(t, whole, got.Data[6*48:])

	s.Thumbnail = false
	got, err = tiles.Split(img, s, 1)
	require.NoError(t, err)
	require.Equal(t, 6, got.N)
}

// TestRounding repeats the check values of the specification.
func TestRounding(t *testing.T) {
	img := imaging.NewRGB(2, 2)
	levels := []uint8{0, 127, 128, 255}
	for i := range img.Pix {
		img.Pix[i] = levels[i/3]
	}
	got, err := tiles.SAMInput(img, 2, mean, std, tiles.Image, 1)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float32{-2.125, 0.0598144531, 0.0854492188, 2.25, -2.03125, 0.192382812, 0.21875, 2.453125, -1.8125, 0.408203125, 0.435546875, 2.640625}, got, 1e-9)
	got, err = tiles.SAMInput(img, 2, mean, std, tiles.Video, 1)
	require.NoError(t, err)
	require.InDeltaSlice(t, []float32{0.0771484375, 0.209960938, 0.42578125}, []float32{got[2], got[6], got[10]}, 1e-9)
}

func TestBadSpecs(t *testing.T) {
	img := imaging.NewRGB(1, 1)
	good := tiles.Spec{Size: 4, Min: 1, Max: 2, Std: [3]float32{1, 1, 1}}
	for name, change := range map[string]func(*tiles.Spec){
		"no size":           func(s *tiles.Spec) { s.Size = 0 },
		"a huge size":       func(s *tiles.Spec) { s.Size = 1 << 30 },
		"least above most":  func(s *tiles.Spec) { s.Min = 3 },
		"no tiles":          func(s *tiles.Spec) { s.Min = 0 },
		"many tiles":        func(s *tiles.Spec) { s.Max = 1 << 30 },
		"division by zero":  func(s *tiles.Spec) { s.Std[1] = 0 },
		"not a number":      func(s *tiles.Spec) { s.Std[2] = float32(math.NaN()) },
		"negative variance": func(s *tiles.Spec) { s.Std[0] = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			s := good
			change(&s)
			_, err := tiles.Split(img, s, 1)
			require.ErrorContains(t, err, "tiles: ")
			_, err = tiles.Whole(img, s, 1)
			require.Error(t, err)
		})
	}
	_, err := tiles.Split(&imaging.RGB{}, good, 1)
	require.ErrorContains(t, err, "0x0")
	_, err = tiles.SAMInput(img, 0, mean, std, tiles.Image, 1)
	require.ErrorContains(t, err, "image size 0")
	_, err = tiles.SAMInput(img, 4, mean, [3]float32{}, tiles.Image, 1)
	require.ErrorContains(t, err, "standard deviations")
}

func BenchmarkSplit(b *testing.B) {
	img := imaging.NewRGB(1024, 1024)
	for i := range img.Pix {
		img.Pix[i] = uint8(i * 7)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := tiles.Split(img, imageNet, 2); err != nil {
			b.Fatal(err)
		}
	}
}
