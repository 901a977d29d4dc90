package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// cut is some slices of a volume.
type cut struct {
	*volume.Volume
	first int
}

func (c cut) ReadSlice(k int, dst []float32) error { return c.Volume.ReadSlice(c.first+k, dst) }

// writeCut writes n slices of a shared NIfTI file from slice first on.
func writeCut(t *testing.T, src, dst string, first, n int) {
	v, err := nifti.Read(src, nifti.Options{})
	require.NoError(t, err)
	part := *v
	part.Dims[2], part.Voxels = n, cut{v, first}
	require.NoError(t, nifti.WriteVolume(dst, &part))
}

// TestEvalVolumes scores two slices of a CT with a label map, and a volume that can't be read.
func TestEvalVolumes(t *testing.T) {
	model, dir, out := tinyModel(t), t.TempDir(), t.TempDir()
	src := filepath.Join(sharedDir(), "data", "ct", "totalseg_example_ct_sm")
	writeCut(t, src+".nii.gz", filepath.Join(dir, "ct.nii.gz"), 12, 2)
	writeCut(t, src+"__labels.nii.gz", filepath.Join(dir, "ct__labels.nii.gz"), 12, 2)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "ct__labels.json"), []byte(`{"5": "liver"}`), 0o600))
	eval := func(args ...string) (int, string, string) {
		var stdout, stderr bytes.Buffer
		code := run(context.Background(), append([]string{"eval", dir, "--volumes", "--template", "{target} in abdomen CT", "--model", model}, args...), &stdout, &stderr)
		return code, stdout.String(), stderr.String()
	}
	code, stdout, stderr := eval("--out", out)
	require.Equal(t, exitDone, code, stderr)
	require.Contains(t, stdout, "1 volumes, slices, model tiny")
	require.Contains(t, stdout, "liver in abdomen CT")
	b, err := os.ReadFile(filepath.Join(out, "volumes.json"))
	require.NoError(t, err)
	var sum evaluation.VolumeSummary
	require.NoError(t, json.Unmarshal(b, &sum))
	require.Equal(t, evaluation.VolumesSchema, sum.Schema)
	require.Len(t, sum.Scores, 1)
	require.Greater(t, sum.Scores[0].Dice, 0.7, "the small model knows this liver")
	require.NotNil(t, sum.Scores[0].HD95)
	require.NoFileExists(t, filepath.Join(out, "ct.journal"))

	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad.nii.gz"), []byte("no volume"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "bad__x.mask.nii.gz"), []byte("no volume"), 0o600))
	code, _, stderr = eval("--json", "--limit", "1")
	require.Equal(t, exitBad, code)
	require.Contains(t, stderr, "bad.nii.gz")
	require.Contains(t, stderr, "1 of 1 volumes failed")
	code, _, stderr = eval("--task", "region")
	require.Equal(t, exitUsage, code)
	require.Contains(t, stderr, "--volumes goes with --task segment")
}

// marks are what names the patient and the study of the marked series; only the study's own results may hold them.
var marks = map[dicom.Tag]string{
	dicom.PatientName: "MARKED^NAME", dicom.PatientID: "MARKED-ID", dicom.PatientBirthDate: "19010203", dicom.AccessionNumber: "MARKED-ACC",
	dicom.ReferringPhysicianName: "MARKED^DOCTOR", dicom.StudyID: "MARKEDSTUDY", dicom.StudyDescription: "MARKED study", dicom.SeriesDescription: "MARKED series",
	dicom.StudyInstanceUID: "1.2.999.1", dicom.SeriesInstanceUID: "1.2.999.2", dicom.FrameOfReferenceUID: "1.2.999.3", dicom.StudyDate: "19980706",
}

// markedSeries writes n CT slices of 512 x 512 in which everything that identifies is marked.
func markedSeries(t *testing.T, n int) string {
	dir := filepath.Join(t.TempDir(), "series")
	require.NoError(t, os.Mkdir(dir, 0o700))
	pix := make([]byte, 2*512*512)
	for y := range 512 {
		for x := range 512 {
			if (x-256)*(x-256)+(y-256)*(y-256) > 180*180 {
				pix[2*(512*y+x)], pix[2*(512*y+x)+1] = 0x18, 0xfc // -1000
			}
		}
	}
	for k := range n {
		d := dicom.NewDataset()
		for tag, s := range marks {
			d.SetText(tag, s)
		}
		d.SetText(dicom.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2")
		d.SetText(dicom.SOPInstanceUID, fmt.Sprintf("1.2.999.4.%d", k+1))
		d.SetText(dicom.Modality, "CT")
		d.SetText(dicom.PhotometricInterpretation, "MONOCHROME2")
		d.SetFloats(dicom.ImagePositionPatient, -200, -200, float64(k))
		d.SetFloats(dicom.ImageOrientationPatient, 1, 0, 0, 0, 1, 0)
		d.SetFloats(dicom.PixelSpacing, 0.8, 0.8)
		for tag, x := range map[dicom.Tag]int{dicom.SamplesPerPixel: 1, dicom.Rows: 512, dicom.Columns: 512, dicom.BitsAllocated: 16, dicom.PixelRepresentation: 1} {
			d.SetInts(tag, x)
		}
		d.SetBytes(dicom.PixelData, "OW", pix)
		require.NoError(t, dicom.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.dcm", k)), d, dicom.ExplicitLittle))
	}
	return dir
}

// TestNothingNamesThePatient looks through all that the command prints and writes of a series whose identifiers are marked.
func TestNothingNamesThePatient(t *testing.T) {
	model, dir, out := tinyModel(t), markedSeries(t, 2), t.TempDir()
	whole, err := os.ReadFile(filepath.Join(dir, "001.dcm"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cut.dcm"), whole[:len(whole)/2], 0o600)) // a file that errors are about
	require.NoError(t, os.WriteFile(filepath.Join(dir, "head.dcm"), whole[:400], 0o600))
	one := filepath.Join(dir, "000.dcm")
	var said []string
	for _, args := range [][]string{
		{"info", dir, "--out", out}, {"info", dir, "--json"},
		{"segment", dir, "liver in abdomen CT", "--out", out, "--format", "nifti,nrrd,dicomseg,sr,png,coco"},
		{"segment", dir, "liver in abdomen CT", "--json"},
		{"report", one, "--out", out}, {"analyze", one, "--json"}, {"recognize", filepath.Join(dir, "head.dcm")},
	} {
		var stdout, stderr bytes.Buffer
		run(context.Background(), append(args, "--model", model), &stdout, &stderr)
		said = append(said, fmt.Sprint(args[0], "\n", stdout.String(), stderr.String()))
	}
	require.Contains(t, strings.Join(said, ""), "head.dcm", "the errors are there to be looked at")
	files := 0
	require.NoError(t, filepath.WalkDir(out, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		if files++; strings.HasSuffix(path, ".seg.dcm") || strings.HasSuffix(path, ".sr.dcm") {
			said = append(said, filepath.Base(path)) // what is in them the standard demands
			return nil
		}
		b, err := os.ReadFile(path)
		said = append(said, filepath.Base(path)+"\n"+string(b))
		return err
	}))
	require.Greater(t, files, 8)
	for _, text := range said {
		for tag, mark := range marks {
			require.NotContains(t, text, mark, "%v in %.60s", tag, text)
		}
		require.NotContains(t, text, "1.2.999.4")
	}

	var stdout, stderr bytes.Buffer
	require.Zero(t, run(context.Background(), []string{"info", one, "--json", "--with-identifiers", "--model", model}, &stdout, &stderr), stderr.String())
	require.Contains(t, stdout.String(), "MARKED-ID")
	require.Contains(t, stdout.String(), "1.2.999.1")
}

// TestKilledVolumeGoesOn kills the command in the middle of a series, with a signal that it can't catch. The second start does the rest,
// and at most one slice again. Its peak memory on a ten times longer series stays within 200 MB.
func TestKilledVolumeGoesOn(t *testing.T) {
	if testing.Short() {
		t.Skip("segments 10 slices")
	}
	model, dir, out := tinyModel(t), markedSeries(t, 300), t.TempDir()
	segment := func(dir, out, every string) *exec.Cmd {
		exe, err := exec.LookPath("unibiomed") // this test program, as TestMain put it on the path
		require.NoError(t, err)
		return exec.Command(exe, "segment", dir, "liver in abdomen CT", "--every", every, "--out", out, "--model", model)
	}
	journal := filepath.Join(out, "series.journal")
	lines := func() int { b, _ := os.ReadFile(journal); return bytes.Count(b, []byte("\n")) }

	cmd := segment(dir, out, "50")
	require.NoError(t, cmd.Start())
	for start := time.Now(); lines() < 3; time.Sleep(20 * time.Millisecond) { // the header and two slices
		if time.Since(start) > 5*time.Minute {
			cmd.Process.Kill()
			t.Fatal("no slice was done in 5 minutes")
		}
	}
	require.NoError(t, cmd.Process.Kill()) // SIGKILL
	require.Error(t, cmd.Wait())
	done := lines() - 1
	require.FileExists(t, journal)
	left, err := os.ReadDir(out)
	require.NoError(t, err)
	require.Len(t, left, 1, "no result is half written")

	var stderr bytes.Buffer
	cmd = segment(dir, out, "50")
	cmd.Stderr = &stderr
	text, err := cmd.Output()
	require.NoError(t, err, stderr.String())
	require.Contains(t, stderr.String(), fmt.Sprintf("going on after %d of 6 slices", done))
	require.Contains(t, string(text), "6 of 300 axial slices")
	require.NoFileExists(t, journal)
	s, err := study.Open(context.Background(), dir, study.Options{})
	require.NoError(t, err)
	require.Equal(t, 300, s.Items[0].Dims[2])

	if many, ok := peakMemory(cmd.ProcessState); ok {
		cmd = segment(markedSeries(t, 30), t.TempDir(), "8")
		require.NoError(t, cmd.Run())
		few, _ := peakMemory(cmd.ProcessState)
		t.Logf("peak %d MiB with 300 slices, %d MiB with 30", many>>20, few>>20)
		require.Less(t, many, few+200_000_000)
	}
}
