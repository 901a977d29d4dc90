package jpeg

import (
	"bytes"
	"image"
	"image/color"
	stdjpeg "image/jpeg"
	"math/rand/v2"
	"testing"

	"github.com/stretchr/testify/require"
)

// lossless2x2 is a lossless stream of 2x2 samples 100, 101, 99, 102 of 8 bits, predictor 1, with codes 0, 10 and 110 for
// differences of 0, 1 and 2 bits.
var lossless2x2 = []byte{
	0xff, 0xd8,
	0xff, 0xc3, 0, 11, 8, 0, 2, 0, 2, 1, 1, 0x11, 0,
	0xff, 0xc4, 0, 23, 0, 1, 1, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 5,
	0xff, 0xda, 0, 8, 1, 1, 0, 1, 0, 0,
	// 100 = 128 - 28: 111 (5 bits) 00011; 101: 10 1; 99 = 100 - 1: 10 0; 102 = 99 + 3: 110 11
	0b11100011, 0b10110011, 0b01111111,
	0xff, 0xd9,
}

func TestLossless(t *testing.T) {
	im, err := Decode(lossless2x2, 2, 2)
	require.NoError(t, err)
	require.Equal(t, []uint16{100, 101, 99, 102}, im.Samples)
	require.Equal(t, 8, im.Precision)
}

// TestNearStandardLibrary checks against Go's own decoder, which rounds differently: at most 3 levels apart in grey.
func TestNearStandardLibrary(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for _, size := range [][2]int{{1, 1}, {8, 8}, {9, 17}, {33, 20}} {
		src := image.NewGray(image.Rect(0, 0, size[0], size[1]))
		for i := range src.Pix {
			src.Pix[i] = uint8(i*3 + rng.IntN(20))
		}
		var b bytes.Buffer
		require.NoError(t, stdjpeg.Encode(&b, src, nil))
		want, err := stdjpeg.Decode(bytes.NewReader(b.Bytes()))
		require.NoError(t, err)
		im, err := Decode(b.Bytes(), size[0], size[1])
		require.NoError(t, err)
		for i, x := range im.Samples {
			require.InDelta(t, want.(*image.Gray).GrayAt(i%size[0], i/size[0]).Y, x, 3)
		}
	}
}

func TestColours(t *testing.T) {
	s := []uint16{76, 85, 255, 150, 44, 21, 29, 255, 107, 255, 128, 128}
	YCbCrToRGB(s, 8)
	for i, want := range []color.RGBA{{R: 254}, {G: 255, B: 1}, {B: 254}, {255, 255, 255, 0}} {
		require.InDelta(t, want.R, s[3*i], 1)
		require.InDelta(t, want.G, s[3*i+1], 1)
		require.InDelta(t, want.B, s[3*i+2], 1)
	}
}

func TestLies(t *testing.T) {
	edit := func(at int, x byte) []byte {
		b := bytes.Clone(lossless2x2)
		b[at] = x
		return b
	}
	for want, b := range map[string][]byte{
		"start with SOI":      lossless2x2[1:],
		"ends before":         lossless2x2[:40],
		"2x9 pixels, want":    edit(8, 9),
		"precision 99":        edit(6, 99),
		"SOF2":                edit(3, 0xc2),
		"end too early":       append(bytes.Clone(lossless2x2[:50]), 0xe3, 0xff, 0xd9),
		"predictor 9":         edit(47, 9),
		"more codes":          bytes.Replace(lossless2x2, []byte{1, 1, 2, 0}, []byte{4, 0, 0, 0}, 1),
		"cannot be in":        bytes.Replace(lossless2x2, []byte{8, 0, 2, 0, 2}, []byte{8, 0xff, 0xff, 0xff, 0xff}, 1),
		"component 7":         edit(45, 7),
		"marker FFC4 has len": edit(17, 0xff),
	} {
		w, h := 2, 2
		if want == "cannot be in" {
			w, h = 65535, 65535
		}
		_, err := Decode(b, w, h)
		require.ErrorContains(t, err, want)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add(lossless2x2, uint16(2), uint16(2))
	for _, sub := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio420, image.YCbCrSubsampleRatio444} {
		var b bytes.Buffer
		if err := stdjpeg.Encode(&b, image.NewYCbCr(image.Rect(0, 0, 17, 9), sub), nil); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), uint16(17), uint16(9))
	}
	f.Fuzz(func(t *testing.T, b []byte, w, h uint16) {
		im, err := Decode(b, int(w), int(h))
		if err == nil && len(im.Samples) != int(w)*int(h)*im.Components {
			t.Fatalf("%d samples", len(im.Samples))
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	src := image.NewYCbCr(image.Rect(0, 0, 1024, 1024), image.YCbCrSubsampleRatio420)
	rng := rand.New(rand.NewPCG(1, 2))
	for i := range src.Y {
		src.Y[i] = uint8(i/1024/4 + rng.IntN(30))
	}
	var stream bytes.Buffer
	if err := stdjpeg.Encode(&stream, src, nil); err != nil {
		b.Fatal(err)
	}
	b.SetBytes(3 * 1024 * 1024)
	for b.Loop() {
		if _, err := Decode(stream.Bytes(), 1024, 1024); err != nil {
			b.Fatal(err)
		}
	}
}
