package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/jpeg"
)

// jpegRatio: each block of 8x8 samples takes at least one bit in some scan, so 512 pixels a byte.
const jpegRatio = 512

// maxScans bounds the work that a progressive file can ask for; encoders write about ten scans.
const maxScans = 1000

func openJPEG(f *file) (Config, decode, error) {
	h, err := f.jpegHeader()
	if err != nil {
		return Config{}, nil, err
	}
	c := Config{Width: h.width, Height: h.height}
	switch h.channels {
	case 1:
		c.Mode = "grey8"
	case 3:
		c.Mode = "YCbCr8"
	case 4:
		c.Mode = "CMYK8"
	default:
		return Config{}, nil, f.unsupported("channels", "got %d, want 1, 3 or 4", h.channels)
	}
	if err := f.checkSize(c.Width, c.Height, 8, 8*jpegRatio/8); err != nil {
		return Config{}, nil, err
	}
	// Inside compressed data 0xff is followed by 0 or a restart marker, so that this counts scans, and a few more where
	// a preview is embedded.
	if n := bytes.Count(f.data, []byte{0xff, 0xda}); n > maxScans {
		return Config{}, nil, f.broken("scans", "got %d, the limit is %d", n, maxScans)
	}
	return c, func() (*RGB, error) {
		data := f.data
		plainCMYK := h.channels == 4 && !h.adobe
		if plainCMYK {
			// Go asks for Adobe's marker and inverts; without the marker the samples are not inverted.
			data = append([]byte("\xff\xd8\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00\x00"), f.data[2:]...)
		}
		img, err := jpeg.Decode(bytes.NewReader(data))
		if err != nil {
			if u, ok := err.(jpeg.UnsupportedError); ok {
				return nil, f.unsupported("coding", "%s", string(u))
			}
			return nil, f.decodeError(err)
		}
		switch m := img.(type) {
		case *image.YCbCr:
			return fromYCbCr(m), nil
		case *image.CMYK:
			if plainCMYK {
				for i, v := range m.Pix {
					m.Pix[i] = 255 - v
				}
			}
		}
		return fromGo(img), nil
	}, nil
}

type jpegHeader struct {
	width, height, channels int
	adobe                   bool
}

// jpegHeader walks the segments up to the frame header (SOF).
func (f *file) jpegHeader() (h jpegHeader, err error) {
	b := f.data[2:]
	for {
		if len(b) < 4 {
			return h, f.broken("header", "no frame header in %d bytes", len(f.data))
		}
		if b[0] != 0xff {
			return h, f.broken("header", "want a marker, got byte %#02x at offset %d", b[0], len(f.data)-len(b))
		}
		marker := b[1]
		if marker == 0xff || marker == 0x01 || marker >= 0xd0 && marker <= 0xd7 { // fill bytes and markers without content
			b = b[1:]
			if marker != 0xff {
				b = b[1:]
			}
			continue
		}
		n := int(binary.BigEndian.Uint16(b[2:]))
		if n < 2 || len(b) < 2+n {
			return h, f.broken(fmt.Sprintf("segment %#02x", marker), "has %d bytes, %d remain", n, len(b)-2)
		}
		segment := b[4 : 2+n]
		switch {
		case marker == 0xee && len(segment) >= 12 && string(segment[:5]) == "Adobe":
			h.adobe = true
		case marker == 0xda || marker == 0xd9:
			return h, f.broken("header", "the pixels come before the frame header")
		case marker >= 0xc0 && marker <= 0xcf && marker != 0xc4 && marker != 0xc8 && marker != 0xcc || marker == 0xf7:
			if len(segment) < 6 {
				return h, f.broken("frame header", "has %d bytes, want at least 6", len(segment))
			}
			if marker > 0xc2 {
				return h, f.unsupported("coding", "frame type %#02x (lossless, arithmetic, hierarchical or JPEG-LS)", marker)
			}
			if segment[0] != 8 {
				return h, f.unsupported("depth", "%d bits a sample, want 8", segment[0])
			}
			h.height, h.width = int(binary.BigEndian.Uint16(segment[1:])), int(binary.BigEndian.Uint16(segment[3:]))
			h.channels = int(segment[5])
			return h, nil
		}
		b = b[2+n:]
	}
}

// fromYCbCr converts full-range YCbCr (JFIF) with libjpeg's upsampling and 16-bit fixed-point coefficients.
func fromYCbCr(m *image.YCbCr) *RGB {
	b := m.Bounds()
	out := NewRGB(b.Dx(), b.Dy())
	var halfX, halfY bool
	switch m.SubsampleRatio {
	case image.YCbCrSubsampleRatio444:
	case image.YCbCrSubsampleRatio420:
		halfX, halfY = true, true
	case image.YCbCrSubsampleRatio422:
		halfX = true
	case image.YCbCrSubsampleRatio440:
		halfY = true
	default: // quarter chroma is repeated, there and here
		return fromAny(m)
	}
	cw, ch := out.Width, out.Height
	if halfX {
		cw = (cw + 1) / 2
	}
	if halfY {
		ch = (ch + 1) / 2
	}
	cb := newUpsampler(plane{m.Cb, cw, ch, m.CStride}, out.Width, halfX, halfY)
	cr := newUpsampler(plane{m.Cr, cw, ch, m.CStride}, out.Width, halfX, halfY)
	const half = 1 << 15
	for y := range out.Height {
		u, v := cb.full(y), cr.full(y)
		dst := out.Row(y)
		for x, l := range m.Y[y*m.YStride : y*m.YStride+out.Width] {
			y0, b0, r0 := int(l), int(u[x])-128, int(v[x])-128
			dst[3*x] = clipInt(y0 + (91881*r0+half)>>16)             // 1.402
			dst[3*x+1] = clipInt(y0 + (-22554*b0-46802*r0+half)>>16) // 0.344136, 0.714136
			dst[3*x+2] = clipInt(y0 + (116130*b0+half)>>16)          // 1.772
		}
	}
	return out
}

func clipInt(v int) uint8 { return uint8(max(0, min(v, 255))) }
