package evaluation

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	vol "github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

func TestOpenVolumesAndTheirTruth(t *testing.T) {
	dir := t.TempDir()
	v := volumetest.Numbered([3]int{3, 4, 5}, vol.NewAffine(vol.Vec{1}, vol.Vec{0, 1}, vol.Vec{0, 0, 2}, vol.Vec{5, 6, 7}))
	put := func(name string, v *vol.Volume) { require.NoError(t, nifti.WriteVolume(filepath.Join(dir, name), v)) }
	text := func(name, s string) { require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(s), 0o600)) }
	put("a.nii.gz", v)
	put("a__left_lung.mask.nii.gz", v)
	put("b.nii.gz", v)
	put("b__labels.nii.gz", v)
	text("b__labels.json", `{"10": "liver", "2": "spleen"}`)
	put("alone.nii.gz", v)
	got, err := OpenVolumes(dir, "{target} in abdomen CT")
	require.NoError(t, err)
	require.Len(t, got, 2)
	require.Equal(t, "a", got[0].ID)
	require.Equal(t, "left lung in abdomen CT", got[0].Targets[0].Phrase)
	require.Equal(t, []string{"spleen in abdomen CT", "liver in abdomen CT"}, []string{got[1].Targets[0].Phrase, got[1].Targets[1].Phrase})

	m, err := got[0].Targets[0].read(context.Background(), v)
	require.NoError(t, err)
	require.Equal(t, 59, m.Count())
	m, err = got[1].Targets[1].read(context.Background(), v)
	require.NoError(t, err)
	require.Equal(t, 1, m.Count())
	require.True(t, m.At(1, 3, 0), "the voxel of value 10")
	other := *v
	other.Affine = vol.NewAffine(vol.Vec{1}, vol.Vec{0, 1}, vol.Vec{0, 0, 2}, vol.Vec{5, 6, 8})
	_, err = got[1].Targets[1].read(context.Background(), &other)
	require.ErrorContains(t, err, "affine")
	other.Dims[2] = 4
	_, err = got[1].Targets[1].read(context.Background(), &other)
	require.ErrorContains(t, err, "[3 4 5], the volume has [3 4 4]")

	text("b__labels.json", `{"x": "liver"}`)
	_, err = OpenVolumes(dir, "")
	require.ErrorContains(t, err, `"x"`)
	text("b__labels.json", `{"1": "liver"}`)
	require.NoError(t, os.Remove(filepath.Join(dir, "b.nii.gz")))
	_, err = OpenVolumes(dir, "")
	require.ErrorContains(t, err, "no volume b")
	_, err = OpenVolumes(t.TempDir(), "")
	require.ErrorContains(t, err, "no volume")
}

func TestScoreVolume(t *testing.T) {
	v := volumetest.Numbered([3]int{32, 24, 6}, vol.NewAffine(vol.Vec{0.5}, vol.Vec{0, 0.5}, vol.Vec{0, 0, 3}, vol.Vec{}))
	box := func(x, y, z int) *vol.Mask {
		m := vol.NewMask(v.Dims)
		for k := z; k < z+2; k++ {
			for j := y; j < y+8; j++ {
				for i := x; i < x+8; i++ {
					m.Set(i, j, k, true)
				}
			}
		}
		return m
	}
	view, err := v.View(vol.Axial)
	require.NoError(t, err)
	s, err := scoreVolume(box(8, 8, 1), box(8, 8, 1), v, view, 1)
	require.NoError(t, err)
	require.Equal(t, [3]float64{1, 0, 1}, [3]float64{s.Dice, *s.HD95, s.NSD})
	require.InDelta(t, 1, s.OfficialDice, 1e-9)
	require.Equal(t, [4]float64{0, 1, 1, 1}, [4]float64{*s.OfficialHD95, s.OfficialNSD, *s.OfficialVideoDice, *s.OfficialVideoIoU})

	// One slice too high: half of the voxels, 3 mm or one voxel away; the video procedure does not see what lies beyond the truth.
	s, err = scoreVolume(box(8, 8, 2), box(8, 8, 1), v, view, 1)
	require.NoError(t, err)
	require.Equal(t, 0.5, s.Dice)
	require.Equal(t, 3.0, *s.HD95)
	require.Equal(t, 0.5, s.NSD)
	require.InDelta(t, 0.5, s.OfficialDice, 1e-9)
	require.Equal(t, 1.0, *s.OfficialHD95)
	require.Equal(t, 1.0, s.OfficialNSD, "two voxels are tolerated")
	require.InDelta(t, 2*64.0/(64+128), *s.OfficialVideoDice, 1e-12)

	s, err = scoreVolume(vol.NewMask(v.Dims), box(8, 8, 1), v, view, 1)
	require.NoError(t, err)
	require.Zero(t, s.Dice+s.NSD+s.OfficialDice+s.OfficialNSD)
	require.Nil(t, s.HD95)
	require.Nil(t, s.OfficialHD95)

	a, b := 1.0, 3.0
	sum := VolumeSummary{Scores: []VolumeScore{{Phrase: "x", Dice: 1, HD95: &a}, {Phrase: "x"}, {Phrase: "y", Dice: 0.25, HD95: &b}}}
	sum.summarize()
	require.Equal(t, 0.375, sum.Mean.Dice, "over phrases, not over masks")
	require.Equal(t, 2.0, *sum.Mean.HD95)
	require.Equal(t, 1, sum.Mean.Missed)
	require.Nil(t, sum.Mean.OfficialHD95)
}
