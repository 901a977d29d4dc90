// Package window turns real-world values of medical images into the 8-bit pictures that the model sees.
//
// The model was trained on pictures prepared as BiomedParse publishes it: CT clipped to a range chosen by body site, anything
// else to percentiles, and then each slice stretched so that its lowest value is 0 and its highest 255. That is what
// this package does unless it is told otherwise. What was chosen is a [Method], whose String belongs into every result.
package window

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// A Kind is a way of turning values into levels.
type Kind uint8

const (
	// Levels keeps values that are display levels already: colours and 8-bit pictures.
	Levels Kind = iota
	// Range clips to Low and High, then stretches the slice.
	Range
	// Percentile clips to the 0.5 and 99.5 percentiles of the slice's positive values, then stretches the slice.
	Percentile
	// Header shows what the image's own window says, by the formulas of DICOM, without stretching.
	Header
)

// A Method is how slices of one volume are shown. It is safe for concurrent use.
type Method struct {
	Kind      Kind
	Name      string // a preset or the header's name for its window, or ""
	Low, High float64
	Window    volume.Window // of Kind Header
	Inverted  bool          // high values are dark
	Unit      string
}

// sites are the CT ranges in HU of the training data.
var sites = []struct {
	name      string
	low, high float64
	bodyParts []string // of DICOM's Body Part Examined, or the start of one
}{
	{"abdomen", -150, 250, []string{"ABDOMEN", "ABD", "KIDNEY", "SPLEEN", "STOMACH", "ADRENAL"}},
	{"lung", -1000, 1000, []string{"LUNG", "CHEST", "THORAX"}},
	{"pelvis", -55, 200, []string{"PELVIS", "BLADDER", "PROSTATE", "UTERUS", "RECTUM"}},
	{"liver", -25, 230, []string{"LIVER"}},
	{"colon", -68, 187, []string{"COLON"}},
	{"pancreas", -100, 200, []string{"PANCREAS"}},
}

// Presets returns the names of the CT presets.
func Presets() (names []string) {
	for _, s := range sites {
		names = append(names, s.name)
	}
	return names
}

// Choose returns the method that spec asks for on v:
//
//	auto (or "")   colours and 8-bit pictures as they are; CT by its body part, else by its header, else abdomen; all else by percentiles
//	a preset       abdomen, lung, pelvis, liver, colon, pancreas: ranges of HU
//	percentile     as the training data of all but CT
//	header, or header:N   the header's first or N-th window
//	LOW..HIGH      a range, such as -1000..400
//	levels         values as they are, clipped to 0 to 255
func Choose(v *volume.Volume, spec string) (*Method, error) {
	m := &Method{Inverted: v.Inverted, Unit: v.Unit}
	if v.Channels == 3 {
		if spec != "" && spec != "auto" && spec != "levels" {
			return nil, fmt.Errorf("window: %q on a colour image: want auto or levels", spec)
		}
		m.Name, m.Inverted = "colour", false
		return m, nil
	}
	switch spec {
	case "", "auto":
		return auto(v, m), nil
	case "levels":
		return m, nil
	case "percentile":
		m.Kind = Percentile
		return m, nil
	}
	for _, s := range sites {
		if s.name == spec {
			m.Kind, m.Name, m.Low, m.High = Range, s.name, s.low, s.high
			return m, nil
		}
	}
	if rest, ok := strings.CutPrefix(spec, "header"); ok {
		n := 1
		if s, ok := strings.CutPrefix(rest, ":"); ok {
			n, _ = strconv.Atoi(s)
			rest = ""
		}
		if n < 1 || n > len(v.Windows) || rest != "" {
			return nil, fmt.Errorf("window: %q: the header has %d windows", spec, len(v.Windows))
		}
		return header(v, m, n-1), nil
	}
	if low, high, ok := strings.Cut(spec, ".."); ok {
		var err, err2 error
		m.Kind = Range
		m.Low, err = strconv.ParseFloat(low, 64)
		m.High, err2 = strconv.ParseFloat(high, 64)
		if err == nil && err2 == nil && m.Low < m.High && !math.IsInf(m.High-m.Low, 0) {
			return m, nil
		}
		return nil, fmt.Errorf("window: %q: want two numbers, the lower first", spec)
	}
	return nil, fmt.Errorf("window: %q: want auto, %s, percentile, header, header:N, LOW..HIGH or levels", spec, strings.Join(Presets(), ", "))
}

func auto(v *volume.Volume, m *Method) *Method {
	if v.Levels {
		return m
	}
	if v.Modality != "CT" {
		m.Kind = Percentile
		return m
	}
	part := strings.ToUpper(v.BodyPart)
	for _, s := range sites {
		if slices.ContainsFunc(s.bodyParts, func(p string) bool { return strings.HasPrefix(part, p) }) {
			m.Kind, m.Name, m.Low, m.High = Range, s.name, s.low, s.high
			return m
		}
	}
	if len(v.Windows) > 0 {
		return header(v, m, 0)
	}
	m.Kind, m.Name, m.Low, m.High = Range, sites[0].name, sites[0].low, sites[0].high
	return m
}

func header(v *volume.Volume, m *Method, n int) *Method {
	m.Kind, m.Window, m.Name = Header, v.Windows[n], v.Windows[n].Name
	return m
}

// String returns the method in words for a result, such as "range abdomen -150..250 HU".
func (m *Method) String() string {
	var s []string
	add := func(x string) {
		if x != "" {
			s = append(s, x)
		}
	}
	switch m.Kind {
	case Levels:
		add("levels")
		add(m.Name)
	case Range:
		add("range")
		add(m.Name)
		add(fmt.Sprintf("%g..%g", m.Low, m.High))
		add(m.Unit)
	case Percentile:
		add("percentile 0.5..99.5 of positive values")
	case Header:
		add("header")
		add(m.Name)
		if m.Window.Table != nil {
			add(fmt.Sprintf("table of %d entries", len(m.Window.Table)))
		} else {
			add(fmt.Sprintf("center %g width %g", m.Window.Center, m.Window.Width))
			add(m.Window.Function)
			add(m.Unit)
		}
	}
	if m.Inverted {
		add("inverted")
	}
	return strings.Join(s, " ")
}

// RGB writes the picture of one slice to dst, three bytes a pixel: values holds one value a pixel, or red, green and blue
// (then 3 times as many). NaN is shown as the lowest value.
func (m *Method) RGB(values []float32, channels int, dst []uint8) error {
	if channels != 1 && channels != 3 || len(dst)*channels != 3*len(values) {
		return fmt.Errorf("window: %d values of %d channels into %d bytes, want %d", len(values), channels, len(dst), 3*len(values)/max(channels, 1))
	}
	if channels == 3 {
		for i, x := range values {
			dst[i] = level(float64(x))
		}
		return nil
	}
	show := m.shower(values)
	for i, x := range values {
		y := show(float64(x))
		if m.Inverted {
			y = 255 - y
		}
		dst[3*i], dst[3*i+1], dst[3*i+2] = y, y, y
	}
	return nil
}

// level rounds down, as numpy does when it turns floats into bytes, and clips.
func level(x float64) uint8 {
	if !(x > 0) { // also NaN
		return 0
	}
	return uint8(min(x, 255))
}

// shower returns the map from a value of the slice to its level.
func (m *Method) shower(values []float32) func(float64) uint8 {
	low, high := m.Low, m.High
	switch m.Kind {
	case Levels:
		return level
	case Header:
		return headerShower(&m.Window)
	case Percentile:
		low, high = percentiles(values)
	}
	// The stretch: what the slice reaches of the range.
	lowest, highest := math.Inf(1), math.Inf(-1)
	for _, x := range values {
		if y := max(low, min(float64(x), high)); !math.IsNaN(y) {
			lowest, highest = min(lowest, y), max(highest, y)
		}
	}
	if !(highest > lowest) { // one value, or none: black
		return func(float64) uint8 { return 0 }
	}
	return func(x float64) uint8 { // in numpy's order of operations: the highest is 255 exactly
		return level((max(low, min(x, high)) - lowest) / (highest - lowest) * 255)
	}
}

// percentiles returns the 0.5 and 99.5 percentiles of the positive values, with linear interpolation as numpy does it, or
// the bounds of all values where none is positive.
func percentiles(values []float32) (low, high float64) {
	var positive []float32
	low, high = math.Inf(1), math.Inf(-1)
	for _, x := range values {
		if y := float64(x); !math.IsNaN(y) && !math.IsInf(y, 0) {
			low, high = min(low, y), max(high, y)
			if x > 0 {
				positive = append(positive, x)
			}
		}
	}
	if len(positive) == 0 {
		return low, high
	}
	slices.Sort(positive)
	at := func(p float64) float64 {
		pos := p * float64(len(positive)-1)
		i := int(pos)
		a, b := float64(positive[i]), float64(positive[min(i+1, len(positive)-1)])
		return a + (b-a)*(pos-float64(i))
	}
	return at(0.005), at(0.995)
}

// headerShower applies a header's window (PS3.3 C.11.2.1).
func headerShower(w *volume.Window) func(float64) uint8 {
	round := func(x float64) uint8 { return level(255*x + 0.5) }
	if w.Table != nil {
		return func(x float64) uint8 {
			if math.IsNaN(x) {
				return 0
			}
			i := max(0, min(math.Round(x)-float64(w.First), float64(len(w.Table)-1)))
			return round(float64(w.Table[int(i)]))
		}
	}
	c, width := w.Center, w.Width
	switch w.Function {
	case "SIGMOID":
		return func(x float64) uint8 { return round(1 / (1 + math.Exp(-4*(x-c)/width))) }
	case "LINEAR_EXACT":
	default: // LINEAR: the window is the values c - w/2 to c + w/2 - 1
		c, width = c-0.5, max(0, width-1)
	}
	return func(x float64) uint8 {
		switch {
		case x <= c-width/2:
			return 0
		case x > c+width/2:
			return 255
		}
		return round((x-c)/width + 0.5)
	}
}

// A Padding is a picture's place in the square that it was padded to.
type Padding struct {
	Side, Left, Top, Width, Height int
}

// Square returns where a picture lies in the middle of the smallest square that holds it. The training data were padded so,
// with zeros, before they were resized; the published program for asking does not pad, and nor does this project unless asked. It
// keeps proportions: unpadded, a slice of 512 x 300 is stretched to a square before the model sees it.
func Square(width, height int) Padding {
	side := max(width, height)
	return Padding{Side: side, Left: (side - width) / 2, Top: (side - height) / 2, Width: width, Height: height}
}

// Pad returns the square picture of a picture with n bytes a pixel.
func (p Padding) Pad(pix []uint8, n int) []uint8 {
	out := make([]uint8, p.Side*p.Side*n)
	for y := range p.Height {
		copy(out[((p.Top+y)*p.Side+p.Left)*n:][:p.Width*n], pix[y*p.Width*n:])
	}
	return out
}

// Crop is the inverse of Pad: it takes the picture, or a mask, out of its square.
func (p Padding) Crop(square []uint8, n int) []uint8 {
	out := make([]uint8, p.Width*p.Height*n)
	for y := range p.Height {
		copy(out[y*p.Width*n:(y+1)*p.Width*n], square[((p.Top+y)*p.Side+p.Left)*n:])
	}
	return out
}
