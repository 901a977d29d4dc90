package volume

import (
	"fmt"
	"math"
)

// A Vec is a point or direction in the patient, in millimetres on the LPS axes.
type Vec [3]float64

// Add returns a + b.
func (a Vec) Add(b Vec) Vec { return Vec{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }

// Sub returns a - b.
func (a Vec) Sub(b Vec) Vec { return Vec{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }

// Scale returns s*a.
func (a Vec) Scale(s float64) Vec { return Vec{s * a[0], s * a[1], s * a[2]} }

// Dot returns the inner product.
func (a Vec) Dot(b Vec) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

// Cross returns the vector product.
func (a Vec) Cross(b Vec) Vec {
	return Vec{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}

// Len returns the length.
func (a Vec) Len() float64 { return math.Sqrt(a.Dot(a)) }

// Unit returns a with length 1, or the zero vector unchanged.
func (a Vec) Unit() Vec {
	if l := a.Len(); l > 0 {
		return a.Scale(1 / l)
	}
	return a
}

// An Affine maps (column, row, slice) to patient millimetres: each row is a patient axis, the first three columns are
// the steps from one voxel to the next, and the last is the centre of voxel (0, 0, 0).
type Affine [3][4]float64

// NewAffine returns the affine of the given steps and origin.
func NewAffine(column, row, slice, origin Vec) Affine {
	var a Affine
	for i := range 3 {
		a[i] = [4]float64{column[i], row[i], slice[i], origin[i]}
	}
	return a
}

// Step returns the vector from one voxel to the next along index axis i; Step(3) is the origin.
func (a Affine) Step(i int) Vec { return Vec{a[0][i], a[1][i], a[2][i]} }

// Origin returns the centre of voxel (0, 0, 0).
func (a Affine) Origin() Vec { return a.Step(3) }

// Spacing returns the distances in mm between voxel centres along columns, rows and slices.
func (a Affine) Spacing() Vec { return Vec{a.Step(0).Len(), a.Step(1).Len(), a.Step(2).Len()} }

// Apply returns the patient position of a voxel index, which may be fractional.
func (a Affine) Apply(ijk Vec) Vec {
	var p Vec
	for r := range 3 {
		p[r] = a[r][0]*ijk[0] + a[r][1]*ijk[1] + a[r][2]*ijk[2] + a[r][3]
	}
	return p
}

// Mul returns the affine that applies b first and then a.
func (a Affine) Mul(b Affine) Affine {
	var c Affine
	for r := range 3 {
		for k := range 4 {
			c[r][k] = a[r][0]*b[0][k] + a[r][1]*b[1][k] + a[r][2]*b[2][k]
		}
		c[r][3] += a[r][3]
	}
	return c
}

// Det returns the determinant of the 3x3 part: the signed volume of a voxel in mm³.
func (a Affine) Det() float64 { return a.Step(0).Cross(a.Step(1)).Dot(a.Step(2)) }

// Inverse returns the map from patient millimetres to voxel indices.
func (a Affine) Inverse() (Affine, error) {
	if err := a.Check(); err != nil {
		return Affine{}, err
	}
	c, r, s := a.Step(0), a.Step(1), a.Step(2)
	det := a.Det()
	rows := [3]Vec{r.Cross(s).Scale(1 / det), s.Cross(c).Scale(1 / det), c.Cross(r).Scale(1 / det)}
	var inv Affine
	for i, v := range rows {
		inv[i] = [4]float64{v[0], v[1], v[2], -v.Dot(a.Origin())}
	}
	return inv, nil
}

// An AffineError says that an affine cannot place voxels.
type AffineError struct {
	Affine Affine
	Reason string
}

func (e *AffineError) Error() string {
	return fmt.Sprintf("volume: affine %v: %s", [3][4]float64(e.Affine), e.Reason)
}

// Check returns an [AffineError] for an affine that holds NaN or infinity, or whose axes do not span space.
func (a Affine) Check() error {
	for _, row := range a {
		for _, x := range row {
			if math.IsNaN(x) || math.IsInf(x, 0) {
				return &AffineError{a, "a value is not finite"}
			}
		}
	}
	s := a.Spacing()
	for i, name := range []string{"columns", "rows", "slices"} {
		if s[i] == 0 {
			return &AffineError{a, "the spacing of " + name + " is zero"}
		}
		if math.IsInf(s[i], 0) {
			return &AffineError{a, "the spacing of " + name + " overflows"}
		}
	}
	// The determinant of unit axes is free of the unit: 1 for a right angle, 0 for axes in one plane.
	unit := a.Step(0).Unit().Cross(a.Step(1).Unit()).Dot(a.Step(2).Unit())
	if math.Abs(unit) < 1e-4 || math.IsNaN(unit) {
		return &AffineError{a, "its axes lie in one plane"}
	}
	if d := a.Det(); d == 0 || math.IsInf(d, 0) || math.IsInf(1/d, 0) {
		return &AffineError{a, "the volume of a voxel is out of range"}
	}
	return nil
}

// FlipRASLPS returns the same map with patient axes in the other of the two conventions: NIfTI's Right, Anterior,
// Superior and DICOM's Left, Posterior, Superior. It is its own inverse.
func (a Affine) FlipRASLPS() Affine {
	for k := range 4 {
		a[0][k] = 0 - a[0][k] // not -x: a zero stays +0
		a[1][k] = 0 - a[1][k]
	}
	return a
}

// Nearest returns for each patient axis (x, y, z) the index axis that lies closest to it, and whether that index runs
// against it. Each index axis is used once; the choice maximizes the sum of the absolute direction cosines.
func (a Affine) Nearest() (axis [3]int, reversed [3]bool) {
	perms := [6][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}
	d := [3]Vec{a.Step(0).Unit(), a.Step(1).Unit(), a.Step(2).Unit()}
	best := -1.0
	for _, p := range perms {
		sum := 0.0
		for r, i := range p {
			sum += math.Abs(d[i][r])
		}
		if sum > best+1e-9 {
			best, axis = sum, p
		}
	}
	for r, i := range axis {
		reversed[r] = d[i][r] < 0
	}
	return axis, reversed
}

// Codes returns where increasing columns, rows and slices lead: one of L R A P S I each, such as "LPS".
func (a Affine) Codes() string {
	axis, reversed := a.Nearest()
	var c [3]byte
	for r, i := range axis {
		c[i] = [2][3]byte{{'L', 'P', 'S'}, {'R', 'A', 'I'}}[b2i(reversed[r])][r]
	}
	return string(c[:])
}

// Obliquity returns the largest angle in degrees between an index axis and its nearest patient axis.
func (a Affine) Obliquity() float64 {
	axis, _ := a.Nearest()
	worst := 1.0
	for r, i := range axis {
		worst = min(worst, math.Abs(a.Step(i).Unit()[r]))
	}
	return math.Acos(min(worst, 1)) * 180 / math.Pi
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
