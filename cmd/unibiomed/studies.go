package main

import (
	"context"
	"fmt"
	"image"
	"image/color"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
	"github.com/unibiomed/go-unibiomed/unibiomed/seg"
	"github.com/unibiomed/go-unibiomed/unibiomed/sr"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// studyFlags say how DICOM, NIfTI, NRRD and MetaImage are read and shown to the model.
type studyFlags struct {
	Window          string `default:"auto" placeholder:"W" help:"Of DICOM, NIfTI ...: auto; abdomen, lung, pelvis, liver, colon, pancreas; percentile; header, header:N; LOW..HIGH; levels."`
	Plane           string `default:"auto" enum:"auto,axial,coronal,sagittal,stored" help:"Plane of a volume's slices: auto, axial, coronal, sagittal, stored."`
	Square          bool   `help:"Pad slices of studies to squares, as the training data were, instead of stretching them."`
	Frame           int    `placeholder:"N" help:"Which image of a NIfTI, NRRD or MetaImage file that holds several, or page of a TIFF, from 0."`
	Modality        string `placeholder:"CODE" help:"DICOM code, such as CT or MR, of files that do not say theirs."`
	WithIdentifiers bool   `help:"Put what names the patient and the study into the JSON."`
}

func (f studyFlags) openStudy(ctx context.Context, path string) (*study.Study, error) {
	if f.Frame < 0 {
		return nil, usagef("--frame: %d, want 0 or more", f.Frame)
	}
	s, err := study.Open(ctx, path, study.Options{Frame: f.Frame, Modality: strings.ToUpper(f.Modality)})
	if err != nil {
		return nil, err
	}
	// Masks that lie beside their images are not asked about.
	var images []study.Item
	for _, item := range s.Items {
		if item.Modality != "SEG" {
			images = append(images, item)
		}
	}
	if len(images) > 0 {
		s.Items = images
	}
	return s, nil
}

func (f studyFlags) view(phrases []string) unibiomed.ViewOptions {
	return unibiomed.ViewOptions{Plane: f.Plane, Window: f.Window, Square: f.Square, Phrases: phrases}
}

// A source is a picture to answer about, and where it comes from.
type source struct {
	image  *imaging.RGB // in its own grid
	shown  *imaging.RGB // what the model sees: padded, with --square
	item   *study.Item  // nil for an ordinary picture
	viewer *unibiomed.Viewer
	number int // of the picture in its plane
}

// load decodes a picture, or shows one slice of a study.
func (f answerFlags) load(ctx context.Context, path string) (*source, error) {
	format, err := study.Format(path)
	if err != nil {
		return nil, err
	}
	if format == "" {
		img, err := imaging.DecodeFile(path, f.imaging())
		return &source{image: img, shown: img}, err
	}
	s, err := f.openStudy(ctx, path)
	if err != nil {
		return nil, err
	}
	if len(s.Items) != 1 {
		return nil, fmt.Errorf("%s: holds %d images of different sizes or places, want one", path, len(s.Items))
	}
	viewer, err := unibiomed.NewViewer(s.Items[0].Volume, f.view(nil))
	if err != nil {
		return nil, err
	}
	n := 0
	switch {
	case f.Slice != nil:
		n = *f.Slice
	case viewer.Pictures() > 1:
		return nil, fmt.Errorf("%s: holds %d slices in the %s plane: choose one with --slice, or use the verb segment", path, viewer.Pictures(), viewer.View.Plane)
	}
	if n < 0 || n >= viewer.Pictures() {
		return nil, fmt.Errorf("%s: --slice %d: the %s plane has 0 to %d", path, n, viewer.View.Plane, viewer.Pictures()-1)
	}
	img, err := viewer.Picture(n)
	if err != nil {
		return nil, err
	}
	return &source{image: unpadded(viewer, img), shown: img, item: &s.Items[0], viewer: viewer, number: n}, nil
}

// unpadded returns a picture without its padding.
func unpadded(w *unibiomed.Viewer, img *imaging.RGB) *imaging.RGB {
	if w.Padding == nil {
		return img
	}
	return &imaging.RGB{Width: w.View.Columns, Height: w.View.Rows, Pix: w.Padding.Crop(img.Pix, 3)}
}

// asked makes the job see the padded picture, and takes what it finds to the slice's own grid, with areas.
func (s *source) asked(do job) job {
	if s.viewer == nil {
		return do
	}
	return func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		in.Image = s.shown
		res, err := do(ctx, p, in, o)
		if err == nil {
			s.measure(res)
		}
		return res, err
	}
}

func (s *source) measure(res *unibiomed.Result) {
	res.Image.Width, res.Image.Height = s.image.Width, s.image.Height
	findings := [][]unibiomed.Finding{res.Findings}
	for i := range res.Turns {
		findings = append(findings, res.Turns[i].Findings)
	}
	pixel, known := s.viewer.PixelArea()
	for _, fs := range findings {
		for i := range fs {
			if f := &fs[i]; s.viewer.Padding != nil && f.Bits != nil && f.Bits.Width == s.shown.Width && f.Bits.Height == s.shown.Height {
				f.Bits = s.viewer.Crop(f.Bits)
				f.AreaPx, f.Mask = f.Bits.Area(), &unibiomed.MaskRef{RLE: rle.Encode(f.Bits)}
				r := f.Bits.Bounds()
				if f.BBox = [4]int{r.Min.X, r.Min.Y, r.Dx(), r.Dy()}; f.AreaPx == 0 {
					f.Status = unibiomed.Empty
				}
			}
			if known {
				area := float64(fs[i].AreaPx) * pixel
				fs[i].AreaMM2 = &area
			}
		}
	}
}

// extra writes the answer about a DICOM image as DICOM: a report, and a segmentation where a mask has a pixel.
func (s *source) extra(name string) func(*batch, *unibiomed.Result) error {
	if s.item == nil || s.item.Stack == nil {
		return nil
	}
	return func(b *batch, res *unibiomed.Result) error {
		stack, view := s.item.Stack, s.viewer.View
		turns := res.Turns
		if len(turns) == 0 {
			turns = []unibiomed.Turn{res.Turn}
		}
		var labels []volume.Label
		var instructions, answers, phrases []string
		for _, t := range turns {
			instructions, answers = append(instructions, t.Prompt), append(answers, t.Answer)
			for _, f := range t.Findings {
				phrases = append(phrases, f.Phrase)
				if f.Bits != nil && f.AreaPx > 0 {
					m := volume.NewMask(stack.Dims)
					if err := view.PutMask(m, s.number, f.Bits.Pix); err != nil {
						return err
					}
					labels = append(labels, label(len(labels), f.Phrase, m))
				}
			}
		}
		if err := writeSR(b, name, stack, res.Model, strings.Join(instructions, "\n"), strings.Join(answers, "\n"), phrases); err != nil {
			return err
		}
		if len(labels) > 0 && len(stack.Slices) == stack.Dims[2] {
			return writeSEG(b, name, stack, res.Model, labels)
		}
		return nil
	}
}

func writeSR(b *batch, name string, stack *dicom.Stack, m unibiomed.ModelRef, instruction, answer string, phrases []string) error {
	return b.addPath(name+".sr.dcm", func(path string) error {
		return sr.Write(path, stack, sr.Report{
			Derivation: derivation(9002, "Answer of a research model"), Model: m.Name,
			Instruction: instruction, Answer: answer, Findings: phrases,
		})
	})
}

func writeSEG(b *batch, name string, stack *dicom.Stack, m unibiomed.ModelRef, labels []volume.Label) error {
	return b.addPath(name+".seg.dcm", func(path string) error {
		return seg.Write(path, stack, labels, seg.Options{
			Derivation: derivation(9001, "Segmentation by a research model"), Model: m.Name, ModelVersion: m.SHA256[:min(len(m.SHA256), 12)],
		})
	})
}

func derivation(number int, description string) dicom.Derivation {
	return dicom.Derivation{Software: "unibiomed", Version: version, SeriesNumber: number, SeriesDescription: description}
}

// identifiers are what --with-identifiers shows.
func identifiers(item study.Item) map[string]string {
	if item.Stack == nil {
		return nil
	}
	d, ids := item.Stack.Slices[0].File.Data, map[string]string{}
	for name, tag := range map[string]dicom.Tag{
		"patient_id": dicom.PatientID, "patient_name": dicom.PatientName, "study_date": dicom.StudyDate, "accession_number": dicom.AccessionNumber,
		"study_instance_uid": dicom.StudyInstanceUID, "series_instance_uid": dicom.SeriesInstanceUID, "frame_of_reference_uid": dicom.FrameOfReferenceUID,
	} {
		if text := d.Text(tag); text != "" {
			ids[name] = text
		}
	}
	return ids
}

// --------------------------------------------------------------------------------------------------------------- info

// An itemDocument says what was read of one volume or picture, and how the model would see it.
type itemDocument struct {
	Name        string            `json:"name,omitempty"`
	Modality    string            `json:"modality,omitempty"`
	BodyPart    string            `json:"body_part,omitempty"`
	Unit        string            `json:"unit,omitempty"`
	Size        [3]int            `json:"size"` // columns, rows, slices
	Channels    int               `json:"channels"`
	SpacingMM   [3]float64        `json:"spacing_mm"`
	Orientation string            `json:"orientation,omitempty"` // where columns, rows and slices lead
	AffineLPS   volume.Affine     `json:"affine_lps"`
	Placed      bool              `json:"placed"`
	Even        bool              `json:"evenly_spaced"`
	Plane       string            `json:"plane"`
	Pictures    int               `json:"pictures"`
	Width       int               `json:"width"`
	Height      int               `json:"height"`
	Window      string            `json:"window"`
	Windows     []string          `json:"header_windows"`
	Tiles       int               `json:"tiles,omitempty"` // of a picture, for the model at hand
	Sheet       string            `json:"contact_sheet,omitempty"`
	Warnings    []string          `json:"warnings"`
	Identifiers map[string]string `json:"identifiers,omitempty"`
}

func (c *infoCmd) study(ctx context.Context, s *streams, path string) error {
	st, err := c.openStudy(ctx, path)
	if err != nil {
		return err
	}
	doc := struct {
		Schema  string         `json:"schema"`
		Kind    string         `json:"kind"`
		File    string         `json:"file"`
		Format  string         `json:"format"`
		Items   []itemDocument `json:"items"`
		Errors  []string       `json:"errors"`
		Skipped int            `json:"skipped"` // files of a folder that are of another kind
		Model   string         `json:"model,omitempty"`
	}{Schema: "unibiomed.info/1", Kind: "study", File: path, Format: st.Format, Items: []itemDocument{}, Errors: []string{}, Skipped: st.Skipped}
	for _, err := range st.Errors {
		doc.Errors = append(doc.Errors, err.Error())
	}
	var sizes *bindings.Info
	if dir, err := c.dir(); err == nil {
		p, err := unibiomed.Open(ctx, dir, c.options())
		if err != nil {
			return err
		}
		i := p.Info()
		p.Close()
		sizes, doc.Model = &i, dir
	} else if c.Model != "" {
		return err
	}
	if c.Out != "" {
		if err := (answerFlags{Out: c.Out}).checkOut(); err != nil {
			return err
		}
	}
	for _, item := range st.Items {
		if err := ctx.Err(); err != nil {
			return err
		}
		d, err := c.item(path, item, sizes)
		if err != nil {
			doc.Errors = append(doc.Errors, strings.TrimSpace(item.Name+" "+err.Error()))
			continue
		}
		doc.Items = append(doc.Items, *d)
	}
	if c.JSON {
		return encodeJSON(s.out, doc, true)
	}
	t := tabwriter.NewWriter(s.out, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s: %s, %d volumes or pictures", path, st.Format, len(doc.Items))
	if st.Skipped > 0 {
		fmt.Fprintf(t, ", %d other files", st.Skipped)
	}
	fmt.Fprintln(t)
	for _, d := range doc.Items {
		d.print(t)
	}
	for _, e := range doc.Errors {
		fmt.Fprintf(t, "\nnot read\t%s\n", e)
	}
	return t.Flush()
}

func (c *infoCmd) item(path string, item study.Item, sizes *bindings.Info) (*itemDocument, error) {
	v := item.Volume
	viewer, err := unibiomed.NewViewer(v, c.view(nil))
	if err != nil {
		return nil, err
	}
	d := &itemDocument{
		Name: item.Name, Modality: v.Modality, BodyPart: v.BodyPart, Unit: v.Unit, Size: v.Dims, Channels: v.Channels,
		SpacingMM: v.Affine.Spacing(), AffineLPS: v.Affine, Placed: v.Placed, Even: v.Positions == nil,
		Plane: viewer.View.Plane.String(), Pictures: viewer.Pictures(), Width: viewer.View.Columns, Height: viewer.View.Rows,
		Window: viewer.Window.String(), Windows: []string{}, Warnings: []string{},
	}
	if v.Placed {
		d.Orientation = v.Affine.Codes()
	}
	for _, w := range v.Windows {
		d.Windows = append(d.Windows, strings.TrimSpace(fmt.Sprintf("%g..%g %s", w.Center-w.Width/2, w.Center+w.Width/2, w.Name)))
	}
	for _, w := range v.Warnings {
		d.Warnings = append(d.Warnings, w.Error())
	}
	if sizes != nil {
		width, height := d.Width, d.Height
		if viewer.Padding != nil {
			width, height = viewer.Padding.Side, viewer.Padding.Side
		}
		d.Tiles = tiles.Choose(width, height, sizes.TileSize, sizes.TileMin, sizes.TileMax).Count(sizes.Thumbnail)
	}
	if c.WithIdentifiers {
		d.Identifiers = identifiers(item)
	}
	if c.Out != "" {
		sheet, err := contactSheet(viewer)
		if err != nil {
			return nil, err
		}
		d.Sheet = itemName(outputName(path), item) + ".sheet.png"
		b := &batch{dir: c.Out}
		defer b.discard()
		if err := b.add(d.Sheet, sheet.EncodePNG); err != nil {
			return nil, err
		}
		if err := b.commit(); err != nil {
			return nil, err
		}
	}
	return d, nil
}

func (d *itemDocument) print(t io.Writer) {
	fmt.Fprintln(t)
	row := func(name, format string, args ...any) { fmt.Fprintf(t, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	if d.Name != "" {
		row("name", "%s", d.Name)
	}
	what := strings.Join(strings.Fields(d.Modality+" "+d.BodyPart), " ")
	if what == "" {
		what = "not said"
	}
	row("shows", "%s", what)
	row("voxels", "%d x %d x %d, %.4g x %.4g x %.4g mm %s", d.Size[0], d.Size[1], d.Size[2], d.SpacingMM[0], d.SpacingMM[1], d.SpacingMM[2], d.Unit)
	if d.Placed {
		row("orientation", "columns, rows and slices lead to %s", d.Orientation)
	} else {
		row("orientation", "unknown")
	}
	row("shown as", "%d %s pictures of %d x %d", d.Pictures, d.Plane, d.Width, d.Height)
	row("window", "%s", d.Window)
	if len(d.Windows) > 0 {
		row("header windows", "%s", strings.Join(d.Windows, "; "))
	}
	if d.Tiles > 0 {
		row("tiles", "%d a picture", d.Tiles)
	}
	if d.Sheet != "" {
		row("contact sheet", "%s", d.Sheet)
	}
	for _, w := range d.Warnings {
		row("warning", "%s", w)
	}
	for _, name := range slices.Sorted(maps.Keys(d.Identifiers)) {
		row(strings.ReplaceAll(name, "_", " "), "%s", d.Identifiers[name])
	}
}

const (
	sheetColumns = 6
	sheetCells   = 36
	sheetCell    = 192 // pixels
	sheetText    = 16
)

// contactSheet shows up to 36 evenly chosen pictures with their numbers.
func contactSheet(w *unibiomed.Viewer) (*imaging.RGB, error) {
	n := min(sheetCells, w.Pictures())
	columns := min(sheetColumns, n)
	rows := (n + columns - 1) / columns
	sheet := image.NewRGBA(image.Rect(0, 0, columns*sheetCell, rows*(sheetCell+sheetText)))
	draw.Draw(sheet, sheet.Rect, image.Black, image.Point{}, draw.Src)
	spacing := w.View.Spacing()
	for i := range n {
		k := (2*i + 1) * w.Pictures() / (2 * n)
		img, err := w.Picture(k)
		if err != nil {
			return nil, err
		}
		// True proportions, as a person expects them; the model sees a square.
		width, height := float64(img.Width), float64(img.Height)
		if ratio := spacing[1] / spacing[0]; ratio > 0 && ratio < 100 && ratio > 0.01 {
			height *= ratio
		}
		scale := sheetCell / max(width, height)
		width, height = max(1, width*scale), max(1, height*scale)
		x, y := i%columns*sheetCell, i/columns*(sheetCell+sheetText)
		at := image.Rect(x+int(sheetCell-width)/2, y+int(sheetCell-height)/2, x+int(sheetCell+width)/2, y+int(sheetCell+height)/2)
		draw.BiLinear.Scale(sheet, at, img, img.Bounds(), draw.Src, nil)
		text := font.Drawer{Dst: sheet, Src: image.NewUniform(color.White), Face: basicfont.Face7x13, Dot: fixed.P(x+4, y+sheetCell+12)}
		text.DrawString(fmt.Sprint(k))
	}
	return imaging.FromImage(sheet)
}

// outputName is what the results of a file or folder are called.
func outputName(path string) string {
	name := filepath.Base(filepath.Clean(path))
	if info, err := os.Stat(path); err == nil && info.IsDir() {
		if name == "." || name == ".." || name == string(filepath.Separator) {
			return "study"
		}
		return name
	}
	name = strings.TrimSuffix(name, filepath.Ext(name))
	return strings.TrimSuffix(name, ".nii")
}

func itemName(name string, item study.Item) string {
	if item.Name == "" {
		return name
	}
	return name + "-" + item.Name
}
