package dicom_test

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
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
        out.append(dict(version=pydicom.__version__, frames=frames, samples=ds.SamplesPerPixel))
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
		Version         string
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
		if name == "JPEG2000-embedded-sequence-delimiter.dcm" && codecs.Available() == nil {
			// Made to test parsers: the width and height in its stream are overwritten, and pydicom shows what GDCM left.
			require.ErrorContains(t, err, "JPEG 2000 header")
			continue
		}
		if name == "SC_rgb_small_odd_big_endian.dcm" && strings.HasPrefix(want[n].Version, "2.") {
			continue // pydicom 2 leaves an odd number of bytes in their words unswapped; TestColoursEqualDcmtk has the file
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

// TestFilesOfPeersEqualPydicom reads every DICOM file that the packages of other readers ship.
func TestFilesOfPeersEqualPydicom(t *testing.T) {
	for name, dir := range map[string]func(t *testing.T) string{
		"pydicom": func(t *testing.T) string { return pythonFolder(t, "pydicom.data", "test_files") },
		"nibabel": func(t *testing.T) string { return pythonFolder(t, "nibabel", ".") },
		"suyashkumar": func(t *testing.T) string {
			return filepath.Join(module(t, "github.com/suyashkumar/dicom@v1.1.0"), "testdata")
		},
	} {
		t.Run(name, func(t *testing.T) {
			end := ".dcm"
			if name == "pydicom" {
				end = "" // also those without an ending, and what is no DICOM
			}
			files := volumetest.Find(t, dir(t), end)
			if len(files) == 0 {
				t.Skip("this package comes without its test files")
			}
			requireEqualsPydicom(t, files)
		})
	}
}

// pythonFolder returns a folder beside a Python module, and skips the test where there is none.
func pythonFolder(t *testing.T, name, folder string) (dir string) {
	volumetest.Python(t, []string{name}, `import importlib, json, os, sys; print(json.dumps(os.path.join(os.path.dirname(importlib.import_module(sys.argv[1]).__file__), sys.argv[2])))`,
		&dir, name, folder)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("this %s comes without its test files", name)
	}
	return dir
}

// module returns the folder of a Go module, from the module cache or proxy, and skips the test where neither has it.
func module(t *testing.T, version string) string {
	cmd := exec.Command("go", "mod", "download", "-json", version)
	cmd.Dir = t.TempDir() // outside of a module: nothing is asked of go.sum
	out, err := cmd.Output()
	var m struct{ Dir string }
	if err != nil || json.Unmarshal(out, &m) != nil || m.Dir == "" {
		t.Skipf("no Go module %s: %v", version, err)
	}
	return m.Dir
}
