package imaging

import (
	"bufio"
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"hash/crc32"
	"image"
	"image/png"
	"io"
)

// EncodePNG writes m as an 8-bit RGB PNG.
func (m *RGB) EncodePNG(w io.Writer) error { return png.Encode(w, m.opaque()) }

// opaque copies m into the type that the encoder writes without asking every pixel.
func (m *RGB) opaque() *image.RGBA {
	out := image.NewRGBA(m.Bounds())
	for i, j := 0, 0; i < len(m.Pix); i, j = i+3, j+4 {
		out.Pix[j], out.Pix[j+1], out.Pix[j+2], out.Pix[j+3] = m.Pix[i], m.Pix[i+1], m.Pix[i+2], 255
	}
	return out
}

// EncodePNG writes m as an 8-bit grey PNG: 255 inside, 0 outside.
func (m *Mask) EncodePNG(w io.Writer) error {
	grey := image.NewGray(image.Rect(0, 0, m.Width, m.Height))
	for i, v := range m.Pix {
		if v != 0 {
			grey.Pix[i] = 255
		}
	}
	return png.Encode(w, grey)
}

// EncodePNG1 writes m as a 1-bit grey PNG: white inside, black outside. It is the smallest file that every program
// reads.
func (m *Mask) EncodePNG1(w io.Writer) error {
	if m.Width < 1 || m.Height < 1 {
		return &FormatError{Format: "PNG", Field: "size", Msg: sizeText(m.Width, m.Height)}
	}
	// Go's encoder has no 1-bit grey, so the three chunks are written here.
	var body bytes.Buffer
	z := zlib.NewWriter(&body)
	row := make([]byte, 1+(m.Width+7)/8) // filter type 0, then eight pixels a byte, the leftmost in the highest bit
	for y := range m.Height {
		clear(row)
		for x, v := range m.Pix[y*m.Width : (y+1)*m.Width] {
			if v != 0 {
				row[1+x/8] |= 0x80 >> (x % 8)
			}
		}
		z.Write(row) // a bytes.Buffer takes everything
	}
	z.Close()

	header := make([]byte, 13)
	binary.BigEndian.PutUint32(header, uint32(m.Width))
	binary.BigEndian.PutUint32(header[4:], uint32(m.Height))
	header[8] = 1 // depth; colour type, compression, filter and interlace are 0
	b := bufio.NewWriter(w)
	b.WriteString("\x89PNG\r\n\x1a\n")
	writeChunk(b, "IHDR", header)
	writeChunk(b, "IDAT", body.Bytes())
	writeChunk(b, "IEND", nil)
	return b.Flush() // the first error sticks to the writer
}

func writeChunk(b *bufio.Writer, name string, data []byte) {
	var n [4]byte
	binary.BigEndian.PutUint32(n[:], uint32(len(data)))
	b.Write(n[:])
	b.WriteString(name)
	b.Write(data)
	sum := crc32.Update(crc32.ChecksumIEEE([]byte(name)), crc32.IEEETable, data)
	binary.BigEndian.PutUint32(n[:], sum)
	b.Write(n[:])
}
