package dicom

import (
	"fmt"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

const slideMicroscopy = "1.2.840.10008.5.1.4.1.1.77.1.6"

// mosaic returns the picture that the tiles of a slide make, or nil for anything else. Only the first focal plane and
// optical path are shown.
func (f *File) mosaic(p *Pixels, o Options) (*Stack, error) {
	cols, ok := f.Data.Int(TotalPixelMatrixColumns)
	rows, ok2 := f.Data.Int(TotalPixelMatrixRows)
	if f.Data.Text(SOPClassUID) != slideMicroscopy || !ok || !ok2 {
		return nil, nil
	}
	if cols < 1 || rows < 1 || cols > 1<<24 || rows > 1<<24 {
		return nil, broken(TotalPixelMatrixColumns.String(), "the slide is %d x %d", cols, rows)
	}
	bytes := 4 * int64(cols) * int64(rows) * int64(p.channels()) // as ReadSlice gives it
	if bytes > o.MaxBytes() {
		return nil, &volume.LimitError{Field: TotalPixelMatrixColumns.String(), Want: bytes, Limit: o.MaxBytes()}
	}
	across := (cols + p.Columns - 1) / p.Columns
	need := across * ((rows + p.Rows - 1) / p.Rows)
	m := &mosaic{file: f, pixels: p, limits: o.Limits, cols: cols, rows: rows}
	taken := map[[2]int]bool{}
	for i := range p.Frames {
		at := [2]int{i % across * p.Columns, i / across * p.Rows}
		if g := f.group(i, PlanePositionSlideSequence); g != nil {
			x, okX := g.Int(ColumnPositionInTotalImagePixelMatrix)
			y, okY := g.Int(RowPositionInTotalImagePixelMatrix)
			if !okX || !okY || x < 1 || y < 1 || x > cols || y > rows {
				return nil, broken(PlanePositionSlideSequence.String(), "tile %d lies at %d, %d of a slide of %d x %d", i, x, y, cols, rows)
			}
			at = [2]int{x - 1, y - 1}
		} else if i >= need {
			break
		}
		if !taken[at] {
			taken[at] = true
			m.tiles = append(m.tiles, tile{i, at})
		}
	}
	s, _ := f.place(p, 0)
	v := &volume.Volume{Dims: [3]int{cols, rows, 1}, Channels: p.channels(), Voxels: m, Warnings: f.warnings(),
		Affine: volume.NewAffine(volume.Vec{s.Spacing[0]}, volume.Vec{0, s.Spacing[1]}, volume.Vec{0, 0, 1}, volume.Vec{})}
	st := &Stack{Volume: v, Slices: []FrameRef{{f, 0}}}
	st.describe(f, 0, p)
	if len(m.tiles) < need {
		v.Warnings = append(v.Warnings, fmt.Errorf("dicom: the slide has %d of %d tiles; the others are black", len(m.tiles), need))
	}
	return st, nil
}

type tile struct {
	frame int
	at    [2]int // column and row in the slide
}

// A mosaic reads the tiles of a slide as one slice.
type mosaic struct {
	file       *File
	pixels     *Pixels
	limits     volume.Limits
	cols, rows int
	tiles      []tile
}

// ReadSlice implements [volume.Voxels].
func (m *mosaic) ReadSlice(k int, dst []float32) error {
	c := m.pixels.channels()
	if k != 0 || len(dst) != m.cols*m.rows*c {
		return fmt.Errorf("dicom: slice %d into %d values: the slide is one slice of %d", k, len(dst), m.cols*m.rows*c)
	}
	clear(dst)
	buf := make([]float32, m.pixels.Rows*m.pixels.Columns*c)
	for _, t := range m.tiles {
		d, channels, err := m.file.Image(t.frame, m.limits)
		if err != nil {
			return err
		}
		if channels != c {
			return named(broken(SamplesPerPixel.String(), "tile %d has %d channels, want %d", t.frame, channels, c), m.file.Path)
		}
		d.Values(0, buf)
		w := min(m.pixels.Columns, m.cols-t.at[0]) * c // the last tiles reach over the edge
		for y := range min(m.pixels.Rows, m.rows-t.at[1]) {
			copy(dst[((t.at[1]+y)*m.cols+t.at[0])*c:][:w], buf[y*m.pixels.Columns*c:])
		}
	}
	return nil
}
