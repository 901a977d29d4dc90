package dicom_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume/volumetest"
)

func words(x ...uint16) (b []byte) {
	for _, w := range x {
		b = binary.LittleEndian.AppendUint16(b, w)
	}
	return b
}

// values writes d to a file, reads its first volume back and returns the values of slice k and the volume.
func values(t *testing.T, d *dicom.Dataset, k int) ([]float32, *dicom.Stack) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "x.dcm")
	require.NoError(t, dicom.WriteFile(path, d, dicom.ExplicitLittle))
	st := scan(t, path)
	require.Len(t, st, 1)
	got := make([]float32, st[0].SliceLen())
	require.NoError(t, st[0].ReadSlice(k, got))
	return got, st[0]
}

func bytesOf(d *dicom.Dataset, samples, allocated int, pix []byte) {
	d.SetInts(dicom.SamplesPerPixel, samples)
	d.SetInts(dicom.BitsAllocated, allocated)
	d.SetInts(dicom.BitsStored, allocated)
	d.SetInts(dicom.HighBit, allocated-1)
	d.SetInts(dicom.PixelRepresentation, 0)
	d.SetBytes(dicom.PixelData, "OW", pix)
}

func TestPalette(t *testing.T) {
	d := picture(0, func(d *dicom.Dataset) {
		bytesOf(d, 1, 8, []byte{0, 10, 11, 12, 13, 255})
		d.SetText(dicom.PhotometricInterpretation, "PALETTE COLOR")
		for i, tag := range []dicom.Tag{dicom.RedPaletteColorLookupTableDescriptor, dicom.GreenPaletteColorLookupTableDescriptor, dicom.BluePaletteColorLookupTableDescriptor} {
			d.SetInts(tag, 3, 11, 16)
			base := uint16(i+1) << 12
			d.SetBytes(dicom.RedPaletteColorLookupTableData+dicom.Tag(i), "OW", words(base, base+0x100, base+0x2ff))
		}
	})
	got, st := values(t, d, 0)
	require.Equal(t, 3, st.Channels)
	require.True(t, st.Levels)
	require.Equal(t, []float32{16, 32, 48, 16, 32, 48, 16, 32, 48, 17, 33, 49, 18, 34, 50, 18, 34, 50}, got)
}

func TestModalityLUT(t *testing.T) {
	d := picture(0, func(d *dicom.Dataset) {
		d.SetBytes(dicom.PixelData, "OW", words(0xfff0, 0xfffe, 0xffff, 0, 1, 100)) // signed: -16, -2, -1, ...
		item := dicom.NewDataset()
		item.SetInts(dicom.LUTDescriptor, 3, 0xfffe, 16)
		item.SetBytes(dicom.LUTData, "OW", words(7, 8, 9000))
		d.SetItems(dicom.ModalityLUTSequence, item)
	})
	got, _ := values(t, d, 0)
	require.Equal(t, []float32{7, 7, 8, 9000, 9000, 9000}, got)
}

func TestPlanarColoursAndInvertedGrey(t *testing.T) {
	d := picture(0, func(d *dicom.Dataset) {
		bytesOf(d, 3, 8, []byte{1, 2, 3, 4, 5, 6, 11, 12, 13, 14, 15, 16, 21, 22, 23, 24, 25, 26})
		d.SetText(dicom.PhotometricInterpretation, "RGB")
		d.SetInts(dicom.PlanarConfiguration, 1)
	})
	got, st := values(t, d, 0)
	require.Equal(t, 3, st.Channels)
	require.Equal(t, []float32{1, 11, 21, 2, 12, 22}, got[:6])

	_, st = values(t, picture(0, func(d *dicom.Dataset) { d.SetText(dicom.PhotometricInterpretation, "MONOCHROME1") }), 0)
	require.True(t, st.Inverted)
}

// TestEnhanced checks that place and scaling of each frame come from its own functional groups, and the rest from the shared ones.
func TestEnhanced(t *testing.T) {
	item := func(fill func(d *dicom.Dataset)) *dicom.Dataset {
		d := dicom.NewDataset()
		fill(d)
		return d
	}
	d := picture(0, func(d *dicom.Dataset) {
		for _, tag := range []dicom.Tag{dicom.ImagePositionPatient, dicom.ImageOrientationPatient, dicom.PixelSpacing, dicom.RescaleSlope, dicom.RescaleIntercept} {
			d.SetText(tag)
		}
		d.SetInts(dicom.NumberOfFrames, 3)
		d.SetBytes(dicom.PixelData, "OW", words(1, 1, 1, 1, 1, 1, 2, 2, 2, 2, 2, 2, 3, 3, 3, 3, 3, 3))
		d.SetItems(dicom.SharedFunctionalGroupsSequence, item(func(s *dicom.Dataset) {
			s.SetItems(dicom.PixelMeasuresSequence, item(func(m *dicom.Dataset) { m.SetFloats(dicom.PixelSpacing, 2, 3) }))
			s.SetItems(dicom.PlaneOrientationSequence, item(func(o *dicom.Dataset) { o.SetFloats(dicom.ImageOrientationPatient, 1, 0, 0, 0, 0, -1) }))
			s.SetItems(dicom.FrameVOILUTSequence, item(func(w *dicom.Dataset) {
				w.SetFloats(dicom.WindowCenter, 40)
				w.SetFloats(dicom.WindowWidth, 80)
			}))
		}))
		var per []*dicom.Dataset
		for i, y := range []float64{8, 0, 4} {
			per = append(per, item(func(f *dicom.Dataset) {
				f.SetItems(dicom.PlanePositionSequence, item(func(p *dicom.Dataset) { p.SetFloats(dicom.ImagePositionPatient, 0, y, 0) }))
				f.SetItems(dicom.PixelValueTransformationSequence, item(func(v *dicom.Dataset) {
					v.SetFloats(dicom.RescaleSlope, float64(10*(i+1)))
					v.SetFloats(dicom.RescaleIntercept, 0)
				}))
			}))
		}
		d.SetItems(dicom.PerFrameFunctionalGroupsSequence, per...)
	})
	got, st := values(t, d, 2)
	require.Equal(t, "LIP", st.Affine.Codes())
	require.Equal(t, volume.Vec{3, 2, 4}, st.Affine.Spacing())
	require.Equal(t, []int{1, 2, 0}, []int{st.Slices[0].Frame, st.Slices[1].Frame, st.Slices[2].Frame})
	require.Equal(t, []float32{10, 10, 10, 10, 10, 10}, got)
	require.Equal(t, []volume.Window{{Center: 40, Width: 80}}, st.Windows)
	require.NoError(t, st.Load(), "slices of different scaling")
	require.NoError(t, st.ReadSlice(1, got))
	require.Equal(t, float32(90), got[0])
}

// TestSlide compares the picture of a slide with its tiles.
func TestSlide(t *testing.T) {
	path := volumetest.Shared(t, "data", "microscopy", "highdicom_sm_image.dcm")
	st := scan(t, path)
	require.Len(t, st, 1)
	require.Equal(t, [3]int{50, 50, 1}, st[0].Dims)
	var want string
	volumetest.Python(t, []string{"pydicom", "numpy"}, volumetest.PythonHash+`
import pydicom
ds = pydicom.dcmread(sys.argv[1])
out = np.zeros((ds.TotalPixelMatrixRows, ds.TotalPixelMatrixColumns, 3))
across = -(-ds.TotalPixelMatrixColumns // ds.Columns)
for i, f in enumerate(ds.pixel_array): # TILED_FULL: row by row
    y, x = i // across * ds.Rows, i % across * ds.Columns
    out[y:y + ds.Rows, x:x + ds.Columns] = f
print(json.dumps(vhash(out)))`, &want, path)
	require.Equal(t, want, volumetest.Hash(t, st[0].Volume))
}

// TestWriterIsReadByDcmtk checks that any data set written here is valid for another reader: lengths, padding, nesting.
func TestWriterIsReadByDcmtk(t *testing.T) {
	tool := volumetest.Tool(t, "dcmdump", "dcmtk")
	d := picture(0, func(d *dicom.Dataset) {
		d.SetLine(dicom.SeriesDescription, "a\\b\n  odd")
		d.SetParagraph(dicom.DerivationDescription, "line\nnext \\ x")
		d.SetFloats(dicom.SliceThickness, 1.0/3, -1e-20, 12345678901234567)
		inner := dicom.NewDataset()
		inner.SetItems(dicom.PurposeOfReferenceCodeSequence, dicom.Code{Value: "1", Scheme: "X", Meaning: "odd"}.Item())
		d.SetItems(dicom.SourceImageSequence, inner, dicom.NewDataset())
	})
	path := filepath.Join(t.TempDir(), "x.dcm")
	require.NoError(t, dicom.WriteFile(path, d, dicom.ExplicitLittle))
	out, err := run(tool, path)
	require.NoError(t, err, out)
	require.NotContains(t, out, "W:")
	require.NotContains(t, out, "E:")
	require.Contains(t, out, "[a b odd]")
	require.Contains(t, out, `0.33333333333333`)

	// A reader of what was written here gives it back.
	f, err := dicom.Open(path)
	require.NoError(t, err)
	require.Equal(t, []string{"line\nnext \\ x"}, f.Data.Texts(dicom.DerivationDescription))
	require.Len(t, f.Data.Items(dicom.SourceImageSequence), 2)
	require.InEpsilonSlice(t, []float64{1. / 3, -1e-20, 12345678901234567}, f.Data.Floats(dicom.SliceThickness), 1e-9)
	require.Error(t, dicom.WriteFile(path, dicom.NewDataset(), dicom.ExplicitLittle))
	_, err = os.Stat(path)
	require.NoError(t, err, "a failed write leaves the old file")
}
