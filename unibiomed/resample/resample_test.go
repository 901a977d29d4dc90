package resample_test

import (
	"bytes"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
	"pgregory.net/rapid"
)

func TestBadSizes(t *testing.T) {
	one := imaging.NewRGB(1, 1)
	for _, s := range [][2]int{{0, 1}, {1, 0}, {-1, 1}, {1 << 30, 1 << 30}} {
		_, err := resample.Cubic(one, s[0], s[1], 1)
		require.ErrorContains(t, err, "target size")
		_, err = resample.Mask(make([]float32, 4), 2, 2, s[0], s[1], 1)
		require.ErrorContains(t, err, "mask sizes")
	}
	_, err := resample.Cubic(&imaging.RGB{Width: 2, Height: 2, Pix: make([]uint8, 3)}, 1, 1, 1)
	require.ErrorContains(t, err, "source of 2x2 with 3 values")
	_, err = resample.Cubic(&imaging.RGB{}, 1, 1, 1)
	require.Error(t, err)
	_, err = resample.Mask(make([]float32, 3), 2, 2, 1, 1, 1)
	require.ErrorContains(t, err, "got 3 logits, want 2*2")
}

func TestCubicProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		side := rapid.IntRange(1, 40)
		w, h, tw, th := side.Draw(t, "width"), side.Draw(t, "height"), side.Draw(t, "to width"), side.Draw(t, "to height")
		flat := imaging.NewRGB(w, h)
		level := rapid.Byte().Draw(t, "level")
		for i := range flat.Pix {
			flat.Pix[i] = level
		}
		// Weights add up to 1: a picture of one colour stays so.
		out, err := resample.Cubic(flat, tw, th, 2)
		require.NoError(t, err)
		require.Equal(t, bytes.Repeat([]byte{level}, len(out.Pix)), out.Pix)
		// The number of workers changes nothing, and an unchanged size is a copy.
		m := &imaging.RGB{Width: w, Height: h, Pix: rapid.SliceOfN(rapid.Byte(), 3*w*h, 3*w*h).Draw(t, "pixels")}
		a, err := resample.Cubic(m, tw, th, 1)
		require.NoError(t, err)
		b, err := resample.Cubic(m, tw, th, 7)
		require.NoError(t, err)
		require.Equal(t, a, b)
		same, err := resample.Cubic(m, w, h, 1)
		require.NoError(t, err)
		require.Equal(t, m, same)
		require.NotSame(t, &m.Pix[0], &same.Pix[0])
	})
}

func TestMaskProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		side, mid := rapid.IntRange(1, 8).Draw(t, "side"), rapid.IntRange(1, 24).Draw(t, "mid")
		w, h := rapid.IntRange(1, 40).Draw(t, "width"), rapid.IntRange(1, 40).Draw(t, "height")
		logits := rapid.SliceOfN(rapid.Float32Range(-20, 20), side*side, side*side).Draw(t, "logits")
		low, high := float32(math.Inf(1)), float32(math.Inf(-1))
		for _, v := range logits {
			low, high = min(low, v), max(high, v)
		}
		m, err := resample.Mask(logits, side, mid, w, h, 3)
		require.NoError(t, err)
		err = resample.MaskRows(logits, side, mid, w, h, func(y int, values []float32) {
			for x, v := range values {
				// Nothing lies outside the range of the logits, up to rounding.
				if (v > 0) != m.Inside(x, y) || v < low-1e-4 || v > high+1e-4 {
					t.Fatalf("row %d, column %d: %v from logits %v to %v, inside: %v", y, x, v, low, high, m.Inside(x, y))
				}
			}
		})
		require.NoError(t, err)
	})
}

func TestCells(t *testing.T) {
	require.Equal(t, make([]bool, 256), resample.Cells(&imaging.Mask{}, 16))
	// A line between the sampled rows selects nothing.
	m := imaging.NewMask(64, 64)
	for x := range 64 {
		m.Pix[1*64+x] = 1
	}
	require.Equal(t, make([]bool, 256), resample.Cells(m, 16))
	m.Pix[4*64+8] = 7 // any level is inside
	cells := resample.Cells(m, 16)
	require.True(t, cells[1*16+2])
}

func BenchmarkCubic(b *testing.B) {
	src := imaging.NewRGB(1300, 1024)
	for i := range src.Pix {
		src.Pix[i] = uint8(i * 7)
	}
	for name, size := range map[string][2]int{"1300x1024 to 1024x1024": {1024, 1024}, "1300x1024 to 1792x1344": {1792, 1344}, "1300x1024 to 448x448": {448, 448}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := resample.Cubic(src, size[0], size[1], 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkMask(b *testing.B) {
	logits := make([]float32, 256*256)
	for i := range logits {
		logits[i] = float32(math.Sin(float64(i) / 100))
	}
	for name, size := range map[string][2]int{"1024x1024": {1024, 1024}, "4000x3000": {4000, 3000}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := resample.Mask(logits, 256, 1024, size[0], size[1], 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
