package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/schollz/progressbar/v3"
)

// A progress shows on a terminal how far the work is and how long it will take; elsewhere it prints a line an input when
// there are several.
type progress struct {
	w       io.Writer
	bar     *progressbar.ProgressBar // nil when not on a terminal, or quiet
	lines   bool
	total   int
	current int
	started time.Time
	label   string
}

// steps of the bar for each input.
const steps = 1000

func newProgress(w io.Writer, quiet bool, total int) *progress {
	p := &progress{w: w, total: total, started: time.Now()}
	if quiet {
		return p
	}
	if !isTerminal(w) {
		p.lines = total > 1
		return p
	}
	p.bar = progressbar.NewOptions(total*steps,
		progressbar.OptionSetWriter(w),
		progressbar.OptionSetWidth(24),
		progressbar.OptionClearOnFinish(),
		progressbar.OptionSetPredictTime(true),
		progressbar.OptionThrottle(100*time.Millisecond),
	)
	return p
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// weights are the shares of an answer's time that the stages take, so that the bar moves evenly.
var weights = []struct {
	stage      string
	start, end float64
}{
	{"vision", 0, 0.55}, {"prefill", 0.55, 0.75}, {"decode", 0.75, 0.8}, {"features", 0.8, 0.97}, {"masks", 0.97, 0.99}, {"slices", 0.8, 1}, {"resize", 0.99, 1},
}

// resize tells the number of inputs when it was not known at first.
func (p *progress) resize(total int) {
	if total == p.total {
		return
	}
	p.total = total
	if p.bar != nil {
		p.bar.ChangeMax(total * steps)
	}
}

func (p *progress) next(i int, path string) {
	p.current, p.label = i, filepath.Base(path)
	if p.lines {
		left := ""
		if i > 0 {
			left = ", " + seconds(time.Since(p.started)/time.Duration(i)*time.Duration(p.total-i)) + " left"
		}
		fmt.Fprintf(p.w, "[%d/%d] %s%s\n", i+1, p.total, path, left)
	}
	p.set("", 0)
}

// stage is an observer of unibiomed.
func (p *progress) stage(stage string, done float64) {
	for _, w := range weights {
		if w.stage == stage {
			p.set(stage, w.start+(w.end-w.start)*done)
		}
	}
}

func (p *progress) set(stage string, share float64) {
	if p.bar == nil {
		return
	}
	p.bar.Describe(fmt.Sprintf("%s %s", p.label, stage))
	p.bar.Set(p.current*steps + int(share*steps))
}

// clear makes room for a line on the same terminal.
func (p *progress) clear() {
	if p.bar != nil {
		p.bar.Clear()
	}
}

func (p *progress) finish() {
	if p.bar != nil {
		p.bar.Finish()
	}
}
