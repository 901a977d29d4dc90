package study_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/nrrd"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
	"github.com/unibiomed/go-unibiomed/unibiomed/window"
)

// TestEveryMedicalFileOfTheSharedData reads, shows and writes each file, and finds each again where it was.
func TestEveryMedicalFileOfTheSharedData(t *testing.T) {
	files := volumetest.Find(t, volumetest.Shared(t, "data"), ".dcm", ".nii.gz", ".nii", ".nrrd", ".mha")
	require.NotEmpty(t, files)
	out := filepath.Join(t.TempDir(), "x.nii.gz")
	for _, path := range files {
		s, err := study.Open(context.Background(), path, study.Options{})
		require.NoError(t, err)
		require.Len(t, s.Items, 1)
		item := s.Items[0]
		require.Equal(t, s.Format == "dicom", item.Stack != nil)
		require.Empty(t, item.Name)
		m, err := window.Choose(item.Volume, "auto")
		require.NoError(t, err)
		w, err := item.View(volume.Axial)
		require.NoError(t, err)
		values, rgb := make([]float32, w.Columns*w.Rows*item.Channels), make([]uint8, w.Columns*w.Rows*3)
		if err := w.ReadSlice(w.Slices/2, values); err != nil && codecs.Available() != nil {
			t.Log(err)
			continue
		} else {
			require.NoError(t, err)
		}
		require.NoError(t, m.RGB(values, item.Channels, rgb))

		if item.Dims[2] > 60 { // large ones were read; one round trip of each kind is enough
			continue
		}
		require.NoError(t, nifti.WriteVolume(out, item.Volume))
		back, err := study.Open(context.Background(), out, study.Options{})
		require.NoError(t, err)
		require.Equal(t, item.Placed, back.Items[0].Placed, path)
		if item.Placed {
			require.True(t, volumetest.Near(item.Affine, back.Items[0].Affine), path)
		}
		require.Equal(t, volumetest.Hash(t, item.Volume), volumetest.Hash(t, back.Items[0].Volume), path)
	}
}

func TestFolder(t *testing.T) {
	dir := volumetest.Shared(t, "data", "ct")
	s, err := study.Open(context.Background(), dir, study.Options{})
	require.NoError(t, err)
	names := map[string]bool{}
	for _, item := range s.Items {
		require.NotEmpty(t, item.Name)
		require.False(t, names[item.Name], item.Name)
		names[item.Name] = true
	}
	require.NotZero(t, s.Skipped, "pictures and NIfTI beside them")
}

func TestFormat(t *testing.T) {
	dir := t.TempDir()
	v := volumetest.Numbered([3]int{2, 2, 2}, volume.NewAffine(volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{0, 0, 1}, volume.Vec{}))
	require.NoError(t, nifti.WriteVolume(filepath.Join(dir, "a"), v))
	require.NoError(t, nrrd.WriteVolume(filepath.Join(dir, "b"), v))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "c"), []byte("\x89PNG"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "d.dcm"), nil, 0o600))
	for name, want := range map[string]string{"a": "nifti", "b": "nrrd", "c": "", "d.dcm": "dicom", "": "dicom"} {
		got, err := study.Format(filepath.Join(dir, name))
		require.NoError(t, err)
		require.Equal(t, want, got, name)
	}
	_, err := study.Open(context.Background(), filepath.Join(dir, "c"), study.Options{})
	var no *volume.UnsupportedError
	require.ErrorAs(t, err, &no)
	_, err = study.Open(context.Background(), filepath.Join(dir, "d.dcm"), study.Options{})
	require.Error(t, err)
	_, err = study.Open(context.Background(), dir, study.Options{})
	require.Error(t, err)
	_, err = study.Open(context.Background(), filepath.Join(dir, "absent"), study.Options{})
	require.ErrorIs(t, err, os.ErrNotExist)

	s, err := study.Open(context.Background(), filepath.Join(dir, "a"), study.Options{Modality: "CT"})
	require.NoError(t, err)
	require.Equal(t, "CT", s.Items[0].Modality)
	require.Equal(t, "HU", s.Items[0].Unit)
}
