package dicom

import (
	"encoding/binary"
	"fmt"
	"io"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

const (
	maxKept     = 64 << 10 // bytes: longer values stay in the file
	maxDepth    = 32       // sequences in sequences
	maxElements = 4 << 20  // a file: 100 bytes of memory each
	undefined   = 0xFFFFFFFF
)

// A parser reads data sets from the bytes of a file. What a length claims is compared with the bytes that remain before
// anything is allocated.
type parser struct {
	r        io.ReaderAt
	size     int64
	order    binary.ByteOrder
	explicit bool

	elements int
	window   []byte // a part of the file, read ahead
	start    int64  // where it begins
}

// bytes returns the n bytes at offset at; they are overwritten by the next call. n is at most maxKept.
func (p *parser) bytes(at int64, n int) ([]byte, error) {
	if at < 0 || int64(n) > p.size-at {
		return nil, broken("length", "the file ends at byte %d, %d bytes are wanted at %d", p.size, n, at)
	}
	if i := at - p.start; i >= 0 && i+int64(n) <= int64(len(p.window)) {
		return p.window[i : i+int64(n)], nil
	}
	if p.window == nil {
		p.window = make([]byte, 0, maxKept)
	}
	p.start = at
	p.window = p.window[:min(int64(maxKept), p.size-at)]
	if _, err := p.r.ReadAt(p.window, at); err != nil && err != io.EOF {
		p.window = p.window[:0]
		return nil, err
	}
	return p.window[:n], nil
}

func broken(field, problem string, args ...any) error {
	return &volume.FormatError{Format: "dicom", Field: field, Problem: fmt.Sprintf(problem, args...)}
}

func unsupported(feature string, args ...any) error {
	return &volume.UnsupportedError{Format: "dicom", Feature: fmt.Sprintf(feature, args...)}
}

// named puts the file into an error of this package's parts, which do not know it.
func named(err error, path string) error { return volume.InFile(err, "dicom", path) }

// dataset reads elements from at to end, or, in an item of undefined length (end < 0), to its delimiter. Elements for which
// stop is true end it before they are read. It returns where reading ended.
func (p *parser) dataset(at, end int64, depth int, stop func(Tag) bool) (*Dataset, int64, error) {
	if depth > maxDepth {
		return nil, 0, broken("sequence", "nested deeper than %d", maxDepth)
	}
	d := &Dataset{order: p.order}
	limit := end
	if end < 0 {
		limit = p.size
	}
	for at < limit {
		if end >= 0 && limit-at < 8 {
			if depth == 0 { // a few stray bytes after the last element
				break
			}
			return nil, 0, broken("item", "%d bytes at %d are too few for an element", limit-at, at)
		}
		b, err := p.bytes(at, 8)
		if err != nil {
			return nil, 0, err
		}
		tag := Tag(p.order.Uint16(b))<<16 | Tag(p.order.Uint16(b[2:]))
		if tag == tagItemEnd && end < 0 {
			d.sorted()
			return d, at + 8, nil
		}
		if tag == tagItemEnd || tag == tagSequenceEnd || tag == tagItem {
			if depth == 0 && tag != tagItem { // a stray delimiter
				at += 8
				continue
			}
			return nil, 0, broken(tag.String(), "a delimiter at byte %d where an element should be", at)
		}
		if stop != nil && stop(tag) {
			break
		}
		if p.elements++; p.elements > maxElements {
			return nil, 0, &volume.LimitError{Field: "elements", Want: int64(p.elements), Limit: maxElements}
		}
		e, next, err := p.element(tag, at, limit, depth)
		if err != nil {
			return nil, 0, err
		}
		d.Elements = append(d.Elements, e)
		at = next
	}
	if end < 0 {
		return nil, 0, broken("item", "the file ends before the end of an item")
	}
	d.sorted()
	return d, at, nil
}

// element reads the element with the given tag at offset at, whose 8 bytes are there. It returns where the next one is.
func (p *parser) element(tag Tag, at, limit int64, depth int) (e Element, next int64, err error) {
	e.Tag = tag
	b, err := p.bytes(at, 8)
	if err != nil {
		return e, 0, err
	}
	length, value := int64(0), at+8
	explicit := p.explicit && isVR(b[4:6])
	switch {
	case !explicit: // also an element of implicit VR in a file of explicit VR, which some writers make
		length = int64(p.order.Uint32(b[4:]))
		e.VR = "UN"
		if known, ok := dictionary[tag]; ok {
			e.VR = known.vr
		} else if tag&0xffff == 0 {
			e.VR = "UL"
		}
	case hasLongLength(string(b[4:6])):
		e.VR = string(b[4:6])
		if b, err = p.bytes(at, 12); err != nil {
			return e, 0, err
		}
		length, value = int64(p.order.Uint32(b[8:])), at+12
	default:
		e.VR = string(b[4:6])
		length = int64(p.order.Uint16(b[6:]))
	}
	e.at, e.length = value, length
	if length == undefined {
		if tag == PixelData && (explicit || e.VR == "OW") {
			next, err = p.fragments(&e, value)
			return e, next, err
		}
		if e.VR != "SQ" && e.VR != "UN" {
			return e, 0, broken(tag.String(), "undefined length with VR %s", e.VR)
		}
		sub := p
		if e.VR == "UN" && p.explicit { // PS3.5 6.2.2: such a sequence is of implicit VR, little endian
			sub = &parser{r: p.r, size: p.size, order: binary.LittleEndian, elements: p.elements, window: nil}
		}
		e.Items, next, err = sub.items(tag, value, -1, depth)
		p.elements = sub.elements
		e.VR = "SQ"
		return e, next, err
	}
	if length > limit-value {
		if isPixelData(tag) && depth == 0 {
			// Kept short, so that the header of a truncated file can be read; the missing frames are an error later.
			e.length = limit - value
			return e, limit, nil
		}
		return e, 0, broken(tag.String(), "length %d at byte %d, where %d bytes remain", length, at, limit-value)
	}
	next = value + length
	if e.VR == "SQ" {
		e.Items, _, err = p.items(tag, value, next, depth)
		return e, next, err
	}
	if length <= maxKept && !isPixelData(tag) {
		if b, err = p.bytes(value, int(length)); err != nil {
			return e, 0, err
		}
		e.Value = append(make([]byte, 0, length), b...)
	}
	return e, next, nil
}

// items reads the items of a sequence up to end, or to the sequence delimiter (end < 0).
func (p *parser) items(tag Tag, at, end int64, depth int) ([]*Dataset, int64, error) {
	var items []*Dataset
	for end < 0 || at < end {
		if end >= 0 && end-at < 8 {
			return nil, 0, broken(tag.String(), "%d bytes are too few for an item", end-at)
		}
		b, err := p.bytes(at, 8)
		if err != nil {
			return nil, 0, err
		}
		mark := Tag(p.order.Uint16(b))<<16 | Tag(p.order.Uint16(b[2:]))
		length := int64(p.order.Uint32(b[4:]))
		at += 8
		if mark == tagSequenceEnd {
			if end < 0 {
				return items, at, nil
			}
			continue // a delimiter too many
		}
		if mark != tagItem {
			return nil, 0, broken(tag.String(), "%v at byte %d where an item should be", mark, at-8)
		}
		if p.elements++; p.elements > maxElements {
			return nil, 0, &volume.LimitError{Field: "items", Want: int64(p.elements), Limit: maxElements}
		}
		stop := int64(-1)
		if length != undefined {
			limit := end
			if end < 0 {
				limit = p.size
			}
			if length > limit-at {
				return nil, 0, broken(tag.String(), "item of %d bytes at byte %d, where %d remain", length, at, limit-at)
			}
			stop = at + length
		}
		d, next, err := p.dataset(at, stop, depth+1, nil)
		if err != nil {
			return nil, 0, err
		}
		items, at = append(items, d), next
	}
	return items, at, nil
}

// fragments reads where the parts of encapsulated pixel data are.
func (p *parser) fragments(e *Element, at int64) (int64, error) {
	e.length = 0
	for n := 0; ; n++ {
		b, err := p.bytes(at, 8)
		if err != nil {
			if n > 0 { // a truncated file: what is whole stays
				return p.size, nil
			}
			return 0, err
		}
		mark := Tag(p.order.Uint16(b))<<16 | Tag(p.order.Uint16(b[2:]))
		length := int64(p.order.Uint32(b[4:]))
		at += 8
		if mark == tagSequenceEnd {
			return at, nil
		}
		if mark != tagItem {
			return 0, broken(e.Tag.String(), "%v at byte %d where a fragment should be", mark, at-8)
		}
		if length > p.size-at {
			if n > 0 {
				return p.size, nil
			}
			return 0, broken(e.Tag.String(), "fragment of %d bytes at byte %d, where %d remain", length, at, p.size-at)
		}
		if p.elements++; p.elements > maxElements {
			return 0, &volume.LimitError{Field: "fragments", Want: int64(p.elements), Limit: maxElements}
		}
		if n == 0 {
			e.fragments = []span{} // not nil: encapsulated
			if length > 4*maxElements {
				return 0, &volume.LimitError{Field: "basic offset table", Want: length, Limit: 4 * maxElements}
			}
			if e.offsets, err = readSpan(p.r, span{at, length}); err != nil {
				return 0, err
			}
		} else {
			e.fragments = append(e.fragments, span{at, length})
		}
		at += length
	}
}

// readSpan reads a part of a file that was found to lie within it.
func readSpan(r io.ReaderAt, s span) ([]byte, error) {
	b := make([]byte, s.length)
	if _, err := r.ReadAt(b, s.at); err != nil && (err != io.EOF || s.length > 0) {
		return nil, err
	}
	return b, nil
}

func isPixelData(t Tag) bool {
	return t == PixelData || t == FloatPixelData || t == DoubleFloatPixelData
}

func isVR(b []byte) bool {
	return b[0] >= 'A' && b[0] <= 'Z' && b[1] >= 'A' && b[1] <= 'Z'
}

func hasLongLength(vr string) bool {
	switch vr {
	case "OB", "OD", "OF", "OL", "OV", "OW", "SQ", "SV", "UC", "UN", "UR", "UT", "UV":
		return true
	}
	return false
}
