package metrics_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// ball is an ellipsoid; gaps leaves out some voxels.
func ball(dims [3]int, centre, radius volume.Vec, gaps int) *volume.Mask {
	m := volume.NewMask(dims)
	for k := range dims[2] {
		for j := range dims[1] {
			for i := range dims[0] {
				d := 0.0
				for a, x := range [3]int{i, j, k} {
					e := (float64(x) - centre[a]) / radius[a]
					d += e * e
				}
				m.Set(i, j, k, d <= 1 && (gaps == 0 || (7*i+3*j+5*k)%gaps != 0))
			}
		}
	}
	return m
}

// TestSurfacesEqualSciPy compares distances with scipy's Euclidean transform and erosion, overlap with
// SimpleITK, and the enlarged slices with Pillow.
func TestSurfacesEqualSciPy(t *testing.T) {
	dims := [3]int{23, 17, 11}
	spacing := [3]float64{0.7, 1.3, 2.5}
	pairs := [][2]*volume.Mask{
		{ball(dims, volume.Vec{10, 8, 5}, volume.Vec{7, 5, 4}, 0), ball(dims, volume.Vec{12, 7, 6}, volume.Vec{6, 6, 3}, 0)},
		{ball(dims, volume.Vec{3, 2, 1}, volume.Vec{6, 5, 4}, 0), ball(dims, volume.Vec{18, 14, 9}, volume.Vec{8, 6, 3}, 0)}, // cut by the border, far apart
		{ball(dims, volume.Vec{10, 8, 5}, volume.Vec{9, 7, 5}, 11), ball(dims, volume.Vec{10, 8, 5}, volume.Vec{9, 7, 5}, 4)},
		{ball(dims, volume.Vec{4, 4, 4}, volume.Vec{.1, .1, .1}, 0), ball(dims, volume.Vec{20, 9, 10}, volume.Vec{.1, .1, .1}, 0)},
		{ball(dims, volume.Vec{10, 8, 5}, volume.Vec{5, 5, 3}, 0), ball(dims, volume.Vec{10, 8, 5}, volume.Vec{5, 5, 3}, 0)},
	}
	dir := t.TempDir()
	for i, p := range pairs {
		for j, m := range p {
			var b []byte
			slice := make([]uint8, dims[0]*dims[1])
			for k := range dims[2] {
				m.Slice(k, slice)
				b = append(b, slice...)
			}
			require.NoError(t, os.WriteFile(filepath.Join(dir, fmt.Sprintf("%d_%d", i, j)), b, 0o600))
		}
	}
	about, err := json.Marshal(map[string]any{"dims": dims, "spacing": spacing, "n": len(pairs), "tolerance": 1.5})
	require.NoError(t, err)
	var want []struct {
		HD95, NSD, OfficialHD95, OfficialNSD, Dice, OfficialDice float64
		Big                                                      [2]int
	}
	volumetest.Python(t, []string{"scipy", "SimpleITK", "PIL"}, `
import json, sys, numpy as np, SimpleITK as sitk
from PIL import Image
from scipy.ndimage import distance_transform_edt as edt, binary_erosion
about = json.loads(sys.argv[2])
dims, spacing, tol = about["dims"], about["spacing"][::-1], about["tolerance"]
out = []
def surface(m): return m & ~binary_erosion(m)
def directed(p, t, spacing):
    sp, st = surface(p), surface(t)
    return edt(~st, sampling=spacing)[sp], edt(~sp, sampling=spacing)[st]
for i in range(about["n"]):
    p, t = (np.fromfile(f"{sys.argv[1]}/{i}_{j}", "u1").reshape(dims[::-1]).astype(bool) for j in (0, 1))
    a, b = directed(p, t, spacing)
    r = dict(HD95=max(np.percentile(a, 95), np.percentile(b, 95)), NSD=((a <= tol).sum() + (b <= tol).sum()) / (a.size + b.size))
    f = sitk.LabelOverlapMeasuresImageFilter()
    f.Execute(sitk.GetImageFromArray(p.astype("u1")), sitk.GetImageFromArray(t.astype("u1")))
    r["Dice"] = f.GetDiceCoefficient()
    big = [np.stack([np.asarray(Image.fromarray(s.astype("u1") * 255).resize((512, 512))) > 0 for s in m]) for m in (p, t)]
    r["Big"] = [int(m.sum()) for m in big]
    r["OfficialDice"] = 2 * (p & t).sum() / (p.sum() + t.sum() + 1e-8)
    a, b = edt(~t)[p], edt(~p)[t]
    c = np.concatenate([a[a > 0], b[b > 0]])
    r["OfficialHD95"] = np.percentile(c, 95) if c.size else 0
    a, b = directed(p, t, None)
    r["OfficialNSD"] = ((a <= 2).sum() + (b <= 2).sum()) / (a.size + b.size)
    out.append({k: v if k == "Big" else float(v) for k, v in r.items()})
print(json.dumps(out))`, &want, dir, string(about))
	for i, p := range pairs {
		s, err := metrics.StrictSurface(p[0], p[1], spacing, 1.5)
		require.NoError(t, err)
		require.InDelta(t, want[i].HD95, s.HD95, 1e-9, i)
		require.InDelta(t, want[i].NSD, s.NSD, 1e-12, i)
		o, err := metrics.OfficialSurface(p[0], p[1])
		require.NoError(t, err)
		require.InDelta(t, want[i].OfficialHD95, o.HD95, 1e-9, i)
		require.InDelta(t, want[i].OfficialNSD, o.NSD, 1e-12, i)
		c, err := metrics.CountVoxels(p[0], p[1])
		require.NoError(t, err)
		require.InDelta(t, want[i].Dice, c.Dice(), 1e-12, i)
		require.InDelta(t, want[i].OfficialDice, c.OfficialDice(), 1e-12, i)
		for j, m := range p {
			big, err := metrics.OfficialSlices(m)
			require.NoError(t, err)
			require.Equal(t, want[i].Big[j], big.Count(), i)
		}
	}
}

func TestSurfacesOfEmptyMasks(t *testing.T) {
	dims := [3]int{4, 4, 4}
	none, some := volume.NewMask(dims), ball(dims, volume.Vec{2, 2, 2}, volume.Vec{1, 1, 1}, 0)
	s, err := metrics.StrictSurface(none, none, [3]float64{1, 1, 1}, 2)
	require.NoError(t, err)
	require.Equal(t, metrics.Surface{HD95: 0, NSD: 1}, s)
	for _, p := range [][2]*volume.Mask{{none, some}, {some, none}} {
		s, err := metrics.StrictSurface(p[0], p[1], [3]float64{1, 1, 1}, 2)
		require.NoError(t, err)
		require.True(t, math.IsNaN(s.HD95))
		require.Zero(t, s.NSD)
		o, err := metrics.OfficialSurface(p[0], p[1])
		require.NoError(t, err)
		require.True(t, math.IsNaN(o.HD95))
		require.Zero(t, o.NSD)
	}
	_, err = metrics.StrictSurface(some, volume.NewMask([3]int{1, 1, 1}), [3]float64{1, 1, 1}, 2)
	require.ErrorContains(t, err, "[4 4 4]")
	_, err = metrics.StrictSurface(some, some, [3]float64{1, 0, 1}, 2)
	require.ErrorContains(t, err, "mm")
}
