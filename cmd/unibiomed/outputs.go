package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/overlay"
)

// A batch is the files of one result. They are written to temporary names first and renamed together, so that a failure
// leaves none of them.
type batch struct {
	dir   string
	files []pendingFile
}

type pendingFile struct{ temp, final string }

func (b *batch) add(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(b.dir, ".unibiomed-*")
	if err != nil {
		return err
	}
	b.files = append(b.files, pendingFile{f.Name(), filepath.Join(b.dir, name)})
	err = write(f)
	if err == nil {
		err = f.Chmod(0o644)
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(b.dir, name), err)
	}
	return nil
}

func (b *batch) commit() error {
	for i, f := range b.files {
		if err := os.Rename(f.temp, f.final); err != nil {
			for _, done := range b.files[:i] {
				os.Remove(done.final)
			}
			return err
		}
	}
	b.files = nil
	return nil
}

// discard removes what was not committed.
func (b *batch) discard() {
	for _, f := range b.files {
		os.Remove(f.temp)
	}
}

// addPath adds a file that write makes at the path it is given.
func (b *batch) addPath(name string, write func(path string) error) error {
	f, err := os.CreateTemp(b.dir, ".unibiomed-*-"+strings.ReplaceAll(name, "*", "-"))
	if err != nil {
		return err
	}
	f.Close()
	b.files = append(b.files, pendingFile{f.Name(), filepath.Join(b.dir, name)})
	if err := write(f.Name()); err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(b.dir, name), err)
	}
	return nil
}

// writeResult writes NAME.json, the masks, the overlays and what extra adds, and names the files in the result.
func writeResult(dir, name string, res *unibiomed.Result, in unibiomed.Input, extra func(*batch, *unibiomed.Result) error) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b := &batch{dir: dir}
	defer b.discard()

	findings := res.Findings
	var items []overlay.Item
	perSlice := make([][]overlay.Item, len(in.Slices))
	for i := range findings {
		f := &findings[i]
		if f.Mask != nil && f.Bits != nil {
			f.Mask.File = fmt.Sprintf("%s.mask%d.png", name, i)
			if err := b.add(f.Mask.File, f.Bits.EncodePNG); err != nil {
				return err
			}
			items = append(items, overlay.Item{Mask: f.Bits, Phrase: f.Phrase})
		}
		for k := range f.Slices {
			s := &f.Slices[k]
			s.Mask.File = fmt.Sprintf("%s.mask%d.slice%03d.png", name, i, s.Slice)
			if err := b.add(s.Mask.File, s.Bits.EncodePNG); err != nil {
				return err
			}
			perSlice[s.Slice] = append(perSlice[s.Slice], overlay.Item{Mask: s.Bits, Phrase: f.Phrase})
		}
	}
	draw := func(file string, img *imaging.RGB, items []overlay.Item) error {
		return b.add(file, func(w io.Writer) error { return overlay.WritePNG(w, img, items) })
	}
	if len(items) > 0 {
		if err := draw(name+".overlay.png", in.Image, items); err != nil {
			return err
		}
	}
	for k, items := range perSlice {
		if len(items) > 0 {
			if err := draw(fmt.Sprintf("%s.slice%03d.overlay.png", name, k), in.Slices[k], items); err != nil {
				return err
			}
		}
	}
	if extra != nil {
		if err := extra(b, res); err != nil {
			return err
		}
	}
	if err := b.add(name+".json", func(w io.Writer) error { return encodeJSON(w, res, true) }); err != nil {
		return err
	}
	return b.commit()
}

func encodeJSON(w io.Writer, v any, indent bool) error {
	var buf bytes.Buffer
	e := json.NewEncoder(&buf)
	e.SetEscapeHTML(false)
	if indent {
		e.SetIndent("", "  ")
	}
	if err := e.Encode(v); err != nil {
		return err
	}
	_, err := w.Write(buf.Bytes())
	return err
}

// printResult writes a result for people: the answer, and a line a finding.
func printResult(w io.Writer, res *unibiomed.Result) error {
	turns := res.Turns
	if len(turns) == 0 {
		turns = []unibiomed.Turn{res.Turn}
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, turn := range turns {
		answer := turn.Answer
		if answer == "" {
			answer = "(no answer)"
		}
		if turn.Stop == unibiomed.StopLength {
			answer += " ..."
		}
		fmt.Fprintln(t, strings.ReplaceAll(answer, "\t", " "))
		for _, f := range turn.Findings {
			where := string(f.Status)
			if f.Status == unibiomed.Present {
				where = fmt.Sprintf("box %d,%d,%d,%d", f.BBox[0], f.BBox[1], f.BBox[2], f.BBox[3])
			}
			file := ""
			if f.Mask != nil {
				file = f.Mask.File
			} else if n := len(f.Slices); n > 0 {
				file = fmt.Sprintf("%d slices", n)
			}
			fmt.Fprintf(t, "  %s\tIoU %.2f\t%d px\t%s\t%s\n", f.Phrase, f.PredictedIoU, f.AreaPx, where, file)
		}
	}
	return t.Flush()
}
