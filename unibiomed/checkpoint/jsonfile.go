package checkpoint

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
)

// maxConfig limits configuration files; tokenizer files have a limit of their own.
const maxConfig = 4 << 20

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, &os.PathError{Op: "read", Path: path, Err: errors.New("not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, fileerr.Unsupported(path, "size", fmt.Sprintf("more than %d bytes", limit), fmt.Sprintf("at most %d", limit))
	}
	return data, nil
}

// An object is a JSON object of a configuration file. Its methods read a field; a field that is absent or null yields the
// fallback, one of a wrong kind or out of its range is noted in problems, and names that nothing asks for are ignored.
type object struct {
	file, prefix string
	fields       map[string]any
	problems     *[]error
}

// parseObject reads a whole configuration file.
func parseObject(file string, data []byte, problems *[]error) (object, error) {
	v, err := strictjson.Parse(data)
	if err != nil {
		return object{}, strictjson.Problem(file, "json", err, "a JSON object")
	}
	fields, ok := v.(map[string]any)
	if !ok {
		return object{}, fileerr.Format(file, "json", strictjson.Describe(v), "an object")
	}
	return object{file: file, fields: fields, problems: problems}, nil
}

func (o object) bad(name string, got any, want string) {
	*o.problems = append(*o.problems, &FormatError{File: o.file, Field: o.prefix + name, Got: strictjson.Describe(got), Want: want})
}

func (o object) unsupported(name string, got any, want string) {
	*o.problems = append(*o.problems, &UnsupportedError{File: o.file, Field: o.prefix + name, Got: strictjson.Describe(got), Want: want})
}

func (o object) has(name string) bool { return o.fields[name] != nil }

// object returns a member that is an object; absent, an empty one.
func (o object) object(name string) object {
	child := object{o.file, o.prefix + name + ".", nil, o.problems}
	if v := o.fields[name]; v != nil {
		var ok bool
		if child.fields, ok = v.(map[string]any); !ok {
			o.bad(name, v, "an object")
		}
	}
	return child
}

// required is the fallback of a field that must be there.
const required = math.MinInt

// int returns a whole number of a range; 2.0 is one.
func (o object) int(name string, fallback, least, most int) int {
	v := o.fields[name]
	if v == nil {
		if fallback == required {
			o.bad(name, "nothing", fmt.Sprintf("a whole number from %d to %d", least, most))
			return least
		}
		return fallback
	}
	if n, ok := whole(v); ok && n >= least && n <= most {
		return n
	}
	o.bad(name, v, fmt.Sprintf("a whole number from %d to %d", least, most))
	return least
}

func whole(v any) (int, bool) {
	n, ok := v.(json.Number)
	if !ok {
		return 0, false
	}
	f, err := n.Float64()
	if err != nil || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int(f), true
}

// float returns a finite number of a range.
func (o object) float(name string, fallback, least, most float64) float64 {
	v := o.fields[name]
	if v == nil {
		return fallback
	}
	if n, ok := v.(json.Number); ok {
		if f, err := n.Float64(); err == nil && f >= least && f <= most {
			return f
		}
	}
	o.bad(name, v, fmt.Sprintf("a number from %g to %g", least, most))
	return fallback
}

func (o object) bool(name string, fallback bool) bool {
	switch v := o.fields[name].(type) {
	case nil:
		return fallback
	case bool:
		return v
	default:
		o.bad(name, v, "true or false")
		return fallback
	}
}

func (o object) string(name, fallback string) string {
	switch v := o.fields[name].(type) {
	case nil:
		return fallback
	case string:
		return v
	default:
		o.bad(name, v, "a string")
		return fallback
	}
}

// ints returns an array of whole numbers; count < 0 takes any number of them up to 1024.
func (o object) ints(name string, fallback []int, count, least, most int) []int {
	v := o.fields[name]
	if v == nil {
		return fallback
	}
	want := fmt.Sprintf("%d whole numbers from %d to %d", count, least, most)
	if count < 0 {
		want = strings.TrimPrefix(want, fmt.Sprint(count, " "))
	}
	a, ok := v.([]any)
	if !ok || (count >= 0 && len(a) != count) || len(a) > 1024 {
		o.bad(name, v, want)
		return fallback
	}
	out := make([]int, len(a))
	for i, e := range a {
		if out[i], ok = whole(e); !ok || out[i] < least || out[i] > most {
			o.bad(fmt.Sprintf("%s[%d]", name, i), e, want)
			return fallback
		}
	}
	return out
}
