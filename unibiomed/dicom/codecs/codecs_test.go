package codecs_test

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// write makes a file of one frame of w x h samples of 16 bits in a transfer syntax.
func write(t testing.TB, syntax string, w, h int, frame []byte) *dicom.File {
	return writeAs(t, syntax, "MONOCHROME2", 1, 16, w, h, frame)
}

func writeAs(t testing.TB, syntax, photometric string, samples, bits, w, h int, frame []byte) *dicom.File {
	t.Helper()
	d := dicom.NewDataset()
	d.SetText(dicom.SOPClassUID, "1.2.840.10008.5.1.4.1.1.7")
	d.SetText(dicom.SOPInstanceUID, "1.2.3")
	d.SetText(dicom.PhotometricInterpretation, photometric)
	for tag, x := range map[dicom.Tag]int{dicom.SamplesPerPixel: samples, dicom.Rows: h, dicom.Columns: w, dicom.BitsAllocated: bits, dicom.PixelRepresentation: 0} {
		d.SetInts(tag, x)
	}
	d.SetFragments(frame)
	path := filepath.Join(t.TempDir(), "x.dcm")
	require.NoError(t, dicom.WriteFile(path, d, syntax))
	f, err := dicom.Open(path)
	require.NoError(t, err)
	return f
}

const (
	jpegLS = "1.2.840.10008.1.2.4.80"
	j2k    = "1.2.840.10008.1.2.4.90"
)

// sample is the JPEG-LS stream of the example in ITU-T T.87, annex H.3: 4x4 samples of 8 bits.
var sample = []byte{
	0xff, 0xd8, 0xff, 0xf7, 0, 11, 8, 0, 4, 0, 4, 1, 1, 0x11, 0, 0xff, 0xda, 0, 8, 1, 1, 0, 0, 0, 0,
	0xc0, 0, 0, 0x6c, 0x80, 0x20, 0x8e, 0x01, 0xc0, 0, 0, 0x57, 0x40, 0, 0, 0x6e, 0xe6, 0, 0, 0x01, 0xbc, 0x18, 0, 0, 0x05, 0xd8, 0, 0, 0x91, 0x60,
	0xff, 0xd9,
}

func TestExampleOfT87(t *testing.T) {
	if err := codecs.Available(); err != nil {
		t.Skip(err)
	}
	require.Contains(t, codecs.Info(), "CharLS")
	fr, err := write(t, jpegLS, 4, 4, sample).Frame(0, volume.Limits{})
	require.NoError(t, err)
	var got []uint16
	for b := fr.Data; len(b) > 0; b = b[2:] {
		got = append(got, binary.LittleEndian.Uint16(b))
	}
	require.Equal(t, []uint16{0, 0, 90, 74, 68, 50, 43, 205, 64, 145, 145, 145, 100, 145, 145, 145}, got)
}

// TestFramesOfOtherEncoders reads lossless frames of a formula, made by OpenJPH 0.26.3 (HTJ2K) and OpenJPEG 2.5.4 through
// imagecodecs 2026.3.6: htj2k_encode(a, reversible=True), jpeg2k_encode(a, reversible=True, codecformat="j2k").
func TestFramesOfOtherEncoders(t *testing.T) {
	if err := codecs.Available(); err != nil {
		t.Skip(err)
	}
	const w, h = 21, 17
	var grey, rgb []byte
	for y := range h {
		for x := range w {
			grey = binary.LittleEndian.AppendUint16(grey, uint16(x*x*151+y*y*90+(x*y)%7))
			rgb = append(rgb, byte(x*12), byte(y*15), byte((x+y)*6))
		}
	}
	for name, syntax := range map[string]string{"htj2k": "1.2.840.10008.1.2.4.201", "j2k": j2k} {
		stream := func(kind string) []byte {
			b, err := os.ReadFile(filepath.Join("testdata", name+"_21x17_"+kind+".j2c"))
			require.NoError(t, err)
			return b
		}
		fr, err := write(t, syntax, w, h, stream("16bit")).Frame(0, volume.Limits{})
		require.NoError(t, err, name)
		require.Equal(t, grey, fr.Data, name)
		fr, err = writeAs(t, syntax, "YBR_RCT", 3, 8, w, h, stream("rgb")).Frame(0, volume.Limits{})
		require.NoError(t, err, name)
		require.Equal(t, rgb, fr.Data, name)
		require.False(t, fr.YCbCr)
	}
}

func TestLies(t *testing.T) {
	if err := codecs.Available(); err != nil {
		t.Skip(err)
	}
	for name, f := range map[string]*dicom.File{
		"other size": write(t, jpegLS, 5, 4, sample),
		"cut":        write(t, jpegLS, 4, 4, sample[:40]),
		"empty":      write(t, jpegLS, 4, 4, nil),
		"not JPEG":   write(t, j2k, 4, 4, sample),
	} {
		_, err := f.Frame(0, volume.Limits{})
		var bad *volume.FormatError
		require.ErrorAs(t, err, &bad, name)
	}
	_, err := write(t, jpegLS, 4, 4, sample).Frame(0, volume.Limits{Bytes: 64})
	require.Error(t, err)
}
