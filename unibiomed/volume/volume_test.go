package volume_test

import (
	"errors"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

func TestViewsOfAllAxisOrders(t *testing.T) {
	// Where x, y and n of each plane must lead, in LPS.
	lead := map[volume.Plane]string{volume.Axial: "LPS", volume.Coronal: "LIP", volume.Sagittal: "PIL"}
	volumetest.Orders(func(a volume.Affine) {
		v := volumetest.Numbered([3]int{3, 4, 5}, a)
		for plane, codes := range lead {
			w, err := v.View(plane)
			require.NoError(t, err)
			require.Equal(t, codes, w.Affine().Codes(), "%v of %v", plane, a)

			m := volume.NewMask(v.Dims)
			mark := [3]int{2, 0, 1}
			m.Set(mark[0], mark[1], mark[2], true)
			pic, mask := make([]float32, w.Columns*w.Rows), make([]uint8, w.Columns*w.Rows)
			back, found := volume.NewMask(v.Dims), 0
			for n := range w.Slices {
				require.NoError(t, w.ReadSlice(n, pic))
				require.NoError(t, w.MaskSlice(m, n, mask))
				for p, x := range pic {
					ijk := w.Index(p%w.Columns, p/w.Columns, n)
					require.EqualValues(t, (ijk[2]*4+ijk[1])*3+ijk[0], x)
					if mask[p] != 0 {
						found++
						require.Equal(t, mark, ijk)
						here := w.Affine().Apply(volume.Vec{float64(p % w.Columns), float64(p / w.Columns), float64(n)})
						require.Equal(t, a.Apply(volume.Vec{2, 0, 1}), here)
					}
				}
				require.NoError(t, w.PutMask(back, n, mask))
			}
			require.Equal(t, 1, found)
			require.Equal(t, m, back)
		}
	})
}

func TestViewNeedsAPlace(t *testing.T) {
	v := volumetest.Numbered([3]int{2, 2, 2}, volume.Affine{})
	_, err := v.View(volume.Axial)
	var bad *volume.AffineError
	require.ErrorAs(t, err, &bad)
	w, err := v.View(volume.Stored)
	require.NoError(t, err)
	require.Error(t, w.ReadSlice(2, make([]float32, 4)))
	require.Error(t, w.ReadSlice(0, make([]float32, 3)))
	require.Error(t, w.PutMask(volume.NewMask([3]int{1, 1, 1}), 0, make([]uint8, 4)))
}

func TestAffineInverse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		num := rapid.Float64Range(-100, 100)
		var a volume.Affine
		for r := range a {
			for c := range a[r] {
				a[r][c] = num.Draw(t, "a")
			}
		}
		p := volume.Vec{num.Draw(t, "x"), num.Draw(t, "y"), num.Draw(t, "z")}
		inv, err := a.Inverse()
		if err != nil {
			t.Skip("singular")
		}
		q := inv.Apply(a.Apply(p))
		if q.Sub(p).Len() > 1e-3 && a.Check() == nil && math.Abs(a.Det()) > 1 {
			t.Fatalf("%v came back as %v", p, q)
		}
		if a.FlipRASLPS().FlipRASLPS() != a {
			t.Fatalf("RAS to LPS is not its own inverse")
		}
	})
}

func TestAffineCheck(t *testing.T) {
	good := volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{})
	require.NoError(t, good.Check())
	for name, a := range map[string]volume.Affine{
		"NaN":          volume.NewAffine(volume.Vec{math.NaN()}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{}),
		"zero spacing": volume.NewAffine(volume.Vec{1}, volume.Vec{}, volume.Vec{0, 0, 1}, volume.Vec{}),
		"flat":         volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{1, 1}, volume.Vec{}),
		"far away":     volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{math.Inf(1)}),
		"huge":         volume.NewAffine(volume.Vec{1e200}, volume.Vec{0, 1e200}, volume.Vec{0, 0, 1e200}, volume.Vec{}),
	} {
		require.Error(t, a.Check(), name)
	}
}

func slice(z float64) volume.Slice {
	return volume.Slice{Position: volume.Vec{0, 0, z}, Column: volume.Vec{1}, Row: volume.Vec{0, 1},
		Spacing: [2]float64{0.5, 0.7}, Size: [2]int{4, 4}}
}

func at(z ...float64) (s []volume.Slice) {
	for _, z := range z {
		s = append(s, slice(z))
	}
	return s
}

func TestStack(t *testing.T) {
	leaning := at(0, 2, 4)
	for i := range leaning {
		leaning[i].Position[1] = float64(i) * 0.5
	}
	turned := at(0, 2)
	turned[1].Column, turned[1].Row = volume.Vec{0, 1}, volume.Vec{0, 0, -1}
	nan := at(0, 2)
	nan[1].Position[0] = math.NaN()
	thin := at(0)
	thin[0].Spacing[1] = 0

	tests := []struct {
		name   string
		slices []volume.Slice
		order  []int
		step   volume.Vec
		even   bool
		warn   error // its type
		err    error
	}{
		{name: "in order", slices: at(0, 2, 4), order: []int{0, 1, 2}, step: volume.Vec{0, 0, 2}, even: true},
		{name: "shuffled", slices: at(4, 0, 2), order: []int{1, 2, 0}, step: volume.Vec{0, 0, 2}, even: true},
		{name: "one slice", slices: at(7), order: []int{0}, step: volume.Vec{0, 0, 5}, even: true},
		{name: "duplicate", slices: at(0, 2, 2, 4), order: []int{0, 1, 3}, step: volume.Vec{0, 0, 2}, even: true, warn: &volume.DuplicateError{}},
		{name: "all at one place", slices: at(3, 3, 3), order: []int{0}, step: volume.Vec{0, 0, 5}, even: true, warn: &volume.DuplicateError{}},
		{name: "gap", slices: at(0, 2, 4, 10), order: []int{0, 1, 2, 3}, step: volume.Vec{0, 0, 10. / 3}, warn: &volume.GapError{}},
		{name: "uneven", slices: at(0, 2, 4.5, 6), order: []int{0, 1, 2, 3}, step: volume.Vec{0, 0, 2}, warn: &volume.SpacingError{}},
		{name: "tilted", slices: leaning, order: []int{0, 1, 2}, step: volume.Vec{0, 0.5, 2}, even: true, warn: &volume.TiltError{}},
		{name: "mixed orientation", slices: turned, err: &volume.OrientationError{}},
		{name: "position is NaN", slices: nan, err: errors.New("")},
		{name: "no spacing", slices: thin, err: errors.New("")},
		{name: "nothing", err: errors.New("")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			l, err := volume.Stack(tt.slices, 5)
			if tt.err != nil {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.order, l.Order)
			require.InDeltaSlice(t, tt.step[:], func() []float64 { s := l.Affine.Step(2); return s[:] }(), 1e-12)
			require.Equal(t, tt.even, l.Even)
			if tt.warn == nil {
				require.Empty(t, l.Warnings)
			} else {
				require.Len(t, l.Warnings, 1)
				require.IsType(t, tt.warn, l.Warnings[0])
			}
		})
	}
}

func TestMaskMorphology(t *testing.T) {
	// Two slices of a ring with an open and a closed part, and a speck that touches nothing.
	draw := func(slices ...string) *volume.Mask {
		m := volume.NewMask([3]int{5, len(slices[0]) / 5, len(slices)})
		for k, s := range slices {
			for i, c := range s {
				m.Set(i%5, i/5, k, c == '#')
			}
		}
		return m
	}
	m := draw("###..#.#..###.#", "###..###..###..")
	m.LargestComponent()
	require.Equal(t, draw("###..#.#..###..", "###..###..###.."), m)
	m.FillHoles(false)
	require.Equal(t, draw("###..#.#..###..", "###..###..###.."), m, "the hole is open to the border of the grid")
	m.FillHoles(true)
	require.Equal(t, draw("###..###..###..", "###..###..###.."), m)

	closed := draw("###..###..###..", "###..#.#..###..", "###..###..###..")
	closed.FillHoles(false)
	require.Equal(t, 27, closed.Count())
	lo, hi, ok := closed.Bounds()
	require.True(t, ok)
	require.Equal(t, [2][3]int{{0, 0, 0}, {2, 2, 2}}, [2][3]int{lo, hi})

	a, b := draw("##........."[:10]), draw(".##........"[:10])
	c := draw("...##......"[:10])
	require.Equal(t, [][]int{{0, 2}, {1}}, volume.Layers([]volume.Label{{Mask: a}, {Mask: b}, {Mask: c}}))
}

func TestLoadAndTypes(t *testing.T) {
	for typ, bytes := range map[volume.Type][]byte{
		volume.Uint8: {250}, volume.Int8: {0xfa}, volume.Uint16: {0xfa, 0xff}, volume.Int16: {0xfa, 0xff},
		volume.Uint32: {0xfa, 0xff, 0xff, 0xff}, volume.Int32: {0xfa, 0xff, 0xff, 0xff},
		volume.Uint64: {1, 0, 0, 0, 1, 0, 0, 0}, volume.Int64: {0xfa, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
		volume.Float32: {0, 0, 0x80, 0x3e}, volume.Float64: {0, 0, 0, 0, 0, 0, 0xd0, 0x3f},
	} {
		want := map[volume.Type]float32{volume.Uint8: 250, volume.Int8: -6, volume.Uint16: 65530, volume.Int16: -6,
			volume.Uint32: 4294967290, volume.Int32: -6, volume.Uint64: 4294967297, volume.Int64: -6, volume.Float32: 0.25, volume.Float64: 0.25}[typ]
		d := &volume.Dense{Type: typ, Data: bytes, Slope: 2, Intercept: 1}
		got := make([]float32, 1)
		require.NoError(t, d.ReadSlice(0, got))
		require.InEpsilon(t, 2*want+1, got[0], 1e-7, typ.String())
		require.Error(t, d.ReadSlice(1, got))
	}

	lazy := volumetest.Numbered([3]int{2, 3, 4}, volume.Affine{})
	lazy.Voxels = hidden{lazy.Voxels}
	require.NoError(t, lazy.Load())
	got := make([]float32, 6)
	require.NoError(t, lazy.ReadSlice(3, got))
	require.Equal(t, []float32{18, 19, 20, 21, 22, 23}, got)
}

type hidden struct{ volume.Voxels }

func TestWriteFileIsAllOrNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "out")
	require.NoError(t, volume.WriteFile(path, func(w io.Writer) error { _, err := w.Write([]byte("first")); return err }))
	require.Error(t, volume.WriteFile(path, func(w io.Writer) error { w.Write([]byte("half")); return errors.New("full") }))
	got, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, "first", string(got))
	left, _ := os.ReadDir(filepath.Dir(path))
	require.Len(t, left, 1, "no temporary file stays")
}
