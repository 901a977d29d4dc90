// Package dicom reads medical images from DICOM files and folders, and writes DICOM files.
//
// Its reader of data sets is its own. The general libraries allocate what a length field claims before they look at how
// much file there is, load every value, and decode pixels in formats of their own choosing; here a file is hostile until
// shown otherwise, folders hold thousands of files of which only headers matter, and a frame is read when it is needed.
// What is read: transfer syntaxes implicit and explicit VR, little and big endian, deflated, RLE, JPEG baseline, extended
// (12 bits) and lossless, and those that a registered [Codec] decodes (JPEG-LS, JPEG 2000, HTJ2K).
//
// No error and no log of this package holds anything that identifies a patient, a study or an instance, except the path that
// the caller gave.
package dicom

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Transfer syntaxes that decide how a data set is read.
const (
	ImplicitLittle = "1.2.840.10008.1.2"
	ExplicitLittle = "1.2.840.10008.1.2.1"
	Deflated       = "1.2.840.10008.1.2.1.99"
	ExplicitBig    = "1.2.840.10008.1.2.2"
	GEPrivate      = "1.2.840.113619.5.2" // implicit little endian with big-endian pixels
)

// maxInflated bounds what a deflated data set may unpack to: 512 MiB, which stay in memory.
const maxInflated = 512 << 20

// A File is a DICOM file whose header has been read. Values longer than 64 KiB, pixel data above all, are read from the
// file when they are asked for; the file is closed in between. It is safe for concurrent use.
type File struct {
	Path     string
	Meta     *Dataset // group 0002; empty in a file without one
	Data     *Dataset
	Syntax   string // transfer syntax UID
	Warnings []error

	inflated []byte // the data set of a deflated file
}

// Open reads the header of the file at path. Errors are of the types of package volume, or of package os.
func Open(path string) (*File, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	info, err := r.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, named(unsupported("a %v that is no regular file", info.Mode().Type()), path)
	}
	f, err := parse(r, info.Size())
	if err != nil {
		return nil, named(err, path)
	}
	f.Path = path
	return f, nil
}

// parse reads a file of which nothing is known but its bytes.
func parse(r io.ReaderAt, size int64) (*File, error) {
	f := &File{Meta: &Dataset{order: binary.LittleEndian}}
	p := &parser{r: r, size: size, order: binary.LittleEndian, explicit: true}
	at := int64(0)
	if b, err := p.bytes(0, 132); err == nil && string(b[128:132]) == "DICM" {
		at = 132
	} else if b, err := p.bytes(0, 4); err == nil && string(b) == "DICM" {
		at = 4
	}
	start := at
	b, err := p.bytes(at, 8)
	if err != nil {
		return nil, broken("header", "%d bytes are too few for a data set", size)
	}
	if binary.LittleEndian.Uint16(b) == 2 {
		p.explicit = isVR(b[4:6])
		if f.Meta, at, err = p.dataset(at, size, 0, func(t Tag) bool { return t>>16 != 2 }); err != nil {
			return nil, err
		}
		f.Syntax = f.Meta.Text(TransferSyntaxUID)
	}
	if f.Syntax == "" {
		// No syntax is named: the first element shows it, if this is DICOM at all.
		if b, err = p.bytes(at, 8); err != nil {
			return nil, broken("header", "there is no data set")
		}
		little, big := binary.LittleEndian.Uint16(b), binary.BigEndian.Uint16(b)
		switch {
		case plausibleGroup(little) && isVR(b[4:6]):
			f.Syntax = ExplicitLittle
		case plausibleGroup(big) && isVR(b[4:6]):
			f.Syntax = ExplicitBig
		case plausibleGroup(little) && (start > 0 || binary.LittleEndian.Uint32(b[4:]) < 1<<16):
			f.Syntax = ImplicitLittle
		default:
			return nil, broken("header", "neither the mark DICM nor a first element")
		}
		f.Warnings = append(f.Warnings, fmt.Errorf("dicom: the file names no transfer syntax; read as %s", f.Syntax))
	}
	p.order, p.explicit = binary.LittleEndian, true
	switch f.Syntax {
	case ImplicitLittle, GEPrivate:
		p.explicit = false
	case ExplicitBig:
		p.order = binary.BigEndian
	case Deflated, "1.2.840.10008.1.2.4.95", "1.2.840.10008.1.2.8.1":
		// Deflate cannot shrink more than 1032 times, which bounds small files; the constant bounds the rest.
		limit := min(maxInflated, 1032*(size-at))
		z := flate.NewReader(io.NewSectionReader(r, at, size-at))
		f.inflated, err = io.ReadAll(io.LimitReader(z, limit+1))
		if int64(len(f.inflated)) > limit {
			return nil, &volume.LimitError{Field: "deflated data set", Want: int64(len(f.inflated)), Limit: limit}
		}
		if err != nil && len(f.inflated) == 0 {
			return nil, broken("deflated data set", "%v", err)
		}
		p, at = &parser{r: bytes.NewReader(f.inflated), size: int64(len(f.inflated)), order: binary.LittleEndian, explicit: true}, 0
	}
	if f.Syntax == ImplicitLittle || f.Syntax == ExplicitLittle {
		// Writers exist that mix the two up; the first element shows it.
		if b, err := p.bytes(at, 8); err == nil && p.explicit != isVR(b[4:6]) && (p.explicit || plausibleVR(b[4:6])) {
			p.explicit = !p.explicit
			f.Warnings = append(f.Warnings, fmt.Errorf("dicom: the data set is not in the transfer syntax %s that the file names", f.Syntax))
			f.Syntax = map[bool]string{true: ExplicitLittle, false: ImplicitLittle}[p.explicit]
		}
	}
	f.Data, _, err = p.dataset(at, p.size, 0, nil)
	return f, err
}

func plausibleGroup(g uint16) bool { return g == 2 || g == 4 || g == 8 }

// plausibleVR tells a VR from the first bytes of a length that happen to be letters.
func plausibleVR(b []byte) bool {
	switch string(b) {
	case "CS", "UI", "UL", "SH", "LO", "DA", "TM", "DT", "PN", "US", "SQ", "IS", "DS", "AE":
		return true
	}
	return false
}

// read calls fn with the bytes that the elements of f.Data point into.
func (f *File) read(fn func(io.ReaderAt) error) error {
	if f.inflated != nil {
		return fn(bytes.NewReader(f.inflated))
	}
	r, err := os.Open(f.Path)
	if err != nil {
		return err
	}
	defer r.Close()
	return fn(r)
}

// value returns the value of an element, however long: at most most bytes.
func (f *File) value(e *Element, most int64) (b []byte, err error) {
	if e == nil || e.Value != nil || e.length == 0 || e.Items != nil {
		if e == nil {
			return nil, nil
		}
		return e.Value, nil
	}
	if e.length > most {
		return nil, broken(e.Tag.String(), "%d bytes, want at most %d", e.length, most)
	}
	err = f.read(func(r io.ReaderAt) error {
		b, err = readSpan(r, span{e.at, e.length})
		return err
	})
	return b, err
}
