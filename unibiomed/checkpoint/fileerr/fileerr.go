// Package fileerr holds the two failures that reading a model or a checkpoint can meet. The packages safetensors, gguf and
// checkpoint name them as their own: a caller asks with errors.As for *checkpoint.FormatError or *checkpoint.UnsupportedError.
package fileerr

import (
	"fmt"
	"strconv"
	"strings"
	"unicode/utf8"
)

// A FormatError says that a file is broken, or that two places which must agree do not.
type FormatError struct {
	File  string // the file's name, or its path
	Field string // the key, tensor or part of the file
	Got   string // what stands there
	Want  string // what it disagrees with
}

// An UnsupportedError says that a file is sound, but of a kind that this version does not read.
type UnsupportedError struct {
	File, Field string
	Got         string // what the file asks for
	Want        string // what is read
}

func (e *FormatError) Error() string { return message(e.File, e.Field, e.Got, e.Want) }
func (e *UnsupportedError) Error() string {
	return message(e.File, e.Field, e.Got, e.Want) + " (unsupported)"
}

func message(file, field, got, want string) string {
	var b strings.Builder
	b.WriteString(file)
	if field != "" {
		b.WriteString(": " + field)
	}
	b.WriteString(": got " + got)
	if want != "" {
		b.WriteString(", want " + want)
	}
	return b.String()
}

// Format makes a FormatError; got and want are printed as %v prints them.
func Format(file, field string, got, want any) *FormatError {
	return &FormatError{File: file, Field: field, Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
}

// Unsupported makes an UnsupportedError.
func Unsupported(file, field string, got, want any) *UnsupportedError {
	return &UnsupportedError{File: file, Field: field, Got: fmt.Sprint(got), Want: fmt.Sprint(want)}
}

// Quote quotes a string that came from a file, cut to a length that an error message can carry.
func Quote(s string) string {
	const most = 80
	if len(s) > most {
		cut := most
		for cut > 0 && !utf8.RuneStart(s[cut]) {
			cut--
		}
		return strconv.Quote(s[:cut]) + "..."
	}
	return strconv.Quote(s)
}
