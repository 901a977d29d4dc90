package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
)

type evalCmd struct {
	modelFlags
	volumeEvalFlags
	Task        string `default:"segment" enum:"segment,recognize,region,modality,presence" help:"segment, recognize, region, modality or presence."`
	Format      string `default:"auto" enum:"auto,biomedparse,index,pairs" help:"biomedparse, index, pairs, or auto: as the folder looks."`
	Split       string `default:"test" help:"Split to take; of an index also all."`
	Template    string `default:"{target}" placeholder:"\"{target} in chest X-Ray\"" help:"Phrase of a target whose name comes from a mask's file name."`
	Absent      bool   `help:"Segment and presence also ask for what an image does not show: where the data set says so, and one target of another modality."`
	Baselines   bool   `help:"Score two simple methods beside the model, fitted to the index's split train: the mean mask of a phrase, and Otsu's threshold."`
	Commercial  bool   `help:"Leave out what an index marks noncommercial."`
	Limit       int    `placeholder:"N" help:"The first images only."`
	Out         string `short:"o" placeholder:"DIR" help:"Folder for items.ndjson, a line an image as soon as it is scored, and summary.json."`
	Resume      bool   `help:"Continue the run in --out."`
	Predictions bool   `help:"Keep every answer with its masks in predictions.ndjson of --out."`
	Score       string `placeholder:"FILE" help:"Score a predictions.ndjson again, without a model."`
	Bootstrap   int    `default:"2000" placeholder:"N" help:"Draws of the confidence intervals."`
	Seed        uint64 `default:"1" help:"Seed of the draws."`
	JSON        bool   `help:"Print the summary as JSON."`
	Quiet       bool   `short:"q" help:"No progress."`
	Dataset     string `arg:"" name:"DATASET" help:"A folder: test.json with test/ and test_mask/; or index.jsonl; or images beside IMAGE__TARGET.mask.png."`
}

func (evalCmd) Help() string {
	return `Prints the scores of the official scripts beside strict ones, per modality and phrase, with 95 % intervals over groups
(docs/evaluation.md). A finished image is not lost when the run is stopped: repeat the command with --resume.

Examples:
  unibiomed eval BreastUS/ --model unibiomed-1b-q8_0 --out scores
  unibiomed eval train/ --split test --task recognize --limit 100 --json
  unibiomed eval BreastUS/ --score scores/predictions.ndjson
  unibiomed eval CT/ --volumes --template '{target} in abdomen CT' --out scores`
}

func (c *evalCmd) Run(ctx context.Context, s *streams) error {
	switch {
	case c.Limit < 0:
		return usagef("--limit: %d is not a number of images", c.Limit)
	case c.Bootstrap < 1:
		return usagef("--bootstrap: %d, want at least 1", c.Bootstrap)
	case c.Out == "" && (c.Resume || c.Predictions):
		return usagef("--resume and --predictions need --out")
	case c.Baselines && c.Task != string(evaluation.Segment):
		return usagef("--baselines goes with --task segment, not %s", c.Task)
	case c.Score != "" && (c.Resume || c.Predictions):
		return usagef("--score takes answers from a file: leave out --resume and --predictions")
	}
	if c.Volumes {
		return c.volumes(ctx, s)
	}
	format := evaluation.Format(c.Format)
	if format == "auto" {
		format = ""
	}
	data, err := evaluation.OpenDataset(c.Dataset, evaluation.DatasetOptions{Format: format, Split: c.Split, Template: c.Template, Commercial: c.Commercial})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := (answerFlags{Out: c.Out}).checkOut(); err != nil {
			return err
		}
	}
	bar := newProgress(s.err, c.Quiet, len(data.Samples))
	defer bar.finish()
	run := evaluation.Run{
		Dataset: data, Task: evaluation.Task(c.Task), Absent: c.Absent, Limit: c.Limit,
		Header: evaluation.Header{Split: c.Split}, Dir: c.Out, Resume: c.Resume, Predictions: c.Predictions,
		Started: func(i, n int, sample evaluation.Sample) {
			bar.resize(n)
			bar.next(i, sample.ID)
		},
		Failed: func(sample evaluation.Sample, err error) {
			bar.clear()
			if !strings.Contains(err.Error(), sample.ID) {
				err = fmt.Errorf("%s: %w", sample.ID, err)
			}
			fmt.Fprintln(s.err, "unibiomed:", err)
		},
		Observers: unibiomed.Observers{Progress: bar.stage},
	}
	header, records, err := c.records(ctx, run)
	bar.finish()
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: continue with --resume, or take another --out", err)
	}
	if err != nil {
		return err
	}
	if c.Baselines {
		if err := c.baselines(ctx, s, data, records); err != nil {
			return err
		}
	}
	summary, err := evaluation.Summarize(header, records, evaluation.SummaryOptions{Rounds: c.Bootstrap, Seed: c.Seed})
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := writeScores(c.Out, evaluation.SummaryFile, summary); err != nil {
			return err
		}
	}
	if c.JSON {
		err = encodeJSON(s.out, summary, true)
	} else {
		err = printSummaryOfScores(s.out, summary)
	}
	if err == nil && summary.Failed > 0 {
		return fmt.Errorf("%d of %d images failed and are in no score", summary.Failed, summary.Failed+summary.Images)
	}
	return err
}

// baselines fits the simple methods to the training split, and measures them on the records.
func (c *evalCmd) baselines(ctx context.Context, s *streams, data *evaluation.Dataset, records []evaluation.Record) error {
	if data.Format != evaluation.Index {
		return usagef("--baselines needs an index with a split train, this data set is of the format %s", data.Format)
	}
	train, err := evaluation.OpenDataset(c.Dataset, evaluation.DatasetOptions{Format: data.Format, Split: "train", Commercial: c.Commercial})
	if err != nil {
		return err
	}
	bar := newProgress(s.err, c.Quiet, len(train.Samples))
	defer bar.finish()
	b, err := evaluation.FitBaselines(ctx, train, func(i, n int, sample evaluation.Sample) { bar.next(i, "baselines: "+sample.ID) })
	if err != nil {
		return err
	}
	return b.Fill(ctx, data.Samples, records)
}

// records asks the model, or takes what was saved.
func (c *evalCmd) records(ctx context.Context, run evaluation.Run) (evaluation.Header, []evaluation.Record, error) {
	if c.Score != "" {
		return c.rescore(ctx, run)
	}
	if err := c.validate(); err != nil {
		return run.Header, nil, err
	}
	dir, err := c.dir()
	if err != nil {
		return run.Header, nil, err
	}
	m, err := checkpoint.ReadModel(dir)
	if err != nil {
		return run.Header, nil, err
	}
	run.Header.Model, run.Header.SHA256 = m.Name, m.Source.SHA256
	for _, part := range checkpoint.Parts() {
		run.Header.Quantization = strings.TrimSpace(run.Header.Quantization + " " + string(part) + " " + m.Quantization[string(part)])
	}
	p, err := unibiomed.Open(ctx, dir, c.options())
	if err != nil {
		return run.Header, nil, err
	}
	defer p.Close()
	return run.Do(ctx, p)
}

func (c *evalCmd) rescore(ctx context.Context, run evaluation.Run) (evaluation.Header, []evaluation.Record, error) {
	f, err := os.Open(c.Score)
	if err != nil {
		return run.Header, nil, err
	}
	defer f.Close()
	samples := map[string]evaluation.Sample{}
	for _, s := range run.Dataset.Samples {
		if !run.Absent {
			s.Absent, s.Foreign = nil, ""
		}
		samples[s.ID] = s
	}
	known := map[string][]evaluation.Item{}
	err = evaluation.ReadPredictions(f, func(p evaluation.Prediction) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		sample, ok := samples[p.ID]
		if !ok || p.Task != run.Task {
			return nil // of another split or task
		}
		items, err := sample.Rescore(p)
		if err != nil {
			return fmt.Errorf("%s: %w", p.ID, err)
		}
		known[p.ID] = items
		for _, r := range p.Results {
			if r != nil {
				run.Header.Model, run.Header.SHA256 = r.Model.Name, r.Model.SHA256
			}
		}
		return nil
	})
	if err != nil {
		return run.Header, nil, fmt.Errorf("%s: %w", filepath.Base(c.Score), err)
	}
	run.Dataset.Samples = slices.DeleteFunc(slices.Clone(run.Dataset.Samples), func(s evaluation.Sample) bool { return known[s.ID] == nil })
	return run.Rescore(ctx, known)
}

// writeScores writes a summary into dir, whole or not at all.
func writeScores(dir, name string, summary any) error {
	b := &batch{dir: dir}
	defer b.discard()
	if err := b.add(name, func(w io.Writer) error { return encodeJSON(w, summary, true) }); err != nil {
		return err
	}
	return b.commit()
}

func printSummaryOfScores(w io.Writer, s *evaluation.Summary) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%s of %s (%s): %d images", s.Header.Task, s.Header.Dataset, s.Header.Split, s.Images)
	if s.Failed > 0 {
		fmt.Fprintf(t, ", %d failed", s.Failed)
	}
	fmt.Fprintf(t, "\nmodel %s, %s\n\n", s.Header.Model, s.Header.Quantization)
	if x := s.Segmentation; x != nil {
		fmt.Fprintln(t, "\tofficial\tstrict")
		fmt.Fprintf(t, "Dice, mean over masks\t%s\t%s\n", scoreText(&x.Official.Dice), scoreText(&x.Strict.Dice))
		fmt.Fprintf(t, "IoU, mean over masks\t%.4f\t%.4f\n", x.Official.IoU, x.Strict.IoU)
		fmt.Fprintf(t, "Dice, mean over phrases\t%.4f\t%.4f\n", x.Official.ClassDice, x.Strict.ClassDice)
		fmt.Fprintf(t, "IoU, mean over phrases\t%.4f\t%.4f\n", x.Official.ClassIoU, x.Strict.ClassIoU)
		fmt.Fprintf(t, "Dice, mean over modalities\t%.4f\t%.4f\n", x.Official.ModalityDice, x.Strict.ModalityDice)
		fmt.Fprintf(t, "masks\t%d, %d left out\t%d, %d without [SEG]\n", x.Official.Dice.Count, x.Official.Skipped, x.Strict.Dice.Count, x.NoSeg)
	}
	if x := s.Segmentation; x != nil {
		if x.Follows.Pairs > 0 {
			fmt.Fprintf(t, "pairs of targets in different places\t\t%d, %d with different masks, %d with two empty ones\n", x.Follows.Pairs, x.Follows.Different, x.Follows.BothEmpty)
		}
		for _, b := range []struct{ name, text string }{{evaluation.MeanMask, "mean mask of the training set"}, {evaluation.Otsu, "Otsu's threshold"}} {
			if score, ok := x.Baselines[b.name]; ok {
				fmt.Fprintf(t, "%s, Dice over masks, modalities\t\t%s, %.4f\n", b.text, scoreText(&score.Dice), score.ModalityDice)
			}
		}
	}
	if x := s.Recognition; x != nil {
		fmt.Fprintln(t, "\tofficial\tstrict")
		fmt.Fprintf(t, "accuracy of phrases\t%.4f (%d images)\t%s\n", x.OfficialAccuracy, x.OfficialImages, scoreText(&x.StrictAccuracy))
		fmt.Fprintf(t, "Dice of matched masks\t%s\t%s\n", scoreText(&x.OfficialDice), scoreText(&x.StrictDice))
	}
	if x := s.Region; x != nil {
		fmt.Fprintln(t, "\tofficial\tstrict")
		fmt.Fprintf(t, "accuracy\t%s\t%s\n", scoreText(&x.Official), scoreText(&x.Strict))
	}
	if s.Modality != nil {
		fmt.Fprintf(t, "accuracy\t%s\n", scoreText(s.Modality))
	}
	if s.Presence != nil {
		fmt.Fprintf(t, "accuracy\t%s\n", scoreText(s.Presence))
	}
	if x := s.Classes; x != nil {
		fmt.Fprintf(t, "mean over %d classes\t%.4f\n", x.Count, x.Balanced)
		fmt.Fprintf(t, "always %q\t%.4f\n", x.MajorityAnswer, x.Majority)
	}
	what := "nothing drawn"
	if s.Header.Task == evaluation.Presence {
		what = "answered no"
	}
	if s.Absent != nil {
		fmt.Fprintf(t, "absent, %s\t%s, %d phrases\n", what, scoreText(s.Absent), s.Absent.Count)
	}
	if s.Foreign != nil {
		fmt.Fprintf(t, "of another modality, %s\t%s, %d phrases\n", what, scoreText(s.Foreign), s.Foreign.Count)
	}
	rows := func(title string, rows []evaluation.Row) {
		if len(rows) == 0 {
			return
		}
		compared := slices.ContainsFunc(rows, func(r evaluation.Row) bool { return len(r.Baselines) > 0 })
		fmt.Fprintf(t, "\n%s\tofficial\tstrict\tcount\tabsent", title)
		if compared {
			fmt.Fprint(t, "\tmean mask\tOtsu")
		}
		fmt.Fprintln(t)
		for _, r := range rows {
			count := 0
			if r.Strict != nil {
				count = r.Strict.Count
			}
			fmt.Fprintf(t, "%s\t%s\t%s\t%d\t%s", r.Name, scoreText(r.Official), scoreText(r.Strict), count, scoreText(r.Absent))
			if compared {
				fmt.Fprintf(t, "\t%s\t%s", scoreText(r.Baselines[evaluation.MeanMask]), scoreText(r.Baselines[evaluation.Otsu]))
			}
			fmt.Fprintln(t)
		}
	}
	rows("modality", s.ByModality)
	rows("phrase", s.ByPhrase)
	fmt.Fprintf(t, "\nIn brackets: %.0f %% intervals, %d draws of groups, seed %d.\n%s\n", 100*s.Interval.Level, s.Interval.Rounds, s.Interval.Seed, s.Notice)
	return t.Flush()
}

func scoreText(s *evaluation.Scores) string {
	if s == nil {
		return "-"
	}
	if s.Groups < 2 {
		return fmt.Sprintf("%.4f", s.Mean)
	}
	return fmt.Sprintf("%.4f [%.4f, %.4f]", s.Mean, s.Low, s.High)
}
