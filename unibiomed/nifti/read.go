// Package nifti reads NIfTI-1 and NIfTI-2 files and writes NIfTI-1.
//
// Read are single files (.nii, .nii.gz) and pairs (.hdr with .img, each also with .gz), of either byte order and every real
// number format; complex images give their magnitude. The format is defined at nifti.nimh.nih.gov. Its axes are RAS; volumes are LPS.
package nifti

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Options choose what Read takes from a file.
type Options = volume.ReadOptions

// A PlaceError warns that a header does not say, or not in a usable way, where the volume is in the patient.
type PlaceError struct{ Problem string }

func (e *PlaceError) Error() string { return "nifti: " + e.Problem }

// Format numbers of the datatype field.
const (
	dtUint8      = 2
	dtInt16      = 4
	dtInt32      = 8
	dtFloat32    = 16
	dtComplex64  = 32
	dtFloat64    = 64
	dtRGB24      = 128
	dtInt8       = 256
	dtUint16     = 512
	dtUint32     = 768
	dtInt64      = 1024
	dtUint64     = 1280
	dtComplex128 = 1792
	dtRGBA32     = 2304
)

// A kind is how samples of a datatype lie in the file.
type kind struct {
	typ     volume.Type
	samples int // a voxel: 1; colours 3 or 4; complex 2
}

var kinds = map[int]kind{
	dtUint8: {volume.Uint8, 1}, dtInt8: {volume.Int8, 1}, dtUint16: {volume.Uint16, 1}, dtInt16: {volume.Int16, 1},
	dtUint32: {volume.Uint32, 1}, dtInt32: {volume.Int32, 1}, dtUint64: {volume.Uint64, 1}, dtInt64: {volume.Int64, 1},
	dtFloat32: {volume.Float32, 1}, dtFloat64: {volume.Float64, 1}, dtRGB24: {volume.Uint8, 3}, dtRGBA32: {volume.Uint8, 4},
	dtComplex64: {volume.Float32, 2}, dtComplex128: {volume.Float64, 2},
}

var unread = map[int]string{1: "datatype 1 (one bit a voxel)", 1536: "datatype 1536 (128-bit float)", 2048: "datatype 2048 (256-bit complex)"}

// A header is what both versions of the format say, with NIfTI-1's field names.
type header struct {
	order         binary.ByteOrder
	dim           [8]int64
	datatype      int
	bitpix        int
	pixdim        [8]float64
	voxOffset     int64
	slope, inter  float64
	qform, sform  int
	quatern       [3]float64 // b, c, d
	qoffset       [3]float64
	srow          [3][4]float64
	units         int
	pair          bool
	intent, bytes int // bytes: size of the header
}

// Read reads one image of the file at path. Errors are of the types of package volume, or of package os.
func Read(path string, o Options) (*volume.Volume, error) {
	hdrPath, imgPath := pairOf(path)
	f, err := open(hdrPath)
	if err != nil {
		return nil, err
	}
	defer f.close()
	h, err := readHeader(f.r)
	if err != nil {
		return nil, named(err, path)
	}
	data := f
	if h.pair {
		if imgPath == "" {
			return nil, &volume.FormatError{Format: "nifti", File: path, Field: "magic", Problem: "the header of a pair (ni1, ni2) in a file not called .hdr or .img"}
		}
		if data, err = open(imgPath); err != nil {
			return nil, err
		}
		defer data.close()
	}
	v, err := readImage(data, h, o)
	return v, named(err, path)
}

// named puts the file into an error of the reading functions below, which do not know it.
func named(err error, path string) error { return volume.InFile(err, "nifti", path) }

func broken(field, problem string, args ...any) error {
	return &volume.FormatError{Field: field, Problem: fmt.Sprintf(problem, args...)}
}

// pairOf returns the files that hold the header and the voxels; img is "" when the name is of a single file.
func pairOf(path string) (hdr, img string) {
	base, gz := strings.CutSuffix(path, ".gz")
	end := ""
	if gz {
		end = ".gz"
	}
	if b, ok := strings.CutSuffix(base, ".hdr"); ok {
		return path, b + ".img" + end
	}
	if b, ok := strings.CutSuffix(base, ".img"); ok {
		return b + ".hdr" + end, path
	}
	return path, ""
}

// An input is a file, unpacked if it starts as gzip does.
type input struct {
	r     io.Reader
	at    int64 // bytes consumed
	most  int64 // bytes that it can hold at most, as its size tells
	plain bool  // most is exact
	close func() error
}

func (in *input) Read(p []byte) (int, error) {
	n, err := in.r.Read(p)
	in.at += int64(n)
	return n, err
}

func open(path string) (*input, error) {
	f, size, err := volume.OpenRegular("nifti", path)
	if err != nil {
		return nil, err
	}
	in, err := newInput(bufio.NewReaderSize(f, 1<<16), size)
	if err != nil {
		f.Close()
		return nil, named(broken("gzip header", "%v", err), path)
	}
	in.close = f.Close
	return in, nil
}

func newInput(r *bufio.Reader, size int64) (*input, error) {
	if magic, _ := r.Peek(2); !bytes.Equal(magic, []byte{0x1f, 0x8b}) {
		in := &input{most: size, plain: true}
		in.r = r
		return in, nil
	}
	z, err := gzip.NewReader(r)
	if err != nil {
		return nil, err
	}
	// Deflate cannot shrink more than 1032 times.
	return &input{r: z, most: 1032 * size}, nil
}

func readHeader(r io.Reader) (*header, error) {
	b := make([]byte, 540)
	if n, err := io.ReadFull(r, b[:348]); err != nil {
		return nil, broken("header", "the file ends after %d bytes, want 348", n)
	}
	h := &header{order: binary.LittleEndian}
	size := h.order.Uint32(b)
	if size == 348<<16|348>>16 || binary.BigEndian.Uint32(b) == 348 || binary.BigEndian.Uint32(b) == 540 {
		h.order = binary.BigEndian
		size = h.order.Uint32(b)
	}
	h.bytes = int(size)
	switch size {
	case 348:
		h.parse1(b)
		if m := string(b[344:347]); m != "n+1" && m != "ni1" || b[347] != 0 {
			if m == "\x00\x00\x00" {
				return nil, &volume.UnsupportedError{Feature: "an Analyze 7.5 header (no NIfTI magic)"}
			}
			return nil, broken("magic", "got %q, want \"n+1\" or \"ni1\"", b[344:348])
		}
		h.pair = b[345] == 'i'
	case 540:
		if n, err := io.ReadFull(r, b[348:540]); err != nil {
			return nil, broken("header", "the file ends after %d bytes, want 540", 348+n)
		}
		if m := string(b[4:12]); m != "n+2\x00\r\n\x1a\n" && m != "ni2\x00\r\n\x1a\n" {
			return nil, broken("magic", "got %q, want \"n+2\" or \"ni2\" with its line ends", b[4:12])
		}
		h.pair = b[5] == 'i'
		h.parse2(b)
	default:
		return nil, broken("sizeof_hdr", "got %d, want 348 or 540", size)
	}
	return h, nil
}

func (h *header) f32(b []byte) float64 { return float64(math.Float32frombits(h.order.Uint32(b))) }
func (h *header) f64(b []byte) float64 { return math.Float64frombits(h.order.Uint64(b)) }

// parse1 takes the fields from a NIfTI-1 header, whose byte offsets are those of nifti1.h.
func (h *header) parse1(b []byte) {
	i16 := func(at int) int { return int(int16(h.order.Uint16(b[at:]))) }
	for i := range 8 {
		h.dim[i] = int64(i16(40 + 2*i))
		h.pixdim[i] = h.f32(b[76+4*i:])
	}
	h.intent, h.datatype, h.bitpix = i16(68), i16(70), i16(72)
	// The offset is a float; conversion of a wild one is undefined, so it is bounded first.
	if off := h.f32(b[108:]); off >= 0 && off <= 1<<40 {
		h.voxOffset = int64(off)
	} else {
		h.voxOffset = -1
	}
	h.slope, h.inter, h.units = h.f32(b[112:]), h.f32(b[116:]), int(b[123])
	h.qform, h.sform = i16(252), i16(254)
	for i := range 3 {
		h.quatern[i], h.qoffset[i] = h.f32(b[256+4*i:]), h.f32(b[268+4*i:])
		for j := range 4 {
			h.srow[i][j] = h.f32(b[280+16*i+4*j:])
		}
	}
}

// parse2 takes the fields from a NIfTI-2 header, whose byte offsets are those of nifti2.h.
func (h *header) parse2(b []byte) {
	i32 := func(at int) int { return int(int32(h.order.Uint32(b[at:]))) }
	i64 := func(at int) int64 { return int64(h.order.Uint64(b[at:])) }
	h.datatype, h.bitpix = int(int16(h.order.Uint16(b[12:]))), int(int16(h.order.Uint16(b[14:])))
	for i := range 8 {
		h.dim[i], h.pixdim[i] = i64(16+8*i), h.f64(b[104+8*i:])
	}
	h.voxOffset, h.slope, h.inter = i64(168), h.f64(b[176:]), h.f64(b[184:])
	h.qform, h.sform = i32(344), i32(348)
	for i := range 3 {
		h.quatern[i], h.qoffset[i] = h.f64(b[352+8*i:]), h.f64(b[376+8*i:])
		for j := range 4 {
			h.srow[i][j] = h.f64(b[400+32*i+8*j:])
		}
	}
	h.units, h.intent = i32(500), i32(504)
}

// readImage reads one frame. in stands right after the header, or at the start of the other file of a pair.
func readImage(in *input, h *header, o Options) (*volume.Volume, error) {
	if h.dim[0] < 1 || h.dim[0] > 7 {
		return nil, broken("dim[0]", "got %d, want 1 to 7", h.dim[0])
	}
	v := &volume.Volume{Dims: [3]int{1, 1, 1}, Channels: 1}
	k, ok := kinds[h.datatype]
	if !ok {
		if name := unread[h.datatype]; name != "" {
			return nil, &volume.UnsupportedError{Feature: name}
		}
		return nil, broken("datatype", "got %d, which the format does not define", h.datatype)
	}
	voxelBytes := int64(k.typ.Size() * k.samples)
	if h.bitpix != 0 && int64(h.bitpix) != 8*voxelBytes {
		v.Warnings = append(v.Warnings, broken("bitpix", "got %d, want %d for datatype %d", h.bitpix, 8*voxelBytes, h.datatype))
	}
	if h.intent >= 3000 && h.intent < 3100 {
		return nil, &volume.UnsupportedError{Feature: fmt.Sprintf("a CIFTI matrix (intent_code %d), which is no image,", h.intent)}
	}
	frameBytes, frames := voxelBytes, int64(1)
	for i := int64(1); i <= h.dim[0]; i++ {
		d := h.dim[i]
		if d < 1 || d > math.MaxInt32 {
			return nil, broken(fmt.Sprintf("dim[%d]", i), "got %d, want 1 to %d", d, math.MaxInt32)
		}
		size := &frameBytes
		if i > 3 {
			size = &frames
		} else {
			v.Dims[i-1] = int(d)
		}
		if *size > math.MaxInt64/4/d {
			return nil, broken("dim", "%v overflows", h.dim)
		}
		*size *= d
	}
	if frameBytes > o.MaxBytes() {
		return nil, &volume.LimitError{Field: "dim", Want: frameBytes, Limit: o.MaxBytes()}
	}
	if o.Frame < 0 || int64(o.Frame) >= frames {
		return nil, broken("dim[4]", "image %d was asked for, the file has %d", o.Frame, frames)
	}
	if frames > 1 {
		v.Warnings = append(v.Warnings, &volume.FramesError{Format: "nifti", Frame: o.Frame, Frames: int(frames)})
	}
	if err := h.place(v); err != nil {
		return nil, err
	}

	offset, least := h.voxOffset, int64(0)
	if !h.pair {
		if least = int64(h.bytes); offset == 0 {
			offset = least + 4 // an offset that some writers leave out
		}
	}
	if offset < least {
		return nil, broken("vox_offset", "got %d, want at least %d", h.voxOffset, least)
	}
	if int64(o.Frame) > (math.MaxInt64/2-offset)/frameBytes {
		return nil, broken("dim", "%v overflows", h.dim)
	}
	start := offset + int64(o.Frame)*frameBytes
	if start+frameBytes > in.most {
		return nil, broken("dim", "%v of %d bytes a voxel ends at byte %d, but the file holds at most %d", h.dim[1:h.dim[0]+1], voxelBytes, start+frameBytes, in.most)
	}
	if _, err := io.CopyN(io.Discard, in, start-int64(b2i(!h.pair)*h.bytes)); err != nil {
		return nil, ends(err, start, frameBytes)
	}
	var data []byte
	var err error
	if in.plain {
		data = make([]byte, frameBytes)
		_, err = io.ReadFull(in, data)
	} else {
		data, err = volume.ReadExactly(in, frameBytes)
	}
	if err != nil {
		return nil, ends(err, start, frameBytes)
	}
	if h.order == binary.BigEndian {
		volume.SwapBytes(data, k.typ.Size())
	}

	dense := &volume.Dense{Type: k.typ, Data: data, Slope: 1}
	switch {
	case h.datatype == dtComplex64 || h.datatype == dtComplex128:
		dense = magnitude(data, k.typ)
	case k.samples >= 3:
		v.Channels, v.Levels = 3, true
		if k.samples == 4 {
			dense.Data = volume.PickSamples(data, 1, 4, 0, 3)
			v.Warnings = append(v.Warnings, fmt.Errorf("nifti: the alpha channel was left out"))
		}
	}
	// As the standard has it, scaling is for neither colours nor a slope of zero; nibabel also ignores one that is not a number.
	if k.samples < 3 && h.slope != 0 && !math.IsNaN(h.slope) && !math.IsInf(h.slope, 0) {
		if math.IsNaN(h.inter) || math.IsInf(h.inter, 0) {
			return nil, broken("scl_inter", "got %v with scl_slope %v", h.inter, h.slope)
		}
		dense.Slope, dense.Intercept = h.slope, h.inter
	}
	v.Voxels = dense
	return v, nil
}

func ends(err error, start, bytes int64) error {
	if err == io.EOF || err == io.ErrUnexpectedEOF {
		return broken("dim", "the file ends before byte %d, where its image should end", start+bytes)
	}
	return broken("image", "%v", err)
}

// place sets the affine: the sform if there is one, else the qform, else what the voxel size alone gives, with the
// centre of the grid at the origin and x growing to the left, as nibabel has it.
func (h *header) place(v *volume.Volume) error {
	scale := 1.0
	switch h.units & 7 { // xyzt_units: the spatial unit
	case 1:
		scale = 1000
	case 3:
		scale = 1e-3
	}
	mm := func(a volume.Affine) volume.Affine {
		for r := range a {
			for c := range a[r] {
				a[r][c] *= scale
			}
		}
		return a.FlipRASLPS()
	}
	if h.sform > 0 {
		a := mm(h.srow)
		err := a.Check()
		if err == nil {
			v.Affine, v.Placed = a, true
			return nil
		}
		v.Warnings = append(v.Warnings, &PlaceError{fmt.Sprintf("the sform was not used: %v", err)})
	}
	if h.qform > 0 {
		a := mm(h.quaternion())
		err := a.Check()
		if err == nil {
			v.Affine, v.Placed = a, true
			return nil
		}
		v.Warnings = append(v.Warnings, &PlaceError{fmt.Sprintf("the qform was not used: %v", err)})
	}
	if h.sform > 0 || h.qform > 0 {
		return broken("sform and qform", "neither places the voxels: srow %v, pixdim %v", h.srow, h.pixdim[:4])
	}
	var p volume.Vec
	for i := range 3 {
		// Axes that the file does not have need no size.
		if p[i] = math.Abs(h.pixdim[i+1]); int64(i) >= h.dim[0] || p[i] == 0 {
			p[i] = 1
		}
	}
	a := volume.NewAffine(volume.Vec{-p[0]}, volume.Vec{0, p[1]}, volume.Vec{0, 0, p[2]}, volume.Vec{})
	half := a.Apply(volume.Vec{float64(v.Dims[0]-1) / 2, float64(v.Dims[1]-1) / 2, float64(v.Dims[2]-1) / 2})
	for r := range 3 {
		a[r][3] = -half[r]
	}
	if v.Affine = mm(a); v.Affine.Check() != nil {
		return broken("pixdim", "got %v", h.pixdim[1:4])
	}
	v.Warnings = append(v.Warnings, &PlaceError{"the header has neither sform nor qform: left and right are unknown"})
	return nil
}

// quaternion returns the affine of the qform (method 2 of nifti1.h), in RAS.
func (h *header) quaternion() volume.Affine {
	b, c, d := h.quatern[0], h.quatern[1], h.quatern[2]
	a := math.Sqrt(max(0, 1-b*b-c*c-d*d))
	s := 2 / (a*a + b*b + c*c + d*d) // 2 for a unit quaternion; a longer one counts as its direction
	r := [3][3]float64{
		{1 - s*(c*c+d*d), s * (b*c - a*d), s * (b*d + a*c)},
		{s * (b*c + a*d), 1 - s*(b*b+d*d), s * (c*d - a*b)},
		{s * (b*d - a*c), s * (c*d + a*b), 1 - s*(b*b+c*c)},
	}
	var m volume.Affine
	for i := range 3 {
		for j := range 3 {
			m[i][j] = r[i][j] * h.pixdim[j+1]
			if j == 2 && h.pixdim[0] < 0 {
				m[i][j] = -m[i][j]
			}
		}
		m[i][3] = h.qoffset[i]
	}
	return m
}

// magnitude turns pairs of real and imaginary parts into their lengths, in place.
func magnitude(b []byte, t volume.Type) *volume.Dense {
	d := &volume.Dense{Type: t, Slope: 1, Data: b[:len(b)/2]}
	for i := range len(b) / 2 / t.Size() {
		if t == volume.Float32 {
			re, im := math.Float32frombits(binary.LittleEndian.Uint32(b[8*i:])), math.Float32frombits(binary.LittleEndian.Uint32(b[8*i+4:]))
			binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(float32(math.Hypot(float64(re), float64(im)))))
		} else {
			re, im := math.Float64frombits(binary.LittleEndian.Uint64(b[16*i:])), math.Float64frombits(binary.LittleEndian.Uint64(b[16*i+8:]))
			binary.LittleEndian.PutUint64(b[8*i:], math.Float64bits(math.Hypot(re, im)))
		}
	}
	return d
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}
