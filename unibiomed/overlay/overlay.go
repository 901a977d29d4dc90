// Package overlay draws masks over an image for people to look at. The pictures are for eyes only: colours are mixed, so
// that pixel values no longer are the image's.
//
// All functions only read their inputs and are safe for concurrent use.
package overlay

import (
	"fmt"
	"image"
	"image/color"
	"io"

	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// An Item is a mask and what it shows.
type Item struct {
	Mask   *imaging.Mask // of the image's size
	Phrase string        // for the legend, may be empty
}

// colours can be told apart with any kind of colour vision (Okabe and Ito, Color Universal Design), the vivid ones first.
var colours = [...]color.RGBA{
	{230, 159, 0, 255}, {86, 180, 233, 255}, {0, 158, 115, 255}, {240, 228, 66, 255}, {213, 94, 0, 255}, {204, 121, 167, 255}, {0, 114, 178, 255},
}

// Color returns the colour of item i; after seven they repeat.
func Color(i int) color.RGBA { return colours[i%len(colours)] }

const (
	opacity    = 0.35 // of the inside of a mask; contours are solid
	maxLines   = 24   // of the legend
	minWidth   = 200  // of a picture with a legend
	lineHeight = 18
	margin     = 6
	swatch     = 12
)

// Draw returns a copy of img with each mask as a translucent area and a solid contour, later items over earlier ones,
// and below the image a legend of the phrases. The picture is taller than img by the legend, and wider where img is
// narrower than 200 pixels.
func Draw(img *imaging.RGB, items []Item) (*imaging.RGB, error) {
	for i, it := range items {
		if it.Mask == nil || it.Mask.Width != img.Width || it.Mask.Height != img.Height {
			return nil, fmt.Errorf("overlay: mask %d is not of the image's size %dx%d", i, img.Width, img.Height)
		}
	}
	out := img.Clone()
	for i, it := range items {
		paint(out, it.Mask, Color(i))
	}
	lines := legend(items)
	if len(lines) == 0 {
		return out, nil
	}
	scale := min(4, max(1, img.Width/800))
	framed := imaging.NewRGB(max(img.Width, minWidth), img.Height+scale*(lineHeight*len(lines)+margin))
	for y := range img.Height {
		copy(framed.Row(y), out.Row(y))
	}
	for i, l := range lines {
		l.draw(framed, img.Height+scale*(lineHeight*i+margin), scale)
	}
	return framed, nil
}

// WritePNG draws as Draw does and writes the picture as a PNG.
func WritePNG(w io.Writer, img *imaging.RGB, items []Item) error {
	out, err := Draw(img, items)
	if err != nil {
		return err
	}
	return out.EncodePNG(w)
}

// paint mixes the colour into the inside and draws the contour: inside pixels that have outside within reach to the left,
// right, top or bottom. The edge of the image is no contour.
func paint(img *imaging.RGB, m *imaging.Mask, c color.RGBA) {
	reach := max(1, min(img.Width, img.Height)/400)
	outside := func(x, y int) bool {
		x, y = max(0, min(x, m.Width-1)), max(0, min(y, m.Height-1))
		return m.Pix[y*m.Width+x] == 0
	}
	for y := range m.Height {
		row := img.Row(y)
		for x, v := range m.Pix[y*m.Width : (y+1)*m.Width] {
			if v == 0 {
				continue
			}
			share := opacity
			if outside(x-reach, y) || outside(x+reach, y) || outside(x, y-reach) || outside(x, y+reach) {
				share = 1
			}
			p := row[3*x : 3*x+3]
			for k, to := range [...]uint8{c.R, c.G, c.B} {
				p[k] = uint8(float64(p[k])*(1-share) + float64(to)*share + 0.5)
			}
		}
	}
}

// A line of the legend. Lines without a colour have no swatch.
type line struct {
	text string
	c    color.RGBA
}

func legend(items []Item) []line {
	var lines []line
	for i, it := range items {
		if it.Phrase == "" {
			continue
		}
		if len(lines) == maxLines {
			lines = append(lines, line{text: fmt.Sprintf("and %d more", len(items)-i)})
			break
		}
		text := it.Phrase
		if it.Mask.Area() == 0 {
			text += " (no pixels)"
		}
		lines = append(lines, line{text, Color(i)})
	}
	return lines
}

// draw writes the line at row y0, every pixel of it scale x scale. Text that does not fit is cut with "...".
func (l line) draw(img *imaging.RGB, y0, scale int) {
	face := basicfont.Face7x13
	width := img.Width / scale
	small := image.NewGray(image.Rect(0, 0, width, lineHeight))
	x := margin + swatch + margin
	text := []rune(l.text)
	if fits := (width - x) / face.Advance; len(text) > fits {
		text = append(text[:max(0, fits-3)], []rune("...")...)
	}
	d := font.Drawer{Dst: small, Src: image.White, Face: face, Dot: fixed.P(x, face.Ascent+1)}
	d.DrawString(string(text))
	for y := range lineHeight * scale {
		if y0+y >= img.Height {
			break
		}
		row := img.Row(y0 + y)
		for x := range width * scale {
			sx, sy := x/scale, y/scale
			p := row[3*x : 3*x+3]
			if sx >= margin && sx < margin+swatch && sy < swatch {
				p[0], p[1], p[2] = l.c.R, l.c.G, l.c.B
				continue
			}
			v := small.GrayAt(sx, sy).Y
			p[0], p[1], p[2] = v, v, v
		}
	}
}
