package strictjson

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestParse(t *testing.T) {
	tests := []struct {
		name, text string
		want       any
		fails      string // a part of the error; empty: it reads
	}{
		{name: "every kind", text: ` {"a": [1, "b", true, null, {}], "A": -2.5e3} `, want: map[string]any{
			"a": []any{json.Number("1"), "b", true, nil, map[string]any{}}, "A": json.Number("-2.5e3")}},
		{name: "a scalar", text: `"x"`, want: "x"},
		{name: "nothing", text: ``, fails: "unexpected EOF"},
		{name: "cut object", text: `{"a":1`, fails: "unexpected EOF"},
		{name: "cut array", text: `[1,`, fails: "EOF"},
		{name: "wrong bracket", text: `[1}`, fails: "invalid character"},
		{name: "name twice", text: `{"a":1,"b":2,"a":3}`, fails: `name "a" stands twice`},
		{name: "name twice within", text: `[{"x":{"a":1,"a":1}}]`, fails: `name "a" stands twice`},
		{name: "two documents", text: `{} {}`, fails: "got an object after the document's end"},
		{name: "deep", text: strings.Repeat("[", 65) + strings.Repeat("]", 65), fails: "deeper than 64"},
		{name: "unquoted name", text: `{a:1}`, fails: "invalid character"},
		{name: "many values", text: "[" + strings.Repeat("0,", maxValues) + "0]", fails: "more than 1048576 values"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Parse([]byte(tt.text))
			if tt.fails != "" {
				require.ErrorContains(t, err, tt.fails)
				return
			}
			require.NoError(t, err)
			require.Equal(t, tt.want, v)
		})
	}
}

func TestTypes(t *testing.T) {
	read := func(text string, f func(d *Decoder) error) error { return f(NewDecoder(strings.NewReader(text))) }
	str := func(d *Decoder) error { _, err := d.String(); return err }
	boolean := func(d *Decoder) error { _, err := d.Bool(); return err }
	integer := func(d *Decoder) error { _, err := d.Int(100); return err }
	object := func(d *Decoder) error { return d.Object(func(string) error { return d.Skip() }) }
	array := func(d *Decoder) error { return d.Array(func(int) error { return d.Skip() }) }
	pair := func(d *Decoder) error { _, err := d.Strings(2); return err }
	tests := []struct {
		name, text string
		read       func(d *Decoder) error
		fails      string
	}{
		{"string", `"a"`, str, ""},
		{"string for a number", `1`, str, "got 1, want a string"},
		{"bool", `true`, boolean, ""},
		{"bool for a text", `"true"`, boolean, `got "true" (a string), want true or false`},
		{"whole number", `100`, integer, ""},
		{"too large", `101`, integer, "got 101, want a whole number from 0 to 100"},
		{"fraction", `1.5`, integer, "got 1.5"},
		{"beyond 64 bits", `1e400`, integer, "got 1e400"},
		{"object skips anything", `{"a":[[{"b":[]}]],"c":1}`, object, ""},
		{"object for a list", `[]`, object, "got an array, want an object"},
		{"array skips anything", `[{"a":{}},[1,[2]]]`, array, ""},
		{"array for null", `null`, array, "got null, want an array"},
		{"skip is limited too", `{"a":` + strings.Repeat("[", 70) + strings.Repeat("]", 70) + `}`, object, "deeper than 64"},
		{"pair", `["a","b"]`, pair, ""},
		{"or a string", `"a b"`, pair, ""},
		{"short pair", `["a"]`, pair, "got an array with ], want"},
		{"long pair", `["a","b","c"]`, pair, "got a longer array"},
		{"pair of numbers", `[1,2]`, pair, "got an array with 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := read(tt.text, tt.read)
			if tt.fails == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, tt.fails)
			}
		})
	}
}
