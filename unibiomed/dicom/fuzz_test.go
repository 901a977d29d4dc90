package dicom

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// el is an element of explicit VR, little endian, with a value padded to even length.
func el(t Tag, vr, value string) []byte {
	if len(value)%2 == 1 {
		value += " "
	}
	b := binary.LittleEndian.AppendUint16(nil, uint16(t>>16))
	b = binary.LittleEndian.AppendUint16(b, uint16(t))
	b = append(b, vr...)
	if hasLongLength(vr) {
		b = binary.LittleEndian.AppendUint32(append(b, 0, 0), uint32(len(value)))
	} else {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	}
	return append(b, value...)
}

func us(t Tag, x uint16) []byte {
	return el(t, "US", string(binary.LittleEndian.AppendUint16(nil, x)))
}

// part10 joins elements to a file of the given transfer syntax.
func part10(syntax string, elements ...[]byte) []byte {
	b := append(make([]byte, 128), "DICM"...)
	b = append(b, el(TransferSyntaxUID, "UI", syntax)...)
	return append(b, bytes.Join(elements, nil)...)
}

// tiny is a picture of 2x2 pixels of 16 bits; more is put before the pixels.
func tiny(more ...[]byte) []byte {
	return part10(ExplicitLittle, el(SOPInstanceUID, "UI", "1.2.3"), bytes.Join(more, nil),
		us(SamplesPerPixel, 1), el(PhotometricInterpretation, "CS", "MONOCHROME2"), us(Rows, 2), us(Columns, 2),
		us(BitsAllocated, 16), us(BitsStored, 12), us(HighBit, 11), us(PixelRepresentation, 0),
		el(PixelData, "OW", "\x01\x00\x02\xf0\x03\x00\xff\x0f"))
}

// encapsulated is a picture of one fragment.
func encapsulated(syntax string, bits uint16, fragment string) []byte {
	b := part10(syntax, us(SamplesPerPixel, 1), el(PhotometricInterpretation, "CS", "MONOCHROME2"), us(Rows, 2), us(Columns, 2),
		us(BitsAllocated, bits), us(PixelRepresentation, 0))
	b = append(b, "\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\x00\x00\x00\x00\xfe\xff\x00\xe0"...)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(fragment)))
	return append(append(b, fragment...), "\xfe\xff\xdd\xe0\x00\x00\x00\x00"...)
}

// rle2x2 is the frame 1, 2, 3, 3 of 8 bits.
var rle2x2 = "\x01\x00\x00\x00\x40\x00\x00\x00" + strings.Repeat("\x00", 56) + "\x01\x01\x02\xff\x03\x00"

// lies are files that must be refused, by what the error says.
func lies() map[string][]byte {
	sq := func(s string) []byte { return append([]byte("\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff"), s...) }
	deep := strings.Repeat("\xfe\xff\x00\xe0\xff\xff\xff\xff\x08\x00\x40\x11SQ\x00\x00\xff\xff\xff\xff", 100)
	item := "\xfe\xff\x00\xe0"
	return map[string][]byte{
		"neither the mark":       []byte(strings.Repeat("no DICOM ", 100)),
		"too few":                []byte("abc"),
		"there is no data set":   append(append(make([]byte, 128), "DICM"...), el(ImplementationVersionName, "SH", "x")...),
		"length 4294967280":      tiny(append(el(LUTExplanation, "UT", "")[:8], 0xf0, 0xff, 0xff, 0xff)),
		"length 60000":           tiny(append(el(Manufacturer, "LO", "")[:6], 0x60, 0xea)),
		"nested deeper":          tiny(sq(deep)),
		"item of 65535":          tiny(sq(item + "\xff\xff\x00\x00")),
		"where an item":          tiny(sq("\x08\x00\x40\x11\x00\x00\x00\x00")),
		"undefined length":       tiny([]byte("\x08\x00\x70\x00UT\x00\x00\xff\xff\xff\xff")),
		"a delimiter at":         tiny([]byte("\xfe\xff\x00\xe0\x00\x00\x00\x00")),
		"got 0, want 1":          part10(ExplicitLittle, us(Rows, 0), us(Columns, 2), us(BitsAllocated, 8), el(PixelData, "OW", "")),
		"missing or no number":   part10(ExplicitLittle, us(Columns, 2), us(BitsAllocated, 8), el(PixelData, "OW", "")),
		"got 17 of 16":           tiny(us(BitsStored, 17)),
		"got 3 with 12":          tiny(us(HighBit, 3)),
		"got 5, want 0 or 1":     tiny(us(PixelRepresentation, 5)),
		"room for 1":             tiny(el(NumberOfFrames, "IS", "1000000")),
		"want 1 to 1048576":      tiny(el(NumberOfFrames, "IS", "99999999")),
		"the element has 8":      tiny(us(Rows, 300)),
		"with RGB":               tiny(el(PhotometricInterpretation, "CS", "RGB")),
		"without pixels":         part10(ExplicitLittle, el(Modality, "CS", "SR")),
		"segments, want":         encapsulated("1.2.840.10008.1.2.5", 16, rle2x2),
		"holds 2 bytes, want 4":  encapsulated("1.2.840.10008.1.2.5", 8, rle2x2[:66]+"\x02\x00"),
		"start with SOI":         encapsulated("1.2.840.10008.1.2.4.50", 8, "no JPEG!"),
		"1.2.3.4":                encapsulated("1.2.3.4", 8, "whatever"),
		"MPEG-2":                 encapsulated("1.2.840.10008.1.2.4.100", 8, "whatever"),
		"got 0 numbers, want 3":  tiny(el(ModalityLUTSequence, "SQ", item+"\x00\x00\x00\x00")),
		"0 bytes for 10 entries": tiny(el(ModalityLUTSequence, "SQ", item+"\x0e\x00\x00\x00"+string(el(LUTDescriptor, "US", "\x0a\x00\x00\x00\x10\x00")))),
	}
}

func readAll(b []byte, o Options) error {
	f, err := parse(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		return err
	}
	f.inflated = b // stands in for the file
	if f.Syntax == Deflated {
		return nil
	}
	if _, err = f.Pixels(); err != nil {
		return err
	}
	stacks, err := f.Stacks(o)
	if err != nil {
		return err
	}
	for _, s := range stacks {
		if s.SliceLen() > 1<<20 {
			continue
		}
		if err := s.ReadSlice(0, make([]float32, s.SliceLen())); err != nil {
			return err
		}
	}
	return nil
}

func TestLies(t *testing.T) {
	for want, b := range lies() {
		require.ErrorContains(t, readAll(b, Options{}), want)
	}
	require.NoError(t, readAll(tiny(), Options{}))
	require.NoError(t, readAll(encapsulated("1.2.840.10008.1.2.5", 8, rle2x2), Options{}))
}

func TestDeflateBomb(t *testing.T) {
	// 1 KiB of deflated zeros after a first element, claimed to go on: the size of the file bounds what it may become.
	path := filepath.Join(t.TempDir(), "bomb.dcm")
	require.NoError(t, os.WriteFile(path, append(part10(Deflated), bytes.Repeat([]byte{0xff}, 1024)...), 0o600))
	_, err := Open(path)
	require.Error(t, err)
}

func TestUnusedBitsAreDropped(t *testing.T) {
	b := tiny()
	f, err := parse(bytes.NewReader(b), int64(len(b)))
	require.NoError(t, err)
	f.inflated = b
	d, _, err := f.Image(0, volume.Limits{})
	require.NoError(t, err)
	got := make([]float32, 4)
	d.Values(0, got)
	require.Equal(t, []float32{1, 2, 3, 4095}, got)
}

func FuzzFile(f *testing.F) {
	f.Add(tiny())
	f.Add(encapsulated("1.2.840.10008.1.2.5", 8, rle2x2))
	for _, b := range lies() {
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		readAll(b, Options{Limits: volume.Limits{Bytes: 1 << 22}})
	})
}

func FuzzRLE(f *testing.F) {
	f.Add([]byte(rle2x2), uint8(4), uint8(1), uint8(1))
	f.Fuzz(func(t *testing.T, b []byte, pixels, samples, size uint8) {
		if pixels == 0 || samples == 0 || samples > 3 || size == 0 || size > 4 {
			return
		}
		out, err := decodeRLE(b, int(pixels), int(samples), int(size))
		if err == nil && len(out) != int(pixels)*int(samples)*int(size) {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
