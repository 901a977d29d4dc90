package unibiomed

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/internal/golden"
	"github.com/unibiomed/go-unibiomed/unibiomed/metrics"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// tiny converts the golden checkpoint once a type and test run.
func tiny(t testing.TB, typ string) string {
	t.Helper()
	source := golden.Path(t, "golden", "tiny", "checkpoint")
	tinyModels.Lock()
	defer tinyModels.Unlock()
	dir := filepath.Join(tinyModels.root, "tiny-"+typ)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	_, err := checkpoint.Convert(context.Background(), source, dir, checkpoint.Options{
		Language: typ, Vision: typ, Grounding: typ, Quantizer: Quantizer(0),
	})
	require.NoError(t, err)
	return dir
}

var tinyModels struct {
	sync.Mutex
	root string
}

func TestMain(m *testing.M) {
	root, err := os.MkdirTemp("", "unibiomed-test-*")
	if err != nil {
		panic(err)
	}
	tinyModels.root = root
	code := m.Run()
	os.RemoveAll(root)
	os.Exit(code)
}

// testDevice is where these tests run: the CPU, or what UNIBIOMED_TEST_DEVICE names, for instance cuda0.
func testDevice() string { return cmp.Or(os.Getenv("UNIBIOMED_TEST_DEVICE"), "cpu") }

// bar is that of a comparison which f32 arithmetic passes at `f32`. A GPU's products may be of TF32 or f16.
func bar(f32, gpu float64) float64 {
	if testDevice() == "cpu" {
		return f32
	}
	return max(f32, gpu)
}

func openTiny(t testing.TB, typ string, o Options) *Pipeline {
	t.Helper()
	o.Device = cmp.Or(o.Device, testDevice())
	p, err := Open(context.Background(), tiny(t, typ), o)
	require.NoError(t, err)
	t.Cleanup(func() { p.Close() })
	return p
}

// A goldenCase is a NAME.json of golden/tiny/cases.
type goldenCase struct {
	Name         string   `json:"name"`
	Text         string   `json:"text"`
	PastText     string   `json:"past_text"`
	Image        string   `json:"image"`
	Video        []string `json:"video"`
	MaskPrompts  []string `json:"mask_prompts"`
	MaxNewTokens int      `json:"max_new_tokens"`
	Tiles        int      `json:"tiles"`
	PromptIDs    []int32  `json:"prompt_ids"`
	GeneratedIDs []int32  `json:"generated_ids"`
	Decoded      string   `json:"decoded"`
	SegPositions []int    `json:"seg_positions"`
	IoU          [][]float64
	ObjectScore  []float64 `json:"object_score"`
	Selected     []int32   `json:"selected"`
	Masks        []struct {
		File string `json:"file"`
	} `json:"masks"`
	Slices []struct {
		Kind        string    `json:"kind"`
		IoU         []float64 `json:"iou"`
		ObjectScore float64   `json:"object_score"`
		Selected    int32     `json:"selected"`
		Mask        string    `json:"mask"`
	} `json:"slices"`
	Strides map[string]json.RawMessage `json:"strides"`
}

func goldenCases(t testing.TB) []goldenCase {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden.Path(t, "golden", "tiny", "cases"), "*.json"))
	require.NoError(t, err)
	require.Len(t, files, 15)
	cases := make([]goldenCase, len(files))
	for i, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(data, &cases[i]), file)
	}
	return cases
}

// request is the case as a user would ask it.
func (c goldenCase) request(t testing.TB) Request {
	t.Helper()
	decode := func(path string) *imaging.RGB {
		img, err := imaging.DecodeFile(golden.Path(t, path), imaging.Options{})
		require.NoError(t, err)
		return img
	}
	r := Request{Prompt: c.Text, PastText: c.PastText, MaxNewTokens: c.MaxNewTokens}
	if c.Image != "" {
		r.Image = decode(c.Image)
	}
	for _, path := range c.Video {
		r.Slices = append(r.Slices, decode(path))
	}
	for _, path := range c.MaskPrompts {
		m, err := imaging.DecodeMaskFile(golden.Path(t, path), imaging.Options{})
		require.NoError(t, err)
		r.MaskPrompts = append(r.MaskPrompts, m)
	}
	return r
}

// TestGoldenChain answers every golden case from its image file at f32 and compares ids, text, scores, masks, and every
// stage's tensor along the chain. Limits: golden/README.md.
func TestGoldenChain(t *testing.T) {
	p := openTiny(t, "f32", Options{})
	for _, c := range goldenCases(t) {
		t.Run(c.Name, func(t *testing.T) {
			r := c.request(t)
			r.Trace = &Trace{}
			res, err := p.Ask(context.Background(), r)
			require.NoError(t, err)
			require.Equal(t, c.GeneratedIDs, res.TokenIDs)
			require.Equal(t, c.Decoded, res.Raw)
			require.Equal(t, len(c.PromptIDs), res.PromptTokens)
			if c.Image != "" {
				require.Equal(t, c.Tiles, res.Image.Tiles)
			}
			compareTrace(t, c, r.Trace)
			compareMasks(t, c, res, 3)

			// The same again, from caches and without a trace.
			r.Trace = nil
			for range 2 {
				again, err := p.Ask(context.Background(), r)
				require.NoError(t, err)
				require.Equal(t, c.GeneratedIDs, again.TokenIDs)
				compareMasks(t, c, again, 3)
			}
		})
	}
}

// A program that knows libllama and nothing of ours (csrc/tests/stock_llama.cpp) loads language.gguf, splits the prompt with the tokenizer
// inside, and generates the reference's ids.
func TestLanguageFileIsStock(t *testing.T) {
	program := filepath.Join("..", "build", "cpu", "csrc", "test-stock_llama")
	if _, err := os.Stat(program); err != nil {
		t.Skip("build/cpu/csrc/test-stock_llama is not built: ./build.sh build")
	}
	for _, c := range goldenCases(t) {
		if c.Name != "text_only" {
			continue
		}
		text, err := prompt.Assemble(c.Text, "", nil)
		require.NoError(t, err)
		for _, typ := range []string{"f32", "q8_0", "q4_k_m"} {
			var stderr strings.Builder
			stock := exec.Command(program, filepath.Join(tiny(t, typ), "language.gguf"), text)
			stock.Stderr = &stderr
			out, err := stock.Output()
			require.NoError(t, err, stderr.String())
			want := strings.Trim(fmt.Sprint(c.GeneratedIDs[:8]), "[]")
			require.Equal(t, want, strings.TrimSpace(string(out)), typ)
		}
		return
	}
	t.Fatal("no case text_only")
}

// compareMasks allows at most limit differing pixels a mask.
func compareMasks(t *testing.T, c goldenCase, res *Result, limit int) {
	t.Helper()
	check := func(name, file string, got *imaging.Mask) {
		want, err := imaging.DecodeMaskFile(golden.Path(t, "golden", "tiny", "cases", file), imaging.Options{})
		require.NoError(t, err)
		o, err := metrics.Count(got, want)
		require.NoError(t, err)
		require.LessOrEqual(t, o.Pred+o.Truth-2*o.Both, int(bar(float64(limit), 0.002*float64(len(got.Pix)))), "%s: differing pixels of %d", name, o.Truth)
	}
	if len(c.Video) > 0 {
		require.Len(t, res.Findings, 1)
		require.Len(t, res.Findings[0].Slices, len(c.Slices))
		for i, s := range res.Findings[0].Slices {
			want := c.Slices[i]
			require.Equal(t, want.Kind == "tracked", s.Tracked)
			require.Equal(t, want.Selected, s.Selected, "slice %d", i)
			require.InDelta(t, want.IoU[want.Selected], s.PredictedIoU, bar(1e-4, 5e-3), "slice %d", i)
			require.InDelta(t, want.ObjectScore, s.ObjectScore, bar(1e-3, 2e-2), "slice %d", i)
			check(fmt.Sprint("slice ", i), want.Mask, s.Bits)
		}
		return
	}
	require.Len(t, res.Findings, len(c.Masks))
	for i, f := range res.Findings {
		require.Equal(t, c.Selected[i], f.Selected)
		require.InDelta(t, c.IoU[i][f.Selected], f.PredictedIoU, bar(1e-4, 5e-3))
		require.InDelta(t, c.ObjectScore[i], f.ObjectScore, bar(1e-4, 2e-2))
		check(fmt.Sprint("mask ", i), c.Masks[i].File, f.Bits)
	}
}

// compareTrace compares every tensor of the golden file with the traced one, cut by the golden strides.
func compareTrace(t *testing.T, c goldenCase, trace *Trace) {
	t.Helper()
	f, err := safetensors.Open(golden.Path(t, "golden", "tiny", "cases", c.Name+".safetensors"))
	require.NoError(t, err)
	defer f.Close()
	for _, tensor := range f.Tensors {
		name := tensor.Name
		want := make([]float32, tensor.Elements())
		require.NoError(t, f.ReadFloats(tensor, 0, want))
		whole, ok := trace.Tensor(name)
		if !ok {
			t.Errorf("%s: not traced; there are %v", name, trace.Names())
			continue
		}
		got := cut(t, name, whole, tensor.Shape, c.stride(t, name))
		require.Len(t, got, len(want), name)
		rms, worst := distance(got, want)
		limit, most := 1e-5, math.Inf(1)
		switch {
		case strings.HasSuffix(name, "memory_attention_out"):
			limit, most = 1e-4, 0.1
		case strings.HasPrefix(name, "slice.") && strings.HasSuffix(name, "mask_logits_selected"):
			limit, most = math.Inf(1), 0.02
		case strings.HasPrefix(name, "mask_logits."), strings.HasSuffix(name, "logits"):
			most = 1e-3
		case tracked(c, name):
			limit = 1e-4 // behind memory features that are rounded to bf16
		}
		limit, most = bar(limit, 5e-3), bar(most, 0.2)
		switch name { // computed on the CPU
		case "vit_input":
			limit, most = 1e-6, 1e-6
		case "sam_input", "dense_pe":
			limit, most = 0, 0
		}
		if testing.Verbose() {
			t.Logf("%-32s relative rms %.1e, max abs %.1e", name, rms, worst)
		}
		if rms > limit || worst > most || math.IsNaN(rms) {
			t.Errorf("%s: relative rms %.2g (limit %.2g), max abs %.2g (limit %.2g)", name, rms, limit, worst, most)
		}
	}
}

// tracked reports whether a tensor belongs to a slice that was found by memory.
func tracked(c goldenCase, name string) bool {
	for i, s := range c.Slices {
		if s.Kind == "tracked" && (strings.HasPrefix(name, fmt.Sprintf("slice.%d.", i)) || name == fmt.Sprintf("memory.%d", i)) {
			return true
		}
	}
	return false
}

// stride returns how a tensor was cut, nil where the case does not say it in numbers: then it follows from the shapes.
func (c goldenCase) stride(t *testing.T, name string) []int {
	t.Helper()
	for _, number := range []string{"<t>", "<s>"} {
		raw, ok := c.Strides[regexp.MustCompile(`\.[0-9]+`).ReplaceAllString(name, "."+number)]
		var strides []int
		if ok && json.Unmarshal(raw, &strides) == nil {
			return strides
		}
	}
	return nil
}

// cut takes every k-th element along each axis so that the traced tensor gets the golden shape: x[::s0, ::s1, ...].
func cut(t *testing.T, name string, whole TraceTensor, shape []int64, strides []int) []float32 {
	t.Helper()
	require.Len(t, whole.Shape, len(shape), "%s: axes %v, want %v", name, whole.Shape, shape)
	index := make([]int, len(shape))
	var out []float32
	var walk func(axis, offset int)
	walk = func(axis, offset int) {
		if axis == len(shape) {
			out = append(out, whole.Data[offset])
			return
		}
		inner := 1
		for _, n := range whole.Shape[axis+1:] {
			inner *= n
		}
		stride := (whole.Shape[axis] + int(shape[axis]) - 1) / max(int(shape[axis]), 1)
		if strides != nil {
			stride = strides[axis]
		}
		for index[axis] = 0; index[axis] < whole.Shape[axis]; index[axis] += stride {
			walk(axis+1, offset+index[axis]*inner)
		}
	}
	walk(0, 0)
	return out
}

// distance returns the relative rms and the largest absolute difference.
func distance(got, want []float32) (rms, worst float64) {
	var diff, norm float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
		if a := math.Abs(d); a > worst || math.IsNaN(a) {
			worst = a
		}
	}
	if norm == 0 {
		return math.Sqrt(diff), worst
	}
	return math.Sqrt(diff / norm), worst
}
