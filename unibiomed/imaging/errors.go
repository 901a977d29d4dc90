package imaging

import (
	"fmt"
	"strings"
)

// A FormatError is a file that is broken: truncated, or with fields that contradict each other or the file's size.
type FormatError struct {
	File   string // the name the caller gave, may be empty
	Format string // the detected format, such as "PNG", empty if none was
	Field  string // the part of the file that is wrong
	Msg    string // the values that disagree
}

func (e *FormatError) Error() string { return message(e.File, e.Format, e.Field, e.Msg) }

// An UnsupportedError is a file that may be fine but that this package does not read.
type UnsupportedError struct {
	File   string // the name the caller gave, may be empty
	Format string // the detected format, such as "DICOM", empty if unknown
	Field  string // the feature that is missing here
	Msg    string // its value, and what to do instead where that is known
}

func (e *UnsupportedError) Error() string { return message(e.File, e.Format, e.Field, e.Msg) }

// A LimitError is a file above a limit of Options.
type LimitError struct {
	File   string // the name the caller gave, may be empty
	Format string // the detected format
	Field  string // what is too large: "bytes", or "pixels" or "longer side" with the size
	Got    int64  // what the file has or claims
	Limit  int64  // what Options allow
}

func (e *LimitError) Error() string {
	return message(e.File, e.Format, e.Field, fmt.Sprintf("got %d, the limit is %d", e.Got, e.Limit))
}

// message joins the known parts, outermost first: file: format: field: what is wrong.
func message(parts ...string) string {
	known := []string{"imaging"}
	for _, p := range parts {
		if p != "" {
			known = append(known, p)
		}
	}
	return strings.Join(known, ": ")
}

func sizeText(width, height int) string {
	return fmt.Sprintf("width and height must be at least 1, got %dx%d", width, height)
}

func grey16Advice(kind string) string {
	return kind + " holds more than 256 levels, and clipping it to 0..255 turns most of a radiograph white: " +
		"give a window (the lowest and highest value to show), or export 8-bit images, or ask for clipping"
}
