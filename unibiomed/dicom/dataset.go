package dicom

import (
	"encoding/binary"
	"math"
	"slices"
	"strconv"
	"strings"
)

// An Element is one attribute of a data set.
type Element struct {
	Tag Tag
	VR  string
	// Value is the raw value, without padding taken off. It is nil when the value is too long to be kept (see File) and for
	// sequences.
	Value []byte
	Items []*Dataset // of a sequence

	at, length int64  // where the value is in the file
	fragments  []span // of encapsulated pixel data, without the offset table
	offsets    []byte // the basic offset table
}

// A span is a part of a file.
type span struct{ at, length int64 }

// A Dataset is a list of elements in ascending order of tags. Lookups give ok = false, "" or nil for what is absent, empty
// or not of the wanted kind; a Dataset may be nil. It is safe for concurrent use while it is not changed.
type Dataset struct {
	Elements []Element
	order    binary.ByteOrder // of binary values
}

// Find returns the element with the given tag, or nil.
func (d *Dataset) Find(t Tag) *Element {
	if d == nil {
		return nil
	}
	i, ok := slices.BinarySearchFunc(d.Elements, t, func(e Element, t Tag) int {
		switch {
		case e.Tag < t:
			return -1
		case e.Tag > t:
			return 1
		}
		return 0
	})
	if !ok {
		return nil
	}
	return &d.Elements[i]
}

// Texts returns the values of a text element, without padding.
func (d *Dataset) Texts(t Tag) []string {
	e := d.Find(t)
	if e == nil || len(e.Value) == 0 {
		return nil
	}
	s := strings.Trim(string(e.Value), " \x00")
	if s == "" {
		return nil
	}
	switch e.VR {
	case "LT", "ST", "UT", "UR": // one value, in which a backslash is a character
		return []string{s}
	}
	parts := strings.Split(s, `\`)
	for i := range parts {
		parts[i] = strings.Trim(parts[i], " \x00")
	}
	return parts
}

// Text returns the first value of a text element.
func (d *Dataset) Text(t Tag) string {
	if s := d.Texts(t); len(s) > 0 {
		return s[0]
	}
	return ""
}

// Floats returns the values of a number element, or nil if any of them is not a finite number.
func (d *Dataset) Floats(t Tag) []float64 {
	e := d.Find(t)
	if e == nil {
		return nil
	}
	var out []float64
	each := func(size int, get func([]byte) float64) {
		for b := e.Value; len(b) >= size; b = b[size:] {
			out = append(out, get(b))
		}
	}
	switch o := d.order; e.VR {
	case "US":
		each(2, func(b []byte) float64 { return float64(o.Uint16(b)) })
	case "SS":
		each(2, func(b []byte) float64 { return float64(int16(o.Uint16(b))) })
	case "UL":
		each(4, func(b []byte) float64 { return float64(o.Uint32(b)) })
	case "SL":
		each(4, func(b []byte) float64 { return float64(int32(o.Uint32(b))) })
	case "FL", "OF":
		each(4, func(b []byte) float64 { return float64(math.Float32frombits(o.Uint32(b))) })
	case "FD", "OD":
		each(8, func(b []byte) float64 { return math.Float64frombits(o.Uint64(b)) })
	default: // DS, IS, and a number under a wrong text VR
		for _, s := range d.Texts(t) {
			f, err := strconv.ParseFloat(s, 64)
			if err != nil {
				return nil
			}
			out = append(out, f)
		}
	}
	for _, f := range out {
		if math.IsNaN(f) || math.IsInf(f, 0) {
			return nil
		}
	}
	return out
}

// Float returns the first value of a number element.
func (d *Dataset) Float(t Tag) (float64, bool) {
	if f := d.Floats(t); len(f) > 0 {
		return f[0], true
	}
	return 0, false
}

// Int returns the first value of a number element if it is a whole number of 32 bits.
func (d *Dataset) Int(t Tag) (int, bool) {
	f, ok := d.Float(t)
	if !ok || f != math.Trunc(f) || math.Abs(f) > math.MaxInt32 {
		return 0, false
	}
	return int(f), true
}

// Items returns the items of a sequence.
func (d *Dataset) Items(t Tag) []*Dataset {
	if e := d.Find(t); e != nil {
		return e.Items
	}
	return nil
}

// Item returns the first item of a sequence, or nil.
func (d *Dataset) Item(t Tag) *Dataset {
	if items := d.Items(t); len(items) > 0 {
		return items[0]
	}
	return nil
}

// sorted brings the elements into ascending order; of elements with one tag the first stays.
func (d *Dataset) sorted() {
	less := func(a, b Element) int {
		switch {
		case a.Tag < b.Tag:
			return -1
		case a.Tag > b.Tag:
			return 1
		}
		return 0
	}
	if !slices.IsSortedFunc(d.Elements, less) {
		slices.SortStableFunc(d.Elements, less)
	}
	d.Elements = slices.CompactFunc(d.Elements, func(a, b Element) bool { return a.Tag == b.Tag })
}
