package dicom

import (
	"strings"
	"time"
)

// A Code is a concept of a coding scheme.
type Code struct{ Value, Scheme, Meaning string }

// Item returns c as the item of a code sequence.
func (c Code) Item() *Dataset {
	d := NewDataset()
	d.SetText(CodeValue, c.Value)
	d.SetText(CodingSchemeDesignator, c.Scheme)
	d.SetText(CodeMeaning, c.Meaning)
	return d
}

// A Derivation says who makes an object from an image and when. Its zero value is no good: Software must be named.
type Derivation struct {
	Software, Version string
	SeriesNumber      int
	SeriesDescription string
	Time              time.Time // now, if it is zero
}

// Derive starts an object of a series of its own in the study of the image from: patient and study are taken over, as the
// standard demands, and the maker is named.
func (o Derivation) Derive(from *Dataset, class, modality string) *Dataset {
	d := NewDataset()
	d.Copy(from, PatientName, PatientID, PatientBirthDate, PatientSex, StudyInstanceUID, StudyDate, StudyTime, ReferringPhysicianName,
		StudyID, AccessionNumber)
	if d.Text(StudyInstanceUID) == "" {
		d.SetText(StudyInstanceUID, NewUID())
	}
	for _, t := range []Tag{PatientAge, PatientWeight, StudyDescription} {
		if from.Find(t) != nil {
			d.Copy(from, t)
		}
	}
	// Names of patients stay in the bytes of their character set. Where that is ASCII or UTF-8, the object is in UTF-8.
	switch set := strings.Join(from.Texts(SpecificCharacterSet), `\`); set {
	case "", "ISO_IR 6", "ISO 2022 IR 6", "ISO_IR 192":
		d.SetText(SpecificCharacterSet, "ISO_IR 192")
	default:
		d.SetText(SpecificCharacterSet, set)
	}
	now := o.Time
	if now.IsZero() {
		now = time.Now()
	}
	date, clock := now.Format("20060102"), now.Format("150405")
	for _, t := range []Tag{InstanceCreationDate, SeriesDate, ContentDate} {
		d.SetText(t, date)
	}
	for _, t := range []Tag{InstanceCreationTime, SeriesTime, ContentTime} {
		d.SetText(t, clock)
	}
	d.SetText(SOPClassUID, class)
	d.SetText(SOPInstanceUID, NewUID())
	d.SetText(Modality, modality)
	d.SetText(SeriesInstanceUID, NewUID())
	d.SetInts(SeriesNumber, max(1, o.SeriesNumber))
	d.SetLine(SeriesDescription, o.SeriesDescription)
	d.SetInts(InstanceNumber, 1)
	d.SetLine(Manufacturer, o.Software)
	d.SetLine(ManufacturerModelName, o.Software)
	d.SetText(DeviceSerialNumber, "1")
	d.SetLine(SoftwareVersions, o.Version)
	return d
}

// SetLine sets a text of one line and value (LO, at most 64 characters): characters that would end or split it become
// spaces, and those that the character set of d lacks become question marks.
func (d *Dataset) SetLine(t Tag, s string) {
	limit := 64
	switch dictionary[t].vr {
	case "SH", "CS":
		limit = 16
	}
	runes := []rune(strings.Join(strings.FieldsFunc(d.representable(s), func(r rune) bool { return r <= ' ' || r == '\\' || r == 0x7f }), " "))
	d.SetText(t, strings.TrimSpace(string(runes[:min(len(runes), limit)])))
}

// SetParagraph sets a longer text (ST, UT), in which line ends are kept.
func (d *Dataset) SetParagraph(t Tag, s string) {
	s = strings.Map(func(r rune) rune {
		if r < ' ' && r != '\n' && r != '\r' && r != '\t' || r == 0x7f {
			return -1
		}
		return r
	}, d.representable(s))
	d.SetText(t, strings.TrimSpace(s))
}

// representable replaces what the character set of d cannot hold. Items of sequences do not name theirs: they get UTF-8, and the
// caller puts them only into objects that have it.
func (d *Dataset) representable(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if set := d.Text(SpecificCharacterSet); set == "" || set == "ISO_IR 192" {
		return s
	}
	return ASCII(s)
}

// ASCII replaces every character beyond ASCII by a question mark.
func ASCII(s string) string {
	return strings.Map(func(r rune) rune {
		if r > 0x7e {
			return '?'
		}
		return r
	}, s)
}

// UTF8 reports whether text in d may hold any character.
func (d *Dataset) UTF8() bool { return d.Text(SpecificCharacterSet) == "ISO_IR 192" }

// References returns the instances of a stack as the items of a Referenced Series Sequence.
func (st *Stack) References() []*Dataset {
	var series []string
	instances := map[string][]*Dataset{}
	seen := map[string]bool{}
	for _, r := range st.Slices {
		class, uid, s := r.File.Data.Text(SOPClassUID), r.File.Data.Text(SOPInstanceUID), r.File.Data.Text(SeriesInstanceUID)
		if uid == "" || seen[uid] {
			continue
		}
		seen[uid] = true
		if instances[s] == nil {
			series = append(series, s)
		}
		item := NewDataset()
		item.SetText(ReferencedSOPClassUID, class)
		item.SetText(ReferencedSOPInstanceUID, uid)
		instances[s] = append(instances[s], item)
	}
	var out []*Dataset
	for _, s := range series {
		item := NewDataset()
		item.SetText(SeriesInstanceUID, s)
		item.SetItems(ReferencedInstanceSequence, instances[s]...)
		out = append(out, item)
	}
	return out
}
