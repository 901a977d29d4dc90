package dicom_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	_ "github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// readWithPydicom writes the first and the last frame of each file, as float32, and prints what they are. Bits that are not
// stored are dropped as PS3.5 says, which pydicom leaves to its caller.
const readWithPydicom = `
import json, sys, warnings
import numpy as np, pydicom
import pydicom.config as config
from pydicom.pixel_data_handlers import numpy_handler, gdcm_handler, pillow_handler, rle_handler
from pydicom.pixel_data_handlers.util import apply_modality_lut, apply_color_lut
warnings.simplefilter("ignore")
config.pixel_data_handlers = [numpy_handler, rle_handler, gdcm_handler, pillow_handler]
out = []
for n, path in enumerate(sys.argv[2:]):
    try:
        ds = pydicom.dcmread(path)
        if not any(k in ds for k in ("PixelData", "FloatPixelData", "DoubleFloatPixelData")): raise ValueError("no pixels")
        signed = ds.get("PixelRepresentation", 0)  # before pixel_array, which changes it
        a = ds.pixel_array
        frames = int(ds.get("NumberOfFrames", 1) or 1)
        a = a.reshape((frames, ds.Rows, ds.Columns, ds.SamplesPerPixel))
        if a.dtype.kind in "iu" and ds.BitsAllocated > 1:
            spare = ds.BitsAllocated - ds.BitsStored
            low = ds.HighBit + 1 - ds.BitsStored
            kind = "i" if signed else "u"
            a = (a.astype(f"{kind}{ds.BitsAllocated // 8}") << (spare - low)) >> spare
        a[[0, -1]].astype("<f4").tofile(f"{sys.argv[1]}/{n}")
        out.append(dict(frames=frames, samples=ds.SamplesPerPixel))
    except Exception as e:
        out.append(dict(refused=repr(e)[:200]))
print(json.dumps(out))
`

// requireEqualsPydicom compares stored grey values exactly and colours within tolerance levels (as YCbCr where the file has
// it) and returns how many files were compared and how many are read here only.
func requireEqualsPydicom(t *testing.T, files []string) {
	t.Helper()
	dir := t.TempDir()
	var want []struct {
		Refused         string
		Frames, Samples int
	}
	volumetest.Python(t, []string{"pydicom", "gdcm"}, readWithPydicom, &want, append([]string{dir}, files...)...)
	same, refusedHere := 0, 0
	for n, path := range files {
		name := filepath.Base(path)
		f, err := dicom.Open(path)
		var p *dicom.Pixels
		if err == nil {
			p, err = f.Pixels()
		}
		var first, last *dicom.Frame
		if err == nil {
			if first, err = f.Frame(0, volume.Limits{}); err == nil {
				last, err = f.Frame(p.Frames-1, volume.Limits{})
			}
		}
		if want[n].Refused != "" {
			if err == nil {
				t.Logf("%s: read here, pydicom says %s", name, want[n].Refused)
			}
			continue
		}
		if name == "JPEG2000-embedded-sequence-delimiter.dcm" {
			// Made to test parsers: the width and height in its stream are overwritten, and pydicom shows what GDCM left.
			require.ErrorContains(t, err, "JPEG 2000 header")
			continue
		}
		if err != nil {
			var no *volume.UnsupportedError
			require.ErrorAs(t, err, &no, "%s: pydicom reads it", name)
			refusedHere++
			t.Logf("not compared: %v", err)
			continue
		}
		require.Equal(t, want[n].Frames, p.Frames, name)
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprint(n)))
		require.NoError(t, err)
		require.Len(t, b, 2*4*p.FrameLen(), name)
		worst := 0.0
		for half, fr := range []*dicom.Frame{first, last} {
			d := volume.Dense{Type: fr.Type(), Data: fr.Data, Slope: 1}
			got := make([]float32, fr.FrameLen())
			d.Values(0, got)
			for i, g := range got {
				w := math.Float32frombits(binary.LittleEndian.Uint32(b[4*(half*p.FrameLen()+i):]))
				worst = max(worst, math.Abs(float64(g)-float64(w)))
			}
		}
		if worst > 0 {
			t.Errorf("%s: %s %s: differs by up to %g", name, f.Syntax, p.Photometric, worst)
		}
		same++
	}
	t.Logf("%d files are equal, %d are refused here by name", same, refusedHere)
	require.NotZero(t, same)
}

func TestSharedDataEqualsPydicom(t *testing.T) {
	requireEqualsPydicom(t, volumetest.Find(t, volumetest.Shared(t, "data"), ".dcm"))
}

func TestPydicomsOwnFilesEqualPydicom(t *testing.T) {
	var dir string
	volumetest.Python(t, []string{"pydicom", "gdcm"}, `import pydicom.data, os, json; print(json.dumps(os.path.dirname(pydicom.data.__file__) + "/test_files"))`, &dir)
	if _, err := os.Stat(dir); err != nil {
		t.Skip("this pydicom comes without its test files")
	}
	requireEqualsPydicom(t, volumetest.Find(t, dir, ""))
}
