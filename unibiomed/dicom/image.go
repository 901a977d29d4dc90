package dicom

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom/jpeg"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// group returns the functional group of frame i that a sequence tag names: the frame's own, else the shared one.
func (f *File) group(i int, seq Tag) *Dataset {
	if per := f.Data.Items(PerFrameFunctionalGroupsSequence); i < len(per) {
		if g := per[i].Item(seq); g != nil {
			return g
		}
	}
	return f.Data.Item(SharedFunctionalGroupsSequence).Item(seq)
}

// Image reads frame i as real-world values: rescaled grey (HU, counts), or red, green and blue of 0 to 255 (channels 3).
func (f *File) Image(i int, limits volume.Limits) (d *volume.Dense, channels int, err error) {
	fr, err := f.Frame(i, limits)
	if err != nil {
		return nil, 0, err
	}
	if fr.Samples == 3 {
		return fr.rgb8(), 3, nil
	}
	if fr.Photometric == "PALETTE COLOR" {
		if d, err = f.palette(fr); err != nil {
			return nil, 0, named(err, f.Path)
		}
		return d, 3, nil
	}
	d = &volume.Dense{Type: fr.Type(), Data: fr.Data, Slope: 1}
	if lut := f.Data.Item(ModalityLUTSequence); lut != nil && !fr.Float {
		t, err := f.lut(lut, LUTDescriptor, LUTData, fr.Signed)
		if err != nil {
			return nil, 0, named(err, f.Path)
		}
		d.Data, d.Type = t.apply(fr), volume.Uint16
		return d, 1, nil
	}
	d.Slope, d.Intercept = f.rescale(i)
	return d, 1, nil
}

// rescale returns what turns stored values of frame i into real ones.
func (f *File) rescale(i int) (slope, intercept float64) {
	if s, ok := f.Data.Float(DoseGridScaling); ok && s != 0 {
		return s, 0
	}
	for _, g := range []*Dataset{f.group(i, PixelValueTransformationSequence), f.Data} {
		s, ok := g.Float(RescaleSlope)
		if b, has := g.Float(RescaleIntercept); ok && has && s != 0 {
			return s, b
		}
	}
	return 1, 0
}

// rgb8 turns colours into 8 bits.
func (fr *Frame) rgb8() *volume.Dense {
	size := fr.Type().Size()
	if fr.YCbCr {
		s := make([]uint16, fr.FrameLen())
		drop := max(0, fr.Stored-16)
		for i := range s {
			s[i] = uint16(getLE(fr.Data[i*size:], size) >> drop)
		}
		jpeg.YCbCrToRGB(s, min(fr.Stored, 16))
		out := make([]byte, len(s))
		for i, x := range s {
			out[i] = to8(uint64(x), min(fr.Stored, 16))
		}
		return &volume.Dense{Type: volume.Uint8, Slope: 1, Data: out}
	}
	out := fr.Data
	if size > 1 || fr.Stored < 8 {
		out = make([]byte, fr.FrameLen())
		for i := range out {
			out[i] = to8(getLE(fr.Data[i*size:], size), fr.Stored)
		}
	}
	return &volume.Dense{Type: volume.Uint8, Slope: 1, Data: out}
}

// to8 brings a sample of the given bits to 8.
func to8(x uint64, bits int) byte {
	if bits < 8 {
		return byte(x * 255 / (1<<bits - 1))
	}
	return byte(x >> (bits - 8))
}

// A lut is a lookup table: stored value first + i becomes values[i], and values beyond an end become that end's.
type lut struct {
	first  int
	bits   int
	values []uint16
}

// lut reads a table from its descriptor and data.
func (f *File) lut(d *Dataset, descriptor, data Tag, signed bool) (*lut, error) {
	n := d.Floats(descriptor)
	if len(n) != 3 {
		return nil, broken(descriptor.String(), "got %d numbers, want 3", len(n))
	}
	t := &lut{first: int(n[1]), bits: int(n[2])}
	if signed && t.first > math.MaxInt16 { // the descriptor has the sign of the pixels, whatever its VR says
		t.first -= 1 << 16
	}
	entries := int(n[0])
	if entries == 0 {
		entries = 1 << 16
	}
	if entries < 0 {
		entries += 1 << 16
	}
	if t.bits < 1 || t.bits > 16 {
		return nil, broken(descriptor.String(), "got %d bits an entry, want up to 16", t.bits)
	}
	b, err := f.value(d.Find(data), 1<<18)
	if err != nil {
		return nil, err
	}
	switch {
	case len(b) >= 2*entries:
		for i := range entries {
			t.values = append(t.values, d.order.Uint16(b[2*i:]))
		}
	case len(b) >= entries: // entries of 8 bits, two a word
		for i := range entries {
			at := i
			if d.order == binary.BigEndian {
				at ^= 1
			}
			if at < len(b) {
				t.values = append(t.values, uint16(b[at]))
			}
		}
		t.bits = min(t.bits, 8)
	}
	if len(t.values) != entries {
		return nil, broken(data.String(), "%d bytes for %d entries", len(b), entries)
	}
	return t, nil
}

func (t *lut) at(x int) uint16 { return t.values[max(0, min(x-t.first, len(t.values)-1))] }

// apply maps all samples of a frame and returns them as uint16.
func (t *lut) apply(fr *Frame) []byte {
	size := fr.Type().Size()
	out := make([]byte, 2*fr.FrameLen())
	for i := range fr.FrameLen() {
		binary.LittleEndian.PutUint16(out[2*i:], t.at(fr.sample(i, size)))
	}
	return out
}

// sample returns sample i of an integer frame.
func (fr *Frame) sample(i, size int) int {
	x := getLE(fr.Data[i*size:], size)
	if fr.Signed {
		shift := 64 - 8*size
		return int(int64(x<<shift) >> shift)
	}
	return int(x)
}

// palette looks the colours of a frame up.
func (f *File) palette(fr *Frame) (*volume.Dense, error) {
	tags := [3][3]Tag{
		{RedPaletteColorLookupTableDescriptor, RedPaletteColorLookupTableData, SegmentedRedPaletteColorLookupTableData},
		{GreenPaletteColorLookupTableDescriptor, GreenPaletteColorLookupTableData, SegmentedGreenPaletteColorLookupTableData},
		{BluePaletteColorLookupTableDescriptor, BluePaletteColorLookupTableData, SegmentedBluePaletteColorLookupTableData},
	}
	size := fr.Type().Size()
	out := make([]byte, 3*fr.FrameLen())
	for c, tag := range tags {
		if f.Data.Find(tag[1]) == nil && f.Data.Find(tag[2]) != nil {
			return nil, unsupported("%v", tag[2])
		}
		t, err := f.lut(f.Data, tag[0], tag[1], fr.Signed)
		if err != nil {
			return nil, err
		}
		for i := range fr.FrameLen() {
			out[3*i+c] = to8(uint64(t.at(fr.sample(i, size))), t.bits)
		}
	}
	return &volume.Dense{Type: volume.Uint8, Slope: 1, Data: out}, nil
}

// place returns where frame i lies. ok is false when the file does not say; then only size and spacing are known.
func (f *File) place(p *Pixels, i int) (s volume.Slice, ok bool) {
	s = volume.Slice{Column: volume.Vec{1}, Row: volume.Vec{0, 1}, Spacing: [2]float64{1, 1}, Size: [2]int{p.Columns, p.Rows}}
	for _, g := range []*Dataset{f.group(i, PixelMeasuresSequence), f.Data} {
		if x := g.Floats(PixelSpacing); len(x) == 2 && x[0] > 0 && x[1] > 0 {
			s.Spacing = [2]float64{x[1], x[0]}
			ok = true
			break
		}
	}
	if !ok {
		for _, t := range []Tag{NominalScannedPixelSpacing, ImagerPixelSpacing} {
			if x := f.Data.Floats(t); len(x) == 2 && x[0] > 0 && x[1] > 0 {
				s.Spacing = [2]float64{x[1], x[0]}
				break
			}
		}
		const centimetres = 3
		if r := f.Data.Items(SequenceOfUltrasoundRegions); len(r) == 1 {
			x, _ := r[0].Float(PhysicalDeltaX)
			y, _ := r[0].Float(PhysicalDeltaY)
			ux, _ := r[0].Int(PhysicalUnitsXDirection)
			uy, _ := r[0].Int(PhysicalUnitsYDirection)
			if ux == centimetres && uy == centimetres && x > 0 && y > 0 {
				s.Spacing = [2]float64{10 * x, 10 * y}
			}
		}
	}
	position, orientation := f.group(i, PlanePositionSequence).Floats(ImagePositionPatient), f.group(i, PlaneOrientationSequence).Floats(ImageOrientationPatient)
	along := 0.0
	if position == nil {
		position = f.Data.Floats(ImagePositionPatient)
		if offsets := f.Data.Floats(GridFrameOffsetVector); position != nil && p.Frames > 1 {
			if i >= len(offsets) || len(position) != 3 {
				return s, false
			}
			along = offsets[i] - offsets[0] // those of a dose grid run along the normal from the first plane
		}
	}
	if orientation == nil {
		orientation = f.Data.Floats(ImageOrientationPatient)
	}
	if len(position) != 3 || len(orientation) != 6 || !ok || f.isMosaic() {
		return s, false
	}
	s.Column, s.Row = volume.Vec(orientation[:3]), volume.Vec(orientation[3:])
	s.Position = volume.Vec(position).Add(s.Normal().Scale(along))
	if s.Check() != nil {
		s.Column, s.Row, s.Position = volume.Vec{1}, volume.Vec{0, 1}, volume.Vec{}
		return s, false
	}
	return s, true
}

// depth returns the distance of slices that the header of frame i states, or 0.
func (f *File) depth(i int) float64 {
	g := f.group(i, PixelMeasuresSequence)
	for _, d := range []*Dataset{g, f.Data} {
		for _, t := range []Tag{SpacingBetweenSlices, SliceThickness} {
			if x, _ := d.Float(t); x > 0 {
				return x
			}
		}
	}
	return 0
}

// windows returns the display ranges that the header recommends for frame i.
func (f *File) windows(i int, signed bool) (out []volume.Window) {
	for _, g := range []*Dataset{f.group(i, FrameVOILUTSequence), f.Data} {
		c, w, names := g.Floats(WindowCenter), g.Floats(WindowWidth), g.Texts(WindowCenterWidthExplanation)
		for k := range min(len(c), len(w)) {
			x := volume.Window{Center: c[k], Width: w[k], Function: g.Text(VOILUTFunction)}
			if k < len(names) {
				x.Name = names[k]
			}
			if x.Width > 0 {
				out = append(out, x)
			}
		}
		for _, item := range g.Items(VOILUTSequence) {
			t, err := f.lut(item, LUTDescriptor, LUTData, signed)
			if err != nil {
				continue // a recommendation that cannot be read is none
			}
			x := volume.Window{Name: item.Text(LUTExplanation), First: t.first, Table: make([]float32, len(t.values))}
			for k, v := range t.values {
				x.Table[k] = min(1, float32(v)/float32(int(1)<<t.bits-1))
			}
			out = append(out, x)
		}
		if out != nil {
			return out
		}
	}
	return nil
}

// An OverlayWarning says that an image has graphics in overlay planes, which are left out.
type OverlayWarning struct{ Planes int }

func (e *OverlayWarning) Error() string {
	return fmt.Sprintf("dicom: %d overlay planes were left out", e.Planes)
}

// warnings returns what a reader of the pixels should know.
func (f *File) warnings() (out []error) {
	out = append(out, f.Warnings...)
	planes := 0
	for i := range f.Data.Elements {
		if t := f.Data.Elements[i].Tag; t>>24 == 0x60 && t&0xffff == 0x3000 {
			planes++
		}
	}
	if planes > 0 {
		out = append(out, &OverlayWarning{planes})
	}
	if f.isMosaic() {
		out = append(out, unsupported("placing the small images of a MOSAIC, which is shown as one picture,"))
	}
	if f.Data.Text(BurnedInAnnotation) == "YES" {
		out = append(out, fmt.Errorf("dicom: the header says that text is burned into the image: it may identify the patient"))
	}
	return out
}

// samePixels reports whether frames of two files can be slices of one volume.
func (p *Pixels) samePixels(o *Pixels) bool {
	return p.Rows == o.Rows && p.Columns == o.Columns && (p.channels() == o.channels())
}

func (p *Pixels) channels() int {
	if p.Samples == 3 || p.Photometric == "PALETTE COLOR" {
		return 3
	}
	return 1
}

// isLocalizer reports whether an image is a scout view.
func (f *File) isLocalizer() bool { return slices.Contains(f.Data.Texts(ImageType), "LOCALIZER") }

// isMosaic reports whether the slices of a volume lie side by side in one picture, as Siemens files functional MR. The place
// in the header is then not that of the picture.
func (f *File) isMosaic() bool { return slices.Contains(f.Data.Texts(ImageType), "MOSAIC") }
