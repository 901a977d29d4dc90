package window_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
	"github.com/unibiomed/go-unibiomed/unibiomed/window"
)

func grey(t *testing.T, m *window.Method, values ...float32) []uint8 {
	t.Helper()
	rgb := make([]uint8, 3*len(values))
	require.NoError(t, m.RGB(values, 1, rgb))
	var out []uint8
	for i := range values {
		require.True(t, rgb[3*i] == rgb[3*i+1] && rgb[3*i] == rgb[3*i+2])
		out = append(out, rgb[3*i])
	}
	return out
}

func TestChoose(t *testing.T) {
	brain := volume.Window{Center: 40, Width: 80, Name: "BRAIN"}
	ct := &volume.Volume{Channels: 1, Modality: "CT", Unit: "HU"}
	tests := []struct {
		name, spec string
		v          volume.Volume
		want       string // "" is an error
	}{
		{"CT with nothing else", "auto", *ct, "range abdomen -150..250 HU"},
		{"CT of the chest", "", volume.Volume{Channels: 1, Modality: "CT", Unit: "HU", BodyPart: "Chest"}, "range lung -1000..1000 HU"},
		{"CT with a window only", "auto", volume.Volume{Channels: 1, Modality: "CT", Unit: "HU", Windows: []volume.Window{brain}}, "header BRAIN center 40 width 80 HU"},
		{"MR", "auto", volume.Volume{Channels: 1, Modality: "MR"}, "percentile 0.5..99.5 of positive values"},
		{"8-bit ultrasound", "auto", volume.Volume{Channels: 1, Modality: "US", Levels: true}, "levels"},
		{"radiograph of inverted grey", "auto", volume.Volume{Channels: 1, Modality: "CR", Inverted: true}, "percentile 0.5..99.5 of positive values inverted"},
		{"colour", "auto", volume.Volume{Channels: 3}, "levels colour"},
		{"preset", "pancreas", *ct, "range pancreas -100..200 HU"},
		{"range", "-10..30.5", *ct, "range -10..30.5 HU"},
		{"range the wrong way", "30..10", *ct, ""},
		{"no header", "header", *ct, ""},
		{"second of one", "header:2", volume.Volume{Channels: 1, Windows: []volume.Window{brain}}, ""},
		{"first of one", "header:1", volume.Volume{Channels: 1, Windows: []volume.Window{brain}}, "header BRAIN center 40 width 80"},
		{"preset on colour", "lung", volume.Volume{Channels: 3}, ""},
		{"unknown", "toes", *ct, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := window.Choose(&tt.v, tt.spec)
			if tt.want == "" {
				require.Error(t, err)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, m.String())
		})
	}
}

func TestRGB(t *testing.T) {
	nan := float32(math.NaN())
	abdomen := &window.Method{Kind: window.Range, Low: -150, High: 250}
	require.Equal(t, []uint8{0, 0, 127, 255, 255}, grey(t, abdomen, -1000, -150, 50, 250, 3000))
	require.Equal(t, []uint8{0, 127, 255}, grey(t, abdomen, 0, 50, 100), "a slice is stretched to what it reaches")
	require.Equal(t, []uint8{0, 0}, grey(t, abdomen, 40, 40), "a flat slice is black")
	require.Equal(t, []uint8{0, 0, 255}, grey(t, abdomen, nan, 0, 100))
	require.Equal(t, []uint8{0, 0}, grey(t, abdomen, nan, nan))
	inverted := &window.Method{Kind: window.Range, Low: 0, High: 100, Inverted: true}
	require.Equal(t, []uint8{255, 0}, grey(t, inverted, 0, 100))
	require.Equal(t, []uint8{0, 7, 255}, grey(t, &window.Method{}, -3, 7.9, 300), "levels")
	require.Equal(t, []uint8{0, 0}, grey(t, &window.Method{Kind: window.Percentile}, -1, -1))

	rgb := make([]uint8, 3)
	require.NoError(t, (&window.Method{}).RGB([]float32{1, 2, 300}, 3, rgb))
	require.Equal(t, []uint8{1, 2, 255}, rgb)
	require.Error(t, abdomen.RGB([]float32{1, 2}, 1, rgb))

	table := &window.Method{Kind: window.Header, Window: volume.Window{First: 10, Table: []float32{0, 0.5, 1}}}
	require.Equal(t, []uint8{0, 0, 128, 255, 255, 0}, grey(t, table, -5, 10, 11, 12, 99, nan))
}

func TestPercentilesEqualNumpy(t *testing.T) {
	dir := t.TempDir()
	var done bool
	volumetest.Python(t, []string{"numpy"}, `
import json, sys, numpy as np
a = np.random.default_rng(1).gamma(2, 100, (50, 60)).astype("<f4") - 40
a.tofile(sys.argv[1] + "/values")
x = a.astype("f8")
lo, hi = np.percentile(x[x > 0], [0.5, 99.5])
x = np.clip(x, lo, hi)
((x - x.min()) / (x.max() - x.min()) * 255).astype("u1").tofile(sys.argv[1] + "/levels")
print(json.dumps(True))`, &done, dir)
	b, err := os.ReadFile(filepath.Join(dir, "values"))
	require.NoError(t, err)
	want, err := os.ReadFile(filepath.Join(dir, "levels"))
	require.NoError(t, err)
	var values []float32
	for ; len(b) > 0; b = b[4:] {
		values = append(values, math.Float32frombits(binary.LittleEndian.Uint32(b)))
	}
	got := grey(t, &window.Method{Kind: window.Percentile}, values...)
	for i := range want { // the order of the operations may move a value over the edge of a level
		require.InDelta(t, want[i], got[i], 1)
	}
}

func TestHeaderEqualsPydicom(t *testing.T) {
	files := volumetest.Find(t, volumetest.Shared(t, "data", "ct"), "_CT_small.dcm", "ct-3slice_01.dcm")
	files = append(files, volumetest.Find(t, volumetest.Shared(t, "data", "mri"), "explicit_big.dcm", "MR_small.dcm", "overlay.dcm")...)
	dir := t.TempDir()
	var windows []bool
	volumetest.Python(t, []string{"pydicom"}, `
import json, sys, numpy as np, pydicom
from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_voi_lut
out = []
for n, p in enumerate(sys.argv[2:]):
    ds = pydicom.dcmread(p)
    out.append("WindowCenter" in ds and np.min(ds.WindowWidth) >= 1)
    if not out[-1]: continue
    x = apply_modality_lut(ds.pixel_array, ds)
    y = apply_voi_lut(x, ds)
    lo, hi = (x.min(), x.max())
    bits = ds.BitsStored
    a, b = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if ds.PixelRepresentation else (0, 2 ** bits - 1)
    s, i = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
    a, b = a * s + i, b * s + i
    np.floor((y - a) / (b - a) * 255 + .5).astype("u1").tofile(f"{sys.argv[1]}/{n}")
print(json.dumps([bool(x) for x in out]))`, &windows, append([]string{dir}, files...)...)
	compared := 0
	for n, path := range files {
		if !windows[n] {
			continue
		}
		f, err := dicom.Open(path)
		require.NoError(t, err)
		stacks, err := f.Stacks(dicom.Options{})
		require.NoError(t, err)
		v := stacks[0].Volume
		m, err := window.Choose(v, "header")
		require.NoError(t, err)
		values, rgb := make([]float32, v.SliceLen()), make([]uint8, 3*v.SliceLen())
		require.NoError(t, v.ReadSlice(0, values))
		require.NoError(t, m.RGB(values, 1, rgb))
		want, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(n)))
		require.NoError(t, err)
		for i := range want {
			require.InDelta(t, want[i], rgb[3*i], 1, filepath.Base(path))
		}
		compared++
	}
	require.NotZero(t, compared)
}

func TestSquare(t *testing.T) {
	p := window.Square(3, 1)
	require.Equal(t, window.Padding{Side: 3, Left: 0, Top: 1, Width: 3, Height: 1}, p)
	require.Equal(t, []uint8{0, 0, 0, 1, 2, 3, 0, 0, 0}, p.Pad([]uint8{1, 2, 3}, 1))
	require.Equal(t, []uint8{1, 2, 3}, p.Crop(p.Pad([]uint8{1, 2, 3}, 1), 1))
	q := window.Square(2, 5)
	pix := []uint8{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30}
	require.Equal(t, pix, q.Crop(q.Pad(pix, 3), 3))
}
