// Package mha reads MetaImage files: .mha, and .mhd with its data file.
//
// The format is defined in the documentation of ITK (MetaIO). Its world axes are LPS. Read are all real number types, packed
// or not, of either byte order, of two or three dimensions with colours or components, and of four.
package mha

import (
	"bufio"
	"compress/zlib"
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
	"MET_CHAR": volume.Int8, "MET_UCHAR": volume.Uint8, "MET_SHORT": volume.Int16, "MET_USHORT": volume.Uint16,
	"MET_INT": volume.Int32, "MET_UINT": volume.Uint32, "MET_LONG": volume.Int32, "MET_ULONG": volume.Uint32,
	"MET_LONG_LONG": volume.Int64, "MET_ULONG_LONG": volume.Uint64, "MET_FLOAT": volume.Float32, "MET_DOUBLE": volume.Float64,
}

const maxHeader = 1 << 20 // bytes

type header map[string]string // by field name, as the format spells it

func broken(field, problem string, args ...any) error {
	return &volume.FormatError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

func unsupported(feature string, args ...any) error {
	return &volume.UnsupportedError{Feature: fmt.Sprintf(feature, args...)}
}

// named puts the file into an error of the reading functions below, which do not know it.
func named(err error, path string) error { return volume.InFile(err, "mha", path) }

// Read reads one image of the file at path. Errors are of the types of package volume, or of package os.
func Read(path string, o Options) (*volume.Volume, error) {
	f, size, err := volume.OpenRegular("mha", path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	r := bufio.NewReaderSize(f, 1<<16)
	h, used, err := readHeader(r)
	if err != nil {
		return nil, named(err, path)
	}
	size -= used
	if name := h["ElementDataFile"]; name != "LOCAL" {
		// A data file lies beside its header or below: a header is no licence to read anything else.
		if name == "LIST" || strings.HasPrefix(name, "LIST ") || strings.Contains(name, "%") {
			return nil, named(unsupported("ElementDataFile %.40q (one file a slice)", name), path)
		}
		if !filepath.IsLocal(filepath.FromSlash(name)) {
			return nil, named(broken("ElementDataFile", "the name leads out of the folder of the header"), path)
		}
		d, dsize, err := volume.OpenRegular("mha", filepath.Join(filepath.Dir(path), filepath.FromSlash(name)))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		r, size = bufio.NewReaderSize(d, 1<<16), dsize
	}
	v, err := readImage(r, size, h, o)
	return v, named(err, path)
}

// readHeader reads up to and with ElementDataFile, which is always last, and returns the bytes it took.
func readHeader(r *bufio.Reader) (header, int64, error) {
	h, used := header{}, int64(0)
	for n := 1; ; n++ {
		line, err := r.ReadSlice('\n')
		used += int64(len(line))
		if err != nil && err != io.EOF || used > maxHeader {
			return nil, 0, broken("header", "line %d does not end within %d bytes", n, r.Size())
		}
		name, value, ok := strings.Cut(string(line), "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok && name != "" || n == 1 && name == "" {
			return nil, 0, broken("header", "line %d is no Name = Value", n)
		}
		if name != "" {
			h[name] = value
		}
		if name == "ElementDataFile" {
			return h, used, nil
		}
		if err == io.EOF {
			return nil, 0, broken("ElementDataFile", "the header ends without it")
		}
	}
}

// first returns the value of the first of several names of one field.
func (h header) first(names ...string) string {
	for _, n := range names {
		if v := h[n]; v != "" {
			return v
		}
	}
	return ""
}

func (h header) yes(name string) bool { return strings.EqualFold(h[name], "true") || h[name] == "1" }

// numbers returns the n finite numbers of a field.
func numbers(field, s string, n int) ([]float64, error) {
	words := strings.Fields(s)
	if len(words) != n {
		return nil, broken(field, "got %d numbers, want %d", len(words), n)
	}
	out := make([]float64, n)
	for i, w := range words {
		f, err := strconv.ParseFloat(w, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, broken(field, "number %d is not finite", i)
		}
		out[i] = f
	}
	return out, nil
}

func readImage(r *bufio.Reader, size int64, h header, o Options) (*volume.Volume, error) {
	typ := types[h["ElementType"]]
	if typ == 0 {
		return nil, unsupported("ElementType %.40q", h["ElementType"])
	}
	ndims, err := strconv.Atoi(h["NDims"])
	if err != nil || ndims < 1 {
		return nil, broken("NDims", "got %.20q", h["NDims"])
	}
	if ndims < 2 || ndims > 4 {
		return nil, unsupported("an image of %d dimensions", ndims)
	}
	v := &volume.Volume{Dims: [3]int{1, 1, 1}, Channels: 1}
	sizes := strings.Fields(h["DimSize"])
	if len(sizes) != ndims {
		return nil, broken("DimSize", "got %d numbers, want %d", len(sizes), ndims)
	}
	components := int64(1)
	if s := h["ElementNumberOfChannels"]; s != "" {
		if components, err = strconv.ParseInt(s, 10, 64); err != nil || components < 1 || components > 1<<16 {
			return nil, broken("ElementNumberOfChannels", "got %.20q", s)
		}
	}
	frame, frames := components*int64(typ.Size()), int64(1)
	for i, s := range sizes {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < 1 || n > math.MaxInt32 || frame*frames > math.MaxInt64/2/n {
			return nil, broken("DimSize", "got %.60q, want positive numbers whose product fits", h["DimSize"])
		}
		if i < 3 {
			v.Dims[i], frame = int(n), frame*n
		} else {
			frames = n
		}
	}
	if frame*frames > o.MaxBytes() {
		return nil, &volume.LimitError{Field: "DimSize", Want: frame * frames, Limit: o.MaxBytes()}
	}
	colour := typ == volume.Uint8 && (components == 3 || components == 4)
	if colour {
		v.Channels, v.Levels = 3, true
	}
	images := frames
	if !colour {
		images *= components
	}
	if o.Frame < 0 || int64(o.Frame) >= images {
		return nil, broken("DimSize", "image %d was asked for, the file has %d", o.Frame, images)
	}
	if images > 1 {
		v.Warnings = append(v.Warnings, &volume.FramesError{Format: "mha", Frame: o.Frame, Frames: int(images)})
	}
	if err := h.place(v, ndims); err != nil {
		return nil, err
	}

	if s := h["HeaderSize"]; s != "" && s != "0" {
		skip, err := strconv.ParseInt(s, 10, 64)
		if skip == -1 {
			skip = size - frame*frames // the samples are the end of the file
		}
		if err != nil || skip < 0 || skip > size {
			return nil, broken("HeaderSize", "got %.20q in a file of %d bytes", s, size)
		}
		if _, err := io.CopyN(io.Discard, r, skip); err != nil {
			return nil, broken("HeaderSize", "the file ends first")
		}
	}
	var src io.Reader = r
	most := size
	if h.yes("CompressedData") {
		z, err := zlib.NewReader(r)
		if err != nil {
			return nil, broken("CompressedData", "%v", err)
		}
		src, most = z, 1032*size // deflate cannot shrink more
	} else if h["BinaryData"] != "" && !h.yes("BinaryData") {
		return nil, unsupported("BinaryData = False (numbers as text)")
	}
	// The image: the time point, and in it the component.
	component, time := o.Frame%int(images/frames), int64(o.Frame)/(images/frames)
	if (time+1)*frame > most {
		return nil, broken("DimSize", "%d bytes are wanted, the file can hold %d at most", (time+1)*frame, most)
	}
	if _, err := io.CopyN(io.Discard, src, time*frame); err != nil {
		return nil, broken("DimSize", "the file ends before image %d", o.Frame)
	}
	b, err := volume.ReadExactly(src, frame)
	if err != nil {
		return nil, broken("DimSize", "%d bytes are wanted, %d came: %v", frame, len(b), err)
	}
	if h.yes("BinaryDataByteOrderMSB") || h.yes("ElementByteOrderMSB") {
		volume.SwapBytes(b, typ.Size())
	}
	if colour {
		b = volume.PickSamples(b, 1, int(components), 0, 3)
		if components == 4 {
			v.Warnings = append(v.Warnings, fmt.Errorf("mha: the alpha channel was left out"))
		}
	} else {
		b = volume.PickSamples(b, typ.Size(), int(components), component, 1)
	}
	v.Voxels = &volume.Dense{Type: typ, Data: b, Slope: 1}
	return v, nil
}

// place sets the affine: the numbers of TransformMatrix are the direction of the first axis, then of the second, and so on.
func (h header) place(v *volume.Volume, ndims int) error {
	spacing, offset, matrix := []float64{1, 1, 1, 1}[:ndims], make([]float64, ndims), make([]float64, ndims*ndims)
	for i := range ndims {
		matrix[i*ndims+i] = 1
	}
	var err error
	for _, f := range []struct {
		to    *[]float64
		n     int
		names []string
	}{
		{&spacing, ndims, []string{"ElementSpacing", "ElementSize"}},
		{&offset, ndims, []string{"Offset", "Position", "Origin"}},
		{&matrix, ndims * ndims, []string{"TransformMatrix", "Rotation", "Orientation"}},
	} {
		if s := h.first(f.names...); s != "" {
			if *f.to, err = numbers(f.names[0], s, f.n); err != nil {
				return err
			}
		}
	}
	step := [3]volume.Vec{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	var origin volume.Vec
	for a := range min(ndims, 3) {
		step[a] = volume.Vec{}
		for r := range min(ndims, 3) {
			step[a][r] = matrix[a*ndims+r] * spacing[a]
		}
		origin[a] = offset[a]
	}
	v.Affine = volume.NewAffine(step[0], step[1], step[2], origin)
	if err := v.Affine.Check(); err != nil {
		return broken("TransformMatrix and ElementSpacing", "%v", err)
	}
	if v.Placed = ndims >= 3 && h.first("TransformMatrix", "Rotation", "Orientation") != ""; !v.Placed {
		v.Warnings = append(v.Warnings, fmt.Errorf("mha: the header has no orientation in space: left and right are unknown"))
	}
	return nil
}
