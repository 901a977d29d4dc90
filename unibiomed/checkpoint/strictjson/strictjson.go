// Package strictjson walks a JSON document token by token. Unlike encoding/json it takes names as they are written, refuses a
// name that an object holds twice, and limits depth and numbers of values; what is skipped needs no memory.
package strictjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
)

const (
	maxDepth  = 64
	maxValues = 1 << 20 // names of an object, and values that Value returns of a document
)

// A Decoder reads one document. It is for one goroutine.
type Decoder struct {
	j      *json.Decoder
	depth  int
	values int
}

// NewDecoder returns a Decoder of the document that r holds.
func NewDecoder(r io.Reader) *Decoder {
	j := json.NewDecoder(r)
	j.UseNumber()
	return &Decoder{j: j}
}

// A TypeError says that a value is not of the kind asked for.
type TypeError struct{ Got, Want string }

func (e *TypeError) Error() string { return "got " + e.Got + ", want " + e.Want }

// Problem makes a FormatError of what reading a file's document returned. An error of package fileerr stays as it is.
func Problem(file, field string, err error, want string) error {
	var format *fileerr.FormatError
	var unsupported *fileerr.UnsupportedError
	var kind *TypeError
	switch {
	case errors.As(err, &format), errors.As(err, &unsupported):
		return err
	case errors.As(err, &kind):
		return &fileerr.FormatError{File: file, Field: field, Got: kind.Got, Want: kind.Want}
	}
	return &fileerr.FormatError{File: file, Field: field, Got: err.Error(), Want: want}
}

// Token reads the next token: a json.Delim, string, json.Number, bool or nil.
func (d *Decoder) Token() (json.Token, error) {
	t, err := d.j.Token()
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}

func (d *Decoder) open(want json.Delim, kind string) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	if t != want {
		return &TypeError{Describe(t), kind}
	}
	if d.depth++; d.depth > maxDepth {
		return fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	return nil
}

// Object reads an object. It calls each once a member, after the name; each must read the value.
func (d *Decoder) Object(each func(name string) error) error {
	if err := d.open('{', "an object"); err != nil {
		return err
	}
	return d.members(each)
}

func (d *Decoder) members(each func(name string) error) error {
	names := map[string]struct{}{}
	for d.j.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name, ok := t.(string)
		if !ok {
			return &TypeError{Describe(t), "a name"}
		}
		if _, twice := names[name]; twice {
			return fmt.Errorf("name %s stands twice", fileerr.Quote(name))
		}
		if names[name] = struct{}{}; len(names) > maxValues {
			return fmt.Errorf("an object of more than %d names", maxValues)
		}
		if err := each(name); err != nil {
			return err
		}
	}
	d.depth--
	_, err := d.Token()
	return err
}

// Array reads an array. It calls each once an element, which each must read.
func (d *Decoder) Array(each func(i int) error) error {
	if err := d.open('[', "an array"); err != nil {
		return err
	}
	return d.elements(each)
}

func (d *Decoder) elements(each func(i int) error) error {
	for i := 0; d.j.More(); i++ {
		if err := each(i); err != nil {
			return err
		}
	}
	d.depth--
	_, err := d.Token()
	return err
}

// Value reads any value: map[string]any, []any, string, json.Number, bool or nil.
func (d *Decoder) Value() (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if d.values++; d.values > maxValues {
		return nil, fmt.Errorf("more than %d values", maxValues)
	}
	delim, ok := t.(json.Delim)
	if !ok {
		return t, nil
	}
	if d.depth++; d.depth > maxDepth {
		return nil, fmt.Errorf("nested deeper than %d levels", maxDepth)
	}
	switch delim {
	case '{':
		m := map[string]any{}
		err := d.members(func(name string) (err error) {
			m[name], err = d.Value()
			return err
		})
		return m, err
	case '[':
		var a []any
		err := d.elements(func(int) error {
			v, err := d.Value()
			a = append(a, v)
			return err
		})
		return a, err
	}
	return nil, errors.New("unexpected " + delim.String())
}

// Skip reads a value and drops it.
func (d *Decoder) Skip() error {
	level := 0
	for {
		t, err := d.Token()
		if err != nil {
			return err
		}
		switch t {
		case json.Delim('{'), json.Delim('['):
			level++
		case json.Delim('}'), json.Delim(']'):
			level--
		}
		if level == 0 {
			return nil
		}
		if d.depth+level > maxDepth {
			return fmt.Errorf("nested deeper than %d levels", maxDepth)
		}
	}
}

// String reads a string.
func (d *Decoder) String() (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	s, ok := t.(string)
	if !ok {
		return "", &TypeError{Describe(t), "a string"}
	}
	return s, nil
}

// Strings reads a string, which it returns alone, or an array of count strings.
func (d *Decoder) Strings(count int) ([]string, error) {
	want := fmt.Sprintf("a string, or an array of %d", count)
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	if s, ok := t.(string); ok {
		return []string{s}, nil
	}
	if t != json.Delim('[') {
		return nil, &TypeError{Describe(t), want}
	}
	var out []string
	for range count {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		s, ok := t.(string)
		if !ok {
			return nil, &TypeError{"an array with " + Describe(t), want}
		}
		out = append(out, s)
	}
	if d.j.More() {
		return nil, &TypeError{"a longer array", want}
	}
	_, err = d.Token()
	return out, err
}

// Int reads a whole number from 0 to most.
func (d *Decoder) Int(most int64) (int64, error) {
	t, err := d.Token()
	if err != nil {
		return 0, err
	}
	if n, ok := t.(json.Number); ok {
		if i, err := n.Int64(); err == nil && i >= 0 && i <= most {
			return i, nil
		}
	}
	return 0, &TypeError{Describe(t), fmt.Sprintf("a whole number from 0 to %d", most)}
}

// Bool reads true or false.
func (d *Decoder) Bool() (bool, error) {
	t, err := d.Token()
	if err != nil {
		return false, err
	}
	b, ok := t.(bool)
	if !ok {
		return false, &TypeError{Describe(t), "true or false"}
	}
	return b, nil
}

// End reports an error when anything but white space follows the document.
func (d *Decoder) End() error {
	if t, err := d.j.Token(); err != io.EOF {
		if err != nil {
			return err
		}
		return fmt.Errorf("got %s after the document's end", Describe(t))
	}
	return nil
}

// Parse reads a whole document as Value does.
func Parse(data []byte) (any, error) {
	d := NewDecoder(bytes.NewReader(data))
	v, err := d.Value()
	if err == nil {
		err = d.End()
	}
	return v, err
}

// Describe names a value and its kind for an error message.
func Describe(v any) string {
	switch v := v.(type) {
	case nil:
		return "null"
	case string:
		return fileerr.Quote(v) + " (a string)"
	case json.Number:
		s := v.String()
		if len(s) > 40 {
			s = s[:40] + "..."
		}
		return s
	case bool, int:
		return fmt.Sprint(v)
	case map[string]any:
		return "an object"
	case []any:
		return fmt.Sprintf("an array of %d", len(v))
	case json.Delim:
		if v == '{' {
			return "an object"
		} else if v == '[' {
			return "an array"
		}
		return v.String()
	}
	return fmt.Sprintf("%T", v)
}
