// Package rle holds masks as COCO run lengths, the form that annotation tools exchange.
//
// Runs go down the columns, from the left column to the right: the first counts pixels outside, the second pixels
// inside, and so on. The compressed form is the string of pycocotools.
//
// Values are safe for concurrent use as long as nobody writes to them.
package rle

import (
	"encoding/json"
	"fmt"
	"image"
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// An RLE is a mask of Width x Height pixels.
type RLE struct {
	Width, Height int
	// Counts are run lengths down the columns, outside first. They add up to Width*Height; a run may be empty.
	Counts []uint32
}

// A FormatError is a run-length encoding that is broken.
type FormatError struct {
	Field string // "size", "counts", "counts[7]"
	Msg   string // the values that disagree
}

func (e *FormatError) Error() string { return "rle: " + e.Field + ": " + e.Msg }

func broken(field, msg string, args ...any) error {
	return &FormatError{Field: field, Msg: fmt.Sprintf(msg, args...)}
}

// defaultMaxPixels is that of package imaging.
const defaultMaxPixels = 178956970

// Encode returns the runs of m.
func Encode(m *imaging.Mask) RLE {
	r := RLE{Width: m.Width, Height: m.Height}
	inside, run := false, uint32(0)
	for x := range m.Width {
		for at := x; at < len(m.Pix); at += m.Width {
			if m.Pix[at] != 0 != inside {
				r.Counts = append(r.Counts, run)
				inside, run = !inside, 0
			}
			run++
		}
	}
	r.Counts = append(r.Counts, run)
	return r
}

// Validate reports, as a FormatError, a size below zero or of 2^32 pixels and more, and runs that do not add up to the
// size.
func (r RLE) Validate() error {
	if r.Width < 0 || r.Height < 0 || r.Height > 0 && r.Width > math.MaxUint32/r.Height {
		return broken("size", "%dx%d", r.Width, r.Height)
	}
	sum, want := uint64(0), uint64(r.Width)*uint64(r.Height)
	for _, n := range r.Counts {
		sum += uint64(n)
	}
	if sum != want {
		return broken("counts", "add up to %d pixels, want %d*%d = %d", sum, r.Width, r.Height, want)
	}
	return nil
}

// Mask fills in the pixels, 0 and 1. It refuses masks of more than maxPixels, which defaults to 178,956,970, before it
// allocates.
func (r RLE) Mask(maxPixels int64) (*imaging.Mask, error) {
	if err := r.Validate(); err != nil {
		return nil, err
	}
	if maxPixels <= 0 {
		maxPixels = defaultMaxPixels
	}
	if n := int64(r.Width) * int64(r.Height); n > maxPixels {
		return nil, broken("size", "%dx%d has %d pixels, the limit is %d", r.Width, r.Height, n, maxPixels)
	}
	m := imaging.NewMask(r.Width, r.Height)
	at := 0
	for i, n := range r.Counts {
		end := at + int(n)
		if i%2 == 0 {
			at = end
			continue
		}
		for at < end {
			// The part of the run in one column.
			x, y := at/r.Height, at%r.Height
			k := min(end-at, r.Height-y)
			for p := y*r.Width + x; k > 0; k-- {
				m.Pix[p] = 1
				p += r.Width
				at++
			}
		}
	}
	return m, nil
}

// Area returns the number of pixels inside.
func (r RLE) Area() uint64 {
	n := uint64(0)
	for i := 1; i < len(r.Counts); i += 2 {
		n += uint64(r.Counts[i])
	}
	return n
}

// Bounds returns the smallest rectangle that holds every inside pixel, Max exclusive; it is empty if none is.
// COCO's bbox is its Min, Dx and Dy. The runs must be valid.
func (r RLE) Bounds() image.Rectangle {
	var b image.Rectangle
	at := uint64(0)
	h := uint64(r.Height)
	for i, n := range r.Counts {
		end := at + uint64(n)
		if i%2 == 1 && n > 0 {
			x0, y0, x1, y1 := at/h, at%h, (end-1)/h, (end-1)%h
			if x1 > x0 { // the run passes the foot of a column
				y0, y1 = 0, h-1
			}
			b = b.Union(image.Rect(int(x0), int(y0), int(x1)+1, int(y1)+1))
		}
		at = end
	}
	return b
}

// String returns the compressed counts. From the fourth on, a count is written as the difference to the one two before
// it; numbers go out in groups of five bits, lowest first, a sixth bit telling that more follow, offset to '0'.
func (r RLE) String() string {
	b := make([]byte, 0, 2*len(r.Counts))
	for i, n := range r.Counts {
		v := int64(n)
		if i > 2 {
			v -= int64(r.Counts[i-2])
		}
		for more := true; more; {
			group := v & 0x1f
			v >>= 5
			// The rest is only sign when it is all ones or zeros and agrees with this group's highest bit.
			if group&0x10 != 0 {
				more = v != -1
			} else {
				more = v != 0
			}
			if more {
				group |= 0x20
			}
			b = append(b, byte(group)+'0')
		}
	}
	return string(b)
}

// Parse reads compressed counts of a mask of width x height pixels. Memory is bounded by the length of the string.
func Parse(counts string, width, height int) (RLE, error) {
	r := RLE{Width: width, Height: height}
	for p := 0; p < len(counts); {
		v, shift := int64(0), 0
		for {
			if p == len(counts) {
				return RLE{}, broken("counts", "end inside a number, after %d characters", p)
			}
			c := int64(counts[p]) - '0'
			if c < 0 || c > 0x3f {
				return RLE{}, broken("counts", "character %q at %d, want '0' to 'o'", counts[p], p)
			}
			if shift > 30 { // a difference of 32-bit counts has at most 33 bits
				return RLE{}, broken("counts", "number of more than 35 bits at character %d", p)
			}
			p++
			v |= (c & 0x1f) << shift
			shift += 5
			if c&0x20 == 0 {
				if c&0x10 != 0 {
					v |= -1 << shift
				}
				break
			}
		}
		if i := len(r.Counts); i > 2 {
			v += int64(r.Counts[i-2])
		}
		if v < 0 || v > math.MaxUint32 {
			return RLE{}, broken(fmt.Sprintf("counts[%d]", len(r.Counts)), "is %d, want 0 to 2^32-1", v)
		}
		r.Counts = append(r.Counts, uint32(v))
	}
	if err := r.Validate(); err != nil {
		return RLE{}, err
	}
	return r, nil
}

// MarshalJSON writes {"size":[height,width],"counts":"..."}, COCO's order and compressed form.
func (r RLE) MarshalJSON() ([]byte, error) {
	return json.Marshal(struct {
		Size   [2]int `json:"size"`
		Counts string `json:"counts"`
	}{[2]int{r.Height, r.Width}, r.String()})
}

// UnmarshalJSON reads counts as a compressed string or as a list of numbers, and validates them.
func (r *RLE) UnmarshalJSON(b []byte) error {
	var raw struct {
		Size   []int           `json:"size"`
		Counts json.RawMessage `json:"counts"`
	}
	if err := json.Unmarshal(b, &raw); err != nil {
		return broken("json", "%v", err)
	}
	if len(raw.Size) != 2 {
		return broken("size", "got %d numbers, want height and width", len(raw.Size))
	}
	height, width := raw.Size[0], raw.Size[1]
	if len(raw.Counts) > 0 && raw.Counts[0] == '[' {
		v := RLE{Width: width, Height: height}
		if err := json.Unmarshal(raw.Counts, &v.Counts); err != nil {
			return broken("counts", "%v", err)
		}
		if err := v.Validate(); err != nil {
			return err
		}
		*r = v
		return nil
	}
	var s string
	if err := json.Unmarshal(raw.Counts, &s); err != nil {
		return broken("counts", "want a string or a list: %v", err)
	}
	v, err := Parse(s, width, height)
	if err == nil {
		*r = v
	}
	return err
}
