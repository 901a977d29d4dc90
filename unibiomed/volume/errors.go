package volume

import (
	"fmt"
	"strings"
)

// A FormatError says that a file is broken: it breaks the rules of its format or contradicts itself.
type FormatError struct {
	Format  string // the package that read it: dicom, nifti, nrrd or mha
	File    string // as the caller named it
	Field   string // the header field, such as "dim[3]" or "(0028,0010) Rows"
	Problem string // with the values that disagree; never a patient's data
}

func (e *FormatError) Error() string { return describe(e.Format, e.File, e.Field, e.Problem) }

// An UnsupportedError says that a file may be whole, but holds something that is not read here.
type UnsupportedError struct {
	Format  string
	File    string
	Feature string // the thing by name, such as a transfer syntax UID
}

func (e *UnsupportedError) Error() string {
	return describe(e.Format, e.File, "", e.Feature+" is not supported")
}

// A LimitError says that reading a file would need more than the caller's limits allow.
type LimitError struct {
	Format string
	File   string
	Field  string
	Want   int64 // what the file asks for
	Limit  int64
}

func (e *LimitError) Error() string {
	return describe(e.Format, e.File, e.Field, fmt.Sprintf("needs %d, the limit is %d", e.Want, e.Limit))
}

// InFile names format and file in an error of this package that a reading function made without knowing them; others pass unchanged.
func InFile(err error, format, file string) error {
	switch e := err.(type) {
	case *FormatError:
		e.Format, e.File = format, file
	case *UnsupportedError:
		e.Format, e.File = format, file
	case *LimitError:
		e.Format, e.File = format, file
	}
	return err
}

// A FramesError warns that a file holds more images than the one that was read.
type FramesError struct {
	Format        string
	Frame, Frames int
}

func (e *FramesError) Error() string {
	return fmt.Sprintf("%s: read image %d of %d", e.Format, e.Frame, e.Frames)
}

func describe(parts ...string) string {
	kept := parts[:0:0]
	for _, p := range parts {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, ": ")
}

// Limits bound what reading one file may cost. The zero value is ready to use.
type Limits struct {
	// Bytes of voxels (after decompression) that one volume or one frame may take. It defaults to 4 GiB.
	Bytes int64
}

// MaxBytes returns Bytes or its default.
func (l Limits) MaxBytes() int64 {
	if l.Bytes > 0 {
		return l.Bytes
	}
	return 4 << 30
}

// ReadOptions choose what the readers of volume files take from one. The zero value is ready to use.
type ReadOptions struct {
	Limits
	// Frame is the image to read of a file that holds several (time points, directions, layers, components), counted from 0 over
	// all dimensions after those of space.
	Frame int
}
