// Package nrrd reads NRRD files (.nrrd, and .nhdr with its data file) and writes segmentations (.seg.nrrd) as 3D Slicer
// keeps them.
//
// The format is defined at teem.sourceforge.net/nrrd/format.html. Read are all real number types, the encodings raw,
// gzip, bzip2, text and hex, and images of up to three axes with one more axis of colours, components or time.
package nrrd

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Options choose what Read takes from a file.
type Options = volume.ReadOptions

var types = map[string]volume.Type{
	"signed char": volume.Int8, "int8": volume.Int8, "int8_t": volume.Int8,
	"uchar": volume.Uint8, "unsigned char": volume.Uint8, "uint8": volume.Uint8, "uint8_t": volume.Uint8,
	"short": volume.Int16, "short int": volume.Int16, "signed short": volume.Int16, "signed short int": volume.Int16, "int16": volume.Int16, "int16_t": volume.Int16,
	"ushort": volume.Uint16, "unsigned short": volume.Uint16, "unsigned short int": volume.Uint16, "uint16": volume.Uint16, "uint16_t": volume.Uint16,
	"int": volume.Int32, "signed int": volume.Int32, "int32": volume.Int32, "int32_t": volume.Int32,
	"uint": volume.Uint32, "unsigned int": volume.Uint32, "uint32": volume.Uint32, "uint32_t": volume.Uint32,
	"longlong": volume.Int64, "long long": volume.Int64, "long long int": volume.Int64, "signed long long": volume.Int64, "signed long long int": volume.Int64, "int64": volume.Int64, "int64_t": volume.Int64,
	"ulonglong": volume.Uint64, "unsigned long long": volume.Uint64, "unsigned long long int": volume.Uint64, "uint64": volume.Uint64, "uint64_t": volume.Uint64,
	"float": volume.Float32, "double": volume.Float64,
}

const maxHeader = 4 << 20 // bytes: segmentations carry a few lines a segment

// A header is the fields of a file by their names in lower case, and its key/value pairs.
type header struct {
	fields map[string]string
	pairs  map[string]string
}

func broken(field, problem string, args ...any) error {
	return &volume.FormatError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

func unsupported(feature string, args ...any) error {
	return &volume.UnsupportedError{Feature: fmt.Sprintf(feature, args...)}
}

// named puts the file into an error of the reading functions below, which do not know it.
func named(err error, path string) error { return volume.InFile(err, "nrrd", path) }

// Read reads one image of the file at path. Errors are of the types of package volume, or of package os.
func Read(path string, o Options) (*volume.Volume, error) {
	f, size, err := volume.OpenRegular("nrrd", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	h, err := readHeader(r)
	if err != nil {
		return nil, named(err, path)
	}
	if name := h.fields["data file"]; name != "" {
		// A data file lies beside its header or below: a header is no licence to read anything else.
		first, _, _ := strings.Cut(name, " ")
		if first == "LIST" || strings.Contains(name, "%") {
			return nil, named(unsupported("data file %q (one file a slice)", first), path)
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, named(broken("data file", "the name leads out of the folder of the header"), path)
		}
		d, dsize, err := volume.OpenRegular("nrrd", filepath.Join(filepath.Dir(path), filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r, size = bufio.NewReaderSize(d, 1<<16), dsize
	}
	v, err := readImage(r, size, h, o)
	return v, named(err, path)
}

func readHeader(r *bufio.Reader) (*header, error) {
	h := &header{fields: map[string]string{}, pairs: map[string]string{}}
	left := maxHeader
	for n := 0; ; n++ {
		line, err := r.ReadSlice('\n')
		if err != nil && (err != io.EOF || n == 0) {
			return nil, broken("header", "line %d does not end within %d bytes: %v", n+1, r.Size(), err)
		}
		if left -= len(line); left < 0 {
			return nil, broken("header", "longer than %d bytes", maxHeader)
		}
		s := strings.TrimRight(string(line), "\r\n")
		if n == 0 {
			if len(s) != 8 || s[:7] != "NRRD000" || s[7] < '1' || s[7] > '5' {
				return nil, broken("magic", "got %.16q, want NRRD0001 to NRRD0005", s)
			}
			continue
		}
		if s == "" {
			return h, nil
		}
		if s[0] != '#' {
			colon := strings.IndexByte(s, ':')
			if colon < 0 || colon+1 >= len(s) {
				return nil, broken("header", "line %d is neither a field nor a comment", n+1)
			}
			if name := strings.ToLower(s[:colon]); s[colon+1] == '=' {
				h.pairs[s[:colon]] = s[colon+2:]
			} else {
				if alias, ok := aliases[name]; ok {
					name = alias
				}
				h.fields[name] = strings.TrimSpace(s[colon+1:])
			}
		}
		if err == io.EOF { // a detached header may end with its last line
			return h, nil
		}
	}
}

var aliases = map[string]string{"datafile": "data file", "byteskip": "byte skip", "lineskip": "line skip", "centers": "centerings"}

// A grid is how the axes of a file make an image.
type grid struct {
	typ      volume.Type
	sizes    []int64
	domain   []int // the axes in space, fastest first
	other    int   // the one axis that is not in space, or -1
	channels int   // 3 if the other axis is colours
}

func (h *header) grid() (g grid, err error) {
	name := strings.ToLower(h.fields["type"])
	if g.typ = types[name]; g.typ == 0 {
		if name == "block" {
			return g, unsupported("type block")
		}
		return g, broken("type", "got %q", name)
	}
	dim, err := strconv.Atoi(h.fields["dimension"])
	if err != nil || dim < 1 || dim > 16 {
		return g, broken("dimension", "got %q, want 1 to 16", h.fields["dimension"])
	}
	sizes := strings.Fields(h.fields["sizes"])
	if len(sizes) != dim {
		return g, broken("sizes", "got %d numbers, want %d", len(sizes), dim)
	}
	total := int64(g.typ.Size())
	for _, s := range sizes {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 || n > math.MaxInt32 || total > math.MaxInt64/2/n {
			return g, broken("sizes", "got %q, want positive numbers whose product fits", h.fields["sizes"])
		}
		total *= n
		g.sizes = append(g.sizes, n)
	}
	directions, kinds := vectors(h.fields["space directions"]), strings.Fields(strings.ToLower(h.fields["kinds"]))
	if h.fields["space directions"] != "" && len(directions) != dim {
		return g, broken("space directions", "got %d, want %d", len(directions), dim)
	}
	if h.fields["kinds"] != "" && len(kinds) != dim {
		return g, broken("kinds", "got %d, want %d", len(kinds), dim)
	}
	g.other = -1
	for i := range dim {
		space := true
		switch {
		case directions != nil:
			space = directions[i] != nil
		case len(kinds) > 0:
			space = kinds[i] == "domain" || kinds[i] == "space" || kinds[i] == "???" || kinds[i] == "none"
		}
		if space && len(g.domain) < 3 {
			g.domain = append(g.domain, i)
		} else if g.sizes[i] > 1 || g.other < 0 {
			if g.other >= 0 && g.sizes[g.other] > 1 {
				return g, unsupported("more than one axis (%d, %d) beside three in space", g.other, i)
			}
			g.other = i
		}
	}
	if len(g.domain) == 0 {
		return g, broken("kinds", "no axis is in space")
	}
	if g.other > g.domain[0] && g.other < g.domain[len(g.domain)-1] {
		return g, unsupported("an axis that is not in space (%d) between axes that are", g.other)
	}
	g.channels = 1
	if g.other == 0 && len(kinds) > 0 && (g.sizes[0] == 3 || g.sizes[0] == 4) && g.typ == volume.Uint8 {
		switch kinds[0] {
		case "rgb-color", "3-color", "rgba-color", "4-color", "vector", "3-vector", "4-vector":
			g.channels = 3
		}
	}
	return g, nil
}

// vectors splits "(1,0,0) none (0,1,0)"; none is nil, and an unreadable vector too long or short to be used is empty.
func vectors(s string) [][]float64 {
	var out [][]float64
	for s = strings.TrimSpace(s); s != ""; s = strings.TrimSpace(s) {
		if rest, ok := strings.CutPrefix(s, "none"); ok {
			out, s = append(out, nil), rest
			continue
		}
		end := strings.IndexByte(s, ')')
		if s[0] != '(' || end < 0 {
			return append(out, []float64{})
		}
		v := []float64{}
		for _, x := range strings.Split(s[1:end], ",") {
			f, err := strconv.ParseFloat(strings.TrimSpace(x), 64)
			if err != nil {
				v = v[:0]
				break
			}
			v = append(v, f)
		}
		out, s = append(out, v), s[end+1:]
	}
	return out
}

// axes has for each space that is one of the patient the signs that take it to LPS.
var axes = map[string]volume.Vec{
	"left-posterior-superior": {1, 1, 1}, "lps": {1, 1, 1},
	"right-anterior-superior": {-1, -1, 1}, "ras": {-1, -1, 1},
	"left-anterior-superior": {1, -1, 1}, "las": {1, -1, 1},
}

// place sets the affine from the axes in space.
func (h *header) place(v *volume.Volume, g grid) error {
	unplaced := func(why string) {
		v.Placed = false
		v.Warnings = append(v.Warnings, fmt.Errorf("nrrd: %s: left and right are unknown", why))
	}
	var step [3]volume.Vec
	var origin volume.Vec
	space := strings.ToLower(h.fields["space"])
	directions := vectors(h.fields["space directions"])
	if directions == nil {
		spacings := strings.Fields(h.fields["spacings"])
		for a := range 3 {
			step[a][a] = 1
			if a < len(g.domain) && g.domain[a] < len(spacings) {
				if f, err := strconv.ParseFloat(spacings[g.domain[a]], 64); err == nil && f != 0 && !math.IsNaN(f) {
					step[a][a] = math.Abs(f)
				}
			}
		}
		unplaced("the header has no space directions")
	} else {
		sign, known := axes[space]
		if !known {
			sign = volume.Vec{1, 1, 1}
		}
		for a, i := range g.domain {
			d := directions[i]
			if len(d) != 3 && !(len(d) == 2 && len(g.domain) == 2) {
				return broken("space directions", "axis %d: got %d numbers, want 3", i, len(d))
			}
			copy(step[a][:], d)
		}
		if o := vectors(h.fields["space origin"]); len(o) == 1 && len(o[0]) >= len(g.domain) && len(o[0]) <= 3 {
			copy(origin[:], o[0])
		} else if known {
			return broken("space origin", "got %q with space directions", h.fields["space origin"])
		}
		for a := range 3 {
			for r := range 3 {
				step[a][r] *= sign[r]
			}
			origin[a] *= sign[a]
		}
		if v.Placed = known; !known {
			unplaced(fmt.Sprintf("space %.40q is not one of the patient", space))
		}
		switch len(g.domain) { // a picture in space lies in the plane of its axes
		case 1:
			return unsupported("an image of one axis in space")
		case 2:
			step[2] = step[0].Cross(step[1]).Unit()
		}
	}
	if units := strings.Fields(h.fields["space units"]); len(units) > 0 {
		scale, ok := map[string]float64{"mm": 1, "m": 1000, "cm": 10, "um": 1e-3, "µm": 1e-3}[strings.Trim(units[0], `"`)]
		if ok {
			for a := range 3 {
				step[a], origin[a] = step[a].Scale(scale), origin[a]*scale
			}
		} else {
			v.Warnings = append(v.Warnings, fmt.Errorf("nrrd: space units %.20q were taken for mm", units[0]))
		}
	}
	v.Affine = volume.NewAffine(step[0], step[1], step[2], origin)
	if err := v.Affine.Check(); err != nil {
		return broken("space directions", "%v", err)
	}
	return nil
}

func readImage(r *bufio.Reader, size int64, h *header, o Options) (*volume.Volume, error) {
	g, err := h.grid()
	if err != nil {
		return nil, err
	}
	v := &volume.Volume{Dims: [3]int{1, 1, 1}, Channels: g.channels, Levels: g.channels == 3}
	frame := int64(g.typ.Size())
	for a, i := range g.domain {
		v.Dims[a] = int(g.sizes[i])
		frame *= g.sizes[i]
	}
	if err := h.place(v, g); err != nil {
		return nil, err
	}
	frames := int64(1)
	if g.other >= 0 {
		frames = g.sizes[g.other]
	}
	total := frame * frames // grid made sure that it fits
	if total > o.MaxBytes() {
		return nil, &volume.LimitError{Field: "sizes", Want: total, Limit: o.MaxBytes()}
	}
	if g.channels == 1 {
		if o.Frame < 0 || int64(o.Frame) >= frames {
			return nil, broken("sizes", "image %d was asked for, the file has %d", o.Frame, frames)
		}
		if frames > 1 {
			v.Warnings = append(v.Warnings, &volume.FramesError{Format: "nrrd", Frame: o.Frame, Frames: int(frames)})
		}
	}
	b, err := h.decode(r, size, g.typ, total)
	if err != nil {
		return nil, err
	}
	switch {
	case g.channels == 3:
		b = volume.PickSamples(b, 1, int(frames), 0, 3)
		if frames == 4 {
			v.Warnings = append(v.Warnings, fmt.Errorf("nrrd: the alpha channel was left out"))
		}
	case g.other == 0:
		b = volume.PickSamples(b, g.typ.Size(), int(frames), o.Frame, 1)
	case g.other > 0:
		b = b[int64(o.Frame)*frame : int64(o.Frame+1)*frame]
	}
	v.Voxels = &volume.Dense{Type: g.typ, Data: b, Slope: 1}
	return v, nil
}

// decode reads total bytes of samples and returns them little endian.
func (h *header) decode(r *bufio.Reader, size int64, typ volume.Type, total int64) ([]byte, error) {
	skip := func(field string) (int64, error) {
		s := h.fields[field]
		if s == "" {
			return 0, nil
		}
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < -1 || n > size {
			return 0, broken(field, "got %q in a file of %d bytes", s, size)
		}
		return n, nil
	}
	lines, err := skip("line skip")
	if err != nil {
		return nil, err
	}
	bytesToSkip, err := skip("byte skip")
	if err != nil {
		return nil, err
	}
	for range lines {
		if err := skipLine(r); err != nil {
			return nil, broken("line skip", "the file ends first")
		}
	}
	encoding := strings.ToLower(h.fields["encoding"])
	var src io.Reader = r
	most := size
	switch encoding {
	case "raw":
		if bytesToSkip == -1 {
			// The samples are the end of the file; how far away that is, only the rest tells.
			rest, err := io.ReadAll(r)
			if err != nil || int64(len(rest)) < total {
				return nil, broken("sizes", "%d bytes are wanted, the file holds %d", total, len(rest))
			}
			src, bytesToSkip = bytes.NewReader(rest[int64(len(rest))-total:]), 0
		}
	case "gzip", "gz":
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, broken("encoding", "gzip: %v", err)
		}
		src, most = z, 1032*size // deflate cannot shrink more
	case "bzip2", "bz2":
		src, most = bzip2.NewReader(r), math.MaxInt64
	case "ascii", "text", "txt":
		return h.decodeText(r, typ, total)
	case "hex":
		src = hex.NewDecoder(&noSpace{r})
	default:
		return nil, unsupported("encoding %.40q", encoding)
	}
	if bytesToSkip < 0 {
		return nil, broken("byte skip", "got -1 with encoding %s, which is only for raw", encoding)
	}
	if _, err := io.CopyN(io.Discard, src, bytesToSkip); err != nil {
		return nil, broken("byte skip", "the file ends first")
	}
	if total > most {
		return nil, broken("sizes", "%d bytes are wanted, the file can hold %d at most", total, most)
	}
	b, err := volume.ReadExactly(src, total)
	if err != nil {
		return nil, broken("sizes", "%d bytes are wanted, %d came: %v", total, len(b), err)
	}
	if typ.Size() > 1 && encoding != "hex" {
		switch e := strings.ToLower(h.fields["endian"]); e {
		case "little":
		case "big":
			volume.SwapBytes(b, typ.Size())
		default:
			return nil, broken("endian", "got %q, want little or big", e)
		}
	}
	return b, nil
}

func skipLine(r *bufio.Reader) error {
	for {
		_, err := r.ReadSlice('\n')
		if err != bufio.ErrBufferFull {
			return err
		}
	}
}

// noSpace leaves white space out of what it reads.
type noSpace struct{ r *bufio.Reader }

func (n *noSpace) Read(p []byte) (int, error) {
	for {
		m, err := n.r.Read(p)
		kept := p[:0]
		for _, c := range p[:m] {
			if c != ' ' && c != '\n' && c != '\r' && c != '\t' {
				kept = append(kept, c)
			}
		}
		if len(kept) > 0 || err != nil {
			return len(kept), err
		}
	}
}

func (h *header) decodeText(r *bufio.Reader, typ volume.Type, total int64) ([]byte, error) {
	words := bufio.NewScanner(r)
	words.Split(bufio.ScanWords)
	var b []byte
	for int64(len(b)) < total {
		if !words.Scan() {
			return nil, broken("sizes", "%d samples are wanted, %d came", total/int64(typ.Size()), len(b)/typ.Size())
		}
		w := strings.Trim(words.Text(), ",")
		f, err := strconv.ParseFloat(w, 64)
		i, ierr := strconv.ParseInt(w, 10, 64)
		if err != nil {
			return nil, broken("data", "sample %d is no number", len(b)/typ.Size())
		}
		if ierr != nil {
			i = int64(f)
		}
		switch typ {
		case volume.Float32:
			b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(f)))
		case volume.Float64:
			b = binary.LittleEndian.AppendUint64(b, math.Float64bits(f))
		default:
			for n := range typ.Size() {
				b = append(b, byte(i>>(8*n)))
			}
		}
	}
	return b, nil
}
