// Package sr writes answers in words as DICOM Basic Text Structured Reports.
package sr

import (
	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
)

const (
	classUID = "1.2.840.10008.5.1.4.1.1.88.11"
	// privateScheme is the coding scheme of concepts that no public one has.
	privateScheme = "99UNIBIOMED"
	// Notice is what each report says first.
	Notice = "Research use only. Made by software without a physician; not for diagnosis."
)

// A Report is one answer about one image or volume.
type Report struct {
	dicom.Derivation
	Model       string // name and version of the model
	Instruction string // what was asked, as asked
	Answer      string
	Findings    []string // the phrases that the answer segments
}

// Write writes r as a report on src.
func Write(path string, src *dicom.Stack, r Report) error {
	from := src.Slices[0].File.Data
	d := r.Derive(from, classUID, "SR")
	d.SetItems(dicom.ReferencedPerformedProcedureStepSequence)
	d.SetItems(dicom.PerformedProcedureCodeSequence)
	d.SetText(dicom.CompletionFlag, "COMPLETE")
	d.SetText(dicom.VerificationFlag, "UNVERIFIED")
	d.SetItems(dicom.CurrentRequestedProcedureEvidenceSequence, evidence(src))

	text := func(s string) string { // items are in the character set of the object
		if d.UTF8() {
			return s
		}
		return dicom.ASCII(s)
	}
	d.SetText(dicom.ValueType, "CONTAINER")
	d.SetItems(dicom.ConceptNameCodeSequence, private("1", "Output of a research model").Item())
	d.SetText(dicom.ContinuityOfContent, "SEPARATE")
	observer := content("HAS OBS CONTEXT", "UIDREF", dcm("121012", "Device Observer UID"))
	observer.SetText(dicom.UID, dicom.NewUID())
	kind := content("HAS OBS CONTEXT", "CODE", dcm("121005", "Observer Type"))
	kind.SetItems(dicom.ConceptCodeSequence, dcm("121007", "Device").Item())
	language := content("HAS CONCEPT MOD", "CODE", dcm("121049", "Language of Content Item and Descendants"))
	language.SetItems(dicom.ConceptCodeSequence, dicom.Code{Value: "en", Scheme: "RFC5646", Meaning: "English"}.Item())
	items := []*dicom.Dataset{language, kind, observer}
	say := func(relation string, name dicom.Code, s string) {
		if s = text(s); s == "" {
			return
		}
		item := content(relation, "TEXT", name)
		item.SetParagraph(dicom.TextValue, s)
		items = append(items, item)
	}
	say("HAS OBS CONTEXT", dcm("121013", "Device Observer Name"), r.Software)
	say("HAS OBS CONTEXT", dcm("121015", "Device Observer Model Name"), r.Model)
	say("CONTAINS", private("2", "Notice"), Notice)
	say("CONTAINS", private("3", "Instruction"), r.Instruction)
	say("CONTAINS", private("4", "Answer"), r.Answer)
	for _, f := range r.Findings {
		say("CONTAINS", private("5", "Segmented phrase"), f)
	}
	seen := map[string]bool{}
	for _, s := range src.Slices {
		uid := s.File.Data.Text(dicom.SOPInstanceUID)
		if uid == "" || seen[uid] {
			continue
		}
		seen[uid] = true
		item := content("CONTAINS", "IMAGE", dcm("121080", "Best illustration of finding"))
		item.SetItems(dicom.ReferencedSOPSequence, reference(s.File.Data))
		items = append(items, item)
	}
	d.SetItems(dicom.ContentSequence, items...)
	return dicom.WriteFile(path, d, dicom.ExplicitLittle)
}

func dcm(value, meaning string) dicom.Code {
	return dicom.Code{Value: value, Scheme: "DCM", Meaning: meaning}
}

func private(value, meaning string) dicom.Code {
	return dicom.Code{Value: value, Scheme: privateScheme, Meaning: meaning}
}

func content(relation, kind string, name dicom.Code) *dicom.Dataset {
	item := dicom.NewDataset()
	item.SetText(dicom.RelationshipType, relation)
	item.SetText(dicom.ValueType, kind)
	item.SetItems(dicom.ConceptNameCodeSequence, name.Item())
	return item
}

func reference(image *dicom.Dataset) *dicom.Dataset {
	item := dicom.NewDataset()
	item.SetText(dicom.ReferencedSOPClassUID, image.Text(dicom.SOPClassUID))
	item.SetText(dicom.ReferencedSOPInstanceUID, image.Text(dicom.SOPInstanceUID))
	return item
}

// evidence lists the images that the report is about, by series.
func evidence(src *dicom.Stack) *dicom.Dataset {
	study := dicom.NewDataset()
	study.Copy(src.Slices[0].File.Data, dicom.StudyInstanceUID)
	var series []*dicom.Dataset
	for _, s := range src.References() {
		item := dicom.NewDataset()
		item.SetText(dicom.SeriesInstanceUID, s.Text(dicom.SeriesInstanceUID))
		item.SetItems(dicom.ReferencedSOPSequence, s.Items(dicom.ReferencedInstanceSequence)...)
		series = append(series, item)
	}
	study.SetItems(dicom.ReferencedSeriesSequence, series...)
	return study
}
