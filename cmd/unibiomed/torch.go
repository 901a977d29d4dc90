package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"text/tabwriter"
)

// A torchDocument is what reference/bench.py prints, or any program with the same arguments.
type torchDocument struct {
	Schema  string        `json:"schema"` // unibiomed.torch/1
	Library string        `json:"library"`
	Threads int           `json:"threads"`
	Stages  []measurement `json:"stages"` // stage, seconds and, where known, processor_seconds
	Peak    uint64        `json:"resident_peak"`
}

const torchSchema = "unibiomed.torch/1"

// A comparison sets one stage or answer beside PyTorch's. Ratios are PyTorch's time over ours: above 1 we are faster.
type comparison struct {
	Stage          string  `json:"stage"`
	Torch          float64 `json:"torch_seconds"`
	Ours           float64 `json:"seconds"`
	Ratio          float64 `json:"ratio"`
	ProcessorRatio float64 `json:"processor_ratio,omitempty"` // of processor seconds, which a busy machine stretches least
}

// torch runs one round of the comparison program and merges it with earlier rounds.
func (b *bench) torch(ctx context.Context) error {
	b.step("PyTorch", 0)
	args := []string{"-m", "reference.bench"}
	if b.TorchScript != "" {
		args = []string{b.TorchScript}
	}
	args = append(args, b.Checkpoint, "--new-tokens", strconv.Itoa(b.NewTokens), "--masks", strconv.Itoa(b.Masks))
	if b.Image != "" {
		args = append(args, "--image", b.Image)
	}
	if threads := b.Threads; threads > 0 || b.doc.Machine.Cores > 0 {
		if threads == 0 {
			threads = b.doc.Machine.Cores
		}
		args = append(args, "--threads", strconv.Itoa(threads))
	}
	if err := b.operations(); err != nil {
		return err
	}
	if strings.HasPrefix(b.doc.device(), "cuda") {
		args = append(args, "--device", "cuda", "--repeat", "3") // a program's first run loads kernels
	}
	var stdout, stderr bytes.Buffer
	run := exec.CommandContext(ctx, b.CompareTorch, args...)
	run.Stdout, run.Stderr = &stdout, &stderr
	if err := run.Run(); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		last := stderr.String()
		last = strings.TrimSpace(last[strings.LastIndexByte(strings.TrimSpace(last), '\n')+1:])
		return fmt.Errorf("%s %s: %w: %s", b.CompareTorch, strings.Join(args, " "), err, last)
	}
	var d torchDocument
	if err := json.Unmarshal(stdout.Bytes(), &d); err != nil {
		return fmt.Errorf("%s %s: its output is no JSON document: %w", b.CompareTorch, strings.Join(args, " "), err)
	}
	if d.Schema != torchSchema {
		return fmt.Errorf("%s %s: schema is %q, want %q", b.CompareTorch, strings.Join(args, " "), d.Schema, torchSchema)
	}
	if b.doc.Torch == nil {
		b.doc.Torch = &d
		return nil
	}
	for _, m := range d.Stages {
		b.doc.Torch.Stages = fastest(b.doc.Torch.Stages, m)
	}
	b.doc.Torch.Peak = max(b.doc.Torch.Peak, d.Peak)
	return nil
}

// fastest adds a stage to rows, or puts it in place of a slower run.
func fastest(rows []measurement, m measurement) []measurement {
	for i := range rows {
		if rows[i].Stage == m.Stage {
			if m.Seconds < rows[i].Seconds {
				rows[i] = m
			}
			return rows
		}
	}
	return append(rows, m)
}

// compare makes the ratios of stages and answers.
func (b *bench) compare() {
	if b.doc.Torch == nil {
		return
	}
	theirs, ours := byStage(b.doc.Torch.Stages), byStage(b.doc.Stages)
	add := func(name string, t, o []string) {
		var c comparison
		var torchCPU, ourCPU float64
		for _, s := range t {
			c.Torch += theirs[s].Seconds
			torchCPU += theirs[s].Processor
		}
		for _, s := range o {
			c.Ours += ours[s].Seconds
			ourCPU += ours[s].Processor
		}
		c.Stage = name
		if c.Torch == 0 || c.Ours == 0 {
			return
		}
		c.Ratio = c.Torch / c.Ours
		if ourCPU > 0 {
			c.ProcessorRatio = torchCPU / ourCPU
		}
		b.doc.Comparison = append(b.doc.Comparison, c)
	}
	for _, m := range b.doc.Stages {
		add(m.Stage, []string{m.Stage}, []string{m.Stage})
	}
	add("vision, image features and prefill", heavyStages, heavyStages)
	one, several := append(answerStart(), rowMask, rowResize), append(answerStart(), rowMasks, rowResizes)
	add("answer, 1 [SEG]", one, one)
	add(fmt.Sprintf("answer, %d [SEG]", b.Masks), several, several)
	// the published code encodes the image anew for every [SEG] (spec/pitfalls.md R1)
	repeated := several
	for range b.Masks - 1 {
		repeated = append(repeated, rowPrepareImage, rowFeatures)
	}
	add(fmt.Sprintf("answer, %d [SEG], against an image encoding for each", b.Masks), repeated, several)
}

var heavyStages = []string{rowVision, rowFeatures, rowPrefill}

func byStage(rows []measurement) map[string]measurement {
	m := map[string]measurement{}
	for _, row := range rows {
		m[row.Stage] = row
	}
	return m
}

func (d *benchDocument) printComparison(w io.Writer) error {
	if d.Torch == nil {
		return nil
	}
	fmt.Fprintf(w, "against %s, %d threads, peak %s; ratio: its time over ours\n", d.Torch.Library, d.Torch.Threads, bytesText(d.Torch.Peak))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "stage\tits seconds\tours\tratio\tratio of processor time\t")
	for _, c := range d.Comparison {
		processor := ""
		if c.ProcessorRatio > 0 {
			processor = fmt.Sprintf("%.2f", c.ProcessorRatio)
		}
		fmt.Fprintf(t, "%s\t%.3f\t%.3f\t%.2f\t%s\t\n", c.Stage, c.Torch, c.Ours, c.Ratio, processor)
	}
	fmt.Fprintln(t)
	return t.Flush()
}

// validateTorch checks the flags of a comparison before anything runs.
func (c *benchCmd) validateTorch() error {
	switch {
	case c.CompareTorch == "" && (c.Checkpoint != "" || c.TorchScript != ""):
		return usagef("--checkpoint and --torch-script are of use with --compare-torch only")
	case c.CompareTorch == "":
		return nil
	case c.Checkpoint == "":
		return usagef("--compare-torch: --checkpoint is missing, the folder that the model was converted from")
	}
	if _, err := exec.LookPath(c.CompareTorch); err != nil {
		return usagef("--compare-torch: %v", err)
	}
	if _, err := os.Stat(c.Checkpoint); err != nil {
		return usagef("--checkpoint: %v", err)
	}
	return nil
}
