package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
)

// volumeEvalFlags are those of eval that only volumes have.
type volumeEvalFlags struct {
	Volumes   bool    `help:"DATASET is a folder of volumes beside IMAGE__TARGET.mask.nii.gz, or IMAGE__labels.nii.gz and .json."`
	Track     bool    `help:"Of volumes, follow targets by memory instead of asking about every slice."`
	Plane     string  `default:"auto" enum:"auto,axial,coronal,sagittal,stored" help:"Of volumes, the plane of the slices."`
	Window    string  `default:"auto" placeholder:"W" help:"Of volumes, the window, as for segment."`
	Modality  string  `placeholder:"CODE" help:"Of volumes, the DICOM code of files that do not say theirs."`
	Tolerance float64 `default:"2" placeholder:"MM" help:"Of volumes, the distance in mm that the strict NSD allows."`
}

// volumes scores volumes. An interrupted run goes on with the same --out and --resume.
func (c *evalCmd) volumes(ctx context.Context, s *streams) error {
	switch {
	case c.Task != string(evaluation.Segment):
		return usagef("--volumes goes with --task segment, not %s", c.Task)
	case c.Absent || c.Baselines || c.Predictions || c.Score != "" || c.Commercial || c.Format != "auto":
		return usagef("--volumes goes without --absent, --baselines, --predictions, --score, --commercial and --format")
	case !(c.Tolerance > 0):
		return usagef("--tolerance: %g, want above 0", c.Tolerance)
	}
	samples, err := evaluation.OpenVolumes(c.Dataset, c.Template)
	if err != nil {
		return err
	}
	if c.Limit > 0 {
		samples = samples[:min(c.Limit, len(samples))]
	}
	if c.Out != "" {
		if err := (answerFlags{Out: c.Out}).checkOut(); err != nil {
			return err
		}
	}
	p, err := c.open(ctx)
	if err != nil {
		return err
	}
	defer p.Close()
	bar := newProgress(s.err, c.Quiet, len(samples))
	defer bar.finish()
	run := evaluation.VolumeRun{
		Samples: samples, Modality: strings.ToUpper(c.Modality), Tolerance: c.Tolerance, Dir: c.Out,
		Options: unibiomed.VolumeOptions{
			ViewOptions: unibiomed.ViewOptions{Plane: c.Plane, Window: c.Window}, Track: c.Track,
			Progress: func(done, all int) { bar.set("slices", float64(done)/float64(max(all, 1))) },
		},
		Started: func(i, n int, sample evaluation.VolumeSample) { bar.next(i, sample.ID) },
		Failed: func(sample evaluation.VolumeSample, err error) {
			bar.clear()
			if !strings.Contains(err.Error(), sample.ID) {
				err = fmt.Errorf("%s: %w", sample.ID, err)
			}
			fmt.Fprintln(s.err, "unibiomed:", err)
		},
	}
	if !c.Resume {
		if err := run.RemoveJournals(); err != nil {
			return err
		}
	}
	summary, err := run.Do(ctx, p)
	bar.finish()
	if err != nil {
		return err
	}
	if c.Out != "" {
		if err := writeScores(c.Out, "volumes.json", summary); err != nil {
			return err
		}
		if summary.Failed == 0 {
			if err := run.RemoveJournals(); err != nil {
				return err
			}
		}
	}
	if c.JSON {
		err = encodeJSON(s.out, summary, true)
	} else {
		err = printVolumeScores(s.out, summary)
	}
	if err == nil && summary.Failed > 0 {
		return fmt.Errorf("%d of %d volumes failed and are in no score", summary.Failed, summary.Failed+summary.Volumes)
	}
	return err
}

func printVolumeScores(w io.Writer, s *evaluation.VolumeSummary) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "%d volumes, %s, model %s; strict: on the volume's grid, NSD within %g mm\n\n", s.Volumes, s.Mode, s.Model.Name, s.ToleranceMM)
	fmt.Fprintln(t, "\tstrict Dice\tHD95 mm\tNSD\tofficial Dice\tHD95 voxels\tNSD\tvideo Dice\tvolumes")
	optional := func(x *float64) string {
		if x == nil {
			return "-"
		}
		return fmt.Sprintf("%.4g", *x)
	}
	row := func(name string, m evaluation.VolumeMeans) {
		fmt.Fprintf(t, "%s\t%.4f\t%s\t%.4f\t%.4f\t%s\t%.4f\t%s\t%d\n", name, m.Dice, optional(m.HD95), m.NSD, m.OfficialDice, optional(m.OfficialHD95),
			m.OfficialNSD, optional(m.OfficialVideoDice), m.Volumes)
	}
	for _, m := range s.Phrases {
		row(m.Phrase, m)
	}
	row("mean over phrases", s.Mean)
	if s.Mean.Missed > 0 {
		fmt.Fprintf(t, "\n%d masks have no HD95: the truth or the answer is empty\n", s.Mean.Missed)
	}
	fmt.Fprintf(t, "\n%s\n", s.Notice)
	return t.Flush()
}
