package nifti

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// readWithNibabel prints shape, RAS affine and hash of the first image of each file, or why nibabel refuses it.
const readWithNibabel = volumetest.PythonHash + `
import nibabel
def one(path):
    try:
        img = nibabel.load(path)
        if not isinstance(img, nibabel.Nifti1Pair): return {"refused": "not NIfTI"}
        a = np.asanyarray(img.dataobj)
        if a.dtype.names: a = np.stack([a[c] for c in "RGB"], -1)
        else:
            a = np.abs(a.astype("c16")) if np.iscomplexobj(a) else img.get_fdata()
            a = a[..., None]
        shape = img.shape
        a = a.reshape(tuple(shape[:3]) + (1,) * (3 - len(shape)) + (-1, a.shape[-1]))[:, :, :, 0]
        return {"dims": list(a.shape[:3]), "affine": img.affine[:3].tolist(), "hash": vhash(a.transpose(2, 1, 0, 3))}
    except Exception as e:
        return {"refused": repr(e)}
print(json.dumps([one(p) for p in sys.argv[1:]]))
`

type nibabelImage struct {
	Refused string
	Dims    [3]int
	Affine  volume.Affine
	Hash    string
}

func requireEqualsNibabel(t *testing.T, files []string) {
	t.Helper()
	var want []nibabelImage
	volumetest.Python(t, []string{"nibabel"}, readWithNibabel, &want, files...)
	for i, path := range files {
		v, err := Read(path, Options{})
		if want[i].Refused != "" {
			t.Logf("%s: nibabel says %s; here: %v", filepath.Base(path), want[i].Refused, err)
			continue
		}
		require.NoError(t, err)
		require.Equal(t, want[i].Dims, v.Dims, path)
		require.True(t, volumetest.Near(want[i].Affine.FlipRASLPS(), v.Affine), "%s: %v, nibabel %v in RAS", path, v.Affine, want[i].Affine)
		require.Equal(t, want[i].Hash, volumetest.Hash(t, v), path)
	}
}

func TestSharedDataEqualsNibabel(t *testing.T) {
	files := volumetest.Find(t, volumetest.Shared(t, "data"), ".nii.gz", ".nii")
	require.NotEmpty(t, files)
	requireEqualsNibabel(t, files)
}

func TestNibabelsOwnFilesEqualNibabel(t *testing.T) {
	var dir string
	volumetest.Python(t, []string{"nibabel"}, `import nibabel, os, json; print(json.dumps(os.path.dirname(nibabel.__file__)))`, &dir)
	files := volumetest.Find(t, dir, ".nii", ".nii.gz", ".hdr")
	if len(files) == 0 {
		t.Skip("this nibabel comes without its test files")
	}
	requireEqualsNibabel(t, files)
}

func TestEveryTypeAndByteOrderEqualsNibabel(t *testing.T) {
	dir := t.TempDir()
	var files []string
	volumetest.Python(t, []string{"nibabel"}, `
import itertools, json, sys, nibabel
import numpy as np
rng, files = np.random.default_rng(1), []
affine = np.array([[0, -1.5, .1, 7], [2, 0, .2, -30], [.05, .1, 2.5, 4], [0, 0, 0, 1]])
types = ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "c8", "c16", "rgb", "rgba"]
for version, order, t, gz in itertools.product((1, 2), "<>", types, ("", ".gz")):
    cls = (nibabel.Nifti1Image, nibabel.Nifti2Image)[version - 1]
    raw = rng.integers(0, 100, (3, 4, 5)).astype("u1")
    if t.startswith("rgb"): a = np.zeros(raw.shape, [(c, "u1") for c in t.upper().replace("RGBA", "RGBA")]); a["G"] = raw; a["R"] = 7
    else: a = (raw * (1 + 2j) if t[0] == "c" else raw).astype(t)
    hdr = cls.header_class(endianness=order)
    hdr.set_data_dtype(a.dtype)
    img = cls(a, affine, hdr)
    if t in ("i2", "u1"): img.header.set_slope_inter(0.37, -12)
    if gz: img.set_sform(None, 0); img.set_qform(np.diag([1, 2, 3, 1]) @ np.eye(4)[[1, 2, 0, 3]], 1)
    name = f"{sys.argv[1]}/v{version}{'le' if order == '<' else 'be'}_{t}.nii{gz}"
    img.to_filename(name); files.append(name)
a = rng.integers(0, 9, (3, 4, 5, 2)).astype("i2")
for name, img in {"4d.nii": nibabel.Nifti1Image(a, affine), "2d.nii": nibabel.Nifti1Image(a[..., 0, 0], affine),
                  "pair.hdr": nibabel.Nifti1Pair(a[..., 0], affine), "noplace.nii": nibabel.Nifti1Image(a[..., 0], None)}.items():
    nibabel.save(img, f"{sys.argv[1]}/{name}"); files.append(f"{sys.argv[1]}/{name}")
print(json.dumps(files))`, &files, dir)
	requireEqualsNibabel(t, files)

	_, err := Read(filepath.Join(dir, "pair.img"), Options{})
	require.NoError(t, err, "a pair may be named by its other file")
	a, err := Read(filepath.Join(dir, "4d.nii"), Options{})
	require.NoError(t, err)
	require.Equal(t, []error{&volume.FramesError{Format: "nifti", Frames: 2}}, a.Warnings)
	b, err := Read(filepath.Join(dir, "4d.nii"), Options{Frame: 1})
	require.NoError(t, err)
	require.NotEqual(t, volumetest.Hash(t, a), volumetest.Hash(t, b))
	_, err = Read(filepath.Join(dir, "4d.nii"), Options{Frame: 2})
	require.Error(t, err)
	v, err := Read(filepath.Join(dir, "noplace.nii"), Options{})
	require.NoError(t, err)
	require.False(t, v.Placed)
}

// TestWriteAllAxisOrders checks that a marked voxel has the same patient position, in all 48 orders, for our reader and
// for nibabel and SimpleITK.
func TestWriteAllAxisOrders(t *testing.T) {
	dir := t.TempDir()
	var files []string
	var placed []volume.Affine
	volumetest.Orders(func(a volume.Affine) {
		v := volumetest.Numbered([3]int{3, 4, 5}, a)
		m := volume.NewMask(v.Dims)
		m.Set(2, 3, 1, true)
		path := filepath.Join(dir, string(rune('a'+len(files)/8))+string(rune('0'+len(files)%8))+".nii.gz")
		require.NoError(t, WriteMask(path, v, volume.Label{Name: "corner", Mask: m}))
		files, placed = append(files, path), append(placed, a)

		back, err := Read(path, Options{})
		require.NoError(t, err)
		require.Equal(t, a, back.Affine)
		require.True(t, back.Placed)
		require.Empty(t, back.Warnings)
	})
	want := func(a volume.Affine) volume.Vec { return a.Apply(volume.Vec{2, 3, 1}) }
	t.Run("nibabel", func(t *testing.T) {
		var got [][2]volume.Vec
		volumetest.Python(t, []string{"nibabel"}, `
import json, sys, nibabel, numpy as np
out = []
for p in sys.argv[1:]:
    img = nibabel.load(p)
    ijk = np.append(np.argwhere(img.get_fdata() == 1)[0], 1)
    out.append([(m @ ijk)[:3].tolist() for m in (img.get_sform(), img.get_qform())])
print(json.dumps(out))`, &got, files...)
		for i, a := range placed {
			p := want(a)
			for _, g := range got[i] { // by sform and by qform
				require.InDeltaSlice(t, []float64{-p[0], -p[1], p[2]}, g[:], 1e-4)
			}
		}
	})
	t.Run("SimpleITK", func(t *testing.T) {
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
			p := want(a)
			require.InDeltaSlice(t, p[:], got[i][:], 1e-4)
		}
	})
}

func TestWriteVolumeAndLabels(t *testing.T) {
	dir := t.TempDir()
	v := volumetest.Numbered([3]int{3, 4, 2}, volume.NewAffine(volume.Vec{0.5}, volume.Vec{0, 0.6, 0.1}, volume.Vec{0, 0.4, 3}, volume.Vec{1, 2, 3}))
	v.Voxels.(*volume.Dense).Slope, v.Voxels.(*volume.Dense).Intercept = 2, -1024
	path := filepath.Join(dir, "v.nii")
	require.NoError(t, WriteVolume(path, v))
	back, err := Read(path, Options{})
	require.NoError(t, err)
	require.True(t, volumetest.Near(v.Affine, back.Affine), "a leaning stack keeps its lean")
	require.Equal(t, volumetest.Hash(t, v), volumetest.Hash(t, back))

	a, b := volume.NewMask(v.Dims), volume.NewMask(v.Dims)
	a.Set(0, 0, 0, true)
	b.Set(0, 0, 0, true)
	b.Set(1, 2, 1, true)
	overlap, err := WriteLabels(path, v, []volume.Label{{Name: "liver", Mask: a}, {Name: "left\n kidney", Mask: b}})
	require.NoError(t, err)
	require.Equal(t, 1, overlap)
	raw, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Contains(t, string(raw), "1\tliver\n2\tleft kidney\n")
	back, err = Read(path, Options{})
	require.NoError(t, err)
	got := make([]float32, 12)
	require.NoError(t, back.ReadSlice(1, got))
	require.EqualValues(t, 2, got[7])
	require.NoError(t, back.ReadSlice(0, got))
	require.EqualValues(t, 1, got[0])

	_, err = WriteLabels(path, v, nil)
	require.Error(t, err)
	_, err = WriteLabels(path, v, []volume.Label{{Mask: volume.NewMask([3]int{1, 1, 1})}})
	require.Error(t, err)

	v.Placed = false
	require.NoError(t, WriteVolume(path, v))
	back, err = Read(path, Options{})
	require.NoError(t, err)
	require.False(t, back.Placed)
	require.InDeltaSlice(t, []float64{0.5, math.Hypot(0.6, 0.1), math.Hypot(0.4, 3)}, func() []float64 { s := back.Affine.Spacing(); return s[:] }(), 1e-6)
}

// sample returns a small whole file; edit changes its header.
func sample(edit func(b []byte)) []byte {
	dir, _ := os.MkdirTemp("", "nifti")
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s.nii")
	v := volumetest.Numbered([3]int{2, 3, 2}, volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{}))
	if err := WriteVolume(path, v); err != nil {
		panic(err)
	}
	b, _ := os.ReadFile(path)
	if edit != nil {
		edit(b)
	}
	return b
}

func put16(at int, x int16) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint16(b[at:], uint16(x)) }
}

func putF(at int, x float32) func([]byte) {
	return func(b []byte) { binary.LittleEndian.PutUint32(b[at:], math.Float32bits(x)) }
}

func pack(b []byte) []byte {
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	w.Write(b)
	w.Close()
	return z.Bytes()
}

// lies are files that must be refused, by the field that the error names.
func lies() map[string][]byte {
	noPlace := func(b []byte) {
		putF(280, float32(math.NaN()))(b)
		put16(252, 0)(b)
	}
	whole := sample(nil)
	return map[string][]byte{
		"header":          whole[:100],
		"sizeof_hdr":      sample(func(b []byte) { b[0] = 9 }),
		"magic":           sample(func(b []byte) { b[344] = 'x' }),
		"dim[0]":          sample(put16(40, 9)),
		"dim[2]":          sample(put16(44, -4)),
		"dim":             sample(put16(44, 30000)),
		"datatype":        sample(put16(70, 77)),
		"vox_offset":      sample(putF(108, 12)),
		"sform and qform": sample(noPlace),
		"scl_inter":       sample(putF(116, float32(math.Inf(1)))),
	}
}

func TestLies(t *testing.T) {
	dir := t.TempDir()
	for field, b := range lies() {
		path := filepath.Join(dir, "bad.nii")
		require.NoError(t, os.WriteFile(path, b, 0o600))
		_, err := Read(path, Options{})
		var bad *volume.FormatError
		require.ErrorAs(t, err, &bad, field)
		require.Equal(t, field, bad.Field)
		require.Equal(t, path, bad.File)
	}
	t.Run("bits are named", func(t *testing.T) {
		path := filepath.Join(dir, "bits.nii")
		require.NoError(t, os.WriteFile(path, sample(put16(70, 1)), 0o600))
		_, err := Read(path, Options{})
		var no *volume.UnsupportedError
		require.ErrorAs(t, err, &no)
	})
	t.Run("gzip bomb", func(t *testing.T) {
		path := filepath.Join(dir, "bomb.nii.gz")
		b := sample(func(b []byte) { put16(42, 30000)(b); put16(44, 30000)(b); put16(46, 20000)(b) })
		require.NoError(t, os.WriteFile(path, pack(append(b, make([]byte, 1<<20)...)), 0o600))
		_, err := Read(path, Options{})
		var much *volume.LimitError
		require.ErrorAs(t, err, &much)
		_, err = Read(path, Options{Limits: volume.Limits{Bytes: 1 << 62}})
		var bad *volume.FormatError
		require.ErrorAs(t, err, &bad, "the size of the file is a limit too")
	})
	t.Run("truncated gzip", func(t *testing.T) {
		path := filepath.Join(dir, "cut.nii.gz")
		z := pack(sample(nil))
		require.NoError(t, os.WriteFile(path, z[:len(z)-20], 0o600))
		_, err := Read(path, Options{})
		var bad *volume.FormatError
		require.ErrorAs(t, err, &bad)
	})
	t.Run("folder", func(t *testing.T) {
		_, err := Read(dir, Options{})
		require.Error(t, err)
	})
}

func FuzzRead(f *testing.F) {
	f.Add(sample(nil))
	f.Add(pack(sample(nil)))
	for _, b := range lies() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		in, err := newInput(bufio.NewReader(bytes.NewReader(b)), int64(len(b)))
		if err != nil {
			return
		}
		h, err := readHeader(in)
		if err != nil {
			return
		}
		v, err := readImage(in, h, Options{Limits: volume.Limits{Bytes: 1 << 20}})
		if err != nil {
			return
		}
		// What was accepted can be used.
		for _, p := range []volume.Plane{volume.Stored, volume.Axial, volume.Sagittal} {
			w, err := v.View(p)
			require.NoError(t, err)
			require.NoError(t, w.ReadSlice(0, make([]float32, w.Columns*w.Rows*v.Channels)))
		}
		h2 := &outHeader{volume: v, datatype: dtUint8}
		require.NoError(t, h2.writeTo(io.Discard, func(io.Writer) error { return nil }))
	})
}
