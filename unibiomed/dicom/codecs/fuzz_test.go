package codecs

import "testing"

// The seeds in testdata/fuzz are frames of 4x4 samples, made as those of TestFramesOfOtherEncoders.

func FuzzJPEGLS(f *testing.F)   { fuzz(f, jpegLS) }
func FuzzJPEG2000(f *testing.F) { fuzz(f, jpeg2000) } // and HTJ2K

func fuzz(f *testing.F, codec int32) {
	if err := Available(); err != nil {
		f.Skip(err)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := decode(codec, b, 4, 4, 1, 1<<20)
		if err == nil && len(d.Data) != 16*((d.Bits+7)/8) && len(d.Data) != 64 {
			t.Fatalf("%d bytes of %d bits", len(d.Data), d.Bits)
		}
	})
}
