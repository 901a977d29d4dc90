package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"
	"image/png"
)

// deflateRatio is the most that deflate can shrink: 258 bytes in a length and a distance code of one bit each.
const deflateRatio = 1032

func openPNG(f *file) (Config, decode, error) {
	// Signature, then the IHDR chunk: length, name, width, height, depth, colour type, ..., interlace, checksum.
	if len(f.data) < 33 || string(f.data[12:16]) != "IHDR" {
		return Config{}, nil, f.broken("header", "the IHDR chunk is missing or cut, the file has %d bytes", len(f.data))
	}
	width, height := binary.BigEndian.Uint32(f.data[16:]), binary.BigEndian.Uint32(f.data[20:])
	depth, colour := f.data[24], f.data[25]
	kinds := map[byte]struct {
		name     string
		channels int
	}{0: {"grey", 1}, 2: {"RGB", 3}, 3: {"palette", 1}, 4: {"grey+alpha", 2}, 6: {"RGBA", 4}}
	kind, ok := kinds[colour]
	if !ok {
		return Config{}, nil, f.broken("colour type", "got %d, want 0, 2, 3, 4 or 6", colour)
	}
	c := Config{Width: int(width), Height: int(height), Mode: fmt.Sprintf("%s%d", kind.name, depth)}
	if err := f.checkSize(c.Width, c.Height, float64(kind.channels)*float64(depth), deflateRatio); err != nil {
		return Config{}, nil, err
	}
	return c, func() (*RGB, error) {
		deepGrey := colour == 0 && depth == 16
		level := clip8
		if deepGrey {
			var err error
			if level, err = f.grey("16-bit grey"); err != nil {
				return nil, err
			}
		}
		img, err := png.Decode(bytes.NewReader(f.data))
		if err != nil {
			return nil, f.decodeError(err)
		}
		if !deepGrey {
			return fromGo(img), nil
		}
		// A transparent grey level makes the decoder return four channels, of which the first is the grey.
		var pix []uint8
		step := 2
		switch m := img.(type) {
		case *image.Gray16:
			pix = m.Pix
		case *image.NRGBA64:
			pix, step = m.Pix, 8
		default:
			return nil, f.broken("pixels", "16-bit grey decoded as %T", img)
		}
		out := NewRGB(c.Width, c.Height)
		for i := range c.Width * c.Height {
			v := level(float64(binary.BigEndian.Uint16(pix[step*i:])))
			out.Pix[3*i], out.Pix[3*i+1], out.Pix[3*i+2] = v, v, v
		}
		return out, nil
	}, nil
}
