package imaging

import (
	"bytes"
	"compress/zlib"
	"encoding/binary"
	"fmt"
	"io"
	"math"

	"golang.org/x/image/tiff/lzw"
)

// TIFF tags and values, by their names in the TIFF 6.0 specification.
const (
	tagWidth           = 256
	tagHeight          = 257
	tagBits            = 258
	tagCompression     = 259
	tagPhotometric     = 262
	tagFillOrder       = 266
	tagOrientation     = 274
	tagStripOffsets    = 273
	tagSamples         = 277
	tagRowsPerStrip    = 278
	tagStripByteCounts = 279
	tagPlanar          = 284
	tagPredictor       = 317
	tagColorMap        = 320
	tagTileWidth       = 322
	tagTileHeight      = 323
	tagTileOffsets     = 324
	tagTileByteCounts  = 325
	tagExtraSamples    = 338
	tagSampleFormat    = 339

	compressionNone     = 1
	compressionLZW      = 5
	compressionDeflate  = 8
	compressionPackBits = 32773
	compressionDeflate2 = 32946 // the number used before 8 was assigned

	photoWhiteIsZero = 0
	photoBlackIsZero = 1
	photoRGB         = 2
	photoPalette     = 3
	photoCMYK        = 5

	formatUint, formatInt, formatFloat = 1, 2, 3
)

// tiffRatio is the most that each compression can shrink.
var tiffRatio = map[uint64]float64{
	compressionNone: 1, compressionPackBits: 64, compressionLZW: lzwRatio, compressionDeflate: deflateRatio, compressionDeflate2: deflateRatio,
}

// A tiffImage is one page of a TIFF: grey of any depth, palette, RGB or CMYK, with extra samples ignored. Unlike in
// JPEG files, the orientation tag is applied: Pillow does so while it loads a TIFF.
type tiffImage struct {
	f                      *file
	order                  binary.ByteOrder
	directory              uint64 // where the tags of the page are
	width, height          int
	bits, samples          int // of one sample; samples of one pixel
	format, photo          uint64
	compression, predictor uint64
	segWidth, segHeight    int // of a tile, or of a strip as wide as the image
	planes                 int // 1 when the samples of a pixel lie together, else one plane a sample
	offsets, counts        []uint64
	palette                [256][3]uint8
	premultiplied          bool
	orientation            uint64 // 1 to 8 as in the specification
}

func openTIFF(f *file) (Config, decode, error) {
	t := &tiffImage{f: f, order: binary.LittleEndian}
	if f.data[0] == 'M' {
		t.order = binary.BigEndian
	}
	pages, err := t.pages()
	if err != nil {
		return Config{}, nil, err
	}
	t.directory = pages[min(max(f.Page, 0), len(pages)-1)] // a page that is not there is the caller's to refuse
	if err := t.header(); err != nil {
		return Config{}, nil, err
	}
	names := map[uint64]string{photoWhiteIsZero: "grey", photoBlackIsZero: "grey", photoRGB: "RGB", photoPalette: "palette", photoCMYK: "CMYK"}
	mode := fmt.Sprintf("%s%d", names[t.photo], t.bits)
	if t.format == formatFloat {
		mode += " float"
	}
	c := Config{Width: t.width, Height: t.height, Pages: len(pages), Mode: mode}
	if t.orientation >= 5 && t.orientation <= 8 {
		c.Width, c.Height = c.Height, c.Width
	}
	return c, func() (*RGB, error) {
		m, err := t.pixels()
		if err != nil {
			return nil, err
		}
		return orient(m, t.orientation), nil
	}, nil
}

// header reads the tags of the page and checks that what follows can rely on them.
func (t *tiffImage) header() error {
	tags, err := t.tags()
	if err != nil {
		return err
	}
	one := func(tag int, missing uint64) uint64 {
		if v := tags[tag]; len(v) > 0 {
			return v[0]
		}
		return missing
	}
	f := t.f
	width, height := one(tagWidth, 0), one(tagHeight, 0)
	samples := one(tagSamples, 1)
	depth := one(tagBits, 1)
	for i, b := range tags[tagBits] {
		if b != depth {
			return f.unsupported("bits per sample", "%d for sample 0, %d for sample %d", depth, b, i)
		}
	}
	t.format = one(tagSampleFormat, formatUint)
	t.photo = one(tagPhotometric, photoBlackIsZero)
	t.compression = one(tagCompression, compressionNone)
	t.predictor = one(tagPredictor, 1)
	if extra := tags[tagExtraSamples]; len(extra) > 0 {
		t.premultiplied = extra[0] == 1
	}

	// What this reader knows.
	want := uint64(1)
	switch t.photo {
	case photoWhiteIsZero, photoBlackIsZero, photoPalette:
	case photoRGB:
		want = 3
	case photoCMYK:
		want = 4
	default:
		return f.unsupported("photometric interpretation", "got %d, want grey, palette, RGB or CMYK", t.photo)
	}
	if samples < want {
		return f.broken("samples per pixel", "got %d, want at least %d", samples, want)
	}
	if samples > 16 {
		return f.unsupported("samples per pixel", "got %d, want at most 16", samples)
	}
	grey := t.photo == photoWhiteIsZero || t.photo == photoBlackIsZero
	switch {
	case depth == 8 && t.format == formatUint:
	case (depth == 1 || depth == 2 || depth == 4) && t.format == formatUint && samples == 1:
	case depth == 16 && t.format == formatUint && t.photo == photoRGB:
	case (depth == 16 || depth == 32) && t.format != formatFloat && t.format <= formatInt && t.photo == photoBlackIsZero:
	case (depth == 32 || depth == 64) && t.format == formatFloat && grey && t.photo == photoBlackIsZero:
	default:
		return f.unsupported("samples", "%d bits of sample format %d, %d a pixel, photometric interpretation %d", depth, t.format, samples, t.photo)
	}
	ratio, known := tiffRatio[t.compression]
	if !known {
		return f.unsupported("compression", "type %d, want none, LZW, deflate or PackBits", t.compression)
	}
	if t.predictor != 1 && (t.predictor != 2 || depth < 8 || t.format == formatFloat) {
		return f.unsupported("predictor", "type %d for samples of %d bits", t.predictor, depth)
	}
	t.orientation = one(tagOrientation, 1)
	if v := one(tagFillOrder, 1); v != 1 {
		return f.unsupported("fill order", "got %d, want 1", v)
	}
	t.planes = 1
	switch v := one(tagPlanar, 1); {
	case v == 2 && samples > 1:
		t.planes = int(samples)
	case v > 2:
		return f.broken("planar configuration", "got %d, want 1 or 2", v)
	}
	t.width, t.height, t.samples, t.bits = int(width), int(height), int(samples), int(depth)
	if err := f.checkSize(t.width, t.height, float64(samples*depth), ratio); err != nil {
		return err
	}

	// Strips or tiles.
	segWidth, segHeight := width, min(one(tagRowsPerStrip, height), height)
	offsets, counts := tags[tagStripOffsets], tags[tagStripByteCounts]
	if _, tiled := tags[tagTileOffsets]; tiled {
		offsets, counts = tags[tagTileOffsets], tags[tagTileByteCounts]
		segWidth, segHeight = one(tagTileWidth, 0), one(tagTileHeight, 0)
	}
	if segWidth == 0 || segHeight == 0 {
		return f.broken("strip or tile size", "got %dx%d", segWidth, segHeight)
	}
	// Tiles are stored whole even where they exceed the image, so they obey the same bounds.
	if err := f.checkSize(int(segWidth), int(segHeight), float64(samples*depth)/float64(t.planes), ratio); err != nil {
		return err
	}
	t.segWidth, t.segHeight = int(segWidth), int(segHeight)
	across, down := (t.width+t.segWidth-1)/t.segWidth, (t.height+t.segHeight-1)/t.segHeight
	n := across * down * t.planes
	if len(offsets) < n {
		return f.broken("strip or tile offsets", "got %d, want %d", len(offsets), n)
	}
	if len(counts) == 0 && n == 1 && t.compression == compressionNone { // some writers leave the only one out
		counts = []uint64{uint64(t.rowBytes() * t.segHeight)}
	}
	if len(counts) < n {
		return f.broken("strip or tile byte counts", "got %d, want %d", len(counts), n)
	}
	t.offsets, t.counts = offsets[:n], counts[:n]
	for i, at := range t.offsets {
		if at > uint64(len(f.data)) || t.counts[i] > uint64(len(f.data))-at {
			return f.broken(fmt.Sprintf("strip or tile %d", i), "%d bytes at %d, the file has %d", t.counts[i], at, len(f.data))
		}
	}
	if t.photo == photoPalette {
		m := tags[tagColorMap]
		colours := 1 << t.bits
		if len(m) < 3*colours {
			return f.broken("colour map", "got %d values, want %d", len(m), 3*colours)
		}
		for i := range colours {
			t.palette[i] = [3]uint8{uint8(m[i] >> 8), uint8(m[colours+i] >> 8), uint8(m[2*colours+i] >> 8)}
		}
	}
	return nil
}

// maxTIFFValues bounds the values of one tag: a million strips or tiles.
const maxTIFFValues = 1 << 20

// maxTIFFPages bounds the pages of a file.
const maxTIFFPages = 1 << 16

// pages returns where the directories of the pages are. A chain that is broken after the first page ends there.
func (t *tiffImage) pages() ([]uint64, error) {
	b, f := t.f.data, t.f
	if len(b) < 8 {
		return nil, f.broken("header", "has %d bytes, want 8", len(b))
	}
	var pages []uint64
	seen := map[uint64]bool{}
	for at := uint64(t.order.Uint32(b[4:])); len(pages) < maxTIFFPages; {
		if at+2 > uint64(len(b)) && len(pages) == 0 {
			return nil, f.broken("directory", "at byte %d, the file has %d", at, len(b))
		}
		if at == 0 && len(pages) > 0 || at+2 > uint64(len(b)) || seen[at] {
			break
		}
		pages, seen[at] = append(pages, at), true
		next := at + 2 + 12*uint64(t.order.Uint16(b[at:]))
		if next+4 > uint64(len(b)) {
			break
		}
		at = uint64(t.order.Uint32(b[next:]))
	}
	return pages, nil
}

// tags reads the integer tags of the page's directory that this reader uses.
func (t *tiffImage) tags() (map[int][]uint64, error) {
	b, f, at := t.f.data, t.f, t.directory
	n := uint64(t.order.Uint16(b[at:]))
	if at+2+12*n > uint64(len(b)) {
		return nil, f.broken("directory", "%d entries at byte %d, the file has %d", n, at, len(b))
	}
	tags := map[int][]uint64{}
	for i := range n {
		e := b[at+2+12*i:]
		tag, kind, count := int(t.order.Uint16(e)), t.order.Uint16(e[2:]), uint64(t.order.Uint32(e[4:]))
		switch tag {
		case tagWidth, tagHeight, tagBits, tagCompression, tagPhotometric, tagFillOrder, tagOrientation, tagStripOffsets, tagSamples, tagRowsPerStrip,
			tagStripByteCounts, tagPlanar, tagPredictor, tagColorMap, tagTileWidth, tagTileHeight, tagTileOffsets, tagTileByteCounts,
			tagExtraSamples, tagSampleFormat:
		default:
			continue
		}
		if _, twice := tags[tag]; twice {
			return nil, f.broken(fmt.Sprintf("tag %d", tag), "appears twice")
		}
		if count > maxTIFFValues {
			return nil, f.broken(fmt.Sprintf("tag %d", tag), "has %d values, the limit is %d", count, maxTIFFValues)
		}
		size := map[uint16]uint64{1: 1, 3: 2, 4: 4}[kind] // byte, short, long
		if size == 0 {
			return nil, f.broken(fmt.Sprintf("tag %d", tag), "has type %d, want an unsigned integer", kind)
		}
		data := e[8:12]
		if count*size > 4 {
			from := uint64(t.order.Uint32(data))
			if from > uint64(len(b)) || count*size > uint64(len(b))-from {
				return nil, f.broken(fmt.Sprintf("tag %d", tag), "%d values at byte %d, the file has %d bytes", count, from, len(b))
			}
			data = b[from:]
		}
		v := make([]uint64, count)
		for k := range v {
			switch kind {
			case 1:
				v[k] = uint64(data[k])
			case 3:
				v[k] = uint64(t.order.Uint16(data[2*k:]))
			case 4:
				v[k] = uint64(t.order.Uint32(data[4*k:]))
			}
		}
		tags[tag] = v
	}
	return tags, nil
}

// rowBytes is the length of a row of one segment of one plane.
func (t *tiffImage) rowBytes() int {
	return (t.segWidth*t.bits*t.samples/t.planes + 7) / 8
}

// pixels decodes segment by segment, so that beside the result only one segment is held.
func (t *tiffImage) pixels() (*RGB, error) {
	level := clip8
	if t.bits > 8 && t.photo == photoBlackIsZero {
		kind := fmt.Sprintf("%d-bit grey", t.bits)
		if t.format == formatFloat {
			kind = fmt.Sprintf("%d-bit float grey", t.bits)
		}
		var err error
		if level, err = t.f.grey(kind); err != nil {
			return nil, err
		}
	}
	out := NewRGB(t.width, t.height)
	across := (t.width + t.segWidth - 1) / t.segWidth
	perPlane := len(t.offsets) / t.planes
	segments := make([][]byte, t.planes)
	for i := range segments {
		segments[i] = make([]byte, t.rowBytes()*t.segHeight)
	}
	row := make([]byte, t.segWidth*t.samples*max(1, t.bits/8))
	for n := range perPlane {
		x0, y0 := n%across*t.segWidth, n/across*t.segHeight
		w, h := min(t.segWidth, t.width-x0), min(t.segHeight, t.height-y0)
		for p := range t.planes {
			if err := t.segment(segments[p], p*perPlane+n, h); err != nil {
				return nil, err
			}
		}
		for y := range h {
			dst := out.Row(y0 + y)[3*x0 : 3*(x0+w)]
			t.row(dst, t.gather(row, segments, y), level)
		}
	}
	return out, nil
}

// segment decompresses strip or tile i; rows beyond the image may be missing from a strip.
func (t *tiffImage) segment(dst []byte, i, rows int) error {
	src := t.f.data[t.offsets[i]:][:t.counts[i]]
	if t.segWidth == t.width { // the last strip ends with the image
		dst = dst[:t.rowBytes()*rows]
	}
	var err error
	switch t.compression {
	case compressionNone:
		if n := copy(dst, src); n < len(dst) {
			err = io.ErrUnexpectedEOF
		}
	case compressionLZW:
		r := lzw.NewReader(bytes.NewReader(src), lzw.MSB, 8)
		_, err = io.ReadFull(r, dst)
		r.Close()
	case compressionPackBits:
		err = unpackRuns(dst, src)
	default:
		var r io.ReadCloser
		if r, err = zlib.NewReader(bytes.NewReader(src)); err == nil {
			_, err = io.ReadFull(r, dst)
			r.Close()
		}
	}
	if err != nil {
		return t.f.broken(fmt.Sprintf("strip or tile %d", i), "%d bytes do not give %d: %v", len(src), len(dst), err)
	}
	if t.predictor == 2 {
		t.integrate(dst)
	}
	return nil
}

// unpackRuns undoes PackBits: n < 128 is followed by n+1 bytes, n > 128 by one byte to repeat 257-n times.
func unpackRuns(dst, src []byte) error {
	for len(dst) > 0 {
		if len(src) < 2 {
			return io.ErrUnexpectedEOF
		}
		n := int(src[0])
		src = src[1:]
		switch {
		case n < 128:
			k := min(n+1, len(dst))
			if len(src) < k {
				return io.ErrUnexpectedEOF
			}
			copy(dst, src[:k])
			dst, src = dst[k:], src[k:]
		case n > 128:
			k := min(257-n, len(dst))
			for i := range k {
				dst[i] = src[0]
			}
			dst, src = dst[k:], src[1:]
		}
	}
	return nil
}

// integrate undoes horizontal differencing, in place.
func (t *tiffImage) integrate(seg []byte) {
	step, width := t.samples/t.planes, t.rowBytes()
	for ; len(seg) >= width; seg = seg[width:] {
		row := seg[:width]
		switch t.bits {
		case 8:
			for i := step; i < len(row); i++ {
				row[i] += row[i-step]
			}
		case 16:
			for i := 2 * step; i < len(row); i += 2 {
				t.order.PutUint16(row[i:], t.order.Uint16(row[i:])+t.order.Uint16(row[i-2*step:]))
			}
		case 32:
			for i := 4 * step; i < len(row); i += 4 {
				t.order.PutUint32(row[i:], t.order.Uint32(row[i:])+t.order.Uint32(row[i-4*step:]))
			}
		}
	}
}

// gather returns row y of a segment with the samples of each pixel together.
func (t *tiffImage) gather(row []byte, segments [][]byte, y int) []byte {
	n := t.rowBytes()
	if t.planes == 1 {
		return segments[0][y*n : (y+1)*n]
	}
	size := t.bits / 8
	for p, s := range segments {
		src := s[y*n : (y+1)*n]
		for x := range t.segWidth {
			copy(row[(x*t.samples+p)*size:][:size], src[x*size:])
		}
	}
	return row
}

// row converts the pixels of one row.
func (t *tiffImage) row(dst, src []byte, level func(float64) uint8) {
	w := len(dst) / 3
	switch {
	case t.photo == photoRGB && t.bits == 16: // the high byte
		high := 0
		if t.order == binary.LittleEndian {
			high = 1
		}
		pickRow(dst, src[high:], 2*t.samples, 2)
	case t.photo == photoRGB && t.premultiplied && t.samples >= 4:
		for x := range w {
			p := src[x*t.samples:]
			for c := range 3 {
				dst[3*x+c] = unmultiply(p[c], p[3])
			}
		}
	case t.photo == photoRGB:
		pickRow(dst, src, t.samples, 1)
	case t.photo == photoCMYK:
		cmykRow(dst, src, t.samples)
	case t.photo == photoPalette:
		paletteRow(dst, t.indices(src, w), &t.palette)
	case t.bits <= 8:
		grey := t.indices(src, w)
		scale := uint8(255 / (1<<t.bits - 1)) // 0/255, x85, x17, x1
		for x := range grey {
			grey[x] *= scale
			if t.photo == photoWhiteIsZero {
				grey[x] = 255 - grey[x]
			}
		}
		greyRow(dst, grey)
	default:
		size := t.bits / 8
		for x := range w {
			v := level(t.value(src[x*t.samples*size:]))
			dst[3*x], dst[3*x+1], dst[3*x+2] = v, v, v
		}
	}
}

// indices returns the first sample of each of w pixels, one to a byte.
func (t *tiffImage) indices(src []byte, w int) []byte {
	out := make([]byte, w)
	if t.bits < 8 {
		unpackBits(out, src, t.bits)
		return out
	}
	for x := range out {
		out[x] = src[x*t.samples]
	}
	return out
}

// value reads one deep grey sample.
func (t *tiffImage) value(b []byte) float64 {
	switch {
	case t.bits == 16 && t.format == formatInt:
		return float64(int16(t.order.Uint16(b)))
	case t.bits == 16:
		return float64(t.order.Uint16(b))
	case t.bits == 64:
		return math.Float64frombits(t.order.Uint64(b))
	case t.format == formatFloat:
		return float64(math.Float32frombits(t.order.Uint32(b)))
	case t.format == formatInt:
		return float64(int32(t.order.Uint32(b)))
	}
	return float64(t.order.Uint32(b))
}

// unmultiply is Pillow's way back from premultiplied alpha.
func unmultiply(v, alpha uint8) uint8 {
	if alpha == 0 {
		return 0
	}
	return uint8(min(255, 255*int(v)/int(alpha)))
}

// orient turns and mirrors a picture whose first row and column lie where the orientation tag says.
func orient(m *RGB, orientation uint64) *RGB {
	if orientation < 2 || orientation > 8 {
		return m
	}
	mirrorX := map[uint64]bool{2: true, 3: true, 7: true, 8: true}[orientation]
	mirrorY := map[uint64]bool{3: true, 4: true, 6: true, 7: true}[orientation]
	out := NewRGB(m.Width, m.Height)
	swap := orientation >= 5
	if swap {
		out = NewRGB(m.Height, m.Width)
	}
	for y := range out.Height {
		row := out.Row(y)
		for x := range out.Width {
			sx, sy := x, y
			if swap {
				sx, sy = y, x
			}
			if mirrorX {
				sx = m.Width - 1 - sx
			}
			if mirrorY {
				sy = m.Height - 1 - sy
			}
			copy(row[3*x:3*x+3], m.Pix[3*(sy*m.Width+sx):])
		}
	}
	return out
}
