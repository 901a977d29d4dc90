package mha

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
for t in ["u1", "i1", "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8", "rgb", "vector", "4d"]:
    more = dict(rgb=(3,), vector=(2,)).get(t, ())
    a = rng.integers(0, 100, (2, 3, 4) + more).astype(dict(rgb="u1", vector="f4").get(t, t.replace("4d", "i2")))
    if t == "4d": a = np.stack([a, a + 1])
    img = sitk.GetImageFromArray(a, isVector=bool(more))
    d, sp, o = np.array([[0, c, s], [0, -s, c], [1, 0, 0]]), [.5, 2, 3], [5, -6, 7.25]
    if t == "4d":
        d4 = np.eye(4); d4[:3, :3] = d
        img.SetDirection(d4.ravel()); img.SetSpacing(sp + [9]); img.SetOrigin(o + [0]); a = a[0]
    else: img.SetDirection(d.ravel()); img.SetSpacing(sp); img.SetOrigin(o)
    if t == "vector": a = a[..., 0]
    for packed, end in (False, ".mha"), (True, ".mha"), (False, ".mhd"):
        name = f"{t}{int(packed)}{end}"
        sitk.WriteImage(img, f"{sys.argv[1]}/{name}", packed)
        out[name] = dict(dims=img.GetSize()[:3], affine=np.column_stack([d * sp, o]).tolist(), hash=vhash(a))
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

const whole = "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = True\nCompressedData = False\n" +
	"TransformMatrix = 1 0 0 0 1 0 0 0 1\nOffset = 1 2 3\nElementSpacing = 1 2 3\nDimSize = 2 1 2\nElementType = MET_SHORT\n" +
	"ElementDataFile = LOCAL\n\x00\x01\xff\xff\x00\x02\x01\x00"

func TestBigEndian(t *testing.T) {
	path := filepath.Join(t.TempDir(), "v.mha")
	require.NoError(t, os.WriteFile(path, []byte(whole), 0o600))
	v, err := Read(path, Options{})
	require.NoError(t, err)
	got := make([]float32, 2)
	require.NoError(t, v.ReadSlice(0, got))
	require.Equal(t, []float32{1, -1}, got)
	require.NoError(t, v.ReadSlice(1, got))
	require.Equal(t, []float32{2, 256}, got)
	require.Equal(t, volume.Vec{1, 2, 3}, v.Affine.Spacing())
	require.Equal(t, volume.Vec{1, 2, 3}, v.Affine.Origin())
}

// lies are files that must be refused, by the field that the error names ("" for an UnsupportedError).
var lies = map[string]string{
	"header":                             "NRRD0004\n",
	"NDims":                              strings.Replace(whole, "NDims = 3", "NDims = x", 1),
	"DimSize":                            strings.Replace(whole, "2 1 2", "2 1 200", 1),
	"TransformMatrix":                    strings.Replace(whole, "1 0 0 0 1 0 0 0 1", "1 0 0 0 nan 0 0 0 1", 1),
	"TransformMatrix and ElementSpacing": strings.Replace(whole, "= 1 2 3\nDim", "= 1 0 3\nDim", 1),
	"Offset":                             strings.Replace(whole, "= 1 2 3\nElem", "= 1 2\nElem", 1),
	"ElementDataFile":                    strings.Replace(whole, "LOCAL", "/etc/passwd", 1),
	"CompressedData":                     strings.Replace(whole, "Data = False", "Data = True", 1),
	"ElementNumberOfChannels":            strings.Replace(whole, "NDims", "ElementNumberOfChannels = -1\nNDims", 1),
	"HeaderSize":                         strings.Replace(whole, "NDims", "HeaderSize = 9000\nNDims", 1),
	"":                                   strings.Replace(whole, "MET_SHORT", "MET_STRING", 1),
}

func TestLies(t *testing.T) {
	path := filepath.Join(t.TempDir(), "bad.mha")
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
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(whole, "2 1 2", "60000 60000 60000", 1)), 0o600))
	_, err := Read(path, Options{})
	var much *volume.LimitError
	require.ErrorAs(t, err, &much)
}

func FuzzRead(f *testing.F) {
	f.Add([]byte(whole))
	for _, s := range lies {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		h, used, err := readHeader(r)
		if err != nil {
			return
		}
		v, err := readImage(r, int64(len(b))-used, h, Options{Limits: volume.Limits{Bytes: 1 << 20}})
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
