package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
)

type verifyCmd struct {
	JSON  bool   `help:"Print the findings as JSON."`
	Quiet bool   `short:"q" help:"No progress."`
	Model string `arg:"" optional:"" name:"MODEL" env:"UNIBIOMED_MODEL" help:"The model folder. Default: unibiomed-nano, which is part of the command."`
}

func (verifyCmd) Help() string {
	return `Reads every byte of a model folder, compares sizes and checksums with model.json, and checks that the three files are sound and
belong together. Lists each problem; exit code 1 if there is any.

Example:
  unibiomed verify unibiomed-1b-q8_0`
}

func (c *verifyCmd) Run(ctx context.Context, s *streams) error {
	dir, err := modelFlags{Model: c.Model}.dir()
	if err != nil {
		return err
	}
	bar := newProgress(s.err, c.Quiet, 1)
	_, err = checkpoint.Verify(ctx, dir, func(done, total int64, name string) {
		bar.label = name
		bar.set("", float64(done)/float64(max(total, 1)))
	})
	bar.finish()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	problems := flatten(err)
	if nativeErr := bindings.Check(unibiomed.ModelFiles(dir)); nativeErr != nil {
		problems = append(problems, nativeErr)
	}
	if c.JSON {
		doc := struct {
			Schema   string   `json:"schema"`
			Folder   string   `json:"folder"`
			OK       bool     `json:"ok"`
			Problems []string `json:"problems"`
		}{"unibiomed.verify/1", dir, len(problems) == 0, []string{}}
		for _, p := range problems {
			doc.Problems = append(doc.Problems, p.Error())
		}
		if err := encodeJSON(s.out, doc, true); err != nil {
			return err
		}
	} else if len(problems) == 0 {
		fmt.Fprintf(s.out, "%s: whole, and its parts belong together\n", dir)
	}
	if len(problems) == 0 {
		return nil
	}
	if !c.JSON {
		for _, p := range problems {
			fmt.Fprintln(s.err, "unibiomed:", p)
		}
	}
	return errors.Join(append(problems, errReported)...)
}

// flatten lists what an error joins.
func flatten(err error) []error {
	if err == nil {
		return nil
	}
	var several *checkpoint.ProblemsError
	if errors.As(err, &several) {
		return several.Problems
	}
	return []error{err}
}
