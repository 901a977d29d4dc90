// Package study opens whatever medical file or folder a person names: DICOM files and folders, NIfTI, NRRD and MetaImage.
package study

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	_ "github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs" // JPEG-LS, JPEG 2000
	"github.com/unibiomed/go-unibiomed/unibiomed/mha"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/nrrd"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Options choose how files are read. The zero value is ready to use.
type Options struct {
	volume.Limits
	// Frame is the image to read of NIfTI, NRRD or MetaImage files that hold several, counted from 0.
	Frame int
	// Activity leaves PET in the unit of the file instead of SUV.
	Activity bool
	// Modality is a DICOM code (CT, MR, ...) for files that do not say theirs.
	Modality string
}

// An Item is one volume, or one picture as a volume of one slice.
type Item struct {
	*volume.Volume
	// Name is what results of this item are called, free of identifiers: "" for the only volume of a file, else such as
	// "study1-series3-2".
	Name string
	// Stack is set for DICOM: it says which frames the slices come from, which DICOM results refer to.
	Stack *dicom.Stack
}

// A Study is what one path holds.
type Study struct {
	Format string // dicom, nifti, nrrd or mha
	Items  []Item
	// Errors has an error for each file of a folder that could not be used; they stopped nothing else.
	Errors []error
	// Skipped counts files of a folder that are not DICOM.
	Skipped int
}

// Format returns the format of the file or folder at path by its content, and by its name where the content is packed: dicom
// (also for any folder), nifti, nrrd, mha, or "" for anything else, such as a PNG.
func Format(path string) (string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if info.IsDir() {
		return "dicom", nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head := make([]byte, 352)
	n, err := io.ReadFull(f, head)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return "", err
	}
	head = head[:n]
	name := strings.ToLower(path)
	named := func(ends ...string) bool {
		for _, e := range ends {
			if strings.HasSuffix(name, e) {
				return true
			}
		}
		return false
	}
	switch {
	case bytes.HasPrefix(head, []byte("NRRD000")):
		return "nrrd", nil
	case n >= 132 && string(head[128:132]) == "DICM":
		return "dicom", nil
	case n >= 348 && (string(head[344:347]) == "n+1" || string(head[344:347]) == "ni1"), n >= 8 && (string(head[4:7]) == "n+2" || string(head[4:7]) == "ni2"):
		return "nifti", nil
	case named(".nii", ".nii.gz", ".hdr", ".hdr.gz", ".img", ".img.gz"):
		return "nifti", nil
	case named(".nrrd", ".nhdr"):
		return "nrrd", nil
	case named(".mha", ".mhd"):
		return "mha", nil
	case named(".dcm", ".ima", ".dicom"):
		return "dicom", nil
	}
	return "", nil
}

// Open reads the headers of what is at path; voxels of DICOM are read when asked for. A path of another format, or a folder
// without DICOM images, is a [volume.UnsupportedError].
func Open(ctx context.Context, path string, o Options) (*Study, error) {
	format, err := Format(path)
	if err != nil {
		return nil, err
	}
	s := &Study{Format: format}
	var v *volume.Volume
	switch format {
	case "dicom":
		if err = s.dicom(ctx, path, o); err != nil {
			return nil, err
		}
	case "nifti":
		v, err = nifti.Read(path, nifti.Options{Limits: o.Limits, Frame: o.Frame})
	case "nrrd":
		v, err = nrrd.Read(path, nrrd.Options{Limits: o.Limits, Frame: o.Frame})
	case "mha":
		v, err = mha.Read(path, mha.Options{Limits: o.Limits, Frame: o.Frame})
	default:
		err = &volume.UnsupportedError{Format: "study", File: path, Feature: "a format that is not DICOM, NIfTI, NRRD or MetaImage"}
	}
	if err != nil {
		return nil, err
	}
	if v != nil {
		s.Items = []Item{{Volume: v}}
	}
	for _, item := range s.Items {
		if item.Modality == "" {
			item.Modality = o.Modality
			if o.Modality == "CT" && item.Unit == "" {
				item.Unit = "HU"
			}
		}
	}
	return s, nil
}

func (s *Study) dicom(ctx context.Context, path string, o Options) error {
	folder, err := dicom.Scan(ctx, path)
	if err != nil {
		return err
	}
	s.Errors, s.Skipped = folder.Errors, folder.Skipped
	for i, study := range folder.Studies {
		for _, series := range study.Series {
			stacks, err := series.Stacks(dicom.Options{Limits: o.Limits, Activity: o.Activity})
			if err != nil {
				s.Errors = append(s.Errors, err)
				continue
			}
			for k, st := range stacks {
				item := Item{Volume: st.Volume, Stack: st, Name: fmt.Sprintf("study%d-series%d", i+1, series.Number)}
				if len(stacks) > 1 {
					item.Name += fmt.Sprintf("-%d", k+1)
				}
				s.Items = append(s.Items, item)
			}
		}
	}
	if len(s.Items) == 0 {
		if len(s.Errors) > 0 {
			return s.Errors[0]
		}
		return &volume.UnsupportedError{Format: "study", File: path, Feature: "a folder without DICOM images"}
	}
	if len(s.Items) == 1 {
		s.Items[0].Name = ""
	}
	s.unique()
	return nil
}

// unique tells items of equal names apart: series may share a number.
func (s *Study) unique() {
	seen := map[string]int{}
	for i := range s.Items {
		name := s.Items[i].Name
		if seen[name]++; seen[name] > 1 {
			s.Items[i].Name = fmt.Sprintf("%s~%d", name, seen[name])
		}
	}
}
