package imaging

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"image"

	"golang.org/x/image/vp8"
	"golang.org/x/image/vp8l"
)

// webpRatio is a plausible bound: both codings can shrink a picture of one colour without limit, but a photograph
// takes more than a bit for each 16x16 block. Pictures up to freeWebP pixels are not held to it.
const (
	webpRatio = 2048
	freeWebP  = 4096 * 4096
)

// openWebP reads still pictures, lossy (VP8) and lossless (VP8L). The alpha of lossy pictures is a chunk of its own,
// which is skipped.
func openWebP(f *file) (Config, decode, error) {
	for b := f.data[12:]; len(b) >= 8; {
		name, n := string(b[:4]), uint64(binary.LittleEndian.Uint32(b[4:]))
		body := b[8:]
		if n > uint64(len(body)) {
			return Config{}, nil, f.broken("chunk "+name, "has %d bytes, %d remain", n, len(body))
		}
		body = body[:n]
		switch name {
		case "VP8 ":
			return f.openVP8(body)
		case "VP8L":
			return f.openVP8L(body)
		case "ANIM", "ANMF":
			return Config{}, nil, f.unsupported("animation", "want a still picture")
		}
		next := 8 + n + n&1
		if next >= uint64(len(b)) {
			break
		}
		b = b[next:]
	}
	return Config{}, nil, f.broken("pixels", "the file has no VP8 or VP8L chunk")
}

func (f *file) openVP8(body []byte) (Config, decode, error) {
	d := vp8.NewDecoder()
	d.Init(bytes.NewReader(body), len(body))
	h, err := d.DecodeFrameHeader()
	if err != nil {
		return Config{}, nil, f.decodeError(err)
	}
	if err := f.checkWebP(h.Width, h.Height); err != nil {
		return Config{}, nil, err
	}
	return Config{Width: h.Width, Height: h.Height, Mode: "YCbCr8"}, func() (img *RGB, err error) {
		defer f.recovered(&err)
		m, err := d.DecodeFrame()
		if err != nil {
			return nil, f.decodeError(err)
		}
		return fromVP8(m), nil
	}, nil
}

func (f *file) openVP8L(body []byte) (Config, decode, error) {
	h, err := vp8l.DecodeConfig(bytes.NewReader(body))
	if err != nil {
		return Config{}, nil, f.decodeError(err)
	}
	if err := f.checkWebP(h.Width, h.Height); err != nil {
		return Config{}, nil, err
	}
	return Config{Width: h.Width, Height: h.Height, Mode: "RGBA8"}, func() (img *RGB, err error) {
		defer f.recovered(&err)
		m, err := vp8l.Decode(bytes.NewReader(body))
		if err != nil {
			return nil, f.decodeError(err)
		}
		return fromGo(m), nil
	}, nil
}

func (f *file) checkWebP(width, height int) error {
	ratio := float64(webpRatio)
	if width*height <= freeWebP {
		ratio = freeWebP
	}
	return f.checkSize(width, height, 8, ratio)
}

// recovered turns a panic of the VP8 decoders, which come from outside and are less travelled than the standard
// library's, into a broken file.
func (f *file) recovered(err *error) {
	if r := recover(); r != nil {
		*err = f.broken("pixels", "%s", fmt.Sprint(r))
	}
}

// fromVP8 converts video-range YCbCr as libwebp does: chroma upsampled with weights 9, 3, 3, 1 (of 16), then 14-bit
// fixed-point coefficients.
func fromVP8(m *image.YCbCr) *RGB {
	b := m.Bounds()
	out := NewRGB(b.Dx(), b.Dy())
	cw, ch := (out.Width+1)/2, (out.Height+1)/2
	u, v := plane{m.Cb, cw, ch, m.CStride}, plane{m.Cr, cw, ch, m.CStride}
	uRow, vRow := make([]uint8, out.Width+2), make([]uint8, out.Width+2)
	for y := range out.Height {
		near, far := y/2, y/2-1+2*(y&1) // above for even rows, below for odd ones
		vp8Row(uRow, u.row(near), u.row(far))
		vp8Row(vRow, v.row(near), v.row(far))
		dst := out.Row(y)
		for x, l := range m.Y[y*m.YStride : y*m.YStride+out.Width] {
			y0, u0, v0 := int(l)*19077>>8, int(uRow[x]), int(vRow[x])
			dst[3*x] = clipInt((y0 + v0*26149>>8 - 14234) >> 6)
			dst[3*x+1] = clipInt((y0 - u0*6419>>8 - v0*13320>>8 + 8708) >> 6)
			dst[3*x+2] = clipInt((y0 + u0*33050>>8 - 17685) >> 6)
		}
	}
	return out
}

// vp8Row upsamples one chroma row from its nearer and its farther source row. The weights 9, 3, 3, 1 come in two
// steps, as in libwebp: (n + (n + 3a + 3b + f + 4)/8)/2 with integer divisions, the inner sum written by diagonals.
func vp8Row(dst, near, far []uint8) {
	last := len(near) - 1
	dst[0] = uint8((3*int(near[0]) + int(far[0]) + 2) >> 2)
	for i := 0; i < last; i++ {
		tl, t, l, c := int(near[i]), int(near[i+1]), int(far[i]), int(far[i+1])
		avg := tl + t + l + c + 8
		d12 := (avg + 2*(t+l)) >> 3
		d03 := (avg + 2*(tl+c)) >> 3
		dst[2*i+1] = uint8((d12 + tl) >> 1)
		dst[2*i+2] = uint8((d03 + t) >> 1)
	}
	if n := 2*last + 1; n < len(dst) {
		dst[n] = uint8((3*int(near[last]) + int(far[last]) + 2) >> 2)
	}
}
