package nrrd

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

func TestReadEqualsSimpleITK(t *testing.T) {
	dir := t.TempDir()
	var want map[string]struct {
		Dims   [3]int
		Affine volume.Affine
		Hash   string
	}
	volumetest.Python(t, []string{"SimpleITK"}, volumetest.PythonHash+`
import SimpleITK as sitk
rng, out = np.random.default_rng(1), {}
c, s = np.cos(.3), np.sin(.3)
for t in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "rgb", "2d"]:
    a = rng.integers(0, 100, (2, 3, 4) + ((3,) if t == "rgb" else ())).astype("u1" if t in ("rgb", "2d") else t)
    if t == "2d": a = a[:1]
    img = sitk.GetImageFromArray(a, isVector=t == "rgb")
    img.SetDirection([0, c, s, 0, -s, c, 1, 0, 0]); img.SetSpacing([.5, 2, 3]); img.SetOrigin([5, -6, 7.25])
    for packed, end in (False, ".nrrd"), (True, ".nrrd"), (False, ".nhdr"):
        name = f"{t}{int(packed)}{end}"
        sitk.WriteImage(img, f"{sys.argv[1]}/{name}", packed)
        m = np.array(img.GetDirection()).reshape(3, 3) * img.GetSpacing()
        out[name] = dict(dims=img.GetSize(), affine=np.column_stack([m, img.GetOrigin()]).tolist(), hash=vhash(a))
print(json.dumps(out))`, &want, dir)
	for name, w := range want {
		v, err := Read(filepath.Join(dir, name), Options{})
		require.NoError(t, err, name)
		require.Equal(t, w.Dims, v.Dims, name)
		require.True(t, v.Placed)
		require.True(t, volumetest.Near(w.Affine, v.Affine), "%s: %v, want %v", name, v.Affine, w.Affine)
		require.Equal(t, w.Hash, volumetest.Hash(t, v), name)
	}
}

// TestSegmentationOfAllAxisOrders checks that each label's voxel is at the same patient position for us and SimpleITK.
func TestSegmentationOfAllAxisOrders(t *testing.T) {
	dir := t.TempDir()
	var files []string
	var placed []volume.Affine
	volumetest.Orders(func(a volume.Affine) {
		v := volumetest.Numbered([3]int{3, 4, 5}, a)
		m := volume.NewMask(v.Dims)
		m.Set(2, 3, 1, true)
		path := filepath.Join(dir, string(rune('a'+len(files)/8))+string(rune('0'+len(files)%8))+".seg.nrrd")
		require.NoError(t, WriteSegmentation(path, v, []volume.Label{{Name: "corner", Mask: m}}))
		files, placed = append(files, path), append(placed, a)
		back, err := Read(path, Options{})
		require.NoError(t, err)
		require.Equal(t, a, back.Affine)
		require.True(t, back.Placed)
	})
	var got []volume.Vec
	volumetest.Python(t, []string{"SimpleITK"}, `
import json, sys, SimpleITK as sitk, numpy as np
out = []
for p in sys.argv[1:]:
    img = sitk.ReadImage(p)
    k, j, i = np.argwhere(sitk.GetArrayFromImage(img) == 1)[0]
    out.append(img.TransformIndexToPhysicalPoint([int(i), int(j), int(k)]))
print(json.dumps(out))`, &got, files...)
	for i, a := range placed {
		p := a.Apply(volume.Vec{2, 3, 1})
		require.InDeltaSlice(t, p[:], got[i][:], 1e-9)
	}
}

func TestSegmentationKeepsOverlaps(t *testing.T) {
	v := volumetest.Numbered([3]int{3, 2, 2}, volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{}))
	a, b, c := volume.NewMask(v.Dims), volume.NewMask(v.Dims), volume.NewMask(v.Dims)
	a.Set(0, 0, 0, true)
	b.Set(0, 0, 0, true)
	b.Set(1, 1, 1, true)
	c.Set(2, 0, 0, true)
	path := filepath.Join(t.TempDir(), "s.seg.nrrd")
	require.NoError(t, WriteSegmentation(path, v, []volume.Label{{Name: "liver", Mask: a, Color: [3]uint8{255, 0, 51}},
		{Name: "a\nb", Mask: b}, {Name: "c", Mask: c}, {Name: "nothing", Mask: volume.NewMask(v.Dims)}}))
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	for _, line := range []string{"Segment0_Name:=liver\n", "Segment0_Color:=1 0 0.2\n", "Segment1_Name:=a b\n", "Segment1_Layer:=1\n",
		"Segment1_Extent:=0 1 0 1 0 1\n", "Segment2_LabelValue:=2\n", "Segment3_Extent:=0 -1 0 -1 0 -1\n"} {
		require.Contains(t, string(raw), line)
	}
	at := func(frame int) []float32 {
		back, err := Read(path, Options{Frame: frame})
		require.NoError(t, err)
		out := make([]float32, 6)
		require.NoError(t, back.ReadSlice(0, out))
		return out
	}
	require.Equal(t, []float32{1, 0, 2, 0, 0, 0}, at(0))
	require.Equal(t, []float32{1, 0, 0, 0, 0, 0}, at(1))
}

func TestWriteVolumeRoundTrip(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.nrrd")
	v := volumetest.Numbered([3]int{3, 4, 2}, volume.NewAffine(volume.Vec{0.5}, volume.Vec{0, 0.6, 0.1}, volume.Vec{0, 0.4, 3}, volume.Vec{1, 2, 3}))
	for _, slope := range []float64{1, 2} {
		v.Voxels.(*volume.Dense).Slope = slope
		require.NoError(t, WriteVolume(path, v))
		back, err := Read(path, Options{})
		require.NoError(t, err)
		require.Equal(t, v.Affine, back.Affine)
		require.Equal(t, volumetest.Hash(t, v), volumetest.Hash(t, back))
	}
	v.Placed = false
	require.NoError(t, WriteVolume(path, v))
	back, err := Read(path, Options{})
	require.NoError(t, err)
	require.False(t, back.Placed)
	require.Equal(t, v.Affine, back.Affine)
}

const text = "NRRD0004\n# a comment\ntype: short\ndimension: 3\nsizes: 2 2 1\nspace: RAS\nspace directions: (1,0,0) (0,1,0) (0,0,1)\n" +
	"space origin: (1,2,3)\nkey:=value\nencoding: text\n\n1 -2\n3 4\n"

func TestTextAndHex(t *testing.T) {
	read := func(s string) *volume.Volume {
		r := bufio.NewReader(strings.NewReader(s))
		h, err := readHeader(r)
		require.NoError(t, err)
		v, err := readImage(r, int64(len(s)), h, Options{})
		require.NoError(t, err)
		return v
	}
	got := make([]float32, 4)
	v := read(text)
	require.NoError(t, v.ReadSlice(0, got))
	require.Equal(t, []float32{1, -2, 3, 4}, got)
	require.Equal(t, volume.Vec{-1, -2, 3}, v.Affine.Origin(), "RAS")
	require.Equal(t, "RAS", v.Affine.Codes())
	v = read(strings.NewReplacer("space: RAS\n", "", "space directions: (1,0,0) (0,1,0) (0,0,1)\n", "spacings: 1 2 3\n").Replace(text))
	require.False(t, v.Placed)
	require.Equal(t, volume.Vec{1, 2, 3}, v.Affine.Spacing())
	v = read(strings.NewReplacer("short", "uchar", "text", "hex", "1 -2\n3 4", "01 02 fE\nFF").Replace(text))
	require.NoError(t, v.ReadSlice(0, got))
	require.Equal(t, []float32{1, 2, 254, 255}, got)
}

// lies are files that must be refused, by the field that the error names ("" for an UnsupportedError).
var lies = map[string]string{
	"magic":            "NRRD0009\n\n",
	"type":             strings.Replace(text, "short", "shirt", 1),
	"dimension":        strings.Replace(text, "dimension: 3", "dimension: 99", 1),
	"sizes":            strings.Replace(text, "sizes: 2 2 1", "sizes: 2 2000 1", 1),
	"space directions": strings.Replace(text, "(0,1,0)", "(nan,0,0)", 1),
	"space origin":     strings.Replace(text, "(1,2,3)", "(1,2", 1),
	"data":             strings.Replace(text, "-2", "x", 1),
	"endian":           strings.Replace(text, "text", "raw", 1),
	"encoding":         strings.Replace(text, "text", "gzip", 1),
	"line skip":        strings.Replace(text, "key:=value", "line skip: 20", 1),
	"byte skip":        strings.Replace(strings.Replace(text, "key:=value", "byte skip: 170", 1), "text", "raw", 1),
	"header":           strings.Replace(text, "key:=value", "what is this", 1),
	"data file":        strings.Replace(text, "key:=value", "data file: ../../etc/passwd", 1),
	"":                 strings.Replace(text, "key:=value", "data file: LIST", 1),
}

func TestLies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.nrrd")
	for field, s := range lies {
		require.NoError(t, os.WriteFile(path, []byte(s), 0o600))
		_, err := Read(path, Options{})
		if field == "" {
			var no *volume.UnsupportedError
			require.ErrorAs(t, err, &no)
			continue
		}
		var bad *volume.FormatError
		require.ErrorAs(t, err, &bad, field)
		require.Equal(t, field, bad.Field, err)
	}
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(text, "2 2 1", "60000 60000 60000", 1)), 0o600))
	_, err := Read(path, Options{})
	var much *volume.LimitError
	require.ErrorAs(t, err, &much)
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(text))
	for _, s := range lies {
		f.Add([]byte(s))
	}
	dir, v := f.TempDir(), volumetest.Numbered([3]int{3, 2, 2}, volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{}))
	if err := WriteVolume(filepath.Join(dir, "v.nrrd"), v); err != nil {
		f.Fatal(err)
	}
	b, _ := os.ReadFile(filepath.Join(dir, "v.nrrd"))
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		h, err := readHeader(r)
		if err != nil {
			return
		}
		v, err := readImage(r, int64(len(b)), h, Options{Limits: volume.Limits{Bytes: 1 << 20}})
		if err != nil {
			return
		}
		for _, p := range []volume.Plane{volume.Stored, volume.Axial, volume.Sagittal} { // what was accepted can be used
			w, err := v.View(p)
			require.NoError(t, err)
			require.NoError(t, w.ReadSlice(0, make([]float32, w.Columns*w.Rows*v.Channels)))
		}
	})
}
