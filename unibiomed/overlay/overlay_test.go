package overlay_test

import (
	"bytes"
	"image/color"
	"image/png"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/overlay"
)

func TestDraw(t *testing.T) {
	img := imaging.NewRGB(300, 100)
	m := imaging.NewMask(300, 100)
	for y := 20; y < 40; y++ {
		for x := 50; x < 90; x++ {
			m.Pix[y*300+x] = 255
		}
	}
	before := img.Clone()
	out, err := overlay.Draw(img, []overlay.Item{{Mask: m}})
	require.NoError(t, err)
	require.Equal(t, before, img, "the input is not changed")
	require.Equal(t, [2]int{300, 100}, [2]int{out.Width, out.Height}, "no phrases, no legend")
	c := overlay.Color(0)
	require.Equal(t, c, out.At(50, 20), "the contour is solid")
	inside := out.At(60, 30).(color.RGBA)
	require.NotZero(t, inside.R)
	require.Less(t, inside.R, c.R, "the inside is translucent")
	require.Equal(t, color.RGBA{A: 255}, out.At(49, 20), "the outside is unchanged")

	out, err = overlay.Draw(img, []overlay.Item{{m, "liver"}, {imaging.NewMask(300, 100), "tumor"}})
	require.NoError(t, err)
	require.Equal(t, 300, out.Width)
	require.Greater(t, out.Height, 100)
	require.Equal(t, overlay.Color(0), out.At(10, 110))
	require.Equal(t, overlay.Color(1), out.At(10, 128))
}

func TestDrawExtremes(t *testing.T) {
	for _, size := range [][2]int{{1, 1}, {1, 2000}, {2000, 1}} {
		img, m := imaging.NewRGB(size[0], size[1]), imaging.NewMask(size[0], size[1])
		m.Pix[0] = 1
		var items []overlay.Item
		for range 30 {
			items = append(items, overlay.Item{Mask: m, Phrase: strings.Repeat("größe ", 100)})
		}
		var b bytes.Buffer
		require.NoError(t, overlay.WritePNG(&b, img, items))
		out, err := png.Decode(&b)
		require.NoError(t, err)
		require.LessOrEqual(t, out.Bounds().Dy(), size[1]+4*500, "the legend is bounded")
	}
	_, err := overlay.Draw(imaging.NewRGB(2, 2), []overlay.Item{{Mask: imaging.NewMask(2, 3)}})
	require.ErrorContains(t, err, "mask 0")
	_, err = overlay.Draw(imaging.NewRGB(2, 2), []overlay.Item{{}})
	require.ErrorContains(t, err, "mask 0")
}

// TestDrawReal draws three organs on a real image.
func TestDrawReal(t *testing.T) {
	img, err := imaging.DecodeFile(golden.Path(t, "data/ct/sammed2d_s0114_111.png"), imaging.Options{})
	require.NoError(t, err)
	var items []overlay.Item
	for _, name := range []string{"aorta", "heart_atrium_left", "lung_lower_lobe_right"} {
		m, err := imaging.DecodeMaskFile(golden.Path(t, "data/ct/sammed2d_s0114_111__"+name+".mask.png"), imaging.Options{})
		require.NoError(t, err)
		items = append(items, overlay.Item{Mask: m, Phrase: strings.ReplaceAll(name, "_", " ")})
	}
	out, err := overlay.Draw(img, items)
	require.NoError(t, err)
	for i, it := range items {
		found := false
		for y := range img.Height {
			for x := range img.Width {
				found = found || out.At(x, y) == overlay.Color(i)
			}
		}
		require.True(t, found, "%s leaves its colour", it.Phrase)
	}
}
