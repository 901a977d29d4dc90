package main

import (
	"bytes"
	"context"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"image"
	"image/jpeg"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/unibiomed/go-unibiomed/models/examples"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/overlay"
)

type demoCmd struct {
	modelFlags
	Out   string `short:"o" default:"out/demo" placeholder:"DIR" help:"Folder for index.html. Default: ${default}."`
	Data  string `placeholder:"DATASET" help:"Show also the first image of each modality of a data set with index.jsonl, and its true masks."`
	Split string `default:"test" help:"Split of --data."`
	Limit int    `placeholder:"N" help:"The first images only."`
	Quiet bool   `short:"q" help:"No progress."`
}

func (demoCmd) Help() string {
	return `Asks all five tasks of example images that are part of the command (models/examples), and writes one page with images, masks, answers
and times. The page needs nothing beside it.

Examples:
  unibiomed demo
  unibiomed demo --model unibiomed-1b-q8_0 --data train/ --out out/demo`
}

// demoFile is the page.
const demoFile = "index.html"

//go:embed demo.html
var demoHTML string

var demoTemplate = template.Must(template.New(demoFile).Parse(demoHTML))

// A demoPage is what the template shows.
type demoPage struct {
	Model, Quantization, Description, Machine, Notice, Version string
	Images                                                     []demoImage
	Answers                                                    int
	Total, Median                                              string
}

type demoImage struct {
	Title, Kind, Modality, Licence, Source, Size string
	Picture                                      template.URL
	Answers                                      []demoAnswer
}

type demoAnswer struct {
	Task, Question, Answer, Time string
	Picture, Truth               template.URL // "" where there is none
	Findings                     []demoFinding
}

type demoFinding struct {
	Phrase, Status, Dice string
	Color                template.CSS
}

// A demoCase is an image and what to ask of it.
type demoCase struct {
	demoImage
	image   *imaging.RGB
	targets []string
	truths  []*imaging.Mask // of the targets, nil where unknown
	region  image.Rectangle
	ask     string
}

func (c *demoCmd) Run(ctx context.Context, s *streams) error {
	if c.Limit < 0 {
		return usagef("--limit: %d is not a number of images", c.Limit)
	}
	cases, err := c.cases()
	if err != nil {
		return err
	}
	if c.Limit > 0 && c.Limit < len(cases) {
		cases = cases[:c.Limit]
	}
	if err := (answerFlags{Out: c.Out}).checkOut(); err != nil {
		return err
	}
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()

	here, err := thisMachine()
	if err != nil {
		return err
	}
	m := p.Manifest()
	page := demoPage{Model: m.Name, Description: m.Description, Notice: unibiomed.Notice, Version: version,
		Machine: fmt.Sprintf("%s, %d processors, %s", here.CPU, here.Processors, here.System)}
	for _, part := range []string{"language", "vision", "grounding"} {
		page.Quantization = strings.TrimSpace(page.Quantization + " " + part + " " + m.Quantization[part])
	}
	bar := newProgress(s.err, c.Quiet, len(cases))
	defer bar.finish()
	start := time.Now()
	var times []float64
	for i, one := range cases {
		bar.next(i, one.Title)
		if err := one.answer(ctx, p, unibiomed.Observers{Progress: bar.stage}, &times); err != nil {
			return fmt.Errorf("%s: %w", one.Title, err)
		}
		page.Images = append(page.Images, one.demoImage)
	}
	bar.finish()
	slices.Sort(times)
	page.Answers, page.Total = len(times), seconds(time.Since(start))
	page.Median = millisecondsText(times[len(times)/2])

	b := &batch{dir: c.Out}
	defer b.discard()
	if err := b.add(demoFile, func(w io.Writer) error { return demoTemplate.Execute(w, page) }); err != nil {
		return err
	}
	if err := b.commit(); err != nil {
		return err
	}
	_, err = fmt.Fprintf(s.out, "%s: %d answers about %d images in %s\n", filepath.Join(c.Out, demoFile), page.Answers, len(page.Images), page.Total)
	return err
}

// cases are with --data the first image of each modality that has targets, and then the examples.
func (c *demoCmd) cases() ([]*demoCase, error) {
	all, err := examples.All()
	if err != nil {
		return nil, err
	}
	var out []*demoCase
	for _, e := range all {
		img, truth, err := e.Open()
		if err != nil {
			return nil, err
		}
		one := &demoCase{image: img, targets: e.Targets, truths: make([]*imaging.Mask, len(e.Targets)), region: e.Box(), ask: e.Ask}
		one.truths[0] = truth
		one.demoImage = demoImage{Title: e.Title, Kind: "example image", Modality: e.Modality, Licence: e.Licence, Source: e.Source}
		if e.Phantom != "" {
			one.Kind = "phantom"
		}
		out = append(out, one)
	}
	if c.Data == "" {
		return out, nil
	}
	var first []*demoCase
	data, err := evaluation.OpenDataset(c.Data, evaluation.DatasetOptions{Split: c.Split, Commercial: true})
	if err != nil {
		return nil, err
	}
	shown := map[string]bool{}
	for _, sample := range data.Samples {
		modality := sample.Family()
		if len(sample.Targets) == 0 || shown[modality] {
			continue
		}
		shown[modality] = true
		one, err := sampleCase(sample, c.Split)
		if err != nil {
			return nil, err
		}
		first = append(first, one)
	}
	return append(first, out...), nil
}

// demoTargets bounds how many targets of one image are shown.
const demoTargets = 3

func sampleCase(s evaluation.Sample, split string) (*demoCase, error) {
	img, err := imaging.DecodeFile(s.Image, imaging.Options{})
	if err != nil {
		return nil, err
	}
	one := &demoCase{image: img}
	one.demoImage = demoImage{Title: s.ID, Kind: split + " image, the first of its modality", Modality: s.Modality}
	for _, t := range s.Targets[:min(demoTargets, len(s.Targets))] {
		m, err := imaging.DecodeMaskFile(t.Mask, imaging.Options{})
		if err != nil {
			return nil, err
		}
		if m.Width != img.Width || m.Height != img.Height {
			m = metrics.ResizeTruth(m, img.Width, img.Height)
		}
		one.targets, one.truths = append(one.targets, t.Phrase), append(one.truths, m)
		if one.region.Empty() {
			one.region = m.Bounds()
		}
	}
	name, _, _ := strings.Cut(one.targets[0], " in ")
	one.ask = fmt.Sprintf("Is there a %s in this image?", name)
	return one, nil
}

// answer asks the five tasks.
func (c *demoCase) answer(ctx context.Context, p *unibiomed.Pipeline, o unibiomed.Observers, times *[]float64) error {
	in := unibiomed.Input{Image: c.image}
	c.Size = fmt.Sprintf("%d x %d", c.image.Width, c.image.Height)
	var err error
	if c.Picture, err = pictureURL(c.image); err != nil {
		return err
	}
	add := func(task, question string, res *unibiomed.Result, under *imaging.RGB, truths []*imaging.Mask) error {
		a, err := newDemoAnswer(task, question, res, under, truths)
		if err != nil {
			return err
		}
		turns := res.Turns
		if len(turns) == 0 {
			turns = []unibiomed.Turn{res.Turn}
		}
		total := 0.0
		for _, t := range turns {
			total += t.Timings["total"]
			*times = append(*times, t.Timings["total"])
		}
		a.Time = millisecondsText(total)
		c.Answers = append(c.Answers, a)
		return nil
	}

	res, err := p.Segment(ctx, in, c.targets, o)
	if err != nil {
		return err
	}
	if err := add("segment", strings.Join(c.targets, "; "), res, c.image, c.truths); err != nil {
		return err
	}
	if res, err = p.Recognize(ctx, in, o); err != nil {
		return err
	}
	if err := add("recognize", "Any abnormality?", res, c.image, nil); err != nil {
		return err
	}
	if !c.region.Empty() {
		if res, err = p.Region(ctx, in, unibiomed.Place{Box: c.region}, false, o); err != nil {
			return err
		}
		marked := c.image.Clone()
		marked.DrawBox(c.region)
		if err := add("region", "What is in the green box?", res, marked, nil); err != nil {
			return err
		}
	}
	for _, question := range []string{"Which imaging modality is this?", c.ask} {
		if res, err = p.Ask(ctx, unibiomed.Request{Input: in, Prompt: question, Observers: o}); err != nil {
			return err
		}
		if err := add("ask", question, res, nil, nil); err != nil {
			return err
		}
	}
	if res, err = p.Report(ctx, in, "", o); err != nil {
		return err
	}
	return add("report", "Describe the abnormality.", res, c.image, nil)
}

// newDemoAnswer draws a result over the image under, when that is given and there is something to draw or it is marked itself.
func newDemoAnswer(task, question string, res *unibiomed.Result, under *imaging.RGB, truths []*imaging.Mask) (demoAnswer, error) {
	a := demoAnswer{Task: task, Question: question}
	if task != "segment" { // there the phrases say it all
		if a.Answer = metrics.CleanCaption(res.Answer); task == "recognize" {
			a.Answer = metrics.CleanAnswer(res.Answer)
		}
		if a.Answer == "" {
			a.Answer = "(no words)"
		}
	}
	var drawn, known []overlay.Item
	for i, f := range res.Findings {
		c := overlay.Color(i)
		finding := demoFinding{Phrase: f.Phrase, Color: template.CSS(fmt.Sprintf("rgb(%d,%d,%d)", c.R, c.G, c.B)), Status: "empty: nothing drawn"}
		if f.Status == unibiomed.Present {
			finding.Status = fmt.Sprintf("%.1f %% of the image", 100*float64(f.AreaPx)/float64(len(f.Bits.Pix)))
		}
		drawn = append(drawn, overlay.Item{Mask: f.Bits})
		if i < len(truths) && truths[i] != nil {
			o, err := metrics.Count(f.Bits, truths[i])
			if err != nil {
				return a, err
			}
			finding.Dice = fmt.Sprintf("Dice %.2f", o.Dice())
			if o.Pred+o.Truth == 0 {
				finding.Dice = "Dice 1.00"
			}
			known = append(known, overlay.Item{Mask: truths[i]})
		} else {
			known = append(known, overlay.Item{Mask: imaging.NewMask(f.Bits.Width, f.Bits.Height)})
		}
		a.Findings = append(a.Findings, finding)
	}
	var err error
	if under != nil && (len(drawn) > 0 || task == "region") {
		if a.Picture, err = overlayURL(under, drawn); err != nil {
			return a, err
		}
	}
	if slices.ContainsFunc(truths, func(m *imaging.Mask) bool { return m != nil }) {
		a.Truth, err = overlayURL(under, known)
	}
	return a, err
}

func overlayURL(img *imaging.RGB, items []overlay.Item) (template.URL, error) {
	drawn, err := overlay.Draw(img, items)
	if err != nil {
		return "", err
	}
	return pictureURL(drawn)
}

// pictureURL holds a picture as JPEG in the page itself.
func pictureURL(img *imaging.RGB) (template.URL, error) {
	var data bytes.Buffer
	data.WriteString("data:image/jpeg;base64,")
	to := base64.NewEncoder(base64.StdEncoding, &data)
	if err := jpeg.Encode(to, img, &jpeg.Options{Quality: 88}); err != nil {
		return "", err
	}
	if err := to.Close(); err != nil {
		return "", err
	}
	return template.URL(data.String()), nil
}

func millisecondsText(ms float64) string {
	if ms < 1000 {
		return fmt.Sprintf("%.0f ms", ms)
	}
	return fmt.Sprintf("%.1f s", ms/1000)
}
