package seg_test

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/nrrd"
	"github.com/unibiomed/go-unibiomed/unibiomed/seg"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

// TestAllOrientationsOfASeries writes a CT of 3x4x5 voxels in every orientation that a series can have, marks a corner, and looks
// for the mark's place in the patient in what each writer made. Series are always right-handed once sorted, which leaves 24 of the
// 48 orders; the others, which only volumes can have, are tested by the packages of their formats.
func TestAllOrientationsOfASeries(t *testing.T) {
	var segs []string
	var want []volume.Vec
	out := t.TempDir()
	volumetest.Orders(func(a volume.Affine) {
		if a.Det() < 0 {
			return
		}
		st := series(t, a)
		m := volume.NewMask(st.Dims)
		m.Set(2, 3, 1, true)
		labels := []volume.Label{{Name: "corner", Mask: m}}
		want = append(want, a.Apply(volume.Vec{2, 3, 1}))
		base := filepath.Join(out, fmt.Sprint(len(want)))
		require.NoError(t, seg.Write(base+".dcm", st, labels, options))
		segs = append(segs, base+".dcm")
		require.NoError(t, nifti.WriteMask(base+".nii.gz", st.Volume, labels[0]))
		require.NoError(t, nrrd.WriteSegmentation(base+".seg.nrrd", st.Volume, labels))
		n, err := nifti.Read(base+".nii.gz", nifti.Options{})
		require.NoError(t, err)
		r, err := nrrd.Read(base+".seg.nrrd", nrrd.Options{})
		require.NoError(t, err)
		for _, v := range []*volume.Volume{n, r} {
			p := marked(t, v)
			require.InDeltaSlice(t, want[len(want)-1][:], p[:], 1e-5)
		}
	})
	require.Len(t, segs, 24)
	var got []volume.Vec
	volumetest.Python(t, []string{"pydicom", "numpy"}, `
import json, sys, pydicom, numpy as np
out = []
for path in sys.argv[1:]:
    ds = pydicom.dcmread(path)
    s = ds.SharedFunctionalGroupsSequence[0]
    o = np.array(s.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    down, across = (float(x) for x in s.PixelMeasuresSequence[0].PixelSpacing)
    row, col = np.argwhere(ds.pixel_array)[0]
    at = np.array(ds.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient, float)
    out.append((at + o[0] * across * col + o[1] * down * row).tolist())
print(json.dumps(out))`, &got, segs...)
	for i := range want {
		require.InDeltaSlice(t, want[i][:], got[i][:], 1e-9)
	}
}

// marked returns the place of the one voxel that is not zero.
func marked(t *testing.T, v *volume.Volume) volume.Vec {
	values := make([]float32, v.SliceLen())
	for k := range v.Dims[2] {
		require.NoError(t, v.ReadSlice(k, values))
		for i, x := range values {
			if x != 0 {
				return v.Affine.Apply(volume.Vec{float64(i % v.Dims[0]), float64(i / v.Dims[0]), float64(k)})
			}
		}
	}
	t.Fatal("the mark is gone")
	return volume.Vec{}
}

// series writes a CT of 3x4x5 voxels with the given affine and reads it back.
func series(t *testing.T, a volume.Affine) *dicom.Stack {
	t.Helper()
	dir := t.TempDir()
	c, r := a.Step(0).Unit(), a.Step(1).Unit()
	for k := range 5 {
		p := a.Apply(volume.Vec{0, 0, float64(k)})
		d := dicom.NewDataset()
		for tag, s := range map[dicom.Tag]string{dicom.SOPClassUID: "1.2.840.10008.5.1.4.1.1.2", dicom.SOPInstanceUID: dicom.NewUID(), dicom.StudyInstanceUID: "1.2.3",
			dicom.SeriesInstanceUID: "1.2.3.4", dicom.FrameOfReferenceUID: "1.2.3.5", dicom.Modality: "CT", dicom.PhotometricInterpretation: "MONOCHROME2"} {
			d.SetText(tag, s)
		}
		d.SetFloats(dicom.ImagePositionPatient, p[0], p[1], p[2])
		d.SetFloats(dicom.ImageOrientationPatient, c[0], c[1], c[2], r[0], r[1], r[2])
		d.SetFloats(dicom.PixelSpacing, a.Spacing()[1], a.Spacing()[0])
		for tag, x := range map[dicom.Tag]int{dicom.SamplesPerPixel: 1, dicom.Rows: 4, dicom.Columns: 3, dicom.BitsAllocated: 16, dicom.BitsStored: 16,
			dicom.HighBit: 15, dicom.PixelRepresentation: 0} {
			d.SetInts(tag, x)
		}
		d.SetBytes(dicom.PixelData, "OW", make([]byte, 24))
		require.NoError(t, dicom.WriteFile(filepath.Join(dir, fmt.Sprintf("%d.dcm", (k*3)%5)), d, dicom.ExplicitLittle))
	}
	f, err := dicom.Scan(context.Background(), dir)
	require.NoError(t, err)
	stacks, err := f.Studies[0].Series[0].Stacks(dicom.Options{})
	require.NoError(t, err)
	require.Len(t, stacks, 1)
	require.True(t, volumetest.Near(a, stacks[0].Affine))
	return stacks[0]
}
