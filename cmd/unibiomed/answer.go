package main

import (
	"context"
	"errors"
	"fmt"
	"image"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// answerFlags are those of every verb that answers about images.
type answerFlags struct {
	modelFlags
	studyFlags
	Slice *int   `placeholder:"N" help:"Of a volume, the slice to answer about, from 0."`
	Out   string `short:"o" placeholder:"DIR" help:"Folder for NAME.json, NAME.mask0.png ... and NAME.overlay.png. Without it nothing is written."`
	JSON  bool   `help:"Print the result as JSON, one document an input."`
	Quiet bool   `short:"q" help:"No progress."`
	Trace string `placeholder:"FILE.safetensors" help:"Write every stage's tensors; for one input."`
	Clip  bool   `help:"Clip 16-bit grey to 255 as the reference does, instead of refusing it."`
}

func (f answerFlags) imaging() imaging.Options {
	o := imaging.Options{Page: f.Frame}
	if f.Clip {
		o.Grey16 = imaging.Clip
	}
	return o
}

// A job answers about one input.
type job func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error)

// answer opens the model and runs the job over all images. A failed one is reported and does not stop the rest.
func (f answerFlags) answer(ctx context.Context, s *streams, images []string, do job) error {
	inputs, err := expand(images)
	if err != nil {
		return err
	}
	if f.Trace != "" && len(inputs) > 1 {
		return usagef("--trace takes one input, %d are given", len(inputs))
	}
	if err := f.checkOut(); err != nil {
		return err
	}
	p, err := f.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()

	bar := newProgress(s.err, f.Quiet, len(inputs))
	defer bar.finish()
	var failed []error
	for i, in := range inputs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		bar.next(i, in.path)
		if err := f.one(ctx, s, p, in, bar, do, len(inputs) == 1); err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			bar.clear()
			if !strings.Contains(err.Error(), in.path) {
				err = fmt.Errorf("%s: %w", in.path, err)
			}
			fmt.Fprintln(s.err, "unibiomed:", err)
			failed = append(failed, err)
		}
	}
	if len(failed) > 0 {
		if len(inputs) > 1 {
			bar.clear()
			fmt.Fprintf(s.err, "unibiomed: %d of %d inputs failed\n", len(failed), len(inputs))
		}
		return errors.Join(append(failed, errReported)...)
	}
	return nil
}

func (f answerFlags) one(ctx context.Context, s *streams, p *unibiomed.Pipeline, in input, bar *progress, do job, alone bool) error {
	from, err := f.load(ctx, in.path)
	if err != nil {
		return err
	}
	return f.finish(ctx, s, p, in.name, unibiomed.Input{Image: from.image, File: in.path}, bar, from.asked(do), alone, from.extra(in.name))
}

// finish answers, writes and prints. extra, if any, adds to the files.
func (f answerFlags) finish(ctx context.Context, s *streams, p *unibiomed.Pipeline, name string, in unibiomed.Input, bar *progress, do job, alone bool,
	extra func(*batch, *unibiomed.Result) error) error {
	o := unibiomed.Observers{Progress: bar.stage}
	if f.Trace != "" {
		o.Trace = &unibiomed.Trace{}
	}
	res, err := do(ctx, p, in, o)
	if err != nil {
		return err
	}
	bar.clear()
	if f.Out != "" {
		if err := writeResult(f.Out, name, res, in, extra); err != nil {
			return err
		}
	}
	if o.Trace != nil {
		if err := o.Trace.WriteFile(f.Trace); err != nil {
			return err
		}
	}
	if f.JSON {
		return encodeJSON(s.out, res, alone)
	}
	if !alone {
		fmt.Fprintf(s.out, "%s\n", in.File)
	}
	return printResult(s.out, res)
}

// checkOut makes sure that results can be written before anything is computed.
func (f answerFlags) checkOut() error {
	if f.Out != "" {
		if err := os.MkdirAll(f.Out, 0o755); err != nil {
			return err
		}
		probe, err := os.CreateTemp(f.Out, ".unibiomed-*")
		if err != nil {
			return err
		}
		probe.Close()
		os.Remove(probe.Name())
	}
	if f.Trace != "" {
		if info, err := os.Stat(filepath.Dir(f.Trace)); err != nil {
			return err
		} else if !info.IsDir() {
			return fmt.Errorf("%s: not a folder", filepath.Dir(f.Trace))
		}
	}
	return nil
}

type askCmd struct {
	answerFlags
	Prompt       string   `short:"p" required:"" help:"The instruction, used verbatim. <image> marks the image's place; in front when missing."`
	Video        bool     `help:"The images are the slices of one volume, in name order."`
	VPMask       []string `name:"vp-mask" placeholder:"M.png" help:"A <vp> region: pixels above 0 are inside. May be repeated. UniBiomed was not trained on these: see the verb region."`
	PastText     string   `placeholder:"FILE" help:"Earlier turns, verbatim, with the expanded image."`
	MaxNewTokens int      `default:"2048" placeholder:"N" help:"Length limit of the answer."`
	Images       []string `arg:"" optional:"" name:"IMAGE" help:"Files, folders or globs. None: a text-only question."`
}

func (askCmd) Help() string {
	return `Examples:
  unibiomed ask chest.png -p "Which imaging modality is shown?"
  unibiomed ask slide.png -p "<image>Please segment nuclei in pathology." --out results
  unibiomed ask slices/ --video -p "Please segment liver in abdomen CT." --out results
  unibiomed ask -p "What is pneumothorax?"`
}

func (c *askCmd) Run(ctx context.Context, s *streams) error {
	if c.Square && (len(c.VPMask) > 0 || c.Video) {
		return usagef("--square does not go with --vp-mask or --video")
	}
	if c.MaxNewTokens < 1 {
		return usagef("--max-new-tokens: %d, want at least 1", c.MaxNewTokens)
	}
	var past string
	if c.PastText != "" {
		data, err := os.ReadFile(c.PastText)
		if err != nil {
			return err
		}
		past = string(data)
	}
	ask := func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		r := unibiomed.Request{Input: in, Prompt: c.Prompt, PastText: past, MaxNewTokens: c.MaxNewTokens, Observers: o}
		for _, path := range c.VPMask {
			m, err := imaging.DecodeMaskFile(path, imaging.Options{})
			if err != nil {
				return nil, err
			}
			r.MaskPrompts = append(r.MaskPrompts, m)
		}
		return p.Ask(ctx, r)
	}
	if len(c.Images) == 0 || c.Video {
		return c.askOnce(ctx, s, ask)
	}
	return c.answer(ctx, s, c.Images, ask)
}

// askOnce asks about all slices at once, or about nothing.
func (c *askCmd) askOnce(ctx context.Context, s *streams, ask job) error {
	if len(c.VPMask) > 0 {
		return usagef("--vp-mask needs one image")
	}
	if c.Video && len(c.Images) == 0 {
		return usagef("--video needs images")
	}
	if err := c.checkOut(); err != nil {
		return err
	}
	in, name := unibiomed.Input{}, "answer"
	if c.Video {
		inputs, err := expand(c.Images)
		if err != nil {
			return err
		}
		name = filepath.Base(filepath.Dir(inputs[0].path))
		if name == "." || name == string(filepath.Separator) {
			name = "video"
		}
		for _, i := range inputs {
			from, err := c.load(ctx, i.path)
			if err != nil {
				return err
			}
			in.Slices, in.Files = append(in.Slices, from.shown), append(in.Files, i.path)
		}
	}
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	bar := newProgress(s.err, c.Quiet, 1)
	defer bar.finish()
	return c.finish(ctx, s, p, name, in, bar, ask, true, nil)
}

type segmentCmd struct {
	answerFlags
	volumeFlags
	Image   string   `arg:"" name:"IMAGE" help:"File, folder or glob: pictures, DICOM, NIfTI, NRRD, MetaImage."`
	Targets []string `arg:"" name:"TARGET" help:"Phrases such as \"liver in abdomen CT\"."`
}

func (segmentCmd) Help() string {
	return `A target reads "{what} in {site} {modality}", for instance "left lung in chest X-Ray".

Examples:
  unibiomed segment ct.png "liver in abdomen CT" "spleen in abdomen CT" --out results
  unibiomed segment folder/ "polyp in colon endoscope" --json > results.ndjson
  unibiomed segment CT/ "liver in abdomen CT" "spleen in abdomen CT" --out results          (DICOM: SEG and SR)
  unibiomed segment ct.nii.gz "liver in abdomen CT" --every 2 --format nifti,nrrd --out results`
}

func (c *segmentCmd) Run(ctx context.Context, s *streams) error {
	if err := c.volumeFlags.validate(c.Out); err != nil {
		return err
	}
	pictures := []string{c.Image}
	if c.Slice == nil {
		studies, rest, err := studiesIn(c.Image)
		if err != nil {
			return err
		}
		if len(studies) > 0 {
			err = c.studies(ctx, s, studies)
			if pictures = rest; len(rest) == 0 || err != nil && !errors.Is(err, errReported) {
				return err
			}
			return errors.Join(err, c.pictures(ctx, s, pictures))
		}
	}
	return c.pictures(ctx, s, pictures)
}

func (c *segmentCmd) pictures(ctx context.Context, s *streams, images []string) error {
	return c.answer(ctx, s, images, func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		return p.Segment(ctx, in, c.Targets, o)
	})
}

type recognizeCmd struct {
	answerFlags
	Images []string `arg:"" name:"IMAGE" help:"Files, folders or globs."`
}

func (recognizeCmd) Help() string {
	return "Example:\n  unibiomed recognize chest.png --out results"
}

func (c *recognizeCmd) Run(ctx context.Context, s *streams) error {
	return c.answer(ctx, s, c.Images, func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		return p.Recognize(ctx, in, o)
	})
}

// A box is x,y,w,h in pixels.
type box struct{ image.Rectangle }

func (b *box) UnmarshalText(text []byte) error {
	parts := strings.Split(string(text), ",")
	if len(parts) != 4 {
		return fmt.Errorf("%q, want x,y,w,h", text)
	}
	var v [4]int
	for i, p := range parts {
		n, err := strconv.Atoi(strings.TrimSpace(p))
		if err != nil || n < 0 || n > 1<<24 || (i > 1 && n == 0) {
			return fmt.Errorf("%q, want four whole numbers x,y,w,h with w and h above 0", text)
		}
		v[i] = n
	}
	b.Rectangle = image.Rect(v[0], v[1], v[0]+v[2], v[1]+v[3])
	return nil
}

type regionCmd struct {
	answerFlags
	Box      *box   `placeholder:"x,y,w,h" help:"The region in pixels from the top left corner."`
	Mask     string `placeholder:"M.png" help:"The region as a mask of the image's size: pixels above 0 are inside, the largest part counts."`
	Describe bool   `help:"Ask for a description instead of a name."`
	Image    string `arg:"" name:"IMAGE" help:"The image file."`
}

func (regionCmd) Help() string {
	return `The region's bounding box is drawn in green, as the model was trained.

Examples:
  unibiomed region ct.png --box 120,80,60,45
  unibiomed region ct.png --mask lesion.png --describe --json`
}

func (c *regionCmd) Run(ctx context.Context, s *streams) error {
	if (c.Box == nil) == (c.Mask == "") {
		return usagef("give one of --box and --mask")
	}
	if c.Square {
		return usagef("--square does not go with a region of the unpadded image")
	}
	return c.answer(ctx, s, []string{c.Image}, func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		var at unibiomed.Place
		if c.Box != nil {
			at.Box = c.Box.Rectangle
		} else {
			m, err := imaging.DecodeMaskFile(c.Mask, imaging.Options{})
			if err != nil {
				return nil, err
			}
			at.Mask = m
		}
		return p.Region(ctx, in, at, c.Describe, o)
	})
}

type reportCmd struct {
	answerFlags
	Anatomy string   `short:"a" help:"Ask whether this anatomy shows an abnormality, instead of a report."`
	Images  []string `arg:"" name:"IMAGE" help:"Files, folders or globs."`
}

func (reportCmd) Help() string {
	return "Examples:\n  unibiomed report chest.png --out results\n  unibiomed report chest.png --anatomy \"left lung\""
}

func (c *reportCmd) Run(ctx context.Context, s *streams) error {
	return c.answer(ctx, s, c.Images, func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		return p.Report(ctx, in, c.Anatomy, o)
	})
}

type analyzeCmd struct {
	answerFlags
	Images []string `arg:"" name:"IMAGE" help:"Files, folders or globs."`
}

func (analyzeCmd) Help() string {
	return "Example:\n  unibiomed analyze folder/ --out results"
}

func (c *analyzeCmd) Run(ctx context.Context, s *streams) error {
	return c.answer(ctx, s, c.Images, func(ctx context.Context, p *unibiomed.Pipeline, in unibiomed.Input, o unibiomed.Observers) (*unibiomed.Result, error) {
		return p.Analyze(ctx, in, o)
	})
}

// seconds prints a duration for people.
func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }
