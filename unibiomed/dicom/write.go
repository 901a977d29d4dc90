package dicom

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"math"
	"math/big"
	"strconv"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// implementationUID and implementationVersion name this writer in the files it makes. The UID is one of the UUIDs that anyone
// may make without a registration (PS3.5 B.2).
const (
	implementationUID     = "2.25.215138740613482964108316917356047125369"
	implementationVersion = "UNIBIOMED_1"
)

// NewUID returns a new unique identifier, made from a random UUID (PS3.5 B.2).
func NewUID() string {
	var b [16]byte
	if _, err := rand.Read(b[:]); err != nil {
		panic(err) // crypto/rand never fails on supported systems
	}
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return "2.25." + new(big.Int).SetBytes(b[:]).String()
}

// NewDataset returns an empty data set to write.
func NewDataset() *Dataset { return &Dataset{order: binary.LittleEndian} }

// set puts an element in its place and takes the place of one with the same tag.
func (d *Dataset) set(e Element) {
	if e.VR == "" {
		e.VR = "UN"
		if known, ok := dictionary[e.Tag]; ok {
			e.VR = known.vr
		}
	}
	if old := d.Find(e.Tag); old != nil {
		*old = e
		return
	}
	d.Elements = append(d.Elements, e)
	d.sorted()
}

// SetText sets a text element to the given values; without any it is present and empty.
func (d *Dataset) SetText(t Tag, values ...string) {
	d.set(Element{Tag: t, Value: []byte(strings.Join(values, `\`))})
}

// SetFloats sets a number element (DS, FL or FD).
func (d *Dataset) SetFloats(t Tag, values ...float64) {
	e := Element{Tag: t}
	switch dictionary[t].vr {
	case "FD":
		for _, x := range values {
			e.Value = binary.LittleEndian.AppendUint64(e.Value, math.Float64bits(x))
		}
	case "FL":
		for _, x := range values {
			e.Value = binary.LittleEndian.AppendUint32(e.Value, math.Float32bits(float32(x)))
		}
	default:
		s := make([]string, len(values))
		for i, x := range values {
			s[i] = decimal(x)
		}
		e.Value = []byte(strings.Join(s, `\`))
	}
	d.set(e)
}

// decimal writes x in the 16 characters of a DS, as exactly as they can.
func decimal(x float64) string {
	for digits := 17; ; digits-- {
		if s := strconv.FormatFloat(x, 'g', digits, 64); len(s) <= 16 || digits == 1 {
			return s
		}
	}
}

// SetInts sets a number element (IS, US, UL, SL, SS).
func (d *Dataset) SetInts(t Tag, values ...int) {
	e := Element{Tag: t}
	var s []string
	for _, x := range values {
		switch dictionary[t].vr {
		case "US", "SS":
			e.Value = binary.LittleEndian.AppendUint16(e.Value, uint16(x))
		case "UL", "SL":
			e.Value = binary.LittleEndian.AppendUint32(e.Value, uint32(x))
		default:
			s = append(s, strconv.Itoa(x))
		}
	}
	if s != nil {
		e.Value = []byte(strings.Join(s, `\`))
	}
	d.set(e)
}

// SetTags sets an element whose values are tags (AT).
func (d *Dataset) SetTags(t Tag, values ...Tag) {
	e := Element{Tag: t}
	for _, x := range values {
		e.Value = binary.LittleEndian.AppendUint16(e.Value, uint16(x>>16))
		e.Value = binary.LittleEndian.AppendUint16(e.Value, uint16(x))
	}
	d.set(e)
}

// SetBytes sets a binary element (OB, OW) to an uncompressed value.
func (d *Dataset) SetBytes(t Tag, vr string, value []byte) {
	d.set(Element{Tag: t, VR: vr, Value: value})
}

// SetFragments sets the pixel data to compressed frames, one fragment each.
func (d *Dataset) SetFragments(frames ...[]byte) {
	e := Element{Tag: PixelData, VR: "OB", fragments: []span{}}
	for _, f := range frames {
		e.Items = append(e.Items, &Dataset{Elements: []Element{{Value: f}}})
	}
	d.set(e)
}

// SetItems sets a sequence.
func (d *Dataset) SetItems(t Tag, items ...*Dataset) {
	d.set(Element{Tag: t, VR: "SQ", Items: items})
}

// Copy takes over the elements with the given tags from a data set that was read, or leaves them empty where it has
// none. Values too long to be kept are left empty too.
func (d *Dataset) Copy(from *Dataset, tags ...Tag) {
	for _, t := range tags {
		e := Element{Tag: t}
		if src := from.Find(t); src != nil && src.Items == nil {
			if e.VR = src.VR; from.order == binary.BigEndian && !isText(src.VR) {
				e.Value = swapped(src)
			} else {
				e.Value = src.Value
			}
			if known, ok := dictionary[t]; ok && e.VR == "UN" {
				e.VR = known.vr
			}
		}
		d.set(e)
	}
}

func isText(vr string) bool {
	switch vr {
	case "US", "SS", "UL", "SL", "FL", "FD", "AT", "OW", "OF", "OD", "OL", "OV", "SV", "UV":
		return false
	}
	return true
}

func swapped(e *Element) []byte {
	size := map[string]int{"US": 2, "SS": 2, "AT": 2, "OW": 2, "FD": 8, "OD": 8, "OV": 8, "SV": 8, "UV": 8}[e.VR]
	if size == 0 {
		size = 4
	}
	b := append([]byte(nil), e.Value...)
	volume.SwapBytes(b, size)
	return b
}

// WriteFile writes d as a DICOM file at path: whole, or not at all. The transfer syntax must be one of explicit VR, little
// endian; d must have SOP class and instance.
func WriteFile(path string, d *Dataset, syntax string) error {
	class, instance := d.Text(SOPClassUID), d.Text(SOPInstanceUID)
	if class == "" || instance == "" {
		return fmt.Errorf("dicom: a data set without SOP class or instance cannot be a file")
	}
	meta := NewDataset()
	meta.SetBytes(FileMetaInformationVersion, "OB", []byte{0, 1})
	meta.SetText(MediaStorageSOPClassUID, class)
	meta.SetText(MediaStorageSOPInstanceUID, instance)
	meta.SetText(TransferSyntaxUID, syntax)
	meta.SetText(ImplementationClassUID, implementationUID)
	meta.SetText(ImplementationVersionName, implementationVersion)
	group := meta.encode(nil)
	head := NewDataset()
	head.SetInts(FileMetaInformationGroupLength, len(group))
	b := append(make([]byte, 128), "DICM"...)
	b = append(head.encode(b), group...)
	b = d.encode(b)
	return volume.WriteFile(path, func(w io.Writer) error {
		_, err := w.Write(b)
		return err
	})
}

// encode appends the elements in explicit VR, little endian.
func (d *Dataset) encode(b []byte) []byte {
	le := binary.LittleEndian
	for _, e := range d.Elements {
		b = le.AppendUint16(b, uint16(e.Tag>>16))
		b = le.AppendUint16(b, uint16(e.Tag))
		b = append(b, e.VR...)
		value := e.Value
		switch {
		case e.fragments != nil:
			b = le.AppendUint32(append(b, 0, 0), undefined)
			b = appendItem(b, tagItem, 0)
			for _, item := range e.Items {
				f := item.Elements[0].Value
				b = appendItem(b, tagItem, len(f)+len(f)%2)
				if b = append(b, f...); len(f)%2 == 1 {
					b = append(b, 0)
				}
			}
			b = appendItem(b, tagSequenceEnd, 0)
			continue
		case e.VR == "SQ":
			value = nil
			for _, item := range e.Items {
				inside := item.encode(nil)
				value = append(appendItem(value, tagItem, len(inside)), inside...)
			}
		case len(value)%2 == 1:
			pad := byte(' ')
			if e.VR == "UI" || !isText(e.VR) || e.VR == "OB" || e.VR == "UN" {
				pad = 0
			}
			value = append(append(make([]byte, 0, len(value)+1), value...), pad)
		}
		if hasLongLength(e.VR) {
			b = le.AppendUint32(append(b, 0, 0), uint32(len(value)))
		} else {
			b = le.AppendUint16(b, uint16(len(value)))
		}
		b = append(b, value...)
	}
	return b
}

func appendItem(b []byte, t Tag, length int) []byte {
	b = binary.LittleEndian.AppendUint16(b, uint16(t>>16))
	b = binary.LittleEndian.AppendUint16(b, uint16(t))
	return binary.LittleEndian.AppendUint32(b, uint32(length))
}
