package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"slices"
	"strings"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/resample"
	"github.com/unibiomed/go-unibiomed/unibiomed/tiles"
)

type benchCmd struct {
	modelFlags
	Image     string `placeholder:"FILE" help:"The image. Default: a made one of 1024 x 1024."`
	NewTokens int    `default:"32" placeholder:"N" help:"Tokens of each answer; exactly so many are decoded, whatever they say."`
	Masks     int    `default:"5" placeholder:"N" help:"[SEG] of the answer with several masks."`
	Repeat    int    `default:"1" placeholder:"N" help:"Rounds of all stages; the fastest run of each counts."`
	Slices    int    `placeholder:"N" help:"Also a volume of N slices."`
	Growth    string `placeholder:"FILE" help:"Also the time against tiles, [SEG], prompt length and slices, as a plot in a PNG or SVG file."`

	CompareTorch string `placeholder:"PYTHON" help:"Also time the same checkpoint in PyTorch, in turns with the rounds: runs reference/bench.py with this Python in the current folder."`
	Checkpoint   string `placeholder:"FOLDER" help:"For --compare-torch: the Hugging Face folder that the model was converted from."`
	TorchScript  string `placeholder:"FILE" help:"For --compare-torch: another script, with the arguments and the JSON of reference/bench.py."`

	JSON  bool `help:"Print the measurements as JSON."`
	Quiet bool `short:"q" help:"No progress."`
}

func (benchCmd) Help() string {
	return `Measures an answer stage by stage, and what a second question and further masks cost on top. Nothing else should run meanwhile.

Examples:
  unibiomed bench --model unibiomed-1b-q8_0 --threads 2
  unibiomed bench --model unibiomed-1b-q8_0 --image ct.png --new-tokens 64 --json
  unibiomed bench --model unibiomed-1b-q8_0 --threads 2 --repeat 2 --compare-torch .venv/bin/python --checkpoint UniBiomed`
}

// A measurement is one row: some work and what it took.
type measurement struct {
	Stage   string  `json:"stage"`
	Work    string  `json:"work"`
	Count   int     `json:"count"` // of what Work names
	Seconds float64 `json:"seconds"`
	// Processor is the time of all threads. On a quiet machine it is near Seconds times the threads.
	Processor float64 `json:"processor_seconds,omitempty"`
	FLOP      uint64  `json:"flop,omitempty"`
	Rate      float64 `json:"flop_per_second,omitempty"`
	Type      string  `json:"weights,omitempty"`       // of the part of the model that the stage runs
	Share     float64 `json:"share_of_peak,omitempty"` // of the rate of matrix products with such weights, measured in this run
}

// An answerCost is an answer put together from measured stages.
type answerCost struct {
	Answer   string   `json:"answer"`
	Seconds  float64  `json:"seconds"`
	OfFirst  float64  `json:"share_of_first"`
	Encoded  int      `json:"image_encodings"` // SAM 2 image encoder runs
	Consists []string `json:"stages"`
}

type benchDocument struct {
	Schema  string  `json:"schema"`
	Command string  `json:"command"`
	Machine machine `json:"machine"`
	Device  string  `json:"device"`
	Threads int     `json:"threads"` // 0: the number of physical cores
	Model   struct {
		Name         string            `json:"name"`
		Quantization map[string]string `json:"quantization"`
	} `json:"model"`
	Image struct {
		File   string `json:"file"`
		Width  int    `json:"width"`
		Height int    `json:"height"`
		Tiles  int    `json:"tiles"`
	} `json:"image"`
	LoadCold float64       `json:"load_cold_seconds"` // 0 where the system can't forget cached files
	LoadWarm float64       `json:"load_warm_seconds"`
	Stages   []measurement `json:"stages"`
	Answers  []answerCost  `json:"answers"` // made of stages, at exactly --new-tokens
	Library  []answerCost  `json:"library"` // the same two questions through unibiomed.Ask, which keeps to the stop rule
	// Peaks are the best rates of products of PeakSize x PeakSize matrices by type of weight, in FLOP per second.
	Peaks      map[string]float64 `json:"peaks"`
	PeakSize   int                `json:"peak_size"`
	Volume     *volumeCost        `json:"volume,omitempty"`
	Growth     []growth           `json:"growth,omitempty"`
	Torch      *torchDocument     `json:"torch,omitempty"`
	Comparison []comparison       `json:"comparison,omitempty"`
	Operations []operationCount   `json:"operations"` // where they were computed
	Memory     struct {
		Plan     *planDocument `json:"plan"`
		Before   uint64        `json:"resident_before"`
		Peak     uint64        `json:"resident_peak"`  // mapped weights included
		Go       uint64        `json:"go"`             // of it, what Go's heap took: pixels, tiles, tables
		OverPlan float64       `json:"peak_over_plan"` // of the rest above Before
	} `json:"memory"`
	Interrupted bool   `json:"interrupted,omitempty"` // --slices or --growth was: what had been measured is here
	Notice      string `json:"notice"`
}

// The two questions; what they say does not matter to what they cost.
const benchTarget, benchSecondTarget = "liver in abdomen CT", "spleen in abdomen CT"

func (c *benchCmd) Run(ctx context.Context, s *streams) error {
	switch {
	case c.NewTokens < 1:
		return usagef("--new-tokens: %d, want at least 1", c.NewTokens)
	case c.Masks < 1:
		return usagef("--masks: %d, want at least 1", c.Masks)
	case c.Repeat < 1:
		return usagef("--repeat: %d, want at least 1", c.Repeat)
	case c.Slices < 0:
		return usagef("--slices: %d, want at least 1", c.Slices)
	}
	if err := c.validateTorch(); err != nil {
		return err
	}
	if err := c.validateGrowth(); err != nil {
		return err
	}
	if err := c.validate(); err != nil {
		return err
	}
	dir, err := c.dir()
	if err != nil {
		return err
	}
	m, err := checkpoint.ReadModel(dir)
	if err != nil {
		return err
	}
	doc := &benchDocument{Schema: "unibiomed.bench/1", Command: commandLine(), Device: c.Device, Threads: c.Threads, Notice: unibiomed.Notice}
	if doc.Machine, err = thisMachine(); err != nil {
		return err
	}
	doc.Model.Name, doc.Model.Quantization = m.Name, m.Quantization
	img, err := c.image(doc)
	if err != nil {
		return err
	}

	bar := newProgress(s.err, c.Quiet, 1)
	defer bar.finish()
	b := &bench{benchCmd: c, doc: doc, img: img, bar: bar}
	if err := b.load(ctx, dir); err != nil {
		return err
	}
	defer b.p.Close()
	for range c.Repeat {
		if err := b.stages(ctx); err != nil {
			return err
		}
		if c.CompareTorch != "" {
			if err := b.torch(ctx); err != nil {
				return err
			}
		}
	}
	b.answers()
	b.compare()
	if err := b.library(ctx); err != nil {
		return err
	}
	plan, err := unibiomed.PlanMemory(dir, c.options())
	if err != nil {
		return err
	}
	doc.Memory.Plan = newPlanDocument(plan)
	_, doc.Memory.Peak = residentMemory()
	doc.Memory.Go = b.goPeak - min(b.goBefore, b.goPeak)
	if native := doc.Memory.Peak - min(doc.Memory.Before+doc.Memory.Go, doc.Memory.Peak); plan.Total > 0 {
		doc.Memory.OverPlan = float64(native) / float64(plan.Total)
	}
	if err := b.peak(); err != nil {
		return err
	}
	extras := b.volume(ctx)
	if extras == nil {
		extras = b.growth(ctx)
	}
	if doc.Interrupted = ctx.Err() != nil; extras != nil && !doc.Interrupted {
		return extras
	}
	if err := b.operations(); err != nil {
		return err
	}
	bar.finish()
	if c.JSON {
		err = encodeJSON(s.out, doc, true)
	} else {
		err = doc.print(s.out)
	}
	if err := cmp.Or(extras, err); err != nil {
		return err
	}
	return doc.checkFallback()
}

func commandLine() string {
	return "unibiomed " + strings.Join(os.Args[1:], " ")
}

// image reads the image, or makes one: an ellipse with a bright spot in a noisy field.
func (c *benchCmd) image(doc *benchDocument) (*imaging.RGB, error) {
	img := imaging.NewRGB(1024, 1024)
	doc.Image.File = "made"
	if c.Image != "" {
		var err error
		if img, err = imaging.DecodeFile(c.Image, imaging.Options{}); err != nil {
			return nil, err
		}
		doc.Image.File = filepath.Base(c.Image)
	} else {
		drawPhantom(img)
	}
	doc.Image.Width, doc.Image.Height = img.Width, img.Height
	return img, nil
}

func drawPhantom(img *imaging.RGB) {
	state := uint32(1)
	for y := range img.Height {
		for x := range img.Width {
			state = state*1664525 + 1013904223
			u, v := float64(x)/float64(img.Width)-0.5, float64(y)/float64(img.Height)-0.5
			level := 20 + float64(state>>27)
			if u*u/0.16+v*v/0.09 < 1 {
				level += 90
			}
			if math.Hypot(u-0.12, v+0.05) < 0.08 {
				level += 80
			}
			for k := range 3 {
				img.Pix[3*(y*img.Width+x)+k] = uint8(level)
			}
		}
	}
}

// A bench measures one model on one image.
type bench struct {
	*benchCmd
	doc *benchDocument
	img *imaging.RGB
	bar *progress
	p   *unibiomed.Pipeline

	done             float64
	states           []float32 // [NewTokens, Embd], vectors to draw masks from: any cost what those at [SEG] cost
	goBefore, goPeak uint64
}

// goMemory is what Go holds of the system's memory.
func goMemory() uint64 {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.Sys - m.HeapReleased
}

// load opens the model twice: with its files forgotten by the system, and with all of them in memory.
func (b *bench) load(ctx context.Context, dir string) error {
	b.step("load", 0)
	files := unibiomed.ModelFiles(dir)
	paths := []string{files.Language, files.Vision, files.Grounding}
	cold := true
	for _, path := range paths {
		cold = dropCached(path) && cold
	}
	open := func() (float64, error) {
		start := time.Now()
		var err error
		b.p, err = unibiomed.Open(ctx, dir, b.options())
		return time.Since(start).Seconds(), err
	}
	if cold {
		var err error
		if b.doc.LoadCold, err = open(); err != nil {
			return err
		}
		b.p.Close()
	}
	for _, path := range paths {
		if err := readThrough(ctx, path); err != nil {
			return err
		}
	}
	debug.FreeOSMemory()
	resetPeak()
	b.goBefore = goMemory()
	b.doc.Memory.Before, _ = residentMemory()
	var err error
	b.doc.LoadWarm, err = open()
	return err
}

// readThrough brings a file into the system's memory.
func readThrough(ctx context.Context, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	for buf := make([]byte, 1<<20); ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := f.Read(buf); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// step shows how far the work is; share is that of the whole.
func (b *bench) step(name string, share float64) {
	b.bar.label = name
	b.done += share
	b.bar.set("", min(b.done, 1))
}

// measure runs a stage and adds it as a row, in place of a slower run of an earlier round. The FLOP are those that the native
// stages counted meanwhile.
func (b *bench) measure(ctx context.Context, stage, work string, count int, share float64, body func() error) error {
	m, err := b.timed(ctx, body)
	if err != nil {
		return err
	}
	m.Stage, m.Work, m.Count = stage, work, count
	b.doc.Stages = fastest(b.doc.Stages, m)
	b.step(stage, share/float64(b.Repeat))
	return nil
}

// timed runs body and returns what it took.
func (b *bench) timed(ctx context.Context, body func() error) (m measurement, err error) {
	if err := ctx.Err(); err != nil {
		return m, err
	}
	before, err := b.flop()
	if err != nil {
		return m, err
	}
	start, processor := time.Now(), processorTime()
	if err := body(); err != nil {
		return m, err
	}
	m.Seconds, m.Processor = time.Since(start).Seconds(), (processorTime() - processor).Seconds()
	b.goPeak = max(b.goPeak, goMemory())
	after, err := b.flop()
	if err != nil {
		return m, err
	}
	if m.FLOP = after - before; m.FLOP > 0 {
		m.Rate = float64(m.FLOP) / m.Seconds
	}
	return m, nil
}

func (b *bench) flop() (uint64, error) {
	stats, err := b.p.Stats()
	if err != nil {
		return 0, err
	}
	var sum uint64
	for _, s := range stats {
		sum += s.FLOP
	}
	return sum, nil
}

// ids are those of a question about the image, with bindings.Embedding for every image embedding.
func (b *bench) ids(tiles int, target string) ([]int32, error) {
	t := b.p.Tokenizer()
	text, err := prompt.Assemble(prompt.Segment(target), "", &prompt.Visual{Groups: []int{tiles * b.p.Info().TileTokens}})
	if err != nil {
		return nil, err
	}
	ids, err := t.Encode(text)
	if err != nil {
		return nil, err
	}
	slot, _ := t.ID(prompt.ImageContext)
	for i, id := range ids {
		if id == slot {
			ids[i] = bindings.Embedding
		}
	}
	return ids, nil
}

// Names of rows that answers are made of.
const (
	rowPrepare      = "prepare tiles"
	rowOneTile      = "vision, one tile"
	rowBusyTile     = "vision, one tile beside a busy thread"
	rowVision       = "vision"
	rowPrefill      = "prefill"
	rowDecode       = "decode"
	rowPrepareImage = "prepare image"
	rowFeatures     = "image features"
	rowMask         = "mask"
	rowMasks        = "masks"
	rowResize       = "resize mask"
	rowResizes      = "resize masks"
	rowNextPrefill  = "prefill, second question"
	rowNextDecode   = "decode, second question"
)

// stages times every stage of an answer through the native interface, where each can be run by itself.
func (b *bench) stages(ctx context.Context) error {
	model, info := b.p.Native(), b.p.Info()
	spec := tiles.Spec{Size: info.TileSize, Min: info.TileMin, Max: info.TileMax, Thumbnail: info.Thumbnail, Mean: info.TileMean, Std: info.TileStd}
	var cut tiles.Tiles
	var embeddings, input []float32
	var features *bindings.Features
	defer func() { features.Close() }()

	if err := b.measure(ctx, rowPrepare, "image", 1, 0.01, func() (err error) {
		cut, err = tiles.Split(b.img, spec, b.Threads)
		return err
	}); err != nil {
		return err
	}
	b.doc.Image.Tiles = cut.N
	first, err := b.ids(cut.N, benchTarget)
	if err != nil {
		return err
	}
	second, err := b.ids(cut.N, benchSecondTarget)
	if err != nil {
		return err
	}
	shared := 0
	for shared < min(len(first), len(second))-1 && first[shared] == second[shared] {
		shared++
	}
	session, err := model.NewSession(ctx, 0)
	if err != nil {
		return err
	}
	defer session.Close()
	if need := max(len(first), len(second)) + b.NewTokens; need > session.Capacity() {
		return &unibiomed.ContextError{Need: need, Capacity: session.Capacity()}
	}

	one := cut.Data[:len(cut.Data)/cut.N]
	if err := b.measure(ctx, rowOneTile, "tile", 1, 0.05, func() error {
		_, err := model.EncodeTiles(ctx, one, 1, bindings.Call{})
		return err
	}); err != nil {
		return err
	}
	idle := beBusy()
	err = b.measure(ctx, rowBusyTile, "tile", 1, 0.05, func() error {
		_, err := model.EncodeTiles(ctx, one, 1, bindings.Call{})
		return err
	})
	idle()
	if err != nil {
		return err
	}
	if err := b.measure(ctx, rowVision, "tiles", cut.N, 0.3, func() (err error) {
		embeddings, err = model.EncodeTiles(ctx, cut.Data, cut.N, bindings.Call{})
		return err
	}); err != nil {
		return err
	}
	logits, hidden := make([]float32, info.Vocab), make([]float32, info.Embd)
	out := bindings.Outputs{Logits: logits, Hidden: hidden}
	if err := b.measure(ctx, rowPrefill, "positions", len(first), 0.12, func() error {
		if err := session.Truncate(0); err != nil {
			return err
		}
		return session.Prefill(ctx, first, embeddings, out, bindings.Call{})
	}); err != nil {
		return err
	}
	var states []float32
	decode := func(length int) error {
		if err := session.Truncate(length); err != nil {
			return err
		}
		states = states[:0]
		for range b.NewTokens {
			best := 0
			for i, v := range logits {
				if v > logits[best] {
					best = i
				}
			}
			if err := session.Decode(ctx, []int32{int32(best)}, out); err != nil {
				return err
			}
			states = append(states, hidden...)
		}
		return nil
	}
	if err := b.measure(ctx, rowDecode, "tokens", b.NewTokens, 0.05, func() error { return decode(len(first)) }); err != nil {
		return err
	}
	b.states = states
	prompts := make([]float32, 0, b.Masks*info.Embd)
	for i := range b.Masks {
		k := i % b.NewTokens
		prompts = append(prompts, states[k*info.Embd:(k+1)*info.Embd]...)
	}

	if err := b.measure(ctx, rowPrepareImage, "image", 1, 0.01, func() (err error) {
		input, err = tiles.SAMInput(b.img, info.MaskImageSize, info.MaskImageMean, info.MaskImageStd, tiles.Image, b.Threads)
		return err
	}); err != nil {
		return err
	}
	if err := b.measure(ctx, rowFeatures, "image", 1, 0.12, func() error {
		f, err := model.EncodeImage(ctx, input, bindings.Call{})
		if err == nil {
			features.Close()
			features = f
		}
		return err
	}); err != nil {
		return err
	}
	for _, n := range []struct {
		mask, resize string
		n            int
	}{{rowMask, rowResize, 1}, {rowMasks, rowResizes, b.Masks}} {
		var masks *bindings.Masks
		if err := b.measure(ctx, n.mask, "[SEG]", n.n, 0.02, func() (err error) {
			masks, err = model.DecodeMasks(ctx, features, prompts[:n.n*info.Embd], n.n, bindings.Call{})
			return err
		}); err != nil {
			return err
		}
		if err := b.measure(ctx, n.resize, "masks", n.n, 0.01, func() error {
			side := info.MaskSize * info.MaskSize
			for i := range n.n {
				if _, err := resample.Mask(masks.Logits[i*side:(i+1)*side], info.MaskSize, info.MaskImageSize, b.img.Width, b.img.Height, b.Threads); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			return err
		}
	}
	if err := b.measure(ctx, rowNextPrefill, "positions", len(second)-shared, 0.01, func() error {
		if err := session.Truncate(shared); err != nil {
			return err
		}
		return session.Prefill(ctx, second[shared:], nil, out, bindings.Call{})
	}); err != nil {
		return err
	}
	if err := b.measure(ctx, rowNextDecode, "tokens", b.NewTokens, 0.05, func() error { return decode(len(second)) }); err != nil {
		return err
	}
	return nil
}

// beBusy keeps one thread of the system busy, as another program would, until the returned function is called.
func beBusy() (idle func()) {
	var done atomic.Bool
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		runtime.LockOSThread()
		for !done.Load() {
		}
	}()
	return func() {
		done.Store(true)
		<-ended
	}
}

// answerStart are the stages of an answer up to its masks.
func answerStart() []string {
	return []string{rowPrepare, rowVision, rowPrefill, rowDecode, rowPrepareImage, rowFeatures}
}

// answers puts the stages together.
func (b *bench) answers() {
	took := byStage(b.doc.Stages)
	add := func(name string, stages ...string) {
		a := answerCost{Answer: name, Consists: stages, OfFirst: 1}
		for _, s := range stages {
			a.Seconds += took[s].Seconds
			if s == rowFeatures {
				a.Encoded++
			}
		}
		if len(b.doc.Answers) > 0 {
			a.OfFirst = a.Seconds / b.doc.Answers[0].Seconds
		}
		b.doc.Answers = append(b.doc.Answers, a)
	}
	add("first question, 1 [SEG]", append(answerStart(), rowMask, rowResize)...)
	add(fmt.Sprintf("first question, %d [SEG]", b.Masks), append(answerStart(), rowMasks, rowResizes)...)
	add("second question about the image, 1 [SEG]", rowNextPrefill, rowNextDecode, rowMask, rowResize)
}

// library asks the same two questions through the library, which keeps what it computed of the image by itself.
func (b *bench) library(ctx context.Context) error {
	for i, target := range []string{benchTarget, benchSecondTarget} {
		before, err := b.p.Stats()
		if err != nil {
			return err
		}
		start := time.Now()
		res, err := b.p.Ask(ctx, unibiomed.Request{Input: unibiomed.Input{Image: b.img}, Prompt: prompt.Segment(target), MaxNewTokens: b.NewTokens})
		if err != nil {
			return err
		}
		b.goPeak = max(b.goPeak, goMemory())
		after, err := b.p.Stats()
		if err != nil {
			return err
		}
		tokens := len(res.TokenIDs)
		a := answerCost{
			Answer:  fmt.Sprintf("question %d: %d tokens, %d [SEG], %d of %d positions known", i+1, tokens, len(res.Findings), res.PrefixTokens, res.PromptTokens),
			Seconds: time.Since(start).Seconds(), OfFirst: 1,
			Encoded: int(after[bindings.StageFeatures].Calls - before[bindings.StageFeatures].Calls), Consists: []string{},
		}
		if i > 0 {
			a.OfFirst = a.Seconds / b.doc.Library[0].Seconds
		}
		b.doc.Library = append(b.doc.Library, a)
		b.step("library", 0.1)
	}
	return nil
}

// stageParts are the parts of the model that the stages with FLOP run.
var stageParts = map[string]checkpoint.Part{
	rowOneTile: checkpoint.Vision, rowBusyTile: checkpoint.Vision, rowVision: checkpoint.Vision, rowFeatures: checkpoint.Grounding, rowMask: checkpoint.Grounding, rowMasks: checkpoint.Grounding,
	rowPrefill: checkpoint.Language, rowDecode: checkpoint.Language, rowNextPrefill: checkpoint.Language, rowNextDecode: checkpoint.Language,
}

// peak measures what the device can do at its best with each type of weight in use, and each stage's share of it.
func (b *bench) peak() error {
	b.step("peak", 0)
	b.doc.Peaks, b.doc.PeakSize = map[string]float64{}, 1024
	if err := b.operations(); err != nil {
		return err
	}
	if b.doc.device() != "cpu" {
		b.doc.PeakSize = 4096 // smaller ones don't fill a GPU
	}
	measure := func(typ string) error {
		if _, known := b.doc.Peaks[typ]; known {
			return nil
		}
		// a mixture, such as q4_k_m, is named for most of its matrices
		rate, err := b.p.Native().PeakRate(strings.TrimSuffix(typ, "_m"), b.doc.PeakSize, time.Second)
		b.doc.Peaks[typ] = rate
		return err
	}
	if err := measure("f32"); err != nil {
		return err
	}
	for i := range b.doc.Stages {
		m := &b.doc.Stages[i]
		part, ok := stageParts[m.Stage]
		if !ok {
			continue
		}
		m.Type = b.doc.Model.Quantization[string(part)]
		if err := measure(m.Type); err != nil {
			return err
		}
		m.Share = m.Rate / b.doc.Peaks[m.Type]
	}
	return nil
}

func (d *benchDocument) print(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	threads := fmt.Sprintf("%d threads", d.Threads)
	if d.Threads == 0 {
		threads = fmt.Sprintf("threads: physical cores (%d)", d.Machine.Cores)
	}
	fmt.Fprintf(t, "machine\t%s, %d processors, %s, %s\n", d.Machine.CPU, d.Machine.Processors, bytesText(d.Machine.MemoryTotal), d.Machine.System)
	fmt.Fprintf(t, "library\t%s\n", d.Machine.Library)
	fmt.Fprintf(t, "run\t%s; device %s, %s\n", d.Command, d.Device, threads)
	var kinds []string
	for _, part := range checkpoint.Parts() {
		kinds = append(kinds, fmt.Sprintf("%s %s", part, d.Model.Quantization[string(part)]))
	}
	fmt.Fprintf(t, "model\t%s: %s\n", d.Model.Name, strings.Join(kinds, ", "))
	fmt.Fprintf(t, "image\t%s, %d x %d, %d tiles\n", d.Image.File, d.Image.Width, d.Image.Height, d.Image.Tiles)
	cold := "not measured"
	if d.LoadCold > 0 {
		cold = fmt.Sprintf("%.2f s", d.LoadCold)
	}
	fmt.Fprintf(t, "load\t%s cold, %.2f s warm\n", cold, d.LoadWarm)
	if err := t.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "stage\tcount\tof\tseconds\tprocessor s\teach ms\tGFLOP\tGFLOP/s\tof peak\t")
	for _, m := range d.Stages {
		flop, rate, share := "", "", ""
		if m.FLOP > 0 {
			flop, rate, share = fmt.Sprintf("%.2f", float64(m.FLOP)/1e9), fmt.Sprintf("%.1f", m.Rate/1e9), fmt.Sprintf("%.0f %%", 100*m.Share)
		}
		fmt.Fprintf(t, "%s\t%d\t%s\t%.3f\t%.3f\t%.2f\t%s\t%s\t%s\t\n", m.Stage, m.Count, m.Work, m.Seconds, m.Processor, 1000*m.Seconds/float64(m.Count), flop, rate, share)
	}
	for _, typ := range slices.Sorted(maps.Keys(d.Peaks)) {
		fmt.Fprintf(t, "peak: %s products of %d\t\t\t\t\t\t\t%.1f\t100 %%\t\n", typ, d.PeakSize, d.Peaks[typ]/1e9)
	}
	if err := t.Flush(); err != nil {
		return err
	}

	fmt.Fprintln(w)
	t = tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "answer, put together from the stages\tseconds\tof the first\tSAM 2 image encodings")
	answers := func(rows []answerCost) {
		for _, a := range rows {
			fmt.Fprintf(t, "%s\t%.3f\t%.1f %%\t%d\n", a.Answer, a.Seconds, 100*a.OfFirst, a.Encoded)
		}
	}
	answers(d.Answers)
	fmt.Fprintln(t, "through the library\t\t\t")
	answers(d.Library)
	if v := d.Volume; v != nil {
		what := fmt.Sprintf("volume of %d slices, 1 [SEG]", v.Slices)
		if v.Peak > 0 {
			what += fmt.Sprintf(", %s at the peak", bytesText(v.Peak))
		}
		fmt.Fprintf(t, "%s\t%.3f\t\t%d\n", what, v.Seconds, v.Encoded)
	}
	fmt.Fprintln(t)
	if err := t.Flush(); err != nil {
		return err
	}
	if err := d.printComparison(w); err != nil {
		return err
	}
	if err := d.printGrowth(w); err != nil {
		return err
	}
	if err := d.printOperations(w); err != nil {
		return err
	}
	d.Memory.Plan.print(t)
	fmt.Fprintf(t, "resident before opening\t%s\nresident at the peak\t%s, of it %s of Go; the rest is %.2f of the plan\n",
		bytesText(d.Memory.Before), bytesText(d.Memory.Peak), bytesText(d.Memory.Go), d.Memory.OverPlan)
	fmt.Fprintf(t, "\n%s\n", d.Notice)
	return t.Flush()
}
