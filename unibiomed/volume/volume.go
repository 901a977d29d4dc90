// Package volume holds medical images with their place in the patient.
//
// One convention runs through everything: a voxel index is (column, row, slice), each counted from 0 at a voxel's
// centre, and an [Affine] takes it to millimetres in the patient, on the axes of DICOM: +x to the patient's Left, +y to
// Posterior, +z to Superior (LPS). Readers turn what a file says into it, and writers turn it back; nothing else in the
// project changes the sign of an axis.
package volume

import (
	"encoding/binary"
	"fmt"
	"math"
)

// A Type is the number format of stored samples.
type Type uint8

// The number formats that files can hold.
const (
	Uint8 Type = iota + 1
	Int8
	Uint16
	Int16
	Uint32
	Int32
	Uint64
	Int64
	Float32
	Float64
)

var typeNames = [...]string{"invalid", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float32", "float64"}

// String returns the name of t, as numpy writes it.
func (t Type) String() string {
	if int(t) >= len(typeNames) {
		return fmt.Sprintf("type %d", uint8(t))
	}
	return typeNames[t]
}

// Size returns the bytes of one sample, 0 for an invalid type.
func (t Type) Size() int {
	switch t {
	case Uint8, Int8:
		return 1
	case Uint16, Int16:
		return 2
	case Uint32, Int32, Float32:
		return 4
	case Uint64, Int64, Float64:
		return 8
	}
	return 0
}

// Voxels gives the samples of a volume, one slice at a time.
type Voxels interface {
	// ReadSlice fills dst, of columns x rows x channels values, with slice k in real-world values (rescaled: HU, SUV or
	// arbitrary units). The channel runs fastest, then the column, then the row. It is safe for concurrent use.
	ReadSlice(k int, dst []float32) error
}

// Dense holds voxels in memory in their stored type, little endian, in the order of [Voxels] with the slice slowest.
type Dense struct {
	Type Type
	Data []byte
	// A sample means Slope*stored + Intercept.
	Slope, Intercept float64
}

// ReadSlice implements [Voxels].
func (d *Dense) ReadSlice(k int, dst []float32) error {
	n, size := len(dst), d.Type.Size()
	if size == 0 || k < 0 || n == 0 || k >= len(d.Data)/size/n {
		return fmt.Errorf("volume: slice %d of %d samples of %s: only %d bytes are held", k, n, d.Type, len(d.Data))
	}
	d.Values(k*n, dst)
	return nil
}

// Values fills dst with the real-world values of the samples from index first on, which must exist.
func (d *Dense) Values(first int, dst []float32) {
	size := d.Type.Size()
	b := d.Data[first*size : (first+len(dst))*size]
	convert := func(stored float64) float32 { return float32(stored*d.Slope + d.Intercept) }
	switch d.Type {
	case Uint8:
		for i := range dst {
			dst[i] = convert(float64(b[i]))
		}
	case Int8:
		for i := range dst {
			dst[i] = convert(float64(int8(b[i])))
		}
	case Uint16:
		for i := range dst {
			dst[i] = convert(float64(binary.LittleEndian.Uint16(b[2*i:])))
		}
	case Int16:
		for i := range dst {
			dst[i] = convert(float64(int16(binary.LittleEndian.Uint16(b[2*i:]))))
		}
	case Uint32:
		for i := range dst {
			dst[i] = convert(float64(binary.LittleEndian.Uint32(b[4*i:])))
		}
	case Int32:
		for i := range dst {
			dst[i] = convert(float64(int32(binary.LittleEndian.Uint32(b[4*i:]))))
		}
	case Uint64:
		for i := range dst {
			dst[i] = convert(float64(binary.LittleEndian.Uint64(b[8*i:])))
		}
	case Int64:
		for i := range dst {
			dst[i] = convert(float64(int64(binary.LittleEndian.Uint64(b[8*i:]))))
		}
	case Float32:
		for i := range dst {
			dst[i] = convert(float64(math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))))
		}
	case Float64:
		for i := range dst {
			dst[i] = convert(math.Float64frombits(binary.LittleEndian.Uint64(b[8*i:])))
		}
	}
}

// A Window is a display range that the header of an image recommends, in real-world values.
type Window struct {
	Center, Width float64
	// Function is LINEAR, LINEAR_EXACT or SIGMOID, as DICOM PS3.3 C.11.2.1 defines them; "" is LINEAR.
	Function string
	// Name is the header's explanation, such as "BRAIN"; it may be empty.
	Name string
	// Table, if there is one, takes the place of center and width: value First + i, rounded, is shown as Table[i] of 0 to 1, and
	// values below and above as the first and the last entry (a VOI LUT).
	Table []float32
	First int
}

// A Volume is one image or a stack of slices on a regular grid. A single picture is a volume of one slice.
// Its methods are safe for concurrent use once no field is changed any more, except Load.
type Volume struct {
	Dims     [3]int // columns, rows, slices
	Channels int    // 1, or 3 for red, green, blue of 0 to 255
	Affine   Affine // voxel index to patient millimetres (LPS)
	// Placed says that the affine is known to place the volume in the patient. When false only the spacing means anything,
	// and left and right are unknown.
	Placed bool
	Voxels Voxels

	Modality string   // DICOM code (CT, MR, PT, US, ...); "" when the file does not say
	Unit     string   // HU, SUVbw, BQML, ...; "" when unknown
	BodyPart string   // DICOM Body Part Examined, or ""
	Windows  []Window // recommended by the header, first choice first
	Levels   bool     // values are display levels of 0 to 255 already, as in a photograph
	Inverted bool     // low values are meant to be shown bright (MONOCHROME1)

	// Positions has the place of voxel (0, 0, k) of each slice when the slices are not evenly spaced, so that the affine can
	// only be their best fit; it is nil otherwise. DICOM results keep these places; formats of one affine (NIfTI, NRRD) cannot.
	Positions []Vec
	// Warnings are things a reader had to assume or leave out, of the error types of this package where one fits.
	Warnings []error
}

// SliceLen returns the number of values of one slice: columns x rows x channels.
func (v *Volume) SliceLen() int { return v.Dims[0] * v.Dims[1] * v.Channels }

// ReadSlice reads slice k as [Voxels] says.
func (v *Volume) ReadSlice(k int, dst []float32) error {
	if k < 0 || k >= v.Dims[2] || len(dst) != v.SliceLen() {
		return fmt.Errorf("volume: slice %d into %d values: the volume has %d slices of %d values", k, len(dst), v.Dims[2], v.SliceLen())
	}
	return v.Voxels.ReadSlice(k, dst)
}

// VoxelML returns the volume of one voxel in millilitres, 0 when the spacing is unknown.
func (v *Volume) VoxelML() float64 { return math.Abs(v.Affine.Det()) / 1000 }

// Load brings all voxels into memory, in their stored type where the source can give it and as float32 otherwise. It
// does nothing when they are there already. It must not run while another goroutine uses v.
func (v *Volume) Load() error {
	if _, ok := v.Voxels.(*Dense); ok {
		return nil
	}
	if s, ok := v.Voxels.(interface{ Dense() (*Dense, error) }); ok {
		d, err := s.Dense()
		if err != nil {
			return err
		}
		v.Voxels = d
		return nil
	}
	n := v.SliceLen()
	d := &Dense{Type: Float32, Slope: 1, Data: make([]byte, 0, 4*n*v.Dims[2])}
	buf := make([]float32, n)
	for k := range v.Dims[2] {
		if err := v.Voxels.ReadSlice(k, buf); err != nil {
			return err
		}
		for _, x := range buf {
			d.Data = binary.LittleEndian.AppendUint32(d.Data, math.Float32bits(x))
		}
	}
	v.Voxels = d
	return nil
}
