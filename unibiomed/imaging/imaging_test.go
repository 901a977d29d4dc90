package imaging_test

import (
	"bytes"
	"image"
	"image/color"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"pgregory.net/rapid"
)

// TestFromImage: every type keeps the colour and drops the alpha.
func TestFromImage(t *testing.T) {
	b := image.Rect(2, 3, 4, 4) // images need not begin at the origin
	one := func(set func(x, y int)) { set(2, 3); set(3, 3) }
	nrgba, rgba, grey, cmyk := image.NewNRGBA(b), image.NewRGBA(b), image.NewGray(b), image.NewCMYK(b)
	deepRGB, deepAlpha := image.NewRGBA64(b), image.NewNRGBA64(b)
	palette := image.NewPaletted(b, color.Palette{color.NRGBA{200, 100, 50, 0}})
	one(func(x, y int) {
		nrgba.SetNRGBA(x, y, color.NRGBA{200, 100, 50, 0})
		rgba.SetRGBA(x, y, color.RGBA{200, 100, 50, 255})
		grey.SetGray(x, y, color.Gray{200})
		cmyk.SetCMYK(x, y, color.CMYK{0, 128, 255, 55})
		deepRGB.SetRGBA64(x, y, color.RGBA64{200<<8 + 99, 100<<8 + 250, 50 << 8, 65535})
		deepAlpha.SetNRGBA64(x, y, color.NRGBA64{200<<8 + 99, 100<<8 + 250, 50 << 8, 1})
	})
	tests := []struct {
		name string
		img  image.Image
		want [3]uint8
	}{
		{"transparent NRGBA", nrgba, [3]uint8{200, 100, 50}},
		{"opaque RGBA", rgba, [3]uint8{200, 100, 50}},
		{"grey", grey, [3]uint8{200, 200, 200}},
		{"CMYK", cmyk, [3]uint8{200, 100, 0}},
		{"16-bit RGB", deepRGB, [3]uint8{200, 100, 50}},
		{"16-bit RGBA", deepAlpha, [3]uint8{200, 100, 50}},
		{"transparent palette", palette, [3]uint8{200, 100, 50}},
		{"premultiplied", &image.RGBA{Pix: []uint8{40, 20, 10, 51, 40, 20, 10, 51}, Stride: 8, Rect: b}, [3]uint8{200, 100, 50}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := imaging.FromImage(tt.img)
			require.NoError(t, err)
			require.Equal(t, append(tt.want[:], tt.want[:]...), m.Pix)
			again, err := imaging.FromImage(m)
			require.NoError(t, err)
			require.Equal(t, m, again)
		})
	}
	_, err := imaging.FromImage(image.NewGray16(b))
	require.ErrorContains(t, err, "window")
	_, err = imaging.FromImage(image.NewGray(image.Rectangle{}))
	require.ErrorContains(t, err, "0x0")
}

// TestDrawBox compares with cv2.rectangle(image, (x, y), (x+w, y+h), (0, 255, 0), 2) of OpenCV 4.11.
func TestDrawBox(t *testing.T) {
	tests := []struct {
		name       string
		x, y, w, h int
		want       string // rows of 12
	}{
		{"inside", 2, 2, 7, 5, `
............
..########..
.##########.
.##########.
.###....###.
.###....###.
.##########.
.##########.
..########..
............`},
		{"at the corner", 0, 0, 4, 4, `
######......
######......
##.###......
######......
######......
#####.......
............
............
............
............`},
		{"beyond the edge", 8, 3, 4, 4, `
............
............
........####
.......#####
.......#####
.......###.#
.......#####
.......#####
........####
............`},
		{"one pixel", 5, 4, 1, 1, `
............
............
............
.....##.....
....####....
....####....
.....##.....
............
............
............`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := imaging.NewRGB(12, 10)
			m.DrawBox(image.Rect(tt.x, tt.y, tt.x+tt.w, tt.y+tt.h))
			var got strings.Builder
			for y := range m.Height {
				got.WriteByte('\n')
				for x := range m.Width {
					switch m.At(x, y) {
					case color.RGBA{0, 255, 0, 255}:
						got.WriteByte('#')
					case color.RGBA{0, 0, 0, 255}:
						got.WriteByte('.')
					}
				}
			}
			require.Equal(t, tt.want, got.String())
		})
	}
}

func TestMask(t *testing.T) {
	tests := []struct {
		name  string
		width int
		rows  string
		area  int
		box   image.Rectangle
	}{
		{"empty", 3, "......", 0, image.Rectangle{}},
		{"one pixel", 3, ".....#", 1, image.Rect(2, 1, 3, 2)},
		{"full", 2, "####", 4, image.Rect(0, 0, 2, 2)},
		{"two parts", 4, "#......." + "......#.", 2, image.Rect(0, 0, 3, 4)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := imaging.NewMask(tt.width, len(tt.rows)/tt.width)
			for i := range tt.rows {
				if tt.rows[i] == '#' {
					m.Pix[i] = 1
				}
			}
			require.Equal(t, tt.area, m.Area())
			require.Equal(t, tt.box, m.Bounds())
		})
	}
	require.False(t, imaging.NewMask(1, 1).Inside(1, 0))
}

// TestMaskPNG: what is written is read back, in both depths.
func TestMaskPNG(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := imaging.NewMask(rapid.IntRange(1, 20).Draw(t, "width"), rapid.IntRange(1, 9).Draw(t, "height"))
		for i := range m.Pix {
			m.Pix[i] = rapid.SampledFrom([]uint8{0, 1, 255}).Draw(t, "level")
		}
		for mode, write := range map[string]func(*bytes.Buffer) error{
			"grey8": func(b *bytes.Buffer) error { return m.EncodePNG(b) },
			"grey1": func(b *bytes.Buffer) error { return m.EncodePNG1(b) },
		} {
			var b bytes.Buffer
			require.NoError(t, write(&b))
			c, err := imaging.DecodeConfig(bytes.NewReader(b.Bytes()), imaging.Options{})
			require.NoError(t, err)
			require.Equal(t, imaging.Config{Format: "PNG", Width: m.Width, Height: m.Height, Pages: 1, Mode: mode}, c)
			back, err := imaging.DecodeMask(&b, imaging.Options{})
			require.NoError(t, err)
			for i, v := range m.Pix {
				require.Equal(t, v != 0, back.Pix[i] == 255)
			}
		}
	})
}

func TestRGBPNG(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.IntRange(1, 9).Draw(t, "width"), rapid.IntRange(1, 9).Draw(t, "height")
		m := &imaging.RGB{Width: w, Height: h, Pix: rapid.SliceOfN(rapid.Byte(), 3*w*h, 3*w*h).Draw(t, "pixels")}
		var b bytes.Buffer
		require.NoError(t, m.EncodePNG(&b))
		back, err := imaging.Decode(&b, imaging.Options{})
		require.NoError(t, err)
		require.Equal(t, m, back)
	})
}
