package volume

import "fmt"

// A Plane is a way to cut a volume into slices.
type Plane uint8

// The planes. Slices of the three anatomical ones are turned as radiologists look at them; the stored one is as filed.
const (
	Stored   Plane = iota // columns, rows and slices of the file
	Axial                 // seen from the feet: right of the picture is the patient's left, down is posterior; slices go up
	Coronal               // seen from the front: right is left, down is inferior; slices go from front to back
	Sagittal              // seen from the left: right is posterior, down is inferior; slices go from right to left
)

// String returns the name of p in lower case.
func (p Plane) String() string {
	if p > Sagittal {
		return fmt.Sprintf("plane %d", uint8(p))
	}
	return [...]string{"stored", "axial", "coronal", "sagittal"}[p]
}

// ParsePlane returns the plane of a name that String gives.
func ParsePlane(name string) (Plane, error) {
	for p := Stored; p <= Sagittal; p++ {
		if p.String() == name {
			return p, nil
		}
	}
	return 0, fmt.Errorf("volume: plane %q: want stored, axial, coronal or sagittal", name)
}

// A View cuts a volume into pictures of one plane. Every voxel of the volume is exactly one pixel of one picture: axes
// are swapped and reversed and nothing is resampled, so a mask drawn on the pictures goes back exactly. An oblique
// volume is shown in the plane nearest to the one asked for.
type View struct {
	Volume  *Volume
	Plane   Plane
	Columns int // width of a picture
	Rows    int // height of a picture
	Slices  int // number of pictures

	grid grid
}

// A grid maps view indices (x, y, n) to voxel indices: view axis a runs along voxel axis axis[a], backwards if reversed.
type grid struct {
	axis     [3]int
	reversed [3]bool
	dims     [3]int // of the voxel grid
}

// View returns the view of v in plane p. A view across the stored slices loads the volume first.
func (v *Volume) View(p Plane) (*View, error) {
	g := grid{axis: [3]int{0, 1, 2}, dims: v.Dims}
	if p != Stored {
		if err := v.Affine.Check(); err != nil {
			return nil, err
		}
		axis, reversed := v.Affine.Nearest()
		// Each row: which patient axis x, y and n of the picture follow, and whether against it.
		follow := map[Plane][3]struct {
			axis int
			back bool
		}{
			Axial:    {{0, false}, {1, false}, {2, false}},
			Coronal:  {{0, false}, {2, true}, {1, false}},
			Sagittal: {{1, false}, {2, true}, {0, false}},
		}[p]
		for a, f := range follow {
			g.axis[a], g.reversed[a] = axis[f.axis], reversed[f.axis] != f.back
		}
	}
	if g.axis[2] != 2 {
		if err := v.Load(); err != nil {
			return nil, err
		}
	}
	return &View{Volume: v, Plane: p, Columns: v.Dims[g.axis[0]], Rows: v.Dims[g.axis[1]], Slices: v.Dims[g.axis[2]], grid: g}, nil
}

// Index returns the voxel index that pixel (x, y) of picture n shows.
func (w *View) Index(x, y, n int) [3]int {
	var ijk [3]int
	for a, u := range [3]int{x, y, n} {
		if w.grid.reversed[a] {
			u = w.grid.dims[w.grid.axis[a]] - 1 - u
		}
		ijk[w.grid.axis[a]] = u
	}
	return ijk
}

// Affine returns the map from (x, y, n) to patient millimetres.
func (w *View) Affine() Affine {
	o := w.Index(0, 0, 0)
	var p Affine
	for a := range 3 {
		step := 1.0
		if w.grid.reversed[a] {
			step = -1
		}
		p[w.grid.axis[a]][a] = step
	}
	for i := range 3 {
		p[i][3] = float64(o[i])
	}
	return w.Volume.Affine.Mul(p)
}

// Spacing returns the distances in mm between columns, rows and pictures.
func (w *View) Spacing() Vec { return w.Affine().Spacing() }

// walk calls fn with the offset of each pixel of picture n in row order: the index into the voxels of the whole volume,
// or of slice n alone where the pictures are the stored slices.
func (w *View) walk(n int, fn func(pixel, voxel int)) {
	stride := [3]int{1, w.grid.dims[0], w.grid.dims[0] * w.grid.dims[1]}
	o := w.Index(0, 0, n)
	start := o[0]*stride[0] + o[1]*stride[1] + o[2]*stride[2]
	dx, dy := stride[w.grid.axis[0]], stride[w.grid.axis[1]]
	if w.grid.reversed[0] {
		dx = -dx
	}
	if w.grid.reversed[1] {
		dy = -dy
	}
	pixel := 0
	for y := range w.Rows {
		voxel := start + y*dy
		for range w.Columns {
			fn(pixel, voxel)
			pixel++
			voxel += dx
		}
	}
}

// ReadSlice fills dst, of Columns x Rows x channels values, with picture n in real-world values.
func (w *View) ReadSlice(n int, dst []float32) error {
	c := w.Volume.Channels
	if n < 0 || n >= w.Slices || len(dst) != w.Columns*w.Rows*c {
		return fmt.Errorf("volume: %s picture %d into %d values: there are %d pictures of %d values", w.Plane, n, len(dst), w.Slices, w.Columns*w.Rows*c)
	}
	if w.grid.axis[2] == 2 { // one stored slice is one picture
		k := w.Index(0, 0, n)[2]
		if w.grid.axis == [3]int{0, 1, 2} && !w.grid.reversed[0] && !w.grid.reversed[1] {
			return w.Volume.ReadSlice(k, dst)
		}
		src := make([]float32, len(dst))
		if err := w.Volume.ReadSlice(k, src); err != nil {
			return err
		}
		base := k * w.grid.dims[0] * w.grid.dims[1]
		w.walk(n, func(pixel, voxel int) {
			copy(dst[pixel*c:(pixel+1)*c], src[(voxel-base)*c:])
		})
		return nil
	}
	d, ok := w.Volume.Voxels.(*Dense)
	if !ok {
		return fmt.Errorf("volume: %s picture %d: the voxels were replaced after the view was made", w.Plane, n)
	}
	w.walk(n, func(pixel, voxel int) { d.Values(voxel*c, dst[pixel*c:(pixel+1)*c]) })
	return nil
}

// PutMask writes picture n of a mask, Columns x Rows values of which any but 0 is inside, into m, which has the volume's grid.
func (w *View) PutMask(m *Mask, n int, picture []uint8) error {
	if err := w.checkMask(m, n, len(picture)); err != nil {
		return err
	}
	w.walk(n, func(pixel, voxel int) { m.set(voxel, picture[pixel] != 0) })
	return nil
}

// MaskSlice fills picture, of Columns x Rows values, with 0 and 1 from picture n of m.
func (w *View) MaskSlice(m *Mask, n int, picture []uint8) error {
	if err := w.checkMask(m, n, len(picture)); err != nil {
		return err
	}
	w.walk(n, func(pixel, voxel int) { picture[pixel] = m.get(voxel) })
	return nil
}

func (w *View) checkMask(m *Mask, n, pixels int) error {
	if m.Dims != w.Volume.Dims || n < 0 || n >= w.Slices || pixels != w.Columns*w.Rows {
		return fmt.Errorf("volume: picture %d of %d pixels of a %v mask: the view has %d pictures of %d pixels of a %v volume",
			n, pixels, m.Dims, w.Slices, w.Columns*w.Rows, w.Volume.Dims)
	}
	return nil
}
