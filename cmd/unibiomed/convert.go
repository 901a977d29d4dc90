package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
)

// makeFlags are those of the verbs that make a model folder.
type makeFlags struct {
	Out       string   `short:"o" required:"" placeholder:"DIR" help:"The model folder to make. It appears whole or not at all."`
	Type      string   `placeholder:"T" help:"Type of all three parts: ${types}."`
	Language  string   `placeholder:"T" help:"Type of the language model."`
	Vision    string   `placeholder:"T" help:"Type of the vision tower."`
	Grounding string   `placeholder:"T" help:"Type of SAM 2."`
	Tensor    []string `sep:"none" placeholder:"PATTERN=T" help:"Type of the matrices whose name in the GGUF file matches, whatever their part's type. May be repeated; the last that matches holds."`
	MaxError  float64  `default:"0.03" placeholder:"E" help:"A matrix that q8_0 would change more than this is stored as f16: root mean square over input channels of each channel's relative error; values spread evenly err by 0.0054. 0: whatever the error."`
	Name      string   `placeholder:"NAME" help:"Name of the model. Default: the checkpoint's own, or that of the folder."`
	Overwrite bool     `help:"Replace a folder that holds a model and nothing else."`
	Threads   int      `placeholder:"N" help:"CPU threads for packing. Default: the number of physical cores."`
	JSON      bool     `help:"Print the summary as JSON."`
	Quiet     bool     `short:"q" help:"No progress."`
}

// make runs Convert or Quantize and prints what was made. fallback is the type where no flag names one.
func (f makeFlags) make(ctx context.Context, s *streams, source, fallback string,
	run func(ctx context.Context, source, dest string, o checkpoint.Options) (*checkpoint.Summary, error)) error {
	if f.Threads < 0 {
		return usagef("--threads: %d is not a number of threads", f.Threads)
	}
	if !(f.MaxError >= 0) {
		return usagef("--max-error: %g, want 0 or more", f.MaxError)
	}
	if f.MaxError == 0 {
		f.MaxError = -1
	}
	o := checkpoint.Options{
		MaxError:  f.MaxError,
		Language:  cmp.Or(f.Language, f.Type, fallback),
		Vision:    cmp.Or(f.Vision, f.Type, fallback),
		Grounding: cmp.Or(f.Grounding, f.Type, fallback),
		Name:      f.Name,
		Overwrite: f.Overwrite,
		Quantizer: unibiomed.Quantizer(f.Threads),
	}
	for _, given := range []struct{ flag, typ string }{
		{"--type", f.Type}, {"--language", f.Language}, {"--vision", f.Vision}, {"--grounding", f.Grounding},
	} {
		if given.typ != "" && !slices.Contains(checkpoint.Types(), given.typ) {
			return usagef("%s: %q, want one of %s", given.flag, given.typ, strings.Join(checkpoint.Types(), " "))
		}
	}
	for _, given := range f.Tensor {
		pattern, typ, ok := strings.Cut(given, "=")
		if _, err := path.Match(pattern, ""); !ok || pattern == "" || err != nil || !slices.Contains(checkpoint.PlainTypes(), typ) {
			return usagef("--tensor: %q, want PATTERN=T with T one of %s", given, strings.Join(checkpoint.PlainTypes(), " "))
		}
		o.Tensors = append(o.Tensors, checkpoint.TensorType{Pattern: pattern, Type: typ})
	}
	bar := newProgress(s.err, f.Quiet, 1)
	o.Progress = func(done, total int64, name string) {
		bar.label = name
		bar.set("", float64(done)/float64(max(total, 1)))
	}
	summary, err := run(ctx, source, f.Out, o)
	bar.finish()
	if err != nil {
		return err
	}
	if f.JSON {
		return encodeJSON(s.out, summaryDocument(f.Out, summary), true)
	}
	return printSummary(s.out, f.Out, summary)
}

type convertCmd struct {
	makeFlags
	Source string `arg:"" name:"HF_FOLDER" help:"The checkpoint: model.safetensors or its shards, config.json, the tokenizer's files."`
}

func (convertCmd) Help() string {
	return `Reads a Hugging Face checkpoint folder and writes a model folder, streaming. Everything that can be checked is checked
before anything is written. Default type: f32. A row that a type can't hold takes the next type that can; the summary says so.

Examples:
  unibiomed convert UniBiomed/ --out unibiomed-1b-q8_0 --type q8_0
  unibiomed convert UniBiomed/ --out unibiomed-1b-q4_0 --language q4_0 --vision q8_0 --grounding q8_0
  unibiomed convert UniBiomed/ --out unibiomed-1b-mixed --type q8_0 --tensor 'blocks.*.mlp.fc2.weight=f16' --tensor 'trunk.*=f16'`
}

func (c *convertCmd) Run(ctx context.Context, s *streams) error {
	return c.make(ctx, s, c.Source, "", checkpoint.Convert)
}

type quantizeCmd struct {
	makeFlags
	Source string `arg:"" name:"MODEL" help:"The model folder to start from, best one in f32, f16 or bf16."`
}

func (quantizeCmd) Help() string {
	return `A part without a type flag is copied as it is.

Examples:
  unibiomed quantize unibiomed-1b-f32 --out unibiomed-1b-q8_0 --type q8_0
  unibiomed quantize unibiomed-1b-f32 --out smaller --language q4_0`
}

func (c *quantizeCmd) Run(ctx context.Context, s *streams) error {
	if c.Type == "" && c.Language == "" && c.Vision == "" && c.Grounding == "" && len(c.Tensor) == 0 {
		return usagef("give --type, a type for a part (--language, --vision, --grounding), or --tensor")
	}
	return c.make(ctx, s, c.Source, "", checkpoint.Quantize)
}

// summaryDocument is the JSON of convert and quantize.
func summaryDocument(dir string, s *checkpoint.Summary) any {
	type fallback struct {
		Tensor    string `json:"tensor"`
		RowLength int64  `json:"row_length"`
		Wanted    string `json:"wanted"`
		Used      string `json:"used"`
	}
	type kept struct {
		Tensor string  `json:"tensor"`
		Error  float64 `json:"error"`
	}
	type part struct {
		Part      checkpoint.Part `json:"part"`
		Type      string          `json:"type"`
		Bytes     int64           `json:"bytes"`
		Tensors   map[string]int  `json:"tensors"`
		Fallbacks []fallback      `json:"fallbacks"`
		Kept      []kept          `json:"kept"` // as f16, where q8_0 would change them too much
	}
	parts := []part{}
	for _, p := range s.Parts {
		doc := part{p.Part, p.Type, p.Bytes, p.Tensors, []fallback{}, []kept{}}
		for _, f := range p.Fallbacks {
			doc.Fallbacks = append(doc.Fallbacks, fallback(f))
		}
		for _, k := range p.Kept {
			doc.Kept = append(doc.Kept, kept(k))
		}
		parts = append(parts, doc)
	}
	return struct {
		Schema string               `json:"schema"`
		Folder string               `json:"folder"`
		Parts  []part               `json:"parts"`
		Model  *checkpoint.Manifest `json:"model"`
	}{"unibiomed.summary/1", dir, parts, s.Model}
}

func printSummary(w io.Writer, dir string, s *checkpoint.Summary) error {
	fmt.Fprintf(w, "%s: %s\n", dir, s.Model.Name)
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	var total int64
	for _, p := range s.Parts {
		total += p.Bytes
		fmt.Fprintf(t, "  %s\t%s\t%s\t%s\n", p.Part, p.Type, bytesText(uint64(p.Bytes)), typeCounts(p.Tensors))
	}
	fmt.Fprintf(t, "  total\t\t%s\t\n", bytesText(uint64(total)))
	if err := t.Flush(); err != nil {
		return err
	}
	for _, p := range s.Parts {
		kinds := map[string]int{}
		for _, f := range p.Fallbacks {
			kinds[fmt.Sprintf("%s can't hold rows of %d: stored as %s", f.Wanted, f.RowLength, f.Used)]++
		}
		for _, kind := range slices.Sorted(maps.Keys(kinds)) {
			fmt.Fprintf(w, "  %s: %d tensors: %s\n", p.Part, kinds[kind], kind)
		}
		for _, k := range p.Kept {
			fmt.Fprintf(w, "  %s: %s: stored as f16, q8_0 would change it by %.3f\n", p.Part, k.Tensor, k.Error)
		}
	}
	return nil
}

// typeCounts prints "145 q8_0, 170 f32", the most frequent type first.
func typeCounts(tensors map[string]int) string {
	names := slices.SortedFunc(maps.Keys(tensors), func(a, b string) int {
		return cmp.Or(cmp.Compare(tensors[b], tensors[a]), cmp.Compare(a, b))
	})
	for i, name := range names {
		names[i] = fmt.Sprintf("%d %s", tensors[name], name)
	}
	return strings.Join(names, ", ")
}
