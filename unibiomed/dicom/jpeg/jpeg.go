// Package jpeg decodes the JPEG processes of DICOM that Huffman coding serves: baseline and extended sequential DCT of 8
// and 12 bits, and lossless of 2 to 16 bits (ISO/IEC 10918-1, ITU-T T.81).
//
// The standard library's decoder reads neither 12 bits nor lossless, and its inverse DCT and chroma upsampling differ
// from those of the Independent JPEG Group, which GDCM, dcmtk, Pillow and the scanners use. This one computes the
// same integers: the "islow" inverse DCT (Loeffler, Ligtenberg and Moschytz, 1989, 13-bit constants) and triangle
// upsampling, so that pixels are equal and not only close.
package jpeg

import (
	"encoding/binary"
	"fmt"
)

// A FormatError says that a stream is broken.
type FormatError string

func (e FormatError) Error() string { return "jpeg: " + string(e) }

// An UnsupportedError names a process or feature that is not decoded here.
type UnsupportedError string

func (e UnsupportedError) Error() string { return "jpeg: " + string(e) + " is not supported" }

func broken(format string, args ...any) error { return FormatError(fmt.Sprintf(format, args...)) }

// An Image is a decoded stream.
type Image struct {
	Width, Height int
	Components    int
	Precision     int // bits a sample
	Lossless      bool
	// Samples holds the components of each pixel side by side, as coded: no colour transform has been undone.
	Samples []uint16
	// JFIF says that the stream has that marker, and so YCbCr colours. Adobe is the colour transform of its marker: 0 none,
	// 1 YCbCr, 2 YCCK; -1 without the marker.
	JFIF  bool
	Adobe int
	// RGB says that the components are called R, G and B.
	RGB bool
}

type component struct {
	id, h, v, tq  int
	td, ta        int // tables of the current scan
	width, height int // samples
	stride, rows  int // in whole MCUs
	blocksW       int // blocks that a scan of this component alone has
	blocksH       int
	plane         []uint16
	dc            int
}

type decoder struct {
	b         []byte // what is left
	w, h      int    // what the caller expects
	precision int
	lossless  bool
	comps     []component
	hmax      int
	vmax      int
	quant     [4][64]int
	hasQuant  [4]bool
	tables    [2][4]huffman // class, destination
	restart   int
	adobe     int
	jfif      bool
	scanned   [256]bool // component identifiers
	bits      bits
}

var zigzag = [64]int{
	0, 1, 8, 16, 9, 2, 3, 10, 17, 24, 32, 25, 18, 11, 4, 5, 12, 19, 26, 33, 40, 48, 41, 34, 27, 20, 13, 6, 7, 14, 21, 28,
	35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23, 30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63,
}

// Decode decodes one stream, which must hold width x height pixels: a stream of another size is refused before anything
// is allocated for it.
func Decode(b []byte, width, height int) (*Image, error) {
	d := &decoder{b: b, w: width, h: height, adobe: -1}
	if len(b) < 2 || b[0] != 0xff || b[1] != 0xd8 {
		return nil, broken("the stream does not start with SOI")
	}
	d.b = b[2:]
	for {
		marker, seg, err := d.segment()
		if err != nil {
			return nil, err
		}
		switch {
		case marker == 0xd9: // EOI
			return d.image()
		case marker == 0xc4:
			err = d.huffmanTables(seg)
		case marker == 0xdb:
			err = d.quantTables(seg)
		case marker == 0xdd:
			if len(seg) != 2 {
				return nil, broken("DRI of %d bytes, want 2", len(seg))
			}
			d.restart = int(binary.BigEndian.Uint16(seg))
		case marker == 0xe0 && len(seg) >= 5 && string(seg[:5]) == "JFIF\x00":
			d.jfif = true
		case marker == 0xee && len(seg) >= 12 && string(seg[:5]) == "Adobe":
			d.adobe = int(seg[11])
		case marker == 0xc0, marker == 0xc1, marker == 0xc3:
			err = d.frame(seg, marker == 0xc3)
		case marker >= 0xc2 && marker <= 0xcf && marker != 0xc8 && marker != 0xcc:
			return nil, UnsupportedError(fmt.Sprintf("process SOF%d", marker-0xc0))
		case marker == 0xcc:
			return nil, UnsupportedError("arithmetic coding")
		case marker == 0xdc:
			return nil, UnsupportedError("a DNL marker")
		case marker == 0xda:
			err = d.scan(seg)
			if err == nil && d.complete() && len(d.b) < 2 { // no EOI: nothing is missing but the mark
				return d.image()
			}
		}
		if err != nil {
			return nil, err
		}
	}
}

// segment returns the next marker and its parameters.
func (d *decoder) segment() (marker byte, seg []byte, err error) {
	for {
		i := 0
		for i < len(d.b) && d.b[i] != 0xff { // padding before a marker is harmless
			i++
		}
		for i < len(d.b) && d.b[i] == 0xff {
			i++
		}
		if i >= len(d.b) {
			if d.complete() {
				return 0xd9, nil, nil
			}
			return 0, nil, broken("the stream ends before its image")
		}
		marker, d.b = d.b[i], d.b[i+1:]
		switch {
		case marker == 0xd9:
			return marker, nil, nil
		case marker == 0 || marker == 1 || marker >= 0xd0 && marker <= 0xd8: // without parameters
			continue
		}
		break
	}
	if len(d.b) < 2 {
		return 0, nil, broken("marker FF%02X without a length", marker)
	}
	n := int(binary.BigEndian.Uint16(d.b))
	if n < 2 || n > len(d.b) {
		return 0, nil, broken("marker FF%02X has length %d, %d bytes remain", marker, n, len(d.b))
	}
	seg, d.b = d.b[2:n], d.b[n:]
	return marker, seg, nil
}

func (d *decoder) quantTables(b []byte) error {
	for len(b) > 0 {
		t, wide := int(b[0]&15), b[0]>>4
		b = b[1:]
		size := 64 * (1 + int(wide))
		if t > 3 || wide > 1 || len(b) < size {
			return broken("DQT: table %d of precision %d in %d bytes", t, wide, len(b))
		}
		for i := range 64 {
			if wide == 1 {
				d.quant[t][zigzag[i]] = int(binary.BigEndian.Uint16(b[2*i:]))
			} else {
				d.quant[t][zigzag[i]] = int(b[i])
			}
		}
		d.hasQuant[t] = true
		b = b[size:]
	}
	return nil
}

func (d *decoder) frame(b []byte, lossless bool) error {
	if d.comps != nil {
		return broken("more than one frame header")
	}
	if len(b) < 6 {
		return broken("SOF of %d bytes", len(b))
	}
	d.precision, d.lossless = int(b[0]), lossless
	h, w, n := int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:])), int(b[5])
	if len(b) != 6+3*n || n == 0 {
		return broken("SOF of %d bytes for %d components", len(b), n)
	}
	if w != d.w || h != d.h {
		return broken("the stream holds %dx%d pixels, want %dx%d", w, h, d.w, d.h)
	}
	if lossless && (d.precision < 2 || d.precision > 16) || !lossless && d.precision != 8 && d.precision != 12 {
		return broken("precision %d", d.precision)
	}
	if n > 4 {
		return UnsupportedError(fmt.Sprintf("a frame of %d components", n))
	}
	d.comps = make([]component, n)
	for i := range d.comps {
		c := &d.comps[i]
		c.id, c.h, c.v, c.tq = int(b[6+3*i]), int(b[7+3*i]>>4), int(b[7+3*i]&15), int(b[8+3*i])
		if c.h < 1 || c.h > 4 || c.v < 1 || c.v > 4 || c.tq > 3 {
			return broken("component %d: sampling %dx%d, quantization table %d", i, c.h, c.v, c.tq)
		}
		d.hmax, d.vmax = max(d.hmax, c.h), max(d.vmax, c.v)
	}
	side := 8
	if lossless {
		side = 1
	}
	var samples int64
	for i := range d.comps {
		c := &d.comps[i]
		if d.hmax%c.h != 0 || d.vmax%c.v != 0 || lossless && (c.h != d.hmax || c.v != d.vmax) {
			return UnsupportedError(fmt.Sprintf("sampling %dx%d of %dx%d", c.h, c.v, d.hmax, d.vmax))
		}
		c.width, c.height = ceilDiv(w*c.h, d.hmax), ceilDiv(h*c.v, d.vmax)
		c.blocksW, c.blocksH = ceilDiv(c.width, side), ceilDiv(c.height, side)
		if lossless {
			c.stride, c.rows = w, h
		} else {
			c.stride, c.rows = ceilDiv(w, 8*d.hmax)*8*c.h, ceilDiv(h, 8*d.vmax)*8*c.v
		}
		samples += int64(c.stride) * int64(c.rows)
	}
	// A lossless sample takes a bit at least and a DCT block two: a shorter stream cannot be whole.
	perByte := int64(256)
	if lossless {
		perByte = 8
	}
	if samples > perByte*int64(len(d.b)) {
		return broken("%d samples cannot be in the %d bytes that follow", samples, len(d.b))
	}
	for i := range d.comps {
		d.comps[i].plane = make([]uint16, d.comps[i].stride*d.comps[i].rows)
	}
	return nil
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

func (d *decoder) complete() bool {
	for i := range d.comps {
		if !d.scanned[d.comps[i].id] {
			return false
		}
	}
	return len(d.comps) > 0
}

func (d *decoder) scan(b []byte) error {
	if d.comps == nil {
		return broken("a scan before the frame header")
	}
	if len(b) < 1 || int(b[0]) < 1 || int(b[0]) > len(d.comps) || len(b) != 4+2*int(b[0]) {
		return broken("SOS of %d bytes", len(b))
	}
	n := int(b[0])
	var in []*component
	for i := range n {
		id, t := int(b[1+2*i]), b[2+2*i]
		var c *component
		for j := range d.comps {
			if d.comps[j].id == id {
				c = &d.comps[j]
			}
		}
		if c == nil || d.scanned[id] {
			return broken("SOS: component %d is unknown or was scanned before", id)
		}
		d.scanned[id] = true
		if c.td, c.ta = int(t>>4), int(t&15); c.td > 3 || c.ta > 3 || !d.tables[0][c.td].set || !d.lossless && !d.tables[1][c.ta].set {
			return broken("SOS: component %d: no Huffman tables %d and %d", id, c.td, c.ta)
		}
		if !d.lossless && !d.hasQuant[c.tq] {
			return broken("SOS: component %d: no quantization table %d", id, c.tq)
		}
		in = append(in, c)
	}
	tail := b[1+2*n:]
	d.bits = bits{b: d.b}
	var err error
	if d.lossless {
		err = d.losslessScan(in, int(tail[0]), int(tail[2]&15))
	} else {
		err = d.dctScan(in)
	}
	if err != nil {
		return err
	}
	d.b = d.bits.b
	return nil
}

// restartAt takes the restart marker that belongs between intervals.
func (d *decoder) restartAt() error {
	d.bits.n, d.bits.acc, d.bits.borrowed = 0, 0, 0
	b := d.bits.b
	for len(b) >= 2 && b[0] == 0xff && b[1] == 0xff {
		b = b[1:]
	}
	if len(b) < 2 || b[0] != 0xff || b[1] < 0xd0 || b[1] > 0xd7 {
		return broken("a restart marker is missing")
	}
	d.bits.b = b[2:]
	return nil
}

func (d *decoder) dctScan(in []*component) error {
	one := len(in) == 1
	mcusX, mcusY := ceilDiv(d.w, 8*d.hmax), ceilDiv(d.h, 8*d.vmax)
	if one {
		mcusX, mcusY = in[0].blocksW, in[0].blocksH
	}
	for _, c := range in {
		c.dc = 0
	}
	left := d.restart
	for my := range mcusY {
		for mx := range mcusX {
			if d.restart > 0 {
				if left == 0 {
					if err := d.restartAt(); err != nil {
						return err
					}
					for _, c := range in {
						c.dc = 0
					}
					left = d.restart
				}
				left--
			}
			for _, c := range in {
				h, v := c.h, c.v
				if one {
					h, v = 1, 1
				}
				for y := range v {
					for x := range h {
						if err := d.block(c, mx*h+x, my*v+y); err != nil {
							return err
						}
					}
				}
			}
		}
	}
	return nil
}

// block decodes the 8x8 block at column bx and row by of c's blocks.
func (d *decoder) block(c *component, bx, by int) error {
	var coef [64]int
	q := &d.quant[c.tq]
	s, err := d.bits.decode(&d.tables[0][c.td])
	if err != nil {
		return err
	}
	if s > 16 {
		return broken("a DC difference of %d bits", s)
	}
	diff, err := d.bits.extend(s)
	if err != nil {
		return err
	}
	c.dc += diff
	coef[0] = int(int16(c.dc)) * q[0]
	flat := true
	for k := 1; k < 64; k++ {
		rs, err := d.bits.decode(&d.tables[1][c.ta])
		if err != nil {
			return err
		}
		r, s := rs>>4, rs&15
		if s == 0 {
			if r != 15 {
				break
			}
			k += 15
			continue
		}
		if k += r; k > 63 {
			return broken("a block of more than 64 coefficients")
		}
		x, err := d.bits.extend(s)
		if err != nil {
			return err
		}
		coef[zigzag[k]] = x * q[zigzag[k]]
		flat = false
	}
	out := c.plane[by*8*c.stride+bx*8:]
	inverseDCT(&coef, flat, d.precision, out, c.stride)
	return nil
}

func (d *decoder) losslessScan(in []*component, predictor, shift int) error {
	if predictor < 1 || predictor > 7 || shift >= d.precision {
		return broken("lossless predictor %d, point transform %d", predictor, shift)
	}
	if d.restart%d.w != 0 {
		return UnsupportedError(fmt.Sprintf("a restart interval of %d samples in lines of %d", d.restart, d.w))
	}
	first := 1 << (d.precision - shift - 1)
	start := true // of the first line of an interval
	for y := range d.h {
		if d.restart > 0 && y > 0 && y%(d.restart/d.w) == 0 {
			if err := d.restartAt(); err != nil {
				return err
			}
			start = true
		}
		for x := range d.w {
			for _, c := range in {
				s, err := d.bits.decode(&d.tables[0][c.td])
				if err != nil {
					return err
				}
				var diff int
				switch {
				case s == 16:
					diff = 32768
				case s > 16:
					return broken("a difference of %d bits", s)
				default:
					if diff, err = d.bits.extend(s); err != nil {
						return err
					}
				}
				i := y*d.w + x
				var pred int
				switch {
				case start && x == 0:
					pred = first
				case start:
					pred = int(c.plane[i-1])
				case x == 0:
					pred = int(c.plane[i-d.w])
				default:
					ra, rb, rc := int(c.plane[i-1]), int(c.plane[i-d.w]), int(c.plane[i-d.w-1])
					switch predictor {
					case 1:
						pred = ra
					case 2:
						pred = rb
					case 3:
						pred = rc
					case 4:
						pred = ra + rb - rc
					case 5:
						pred = ra + (rb-rc)>>1
					case 6:
						pred = rb + (ra-rc)>>1
					case 7:
						pred = (ra + rb) >> 1
					}
				}
				c.plane[i] = uint16(pred + diff)
			}
		}
		start = false
	}
	if shift > 0 {
		for _, c := range in {
			for i := range c.plane {
				c.plane[i] <<= shift
			}
		}
	}
	return nil
}

// image puts the planes together.
func (d *decoder) image() (*Image, error) {
	if !d.complete() {
		return nil, broken("the stream ends before its image")
	}
	n := len(d.comps)
	im := &Image{Width: d.w, Height: d.h, Components: n, Precision: d.precision, Lossless: d.lossless, JFIF: d.jfif, Adobe: d.adobe,
		Samples: make([]uint16, d.w*d.h*n)}
	im.RGB = n == 3 && d.comps[0].id == 'R' && d.comps[1].id == 'G' && d.comps[2].id == 'B'
	for i := range d.comps {
		d.comps[i].upsample(d.hmax, d.vmax, d.w, d.h, func(y int, line []uint16) {
			at := y*d.w*n + i
			for x := range d.w {
				im.Samples[at] = line[x]
				at += n
			}
		})
		d.comps[i].plane = nil
	}
	return im, nil
}

// upsample calls emit with each full line of the component.
func (c *component) upsample(hmax, vmax, w, h int, emit func(y int, line []uint16)) {
	fh, fv := hmax/c.h, vmax/c.v
	row := func(y int) []uint16 {
		y = max(0, min(y, c.height-1))
		return c.plane[y*c.stride:][:c.width]
	}
	line := make([]uint16, max(w, c.width*fh))
	triangle := fh == 2 && fv <= 2 && c.width > 2
	for y := range h {
		switch {
		case fh == 1 && fv == 1:
			emit(y, row(y))
		case triangle && fv == 1:
			// Each output is three parts of the nearer sample and one of the farther.
			in := row(y)
			last := c.width - 1
			line[0], line[2*last+1] = in[0], in[last]
			for x := range last {
				a, b := int(in[x]), int(in[x+1])
				line[2*x+1] = uint16((3*a + b + 2) >> 2)
				line[2*x+2] = uint16((3*b + a + 1) >> 2)
			}
			emit(y, line)
		case triangle:
			near, far := row(y/2), row(y/2-1+y%2*2)
			last := c.width - 1
			sum := func(x int) int { return 3*int(near[x]) + int(far[x]) }
			line[0], line[2*last+1] = uint16((4*sum(0)+8)>>4), uint16((4*sum(last)+7)>>4)
			for x := range last {
				a, b := sum(x), sum(x+1)
				line[2*x+1] = uint16((3*a + b + 7) >> 4)
				line[2*x+2] = uint16((3*b + a + 8) >> 4)
			}
			emit(y, line)
		default:
			in := row(y / fv)
			for x := range in {
				for k := range fh {
					line[x*fh+k] = in[x]
				}
			}
			emit(y, line)
		}
	}
}

// YCbCrToRGB converts three interleaved samples of the given precision in place, with the integers of ITU-T T.871 as the
// Independent JPEG Group rounds them.
func YCbCrToRGB(samples []uint16, precision int) {
	half, top := 1<<(precision-1), 1<<precision-1
	clamp := func(x int) uint16 { return uint16(max(0, min(x, top))) }
	const one = 1 << 16
	for i := 0; i+2 < len(samples); i += 3 {
		y, cb, cr := int(samples[i]), int(samples[i+1])-half, int(samples[i+2])-half
		samples[i] = clamp(y + (91881*cr+one/2)>>16)             // 1.40200
		samples[i+1] = clamp(y + (-22554*cb-46802*cr+one/2)>>16) // 0.34414, 0.71414
		samples[i+2] = clamp(y + (116130*cb+one/2)>>16)          // 1.77200
	}
}
