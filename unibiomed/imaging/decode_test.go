package imaging_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"hash/crc32"
	"image"
	"image/color"
	"image/gif"
	"image/jpeg"
	"image/png"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

type vector struct {
	Name          string
	Width, Height int
	Lossy         bool
	File, RGB     []byte
}

func vectors(t testing.TB) []vector {
	t.Helper()
	b, err := os.ReadFile("testdata/pillow_convert.json")
	require.NoError(t, err)
	var f struct{ Cases []vector }
	require.NoError(t, json.Unmarshal(b, &f))
	return f.Cases
}

// TestDecodeAsPillow covers codings that the shared vectors leave out. Only JPEG is not exact: the inverse transforms
// differ by a level or two, which the colour matrix may add up to three.
func TestDecodeAsPillow(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			o := imaging.Options{Grey16: imaging.Clip}
			got, err := imaging.Decode(bytes.NewReader(v.File), o)
			require.NoError(t, err)
			require.Equal(t, [2]int{v.Width, v.Height}, [2]int{got.Width, got.Height})
			limit := 0
			if v.Lossy {
				limit = 3
			}
			for i, want := range v.RGB {
				if d := int(want) - int(got.Pix[i]); d > limit || -d > limit {
					t.Fatalf("value %d: want %d, got %d", i, want, got.Pix[i])
				}
			}
			c, err := imaging.DecodeConfig(bytes.NewReader(v.File), o)
			require.NoError(t, err)
			require.Equal(t, [2]int{v.Width, v.Height}, [2]int{c.Width, c.Height})
		})
	}
}

func encodePNG(t testing.TB, m image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, m))
	return b.Bytes()
}

// deep is a 16-bit grey PNG of one row with these values.
func deep(t testing.TB, values ...uint16) []byte {
	m := image.NewGray16(image.Rect(0, 0, len(values), 1))
	for x, v := range values {
		m.SetGray16(x, 0, color.Gray16{Y: v})
	}
	return encodePNG(t, m)
}

func TestDeepGrey(t *testing.T) {
	file := deep(t, 0, 100, 255, 256, 1000, 1100, 65535)
	grey := func(o imaging.Options) []uint8 {
		m, err := imaging.Decode(bytes.NewReader(file), o)
		require.NoError(t, err)
		var levels []uint8
		for i := 0; i < len(m.Pix); i += 3 {
			require.Equal(t, m.Pix[i], m.Pix[i+1])
			require.Equal(t, m.Pix[i], m.Pix[i+2])
			levels = append(levels, m.Pix[i])
		}
		return levels
	}

	_, err := imaging.Decode(bytes.NewReader(file), imaging.Options{Name: "chest.png"})
	var u *imaging.UnsupportedError
	require.ErrorAs(t, err, &u)
	require.Equal(t, [3]string{"chest.png", "PNG", "grey levels"}, [3]string{u.File, u.Format, u.Field})
	require.ErrorContains(t, err, "window")

	require.Equal(t, []uint8{0, 100, 255, 255, 255, 255, 255}, grey(imaging.Options{Grey16: imaging.Clip}))
	require.Equal(t, []uint8{0, 0, 0, 0, 230, 255, 255}, grey(imaging.Options{Window: &imaging.Window{Low: 100 + 156, High: 1080}})) // 744/824*255 = 230.2
	_, err = imaging.Decode(bytes.NewReader(file), imaging.Options{Window: &imaging.Window{Low: 3, High: 3}})
	require.ErrorContains(t, err, "Low < High")

	// Masks keep small labels and everything above.
	m, err := imaging.DecodeMask(bytes.NewReader(file), imaging.Options{})
	require.NoError(t, err)
	require.Equal(t, 6, m.Area())

	// A transparent level changes how Go decodes, not what is shown.
	withKey := append([]byte(nil), file[:33]...)
	withKey = append(withKey, chunk("tRNS", []byte{0, 100})...)
	withKey = append(withKey, file[33:]...)
	file = withKey
	require.Equal(t, []uint8{0, 100, 255, 255, 255, 255, 255}, grey(imaging.Options{Grey16: imaging.Clip}))
}

// chunk is a PNG chunk.
func chunk(name string, data []byte) []byte {
	b := binary.BigEndian.AppendUint32(nil, uint32(len(data)))
	b = append(append(b, name...), data...)
	return binary.BigEndian.AppendUint32(b, crc32.ChecksumIEEE(b[4:]))
}

// claim is a file whose header claims a size, followed by 1 kB of zeros.
func claim(format string, width, height uint32) []byte {
	var b []byte
	le, be := binary.LittleEndian, binary.BigEndian
	switch format {
	case "PNG":
		h := append(be.AppendUint32(be.AppendUint32(nil, width), height), 8, 2, 0, 0, 0)
		b = append([]byte("\x89PNG\r\n\x1a\n"), chunk("IHDR", h)...)
		b = append(b, chunk("IDAT", make([]byte, 900))...)
	case "JPEG":
		b = []byte("\xff\xd8\xff\xc0\x00\x11\x08")
		b = append(be.AppendUint16(be.AppendUint16(b, uint16(height)), uint16(width)), 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1)
	case "GIF":
		b = le.AppendUint16(le.AppendUint16([]byte("GIF89a"), uint16(width)), uint16(height))
		b = append(b, 0, 0, 0, 0x2c, 0, 0, 0, 0, 1, 0, 1, 0, 0, 8)
	case "BMP":
		b = append([]byte("BM"), make([]byte, 52)...)
		le.PutUint32(b[10:], 54)
		le.PutUint32(b[14:], 40)
		le.PutUint32(b[18:], width)
		le.PutUint32(b[22:], height)
		le.PutUint16(b[26:], 1)
		le.PutUint16(b[28:], 24)
	case "TIFF":
		b = append([]byte("II*\x00\x08\x00\x00\x00"), 6, 0)
		for _, e := range [][2]uint32{{256, width}, {257, height}, {258, 8}, {259, 8}, {262, 1}, {273, 8}} {
			b = append(le.AppendUint16(le.AppendUint16(b, uint16(e[0])), 4), 1, 0, 0, 0)
			b = le.AppendUint32(b, e[1])
		}
	case "WebP":
		h := le.AppendUint32([]byte{0x2f}, width-1|(height-1)<<14)
		b = append(le.AppendUint32([]byte("RIFF\x00\x04\x00\x00WEBPVP8L"), 1000), h...)
	}
	return append(b, make([]byte, 1024)...)
}

func TestClaimedSizes(t *testing.T) {
	tests := []struct {
		name          string
		width, height uint32
		want          string // part of the message
	}{
		{"no width", 0, 5, "at least 1"},
		{"no height", 5, 0, "at least 1"},
		{"nothing", 0, 0, "at least 1"},
		{"above the limit", 60000, 60000, "limit is 178956970"},
		{"more than the file can hold", 13000, 13000, "the file has"},
	}
	for _, format := range []string{"PNG", "JPEG", "GIF", "BMP", "TIFF"} {
		for _, tt := range tests {
			if format == "GIF" && strings.HasPrefix(tt.name, "no") {
				continue // the frame says how large the picture is
			}
			t.Run(format+" "+tt.name, func(t *testing.T) {
				requireRefused(t, claim(format, tt.width, tt.height), tt.want)
			})
		}
	}
	t.Run("WebP", func(t *testing.T) {
		requireRefused(t, claim("WebP", 16384, 16384), "limit is 178956970")
		requireRefused(t, claim("WebP", 13000, 13000), "the file has")
	})
	t.Run("a row of millions", func(t *testing.T) { requireRefused(t, claim("PNG", 20000000, 1), "longer side (20000000x1)") })
	t.Run("lower limit", func(t *testing.T) {
		_, err := imaging.Decode(bytes.NewReader(encodePNG(t, image.NewGray(image.Rect(0, 0, 10, 10)))), imaging.Options{MaxPixels: 99})
		var l *imaging.LimitError
		require.ErrorAs(t, err, &l)
		require.Equal(t, [2]int64{100, 99}, [2]int64{l.Got, l.Limit})
	})
	t.Run("file above the limit", func(t *testing.T) {
		_, err := imaging.Decode(bytes.NewReader(make([]byte, 100)), imaging.Options{MaxBytes: 99})
		var l *imaging.LimitError
		require.ErrorAs(t, err, &l)
		require.Equal(t, "bytes", l.Field)
	})
}

// requireRefused decodes, wants an error with these words, and a memory bill that has nothing to do with the claim.
func requireRefused(t *testing.T, file []byte, want string) {
	t.Helper()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := imaging.Decode(bytes.NewReader(file), imaging.Options{Name: "x", Grey16: imaging.Clip})
	runtime.ReadMemStats(&after)
	require.ErrorContains(t, err, want)
	require.True(t, typed(err), "%T", err)
	require.Less(t, after.TotalAlloc-before.TotalAlloc, uint64(1<<20))
}

// typed reports whether err is one of this package's.
func typed(err error) bool {
	switch err.(type) {
	case *imaging.FormatError, *imaging.UnsupportedError, *imaging.LimitError:
		return true
	}
	return false
}

func TestUnreadableFormats(t *testing.T) {
	at := func(n int, magic string) []byte { return append(make([]byte, n), magic+"rest of the file"...) }
	tests := []struct {
		name   string
		file   []byte
		format string
	}{
		{"DICOM", at(128, "DICM"), "DICOM"},
		{"NIfTI", at(344, "n+1\x00"), "NIfTI"},
		{"compressed NIfTI", []byte("\x1f\x8b\x08..."), "gzip"},
		{"JPEG 2000", []byte("\x00\x00\x00\x0cjP  \r\n"), "JPEG 2000"},
		{"a checkout without LFS", []byte("version https://git-lfs.github.com/spec/v1\n"), "Git LFS pointer"},
		{"text", []byte("hello"), ""},
		{"one byte", []byte{7}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := imaging.Decode(bytes.NewReader(tt.file), imaging.Options{Name: "scan"})
			var u *imaging.UnsupportedError
			require.ErrorAs(t, err, &u)
			require.Equal(t, tt.format, u.Format)
			require.ErrorContains(t, err, "scan")
			require.ErrorContains(t, err, "PNG, JPEG, GIF, BMP, TIFF or WebP")
		})
	}
	_, err := imaging.Decode(bytes.NewReader(nil), imaging.Options{})
	require.EqualError(t, err, "imaging: file: is empty")
}

func TestFiles(t *testing.T) {
	dir := t.TempDir()
	_, err := imaging.DecodeFile(filepath.Join(dir, "none.png"), imaging.Options{})
	require.ErrorIs(t, err, os.ErrNotExist)
	_, err = imaging.DecodeFile(dir, imaging.Options{})
	require.ErrorContains(t, err, "is a folder")
}

// TestTruncated cuts a file of every kind at every byte: each cut gives one typed error, or the picture where only
// trailing bytes are gone.
func TestTruncated(t *testing.T) {
	for _, v := range vectors(t) {
		for n := range v.File {
			m, err := imaging.Decode(bytes.NewReader(v.File[:n]), imaging.Options{Grey16: imaging.Clip})
			if err != nil {
				require.True(t, typed(err), "%s cut at %d: %T %v", v.Name, n, err, err)
			} else if !v.Lossy {
				require.Equal(t, v.RGB, m.Pix, "%s cut at %d", v.Name, n)
			}
		}
	}
}

func TestGIFFrame(t *testing.T) {
	// A frame smaller than its canvas, with a transparent colour that covers the rest and shows as the colour it has.
	frame := image.NewPaletted(image.Rect(1, 1, 3, 2), color.Palette{color.RGBA{1, 2, 3, 255}, color.RGBA{9, 8, 7, 255}, color.RGBA{}})
	frame.Pix = []uint8{1, 0}
	var b bytes.Buffer
	require.NoError(t, gif.EncodeAll(&b, &gif.GIF{Image: []*image.Paletted{frame}, Delay: []int{0}, Config: image.Config{Width: 4, Height: 3}}))
	m, err := imaging.Decode(&b, imaging.Options{})
	require.NoError(t, err)
	require.Equal(t, [2]int{4, 3}, [2]int{m.Width, m.Height})
	require.Equal(t, []uint8{9, 8, 7, 1, 2, 3}, m.Row(1)[3:9])
	require.Equal(t, []uint8{0, 0, 0}, m.Row(0)[:3])
}

func TestJPEGScanBomb(t *testing.T) {
	var b bytes.Buffer
	require.NoError(t, jpeg.Encode(&b, image.NewGray(image.Rect(0, 0, 8, 8)), nil))
	_, err := imaging.Decode(bytes.NewReader(append(b.Bytes(), bytes.Repeat([]byte{0xff, 0xda}, 2000)...)), imaging.Options{})
	var f *imaging.FormatError
	require.ErrorAs(t, err, &f)
	require.Equal(t, "scans", f.Field)
}

func TestPlainCMYK(t *testing.T) {
	// Without Adobe's marker the samples are not inverted.
	for _, v := range vectors(t) {
		if !strings.HasPrefix(v.Name, "jpgCMYK") {
			continue
		}
		at := bytes.Index(v.File, []byte("\xff\xee\x00\x0eAdobe"))
		require.Positive(t, at)
		plain := append(append([]byte(nil), v.File[:at]...), v.File[at+16:]...)
		m, err := imaging.Decode(bytes.NewReader(plain), imaging.Options{})
		require.NoError(t, err)
		// All of cyan, magenta, yellow and black are inverted, and this file has no black: full black remains.
		require.Equal(t, make([]uint8, len(m.Pix)), m.Pix)
	}
}

func FuzzDecode(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.File)
	}
	for _, format := range []string{"PNG", "JPEG", "GIF", "BMP", "TIFF", "WebP"} {
		f.Add(claim(format, 300, 200))
	}
	f.Fuzz(func(t *testing.T, file []byte) {
		o := imaging.Options{MaxPixels: 1 << 16, Grey16: imaging.Clip}
		c, err := imaging.DecodeConfig(bytes.NewReader(file), o)
		if err != nil {
			require.True(t, typed(err), "%T", err)
		}
		m, decodeErr := imaging.Decode(bytes.NewReader(file), o)
		if decodeErr != nil {
			require.True(t, typed(decodeErr), "%T", decodeErr)
			return
		}
		require.NoError(t, err)
		require.Equal(t, [2]int{c.Width, c.Height}, [2]int{m.Width, m.Height})
		require.Len(t, m.Pix, 3*m.Width*m.Height)
		require.LessOrEqual(t, m.Width*m.Height, 1<<16)
	})
}
