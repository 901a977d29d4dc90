package unibiomed

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// abdomen is a CT of 30 axial slices.
func abdomen(t testing.TB) *volume.Volume {
	t.Helper()
	v, err := nifti.Read(golden.Path(t, "data", "ct", "totalseg_example_ct_sm.nii.gz"), nifti.Options{})
	require.NoError(t, err)
	return v
}

var organs = []string{"liver in abdomen CT", "spleen in abdomen CT"}

func TestSegmentVolume(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	v := abdomen(t)
	for plane, every := range map[string]int{"axial": 15, "sagittal": 61} {
		t.Run(plane, func(t *testing.T) {
			before := calls(t, p, bindings.StageFeatures)
			p.images.clear()
			heard := []int{}
			o := VolumeOptions{ViewOptions: ViewOptions{Plane: plane}, Every: every, Progress: func(done, all int) {
				heard = append(heard, done)
				require.Zero(t, p.images.order.Len(), "no slice stays in the cache")
				require.Zero(t, p.images.used)
			}}
			res, err := p.SegmentVolume(context.Background(), v, organs, o)
			require.NoError(t, err)
			require.Equal(t, "range abdomen -150..250 HU", res.Volume.Window, "the targets say modality and site")
			require.Equal(t, uint64(len(res.Pictures)), calls(t, p, bindings.StageFeatures)-before, "features once a slice for all targets")
			require.Len(t, heard, 1+len(res.Pictures))

			// Every slice is what the picture alone gives, in the place from which the picture came.
			want := volume.NewMask(v.Dims)
			for k, n := range res.Pictures {
				img, err := res.Viewer.Picture(n)
				require.NoError(t, err)
				one, err := p.Segment(context.Background(), Input{Image: img}, organs[:1], Observers{})
				require.NoError(t, err)
				require.NoError(t, res.Viewer.View.PutMask(want, n, one.Findings[0].Bits.Pix))
				require.InDelta(t, one.Findings[0].PredictedIoU, res.Targets[0].Slices[k].PredictedIoU, 1e-4)
			}
			require.NotZero(t, want.Count(), "the example shows something")
			require.Equal(t, want, res.Targets[0].Label.Mask)
			require.InDelta(t, float64(want.Count())*v.VoxelML(), *res.Targets[0].VolumeML, 1e-9)
			require.Greater(t, *res.Targets[0].EstimatedML, 2**res.Targets[0].VolumeML)

			// A label map goes to a file and comes back in place.
			path := filepath.Join(t.TempDir(), "labels.nii.gz")
			_, err = nifti.WriteLabels(path, v, []volume.Label{res.Targets[0].Label})
			require.NoError(t, err)
			again, err := nifti.Read(path, nifti.Options{})
			require.NoError(t, err)
			require.Equal(t, v.Dims, again.Dims)
			for i := range 3 {
				require.InDeltaSlice(t, v.Affine[i][:], again.Affine[i][:], 1e-4)
			}
			slice := make([]float32, again.SliceLen())
			bits := make([]uint8, len(slice))
			for k := range v.Dims[2] {
				require.NoError(t, again.ReadSlice(k, slice))
				want.Slice(k, bits)
				for i, x := range slice {
					require.Equal(t, float32(bits[i]), x)
				}
			}
		})
	}
}

func TestSegmentVolumePadded(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	v := abdomen(t)
	res, err := p.SegmentVolume(context.Background(), v, organs[:1], VolumeOptions{
		ViewOptions: ViewOptions{Square: true, Window: "liver"}, Every: v.Dims[2], LargestComponent: true, FillHoles: true,
	})
	require.NoError(t, err)
	require.Len(t, res.Pictures, 1)
	img, err := res.Viewer.Picture(res.Pictures[0])
	require.NoError(t, err)
	require.Equal(t, img.Width, img.Height)
	require.NotEqual(t, res.Volume.Width, res.Volume.Height)
	require.Equal(t, []string{"largest component", "fill holes"}, res.Volume.Steps)
	require.Equal(t, "range liver -25..230 HU", res.Volume.Window)
}

func TestVolumeGoesOnAfterAKill(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	v := abdomen(t)
	path := filepath.Join(t.TempDir(), "journal")
	for _, track := range []bool{false, true} {
		t.Run(map[bool]string{false: "slices", true: "track"}[track], func(t *testing.T) {
			o := VolumeOptions{Every: 10}
			stop := 2
			if track {
				o.Track, o.Prompted = true, []int{14}
				stop = 3 // of 3: the prompted one, forth, and back
			}
			whole, err := p.SegmentVolume(context.Background(), v, organs, o)
			require.NoError(t, err)
			require.Len(t, whole.Pictures, 3)

			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			o.Journal = path
			o.Progress = func(done, _ int) {
				if done == stop {
					cancel()
				}
			}
			_, err = p.SegmentVolume(ctx, v, organs, o)
			if stop < 3 {
				require.ErrorIs(t, err, context.Canceled)
			}

			// The kill came while the last line was written.
			text, err := os.ReadFile(path)
			require.NoError(t, err)
			require.Equal(t, 1+stop, strings.Count(string(text), "\n"))
			require.NoError(t, os.WriteFile(path, text[:len(text)-5], 0o600))

			var heard []int
			o.Progress = func(done, _ int) { heard = append(heard, done) }
			res, err := p.SegmentVolume(context.Background(), v, organs, o)
			require.NoError(t, err)
			require.Equal(t, stop-1, heard[0], "one slice is lost")
			for i := range res.Targets {
				sameSlices(t, whole.Targets[i].Slices, res.Targets[i].Slices)
			}

			// The journal is whole: nothing is computed.
			before := calls(t, p, bindings.StageFeatures)
			res, err = p.SegmentVolume(context.Background(), v, organs, o)
			require.NoError(t, err)
			require.Equal(t, before, calls(t, p, bindings.StageFeatures))
			sameSlices(t, whole.Targets[0].Slices, res.Targets[0].Slices)

			var bad *JournalError
			_, err = p.SegmentVolume(context.Background(), v, organs[:1], o)
			require.ErrorAs(t, err, &bad, "other targets")
			_, err = p.SegmentVolume(context.Background(), &volume.Volume{
				Dims: v.Dims, Channels: 1, Affine: v.Affine, Placed: v.Placed, Voxels: flat{}, Modality: v.Modality, Unit: v.Unit,
			}, organs, o)
			require.ErrorAs(t, err, &bad, "other voxels")
			require.NoError(t, os.WriteFile(path, []byte("a letter to someone\n"), 0o600))
			_, err = p.SegmentVolume(context.Background(), v, organs, o)
			require.ErrorAs(t, err, &bad, "another file")
			require.NoError(t, os.Remove(path))
		})
	}
}

// sameSlices allows what the golden cases allow: a prompt whose beginning is in the cache rounds in another order.
func sameSlices(t *testing.T, want, got []VolumeSlice) {
	t.Helper()
	require.Len(t, got, len(want))
	for k, w := range want {
		g := got[k]
		require.Equal(t, w.Slice, g.Slice)
		require.Equal(t, w.Tracked, g.Tracked)
		require.Equal(t, w.Answer, g.Answer)
		require.InDelta(t, w.AreaPx, g.AreaPx, 3)
		require.InDelta(t, w.PredictedIoU, g.PredictedIoU, 1e-4)
	}
}

type flat struct{}

func (flat) ReadSlice(_ int, dst []float32) error {
	for i := range dst {
		dst[i] = float32(i % 100)
	}
	return nil
}

// Tracking slice by slice gives what asking about all slices at once gives, and goes backwards too.
func TestTrackVolume(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	v := abdomen(t)
	o := VolumeOptions{Every: 5, Track: true}
	res, err := p.SegmentVolume(context.Background(), v, organs[:1], o)
	require.NoError(t, err)
	in := Input{}
	for _, n := range res.Pictures {
		img, err := res.Viewer.Picture(n)
		require.NoError(t, err)
		in.Slices = append(in.Slices, img)
	}
	require.Greater(t, len(in.Slices), p.info.PromptedSlices, "some slices are tracked")
	want, err := p.Segment(context.Background(), in, organs[:1], Observers{})
	require.NoError(t, err)
	require.NotEmpty(t, want.Findings[0].Slices)
	for k, s := range want.Findings[0].Slices {
		got := res.Targets[0].Slices[k]
		require.Equal(t, s.Tracked, got.Tracked)
		require.InDelta(t, s.PredictedIoU, got.PredictedIoU, 1e-4)
		mask := imaging.NewMask(s.Bits.Width, s.Bits.Height)
		require.NoError(t, res.Viewer.View.MaskSlice(res.Targets[0].Label.Mask, got.Slice, mask.Pix))
		different := 0
		for i, x := range mask.Pix {
			if x != s.Bits.Pix[i] {
				different++
			}
		}
		require.LessOrEqual(t, different, 3, "slice %d", k)
	}

	// From the other end all others are found backwards.
	o.Every = 10
	o.Prompted = []int{24}
	backward, err := p.SegmentVolume(context.Background(), v, organs[:1], o)
	require.NoError(t, err)
	require.Equal(t, o.Prompted, backward.Volume.Prompted)
	for k, s := range backward.Targets[0].Slices {
		require.Equal(t, k != len(backward.Pictures)-1, s.Tracked)
	}
}

func TestVolumesThatCantBeAsked(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	v := abdomen(t)
	for name, tt := range map[string]struct {
		v       *volume.Volume
		targets []string
		o       VolumeOptions
		want    string
	}{
		"no target":       {v, nil, VolumeOptions{}, "target: is missing"},
		"empty target":    {v, []string{" "}, VolumeOptions{}, "target 0: is empty"},
		"no volume":       {nil, organs, VolumeOptions{}, "volume: has no voxels"},
		"a plane":         {v, organs, VolumeOptions{ViewOptions: ViewOptions{Plane: "oblique"}}, `plane: is "oblique", want auto, axial, coronal, sagittal or stored`},
		"a window":        {v, organs, VolumeOptions{ViewOptions: ViewOptions{Window: "header"}}, `window: "header": the header has 0 windows`},
		"every":           {v, organs, VolumeOptions{Every: -1}, "every: is -1, want at least 1"},
		"prompts alone":   {v, organs, VolumeOptions{Prompted: []int{1}}, "prompted: is given without track"},
		"prompts outside": {v, organs, VolumeOptions{Track: true, Prompted: []int{99}}, "prompted: has slice 99, the axial plane has 0 to *"},
		"many prompts":    {v, organs, VolumeOptions{Track: true, Prompted: []int{0, 1, 2, 3, 4, 5}}, "prompted: has 6 slices, the model takes at most 5"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := p.SegmentVolume(context.Background(), tt.v, tt.targets, tt.o)
			var bad *InputError
			require.ErrorAs(t, err, &bad)
			require.True(t, strings.HasPrefix(err.Error(), strings.TrimSuffix(tt.want, "*")), err.Error())
		})
	}
}

func TestBodyOnly(t *testing.T) {
	air := &volume.Dense{Type: volume.Int16, Slope: 1, Intercept: -1000, Data: make([]byte, 2*16*16*4)}
	for i := 16 * 16; i < 2*16*16; i++ { // slice 1 holds water
		air.Data[2*i], air.Data[2*i+1] = 0xe8, 0x03
	}
	v := &volume.Volume{Dims: [3]int{16, 16, 4}, Channels: 1, Placed: true, Voxels: air, Modality: "CT", Unit: "HU",
		Affine: volume.NewAffine(volume.Vec{1, 0, 0}, volume.Vec{0, 1, 0}, volume.Vec{0, 0, 1}, volume.Vec{})}
	w, err := NewViewer(v, ViewOptions{})
	require.NoError(t, err)
	has, err := w.body([]int{0, 1, 2, 3})
	require.NoError(t, err)
	require.Equal(t, []bool{false, true, false, false}, has)
}

func TestChoosePlane(t *testing.T) {
	v := abdomen(t)
	for name, tt := range map[string]struct {
		change func(*volume.Volume)
		want   volume.Plane
	}{
		"a volume":        {func(*volume.Volume) {}, volume.Axial},
		"without a place": {func(v *volume.Volume) { v.Placed = false }, volume.Stored},
		"thick sagittal slices": {func(v *volume.Volume) {
			v.Affine = volume.NewAffine(volume.Vec{0, 1, 0}, volume.Vec{0, 0, -1}, volume.Vec{5, 0, 0}, volume.Vec{})
		}, volume.Sagittal},
		"one coronal slice": {func(v *volume.Volume) {
			v.Dims[2] = 1
			v.Affine = volume.NewAffine(volume.Vec{1, 0, 0}, volume.Vec{0, 0, -1}, volume.Vec{0, 1, 0}, volume.Vec{})
		}, volume.Coronal},
	} {
		t.Run(name, func(t *testing.T) {
			c := *v
			tt.change(&c)
			got, err := choosePlane(&c, "")
			require.NoError(t, err)
			require.Equal(t, tt.want, got)
		})
	}
}

func TestEstimateOfEveryNth(t *testing.T) {
	for name, tt := range map[string]struct {
		all, every int
		picks      []int
	}{
		"all":                {7, 1, []int{0, 1, 2, 3, 4, 5, 6}},
		"a whole number":     {9, 3, []int{1, 4, 7}},
		"a short last cell":  {30, 12, []int{5, 17, 29}},
		"a remainder":        {13, 4, []int{1, 5, 9}},
		"one of few":         {3, 12, []int{1}},
		"one more, prompted": {8, 4, []int{0, 1, 5}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &volumeRun{options: VolumeOptions{Every: tt.every}, viewer: &Viewer{View: &volume.View{Slices: tt.all}}}
			var found []VolumeSlice
			for _, n := range tt.picks {
				found = append(found, VolumeSlice{Slice: n, AreaPx: 10})
			}
			require.InDelta(t, 10*tt.all, r.interpolated(found), 1e-9, "a bar of one area has it in every picture")
		})
	}
}
