package main

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/nifti"
	"github.com/unibiomed/go-unibiomed/unibiomed/nrrd"
	"github.com/unibiomed/go-unibiomed/unibiomed/overlay"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
	"github.com/unibiomed/go-unibiomed/unibiomed/study"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// volumeFlags are those of segment that only studies have.
type volumeFlags struct {
	Every            int      `default:"1" placeholder:"N" help:"Of volumes, segment every N-th slice."`
	BodyOnly         bool     `help:"Of volumes, leave out slices that show no body."`
	Track            bool     `help:"Find the target in a few slices and follow it through the others by memory."`
	Prompted         []int    `placeholder:"N,..." help:"The slices that --track asks about. Default: the first ones."`
	LargestComponent bool     `help:"Of volumes, keep the largest connected part of each mask."`
	FillHoles        bool     `help:"Of volumes, fill holes of each mask."`
	Format           []string `placeholder:"F,..." help:"Files of a study besides JSON and CSV: nifti, nrrd, dicomseg, sr, png, coco. Default: that of the source."`
}

// formats that --format takes; json and csv are always written.
var formats = []string{"nifti", "nrrd", "dicomseg", "sr", "png", "coco", "json", "csv"}

func (f volumeFlags) validate(out string) error {
	if f.Every < 1 {
		return usagef("--every: %d, want at least 1", f.Every)
	}
	if len(f.Prompted) > 0 && !f.Track {
		return usagef("--prompted needs --track")
	}
	for _, name := range f.Format {
		if !slices.Contains(formats, name) {
			return usagef("--format: %q, want %s", name, strings.Join(formats, ", "))
		}
	}
	if len(f.Format) > 0 && out == "" {
		return usagef("--format needs --out")
	}
	return nil
}

// studiesIn finds the studies among what IMAGE names: files of their formats, and folders that hold some. rest is what is left, to be
// read as pictures.
func studiesIn(arg string) (found []input, rest []string, err error) {
	paths := []string{arg}
	if _, err := os.Stat(arg); errors.Is(err, fs.ErrNotExist) && strings.ContainsAny(arg, "*?[") {
		if paths, err = filepath.Glob(arg); err != nil {
			return nil, nil, usagef("%s: %v", arg, err)
		}
		if len(paths) == 0 {
			return nil, nil, fmt.Errorf("%s: no file matches", arg)
		}
	}
	used := map[string]int{}
	add := func(path string) {
		name := outputName(path)
		if used[name]++; used[name] > 1 {
			name = fmt.Sprintf("%s-%d", name, used[name])
		}
		found = append(found, input{path: path, name: name})
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			return nil, nil, err
		}
		if !info.IsDir() {
			format, err := study.Format(path)
			if err != nil {
				return nil, nil, err
			}
			if format == "" {
				rest = append(rest, path)
			} else {
				add(path)
			}
			continue
		}
		series := false
		pictures, err := imagesIn(path)
		if err != nil {
			return nil, nil, err
		}
		for _, file := range pictures {
			format, err := study.Format(file)
			if err != nil {
				return nil, nil, err
			}
			switch format {
			case "":
				rest = append(rest, file)
			case "dicom":
				series = true
			default:
				add(file)
			}
		}
		if series { // its slices belong together
			add(path)
		}
		if len(pictures) == 0 {
			rest = append(rest, path)
		}
	}
	return found, rest, nil
}

// studies segments volumes, one after another. A failed one is reported and does not stop the rest.
func (c *segmentCmd) studies(ctx context.Context, s *streams, found []input) error {
	if c.Trace != "" {
		return usagef("--trace takes a picture, or a study with --slice")
	}
	if err := c.checkOut(); err != nil {
		return err
	}
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	bar := newProgress(s.err, c.Quiet, len(found))
	defer bar.finish()
	var failed []error
	report := func(path, name string, err error) {
		bar.clear()
		if name != "" {
			err = fmt.Errorf("%s: %w", name, err)
		}
		if !strings.Contains(err.Error(), path) {
			err = fmt.Errorf("%s: %w", path, err)
		}
		fmt.Fprintln(s.err, "unibiomed:", err)
		failed = append(failed, err)
	}
	total, done := len(found), 0
	for _, in := range found {
		st, err := c.openStudy(ctx, in.path)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil {
			report(in.path, "", err)
			done++
			continue
		}
		for _, err := range st.Errors { // files of a folder
			report(in.path, "", err)
		}
		total += len(st.Items) - 1
		bar.resize(total)
		for _, item := range st.Items {
			bar.next(done, in.path)
			done++
			if err := c.volume(ctx, s, p, in, st.Format, item, bar, total == 1); err != nil {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				report(in.path, item.Name, err)
			}
		}
	}
	if len(failed) > 0 {
		return errors.Join(append(failed, errReported)...)
	}
	return nil
}

func (c *segmentCmd) volume(ctx context.Context, s *streams, p *unibiomed.Pipeline, in input, format string, item study.Item, bar *progress, alone bool) error {
	if item.Modality == "SEG" {
		return &volume.UnsupportedError{Format: "study", File: in.path, Feature: "a segmentation in the place of an image"}
	}
	name := itemName(in.name, item)
	write := c.Format
	if len(write) == 0 {
		write = map[string][]string{"dicom": {"dicomseg", "sr"}, "nrrd": {"nrrd"}}[format]
		if write == nil {
			write = []string{"nifti"}
		}
	}
	if item.Stack == nil && (slices.Contains(write, "dicomseg") || slices.Contains(write, "sr")) {
		return usagef("%s: --format dicomseg and sr need DICOM images", in.path)
	}
	o := unibiomed.VolumeOptions{
		ViewOptions: c.view(nil), Every: c.Every, BodyOnly: c.BodyOnly, Track: c.Track, Prompted: c.Prompted,
		LargestComponent: c.LargestComponent, FillHoles: c.FillHoles, File: in.path,
	}
	told, kept := c.Quiet, 0
	o.Progress = func(done, all int) {
		kept = done
		if !told && done > 0 {
			bar.clear()
			fmt.Fprintf(s.err, "unibiomed: %s: going on after %d of %d slices\n", in.path, done, all)
		}
		told = true
		bar.set("slices", float64(done)/float64(max(all, 1)))
	}
	if c.Out != "" {
		o.Journal = filepath.Join(c.Out, name+".journal")
	}
	res, err := p.SegmentVolume(ctx, item.Volume, c.Targets, o)
	if err != nil {
		var foreign *unibiomed.JournalError
		if o.Journal != "" && kept == 0 && !errors.As(err, &foreign) {
			os.Remove(o.Journal) // it holds nothing
		}
		return err
	}
	for i := range res.Targets {
		res.Targets[i].Label = label(i, res.Targets[i].Phrase, res.Targets[i].Label.Mask)
	}
	if c.WithIdentifiers {
		res.Volume.Identifiers = identifiers(item)
	}
	bar.clear()
	if c.Out != "" {
		notes, err := writeVolume(c.Out, name, item, res, write)
		if err != nil {
			return err
		}
		for _, note := range notes {
			fmt.Fprintf(s.err, "unibiomed: %s: %s\n", in.path, note)
		}
		if err := os.Remove(o.Journal); err != nil {
			return err
		}
	}
	if c.JSON {
		return encodeJSON(s.out, res, alone)
	}
	if !alone {
		fmt.Fprintln(s.out, strings.TrimSpace(in.path+" "+item.Name))
	}
	return printVolume(s.out, res)
}

func label(i int, phrase string, m *volume.Mask) volume.Label {
	c := overlay.Color(i)
	return volume.Label{Name: phrase, Color: [3]uint8{c.R, c.G, c.B}, Mask: m}
}

// writeVolume writes all files of a volume, or none, and names them in the result.
func writeVolume(dir, name string, item study.Item, res *unibiomed.VolumeResult, write []string) (notes []string, err error) {
	b := &batch{dir: dir}
	defer b.discard()
	var labels []volume.Label
	found := false
	for _, t := range res.Targets {
		labels = append(labels, t.Label)
		found = found || t.Voxels > 0
	}
	together := func(file string) { res.Files = append(res.Files, file) }
	for _, format := range slices.Compact(slices.Sorted(slices.Values(write))) {
		switch format {
		case "nifti":
			file := name + ".labels.nii.gz"
			err = b.addPath(file, func(path string) error {
				overlap, err := nifti.WriteLabels(path, item.Volume, labels)
				if overlap > 0 {
					notes = append(notes, fmt.Sprintf("%d voxels belong to several targets: the label map keeps the first, the masks have all", overlap))
				}
				return err
			})
			together(file)
			for i := range res.Targets {
				if err != nil {
					break
				}
				t := &res.Targets[i]
				file := fmt.Sprintf("%s.mask%d.nii.gz", name, i)
				err = b.addPath(file, func(path string) error { return nifti.WriteMask(path, item.Volume, t.Label) })
				t.Files = append(t.Files, file)
			}
		case "nrrd":
			file := name + ".seg.nrrd"
			err = b.addPath(file, func(path string) error { return nrrd.WriteSegmentation(path, item.Volume, labels) })
			together(file)
		case "dicomseg":
			switch {
			case !found:
				notes = append(notes, "no target was found: a DICOM segmentation without a voxel is not valid, and is not written")
			case len(item.Stack.Slices) != item.Dims[2]:
				notes = append(notes, "a slide of tiles: no DICOM segmentation is written")
			default:
				err = writeSEG(b, name, item.Stack, res.Model, labels)
				together(name + ".seg.dcm")
			}
		case "sr":
			var instructions, answers, phrases []string
			for _, t := range res.Targets {
				instructions, answers = append(instructions, t.Prompt), append(answers, measured(t, res))
				if t.Voxels > 0 {
					phrases = append(phrases, t.Phrase)
				}
			}
			err = writeSR(b, name, item.Stack, res.Model, strings.Join(instructions, "\n"), strings.Join(answers, "\n"), phrases)
			together(name + ".sr.dcm")
		case "png":
			err = writePictures(b, name, res)
		case "coco":
			file := name + ".coco.json"
			err = b.add(file, func(w io.Writer) error { return writeCOCO(w, name, res) })
			together(file)
		}
		if err != nil {
			return nil, err
		}
	}
	tables := []struct {
		file  string
		write func(io.Writer) error
	}{
		{name + ".csv", func(w io.Writer) error { return writeMeasurements(w, res) }},
		{name + ".slices.csv", func(w io.Writer) error { return writeSlices(w, res) }},
		{name + ".json", func(w io.Writer) error { return encodeJSON(w, res, true) }},
	}
	for _, t := range tables[:2] {
		together(t.file)
	}
	for _, t := range tables {
		if err := b.add(t.file, t.write); err != nil {
			return nil, err
		}
	}
	return notes, b.commit()
}

// measured says a finding in a sentence.
func measured(t unibiomed.VolumeFinding, res *unibiomed.VolumeResult) string {
	if t.Voxels == 0 {
		return t.Phrase + ": not found."
	}
	size := fmt.Sprintf("%d voxels", t.Voxels)
	if t.VolumeML != nil {
		size = fmt.Sprintf("%.2f ml", *t.VolumeML)
	}
	text := fmt.Sprintf("%s: %s in %d of %d %s slices", t.Phrase, size, slicesWith(t), len(t.Slices), res.Volume.Plane)
	if res.Volume.Every > 1 {
		text += fmt.Sprintf(", of which every %d. was looked at", res.Volume.Every)
	}
	return text + "."
}

func slicesWith(t unibiomed.VolumeFinding) int {
	n := 0
	for _, s := range t.Slices {
		if s.AreaPx > 0 {
			n++
		}
	}
	return n
}

// writePictures writes a mask for each target and slice that shows something, and an overlay of the slice.
func writePictures(b *batch, name string, res *unibiomed.VolumeResult) error {
	view := res.Viewer.View
	for k, n := range res.Pictures {
		var items []overlay.Item
		for i := range res.Targets {
			t := &res.Targets[i]
			if t.Slices[k].AreaPx == 0 {
				continue
			}
			m := imaging.NewMask(view.Columns, view.Rows)
			if err := view.MaskSlice(t.Label.Mask, n, m.Pix); err != nil {
				return err
			}
			file := fmt.Sprintf("%s.mask%d.slice%03d.png", name, i, n)
			if err := b.add(file, m.EncodePNG); err != nil {
				return err
			}
			t.Files = append(t.Files, file)
			items = append(items, overlay.Item{Mask: m, Phrase: t.Phrase})
		}
		if len(items) == 0 {
			continue
		}
		img, err := res.Viewer.Picture(n)
		if err != nil {
			return err
		}
		img = unpadded(res.Viewer, img)
		file := fmt.Sprintf("%s.slice%03d.overlay.png", name, n)
		if err := b.add(file, func(w io.Writer) error { return overlay.WritePNG(w, img, items) }); err != nil {
			return err
		}
		res.Files = append(res.Files, file)
	}
	return nil
}

// writeCOCO writes the masks as annotations of the slices' pictures, one after another: it never holds them all.
func writeCOCO(w io.Writer, name string, res *unibiomed.VolumeResult) error {
	view := res.Viewer.View
	var err error
	put := func(before string, v any) {
		if err == nil {
			if _, err = io.WriteString(w, before); err == nil && v != nil {
				var text []byte
				if text, err = json.Marshal(v); err == nil {
					_, err = w.Write(text)
				}
			}
		}
	}
	put(`{"info":`, map[string]string{"description": unibiomed.Notice, "plane": res.Volume.Plane})
	between := `,"categories":[`
	for i, t := range res.Targets {
		put(between, map[string]any{"id": i + 1, "name": t.Phrase})
		between = ",\n"
	}
	between = `],"images":[`
	for _, n := range res.Pictures {
		put(between, map[string]any{"id": n, "width": view.Columns, "height": view.Rows, "file_name": fmt.Sprintf("%s.slice%03d.png", name, n)})
		between = ",\n"
	}
	if len(res.Pictures) == 0 {
		put(between, nil)
	}
	between = `],"annotations":[`
	id := 0
	for k, n := range res.Pictures {
		for i, t := range res.Targets {
			s := t.Slices[k]
			if s.AreaPx == 0 {
				continue
			}
			m := imaging.NewMask(view.Columns, view.Rows)
			if err := view.MaskSlice(t.Label.Mask, n, m.Pix); err != nil {
				return err
			}
			id++
			r := m.Bounds()
			put(between, map[string]any{
				"id": id, "image_id": n, "category_id": i + 1, "iscrowd": 1, "area": s.AreaPx, "score": s.PredictedIoU,
				"bbox": []int{r.Min.X, r.Min.Y, r.Dx(), r.Dy()}, "segmentation": rle.Encode(m),
			})
			between = ",\n"
		}
	}
	if id == 0 {
		put(between, nil)
	}
	put("]}\n", nil)
	return err
}

func optional(x *float64) string {
	if x == nil {
		return ""
	}
	return number(*x)
}

func number(x float64) string { return strconv.FormatFloat(x, 'g', 8, 64) }

// writeMeasurements writes a row a target.
func writeMeasurements(w io.Writer, res *unibiomed.VolumeResult) error {
	t := csv.NewWriter(w)
	t.Write([]string{"target", "status", "voxels", "volume_ml", "estimated_ml", "slices_with_mask", "slices_segmented", "first_slice", "last_slice", "mean_predicted_iou"})
	for _, f := range res.Targets {
		first, last, sum := "", "", 0.0
		for _, s := range f.Slices {
			if s.AreaPx > 0 {
				if first == "" {
					first = strconv.Itoa(s.Slice)
				}
				last = strconv.Itoa(s.Slice)
				sum += float64(s.PredictedIoU)
			}
		}
		n, mean := slicesWith(f), ""
		if n > 0 {
			mean = number(sum / float64(n))
		}
		t.Write([]string{f.Phrase, string(f.Status), strconv.Itoa(f.Voxels), optional(f.VolumeML), optional(f.EstimatedML),
			strconv.Itoa(n), strconv.Itoa(len(f.Slices)), first, last, mean})
	}
	t.Flush()
	return t.Error()
}

// writeSlices writes a row a target and slice.
func writeSlices(w io.Writer, res *unibiomed.VolumeResult) error {
	t := csv.NewWriter(w)
	t.Write([]string{"target", "plane", "slice", "tracked", "area_px", "area_mm2", "predicted_iou", "object_score"})
	for _, f := range res.Targets {
		for _, s := range f.Slices {
			t.Write([]string{f.Phrase, res.Volume.Plane, strconv.Itoa(s.Slice), strconv.FormatBool(s.Tracked), strconv.Itoa(s.AreaPx), optional(s.AreaMM2),
				number(float64(s.PredictedIoU)), number(float64(s.ObjectScore))})
		}
	}
	t.Flush()
	return t.Error()
}

// printVolume writes a result for people: how it was seen, and a line a target.
func printVolume(w io.Writer, res *unibiomed.VolumeResult) error {
	v := res.Volume
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%d of %d %s slices, window %s\n", v.Segmented, v.Pictures, v.Plane, v.Window)
	for _, f := range res.Targets {
		size := fmt.Sprintf("%d voxels", f.Voxels)
		if f.VolumeML != nil {
			size = fmt.Sprintf("%.2f ml", *f.VolumeML)
		}
		if f.EstimatedML != nil {
			size += fmt.Sprintf(" (about %.2f ml in all)", *f.EstimatedML)
		}
		fmt.Fprintf(t, "  %s\t%s\t%s\tin %d slices\n", f.Phrase, f.Status, size, slicesWith(f))
	}
	for _, warning := range v.Warnings {
		fmt.Fprintf(t, "  warning: %s\n", warning)
	}
	return t.Flush()
}
