package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// An operationCount tells how often a device computed an operation of ggml for a stage.
type operationCount struct {
	Stage     string `json:"stage"`
	Operation string `json:"operation"`
	Device    string `json:"device"`
	Count     uint64 `json:"count"`
}

// onHost tells whether an operation is meant for the CPU on every device: token ids become embeddings where the table lies,
// which libllama keeps in the host's memory.
func (o operationCount) onHost() bool {
	return o.Operation == "GET_ROWS" && (o.Stage == "prefill" || o.Stage == "decode")
}

// A fallbackError reports operations that left the device which was asked for.
type fallbackError struct {
	device     string
	operations []operationCount
}

func (e *fallbackError) Error() string {
	names := make([]string, len(e.operations))
	for i, o := range e.operations {
		names[i] = fmt.Sprintf("%s %s (%d times)", o.Stage, o.Operation, o.Count)
	}
	return fmt.Sprintf("the CPU computed what %s should have: %s", e.device, strings.Join(names, ", "))
}

func (b *bench) operations() error {
	all, err := b.p.Native().Operations()
	if err != nil {
		return err
	}
	b.doc.Operations = []operationCount{}
	for _, o := range all {
		b.doc.Operations = append(b.doc.Operations, operationCount(o))
	}
	return nil
}

// devices are those that computed anything.
func (d *benchDocument) devices() []string {
	var names []string
	for _, o := range d.Operations {
		if !slices.Contains(names, o.Device) {
			names = append(names, o.Device)
		}
	}
	slices.Sort(names)
	return names
}

// device is where the model ran: the GPU, if it computed anything.
func (d *benchDocument) device() string {
	if d.Device != "auto" {
		return d.Device
	}
	for _, name := range d.devices() {
		if name != "cpu" {
			return name
		}
	}
	return "cpu"
}

// checkFallback fails when the model ran on a GPU and the CPU computed operations meant for it.
func (d *benchDocument) checkFallback() error {
	device := d.device()
	if device == "cpu" {
		return nil
	}
	e := &fallbackError{device: device}
	for _, o := range d.Operations {
		if o.Device != device && !o.onHost() {
			e.operations = append(e.operations, o)
		}
	}
	if len(e.operations) > 0 {
		return e
	}
	return nil
}

// printOperations prints a line a stage and device.
func (d *benchDocument) printOperations(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "operations of the stage\tcomputed on\t")
	for rest := d.Operations; len(rest) > 0; {
		stage := rest[0].Stage
		n := 1
		for n < len(rest) && rest[n].Stage == stage {
			n++
		}
		var parts []string
		for _, device := range d.devices() {
			var sum uint64
			var names []string
			for _, o := range rest[:n] {
				if o.Device == device {
					sum += o.Count
					names = append(names, o.Operation)
				}
			}
			if sum > 0 {
				parts = append(parts, fmt.Sprintf("%s: %d (%s)", device, sum, strings.Join(names, " ")))
			}
		}
		fmt.Fprintf(t, "%s\t%s\t\n", stage, strings.Join(parts, "; "))
		rest = rest[n:]
	}
	fmt.Fprintln(t)
	return t.Flush()
}
