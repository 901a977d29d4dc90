package evaluation

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
)

// write makes files below dir.
func write(t testing.TB, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, filepath.FromSlash(name))
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(text), 0o644))
	}
}

// mask is drawn row by row, '#' inside.
func mask(rows ...string) *imaging.Mask {
	m := imaging.NewMask(len(rows[0]), len(rows))
	for y, row := range rows {
		for x, c := range row {
			if c == '#' {
				m.Pix[y*m.Width+x] = 1
			}
		}
	}
	return m
}

func png(t testing.TB, m *imaging.Mask) string {
	var b bytes.Buffer
	require.NoError(t, m.EncodePNG(&b))
	return b.String()
}

const annotations = `{"images": [], "annotations": [
	{"file_name": "amos-1-3_CT_abdomen.png", "mask_file": "amos-1-3_CT_abdomen_liver.png", "split": "test", "sentences": [{"raw": "liver in CT", "sent": "liver in abdomen CT"}]},
	{"file_name": "amos-1-4_CT_abdomen.png", "mask_file": "amos-1-4_CT_abdomen_liver.png", "split": "test", "sentences": [{"sent": "liver in abdomen CT"}]},
	{"file_name": "amos-1-3_CT_abdomen.png", "mask_file": "amos-1-3_CT_abdomen_spleen.png", "split": "test", "sentences": [{"sent": "spleen in abdomen CT"}]}]}`

func TestBiomedParseDataset(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"test.json": annotations})
	d, err := OpenDataset(dir, DatasetOptions{})
	require.NoError(t, err)
	require.Equal(t, BiomedParse, d.Format)
	require.Len(t, d.Samples, 2)
	s := d.Samples[0]
	require.Equal(t, "amos-1", s.Group)
	require.Equal(t, "CT", s.Modality)
	require.Equal(t, filepath.Join(dir, "test", "amos-1-3_CT_abdomen.png"), s.Image)
	require.Equal(t, Target{
		Phrase: "spleen in abdomen CT", Label: "spleen in abdomen CT", Order: 2,
		Mask: filepath.Join(dir, "test_mask", "amos-1-3_CT_abdomen_spleen.png"),
	}, s.Targets[1])
	require.Equal(t, "liver in CT", s.Targets[0].Label)
}

const index = `{"image": "a.png", "modality": "CT", "source": "s", "patient": "p1", "findings": "tumor", "split": "test", "targets": [{"phrase": "tumor in liver CT", "mask": "a__tumor.png"}]}
{"image": "b.png", "modality": "CT", "source": "s", "patient": "p1", "findings": "no findings", "split": "test", "targets": []}
{"image": "c.png", "modality": "CT", "source": "s", "patient": "p2", "findings": null, "split": "train", "noncommercial": true, "targets": [{"phrase": "liver in abdomen CT", "mask": "c__liver.png"}]}
{"image": "d.png", "modality": "PET", "source": "t", "findings": null, "split": "test", "targets": [], "absent": ["heart in chest PET"]}
`

func TestIndexDataset(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"index.jsonl": index})
	d, err := OpenDataset(dir, DatasetOptions{})
	require.NoError(t, err)
	require.Equal(t, Index, d.Format)
	require.Len(t, d.Samples, 3)
	require.Equal(t, "p1", d.Samples[0].Group)
	require.Equal(t, []string{"tumor in liver CT", "liver in abdomen CT"}, d.Samples[1].Absent, "a healthy image shows nothing that its source marks")
	require.Equal(t, []string{"heart in chest PET"}, d.Samples[2].Absent)
	require.Equal(t, "d.png", d.Samples[2].Group, "without a group the image is one")

	require.True(t, Recognize.Asks(d.Samples[0]))
	require.True(t, Recognize.Asks(d.Samples[1]))
	require.False(t, Recognize.Asks(d.Samples[2]))
	require.False(t, Region.Asks(d.Samples[1]))

	all, err := OpenDataset(dir, DatasetOptions{Split: "all", Commercial: true})
	require.NoError(t, err)
	require.Len(t, all.Samples, 3)

	whole, err := OpenDataset(dir, DatasetOptions{Split: "train"})
	require.NoError(t, err)
	require.Len(t, whole.Samples[0].Targets, 1)
	require.False(t, Recognize.Asks(whole.Samples[0]), "its source says nothing of findings: an organ is no abnormality")
}

func TestPairsDataset(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"xray/a.jpg": "", "xray/a__left_lung.mask.png": "", "xray/a__right_lung.mask.png": "", "xray/b.png": ""})
	d, err := OpenDataset(dir, DatasetOptions{Template: "{target} in chest X-Ray"})
	require.NoError(t, err)
	require.Equal(t, Pairs, d.Format)
	require.Len(t, d.Samples, 1)
	require.Equal(t, "xray/a.jpg", d.Samples[0].ID)
	require.Equal(t, "X-Ray", d.Samples[0].Modality)
	require.Equal(t, "left lung in chest X-Ray", d.Samples[0].Targets[0].Phrase)
}

func TestBrokenDatasets(t *testing.T) {
	for _, tt := range []struct{ name, file, text, want string }{
		{"empty folder", "readme.txt", "", "no data set"},
		{"not JSON", "test.json", "{", "test.json: unexpected end"},
		{"image outside", "test.json", `{"annotations": [{"file_name": "../a.png", "mask_file": "a.png", "sentences": [{"sent": "x"}]}]}`, `annotations[0].file_name: "../a.png"`},
		{"no sentence", "test.json", `{"annotations": [{"file_name": "a.png", "mask_file": "a.png", "sentences": []}]}`, "annotations[0].sentences"},
		{"nothing in it", "test.json", `{"annotations": []}`, `no image in split "test"`},
		{"line cut", "index.jsonl", `{"image": "a.png"`, "index.jsonl: line 1"},
		{"image twice", "index.jsonl", "{\"image\": \"a.png\"}\n\n{\"image\": \"a.png\"}\n", `line 3: image: "a.png" stands there twice`},
		{"mask outside", "index.jsonl", `{"image": "a.png", "targets": [{"phrase": "x", "mask": "/etc/passwd"}]}`, "targets[0].mask"},
		{"mask without image", "a__x.mask.png", "", "no image a.png beside it"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, map[string]string{tt.file: tt.text})
			_, err := OpenDataset(dir, DatasetOptions{})
			require.ErrorContains(t, err, tt.want)
			var typed *DatasetError
			require.ErrorAs(t, err, &typed)
		})
	}
	_, err := OpenDataset(filepath.Join(t.TempDir(), "none"), DatasetOptions{})
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// result is a document about a 4 x 3 image with one finding a turn.
func result(masks ...*imaging.Mask) *unibiomed.Result {
	r := &unibiomed.Result{
		Schema: unibiomed.Schema, Notice: unibiomed.Notice, Model: unibiomed.ModelRef{Name: "m", Quantization: map[string]string{"language": "f32"}},
		Image: &unibiomed.ImageRef{File: "a.png", Width: 4, Height: 3, Tiles: 1},
	}
	for _, m := range masks {
		turn := unibiomed.Turn{Task: "segment", Raw: "It is [SEG].<|end|>", Stop: unibiomed.StopEnd, TokenIDs: []int32{1}, Timings: unibiomed.Timings{"total": 1}, PromptTokens: 9}
		b := m.Bounds()
		f := unibiomed.Finding{Phrase: "x", Status: unibiomed.Present, AreaPx: m.Area(), BBox: [4]int{b.Min.X, b.Min.Y, b.Dx(), b.Dy()}, Mask: &unibiomed.MaskRef{RLE: rle.Encode(m)}, Bits: m}
		if f.AreaPx == 0 {
			f.Status = unibiomed.Empty
		}
		turn.Findings = []unibiomed.Finding{f}
		if len(masks) == 1 {
			r.Turn = turn
		} else {
			r.Turns, r.Findings = append(r.Turns, turn), append(r.Findings, f)
		}
	}
	r.Timings = unibiomed.Timings{}
	return r
}

func document(t testing.TB, masks ...*imaging.Mask) string {
	data, err := json.Marshal(result(masks...))
	require.NoError(t, err)
	return string(data)
}

var square = mask("....", ".##.", ".##.")

func TestParseResultReadsItsOwn(t *testing.T) {
	for _, masks := range [][]*imaging.Mask{{square}, {square, mask("....", "....", "....")}} {
		r, err := ParseResult([]byte(document(t, masks...)))
		require.NoError(t, err)
		require.NoError(t, Masks(r, 4, 3))
		require.Equal(t, square.Pix, turns(r)[0].Findings[0].Bits.Pix)
		require.Error(t, Masks(r, 5, 3), "another image")
	}
}

func TestParseResultRefuses(t *testing.T) {
	good := document(t, square)
	for _, tt := range []struct{ name, old, new, want string }{
		{"another schema", unibiomed.Schema, "unibiomed.result/9", "schema"},
		{"unknown name", `"notice"`, `"note"`, "unknown field"},
		{"name twice", `"stop":"end"`, `"stop":"end","stop":"eos"`, "stop"},
		{"unknown stop", `"stop":"end"`, `"stop":"tired"`, "stop"},
		{"wrong area", `"area_px":4`, `"area_px":5`, "area_px: 5, the mask has 4"},
		{"wrong box", `"bbox":[1,1,2,2]`, `"bbox":[1,1,2,3]`, "bbox"},
		{"status against area", `"status":"present"`, `"status":"empty"`, "status"},
		{"mask of another size", `"width":4`, `"width":5`, "mask.rle"},
		{"huge image", `"width":4`, `"width":999999999`, "image"},
		{"runs that do not add up", `"size":[3,4]`, `"size":[3,5]`, "counts"},
		{"something behind", `}`, `}`, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(good, tt.old, tt.new, 1)
			if tt.want == "" {
				text, tt.want = good+"{}", "json"
			}
			_, err := ParseResult([]byte(text))
			require.ErrorContains(t, err, tt.want)
			var typed *ResultError
			require.ErrorAs(t, err, &typed)
		})
	}
}

func TestScoreSegment(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"truth.png": png(t, mask("....", ".#..", ".#..")), "double.png": png(t, mask("........", "........", "..##....", "..##....", "..##....", "..##...."))})
	s := Sample{ID: "a.png", Targets: []Target{{Phrase: "x", Mask: filepath.Join(dir, "truth.png"), Order: 7}}, Absent: []string{"y"}}
	items, err := Segment.Score(s, []*unibiomed.Result{result(square, mask("#...", "....", "...."))})
	require.NoError(t, err)
	require.Equal(t, []Item{
		{Phrase: "x", Order: 7, Answer: "It is [SEG].<|end|>", Segs: 1, Pixels: &Pixels{4, 2, 2}},
		{Phrase: "y", Absent: true, Answer: "It is [SEG].<|end|>", Segs: 1, Pixels: &Pixels{1, 0, 0}},
	}, items)

	s.Absent, s.Targets[0].Mask = nil, filepath.Join(dir, "double.png")
	items, err = Segment.Score(s, []*unibiomed.Result{result(square)})
	require.NoError(t, err)
	require.Equal(t, &Pixels{4, 2, 2}, items[0].Pixels, "a truth of twice the size is halved")
	require.True(t, items[0].Resized)

	_, err = Segment.Score(s, []*unibiomed.Result{result(square, square)})
	var typed *TaskError
	require.ErrorAs(t, err, &typed)
}

func TestScoreRecognize(t *testing.T) {
	s := Sample{ID: "a.png", Findings: "no findings"}
	empty := result(mask("....", "....", "...."))
	empty.Raw = "[SEG]. no findings.<|end|>"
	items, err := Recognize.Score(s, []*unibiomed.Result{empty})
	require.NoError(t, err)
	require.Equal(t, []Item{{Phrase: "no findings", Answer: empty.Raw, Segs: 1, Expected: 1, Official: 1, Strict: 1}}, items)
}

func TestSummary(t *testing.T) {
	item := func(phrase string, order, pred, truth, both int) Item {
		return Item{Phrase: phrase, Order: order, Segs: 1, Pixels: &Pixels{pred, truth, both}}
	}
	absent := item("y", 0, 0, 0, 0)
	absent.Absent = true
	drawn := item("y", 0, 5, 0, 0)
	drawn.Absent = true
	records := []Record{
		{ID: "a", Group: "g1", Modality: "CT", Items: []Item{item("x", 0, 10, 10, 10), absent}},
		{ID: "b", Group: "g1", Modality: "CT", Items: []Item{item("x", 1, 10, 30, 10), drawn}},
		{ID: "c", Group: "g2", Modality: "PET", Items: []Item{item("z", 2, 3, 0, 0)}}, // an empty truth: left out officially
		{ID: "d", Error: "broken"},
	}
	s, err := Summarize(Header{Task: Segment}, records, SummaryOptions{Rounds: 100})
	require.NoError(t, err)
	require.Equal(t, 3, s.Images)
	require.Equal(t, 1, s.Failed)
	require.InDelta(t, 0.75, s.Segmentation.Official.Dice.Mean, 1e-5)
	require.Equal(t, 2, s.Segmentation.Official.Dice.Count)
	require.Equal(t, 1, s.Segmentation.Official.Skipped)
	require.InDelta(t, 0.5, s.Segmentation.Strict.Dice.Mean, 1e-9)
	require.InDelta(t, 0.375, s.Segmentation.Strict.ClassDice, 1e-9)
	require.InDelta(t, 0.5, s.Absent.Mean, 1e-9)
	require.LessOrEqual(t, s.Segmentation.Strict.Dice.Low, 0.5)
	require.Len(t, s.ByModality, 2)
	require.Equal(t, []string{"x", "y", "z"}, []string{s.ByPhrase[0].Name, s.ByPhrase[1].Name, s.ByPhrase[2].Name})
	require.Nil(t, s.ByPhrase[2].Official)

	again, err := Summarize(Header{Task: Segment}, records, SummaryOptions{Rounds: 100})
	require.NoError(t, err)
	require.Equal(t, s, again, "the same seed gives the same intervals")

	_, err = Summarize(Header{Task: Segment}, nil, SummaryOptions{})
	require.NoError(t, err, "nothing to score is no failure")
}

func TestOfficialScoreTakesTheFirst300(t *testing.T) {
	var records []Record
	for i := range 310 {
		both := 10
		if i >= 300 {
			both = 0
		}
		// The order of computation is not that of the annotation file.
		records = append([]Record{{ID: "a", Group: "g", Items: []Item{{Phrase: "x", Order: i, Pixels: &Pixels{10, 10, both}}}}}, records...)
	}
	s, err := Summarize(Header{Task: Segment}, records, SummaryOptions{Rounds: 1})
	require.NoError(t, err)
	require.Equal(t, 300, s.Segmentation.Official.Dice.Count)
	require.InDelta(t, 1, s.Segmentation.Official.Dice.Mean, 1e-5)
	require.InDelta(t, 300.0/310, s.Segmentation.Strict.Dice.Mean, 1e-9)
}

func TestTextScores(t *testing.T) {
	records := []Record{
		{ID: "a", Group: "a", Modality: "MRI-FLAIR", Items: []Item{{Phrase: "MRI-FLAIR", Answer: "It is an MRI image.<|end|>"}}},
		{ID: "b", Group: "b", Modality: "CT", Items: []Item{{Phrase: "CT", Answer: "A CT or PET image."}}},
		{ID: "c", Group: "c", Modality: "PET", Items: []Item{{Phrase: "PET", Answer: "This is a pet image."}}},
	}
	s, err := Summarize(Header{Task: Modality}, records, SummaryOptions{Rounds: 10})
	require.NoError(t, err)
	require.InDelta(t, 2.0/3, s.Modality.Mean, 1e-9)

	region := []Record{{ID: "a", Group: "a", Items: []Item{{Phrase: "left lung in chest X-Ray", Answer: "right lung in chest x-ray<|end|>"}}}}
	s, err = Summarize(Header{Task: Region}, region, SummaryOptions{Rounds: 10})
	require.NoError(t, err)
	require.Equal(t, 1.0, s.Region.Official.Mean, "the official test leaves sides out")
	require.Equal(t, 0.0, s.Region.Strict.Mean)
}

func TestJournalSurvivesAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), JournalFile)
	h := Header{Dataset: "d", Task: Segment}
	j, err := CreateJournal(path, h)
	require.NoError(t, err)
	for _, id := range []string{"a", "b"} {
		require.NoError(t, j.Append(Record{ID: id, Items: []Item{{Phrase: "x", Pixels: &Pixels{2, 3, 1}}}}))
	}
	require.NoError(t, j.Close())
	_, err = CreateJournal(path, h)
	require.ErrorIs(t, err, fs.ErrExist)

	whole, err := os.ReadFile(path)
	require.NoError(t, err)
	for cut := range len(whole) + 1 {
		require.NoError(t, os.WriteFile(path, whole[:cut], 0o644))
		j, records, err := ResumeJournal(path, h)
		require.NoError(t, err)
		require.Len(t, records, max(0, bytes.Count(whole[:cut], []byte("\n"))-1))
		require.NoError(t, j.Append(Record{ID: "c"}))
		require.NoError(t, j.Close())
		f, err := os.Open(path)
		require.NoError(t, err)
		_, after, err := ReadJournal(f, path)
		f.Close()
		require.NoError(t, err)
		require.Len(t, after, len(records)+1)
	}
	_, _, err = ResumeJournal(path, Header{Dataset: "another", Task: Segment})
	var typed *JournalError
	require.ErrorAs(t, err, &typed)
}

func TestRescoreEqualsScore(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a.png": png(t, mask("....", "....", "....")), "a__x.mask.png": png(t, square)})
	d, err := OpenDataset(dir, DatasetOptions{})
	require.NoError(t, err)
	res := []*unibiomed.Result{result(square)}
	want, err := Segment.Score(d.Samples[0], res)
	require.NoError(t, err)

	var file bytes.Buffer
	require.NoError(t, WritePrediction(&file, Prediction{ID: "a.png", Task: Segment, Results: res}))
	file.WriteString(`{"id":"cut`)
	known := map[string][]Item{}
	require.NoError(t, ReadPredictions(&file, func(p Prediction) error {
		items, err := d.Samples[0].Rescore(p)
		known[p.ID] = items
		return err
	}))
	require.Equal(t, want, known["a.png"])

	_, records, err := Run{Dataset: d, Task: Segment}.Rescore(context.Background(), known)
	require.NoError(t, err)
	require.Equal(t, want, records[0].Items)

	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, _, err = Run{Dataset: d, Task: Segment}.Rescore(ctx, known)
	require.ErrorIs(t, err, context.Canceled)
}

func TestRunGoesOnAfterAFailure(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"a.png": "", "a__x.mask.png": png(t, square), "b.png": "", "b__x.mask.png": png(t, square)})
	d, err := OpenDataset(dir, DatasetOptions{})
	require.NoError(t, err)
	var failed []string
	run := Run{Dataset: d, Task: Segment, Dir: t.TempDir(), Failed: func(s Sample, err error) { failed = append(failed, s.ID) }}
	asked := 0
	measure := func(s Sample) ([]Item, error) {
		asked++
		if s.ID == "a.png" {
			return nil, errors.New("broken")
		}
		return []Item{{Phrase: "x", Pixels: &Pixels{}}}, nil
	}
	_, records, err := run.each(context.Background(), measure)
	require.NoError(t, err)
	require.Equal(t, []string{"a.png"}, failed)
	require.Equal(t, "broken", records[0].Error)

	run.Resume = true
	_, records, err = run.each(context.Background(), measure)
	require.NoError(t, err)
	require.Equal(t, 3, asked, "a resumed run asks again about what failed, and about nothing else")
	require.Len(t, records, 2)
}

// The training index is the largest real list at hand.
func TestSharedIndex(t *testing.T) {
	d, err := OpenDataset(golden.Path(t, "data", "train"), DatasetOptions{})
	require.NoError(t, err)
	require.Len(t, d.Samples, 780)
	absent := 0
	for _, s := range d.Samples {
		require.NotEmpty(t, s.Modality)
		absent += len(s.Absent)
	}
	require.Positive(t, absent)
	d, err = OpenDataset(golden.Path(t, "data", "microscopy"), DatasetOptions{})
	require.NoError(t, err)
	require.Equal(t, Pairs, d.Format)
}
