package rle_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"image"
	"math"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
	"pgregory.net/rapid"
)

// parse reads rows of width characters, '#' is inside.
func parse(width int, rows string) *imaging.Mask {
	m := imaging.NewMask(width, len(rows)/width)
	for i := range rows {
		if rows[i] == '#' {
			m.Pix[i] = 1
		}
	}
	return m
}

// The strings, areas and boxes are those of pycocotools 2.0.
var cases = []struct {
	name   string
	width  int
	rows   string
	counts []uint32
	text   string
	area   uint64
	box    image.Rectangle
}{
	{"empty", 3, "......", []uint32{6}, "6", 0, image.Rectangle{}},
	{"full", 3, "######", []uint32{0, 6}, "06", 6, image.Rect(0, 0, 3, 2)},
	{"rectangle", 5, "......###..###......", []uint32{5, 2, 2, 2, 2, 2, 5}, "5220003", 6, image.Rect(1, 1, 4, 3)},
	{"run over the foot of a column", 5, ".#.............#....", []uint32{3, 2, 15}, "32?", 2, image.Rect(0, 0, 2, 4)},
	{"noise", 7, "##.#..#.#.##.#......#..####..##.####.#..##", nil, "0142NN24ML20N134ML", 22, image.Rect(0, 0, 7, 6)},
}

func TestEncode(t *testing.T) {
	for _, tt := range cases {
		t.Run(tt.name, func(t *testing.T) {
			m := parse(tt.width, tt.rows)
			r := rle.Encode(m)
			if tt.counts != nil {
				require.Equal(t, tt.counts, r.Counts)
			}
			require.Equal(t, tt.text, r.String())
			require.Equal(t, tt.area, r.Area())
			require.Equal(t, tt.box, r.Bounds())
			back, err := rle.Parse(tt.text, m.Width, m.Height)
			require.NoError(t, err)
			require.Equal(t, r, back)
			filled, err := back.Mask(0)
			require.NoError(t, err)
			require.Equal(t, m, filled)
		})
	}
}

// disk is a disk of radius 100 around (200, 150).
func disk(width, height int) *imaging.Mask {
	m := imaging.NewMask(width, height)
	for y := range height {
		for x := range width {
			if (x-200)*(x-200)+(y-150)*(y-150) < 100*100 {
				m.Pix[y*width+x] = 1
			}
		}
	}
	return m
}

func TestLargeAsPycocotools(t *testing.T) {
	sum := func(s string) string {
		b := sha256.Sum256([]byte(s))
		return hex.EncodeToString(b[:])
	}
	r := rle.Encode(disk(500, 300))
	require.Equal(t, "70a42be6a987505f1a35ccdc623fe54e964fb8b54086318e121a725063f89455", sum(r.String()))
	require.Equal(t, uint64(31397), r.Area())
	require.Equal(t, image.Rect(101, 51, 300, 250), r.Bounds())

	m := imaging.NewMask(2000, 2000)
	for y := 5; y < 1990; y++ {
		for x := 7; x < 1999; x++ {
			m.Pix[y*2000+x] = 1
		}
	}
	require.Equal(t, "5398d18efb45fd6d65fa03f5d432a2c909aa0e3102d9d44174d25c8dc426eafe", sum(rle.Encode(m).String()))
}

func TestBadInput(t *testing.T) {
	tests := []struct {
		name          string
		counts        string
		width, height int
		want          string
	}{
		{"too short", "32", 5, 4, "add up to 5 pixels, want 5*4 = 20"},
		{"too long", "6", 1, 1, "add up to 6"},
		{"nothing", "", 1, 1, "add up to 0"},
		{"cut number", "3o", 2, 2, "end inside a number"},
		{"not a character of it", "3 ", 2, 2, `character ' ' at 1`},
		{"negative", "N", 1, 1, "counts[0]: is -2"},
		{"endless number", "oooooooooooooooooooooooo", 1, 1, "more than 35 bits"},
		{"negative size", "0", -1, 1, "size"},
		{"size beyond 32 bits", "0", math.MaxInt, math.MaxInt, "size"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := rle.Parse(tt.counts, tt.width, tt.height)
			var f *rle.FormatError
			require.ErrorAs(t, err, &f)
			require.ErrorContains(t, err, tt.want)
		})
	}
	// A valid encoding of four billion pixels is eight characters; its pixels are refused.
	r := rle.RLE{Width: 65536, Height: 65535, Counts: []uint32{65536 * 65535}}
	require.NoError(t, r.Validate())
	_, err := r.Mask(0)
	require.ErrorContains(t, err, "the limit is 178956970")
}

func TestJSON(t *testing.T) {
	r := rle.Encode(parse(5, "......###..###......"))
	b, err := json.Marshal(r)
	require.NoError(t, err)
	require.JSONEq(t, `{"size":[4,5],"counts":"5220003"}`, string(b))
	for _, text := range []string{string(b), `{"size":[4,5],"counts":[5,2,2,2,2,2,5]}`} {
		var back rle.RLE
		require.NoError(t, json.Unmarshal([]byte(text), &back))
		require.Equal(t, r, back)
	}
	for _, text := range []string{`{}`, `{"size":[4],"counts":"6"}`, `{"size":[2,3],"counts":7}`, `{"size":[2,3],"counts":[7]}`, `{"size":[2,3],"counts":[-6]}`, `{"size":[2,3]}`, `{"size":"x"}`} {
		var back rle.RLE
		err := json.Unmarshal([]byte(text), &back)
		var f *rle.FormatError
		require.ErrorAs(t, err, &f, text)
	}
}

func TestRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := imaging.NewMask(rapid.IntRange(0, 30).Draw(t, "width"), rapid.IntRange(0, 30).Draw(t, "height"))
		for i := range m.Pix {
			m.Pix[i] = uint8(rapid.IntRange(0, 1).Draw(t, "pixel"))
		}
		r := rle.Encode(m)
		back, err := rle.Parse(r.String(), m.Width, m.Height)
		require.NoError(t, err)
		require.Equal(t, r, back)
		filled, err := back.Mask(0)
		require.NoError(t, err)
		require.Equal(t, m, filled)
		require.Equal(t, uint64(m.Area()), r.Area())
		require.Equal(t, m.Bounds(), r.Bounds())
	})
}

// Any valid run lengths survive the string, whether or not Encode would make them.
func TestStringRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		counts := rapid.SliceOfN(rapid.OneOf(rapid.Uint32Range(0, 3), rapid.Uint32Range(0, 1<<28)), 1, 12).Draw(t, "counts")
		sum := 0
		for _, n := range counts {
			sum += int(n)
		}
		r := rle.RLE{Width: sum, Height: 1, Counts: counts}
		back, err := rle.Parse(r.String(), sum, 1)
		require.NoError(t, err)
		require.Equal(t, r, back)
	})
}

func FuzzParse(f *testing.F) {
	for _, tt := range cases {
		f.Add(tt.text, tt.width, len(tt.rows)/tt.width)
	}
	f.Add("oooooo", 3, 3)
	f.Add("PPYo0", 1<<20, 1<<20)
	f.Fuzz(func(t *testing.T, counts string, width, height int) {
		r, err := rle.Parse(counts, width, height)
		if err != nil {
			require.IsType(t, &rle.FormatError{}, err)
			return
		}
		m, err := r.Mask(1 << 16)
		if err != nil {
			return
		}
		require.Equal(t, r.Area(), uint64(m.Area()))
		require.Equal(t, r.Bounds(), m.Bounds())
		again, err := rle.Encode(m).Mask(0)
		require.NoError(t, err)
		require.Equal(t, m, again)
	})
}

func BenchmarkEncode(b *testing.B) {
	m := disk(1024, 1024)
	b.SetBytes(1024 * 1024)
	b.ReportAllocs()
	for b.Loop() {
		rle.Encode(m)
	}
}
