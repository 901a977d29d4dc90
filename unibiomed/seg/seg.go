// Package seg writes masks as DICOM Segmentation objects, which viewers lay over the images that they were made on.
package seg

import (
	"fmt"
	"math"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

const (
	classUID   = "1.2.840.10008.5.1.4.1.1.66.4"
	maxFrames  = 1 << 20
	maxPixels  = math.MaxUint32 * 8 // bits that a length field can say
	disclaimer = "Research use only. Not for diagnosis."
)

// An Options says how a segmentation is made. Derivation must name the software.
type Options struct {
	dicom.Derivation
	// Model and ModelVersion name the algorithm in each segment. They default to the software's.
	Model, ModelVersion string
}

// An EmptyError says that there is nothing to write: no mask has a voxel inside, and an object without frames is not valid.
type EmptyError struct{ Segments int }

func (e *EmptyError) Error() string {
	return fmt.Sprintf("seg: all %d segments are empty: there is no frame to write", e.Segments)
}

// Write writes a binary segmentation with one segment a label, in that order, on the frames of src. Slices in which a label is
// empty get no frame. Each label says a phrase, from which the codes of the segment are taken.
func Write(path string, src *dicom.Stack, labels []volume.Label, o Options) error {
	if err := volume.CheckLabels(labels, src.Dims); err != nil {
		return err
	}
	if len(labels) > math.MaxUint16 {
		return fmt.Errorf("seg: %d segments, want at most %d", len(labels), math.MaxUint16)
	}
	if len(src.Slices) != src.Dims[2] {
		return &volume.UnsupportedError{Format: "seg", Feature: "a segmentation on a slide of tiles"}
	}
	from := src.Slices[0].File.Data
	d := o.Derive(from, classUID, "SEG")
	placed := src.Placed && from.Text(dicom.FrameOfReferenceUID) != ""
	if placed {
		d.Copy(from, dicom.FrameOfReferenceUID, dicom.PositionReferenceIndicator)
	} else {
		d.Copy(from, dicom.PatientOrientation)
	}
	w := &writer{src: src, labels: labels, d: d, placed: placed, options: o}
	frames, pixels, err := w.frames()
	if err != nil {
		return err
	}
	w.image(len(frames), pixels)
	w.segments()
	w.dimensions()
	d.SetItems(dicom.SharedFunctionalGroupsSequence, w.shared())
	d.SetItems(dicom.PerFrameFunctionalGroupsSequence, frames...)
	d.SetItems(dicom.ReferencedSeriesSequence, w.sources()...)
	return dicom.WriteFile(path, d, dicom.ExplicitLittle)
}

type writer struct {
	src     *dicom.Stack
	labels  []volume.Label
	d       *dicom.Dataset
	placed  bool
	options Options
}

// text keeps what the character set of the object can hold, for items, which name none of their own.
func (w *writer) text(s string) string {
	if w.d.UTF8() {
		return s
	}
	return dicom.ASCII(s)
}

// image sets the description of the pixels and of the object.
func (w *writer) image(frames int, pixels []byte) {
	d := w.d
	d.SetText(dicom.ImageType, "DERIVED", "PRIMARY")
	d.SetText(dicom.ContentLabel, "SEGMENTATION")
	d.SetLine(dicom.ContentDescription, disclaimer)
	d.SetText(dicom.ContentCreatorName)
	d.SetText(dicom.SegmentationType, "BINARY")
	d.SetText(dicom.LossyImageCompression, "00")
	for _, x := range w.src.Slices { // what came from lossy pixels stays marked
		if x.File.Data.Text(dicom.LossyImageCompression) == "01" {
			d.Copy(x.File.Data, dicom.LossyImageCompression)
			for _, t := range []dicom.Tag{dicom.LossyImageCompressionRatio, dicom.LossyImageCompressionMethod} {
				if x.File.Data.Find(t) != nil {
					d.Copy(x.File.Data, t)
				}
			}
			break
		}
	}
	d.SetInts(dicom.NumberOfFrames, frames)
	d.SetInts(dicom.Rows, w.src.Dims[1])
	d.SetInts(dicom.Columns, w.src.Dims[0])
	d.SetText(dicom.PhotometricInterpretation, "MONOCHROME2")
	d.SetInts(dicom.SamplesPerPixel, 1)
	d.SetInts(dicom.BitsAllocated, 1)
	d.SetInts(dicom.BitsStored, 1)
	d.SetInts(dicom.HighBit, 0)
	d.SetInts(dicom.PixelRepresentation, 0)
	d.SetBytes(dicom.PixelData, "OB", pixels)
}

// segments sets the description of each segment.
func (w *writer) segments() {
	model, version := w.options.Model, w.options.ModelVersion
	if model == "" {
		model, version = w.options.Software, w.options.Version
	}
	var items []*dicom.Dataset
	for i, l := range w.labels {
		s := dicom.NewDataset()
		s.SetInts(dicom.SegmentNumber, i+1)
		name := l.Name
		if name == "" {
			name = fmt.Sprintf("segment %d", i+1)
		}
		s.SetLine(dicom.SegmentLabel, w.text(name))
		s.SetParagraph(dicom.SegmentDescription, w.text(name))
		s.SetText(dicom.SegmentAlgorithmType, "AUTOMATIC")
		s.SetLine(dicom.SegmentAlgorithmName, w.text(model))
		a := dicom.NewDataset()
		a.SetItems(dicom.AlgorithmFamilyCodeSequence, dicom.Code{Value: "123110", Scheme: "DCM", Meaning: "Artificial Intelligence"}.Item())
		a.SetLine(dicom.AlgorithmName, w.text(model))
		a.SetLine(dicom.AlgorithmVersion, w.text(version))
		s.SetItems(dicom.SegmentationAlgorithmIdentificationSequence, a)
		c := CodingOf(l.Name)
		s.SetItems(dicom.SegmentedPropertyCategoryCodeSequence, c.Category.Item())
		t := c.Type.Item()
		if c.Side != nil {
			t.SetItems(dicom.SegmentedPropertyTypeModifierCodeSequence, c.Side.Item())
		}
		s.SetItems(dicom.SegmentedPropertyTypeCodeSequence, t)
		lab := cielab(l.Color)
		s.SetInts(dicom.RecommendedDisplayCIELabValue, lab[0], lab[1], lab[2])
		items = append(items, s)
	}
	w.d.SetItems(dicom.SegmentSequence, items...)
}

// dimensions says what the frames are sorted by: the segment, then the place.
func (w *writer) dimensions() {
	uid := dicom.NewUID()
	org := dicom.NewDataset()
	org.SetText(dicom.DimensionOrganizationUID, uid)
	w.d.SetItems(dicom.DimensionOrganizationSequence, org)
	index := func(pointer, group dicom.Tag, label string) *dicom.Dataset {
		x := dicom.NewDataset()
		x.SetText(dicom.DimensionOrganizationUID, uid)
		x.SetTags(dicom.DimensionIndexPointer, pointer)
		x.SetTags(dicom.FunctionalGroupPointer, group)
		x.SetLine(dicom.DimensionDescriptionLabel, label)
		return x
	}
	items := []*dicom.Dataset{index(dicom.ReferencedSegmentNumber, dicom.SegmentIdentificationSequence, "Segment Number")}
	if w.placed {
		items = append(items, index(dicom.ImagePositionPatient, dicom.PlanePositionSequence, "Image Position Patient"))
	} else {
		items = append(items, index(dicom.InStackPositionNumber, dicom.FrameContentSequence, "In-Stack Position Number"))
	}
	w.d.SetItems(dicom.DimensionIndexSequence, items...)
}

// shared returns the functional groups that all frames have.
func (w *writer) shared() *dicom.Dataset {
	g := dicom.NewDataset()
	a := w.src.Affine
	s := a.Spacing()
	m := dicom.NewDataset()
	m.SetFloats(dicom.PixelSpacing, s[1], s[0])
	// Along the normal: the steps of a leaning stack are longer than its slices are apart.
	apart := math.Abs(a.Step(2).Dot(a.Step(0).Cross(a.Step(1)).Unit()))
	m.SetFloats(dicom.SliceThickness, apart)
	m.SetFloats(dicom.SpacingBetweenSlices, apart)
	if w.placed {
		g.SetItems(dicom.PixelMeasuresSequence, m)
		o := dicom.NewDataset()
		c, r := a.Step(0).Unit(), a.Step(1).Unit()
		o.SetFloats(dicom.ImageOrientationPatient, c[0], c[1], c[2], r[0], r[1], r[2])
		g.SetItems(dicom.PlaneOrientationSequence, o)
	}
	return g
}

// frames returns the functional groups of each frame and the packed pixels.
func (w *writer) frames() (groups []*dicom.Dataset, pixels []byte, err error) {
	n := w.src.Dims[0] * w.src.Dims[1]
	slice, bit := make([]uint8, n), 0
	for i, l := range w.labels {
		for k := range w.src.Dims[2] {
			if !l.Mask.Slice(k, slice) {
				continue
			}
			if len(groups) == maxFrames || int64(bit)+int64(n) > maxPixels {
				return nil, nil, &volume.LimitError{Format: "seg", Field: dicom.NumberOfFrames.String(), Want: int64(len(groups)) + 1, Limit: int64(len(groups))}
			}
			for (bit+n+7)/8 > len(pixels) {
				pixels = append(pixels, make([]byte, (bit+n+7)/8-len(pixels))...)
			}
			for _, in := range slice { // frames follow each other bit by bit
				pixels[bit>>3] |= in << (bit & 7)
				bit++
			}
			groups = append(groups, w.frame(i, k))
		}
	}
	if groups == nil {
		return nil, nil, &EmptyError{len(w.labels)}
	}
	if len(pixels)%2 == 1 {
		pixels = append(pixels, 0)
	}
	return groups, pixels, nil
}

// frame returns the functional groups of label i in slice k.
func (w *writer) frame(i, k int) *dicom.Dataset {
	g := dicom.NewDataset()
	content := dicom.NewDataset()
	content.SetInts(dicom.DimensionIndexValues, i+1, k+1)
	if !w.placed {
		content.SetText(dicom.StackID, "1")
		content.SetInts(dicom.InStackPositionNumber, k+1)
	}
	g.SetItems(dicom.FrameContentSequence, content)

	ref := w.src.Slices[k]
	image := dicom.NewDataset()
	image.Copy(ref.File.Data, dicom.SOPClassUID, dicom.SOPInstanceUID)
	source := dicom.NewDataset()
	source.SetText(dicom.ReferencedSOPClassUID, image.Text(dicom.SOPClassUID))
	source.SetText(dicom.ReferencedSOPInstanceUID, image.Text(dicom.SOPInstanceUID))
	if p, err := ref.File.Pixels(); err == nil && p.Frames > 1 {
		source.SetInts(dicom.ReferencedFrameNumber, ref.Frame+1)
	}
	source.SetItems(dicom.PurposeOfReferenceCodeSequence, dicom.Code{Value: "121322", Scheme: "DCM", Meaning: "Source image for image processing operation"}.Item())
	derivation := dicom.NewDataset()
	derivation.SetItems(dicom.DerivationCodeSequence, dicom.Code{Value: "113076", Scheme: "DCM", Meaning: "Segmentation"}.Item())
	derivation.SetItems(dicom.SourceImageSequence, source)
	g.SetItems(dicom.DerivationImageSequence, derivation)

	if w.placed {
		p := w.src.Affine.Apply(volume.Vec{0, 0, float64(k)})
		if w.src.Positions != nil {
			p = w.src.Positions[k]
		}
		place := dicom.NewDataset()
		place.SetFloats(dicom.ImagePositionPatient, p[0], p[1], p[2])
		g.SetItems(dicom.PlanePositionSequence, place)
	}
	id := dicom.NewDataset()
	id.SetInts(dicom.ReferencedSegmentNumber, i+1)
	g.SetItems(dicom.SegmentIdentificationSequence, id)
	return g
}

// sources returns the source images by series.
func (w *writer) sources() []*dicom.Dataset { return w.src.References() }

// cielab returns an sRGB colour as DICOM writes CIELab: L* of 0 to 100 and a*, b* of -128 to 127, each over 16 bits.
func cielab(c [3]uint8) [3]int {
	var lin [3]float64
	for i, x := range c {
		if v := float64(x) / 255; v <= 0.04045 {
			lin[i] = v / 12.92
		} else {
			lin[i] = math.Pow((v+0.055)/1.055, 2.4)
		}
	}
	f := func(r, g, b, white float64) float64 { // to XYZ relative to the white of D50
		t := (r*lin[0] + g*lin[1] + b*lin[2]) / white
		if t > 216.0/24389 {
			return math.Cbrt(t)
		}
		return (24389.0/27*t + 16) / 116
	}
	x, y, z := f(0.4360747, 0.3850649, 0.1430804, 0.96422), f(0.2225045, 0.7168786, 0.0606169, 1), f(0.0139322, 0.0971045, 0.7141733, 0.82521)
	clip := func(v float64) int { return int(max(0, min(65535, math.Round(v)))) }
	return [3]int{clip((116*y - 16) / 100 * 65535), clip((500*(x-y) + 128) / 255 * 65535), clip((200*(y-z) + 128) / 255 * 65535)}
}
