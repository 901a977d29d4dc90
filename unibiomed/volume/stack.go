package volume

import (
	"fmt"
	"math"
	"slices"
)

// A Slice is the place of one image of a stack: what DICOM writes as Image Position, Image Orientation and Pixel Spacing.
type Slice struct {
	Position Vec // centre of the first pixel
	// Column and Row are the unit directions in which the column index and the row index increase.
	Column, Row Vec
	// Spacing is the distance between columns and between rows, in that order. (DICOM writes the rows' first.)
	Spacing [2]float64
	Size    [2]int // columns, rows
}

// Normal returns the unit vector along which slices are sorted: Column x Row.
func (s Slice) Normal() Vec { return s.Column.Cross(s.Row).Unit() }

// angleTolerance is the largest sine of an angle between directions that count as equal: headers round to 4-6 digits.
const angleTolerance = 2e-3

// Parallel reports whether two slices have the same orientation, size and spacing, so that they can share a stack.
func (s Slice) Parallel(o Slice) bool {
	return s.Size == o.Size &&
		s.Column.Sub(o.Column).Len() < angleTolerance && s.Row.Sub(o.Row).Len() < angleTolerance &&
		math.Abs(s.Spacing[0]-o.Spacing[0]) <= 1e-3*s.Spacing[0] && math.Abs(s.Spacing[1]-o.Spacing[1]) <= 1e-3*s.Spacing[1]
}

// Check returns an error for a slice that cannot be placed.
func (s Slice) Check() error {
	if c, r := math.Abs(s.Column.Len()-1), math.Abs(s.Row.Len()-1); !(c < 0.05) || !(r < 0.05) {
		return fmt.Errorf("image orientation: direction lengths %.3g and %.3g, want 1", s.Column.Len(), s.Row.Len())
	}
	if dot := s.Column.Dot(s.Row); math.Abs(dot) > 0.05 {
		return fmt.Errorf("image orientation: rows and columns meet at %.1f degrees, want 90", math.Acos(dot)*180/math.Pi)
	}
	for _, x := range s.Spacing {
		if !(x > 0) || math.IsInf(x, 0) {
			return fmt.Errorf("pixel spacing: got %v, want positive numbers", s.Spacing)
		}
	}
	if l := s.Position.Len(); math.IsNaN(l) || math.IsInf(l, 0) {
		return fmt.Errorf("image position: not finite")
	}
	return nil
}

// An OrientationError says that slices of one stack do not lie in parallel planes, or differ in size or spacing.
type OrientationError struct {
	First, Other int // indices of two slices that disagree
}

func (e *OrientationError) Error() string {
	return fmt.Sprintf("volume: slices %d and %d differ in orientation, size or pixel spacing", e.First, e.Other)
}

// A DuplicateError says that slices lie at the same place; the first of each place was kept.
type DuplicateError struct {
	Dropped []int // indices in the order of the caller
}

func (e *DuplicateError) Error() string {
	return fmt.Sprintf("volume: %d slices lie at the place of another and were left out", len(e.Dropped))
}

// A GapError says that slices seem to be missing from a stack.
type GapError struct {
	After    int     // position in the sorted stack of the slice before the gap
	Distance float64 // mm along the normal to the next slice
	Spacing  float64 // mm: the usual distance
}

func (e *GapError) Error() string {
	return fmt.Sprintf("volume: gap of %.4g mm after slice %d, where the slices are %.4g mm apart", e.Distance, e.After, e.Spacing)
}

// A SpacingError says that slices are unevenly spaced without a gap of a whole slice.
type SpacingError struct{ Min, Max float64 }

func (e *SpacingError) Error() string {
	return fmt.Sprintf("volume: slice distances vary between %.4g and %.4g mm", e.Min, e.Max)
}

// A TiltError says that the stack leans: the line through the first pixels is not the normal (gantry tilt). The affine
// has the lean in it.
type TiltError struct{ Degrees float64 }

func (e *TiltError) Error() string {
	return fmt.Sprintf("volume: the stack is tilted by %.2f degrees", e.Degrees)
}

// A Layout is how slices make a volume.
type Layout struct {
	Order    []int // Order[k] is the index of the slice that becomes slice k
	Affine   Affine
	Even     bool    // whether all slices lie where the affine puts them
	Warnings []error // DuplicateError, GapError, SpacingError, TiltError
}

// Stack sorts slices along their normal. depth is the slice distance that the header states, used only for a single
// slice; 0 stands for unknown, which counts as 1 mm. The slices must be parallel: if not, the error is an
// [OrientationError].
func Stack(s []Slice, depth float64) (*Layout, error) {
	if len(s) == 0 {
		return nil, fmt.Errorf("volume: a stack needs a slice")
	}
	for i := range s {
		if err := s[i].Check(); err != nil {
			return nil, fmt.Errorf("volume: slice %d: %w", i, err)
		}
		if !s[0].Parallel(s[i]) {
			return nil, &OrientationError{0, i}
		}
	}
	normal := s[0].Normal()
	along := make([]float64, len(s))
	order := make([]int, len(s))
	for i := range s {
		along[i], order[i] = s[i].Position.Dot(normal), i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		switch {
		case along[a] < along[b]:
			return -1
		case along[a] > along[b]:
			return 1
		}
		return 0
	})

	out := &Layout{Even: true}
	usual := median(distances(order, along, 1e-4))
	var dropped []int
	for _, i := range order {
		if n := len(out.Order); n > 0 && along[i]-along[out.Order[n-1]] <= max(1e-4, 1e-3*usual) {
			dropped = append(dropped, i)
			continue
		}
		out.Order = append(out.Order, i)
	}
	if dropped != nil {
		slices.Sort(dropped)
		out.Warnings = append(out.Warnings, &DuplicateError{dropped})
	}

	first, last, n := s[out.Order[0]], s[out.Order[len(out.Order)-1]], len(out.Order)
	step := normal
	if depth > 0 && !math.IsInf(depth, 0) {
		step = normal.Scale(depth)
	}
	if n > 1 {
		step = last.Position.Sub(first.Position).Scale(1 / float64(n-1))
		out.checkDistances(distances(out.Order, along, 0), usual)
		if cos := step.Unit().Dot(normal); cos < math.Cos(0.1*math.Pi/180) {
			out.Warnings = append(out.Warnings, &TiltError{math.Acos(cos) * 180 / math.Pi})
		}
	}
	out.Affine = NewAffine(first.Column.Unit().Scale(first.Spacing[0]), first.Row.Unit().Scale(first.Spacing[1]), step, first.Position)
	// A twentieth of a slice is the most that a slice may lie off its place before the affine counts as only a fit.
	for k, i := range out.Order {
		if out.Affine.Apply(Vec{0, 0, float64(k)}).Sub(s[i].Position).Len() > 0.05*step.Len() {
			out.Even = false
		}
	}
	if err := out.Affine.Check(); err != nil {
		return nil, err
	}
	return out, nil
}

// checkDistances adds the warnings that the distances between neighbours call for.
func (l *Layout) checkDistances(d []float64, usual float64) {
	lo, hi, gaps := math.Inf(1), 0.0, 0
	for k, x := range d {
		if x > 1.5*usual {
			l.Warnings = append(l.Warnings, &GapError{k, x, usual})
			gaps++
			continue
		}
		lo, hi = min(lo, x), max(hi, x)
	}
	if hi-lo > max(0.02*usual, 0.002) && gaps < len(d) {
		l.Warnings = append(l.Warnings, &SpacingError{lo, hi})
	}
}

// distances returns the distances between neighbours in order that are larger than atLeast.
func distances(order []int, along []float64, atLeast float64) []float64 {
	var d []float64
	for k := 1; k < len(order); k++ {
		if x := along[order[k]] - along[order[k-1]]; x > atLeast {
			d = append(d, x)
		}
	}
	return d
}

func median(x []float64) float64 {
	if len(x) == 0 {
		return 0
	}
	x = slices.Clone(x)
	slices.Sort(x)
	return x[len(x)/2]
}
