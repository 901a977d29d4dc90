package evaluation

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"unicode/utf8"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// A ResultError says what is wrong with a result document.
type ResultError struct {
	Field string // "turns[1].findings[0].mask.rle"
	Msg   string // the values that disagree
}

func (e *ResultError) Error() string { return "result: " + e.Field + ": " + e.Msg }

// ParseResult reads a result document (unibiomed.Schema) back and compares its parts: unknown names, names that stand twice, masks
// that are not of the image's size, and areas and boxes that are not their mask's are a ResultError. Masks stay run lengths, so
// that nothing is allocated that the document merely claims; Masks makes pixels of them.
func ParseResult(data []byte) (*unibiomed.Result, error) {
	if _, err := strictjson.Parse(data); err != nil { // what encoding/json lets through: names twice, deep nesting, broken UTF-8
		return nil, &ResultError{"json", err.Error()}
	}
	var r unibiomed.Result
	if err := strict(data, &r); err != nil {
		return nil, &ResultError{"json", err.Error()}
	}
	if r.Schema != unibiomed.Schema {
		return nil, &ResultError{"schema", fmt.Sprintf("%q, want %q", r.Schema, unibiomed.Schema)}
	}
	if err := checkImage(r.Image); err != nil {
		return nil, err
	}
	if len(r.Turns) == 0 {
		return &r, checkTurn(r.Image, r.Turn, "")
	}
	findings := 0
	for i, t := range r.Turns {
		if err := checkTurn(r.Image, t, fmt.Sprintf("turns[%d].", i)); err != nil {
			return nil, err
		}
		findings += len(t.Findings)
	}
	if len(r.Findings) != findings {
		return nil, &ResultError{"findings", fmt.Sprintf("%d, the turns have %d", len(r.Findings), findings)}
	}
	for i, f := range r.Findings {
		if err := checkFinding(r.Image, f, fmt.Sprintf("findings[%d]", i)); err != nil {
			return nil, err
		}
	}
	return &r, nil
}

func checkImage(i *unibiomed.ImageRef) error {
	if i == nil {
		return nil
	}
	if i.Width < 1 || i.Height < 1 || i.Width > 1<<24 || i.Height > 1<<24 || i.Tiles < 0 {
		return &ResultError{"image", fmt.Sprintf("%d x %d, %d tiles", i.Width, i.Height, i.Tiles)}
	}
	return nil
}

func checkTurn(image *unibiomed.ImageRef, t unibiomed.Turn, at string) error {
	switch t.Stop {
	case unibiomed.StopEnd, unibiomed.StopEOS, unibiomed.StopLength:
	default:
		return &ResultError{at + "stop", fmt.Sprintf("%q, want %s, %s or %s", t.Stop, unibiomed.StopEnd, unibiomed.StopEOS, unibiomed.StopLength)}
	}
	if t.PromptTokens < 0 || t.PrefixTokens < 0 || t.PrefixTokens > t.PromptTokens {
		return &ResultError{at + "prefix_tokens", fmt.Sprintf("%d of %d prompt tokens", t.PrefixTokens, t.PromptTokens)}
	}
	for i, id := range t.TokenIDs {
		if id < 0 {
			return &ResultError{fmt.Sprintf("%stoken_ids[%d]", at, i), fmt.Sprint(id)}
		}
	}
	for stage, ms := range t.Timings {
		if ms < 0 {
			return &ResultError{at + "timings_ms." + stage, fmt.Sprint(ms)}
		}
	}
	for i, f := range t.Findings {
		if err := checkFinding(image, f, fmt.Sprintf("%sfindings[%d]", at, i)); err != nil {
			return err
		}
	}
	return nil
}

func checkFinding(image *unibiomed.ImageRef, f unibiomed.Finding, at string) error {
	if image == nil {
		return &ResultError{at, "a finding without an image"}
	}
	if !utf8.ValidString(f.Phrase) {
		return &ResultError{at + ".phrase", "is not UTF-8"}
	}
	want := unibiomed.Present
	if f.AreaPx == 0 {
		want = unibiomed.Empty
	}
	if f.Status != want {
		return &ResultError{at + ".status", fmt.Sprintf("%q with an area of %d", f.Status, f.AreaPx)}
	}
	if f.Mask != nil && len(f.Slices) > 0 {
		return &ResultError{at + ".slices", "beside a mask of one image"}
	}
	if f.Mask != nil {
		return checkMask(image, f.Mask, f.AreaPx, f.BBox, at)
	}
	area := 0
	for i, s := range f.Slices {
		here := fmt.Sprintf("%s.slices[%d]", at, i)
		if s.Slice < 0 || s.Slice >= len(image.Files) && len(image.Files) > 0 || i > 0 && s.Slice <= f.Slices[i-1].Slice {
			return &ResultError{here + ".slice", fmt.Sprintf("%d in place %d, the volume has %d", s.Slice, i, len(image.Files))}
		}
		if s.Mask != nil {
			if err := checkMask(image, s.Mask, s.AreaPx, s.BBox, here); err != nil {
				return err
			}
		}
		area += s.AreaPx
	}
	if area != f.AreaPx {
		return &ResultError{at + ".area_px", fmt.Sprintf("%d, its masks have %d", f.AreaPx, area)}
	}
	return nil
}

func checkMask(image *unibiomed.ImageRef, m *unibiomed.MaskRef, area int, box [4]int, at string) error {
	if m.File != "" && !filepath.IsLocal(filepath.FromSlash(m.File)) {
		return &ResultError{at + ".mask.file", fmt.Sprintf("%q leads out of the folder", m.File)}
	}
	if m.RLE.Width != image.Width || m.RLE.Height != image.Height {
		return &ResultError{at + ".mask.rle", fmt.Sprintf("%d x %d, the image is %d x %d", m.RLE.Width, m.RLE.Height, image.Width, image.Height)}
	}
	if got := m.RLE.Area(); got != uint64(max(area, 0)) || area < 0 {
		return &ResultError{at + ".area_px", fmt.Sprintf("%d, the mask has %d", area, got)}
	}
	r := m.RLE.Bounds()
	if got := [4]int{r.Min.X, r.Min.Y, r.Dx(), r.Dy()}; got != box {
		return &ResultError{at + ".bbox", fmt.Sprintf("%v, that of the mask is %v", box, got)}
	}
	return nil
}

// Masks fills Bits of a parsed result's findings, in its turns too. The image must be width x height: the caller knows the image,
// the document only claims its size. Masks of volumes are left alone.
func Masks(r *unibiomed.Result, width, height int) error {
	if r.Image == nil {
		return nil
	}
	if r.Image.Width != width || r.Image.Height != height {
		return &ResultError{"image", fmt.Sprintf("%d x %d, the file is %d x %d", r.Image.Width, r.Image.Height, width, height)}
	}
	fill := func(findings []unibiomed.Finding) error {
		for i := range findings {
			f := &findings[i]
			if f.Mask == nil {
				continue
			}
			var err error
			if f.Bits, err = f.Mask.RLE.Mask(int64(width) * int64(height)); err != nil {
				return err
			}
		}
		return nil
	}
	for _, t := range r.Turns {
		if err := fill(t.Findings); err != nil {
			return err
		}
	}
	if len(r.Turns) > 0 {
		return nil // those at the top are the same
	}
	return fill(r.Findings)
}

// A Prediction is a line of a predictions file: the results of Task.Ask about one sample.
type Prediction struct {
	ID      string
	Task    Task
	Results []*unibiomed.Result
}

type predictionLine struct {
	ID      string            `json:"id"`
	Task    Task              `json:"task"`
	Results []json.RawMessage `json:"results"`
}

// WritePrediction appends a line, whole or not at all where the file system does so.
func WritePrediction(w io.Writer, p Prediction) error {
	data, err := json.Marshal(struct {
		ID      string              `json:"id"`
		Task    Task                `json:"task"`
		Results []*unibiomed.Result `json:"results"`
	}{p.ID, p.Task, p.Results})
	if err != nil {
		return err
	}
	_, err = w.Write(append(data, '\n'))
	return err
}

// maxPrediction bounds a line: masks of many targets as run lengths.
const maxPrediction = 256 << 20

// ReadPredictions hands every line to each, as ParseResult gives them. A last line without its end is ignored.
func ReadPredictions(r io.Reader, each func(Prediction) error) error {
	lines := bufio.NewReaderSize(r, 1<<20)
	for number := 1; ; number++ {
		line, err := readLine(lines, maxPrediction)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		var raw predictionLine
		if err := strict(line, &raw); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		p := Prediction{ID: raw.ID, Task: raw.Task}
		for _, data := range raw.Results {
			if string(data) == "null" {
				p.Results = append(p.Results, nil)
				continue
			}
			res, err := ParseResult(data)
			if err != nil {
				return fmt.Errorf("line %d: %w", number, err)
			}
			p.Results = append(p.Results, res)
		}
		if err := each(p); err != nil {
			return err
		}
	}
}

// Rescore scores a saved prediction of a sample.
func (s Sample) Rescore(p Prediction) ([]Item, error) {
	if !p.Task.Asks(s) {
		return nil, &TaskError{s.ID, p.Task, "asks nothing about this image"}
	}
	f, err := os.Open(s.Image)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	img, err := imaging.DecodeConfig(f, imaging.Options{Name: s.Image})
	if err != nil {
		return nil, err
	}
	for _, r := range p.Results {
		if r != nil {
			if err := Masks(r, img.Width, img.Height); err != nil {
				return nil, err
			}
		}
	}
	return p.Task.Score(s, p.Results)
}
