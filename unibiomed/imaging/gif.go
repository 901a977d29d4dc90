package imaging

import (
	"bytes"
	"compress/lzw"
	"encoding/binary"
	"fmt"
	"io"
)

// lzwRatio is the most that LZW with 12-bit codes can shrink: strings of 4096 bytes in one code.
const lzwRatio = 2731

// openGIF reads the first frame. Go's decoder would replace the colour of the transparent palette entry, which shows
// here.
func openGIF(f *file) (Config, decode, error) {
	g, err := f.gifHeader()
	if err != nil {
		return Config{}, nil, err
	}
	c := Config{Width: g.width, Height: g.height, Mode: "palette8"}
	if err := f.checkSize(c.Width, c.Height, 8, lzwRatio); err != nil {
		return Config{}, nil, err
	}
	return c, func() (*RGB, error) { return f.gifFrame(g) }, nil
}

type gifHeader struct {
	width, height         int // of the canvas, grown where the frame exceeds it
	x, y, fWidth, fHeight int // of the frame
	interlaced            bool
	background            uint8 // palette index around the frame
	palette               [256][3]uint8
	codeBits              int
	data                  []byte // sub-blocks of the compressed indices
}

func (f *file) gifHeader() (g gifHeader, err error) {
	b := f.data
	if len(b) < 13 {
		return g, f.broken("header", "has %d bytes, want 13", len(b))
	}
	g.width, g.height = int(binary.LittleEndian.Uint16(b[6:])), int(binary.LittleEndian.Uint16(b[8:]))
	for i := range g.palette { // without any palette, indices are grey levels
		g.palette[i] = [3]uint8{uint8(i), uint8(i), uint8(i)}
	}
	flags := b[10]
	if b, err = f.gifPalette(&g, b[13:], flags); err != nil {
		return g, err
	}
	for len(b) > 0 {
		switch b[0] {
		case 0x21: // extension: label, sub-blocks
			if len(b) < 2 {
				return g, f.broken("extension", "is cut")
			}
			label := b[1]
			body := b[2:]
			if label == 0xf9 && len(body) >= 5 && body[0] >= 4 && body[1]&1 != 0 {
				g.background = body[4]
			}
			if b, err = f.gifSkip(body); err != nil {
				return g, err
			}
		case 0x2c: // frame
			if len(b) < 10 {
				return g, f.broken("frame", "its header is cut")
			}
			g.x, g.y = int(binary.LittleEndian.Uint16(b[1:])), int(binary.LittleEndian.Uint16(b[3:]))
			g.fWidth, g.fHeight = int(binary.LittleEndian.Uint16(b[5:])), int(binary.LittleEndian.Uint16(b[7:]))
			if g.fWidth == 0 || g.fHeight == 0 {
				return g, f.broken("frame size", "%s", sizeText(g.fWidth, g.fHeight))
			}
			g.width, g.height = max(g.width, g.x+g.fWidth), max(g.height, g.y+g.fHeight)
			flags := b[9]
			g.interlaced = flags&0x40 != 0
			if b, err = f.gifPalette(&g, b[10:], flags); err != nil {
				return g, err
			}
			if len(b) < 1 {
				return g, f.broken("frame", "has no pixels")
			}
			if g.codeBits = int(b[0]); g.codeBits < 2 || g.codeBits > 8 {
				return g, f.broken("code size", "got %d bits, want 2 to 8", g.codeBits)
			}
			g.data = b[1:]
			return g, nil
		case 0x3b:
			return g, f.broken("frame", "the file has none")
		default:
			return g, f.broken("block", "unknown type %#02x at offset %d", b[0], len(f.data)-len(b))
		}
	}
	return g, f.broken("frame", "the file ends before it")
}

// gifPalette reads the palette that flags announce, and returns what follows it.
func (f *file) gifPalette(g *gifHeader, b []byte, flags byte) ([]byte, error) {
	if flags&0x80 == 0 {
		return b, nil
	}
	n := 2 << (flags & 7)
	if len(b) < 3*n {
		return nil, f.broken("palette", "%d colours need %d bytes, %d remain", n, 3*n, len(b))
	}
	g.palette = [256][3]uint8{}
	for i := range n {
		copy(g.palette[i][:], b[3*i:])
	}
	return b[3*n:], nil
}

func (f *file) gifSkip(b []byte) ([]byte, error) {
	for len(b) > 0 {
		n := int(b[0])
		if n == 0 {
			return b[1:], nil
		}
		if len(b) < 1+n {
			break
		}
		b = b[1+n:]
	}
	return nil, f.broken("extension", "is cut")
}

func (f *file) gifFrame(g gifHeader) (*RGB, error) {
	out := NewRGB(g.width, g.height)
	for i := 0; i < len(out.Pix); i += 3 {
		copy(out.Pix[i:i+3], g.palette[g.background][:])
	}
	r := lzw.NewReader(&subBlocks{rest: g.data}, lzw.LSB, g.codeBits)
	defer r.Close()
	row := make([]uint8, g.fWidth)
	for n := range g.fHeight {
		if _, err := io.ReadFull(r, row); err != nil {
			return nil, f.broken("pixels", "row %d of %d: %v", n, g.fHeight, err)
		}
		y := n
		if g.interlaced {
			y = interlacedRow(n, g.fHeight)
		}
		dst := out.Row(g.y + y)
		paletteRow(dst[3*g.x:3*(g.x+g.fWidth)], row, &g.palette)
	}
	return out, nil
}

// interlacedRow maps the n-th stored row to its place: every 8th from 0, every 8th from 4, every 4th from 2, every 2nd
// from 1.
func interlacedRow(n, height int) int {
	for _, pass := range [...]struct{ start, step int }{{0, 8}, {4, 8}, {2, 4}, {1, 2}} {
		rows := (height - pass.start + pass.step - 1) / pass.step
		if n < rows {
			return pass.start + n*pass.step
		}
		n -= rows
	}
	panic(fmt.Sprintf("imaging: row %d of %d", n, height)) // unreachable: the passes cover every row
}

// subBlocks reads GIF data that comes in blocks of a length byte and up to 255 bytes, ended by a block of length 0.
type subBlocks struct {
	rest  []byte
	block bytes.Reader
	done  bool
}

func (s *subBlocks) next() error {
	for s.block.Len() == 0 {
		if s.done {
			return io.EOF
		}
		if len(s.rest) == 0 {
			return io.ErrUnexpectedEOF
		}
		n := int(s.rest[0])
		if n == 0 {
			s.done = true
			continue
		}
		n = min(n, len(s.rest)-1)
		if n == 0 {
			return io.ErrUnexpectedEOF
		}
		s.block.Reset(s.rest[1 : 1+n])
		s.rest = s.rest[1+n:]
	}
	return nil
}

// ReadByte implements io.ByteReader, so that the LZW reader needs no buffer.
func (s *subBlocks) ReadByte() (byte, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	return s.block.ReadByte()
}

func (s *subBlocks) Read(p []byte) (int, error) {
	if err := s.next(); err != nil {
		return 0, err
	}
	return s.block.Read(p)
}
