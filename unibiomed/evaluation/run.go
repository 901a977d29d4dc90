package evaluation

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/unibiomed/go-unibiomed/unibiomed"
)

// Names of the files of a run's folder.
const (
	JournalFile     = "items.ndjson"
	PredictionsFile = "predictions.ndjson"
	SummaryFile     = "summary.json"
)

// A Run is one task over one data set.
type Run struct {
	Dataset *Dataset
	Task    Task
	// Absent asks segment and presence also for what an image does not show, and for one target of another modality.
	Absent bool
	// Limit takes the first images only; 0 takes all.
	Limit int
	// Header identifies the run; Do fills in what the fields above say.
	Header Header
	// Dir is where JournalFile is kept; "" keeps nothing. It must exist.
	Dir string
	// Resume continues a journal in Dir instead of refusing it.
	Resume bool
	// Predictions appends every answer with its masks to PredictionsFile in Dir.
	Predictions bool
	// Started hears each image before it is asked about, Failed those that can't be.
	Started   func(i, n int, s Sample)
	Failed    func(s Sample, err error)
	Observers unibiomed.Observers
}

// samples are those that the task asks something about.
func (r Run) samples() []Sample {
	var out []Sample
	for _, s := range r.Dataset.Samples {
		if !r.Absent {
			s.Absent, s.Foreign = nil, ""
		}
		if r.Task.Asks(s) {
			out = append(out, s)
		}
		if r.Limit > 0 && len(out) == r.Limit {
			break
		}
	}
	return out
}

func (r Run) header() Header {
	h := r.Header
	h.Schema, h.Dataset, h.Format, h.Task, h.Absent = JournalSchema, r.Dataset.Name, r.Dataset.Format, r.Task, r.Absent
	return h
}

// Do asks about every image that the journal does not have yet, and returns the header and the records of all of them in the order
// of the data set. An image that can't be read or answered is a record with an Error; a canceled context ends the run.
func (r Run) Do(ctx context.Context, p *unibiomed.Pipeline) (Header, []Record, error) {
	return r.each(ctx, func(s Sample) ([]Item, error) {
		results, err := r.Task.Ask(ctx, p, s, r.Observers)
		if err != nil {
			return nil, err
		}
		items, err := r.Task.Score(s, results)
		if err == nil && r.Predictions && r.Dir != "" {
			err = r.append(Prediction{s.ID, r.Task, results})
		}
		return items, err
	})
}

// Rescore scores saved predictions instead of asking a model; of an image that stands there twice the last counts.
func (r Run) Rescore(ctx context.Context, predictions map[string][]Item) (Header, []Record, error) {
	return r.each(ctx, func(s Sample) ([]Item, error) {
		items, ok := predictions[s.ID]
		if !ok {
			return nil, &TaskError{s.ID, r.Task, "no prediction"}
		}
		return items, nil
	})
}

func (r Run) append(p Prediction) error {
	f, err := os.OpenFile(filepath.Join(r.Dir, PredictionsFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	err = WritePrediction(f, p)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	return err
}

func (r Run) each(ctx context.Context, measure func(Sample) ([]Item, error)) (Header, []Record, error) {
	h, samples := r.header(), r.samples()
	if len(samples) == 0 {
		return h, nil, &DatasetError{File: r.Dataset.Dir, Msg: fmt.Sprintf("no image that the task %s asks about", r.Task)}
	}
	known := map[string]Record{}
	var journal *Journal
	if r.Dir != "" {
		var err error
		if journal, err = r.open(h, known); err != nil {
			return h, nil, err
		}
		defer journal.Close()
	}
	records := make([]Record, 0, len(samples))
	for i, s := range samples {
		if rec, ok := known[s.ID]; ok {
			records = append(records, rec)
			continue
		}
		if err := ctx.Err(); err != nil {
			return h, nil, err
		}
		if r.Started != nil {
			r.Started(i, len(samples), s)
		}
		start := time.Now()
		rec := Record{ID: s.ID, Group: s.Group, Modality: s.Modality}
		items, err := measure(s)
		if ctx.Err() != nil {
			return h, nil, ctx.Err()
		}
		rec.Items, rec.Milliseconds = items, float64(time.Since(start).Milliseconds())
		if err != nil {
			rec.Items, rec.Error = nil, err.Error()
			if r.Failed != nil {
				r.Failed(s, err)
			}
		} else if journal != nil {
			if err := journal.Append(rec); err != nil {
				return h, nil, err
			}
		}
		records = append(records, rec)
	}
	return h, records, nil
}

// open starts the journal, or continues it and notes the records that this run needs too.
func (r Run) open(h Header, known map[string]Record) (*Journal, error) {
	path := filepath.Join(r.Dir, JournalFile)
	if !r.Resume {
		if old := filepath.Join(r.Dir, PredictionsFile); r.Predictions {
			if _, err := os.Lstat(old); err == nil {
				return nil, &fs.PathError{Op: "create", Path: old, Err: fs.ErrExist}
			}
		}
		return CreateJournal(path, h)
	}
	j, records, err := ResumeJournal(path, h)
	if err != nil {
		return nil, err
	}
	for _, rec := range records {
		known[rec.ID] = rec
	}
	if r.Predictions {
		if err := trimToLine(filepath.Join(r.Dir, PredictionsFile)); err != nil {
			j.Close()
			return nil, err
		}
	}
	return j, nil
}

// trimToLine cuts what a killed run left of a last line.
func trimToLine(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer f.Close()
	end, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	const step = 64 << 10
	buf := make([]byte, step)
	for end > 0 {
		start := max(0, end-step)
		part := buf[:end-start]
		if _, err := f.ReadAt(part, start); err != nil {
			return err
		}
		if i := bytes.LastIndexByte(part, '\n'); i >= 0 {
			end = start + int64(i) + 1
			break
		}
		end = start
	}
	return f.Truncate(end)
}
