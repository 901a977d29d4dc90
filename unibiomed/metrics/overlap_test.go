package metrics_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"pgregory.net/rapid"
)

// parse reads rows of width characters, '#' is inside.
func parse(width int, rows string) *imaging.Mask {
	m := imaging.NewMask(width, len(rows)/width)
	for i := range rows {
		if rows[i] == '#' {
			m.Pix[i] = 1
		}
	}
	return m
}

func TestOverlap(t *testing.T) {
	tests := []struct {
		name        string
		pred, truth string
		dice, iou   float64
	}{
		{"equal", "##..", "##..", 1, 1},
		{"disjoint", "##..", "..##", 0, 0},
		{"half", "##..", ".##.", 0.5, 1.0 / 3},
		{"nothing predicted", "....", ".##.", 0, 0},
		{"nothing there", ".##.", "....", 0, 0},
		{"both empty", "....", "....", math.NaN(), math.NaN()},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o, err := metrics.Count(parse(2, tt.pred), parse(2, tt.truth))
			require.NoError(t, err)
			for _, v := range [][2]float64{{tt.dice, o.Dice()}, {tt.iou, o.IoU()}} {
				if math.IsNaN(v[0]) {
					require.True(t, math.IsNaN(v[1]))
				} else {
					require.InDelta(t, v[0], v[1], 1e-12)
				}
			}
		})
	}
	_, err := metrics.Count(parse(2, "...."), parse(4, "...."))
	require.ErrorContains(t, err, "2x2 and a truth of 4x1")
}

func TestOverlapProperties(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 60).Draw(t, "pixels")
		mask := func(label string) *imaging.Mask {
			return &imaging.Mask{Width: n, Height: 1, Pix: rapid.SliceOfN(rapid.Byte().Filter(func(b byte) bool { return b < 3 }), n, n).Draw(t, label)}
		}
		a, b := mask("a"), mask("b")
		ab, _ := metrics.Count(a, b)
		ba, _ := metrics.Count(b, a)
		if ab.Pred+ab.Truth == 0 {
			return
		}
		require.Equal(t, ab.Dice(), ba.Dice())
		// Dice and IoU are functions of each other.
		require.InDelta(t, 2*ab.IoU()/(1+ab.IoU()), ab.Dice(), 1e-12)
	})
}

// TestResizeTruthAsOpenCV uses vectors made with the version that the file names.
func TestResizeTruthAsOpenCV(t *testing.T) {
	var file struct {
		Cases []struct {
			Width, Height int
			Pix           []byte
			ToWidth       int `json:"to_width"`
			ToHeight      int `json:"to_height"`
			Want          []byte
		}
	}
	b, err := os.ReadFile("testdata/opencv_resize.json")
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal(b, &file))
	for _, c := range file.Cases {
		t.Run(fmt.Sprintf("%dx%d to %dx%d", c.Width, c.Height, c.ToWidth, c.ToHeight), func(t *testing.T) {
			got := metrics.ResizeTruth(&imaging.Mask{Width: c.Width, Height: c.Height, Pix: c.Pix}, c.ToWidth, c.ToHeight)
			require.True(t, bytes.Equal(c.Want, got.Pix))
		})
	}
}
