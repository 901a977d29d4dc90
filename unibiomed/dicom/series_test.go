package dicom_test

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// picture returns a CT slice of 3x2 pixels at height z whose values are 10z + the pixel's number - 1000; edit changes it.
func picture(z float64, edit func(d *dicom.Dataset)) *dicom.Dataset {
	d := dicom.NewDataset()
	d.SetText(dicom.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2")
	d.SetText(dicom.SOPInstanceUID, dicom.NewUID())
	d.SetText(dicom.StudyInstanceUID, "1.2.3")
	d.SetText(dicom.SeriesInstanceUID, "1.2.3.4")
	d.SetText(dicom.FrameOfReferenceUID, "1.2.3.5")
	d.SetText(dicom.Modality, "CT")
	d.SetText(dicom.PatientName, "SECRET^NAME")
	d.SetText(dicom.PatientID, "SECRET-ID")
	d.SetInts(dicom.InstanceNumber, int(z))
	d.SetFloats(dicom.ImagePositionPatient, -10, -20, z)
	d.SetFloats(dicom.ImageOrientationPatient, 1, 0, 0, 0, 1, 0)
	d.SetFloats(dicom.PixelSpacing, 0.5, 0.75)
	d.SetInts(dicom.SamplesPerPixel, 1)
	d.SetText(dicom.PhotometricInterpretation, "MONOCHROME2")
	for t, x := range map[dicom.Tag]int{dicom.Rows: 2, dicom.Columns: 3, dicom.BitsAllocated: 16, dicom.BitsStored: 16, dicom.HighBit: 15, dicom.PixelRepresentation: 1} {
		d.SetInts(t, x)
	}
	d.SetFloats(dicom.RescaleSlope, 1)
	d.SetFloats(dicom.RescaleIntercept, -1000)
	var pix []byte
	for i := range 6 {
		pix = binary.LittleEndian.AppendUint16(pix, uint16(10*int(z)+i))
	}
	d.SetBytes(dicom.PixelData, "OW", pix)
	if edit != nil {
		edit(d)
	}
	return d
}

// folder writes pictures into a new folder, the first one last.
func folder(t testing.TB, pictures ...*dicom.Dataset) string {
	t.Helper()
	dir := t.TempDir()
	for i, d := range pictures {
		require.NoError(t, dicom.WriteFile(filepath.Join(dir, fmt.Sprintf("%03d.dcm", len(pictures)-i)), d, dicom.ExplicitLittle))
	}
	return dir
}

func scan(t testing.TB, dir string) []*dicom.Stack {
	t.Helper()
	f, err := dicom.Scan(context.Background(), dir)
	require.NoError(t, err)
	require.Empty(t, f.Errors)
	var out []*dicom.Stack
	for _, study := range f.Studies {
		for _, s := range study.Series {
			st, err := s.Stacks(dicom.Options{})
			require.NoError(t, err)
			out = append(out, st...)
		}
	}
	return out
}

func TestSeriesIsSorted(t *testing.T) {
	st := scan(t, folder(t, picture(4, nil), picture(0, nil), picture(2, nil)))
	require.Len(t, st, 1)
	v := st[0]
	require.Equal(t, [3]int{3, 2, 3}, v.Dims)
	require.True(t, v.Placed)
	require.Empty(t, v.Warnings)
	require.Equal(t, volume.NewAffine(volume.Vec{0.75}, volume.Vec{0, 0.5}, volume.Vec{0, 0, 2}, volume.Vec{-10, -20, 0}), v.Affine)
	require.Equal(t, "HU", v.Unit)
	got := make([]float32, 6)
	for k := range 3 {
		require.NoError(t, v.ReadSlice(k, got))
		require.Equal(t, float32(20*k-1000), got[0])
	}
	w, err := v.View(volume.Coronal)
	require.NoError(t, err)
	require.NoError(t, w.ReadSlice(1, make([]float32, 9)))
	require.IsType(t, &volume.Dense{}, v.Voxels, "a view across the slices loads them")
	require.NoError(t, v.ReadSlice(2, got))
	require.Equal(t, []float32{-960, -959, -958, -957, -956, -955}, got)
}

func TestSeriesOfEveryKind(t *testing.T) {
	type group struct {
		slices int
		warn   any // the type of its one warning
	}
	turned := func(d *dicom.Dataset) { d.SetFloats(dicom.ImageOrientationPatient, 0, 1, 0, 0, 0, -1) }
	scout := func(d *dicom.Dataset) { d.SetText(dicom.ImageType, "ORIGINAL", "PRIMARY", "LOCALIZER") }
	unplaced := func(d *dicom.Dataset) { d.SetText(dicom.ImagePositionPatient) }
	uid := func(s string) func(d *dicom.Dataset) {
		return func(d *dicom.Dataset) { d.SetText(dicom.SOPInstanceUID, s) }
	}
	at := func(time int) func(d *dicom.Dataset) {
		return func(d *dicom.Dataset) { d.SetInts(dicom.TemporalPositionIdentifier, time) }
	}
	tests := []struct {
		name     string
		pictures []*dicom.Dataset
		want     []group
	}{
		{"gap", []*dicom.Dataset{picture(0, nil), picture(2, nil), picture(4, nil), picture(10, nil)}, []group{{4, &volume.GapError{}}}},
		{"copy of one slice", []*dicom.Dataset{picture(0, nil), picture(2, nil), picture(2, nil), picture(4, nil)}, []group{{3, &volume.DuplicateError{}}}},
		{"two time points", []*dicom.Dataset{picture(0, at(1)), picture(2, at(1)), picture(2, at(2)), picture(0, at(2))}, []group{{2, nil}, {2, nil}}},
		{"two orientations", []*dicom.Dataset{picture(0, nil), picture(2, nil), picture(0, turned)}, []group{{1, nil}, {2, nil}}},
		{"scout beside the slices", []*dicom.Dataset{picture(0, scout), picture(0, nil), picture(2, nil)}, []group{{2, nil}, {1, nil}}},
		{"one without a place", []*dicom.Dataset{picture(0, nil), picture(2, unplaced)}, []group{{1, errors.New("")}, {1, nil}}},
		{"other size", []*dicom.Dataset{picture(0, nil), picture(2, func(d *dicom.Dataset) { d.SetInts(dicom.Rows, 1) })}, []group{{1, nil}, {1, nil}}},
		{"other series", []*dicom.Dataset{picture(0, nil), picture(2, func(d *dicom.Dataset) { d.SetText(dicom.SeriesInstanceUID, "9") })}, []group{{1, nil}, {1, nil}}},
		{"NaN position", []*dicom.Dataset{picture(0, func(d *dicom.Dataset) { d.SetFloats(dicom.ImagePositionPatient, math.NaN(), 0, 0) })}, []group{{1, errors.New("")}}},
		{"zero spacing", []*dicom.Dataset{picture(0, func(d *dicom.Dataset) { d.SetFloats(dicom.PixelSpacing, 0, 0) })}, []group{{1, errors.New("")}}},
		{"MOSAIC of slices", []*dicom.Dataset{picture(0, func(d *dicom.Dataset) { d.SetText(dicom.ImageType, "DERIVED", "PRIMARY", "MOSAIC") })}, []group{{1, &volume.UnsupportedError{}}}},
		{"every file twice", []*dicom.Dataset{picture(0, uid("1")), picture(2, uid("2")), picture(0, uid("1")), picture(2, uid("2"))}, []group{{2, &dicom.CopiesWarning{}}}},
		{"overlay", []*dicom.Dataset{picture(0, func(d *dicom.Dataset) { d.SetBytes(0x60003000, "OW", []byte{1, 0}) })}, []group{{1, &dicom.OverlayWarning{}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			st := scan(t, folder(t, tt.pictures...))
			require.Len(t, st, len(tt.want))
			for i, w := range tt.want {
				require.Equal(t, w.slices, st[i].Dims[2])
				if w.warn == nil {
					require.Empty(t, st[i].Warnings)
				} else {
					require.Len(t, st[i].Warnings, 1)
					require.IsType(t, w.warn, st[i].Warnings[0])
				}
				require.NoError(t, st[i].ReadSlice(0, make([]float32, st[i].SliceLen())))
			}
		})
	}
}

// TestOneBadFileStopsNothing also checks that no error says who the patient is.
func TestOneBadFileStopsNothing(t *testing.T) {
	dir := folder(t, picture(0, nil), picture(2, nil),
		picture(4, func(d *dicom.Dataset) { d.SetText(dicom.Rows) }),
		picture(6, func(d *dicom.Dataset) { d.SetText(dicom.PhotometricInterpretation, "SECRET") }),
		picture(8, func(d *dicom.Dataset) { d.SetInts(dicom.NumberOfFrames, 70) }))
	b, err := os.ReadFile(filepath.Join(dir, "001.dcm"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cut.dcm"), b[:300], 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "notes.txt"), []byte("SECRET"), 0o600))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	f, err := dicom.Scan(context.Background(), dir)
	require.NoError(t, err)
	require.Len(t, f.Studies, 1)
	require.Len(t, f.Studies[0].Series[0].Files, 2)
	require.Equal(t, 1, f.Skipped)
	require.Len(t, f.Errors, 5)
	for _, err := range f.Errors {
		require.NotContains(t, strings.ReplaceAll(err.Error(), `"SECRET"`, ""), "SECRET", "only the value of the field at fault may be shown")
	}
	_, err = dicom.Scan(context.Background(), filepath.Join(dir, "absent"))
	require.Error(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = dicom.Scan(ctx, dir)
	require.ErrorIs(t, err, context.Canceled)
}

func TestSUV(t *testing.T) {
	dir := t.TempDir()
	src := volumetest.Shared(t, "data", "pet", "suyashkumar_1.dcm")
	var want float64
	volumetest.Python(t, []string{"pydicom"}, `
import json, sys, pydicom
ds = pydicom.dcmread(sys.argv[1])
r = ds.RadiopharmaceuticalInformationSequence[0]
t = lambda s: int(s[:2]) * 3600 + int(s[2:4]) * 60 + float(s[4:])
wait = t(ds.SeriesTime) - t(r.RadiopharmaceuticalStartTime)
dose = float(r.RadionuclideTotalDose) * 2 ** (-wait / float(r.RadionuclideHalfLife))
bq = ds.pixel_array.astype(float) * float(ds.RescaleSlope) + float(ds.RescaleIntercept)
print(json.dumps(float(bq.max() * float(ds.PatientWeight) * 1000 / dose)))`, &want, src)
	st := scan(t, src)
	require.Equal(t, "SUVbw", st[0].Unit)
	got := make([]float32, st[0].SliceLen())
	require.NoError(t, st[0].ReadSlice(0, got))
	require.InEpsilon(t, want, slicesMax(got), 1e-6)

	f, err := dicom.Open(src)
	require.NoError(t, err)
	raw, err := f.Stacks(dicom.Options{Activity: true})
	require.NoError(t, err)
	require.Equal(t, "BQML", raw[0].Unit)

	d := picture(0, func(d *dicom.Dataset) { d.SetText(dicom.Modality, "PT"); d.SetText(dicom.Units, "BQML") })
	path := filepath.Join(dir, "pt.dcm")
	require.NoError(t, dicom.WriteFile(path, d, dicom.ExplicitLittle))
	st = scan(t, path)
	require.Equal(t, "BQML", st[0].Unit)
	require.ErrorContains(t, st[0].Warnings[0], "not corrected")
}

func slicesMax(x []float32) (m float32) {
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

// TestMemoryDoesNotGrowWithSlices reads a stack of 300 slices of 512x512 one by one.
func TestMemoryDoesNotGrowWithSlices(t *testing.T) {
	if testing.Short() {
		t.Skip("writes 157 MB")
	}
	pix := make([]byte, 2*512*512)
	held := func(n int) uint64 {
		dir := t.TempDir()
		for k := range n {
			require.NoError(t, dicom.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.dcm", k)), picture(float64(k), func(d *dicom.Dataset) {
				d.SetInts(dicom.Rows, 512)
				d.SetInts(dicom.Columns, 512)
				d.SetBytes(dicom.PixelData, "OW", pix)
			}), dicom.ExplicitLittle))
		}
		st := scan(t, dir)
		require.Len(t, st, 1)
		buf := make([]float32, st[0].SliceLen())
		for k := range n {
			require.NoError(t, st[0].ReadSlice(k, buf))
		}
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		runtime.KeepAlive(st)
		return m.HeapAlloc
	}
	few, many := held(3), held(300)
	require.Less(t, many, few+10<<20)
}
