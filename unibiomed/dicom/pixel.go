package dicom

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/jpeg"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// A Decoded is what a [Codec] makes of one frame.
type Decoded struct {
	Width, Height, Components int
	Bits                      int // significant bits of a sample, 1 to 32
	Signed                    bool
	// Data holds the interleaved samples, little endian, of 1 byte to 8 bits, 2 to 16 and 4 above.
	Data []byte
}

// A Codec decodes one compressed frame. The result must not take more than limit bytes; a frame whose header claims more, or
// another size than width x height x components, is refused before it is decoded. A codec that cannot work here returns a
// [volume.UnsupportedError].
type Codec func(frame []byte, width, height, components int, limit int64) (*Decoded, error)

var (
	codecsMu sync.RWMutex
	codecs   = map[string]Codec{}
)

// RegisterCodec makes c decode frames of a transfer syntax. A nil c takes it away again.
func RegisterCodec(syntaxUID string, c Codec) {
	codecsMu.Lock()
	defer codecsMu.Unlock()
	codecs[syntaxUID] = c
}

// Transfer syntaxes with compressed pixels, by name, for messages.
var syntaxNames = map[string]string{
	"1.2.840.10008.1.2.4.50": "JPEG Baseline", "1.2.840.10008.1.2.4.51": "JPEG Extended", "1.2.840.10008.1.2.4.57": "JPEG Lossless",
	"1.2.840.10008.1.2.4.70": "JPEG Lossless SV1", "1.2.840.10008.1.2.5": "RLE Lossless",
	"1.2.840.10008.1.2.4.80": "JPEG-LS Lossless", "1.2.840.10008.1.2.4.81": "JPEG-LS Near-lossless",
	"1.2.840.10008.1.2.4.90": "JPEG 2000 Lossless", "1.2.840.10008.1.2.4.91": "JPEG 2000",
	"1.2.840.10008.1.2.4.92": "JPEG 2000 Part 2 Lossless", "1.2.840.10008.1.2.4.93": "JPEG 2000 Part 2",
	"1.2.840.10008.1.2.4.94": "JPIP", "1.2.840.10008.1.2.4.95": "JPIP Deflated",
	"1.2.840.10008.1.2.4.100": "MPEG-2", "1.2.840.10008.1.2.4.101": "MPEG-2", "1.2.840.10008.1.2.4.102": "MPEG-4", "1.2.840.10008.1.2.4.103": "MPEG-4",
	"1.2.840.10008.1.2.4.107": "HEVC", "1.2.840.10008.1.2.4.108": "HEVC",
	"1.2.840.10008.1.2.4.110": "JPEG XL Lossless", "1.2.840.10008.1.2.4.111": "JPEG XL", "1.2.840.10008.1.2.4.112": "JPEG XL",
	"1.2.840.10008.1.2.4.201": "HTJ2K Lossless", "1.2.840.10008.1.2.4.202": "HTJ2K Lossless RPCL", "1.2.840.10008.1.2.4.203": "HTJ2K",
}

// Pixels is the description of the pixels of a file.
type Pixels struct {
	Rows, Columns, Frames int
	Samples               int // a pixel: 1, 3 or 4
	Allocated             int // bits a sample takes: 1, 8, 16, 32 or 64
	Stored, High          int // bits that mean something, and the highest of them
	Signed                bool
	Float                 bool
	Planar                bool // uncompressed colours lie plane by plane
	Photometric           string

	element *Element
}

// Type returns the number format of decoded samples.
func (p *Pixels) Type() volume.Type {
	switch {
	case p.Float && p.Allocated == 64:
		return volume.Float64
	case p.Float:
		return volume.Float32
	}
	t := map[int][2]volume.Type{1: {volume.Uint8, volume.Int8}, 8: {volume.Uint8, volume.Int8}, 16: {volume.Uint16, volume.Int16}, 32: {volume.Uint32, volume.Int32}}
	if p.Signed {
		return t[p.Allocated][1]
	}
	return t[p.Allocated][0]
}

// FrameLen returns the samples of a frame.
func (p *Pixels) FrameLen() int { return p.Rows * p.Columns * p.Samples }

// Pixels returns the checked description of the pixels of f. A file without any is an UnsupportedError that names its kind.
func (f *File) Pixels() (*Pixels, error) {
	p, err := f.pixels()
	return p, named(err, f.Path)
}

func (f *File) pixels() (*Pixels, error) {
	d := f.Data
	p := &Pixels{Frames: 1, Samples: 1, Photometric: d.Text(PhotometricInterpretation)}
	for _, t := range []Tag{PixelData, FloatPixelData, DoubleFloatPixelData} {
		if e := d.Find(t); e != nil && p.element == nil {
			p.element, p.Float = e, t != PixelData
		}
	}
	if p.element == nil {
		what := "an object without pixels"
		if m := d.Text(Modality); len(m) <= 16 && m != "" {
			what = "an object of modality " + m + " without pixels"
		}
		return nil, unsupported("%s", what)
	}
	if strings.HasPrefix(f.Syntax, "1.2.840.10008.1.2.4.10") || f.Syntax == "1.2.840.10008.1.2.4.94" {
		return nil, unsupported("transfer syntax %s", f.syntaxName())
	}
	for _, x := range []struct {
		tag      Tag
		to       *int
		lo, hi   int
		optional bool
	}{
		{Rows, &p.Rows, 1, 65535, false}, {Columns, &p.Columns, 1, 65535, false},
		{NumberOfFrames, &p.Frames, 1, 1 << 20, true}, {SamplesPerPixel, &p.Samples, 1, 4, true},
		{BitsAllocated, &p.Allocated, 1, 64, false},
	} {
		n, ok := d.Int(x.tag)
		if !ok {
			if x.optional {
				continue
			}
			return nil, broken(x.tag.String(), "missing or no number")
		}
		if n == 0 && x.tag == NumberOfFrames {
			n = 1
		}
		if n < x.lo || n > x.hi {
			return nil, broken(x.tag.String(), "got %d, want %d to %d", n, x.lo, x.hi)
		}
		*x.to = n
	}
	switch {
	case p.Samples == 2:
		return nil, broken(SamplesPerPixel.String(), "got 2, want 1, 3 or 4")
	case p.Float && p.Allocated != 32 && p.Allocated != 64,
		!p.Float && p.Allocated != 1 && p.Allocated != 8 && p.Allocated != 16 && p.Allocated != 32:
		return nil, unsupported("%v of %d", BitsAllocated, p.Allocated)
	case p.Allocated == 1 && p.Samples != 1:
		return nil, broken(SamplesPerPixel.String(), "got %d with one bit a sample", p.Samples)
	}
	p.Stored, p.High = p.Allocated, p.Allocated-1
	if n, ok := d.Int(BitsStored); ok && !p.Float {
		if n < 1 || n > p.Allocated {
			return nil, broken(BitsStored.String(), "got %d of %d allocated", n, p.Allocated)
		}
		p.Stored, p.High = n, n-1
	}
	if n, ok := d.Int(HighBit); ok && !p.Float {
		if n < p.Stored-1 || n >= p.Allocated {
			return nil, broken(HighBit.String(), "got %d with %d bits stored of %d", n, p.Stored, p.Allocated)
		}
		p.High = n
	}
	if n, _ := d.Int(PixelRepresentation); n == 1 {
		p.Signed = true
	} else if n != 0 {
		return nil, broken(PixelRepresentation.String(), "got %d, want 0 or 1", n)
	}
	if n, _ := d.Int(PlanarConfiguration); n == 1 && p.Samples > 1 {
		p.Planar = true
	}
	if p.Photometric == "" {
		if p.Photometric = "MONOCHROME2"; p.Samples == 3 {
			p.Photometric = "RGB"
		}
	}
	wantSamples := 1
	switch p.Photometric {
	case "MONOCHROME1", "MONOCHROME2", "PALETTE COLOR":
	case "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_PARTIAL_422", "YBR_PARTIAL_420", "YBR_ICT", "YBR_RCT", "HSV":
		wantSamples = 3
	default:
		return nil, unsupported("%v %.20q", PhotometricInterpretation, p.Photometric)
	}
	if p.Photometric == "HSV" || p.Samples == 4 {
		return nil, unsupported("%v %s with %d samples", PhotometricInterpretation, p.Photometric, p.Samples)
	}
	if p.Samples != wantSamples {
		return nil, broken(SamplesPerPixel.String(), "got %d with %s", p.Samples, p.Photometric)
	}
	if wantSamples == 3 && p.Allocated == 1 {
		return nil, broken(BitsAllocated.String(), "got 1 with %s", p.Photometric)
	}
	// Frames that are not there must not be counted: callers make lists of them. One that is cut short may still be named.
	if most := p.mostFrames(); p.Frames > most {
		return nil, broken(NumberOfFrames.String(), "got %d, the pixel data have room for %d", p.Frames, most)
	}
	return p, nil
}

// mostFrames returns how many frames the pixel data can hold, at least 1.
func (p *Pixels) mostFrames() int {
	if p.element.fragments != nil {
		return max(1, len(p.element.fragments))
	}
	bits := int64(p.FrameLen()) * int64(p.Allocated)
	if strings.HasSuffix(p.Photometric, "_422") {
		bits = bits / 3 * 2
	}
	return int(max(1, 8*p.element.length/bits))
}

func (f *File) syntaxName() string {
	if n := syntaxNames[f.Syntax]; n != "" {
		return f.Syntax + " (" + n + ")"
	}
	return fmt.Sprintf("%.64q", f.Syntax)
}

// A Frame is one decoded frame.
type Frame struct {
	*Pixels
	// Data holds interleaved little-endian samples of Type: sign extended, without unused bits, one byte a one-bit sample.
	Data []byte
	// YCbCr says that the colours are luma and chroma, at full resolution.
	YCbCr bool
}

// Frame reads and decodes frame i, counted from 0.
func (f *File) Frame(i int, limits volume.Limits) (*Frame, error) {
	p, err := f.pixels()
	if err == nil {
		var fr *Frame
		if fr, err = f.frame(p, i, limits); err == nil {
			return fr, nil
		}
	}
	return nil, named(err, f.Path)
}

func (f *File) frame(p *Pixels, i int, limits volume.Limits) (*Frame, error) {
	if i < 0 || i >= p.Frames {
		return nil, broken(NumberOfFrames.String(), "frame %d of %d was asked for", i, p.Frames)
	}
	size := p.Type().Size()
	if n := int64(p.FrameLen()) * int64(size); n > limits.MaxBytes() {
		return nil, &volume.LimitError{Field: Rows.String() + " x " + Columns.String(), Want: n, Limit: limits.MaxBytes()}
	}
	out := &Frame{Pixels: p, YCbCr: strings.HasPrefix(p.Photometric, "YBR")}
	if p.element.fragments == nil {
		return out, f.native(out, i)
	}
	b, err := f.compressed(p, i)
	if err != nil {
		return nil, err
	}
	switch f.Syntax {
	case "1.2.840.10008.1.2.5":
		out.Data, err = decodeRLE(b, p.Rows*p.Columns, p.Samples, size)
		if err == nil {
			clean(out.Data, p)
		}
		return out, err
	case "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51", "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70":
		return out, decodeJPEG(out, b)
	case "1.2.840.10008.1.2.1.98": // encapsulated, but not compressed
		if len(b) < p.FrameLen()*size {
			return nil, broken(PixelData.String(), "frame %d has %d bytes, want %d", i, len(b), p.FrameLen()*size)
		}
		out.Data = b[:p.FrameLen()*size]
		finish(out)
		return out, nil
	}
	codecsMu.RLock()
	codec := codecs[f.Syntax]
	codecsMu.RUnlock()
	if codec == nil {
		return nil, unsupported("transfer syntax %s", f.syntaxName())
	}
	dec, err := codec(b, p.Columns, p.Rows, p.Samples, limits.MaxBytes())
	var absent *volume.UnsupportedError
	if errors.As(err, &absent) {
		return nil, unsupported("transfer syntax %s: %s", f.syntaxName(), absent.Feature)
	}
	if err != nil {
		return nil, broken(PixelData.String(), "frame %d: %v", i, err)
	}
	if out.Data, err = fit(dec, p); err != nil {
		return nil, err
	}
	if p.Photometric == "YBR_ICT" || p.Photometric == "YBR_RCT" { // undone by the codec: part of JPEG 2000
		out.YCbCr = false
	}
	return out, nil
}

// fit checks the result of a codec against the header and brings its samples to the size that the header names.
func fit(dec *Decoded, p *Pixels) ([]byte, error) {
	if dec.Width != p.Columns || dec.Height != p.Rows || dec.Components != p.Samples {
		return nil, broken(PixelData.String(), "a frame holds %dx%dx%d, the header says %dx%dx%d", dec.Width, dec.Height, dec.Components, p.Columns, p.Rows, p.Samples)
	}
	from, to, n := (dec.Bits+7)/8, p.Type().Size(), p.FrameLen()
	if from == 3 {
		from = 4
	}
	if p.Float || dec.Bits > p.Allocated || len(dec.Data) != n*from {
		return nil, broken(PixelData.String(), "a frame holds %d samples of %d bits, the header allocates %d", len(dec.Data)/max(from, 1), dec.Bits, p.Allocated)
	}
	// Where stream and header disagree about the sign, the bits decide how they are extended and the header what they mean.
	out := dec.Data
	if from != to {
		out = make([]byte, n*to)
		for i := range n {
			x := getLE(dec.Data[i*from:], from)
			if dec.Signed && x>>(dec.Bits-1)&1 != 0 {
				x |= ^uint64(0) << dec.Bits
			}
			putLE(out[i*to:], to, x)
		}
	}
	q := *p
	if q.High = p.Stored - 1; dec.Bits > p.Stored { // a codec gives its bits at the bottom
		q.Stored, q.High = dec.Bits, dec.Bits-1
	}
	clean(out, &q)
	return out, nil
}

func getLE(b []byte, size int) uint64 {
	switch size {
	case 1:
		return uint64(b[0])
	case 2:
		return uint64(binary.LittleEndian.Uint16(b))
	}
	return uint64(binary.LittleEndian.Uint32(b))
}

func putLE(b []byte, size int, x uint64) {
	switch size {
	case 1:
		b[0] = byte(x)
	case 2:
		binary.LittleEndian.PutUint16(b, uint16(x))
	default:
		binary.LittleEndian.PutUint32(b, uint32(x))
	}
}

// clean drops the bits of samples that the header says are not theirs, and extends the sign.
func clean(b []byte, p *Pixels) {
	if p.Float || p.Stored == p.Allocated {
		return
	}
	size := p.Type().Size()
	low, drop := p.High+1-p.Stored, 64-p.Stored
	for ; len(b) >= size; b = b[size:] {
		x := getLE(b, size) >> low << drop
		if p.Signed {
			putLE(b, size, uint64(int64(x)>>drop))
		} else {
			putLE(b, size, x>>drop)
		}
	}
}

// native reads an uncompressed frame.
func (f *File) native(out *Frame, i int) error {
	p, e := out.Pixels, out.element
	bits := int64(p.FrameLen()) * int64(p.Allocated)
	half := p.Photometric == "YBR_FULL_422" || p.Photometric == "YBR_PARTIAL_422"
	if half { // two luma samples share a pair of chroma
		if p.Columns%2 != 0 {
			return broken(Columns.String(), "got %d with %s", p.Columns, p.Photometric)
		}
		bits = bits / 3 * 2
	}
	if p.Photometric == "YBR_PARTIAL_420" {
		return unsupported("uncompressed %s", p.Photometric)
	}
	first, last := bits*int64(i), bits*int64(i+1)
	if need := (last + 7) / 8; need > e.length {
		return broken(e.Tag.String(), "frame %d of %d ends at byte %d, the element has %d", i, p.Frames, need, e.length)
	}
	order := f.Data.order
	if f.Syntax == GEPrivate {
		order = binary.BigEndian
	}
	// Bytes of big-endian OW travel in words: a frame may begin or end within one.
	inWords := order == binary.BigEndian && p.Allocated == 8 && e.VR == "OW"
	start, end := first/8, (last+7)/8
	if inWords {
		start, end = start&^1, min((end+1)&^1, e.length)
	}
	var b []byte
	err := f.read(func(r io.ReaderAt) (err error) {
		b, err = readSpan(r, span{e.at + start, end - start})
		return err
	})
	if err != nil {
		return err
	}
	switch {
	case p.Allocated == 1:
		out.Data = make([]byte, p.FrameLen())
		for k := range out.Data {
			at := first%8 + int64(k)
			out.Data[k] = b[at/8] >> (at % 8) & 1
		}
		return nil
	case inWords:
		volume.SwapBytes(b[:len(b)&^1], 2)
		b = b[first/8-start:][:(last+7)/8-first/8]
	case order == binary.BigEndian:
		volume.SwapBytes(b, p.Allocated/8)
	}
	if out.Data = b; half {
		out.Data = make([]byte, p.FrameLen())
		if p.Allocated != 8 {
			return unsupported("%s of %d bits", p.Photometric, p.Allocated)
		}
		for k := 0; k+4 <= len(b); k += 4 {
			copy(out.Data[k/4*6:], []byte{b[k], b[k+2], b[k+3], b[k+1], b[k+2], b[k+3]})
		}
		return nil
	}
	finish(out)
	return nil
}

// finish brings raw samples into the form that Frame promises.
func finish(out *Frame) {
	p := out.Pixels
	if p.Planar {
		size, n := p.Type().Size(), p.Rows*p.Columns
		b := make([]byte, len(out.Data))
		for s := range p.Samples {
			for k := range n {
				copy(b[(k*p.Samples+s)*size:][:size], out.Data[(s*n+k)*size:])
			}
		}
		out.Data = b
	}
	clean(out.Data, p)
}

// compressed returns the bytes of a compressed frame: its fragments, joined.
func (f *File) compressed(p *Pixels, i int) ([]byte, error) {
	e := p.element
	parts := e.fragments
	switch {
	case len(parts) == 0:
		return nil, broken(e.Tag.String(), "no fragment for %d frames", p.Frames)
	case p.Frames == 1:
	case len(parts) == p.Frames:
		parts = parts[i : i+1]
	default:
		starts, err := f.frameStarts(p)
		if err != nil {
			return nil, err
		}
		parts = parts[starts[i]:starts[i+1]]
	}
	total := int64(0)
	for _, s := range parts {
		total += s.length
	}
	b := make([]byte, 0, total)
	err := f.read(func(r io.ReaderAt) error {
		for _, s := range parts {
			part, err := readSpan(r, s)
			if err != nil {
				return err
			}
			b = append(b, part...)
		}
		return nil
	})
	return b, err
}

// frameStarts returns for each frame its first fragment, and at the end their number: from the offset tables, or, without
// one, from the marks with which the frames of JPEG and JPEG 2000 begin.
func (f *File) frameStarts(p *Pixels) ([]int, error) {
	e := p.element
	var offsets []int64
	if x := f.Data.Find(ExtendedOffsetTable); x != nil {
		b, err := f.value(x, 8<<24)
		if err != nil {
			return nil, err
		}
		for ; len(b) >= 8; b = b[8:] {
			offsets = append(offsets, int64(f.Data.order.Uint64(b)))
		}
	} else {
		for b := e.offsets; len(b) >= 4; b = b[4:] {
			offsets = append(offsets, int64(binary.LittleEndian.Uint32(b)))
		}
	}
	starts := []int{}
	if len(offsets) == p.Frames {
		base, n := e.fragments[0].at-8, 0
		for i, s := range e.fragments {
			if n < len(offsets) && s.at-8-base == offsets[n] {
				starts, n = append(starts, i), n+1
			}
		}
	} else {
		err := f.read(func(r io.ReaderAt) error {
			for i, s := range e.fragments {
				head, err := readSpan(r, span{s.at, min(s.length, 3)})
				if err != nil {
					return err
				}
				if bytes.HasPrefix(head, []byte{0xff, 0xd8, 0xff}) || bytes.HasPrefix(head, []byte{0xff, 0x4f, 0xff}) {
					starts = append(starts, i)
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
	}
	if len(starts) != p.Frames {
		return nil, broken(e.Tag.String(), "%d fragments and %d offsets make %d frames, want %d", len(e.fragments), len(offsets), len(starts), p.Frames)
	}
	return append(starts, len(e.fragments)), nil
}

// decodeJPEG decodes a frame with this module's JPEG decoder.
func decodeJPEG(out *Frame, b []byte) error {
	p := out.Pixels
	im, err := jpeg.Decode(b, p.Columns, p.Rows)
	if err != nil {
		if u, ok := err.(jpeg.UnsupportedError); ok {
			return unsupported("JPEG: %s", string(u))
		}
		return broken(PixelData.String(), "%v", err)
	}
	if im.Components != p.Samples || im.Precision > p.Allocated || p.Float || p.Allocated == 1 {
		return broken(PixelData.String(), "the stream has %d components of %d bits, the header %d of %d", im.Components, im.Precision, p.Samples, p.Allocated)
	}
	if p.Samples == 3 && !im.Lossless {
		// The stream's own word on its colours outweighs the header's: writers change one and forget the other.
		switch {
		case im.Adobe >= 0:
			out.YCbCr = im.Adobe == 1
		case im.JFIF:
			out.YCbCr = true
		case im.RGB:
			out.YCbCr = false
		}
	}
	size := p.Type().Size()
	out.Data = make([]byte, len(im.Samples)*size)
	for i, x := range im.Samples {
		putLE(out.Data[i*size:], size, uint64(x))
	}
	q := *p
	q.High = q.Stored - 1
	if im.Precision > p.Stored {
		q.Stored, q.High = im.Precision, im.Precision-1
	}
	clean(out.Data, &q)
	return nil
}
