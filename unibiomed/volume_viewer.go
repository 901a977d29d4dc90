package unibiomed

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
	"github.com/unibiomed/go-unibiomed/unibiomed/window"
)

// ViewOptions say how a volume is shown to the model. The zero value is ready to use.
type ViewOptions struct {
	// Plane is axial, coronal, sagittal, stored, or auto, its default: axial; the plane of the stored slices where they are more
	// than twice as thick as their pixels are wide; stored where the volume's place in the patient is unknown.
	Plane string
	// Window is a spec of window.Choose. It defaults to auto, which follows the site that all phrases name ("in abdomen CT"), then
	// what the file says.
	Window string
	// Square pads pictures to squares with black, as the training data were. Without it they are stretched, as the published
	// program does.
	Square bool
	// Phrases are what will be asked for. In files that do not say their modality, phrases that all end in CT say it.
	Phrases []string
}

// A Viewer makes the pictures of a volume that the model sees. It is not safe for concurrent use.
type Viewer struct {
	View   *volume.View
	Window *window.Method
	// Padding is the place of a picture in its square, nil without Square.
	Padding *window.Padding
	// Modality is what the volume, or else the phrases, say.
	Modality string

	values []float32
}

// NewViewer prepares the pictures of v. A plane across the stored slices loads v.
// Errors: InputError, those of volume.
func NewViewer(v *volume.Volume, o ViewOptions) (*Viewer, error) {
	if v == nil || v.Voxels == nil || v.Dims[0] < 1 || v.Dims[1] < 1 || v.Dims[2] < 1 {
		return nil, &InputError{"volume", "has no voxels"}
	}
	plane, err := choosePlane(v, o.Plane)
	if err != nil {
		return nil, err
	}
	shown := hinted(v, o)
	method, err := window.Choose(shown, o.Window)
	if err != nil {
		return nil, &InputError{"window", strings.TrimPrefix(err.Error(), "window: ")}
	}
	view, err := v.View(plane)
	if err != nil {
		return nil, err
	}
	w := &Viewer{View: view, Window: method, Modality: shown.Modality, values: make([]float32, view.Columns*view.Rows*v.Channels)}
	if o.Square {
		p := window.Square(view.Columns, view.Rows)
		w.Padding = &p
	}
	return w, nil
}

// thick is how many times thicker than its pixels are wide a slice may be before the volume is no longer cut across.
const thick = 2

func choosePlane(v *volume.Volume, name string) (volume.Plane, error) {
	if name != "" && name != "auto" {
		p, err := volume.ParsePlane(name)
		if err != nil {
			return 0, &InputError{"plane", fmt.Sprintf("is %q, want auto, axial, coronal, sagittal or stored", name)}
		}
		return p, nil
	}
	if !v.Placed || v.Affine.Check() != nil {
		return volume.Stored, nil
	}
	axis, _ := v.Affine.Nearest()
	own := [3]volume.Plane{volume.Sagittal, volume.Coronal, volume.Axial}[slices.Index(axis[:], 2)]
	if s := v.Affine.Spacing(); v.Dims[2] == 1 || s[2] > thick*max(s[0], s[1]) {
		return own, nil
	}
	return volume.Axial, nil
}

// hinted returns v with what the phrases say of its modality and site, for an automatic window.
func hinted(v *volume.Volume, o ViewOptions) *volume.Volume {
	shown := *v
	if len(o.Phrases) == 0 {
		return &shown
	}
	var site string
	for i, phrase := range o.Phrases {
		words := strings.Fields(strings.ToLower(strings.TrimRight(strings.TrimSpace(phrase), ".")))
		n := len(words)
		if n == 0 || words[n-1] != "ct" {
			return &shown
		}
		s := ""
		if n >= 3 && words[n-3] == "in" {
			s = words[n-2]
		}
		if i == 0 {
			site = s
		} else if s != site {
			site = ""
		}
	}
	if shown.Modality == "" {
		shown.Modality = "CT"
		if shown.Unit == "" {
			shown.Unit = "HU"
		}
	}
	if slices.Contains(window.Presets(), site) || slices.Contains([]string{"chest", "kidney", "spleen"}, site) {
		shown.BodyPart = strings.ToUpper(site)
	}
	return &shown
}

// Pictures is the number of pictures.
func (w *Viewer) Pictures() int { return w.View.Slices }

// Picture returns picture n, counted from 0, padded if the viewer pads.
func (w *Viewer) Picture(n int) (*imaging.RGB, error) {
	if err := w.View.ReadSlice(n, w.values); err != nil {
		return nil, err
	}
	img := imaging.NewRGB(w.View.Columns, w.View.Rows)
	if err := w.Window.RGB(w.values, w.View.Volume.Channels, img.Pix); err != nil {
		return nil, err
	}
	if p := w.Padding; p != nil {
		return &imaging.RGB{Width: p.Side, Height: p.Side, Pix: p.Pad(img.Pix, 3)}, nil
	}
	return img, nil
}

// Crop returns a mask of a picture without the picture's padding.
func (w *Viewer) Crop(m *imaging.Mask) *imaging.Mask {
	if w.Padding == nil {
		return m
	}
	return &imaging.Mask{Width: w.View.Columns, Height: w.View.Rows, Pix: w.Padding.Crop(m.Pix, 1)}
}

// PixelArea returns the area of a pixel in mm². It is not known of files that place nothing in the patient and give no
// spacing, for which readers put 1 mm.
func (w *Viewer) PixelArea() (mm2 float64, known bool) {
	v, s := w.View.Volume, w.View.Spacing()
	return s[0] * s[1], v.Placed || v.Modality == "" || s[0] != 1 || s[1] != 1
}

const (
	airHU     = -500 // below it a CT shows air
	bodyShare = 0.02 // of the pixels of a picture must show body
	sampled   = 16   // pictures that tell how bright body is, other than in CT
	dark      = 0.1  // of that brightness is background
)

// body reports for each of the pictures numbered in picks whether at least 2 % of it shows body: in CT, values above -500
// HU; else, values above a tenth of what the brightest of some pictures reach in their upper percent.
func (w *Viewer) body(picks []int) ([]bool, error) {
	limit := float32(airHU)
	if w.Modality != "CT" || w.View.Volume.Channels == 3 {
		limit = float32(math.Inf(-1))
		for i := range min(sampled, len(picks)) {
			if err := w.View.ReadSlice(picks[i*len(picks)/min(sampled, len(picks))], w.values); err != nil {
				return nil, err
			}
			sorted := slices.DeleteFunc(slices.Clone(w.values), func(x float32) bool { return x != x })
			slices.Sort(sorted)
			if n := len(sorted); n > 0 {
				limit = max(limit, sorted[n-1-n/100])
			}
		}
		limit *= dark
	}
	has := make([]bool, len(picks))
	for i, n := range picks {
		if err := w.View.ReadSlice(n, w.values); err != nil {
			return nil, err
		}
		inside := 0
		for _, x := range w.values {
			if x > limit {
				inside++
			}
		}
		has[i] = float64(inside) >= bodyShare*float64(len(w.values))
	}
	return has, nil
}
