package tiles_test

import (
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

var (
	imageNet = tiles.Spec{Size: 448, Min: 1, Max: 12, Thumbnail: true, Mean: mean, Std: std}
	mean     = [3]float32{0.485, 0.456, 0.406}
	std      = [3]float32{0.229, 0.224, 0.225}
)

func TestChooseAsReference(t *testing.T) {
	var table struct{ Rows [][6]int }
	golden.JSON(t, &table, "golden", "preprocess", "tile_grid.json")
	require.Len(t, table.Rows, 3411)
	for _, r := range table.Rows {
		g := tiles.Choose(r[0], r[1], 448, 1, 12)
		n := g.Count(true)
		require.Equal(t, r, [6]int{r[0], r[1], g.Columns, g.Rows, n, 256 * n})
	}
}

func decode(t *testing.T, path string) *imaging.RGB {
	img, err := imaging.DecodeFile(golden.Path(t, path), imaging.Options{})
	require.NoError(t, err)
	return img
}

func TestSplitAsReference(t *testing.T) {
	want := golden.Tensors(t, "golden", "preprocess", "vit_input.safetensors")
	got, err := tiles.Split(decode(t, "data/ct/sammed2d_s0114_111.png"), imageNet, 2)
	require.NoError(t, err)
	require.Equal(t, 7, got.N)
	const s = 448
	for i, v := range want["vit_tiles_strided_f32"].F32(t) {
		n, y, x := i/(28*28), i/28%28*16, i%28*16
		requireSame(t, v, got.Data[n*s*s+y*s+x], "tile and channel %d, row %d, column %d", n, y, x)
	}
	last := got.Data[6*3*s*s:]
	for i, v := range want["vit_tile_last_f32"].F32(t) {
		c, y, x := i/(112*112), i/112%112*4, i%112*4
		requireSame(t, v, last[c*s*s+y*s+x], "thumbnail, channel %d, row %d, column %d", c, y, x)
	}
	ramp, err := tiles.Whole(greyRamp(), tiles.Spec{Size: 16, Min: 1, Max: 1, Mean: mean, Std: std}, 1)
	require.NoError(t, err)
	requireTable(t, want["vit_lut_f32"].F32(t), ramp)
}

// requireSame wants equal bits. It is called for each of many values, so that it formats nothing unless they differ.
func requireSame(t *testing.T, want, got float32, where string, args ...any) {
	t.Helper()
	if math.Float32bits(want) != math.Float32bits(got) {
		t.Fatalf(where+": want %v, got %v", append(args, want, got)...)
	}
}

// greyRamp is a 16x16 image of all levels, row-major.
func greyRamp() *imaging.RGB {
	m := imaging.NewRGB(16, 16)
	for i := range m.Pix {
		m.Pix[i] = uint8(i / 3)
	}
	return m
}

// requireTable compares a [256,3] table with the normalised ramp [3,16,16].
func requireTable(t *testing.T, want, ramp []float32) {
	t.Helper()
	for i, v := range want {
		requireSame(t, v, ramp[i%3*256+i/3], "level %d, channel %d", i/3, i%3)
	}
}

func TestSAMInputAsReference(t *testing.T) {
	want := golden.Tensors(t, "golden", "preprocess", "sam_input.safetensors")
	for name, rounding := range map[string]tiles.Rounding{"sam_lut_image_f32": tiles.Image, "sam_lut_video_f32": tiles.Video} {
		ramp, err := tiles.SAMInput(greyRamp(), 16, mean, std, rounding, 1)
		require.NoError(t, err)
		requireTable(t, want[name].F32(t), ramp)
	}
	got, err := tiles.SAMInput(decode(t, "data/ct/sammed2d_s0114_111.png"), 1024, mean, std, tiles.Image, 2)
	require.NoError(t, err)
	for i, v := range want["sam_input_strided_f32"].F32(t) {
		c, y, x := i/(64*64), i/64%64*16, i%64*16
		requireSame(t, v, got[c<<20+y<<10+x], "channel %d, row %d, column %d", c, y, x)
	}
}
