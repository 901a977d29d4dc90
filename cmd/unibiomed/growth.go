package main

import (
	"context"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/plotutil"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

// A volumeCost is one [SEG] followed through a volume whose slices are all the same image: encoded, prompted or tracked.
type volumeCost struct {
	Slices  int     `json:"slices"`
	Seconds float64 `json:"seconds"`
	Encoded int     `json:"image_encodings"`
	Peak    uint64  `json:"resident_peak"`
}

// A growth is how a stage's time grows with its work.
type growth struct {
	Of     string        `json:"of"`
	Points []growthPoint `json:"points"`
}

type growthPoint struct {
	N         int     `json:"n"`
	Seconds   float64 `json:"seconds"`
	Processor float64 `json:"processor_seconds,omitempty"`
	Peak      uint64  `json:"resident_peak,omitempty"` // of slices
}

var plotFormats = []string{".png", ".svg"}

func (c *benchCmd) validateGrowth() error {
	if ext := strings.ToLower(filepath.Ext(c.Growth)); c.Growth != "" && !slices.Contains(plotFormats, ext) {
		return usagef("--growth: %s: the name ends in %q, want one of %s", c.Growth, ext, strings.Join(plotFormats, " "))
	}
	return nil
}

// volume runs the volume that was asked for.
func (b *bench) volume(ctx context.Context) error {
	if b.Slices == 0 {
		return nil
	}
	b.step("volume", 0)
	p, err := b.track(ctx, b.Slices)
	if err != nil {
		return err
	}
	b.doc.Volume = &volumeCost{Slices: p.N, Seconds: p.Seconds, Encoded: p.N, Peak: p.Peak}
	return nil
}

// track follows one [SEG] through n slices: what a volume costs after the language model's answer.
func (b *bench) track(ctx context.Context, n int) (growthPoint, error) {
	model, info := b.p.Native(), b.p.Info()
	point := growthPoint{N: n}
	track, err := model.NewTrack(b.states[:info.Embd])
	if err != nil {
		return point, err
	}
	defer track.Close()
	resetPeak()
	m, err := b.timed(ctx, func() error {
		for i := range n {
			input, err := tiles.SAMInput(b.img, info.MaskImageSize, info.MaskImageMean, info.MaskImageStd, tiles.Video, b.Threads)
			if err != nil {
				return err
			}
			f, err := model.EncodeImage(ctx, input, bindings.Call{})
			if err != nil {
				return err
			}
			step := track.Step
			if i < info.PromptedSlices {
				step = track.Prompt
			}
			_, err = step(ctx, i, f, bindings.Call{})
			f.Close()
			if err != nil {
				return err
			}
		}
		return nil
	})
	point.Seconds, point.Processor = m.Seconds, m.Processor
	_, point.Peak = residentMemory()
	return point, err
}

// growth times every stage that grows, at several sizes, and plots it.
func (b *bench) growth(ctx context.Context) error {
	if b.Growth == "" {
		return nil
	}
	model, info := b.p.Native(), b.p.Info()
	spec := tiles.Spec{Size: info.TileSize, Min: info.TileMin, Max: info.TileMax, Thumbnail: info.Thumbnail, Mean: info.TileMean, Std: info.TileStd}
	cut, err := tiles.Split(b.img, spec, b.Threads)
	if err != nil {
		return err
	}
	input, err := tiles.SAMInput(b.img, info.MaskImageSize, info.MaskImageMean, info.MaskImageStd, tiles.Image, b.Threads)
	if err != nil {
		return err
	}
	features, err := model.EncodeImage(ctx, input, bindings.Call{})
	if err != nil {
		return err
	}
	defer features.Close()
	session, err := model.NewSession(ctx, 0)
	if err != nil {
		return err
	}
	defer session.Close()
	out := bindings.Outputs{Logits: make([]float32, info.Vocab)}
	plain := func(f func(n int) error) func(int) (growthPoint, error) {
		return func(n int) (growthPoint, error) {
			m, err := b.timed(ctx, func() error { return f(n) })
			return growthPoint{N: n, Seconds: m.Seconds, Processor: m.Processor}, err
		}
	}
	for _, series := range []struct {
		of    string
		sizes []int
		run   func(n int) (growthPoint, error)
	}{
		{"tiles", []int{1, 2, 4, 6, 8, 10}, plain(func(n int) error {
			data := slices.Clone(cut.Data)
			for len(data) < n*len(cut.Data)/cut.N {
				data = append(data, cut.Data...)
			}
			_, err := model.EncodeTiles(ctx, data[:n*len(cut.Data)/cut.N], n, bindings.Call{})
			return err
		})},
		{"[SEG]", []int{1, 2, 4, 8, 12, 16}, plain(func(n int) error {
			var prompts []float32
			for range n {
				prompts = append(prompts, b.states[:info.Embd]...)
			}
			_, err := model.DecodeMasks(ctx, features, prompts, n, bindings.Call{})
			return err
		})},
		{"positions of the prompt", []int{256, 512, 1024, 1536, 2048, 2560}, plain(func(n int) error {
			if err := session.Truncate(0); err != nil {
				return err
			}
			ids := make([]int32, n)
			for i := range ids {
				ids[i] = int32(i*7919) % 1000
			}
			return session.Prefill(ctx, ids, nil, out, bindings.Call{})
		})},
		{"slices", []int{2, 6, 8, 10}, func(n int) (growthPoint, error) { return b.track(ctx, n) }},
	} {
		b.step("growth with "+series.of, 0)
		b.doc.Growth = append(b.doc.Growth, growth{Of: series.of, Points: []growthPoint{}})
		g := &b.doc.Growth[len(b.doc.Growth)-1] // there already, for a run that is interrupted
		for _, n := range series.sizes {
			p, err := series.run(n)
			if err != nil {
				return err
			}
			g.Points = append(g.Points, p)
		}
	}
	return plotGrowth(b.Growth, b.doc)
}

// canvasFor is what a file of that kind of name is drawn on.
func canvasFor(name string, w, h vg.Length) vg.CanvasWriterTo {
	switch strings.ToLower(filepath.Ext(name)) {
	case ".svg":
		return vgsvg.New(w, h)
	default:
		return vgimg.PngCanvas{Canvas: vgimg.New(w, h)}
	}
}

// plotGrowth draws a panel a series: points, and the straight line from nothing through the last one.
func plotGrowth(name string, d *benchDocument) error {
	var row []*plot.Plot
	for i, g := range d.Growth {
		p := plot.New()
		p.Title.Text, p.X.Label.Text, p.Y.Label.Text = d.Model.Name, g.Of, "seconds"
		p.X.Min, p.Y.Min = 0, 0
		points := make(plotter.XYs, len(g.Points))
		for i, at := range g.Points {
			points[i] = plotter.XY{X: float64(at.N), Y: at.Seconds}
		}
		dots, err := plotter.NewScatter(points)
		if err != nil {
			return err
		}
		dots.Color, dots.Shape = plotutil.Color(i), draw.CircleGlyph{}
		line, err := plotter.NewLine(plotter.XYs{{X: 0, Y: 0}, points[len(points)-1]})
		if err != nil {
			return err
		}
		line.Dashes = plotutil.Dashes(1)
		p.Add(plotter.NewGrid(), line, dots)
		row = append(row, p)
	}
	const side = 8 * vg.Centimeter
	canvas := canvasFor(name, side*vg.Length(len(row)), side)
	cells := plot.Align([][]*plot.Plot{row}, draw.Tiles{Rows: 1, Cols: len(row), PadX: vg.Millimeter * 4, PadRight: vg.Millimeter * 4, PadTop: vg.Millimeter * 2}, draw.New(canvas))
	for i, p := range row {
		p.Draw(cells[0][i])
	}
	files := batch{dir: filepath.Dir(name)}
	defer files.discard()
	if err := files.add(filepath.Base(name), func(w io.Writer) error {
		_, err := canvas.WriteTo(w)
		return err
	}); err != nil {
		return err
	}
	return files.commit()
}

func (d *benchDocument) printGrowth(w io.Writer) error {
	if len(d.Growth) == 0 {
		return nil
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "growth with\tcount\tseconds\tprocessor s\teach ms\tresident peak\t")
	for _, g := range d.Growth {
		for _, p := range g.Points {
			peak := ""
			if p.Peak > 0 {
				peak = bytesText(p.Peak)
			}
			fmt.Fprintf(t, "%s\t%d\t%.3f\t%.3f\t%.2f\t%s\t\n", g.Of, p.N, p.Seconds, p.Processor, 1000*p.Seconds/float64(p.N), peak)
		}
	}
	fmt.Fprintln(t)
	return t.Flush()
}
