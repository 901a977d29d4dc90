// Package imaging turns image files into the 8-bit RGB that the model sees, with the colour rules of the reference
// (Pillow 10.2, convert("RGB")), and masks into PNG files.
//
// Alpha is dropped, never composited. EXIF orientation, gamma, colour profiles and transparent colour keys are
// ignored. Grey of more than 8 bits is refused unless the caller chooses a window or the reference's clipping.
//
// All functions are safe for concurrent use. Values may be read by many goroutines at once.
package imaging

import (
	"image"
	"image/color"
)

// An RGB is an 8-bit RGB image. It implements image.Image.
type RGB struct {
	// Width and Height are in pixels, both at least 1.
	Width, Height int
	// Pix holds 3*Width*Height values 0..255: row by row from the top, R, G, B of each pixel.
	Pix []uint8
}

// NewRGB returns a black image.
func NewRGB(width, height int) *RGB {
	return &RGB{Width: width, Height: height, Pix: make([]uint8, 3*width*height)}
}

// Clone returns a copy that shares nothing with m.
func (m *RGB) Clone() *RGB {
	c := *m
	c.Pix = append([]uint8(nil), m.Pix...)
	return &c
}

// ColorModel implements image.Image.
func (m *RGB) ColorModel() color.Model { return color.RGBAModel }

// Bounds implements image.Image. The origin is (0, 0).
func (m *RGB) Bounds() image.Rectangle { return image.Rect(0, 0, m.Width, m.Height) }

// At implements image.Image. Outside the bounds it is transparent black.
func (m *RGB) At(x, y int) color.Color {
	if !(image.Point{X: x, Y: y}).In(m.Bounds()) {
		return color.RGBA{}
	}
	p := m.Pix[3*(y*m.Width+x):]
	return color.RGBA{R: p[0], G: p[1], B: p[2], A: 255}
}

// Row returns row y of the pixels, 3*Width values that alias m.
func (m *RGB) Row(y int) []uint8 { return m.Pix[3*y*m.Width : 3*(y+1)*m.Width] }

// A Mask says for every pixel of an image whether it is inside.
type Mask struct {
	// Width and Height are in pixels.
	Width, Height int
	// Pix holds Width*Height values, row by row from the top: 0 is outside, anything else inside.
	// Masks made here hold 0 and 1; decoded masks keep the grey levels of their file.
	Pix []uint8
}

// NewMask returns an empty mask.
func NewMask(width, height int) *Mask {
	return &Mask{Width: width, Height: height, Pix: make([]uint8, width*height)}
}

// Inside reports whether the pixel (x, y) is inside. Pixels beyond the image are not.
func (m *Mask) Inside(x, y int) bool {
	return x >= 0 && y >= 0 && x < m.Width && y < m.Height && m.Pix[y*m.Width+x] != 0
}

// Area returns the number of pixels inside.
func (m *Mask) Area() int {
	n := 0
	for _, v := range m.Pix {
		if v != 0 {
			n++
		}
	}
	return n
}

// Bounds returns the smallest rectangle that holds every inside pixel; Max is exclusive. It is empty if none is.
func (m *Mask) Bounds() image.Rectangle {
	var r image.Rectangle
	for y := range m.Height {
		row := m.Pix[y*m.Width : (y+1)*m.Width]
		first := -1
		for x, v := range row {
			if v != 0 {
				first = x
				break
			}
		}
		if first < 0 {
			continue
		}
		last := len(row) - 1
		for row[last] == 0 {
			last--
		}
		// Rectangle.Union skips empty rectangles, so the first row needs no special case.
		r = r.Union(image.Rect(first, y, last+1, y+1))
	}
	return r
}

// FromImage converts an image in memory. Alpha is dropped: what is stored under transparent pixels shows. Grey of
// 16 bits needs a window first and gives an UnsupportedError; a size of zero gives a FormatError.
func FromImage(img image.Image) (*RGB, error) {
	size := img.Bounds().Size()
	if size.X <= 0 || size.Y <= 0 {
		return nil, &FormatError{Format: "image", Field: "size", Msg: sizeText(size.X, size.Y)}
	}
	switch m := img.(type) {
	case *RGB:
		return m.Clone(), nil
	case *image.Gray16:
		return nil, &UnsupportedError{Format: "image", Field: "grey levels", Msg: grey16Advice("16-bit grey")}
	}
	return fromGo(img), nil
}

// fromGo converts what Go's decoders return.
func fromGo(img image.Image) *RGB {
	b := img.Bounds()
	out := NewRGB(b.Dx(), b.Dy())
	switch m := img.(type) {
	case *image.Gray:
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			greyRow(out.Row(y), m.Pix[o:o+out.Width])
		}
	case *image.NRGBA:
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			pickRow(out.Row(y), m.Pix[o:o+4*out.Width], 4, 1)
		}
	case *image.RGBA:
		if !m.Opaque() {
			return fromAny(img)
		}
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			pickRow(out.Row(y), m.Pix[o:o+4*out.Width], 4, 1)
		}
	case *image.NRGBA64: // the high byte of each channel
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			pickRow(out.Row(y), m.Pix[o:o+8*out.Width], 8, 2)
		}
	case *image.RGBA64:
		if !m.Opaque() {
			return fromAny(img)
		}
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			pickRow(out.Row(y), m.Pix[o:o+8*out.Width], 8, 2)
		}
	case *image.Paletted:
		var table [256][3]uint8
		for i, c := range m.Palette {
			if i < len(table) {
				table[i] = straight(c)
			}
		}
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			paletteRow(out.Row(y), m.Pix[o:o+out.Width], &table)
		}
	case *image.CMYK:
		for y := range out.Height {
			o := m.PixOffset(b.Min.X, b.Min.Y+y)
			cmykRow(out.Row(y), m.Pix[o:o+4*out.Width], 4)
		}
	default:
		return fromAny(img)
	}
	return out
}

// fromAny is the slow way, through the colour model of each pixel.
func fromAny(img image.Image) *RGB {
	b := img.Bounds()
	out := NewRGB(b.Dx(), b.Dy())
	for y := range out.Height {
		row := out.Row(y)
		for x := range out.Width {
			c := straight(img.At(b.Min.X+x, b.Min.Y+y))
			copy(row[3*x:], c[:])
		}
	}
	return out
}

// straight returns the colour without its alpha. NRGBA values keep what lies under full transparency.
func straight(c color.Color) [3]uint8 {
	n := color.NRGBAModel.Convert(c).(color.NRGBA)
	return [3]uint8{n.R, n.G, n.B}
}

func greyRow(dst, src []uint8) {
	for x, v := range src {
		d := dst[3*x : 3*x+3]
		d[0], d[1], d[2] = v, v, v
	}
}

// pickRow takes the first three channels of pixels that are stride bytes apart, a channel each step bytes.
func pickRow(dst, src []uint8, stride, step int) {
	for i, j := 0, 0; i+2 < len(dst); i, j = i+3, j+stride {
		dst[i], dst[i+1], dst[i+2] = src[j], src[j+step], src[j+2*step]
	}
}

func paletteRow(dst, src []uint8, table *[256][3]uint8) {
	for x, v := range src {
		copy(dst[3*x:3*x+3], table[v][:])
	}
}

// cmykRow is Pillow's conversion: with n = 255-K, each channel is n - C*n/255, the division rounded.
// Pixels are stride bytes apart.
func cmykRow(dst, src []uint8, stride int) {
	for i, j := 0, 0; i+2 < len(dst); i, j = i+3, j+stride {
		n := 255 - int(src[j+3])
		for c := range 3 {
			t := int(src[j+c])*n + 128
			dst[i+c] = uint8(max(0, n-(t+t>>8)>>8))
		}
	}
}
