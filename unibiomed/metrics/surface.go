package metrics

import (
	"fmt"
	"math"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// CountVoxels compares two masks of one grid.
func CountVoxels(pred, truth *volume.Mask) (Overlap, error) {
	if pred.Dims != truth.Dims {
		return Overlap{}, fmt.Errorf("metrics: a prediction of %v voxels and a truth of %v", pred.Dims, truth.Dims)
	}
	o := Overlap{Pred: pred.Count(), Truth: truth.Count()}
	both := volume.NewMask(pred.Dims)
	both.Add(pred)
	both.Add(truth)
	o.Both = o.Pred + o.Truth - both.Count()
	return o, nil
}

// A Surface tells how far apart the surfaces of two masks lie.
type Surface struct {
	HD95 float64 // NaN where one mask is empty
	NSD  float64 // 0 to 1
}

// StrictSurface measures in mm, on the grid of the masks, whose voxels have the given size. The surface of a mask is its voxels
// that touch the outside, or the border of the grid, by a face. HD95 is the larger of the two 95th percentiles (linear
// between ranks) of the distances from each surface voxel of one mask to the nearest of the other; NSD the share of
// all surface voxels that lie within tolerance of the other surface. Two empty masks agree: HD95 0, NSD 1; of one, HD95 is NaN and
// NSD 0.
func StrictSurface(pred, truth *volume.Mask, spacing [3]float64, tolerance float64) (Surface, error) {
	f, err := newField(pred, truth, spacing)
	if err != nil {
		return Surface{}, err
	}
	switch {
	case f.pred == nil && f.truth == nil:
		return Surface{HD95: 0, NSD: 1}, nil
	case f.pred == nil || f.truth == nil:
		return Surface{HD95: math.NaN(), NSD: 0}, nil
	}
	p, t := f.surfaces(tolerance)
	return Surface{HD95: max(percentile(p.distances, 95), percentile(t.distances, 95)), NSD: nsd(p, t)}, nil
}

// OfficialSurface measures as the official scripts (spec/evaluation.md 5), in voxels taken as cubes: HD95 is the 95th percentile of
// the distances above 0 of all voxels of each mask to the other mask, not of surfaces; NSD has a tolerance of 2 voxels
// and is 0 where a mask is empty. Of equal masks no distance is above 0, which the scripts don't survive: HD95 is 0.
func OfficialSurface(pred, truth *volume.Mask) (Surface, error) {
	f, err := newField(pred, truth, [3]float64{1, 1, 1})
	if err != nil {
		return Surface{}, err
	}
	if f.pred == nil || f.truth == nil {
		return Surface{HD95: math.NaN(), NSD: 0}, nil
	}
	all := append(f.beyond(f.pred, f.truth), f.beyond(f.truth, f.pred)...)
	s := Surface{}
	if len(all) > 0 {
		s.HD95 = percentile(all, 95)
	}
	s.NSD = nsd(f.surfaces(2))
	return s, nil
}

// OfficialSide is the width and height to which the official scripts bring slices.
const OfficialSide = 512

// OfficialSlices brings the slices of a mask along its third axis to 512 x 512 as the official scripts do: Pillow's cubic filter
// on 8-bit levels, everything above 0 inside, which dilates a little.
func OfficialSlices(m *volume.Mask) (*volume.Mask, error) {
	if m.Dims[0] == OfficialSide && m.Dims[1] == OfficialSide {
		return m, nil
	}
	out := volume.NewMask([3]int{OfficialSide, OfficialSide, m.Dims[2]})
	slice, img := make([]uint8, m.Dims[0]*m.Dims[1]), imaging.NewRGB(m.Dims[0], m.Dims[1])
	for k := range m.Dims[2] {
		if !m.Slice(k, slice) {
			continue
		}
		for i, x := range slice {
			img.Pix[3*i] = 255 * x
		}
		big, err := resample.Cubic(img, OfficialSide, OfficialSide, 1)
		if err != nil {
			return nil, err
		}
		for i := range OfficialSide * OfficialSide {
			if big.Pix[3*i] > 0 {
				out.Set(i%OfficialSide, i/OfficialSide, k, true)
			}
		}
	}
	return out, nil
}

// OfficialDice is Dice with the 1e-8 that the official scripts of volumes add to the denominator.
func (o Overlap) OfficialDice() float64 {
	return 2 * float64(o.Both) / (float64(o.Pred+o.Truth) + 1e-8)
}

// field holds two masks cut to the box of both: nearest voxels never lie outside of it.
type field struct {
	dims        [3]int
	spacing     [3]float64
	pred, truth []bool // nil for an empty mask
}

func newField(pred, truth *volume.Mask, spacing [3]float64) (*field, error) {
	if pred.Dims != truth.Dims {
		return nil, fmt.Errorf("metrics: a prediction of %v voxels and a truth of %v", pred.Dims, truth.Dims)
	}
	for _, s := range spacing {
		if !(s > 0) || math.IsInf(s, 0) {
			return nil, fmt.Errorf("metrics: a voxel of %v mm", spacing)
		}
	}
	f := &field{spacing: spacing}
	lo, hi, okP := pred.Bounds()
	lo2, hi2, okT := truth.Bounds()
	if !okP {
		lo, hi = lo2, hi2
	}
	if !okP && !okT {
		return f, nil
	}
	for a := range 3 {
		if okT && okP {
			lo[a], hi[a] = min(lo[a], lo2[a]), max(hi[a], hi2[a])
		}
		f.dims[a] = hi[a] - lo[a] + 1
	}
	cut := func(m *volume.Mask) []bool {
		out := make([]bool, 0, f.dims[0]*f.dims[1]*f.dims[2])
		for k := lo[2]; k <= hi[2]; k++ {
			for j := lo[1]; j <= hi[1]; j++ {
				for i := lo[0]; i <= hi[0]; i++ {
					out = append(out, m.At(i, j, k))
				}
			}
		}
		return out
	}
	if okP {
		f.pred = cut(pred)
	}
	if okT {
		f.truth = cut(truth)
	}
	return f, nil
}

// shell returns the voxels of m that touch the outside by a face. Beyond the box everything is outside, as beyond the grid.
func (f *field) shell(m []bool) []bool {
	out := make([]bool, len(m))
	step := [3]int{1, f.dims[0], f.dims[0] * f.dims[1]}
	for n, in := range m {
		if !in {
			continue
		}
		at := [3]int{n % f.dims[0], n / f.dims[0] % f.dims[1], n / step[2]}
		for a := range 3 {
			if at[a] == 0 || at[a] == f.dims[a]-1 || !m[n-step[a]] || !m[n+step[a]] {
				out[n] = true
				break
			}
		}
	}
	return out
}

// distance returns for every voxel the distance to the nearest one of m, which has some: the exact Euclidean transform, an axis after
// the other (Felzenszwalb and Huttenlocher 2012).
func (f *field) distance(m []bool) []float64 {
	d := make([]float64, len(m))
	for i, in := range m {
		if !in {
			d[i] = math.Inf(1)
		}
	}
	longest := slices.Max(f.dims[:])
	line, out := make([]float64, longest), make([]float64, longest)
	hull, from := make([]int, longest), make([]float64, longest+1)
	step := [3]int{1, f.dims[0], f.dims[0] * f.dims[1]}
	for a := range 3 {
		n, s := f.dims[a], f.spacing[a]*f.spacing[a]
		for start := range d {
			if start/step[a]%n != 0 {
				continue
			}
			for i := range n {
				line[i] = d[start+i*step[a]]
			}
			lowest(line[:n], out[:n], s, hull, from)
			for i := range n {
				d[start+i*step[a]] = out[i]
			}
		}
	}
	for i := range d {
		d[i] = math.Sqrt(d[i])
	}
	return d
}

// lowest sets out[i] to the minimum over j of f[j] + s(i-j)^2: the lower envelope of parabolas. hull and from are its scratch space.
func lowest(f, out []float64, s float64, hull []int, from []float64) {
	k := -1
	for q := range f {
		if math.IsInf(f[q], 1) {
			continue
		}
		at := math.Inf(-1)
		for k >= 0 {
			v := hull[k]
			at = ((f[q]/s + float64(q*q)) - (f[v]/s + float64(v*v))) / float64(2*(q-v))
			if at > from[k] {
				break
			}
			k--
		}
		if k < 0 {
			at = math.Inf(-1)
		}
		k++
		hull[k], from[k] = q, at
	}
	if k < 0 {
		for i := range out {
			out[i] = math.Inf(1)
		}
		return
	}
	j := 0
	for i := range out {
		for j < k && from[j+1] < float64(i) {
			j++
		}
		out[i] = f[hull[j]] + s*float64((i-hull[j])*(i-hull[j]))
	}
}

// directed holds the distances from the surface voxels of one mask to the other surface.
type directed struct {
	distances []float64
	near      int // within tolerance
}

func (f *field) surfaces(tolerance float64) (pred, truth directed) {
	p, t := f.shell(f.pred), f.shell(f.truth)
	measure := func(from, to []bool) (out directed) {
		d := f.distance(to)
		for i, in := range from {
			if in {
				out.distances = append(out.distances, d[i])
				if d[i] <= tolerance {
					out.near++
				}
			}
		}
		return out
	}
	return measure(p, t), measure(t, p)
}

// beyond returns the distances above 0 of the voxels of one mask to the other.
func (f *field) beyond(of, to []bool) (out []float64) {
	d := f.distance(to)
	for i, in := range of {
		if in && d[i] > 0 {
			out = append(out, d[i])
		}
	}
	return out
}

func nsd(p, t directed) float64 {
	return float64(p.near+t.near) / float64(len(p.distances)+len(t.distances))
}

// percentile is numpy's default: linear between the ranks. It sorts x.
func percentile(x []float64, percent float64) float64 {
	slices.Sort(x)
	at := percent / 100 * float64(len(x)-1)
	i := int(at)
	if i+1 == len(x) {
		return x[i]
	}
	return x[i] + (x[i+1]-x[i])*(at-float64(i))
}
