package imaging

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
)

// Options configure decoding. The zero value is ready to use.
type Options struct {
	// Name is the file's name in errors. DecodeFile sets it.
	Name string
	// MaxPixels is the largest width times height. It defaults to 178,956,970, where Pillow refuses.
	MaxPixels int64
	// MaxBytes is the largest file. It defaults to 1 GiB.
	MaxBytes int64
	// Grey16 says what to do with grey of more than 8 bits (16- and 32-bit integers, floats) when Window is nil.
	// It defaults to Refuse.
	Grey16 Grey16
	// Page is the page of a TIFF to read, from 0. Other formats have one page.
	Page int
	// Window, if not nil, maps grey of more than 8 bits to 0..255. Other images are not changed by it.
	Window *Window
}

// Grey16 is what happens to grey of more than 8 bits.
type Grey16 int

const (
	// Refuse gives an UnsupportedError that explains windows.
	Refuse Grey16 = iota
	// Clip is the reference's rule: below 0 becomes 0, above 255 becomes 255, fractions are cut off.
	Clip
)

// A Window is the range of grey values to show: Low and below become 0, High and above 255, linear between, rounded
// to the nearest level.
type Window struct{ Low, High float64 }

// level maps a grey value to 0..255.
func (w *Window) level(v float64) uint8 {
	return clip8((v-w.Low)/(w.High-w.Low)*255 + 0.5)
}

// clip8 cuts off fractions and clips to 0..255; NaN becomes 0.
func clip8(v float64) uint8 {
	switch {
	case v >= 255:
		return 255
	case v > 0:
		return uint8(v)
	}
	return 0
}

const (
	defaultMaxPixels = 178956970
	defaultMaxBytes  = 1 << 30

	// maxSide bounds the width and the height by themselves: a million pixels in a row is no picture, and resizing needs
	// tables as long as a side.
	maxSide = 1 << 20
)

// A Config is what the header of a file says.
type Config struct {
	Format        string // "PNG", "JPEG", "GIF", "BMP", "TIFF" or "WebP"
	Width, Height int    // pixels
	Pages         int    // of a TIFF; 1 for other formats
	Mode          string // how a pixel is stored, such as "RGB8", "grey16", "palette4" or "CMYK8"
}

// Decode reads one image: PNG, JPEG, the first frame of a GIF, BMP, a page of a TIFF, or WebP. The format is
// told from the content. r is read to its end, and what is allocated is bounded by the size of the file and by o,
// whatever the file claims.
//
// It fails with a FormatError, an UnsupportedError, a LimitError, or the error of r.
func Decode(r io.Reader, o Options) (*RGB, error) {
	f, err := read(r, o)
	if err != nil {
		return nil, err
	}
	_, pixels, err := f.open()
	if err != nil {
		return nil, err
	}
	return pixels()
}

// DecodeFile decodes the image file at path, see Decode.
func DecodeFile(path string, o Options) (*RGB, error) {
	o.Name = path
	return withFile(path, func(r io.Reader) (*RGB, error) { return Decode(r, o) })
}

// DecodeConfig reads r to its end but decodes only the header, with all checks that Decode makes before it
// allocates.
func DecodeConfig(r io.Reader, o Options) (Config, error) {
	f, err := read(r, o)
	if err != nil {
		return Config{}, err
	}
	c, _, err := f.open()
	return c, err
}

// DecodeMask decodes an image and keeps its first channel as a mask: every level above 0 is inside. Grey of more than
// 8 bits is clipped, so that label values stay inside.
func DecodeMask(r io.Reader, o Options) (*Mask, error) {
	if o.Window == nil {
		o.Grey16 = Clip
	}
	img, err := Decode(r, o)
	if err != nil {
		return nil, err
	}
	m := NewMask(img.Width, img.Height)
	for i := range m.Pix {
		m.Pix[i] = img.Pix[3*i]
	}
	return m, nil
}

// DecodeMaskFile decodes the mask file at path, see DecodeMask.
func DecodeMaskFile(path string, o Options) (*Mask, error) {
	o.Name = path
	return withFile(path, func(r io.Reader) (*Mask, error) { return DecodeMask(r, o) })
}

func withFile[T any](path string, decode func(io.Reader) (*T, error)) (*T, error) {
	h, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer h.Close()
	if info, err := h.Stat(); err != nil {
		return nil, err
	} else if info.IsDir() {
		return nil, &FormatError{File: path, Field: "file", Msg: "is a folder"}
	}
	return decode(h)
}

// A file is the content of one image file on its way to pixels.
type file struct {
	Options
	format string
	data   []byte
}

// A decode function allocates and fills the image that a header promised.
type decode func() (*RGB, error)

// formats are tried in order; open parses the header and allocates nothing of the claimed size.
var formats = []struct {
	name  string
	match func(b []byte) bool
	open  func(f *file) (Config, decode, error)
}{
	{"PNG", prefix("\x89PNG\r\n\x1a\n"), openPNG},
	{"JPEG", prefix("\xff\xd8\xff"), openJPEG},
	{"GIF", prefix("GIF87a", "GIF89a"), openGIF},
	{"TIFF", prefix("II*\x00", "MM\x00*"), openTIFF},
	{"WebP", func(b []byte) bool { return len(b) >= 12 && string(b[:4]) == "RIFF" && string(b[8:12]) == "WEBP" }, openWebP},
	{"BMP", prefix("BM"), openBMP},
}

// others are formats that are recognized only to be named in the error.
var others = []struct {
	name  string
	at    int
	magic string
}{
	{"DICOM", 128, "DICM"}, {"NIfTI", 344, "n+1\x00"}, {"NIfTI", 4, "n+2\x00"}, {"gzip", 0, "\x1f\x8b"}, {"NRRD", 0, "NRRD"},
	{"JPEG 2000", 0, "\x00\x00\x00\x0cjP  "}, {"JPEG 2000", 0, "\xff\x4f\xff\x51"}, {"JPEG XL", 0, "\xff\x0a"},
	{"JPEG XL", 4, "JXL \r\n"}, {"AVIF", 4, "ftypavif"}, {"HEIF", 4, "ftyp"}, {"BigTIFF", 0, "II+\x00"}, {"BigTIFF", 0, "MM\x00+"},
	{"PDF", 0, "%PDF"}, {"ZIP", 0, "PK\x03\x04"}, {"PSD", 0, "8BPS"}, {"OpenEXR", 0, "\x76\x2f\x31\x01"}, {"SVG", 0, "<svg"},
	{"XML", 0, "<?xml"}, {"HDF5", 0, "\x89HDF\r\n\x1a\n"}, {"NumPy", 0, "\x93NUMPY"}, {"ICO", 0, "\x00\x00\x01\x00"},
	{"PNM", 0, "P1\n"}, {"PNM", 0, "P2\n"}, {"PNM", 0, "P3\n"}, {"PNM", 0, "P4\n"}, {"PNM", 0, "P5\n"}, {"PNM", 0, "P6\n"},
	{"Git LFS pointer", 0, "version https://git-lfs"},
}

func prefix(magics ...string) func([]byte) bool {
	return func(b []byte) bool {
		for _, m := range magics {
			if bytes.HasPrefix(b, []byte(m)) {
				return true
			}
		}
		return false
	}
}

func read(r io.Reader, o Options) (*file, error) {
	if o.MaxPixels <= 0 {
		o.MaxPixels = defaultMaxPixels
	}
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	if w := o.Window; w != nil && !(w.High > w.Low && !math.IsInf(w.High-w.Low, 0)) {
		return nil, fmt.Errorf("imaging: a window needs Low < High, both finite: got %g and %g", w.Low, w.High)
	}
	f := &file{Options: o}
	var err error
	if f.data, err = io.ReadAll(io.LimitReader(r, o.MaxBytes+1)); err != nil {
		return nil, fmt.Errorf("imaging: %s: read: %w", o.Name, err)
	}
	if int64(len(f.data)) > o.MaxBytes {
		return nil, &LimitError{File: o.Name, Field: "bytes", Got: int64(len(f.data)), Limit: o.MaxBytes}
	}
	return f, nil
}

// open finds the format and reads the header.
func (f *file) open() (Config, decode, error) {
	if len(f.data) == 0 {
		return Config{}, nil, f.broken("file", "is empty")
	}
	for _, k := range formats {
		if k.match(f.data) {
			f.format = k.name
			c, d, err := k.open(f)
			if err != nil {
				return Config{}, nil, err
			}
			c.Format, c.Pages = k.name, max(c.Pages, 1)
			if f.Page < 0 || f.Page >= c.Pages {
				return Config{}, nil, f.broken("page", "%d was asked for, the file has 0 to %d", f.Page, c.Pages-1)
			}
			return c, d, nil
		}
	}
	const want = "want PNG, JPEG, GIF, BMP, TIFF or WebP"
	for _, k := range others {
		if len(f.data) >= k.at && bytes.HasPrefix(f.data[k.at:], []byte(k.magic)) {
			f.format = k.name
			return Config{}, nil, f.unsupported("format", "%s", want)
		}
	}
	return Config{}, nil, f.unsupported("format", "unknown first bytes % x, %s", f.data[:min(8, len(f.data))], want)
}

func (f *file) broken(field, msg string, args ...any) error {
	return &FormatError{File: f.Name, Format: f.format, Field: field, Msg: fmt.Sprintf(msg, args...)}
}

func (f *file) unsupported(field, msg string, args ...any) error {
	return &UnsupportedError{File: f.Name, Format: f.format, Field: field, Msg: fmt.Sprintf(msg, args...)}
}

// decodeError is a decoder's complaint about the pixels; the usual cause is named in plain words.
func (f *file) decodeError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return f.broken("pixels", "the file ends early, after %d bytes", len(f.data))
	}
	return f.broken("pixels", "%v", err)
}

// checkSize refuses sizes that are zero, above the limit, or more than the file could hold: bitsPerPixel is what a
// pixel takes before compression, and ratio the most that the compression can shrink.
func (f *file) checkSize(width, height int, bitsPerPixel, ratio float64) error {
	if width <= 0 || height <= 0 {
		return f.broken("size", "%s", sizeText(width, height))
	}
	if side := max(width, height); side > maxSide {
		return &LimitError{File: f.Name, Format: f.format, Field: fmt.Sprintf("longer side (%dx%d)", width, height), Got: int64(side), Limit: maxSide}
	}
	pixels := int64(width) * int64(height)
	if pixels > f.MaxPixels {
		return &LimitError{File: f.Name, Format: f.format, Field: fmt.Sprintf("pixels (%dx%d)", width, height), Got: pixels, Limit: f.MaxPixels}
	}
	if need := float64(pixels) * bitsPerPixel / 8 / ratio; need > float64(len(f.data)) {
		return f.broken("size", "%dx%d needs at least %.0f bytes, the file has %d", width, height, need, len(f.data))
	}
	return nil
}

// grey returns the mapping of deep grey values to levels, or the refusal.
func (f *file) grey(kind string) (func(float64) uint8, error) {
	switch {
	case f.Window != nil:
		return f.Window.level, nil
	case f.Grey16 == Clip:
		return clip8, nil
	}
	return nil, f.unsupported("grey levels", "%s", grey16Advice(kind))
}
