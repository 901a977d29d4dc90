// Package examples holds small pictures for trying the command and the library, one a modality: real images that came with software
// packages and may be redistributed (README.md has sources and licences), and phantoms, drawn by this package, where there was none.
// None of them was trained on. Research use only.
package examples

import (
	"bytes"
	"embed"
	"encoding/json"
	"fmt"
	"image"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

//go:embed examples.json *.png *.jpg
var files embed.FS

// An Example is a picture and what can be asked about it.
type Example struct {
	Name     string   `json:"name"`
	File     string   `json:"file"`     // "" for a phantom
	Phantom  string   `json:"phantom"`  // what a phantom shows, "" for a real image
	Modality string   `json:"modality"` // in the words of target phrases
	Title    string   `json:"title"`
	Targets  []string `json:"targets"` // to segment
	Region   [4]int   `json:"box"`     // x, y, width, height in pixels: what to ask the verb region about; of a phantom that of its truth
	Ask      string   `json:"ask"`     // a question
	Licence  string   `json:"licence"`
	Source   string   `json:"source"`
}

// All lists the examples, real images first. The slice belongs to the caller.
func All() ([]Example, error) {
	data, err := files.ReadFile("examples.json")
	if err != nil {
		return nil, err
	}
	var all []Example
	if err := json.Unmarshal(data, &all); err != nil {
		return nil, fmt.Errorf("examples.json: %w", err)
	}
	for i, e := range all {
		if e.Phantom != "" {
			_, truth, err := Phantom(e.Phantom)
			if err != nil {
				return nil, err
			}
			b := truth.Bounds()
			all[i].Region = [4]int{b.Min.X, b.Min.Y, b.Dx(), b.Dy()}
		}
	}
	return all, nil
}

// Box is Region as a rectangle.
func (e Example) Box() image.Rectangle {
	return image.Rect(e.Region[0], e.Region[1], e.Region[0]+e.Region[2], e.Region[1]+e.Region[3])
}

// Open decodes the picture, or draws it. truth is the mask of the first target where it is known, which is for phantoms only, else nil.
func (e Example) Open() (img *imaging.RGB, truth *imaging.Mask, err error) {
	if e.Phantom != "" {
		return Phantom(e.Phantom)
	}
	data, err := files.ReadFile(e.File)
	if err != nil {
		return nil, nil, err
	}
	img, err = imaging.Decode(bytes.NewReader(data), imaging.Options{Name: e.File})
	return img, nil, err
}
