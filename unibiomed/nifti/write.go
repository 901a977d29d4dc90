package nifti

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// intentLabel is NIFTI_INTENT_LABEL: voxel values are indices of a label table.
const intentLabel = 1002

// WriteVolume writes v as float32, or in its stored type with its scaling if it is in memory. The file is packed if path ends in .gz.
func WriteVolume(path string, v *volume.Volume) error {
	dense, ok := v.Voxels.(*volume.Dense)
	h := &outHeader{volume: v, datatype: dtFloat32, slope: 1}
	if ok {
		for code, k := range kinds {
			if k.typ == dense.Type && k.samples == 1 {
				h.datatype, h.slope, h.inter = code, dense.Slope, dense.Intercept
			}
		}
	}
	if v.Channels == 3 {
		h.datatype, h.slope, h.inter = dtRGB24, 0, 0
	}
	return h.write(path, func(w io.Writer) error {
		if ok && (v.Channels == 1 || dense.Type == volume.Uint8) {
			_, err := w.Write(dense.Data)
			return err
		}
		buf, out := make([]float32, v.SliceLen()), []byte(nil)
		for k := range v.Dims[2] {
			if err := v.ReadSlice(k, buf); err != nil {
				return err
			}
			out = out[:0]
			for _, x := range buf {
				if v.Channels == 3 {
					out = append(out, uint8(x))
				} else {
					out = binary.LittleEndian.AppendUint32(out, math.Float32bits(x))
				}
			}
			if _, err := w.Write(out); err != nil {
				return err
			}
		}
		return nil
	})
}

// WriteLabels writes a label map in the grid and place of v: 0 outside, 1 + i in labels[i]. Where labels overlap the first
// keeps the voxel; overlap is the number of such voxels. The names travel as a comment in the header, one line a label.
func WriteLabels(path string, v *volume.Volume, labels []volume.Label) (overlap int, err error) {
	if err := volume.CheckLabels(labels, v.Dims); err != nil {
		return 0, err
	}
	if len(labels) > math.MaxInt16 {
		return 0, fmt.Errorf("nifti: %d labels, want at most %d", len(labels), math.MaxInt16)
	}
	var table strings.Builder
	for i, l := range labels {
		fmt.Fprintf(&table, "%d\t%s\n", i+1, strings.Join(strings.Fields(l.Name), " "))
	}
	h := &outHeader{volume: v, datatype: dtUint8, slope: 1, intent: intentLabel, comment: table.String()}
	if len(labels) > math.MaxUint8 {
		h.datatype = dtInt16
	}
	n := v.Dims[0] * v.Dims[1]
	in, value := make([]uint8, n), make([]uint16, n)
	err = h.write(path, func(w io.Writer) error {
		overlap = 0
		var out []byte
		for k := range v.Dims[2] {
			clear(value)
			for i, l := range labels {
				if !l.Mask.Slice(k, in) {
					continue
				}
				for p, inside := range in {
					switch {
					case inside != 0 && value[p] == 0:
						value[p] = uint16(i + 1)
					case inside != 0:
						overlap++
					}
				}
			}
			out = out[:0]
			for _, x := range value {
				if out = append(out, byte(x)); h.datatype == dtInt16 {
					out = append(out, byte(x>>8))
				}
			}
			if _, err := w.Write(out); err != nil {
				return err
			}
		}
		return nil
	})
	return overlap, err
}

// WriteMask writes one mask in the grid and place of v, 0 and 1 in uint8.
func WriteMask(path string, v *volume.Volume, label volume.Label) error {
	_, err := WriteLabels(path, v, []volume.Label{label})
	return err
}

// An outHeader is what differs between the files written here.
type outHeader struct {
	volume       *volume.Volume
	datatype     int
	slope, inter float64
	intent       int
	comment      string
}

func (h *outHeader) write(path string, voxels func(io.Writer) error) error {
	for i, d := range h.volume.Dims {
		if d < 1 || d > math.MaxInt16 {
			return fmt.Errorf("nifti: %s: dim[%d]: got %d, want 1 to %d", path, i+1, d, math.MaxInt16)
		}
	}
	return volume.WriteFile(path, func(w io.Writer) error {
		if !strings.HasSuffix(path, ".gz") {
			return h.writeTo(w, voxels)
		}
		z := gzip.NewWriter(w)
		if err := h.writeTo(z, voxels); err != nil {
			return err
		}
		return z.Close()
	})
}

func (h *outHeader) writeTo(w io.Writer, voxels func(io.Writer) error) error {
	extension := []byte{0, 0, 0, 0}
	if h.comment != "" {
		const ecodeComment = 6
		body := (8 + len(h.comment) + 15) / 16 * 16
		extension = binary.LittleEndian.AppendUint32([]byte{1, 0, 0, 0}, uint32(body))
		extension = binary.LittleEndian.AppendUint32(extension, ecodeComment)
		extension = append(extension, h.comment...)
		extension = append(extension, make([]byte, 4+body-len(extension))...)
	}
	k := kinds[h.datatype]
	b := make([]byte, 348)
	i16 := func(at, x int) { binary.LittleEndian.PutUint16(b[at:], uint16(int16(x))) }
	f32 := func(at int, x float64) { binary.LittleEndian.PutUint32(b[at:], math.Float32bits(float32(x))) }
	binary.LittleEndian.PutUint32(b, 348)
	b[38] = 'r'
	i16(40, 3)
	a := h.volume.Affine
	spacing := a.Spacing()
	for i := range 7 {
		i16(42+2*i, 1)
		f32(80+4*i, 1)
	}
	for i := range 3 {
		i16(42+2*i, h.volume.Dims[i])
		f32(80+4*i, spacing[i])
	}
	i16(68, h.intent)
	i16(70, h.datatype)
	i16(72, 8*k.typ.Size()*k.samples)
	f32(76, 1)
	f32(108, float64(348+len(extension)))
	f32(112, h.slope)
	f32(116, h.inter)
	b[123] = 2 // millimetres
	copy(b[344:], "n+1\x00")
	ras := a.FlipRASLPS()
	// A volume without a place gets neither code, so that readers know that they do not know.
	if h.volume.Placed {
		i16(254, 1) // sform: scanner
		for r := range 3 {
			for c := range 4 {
				f32(280+16*r+4*c, ras[r][c])
			}
		}
		if q, qfac, ok := toQuaternion(ras); ok {
			i16(252, 1)
			f32(76, qfac)
			for i := range 3 {
				f32(256+4*i, q[i+1])
				f32(268+4*i, ras[i][3])
			}
		}
	}
	for _, part := range [][]byte{b, extension} {
		if _, err := io.Copy(w, bytes.NewReader(part)); err != nil {
			return err
		}
	}
	return voxels(w)
}

// toQuaternion returns the unit quaternion (a, b, c, d), a >= 0, of an affine's axes and the sign of its third one.
// ok is false when the axes are not at right angles, which a qform cannot hold.
func toQuaternion(m volume.Affine) (q [4]float64, qfac float64, ok bool) {
	x, y, z := m.Step(0).Unit(), m.Step(1).Unit(), m.Step(2).Unit()
	if math.Abs(x.Dot(y)) > 1e-5 || math.Abs(x.Dot(z)) > 1e-5 || math.Abs(y.Dot(z)) > 1e-5 {
		return q, 0, false
	}
	if qfac = 1; m.Det() < 0 {
		qfac, z = -1, z.Scale(-1)
	}
	// The squares of the four parts times four; the largest is a safe divisor for the others.
	sq := [4]float64{1 + x[0] + y[1] + z[2], 1 + x[0] - y[1] - z[2], 1 - x[0] + y[1] - z[2], 1 - x[0] - y[1] + z[2]}
	products := [4][4]float64{
		{sq[0], y[2] - z[1], z[0] - x[2], x[1] - y[0]},
		{y[2] - z[1], sq[1], x[1] + y[0], z[0] + x[2]},
		{z[0] - x[2], x[1] + y[0], sq[2], y[2] + z[1]},
		{x[1] - y[0], z[0] + x[2], y[2] + z[1], sq[3]},
	}
	big := 0
	for i := range sq {
		if sq[i] > sq[big] {
			big = i
		}
	}
	d := 2 * math.Sqrt(sq[big])
	for i := range q {
		q[i] = products[big][i] / d
	}
	if q[0] < 0 {
		for i := range q {
			q[i] = -q[i]
		}
	}
	// Readers take a from the others, as sqrt(1 - b² - c² - d²): for a half turn the rounding to float32 would leave 3e-4
	// where 0 belongs, so the largest is rounded up.
	if q[0] < 1e-6 {
		q[0] = 0
		big = max(big, 1)
		for f32 := func(i int) float64 { return float64(float32(q[i])) }; f32(1)*f32(1)+f32(2)*f32(2)+f32(3)*f32(3) < 1; {
			q[big] = float64(math.Nextafter32(float32(q[big]), float32(math.Copysign(2, q[big]))))
		}
	}
	return q, qfac, true
}
