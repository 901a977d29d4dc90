package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/study"
)

// An input is a file to answer about, and the name that its outputs take.
type input struct{ path, name string }

// imageEndings are what a folder is searched for.
var imageEndings = []string{".png", ".jpg", ".jpeg", ".gif", ".tif", ".tiff", ".bmp", ".webp"}

// studyEndings are those of medical files; DICOM often has none.
var studyEndings = []string{".dcm", ".ima", ".dicom", ".nii", ".nii.gz", ".nrrd", ".nhdr", ".mha", ".mhd"}

// expand makes inputs of files, folders (searched in depth) and globs, in name order within each.
func expand(args []string) ([]input, error) {
	var paths []string
	for _, arg := range args {
		info, err := os.Stat(arg)
		switch {
		case err == nil && info.IsDir():
			found, err := imagesIn(arg)
			if err != nil {
				return nil, err
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("%s: no image in this folder (%s)", arg, strings.Join(imageEndings, " "))
			}
			paths = append(paths, found...)
		case err == nil:
			paths = append(paths, arg)
		case errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(arg, "*?["):
			found, globErr := filepath.Glob(arg)
			if globErr != nil {
				return nil, usagef("%s: %v", arg, globErr)
			}
			if len(found) == 0 {
				return nil, fmt.Errorf("%s: no file matches", arg)
			}
			slices.Sort(found)
			paths = append(paths, found...)
		default:
			return nil, err
		}
	}
	inputs := make([]input, len(paths))
	used := map[string]int{}
	for i, path := range paths {
		name := outputName(path)
		used[name]++
		if n := used[name]; n > 1 {
			name = fmt.Sprintf("%s-%d", name, n)
		}
		inputs[i] = input{path: path, name: name}
	}
	return inputs, nil
}

func imagesIn(dir string) ([]string, error) {
	var found []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := strings.ToLower(d.Name())
		if !d.IsDir() && !isOutput(name) && (slices.Contains(imageEndings, filepath.Ext(name)) || isStudy(path, name)) {
			found = append(found, path)
		}
		return nil
	})
	return found, err
}

// isOutput tells our own masks and overlays apart, so that --out may lie inside the folder that is read.
func isOutput(name string) bool {
	for _, end := range []string{".overlay.png", ".sheet.png", ".labels.nii.gz", ".seg.nrrd", ".seg.dcm", ".sr.dcm"} {
		if strings.HasSuffix(name, end) {
			return true
		}
	}
	return strings.Contains(name, ".mask") && (strings.HasSuffix(name, ".png") || strings.HasSuffix(name, ".nii.gz"))
}

// isStudy reports whether the name of a file is that of a medical file, or a name without an ending hides DICOM.
func isStudy(path, name string) bool {
	if slices.ContainsFunc(studyEndings, func(end string) bool { return strings.HasSuffix(name, end) }) {
		return true
	}
	if ext := filepath.Ext(name); len(ext) > 1 && strings.Trim(ext[1:], "0123456789") != "" {
		return false // series are often called by dotted numbers
	}
	format, err := study.Format(path)
	return err == nil && format == "dicom"
}
