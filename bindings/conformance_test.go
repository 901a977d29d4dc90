// The conformance suite of the bindings: the same tests with cgo and with CGO_ENABLED=0.
//
// Tests that need a model convert the golden checkpoint of ../../shared (or UNIBIOMED_SHARED), and skip when it is not there.
package bindings_test

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

var (
	shared = cmp.Or(os.Getenv("UNIBIOMED_SHARED"), filepath.Join("..", "..", "shared"))
	tiny   = filepath.Join(shared, "golden", "tiny")

	folder string // the converted model, or ""
	none   bindings.Call
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	if _, err := os.Stat(filepath.Join(tiny, "checkpoint")); err == nil {
		temp, err := os.MkdirTemp("", "unibiomed-bindings-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(temp)
		folder = filepath.Join(temp, "tiny")
		if _, err := checkpoint.Convert(context.Background(), filepath.Join(tiny, "checkpoint"), folder, checkpoint.Options{}); err != nil {
			fmt.Fprintln(os.Stderr, "converting the golden checkpoint:", err)
			return 1
		}
	}
	return m.Run()
}

// files are the golden model's, or a skipped test.
func files(t testing.TB) bindings.Files {
	t.Helper()
	if folder == "" {
		t.Skipf("no golden checkpoint in %s (UNIBIOMED_SHARED may name another folder)", tiny)
	}
	return bindings.Files{
		Language:  filepath.Join(folder, "language.gguf"),
		Vision:    filepath.Join(folder, "vision.gguf"),
		Grounding: filepath.Join(folder, "grounding.gguf"),
	}
}

// open opens the golden model for one test.
func open(t testing.TB, p bindings.Params) *bindings.Model {
	t.Helper()
	if p.Device == "" {
		p.Device = "cpu"
	}
	if p.Context == 0 {
		p.Context = 1024
	}
	m, err := bindings.Open(t.Context(), files(t), p, none)
	require.NoError(t, err)
	t.Cleanup(func() { m.Close() })
	return m
}

// ------------------------------------------------------------------------------------------------------------- layout

func TestLayout(t *testing.T) {
	require.NoError(t, bindings.Load())
	for _, l := range bindings.Layouts {
		t.Run(l.C, func(t *testing.T) {
			require.Equal(t, bindings.StructSize(l.C), int64(l.Go.Size()), "size")
			offsets := flatten(l.Go, 0)
			require.Len(t, offsets, len(l.Fields))
			for i, field := range l.Fields {
				require.Equal(t, bindings.FieldOffset(l.C, field), int64(offsets[i]), field)
			}
		})
	}
	require.EqualValues(t, -1, bindings.StructSize("ub_nothing"))
	require.EqualValues(t, -1, bindings.FieldOffset("ub_call", "nothing"))
	require.EqualValues(t, -1, bindings.FieldOffset("ub_nothing", "size"))
}

// flatten lists the offsets of a struct's fields in order, with those of embedded structs in their place.
func flatten(typ reflect.Type, base uintptr) []uintptr {
	var offsets []uintptr
	for i := range typ.NumField() {
		if f := typ.Field(i); f.Anonymous {
			offsets = append(offsets, flatten(f.Type, base+f.Offset)...)
		} else {
			offsets = append(offsets, base+f.Offset)
		}
	}
	return offsets
}

func TestEnums(t *testing.T) {
	require.NoError(t, bindings.Load())
	for name, value := range map[string]int64{
		"UB_OK":                    0,
		"UB_E_INVALID":             int64(bindings.InvalidArgument),
		"UB_E_IO":                  int64(bindings.IO),
		"UB_E_FORMAT":              int64(bindings.Format),
		"UB_E_UNSUPPORTED":         int64(bindings.Unsupported),
		"UB_E_NOMEM":               int64(bindings.NoMemory),
		"UB_E_DEVICE":              int64(bindings.DeviceFailed),
		"UB_E_CONTEXT":             int64(bindings.ContextFull),
		"UB_E_CANCELED":            int64(bindings.Canceled),
		"UB_E_INTERNAL":            int64(bindings.Internal),
		"UB_DEVICE_CPU":            int64(bindings.DeviceCPU),
		"UB_DEVICE_GPU":            int64(bindings.DeviceGPU),
		"UB_DEVICE_INTEGRATED_GPU": int64(bindings.DeviceIntegratedGPU),
		"UB_DEVICE_ACCELERATOR":    int64(bindings.DeviceAccelerator),
		"UB_STAGE_VISION":          int64(bindings.StageVision),
		"UB_STAGE_PREFILL":         int64(bindings.StagePrefill),
		"UB_STAGE_DECODE":          int64(bindings.StageDecode),
		"UB_STAGE_FEATURES":        int64(bindings.StageFeatures),
		"UB_STAGE_MASKS":           int64(bindings.StageMasks),
		"UB_STAGE_MEMORY":          int64(bindings.StageMemory),
		"UB_DECODE_AT_ONCE":        bindings.DecodeAtOnce,
		"UB_NOTHING":               -1,
	} {
		require.Equal(t, value, bindings.EnumValue(name), name)
	}
}

func TestDevices(t *testing.T) {
	info, err := bindings.BuildInfo()
	require.NoError(t, err)
	require.NotEmpty(t, info)
	require.NotContains(t, info, "\n")

	devices, err := bindings.Devices()
	require.NoError(t, err)
	var names []string
	for _, d := range devices {
		names = append(names, d.Name)
		if d.Name == "cpu" {
			require.Equal(t, bindings.DeviceCPU, d.Type)
			require.Positive(t, d.MemoryTotal)
		}
	}
	require.Contains(t, names, "cpu")
}

// --------------------------------------------------------------------------------------------------------- bad input

func TestOpenErrors(t *testing.T) {
	good := files(t)
	dir := t.TempDir()
	write := func(name string, data []byte) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.WriteFile(path, data, 0o600))
		return path
	}
	language, err := os.ReadFile(good.Language)
	require.NoError(t, err)

	tests := []struct {
		name   string
		files  bindings.Files
		params bindings.Params
		want   bindings.Code
		says   string // in the message
	}{
		{name: "no such file", files: bindings.Files{Language: filepath.Join(dir, "absent.gguf")}, want: bindings.IO, says: "absent.gguf"},
		{name: "a folder", files: bindings.Files{Vision: dir}, want: bindings.IO},
		{name: "an empty file", files: bindings.Files{Grounding: write("empty.gguf", nil)}, want: bindings.Format, says: "empty.gguf"},
		{name: "a file of text", files: bindings.Files{Language: write("text.gguf", []byte(strings.Repeat("no model ", 99)))}, want: bindings.Format, says: "text.gguf"},
		{name: "half a file", files: bindings.Files{Language: write("half.gguf", language[:len(language)/2])}, want: bindings.Format, says: "half.gguf"},
		{name: "a NUL in the path", files: bindings.Files{Language: "a\x00b"}, want: bindings.InvalidArgument, says: "NUL"},
		{name: "a device that is not there", files: good, params: bindings.Params{Device: "cuda99"}, want: bindings.DeviceFailed, says: "cuda99"},
		{name: "a device with a NUL", files: good, params: bindings.Params{Device: "cpu\x00"}, want: bindings.InvalidArgument, says: "NUL"},
		{name: "a negative number", files: good, params: bindings.Params{Threads: -1}, want: bindings.InvalidArgument, says: "threads is -1"},
		{name: "too little memory", files: good, params: bindings.Params{Device: "cpu", MemoryLimit: 4096}, want: bindings.NoMemory},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := bindings.Open(t.Context(), tt.files, tt.params, none)
			require.Nil(t, m)
			require.ErrorIs(t, err, tt.want)
			require.ErrorContains(t, err, tt.says)
			var typed *bindings.Error
			require.ErrorAs(t, err, &typed)
			require.Equal(t, tt.want, typed.Code)
			require.NotEmpty(t, typed.Msg)
			require.NotContains(t, typed.Msg, "\n")
			if tt.params == (bindings.Params{}) {
				require.ErrorIs(t, bindings.Check(tt.files), tt.want)
			}
		})
	}

	t.Run("one part in place of another", func(t *testing.T) {
		_, err := bindings.Open(t.Context(), bindings.Files{Language: good.Grounding}, bindings.Params{}, none)
		require.Error(t, err)
		require.True(t, errors.Is(err, bindings.Format) || errors.Is(err, bindings.Unsupported), "%v", err)
	})
}

// Every cut of a file and every changed byte of its head is an error or a model, never a crash.
func TestCheckDamaged(t *testing.T) {
	good := files(t)
	for _, part := range []struct {
		name, path string
		files      func(string) bindings.Files
	}{
		{"language", good.Language, func(p string) bindings.Files { return bindings.Files{Language: p} }},
		{"vision", good.Vision, func(p string) bindings.Files { return bindings.Files{Vision: p} }},
		{"grounding", good.Grounding, func(p string) bindings.Files { return bindings.Files{Grounding: p} }},
	} {
		t.Run(part.name, func(t *testing.T) {
			require.NoError(t, bindings.Check(part.files(part.path)))
			data, err := os.ReadFile(part.path)
			require.NoError(t, err)
			path := filepath.Join(t.TempDir(), "damaged.gguf")
			random := rand.New(rand.NewPCG(1, 2))
			for range 40 {
				require.NoError(t, os.WriteFile(path, data[:random.IntN(len(data))], 0o600))
				require.ErrorIs(t, bindings.Check(part.files(path)), bindings.Format)
			}
			for range 80 {
				damaged := bytes.Clone(data)
				damaged[random.IntN(4096)] ^= byte(1 + random.IntN(255))
				require.NoError(t, os.WriteFile(path, damaged, 0o600))
				if err := bindings.Check(part.files(path)); err != nil {
					var typed *bindings.Error
					require.ErrorAs(t, err, &typed)
					require.NotEqual(t, bindings.Internal, typed.Code, "%v", err)
				}
			}
		})
	}
}

func TestPlan(t *testing.T) {
	plan, err := bindings.PlanMemory(files(t), bindings.Params{Device: "cpu", Context: 512})
	require.NoError(t, err)
	require.Positive(t, plan.WeightsLanguage)
	require.Positive(t, plan.WeightsVision)
	require.Positive(t, plan.WeightsGrounding)
	require.Positive(t, plan.KVCache)
	require.GreaterOrEqual(t, plan.Total, plan.WeightsLanguage+plan.WeightsVision+plan.WeightsGrounding+plan.KVCache)
	require.Positive(t, plan.Available)

	twice, err := bindings.PlanMemory(files(t), bindings.Params{Device: "cpu", Context: 1024})
	require.NoError(t, err)
	require.Equal(t, 2*plan.KVCache, twice.KVCache)
}

func TestInfo(t *testing.T) {
	m := open(t, bindings.Params{})
	i := m.Info()
	require.Equal(t, []int{1536, 256, 3}, []int{i.Vocab, i.Embd, i.Layers})
	require.Equal(t, []int{448, 256, 1, 12, 1025, 128}, []int{i.TileSize, i.TileTokens, i.TileMin, i.TileMax, i.VitTokens, i.VitEmbd})
	require.Equal(t, []int{1024, 256, 64, 4, 64, 16}, []int{i.MaskImageSize, i.MaskSize, i.MaskEmbd, i.Masks, i.FeatureSize, i.MemoryEmbd})
	require.True(t, i.Thumbnail)
	require.Equal(t, [3]float32{0.485, 0.456, 0.406}, i.TileMean)

	architecture, found, err := m.Metadata("general.architecture")
	require.NoError(t, err)
	require.True(t, found)
	require.Equal(t, "qwen2", architecture)
	_, found, err = m.Metadata("general.nothing")
	require.NoError(t, err)
	require.False(t, found)
	_, _, err = m.Metadata("a\x00b")
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

// A model opened in part does its part, and says what it lacks.
func TestParts(t *testing.T) {
	all := files(t)
	m, err := bindings.Open(t.Context(), bindings.Files{Language: all.Language}, bindings.Params{Device: "cpu", VocabOnly: true}, none)
	require.NoError(t, err)
	defer m.Close()
	ids, err := m.Tokenize("two words", false)
	require.NoError(t, err)
	require.NotEmpty(t, ids)
	_, err = m.NewSession(t.Context(), 0)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.EncodeTiles(t.Context(), nil, 1, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.EncodeImage(t.Context(), nil, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.NewTrack(nil)
	require.ErrorIs(t, err, bindings.InvalidArgument)

	vision, err := bindings.Open(t.Context(), bindings.Files{Vision: all.Vision}, bindings.Params{Device: "cpu"}, none)
	require.NoError(t, err)
	defer vision.Close()
	_, err = vision.Tokenize("x", false)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = vision.NewSession(t.Context(), 0)
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

// ---------------------------------------------------------------------------------------------------------- tokenizer

func TestTokenizer(t *testing.T) {
	m := open(t, bindings.Params{})
	texts := []string{
		"", " ", "Please segment nuclei in pathology.", "naïve 中文 🩻 e\u0301", "a\x00b",
		"[SEG] <IMG_CONTEXT> <|im_end|>", strings.Repeat("long ", 5000),
	}
	for _, text := range texts {
		for _, special := range []bool{false, true} {
			ids, err := m.Tokenize(text, special)
			require.NoError(t, err)
			var back []byte
			for _, id := range ids {
				b, err := m.TokenBytes(id)
				require.NoError(t, err)
				back = append(back, b...)
				if !special {
					require.Zero(t, m.TokenKind(id)&bindings.TokenAdded, "%q became an added token", b)
				}
			}
			require.Equal(t, text, string(back))
		}
	}

	_, err := m.Tokenize("cut \xe4\xb8", false)
	require.ErrorIs(t, err, bindings.InvalidArgument)

	seg, err := m.Tokenize("[SEG]", true)
	require.NoError(t, err)
	require.Equal(t, []int32{1531}, seg)
	require.NotZero(t, m.TokenKind(seg[0])&bindings.TokenAdded)
	end, err := m.Tokenize("<|im_end|>", true)
	require.NoError(t, err)
	require.Len(t, end, 1)
	require.Equal(t, bindings.TokenAdded|bindings.TokenControl, m.TokenKind(end[0]))

	require.EqualValues(t, -1, m.TokenKind(-1))
	require.EqualValues(t, -1, m.TokenKind(1<<30))
	_, err = m.TokenBytes(1 << 30)
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

// -------------------------------------------------------------------------------------------------------------- tensors

// A golden is a case of the reference: its JSON and its whole tensors.
type golden struct {
	PromptIDs    []int32     `json:"prompt_ids"`
	GeneratedIDs []int32     `json:"generated_ids"`
	SegPositions []int       `json:"seg_positions"`
	IoU          [][]float32 `json:"iou"`
	ObjectScore  []float32   `json:"object_score"`
	Selected     []int32     `json:"selected"`

	files []*safetensors.File
}

func readGolden(t testing.TB, name string) *golden {
	t.Helper()
	files(t)
	data, err := os.ReadFile(filepath.Join(tiny, "cases", name+".json"))
	require.NoError(t, err)
	g := &golden{}
	require.NoError(t, json.Unmarshal(data, g))
	for _, suffix := range []string{".full.safetensors", ".safetensors"} {
		f, err := safetensors.Open(filepath.Join(tiny, "cases", name+suffix))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		require.NoError(t, err)
		t.Cleanup(func() { f.Close() })
		g.files = append(g.files, f)
	}
	return g
}

func (g *golden) tensor(t testing.TB, name string) []float32 {
	t.Helper()
	for _, f := range g.files {
		if tensor, found := f.Tensor(name); found {
			values := make([]float32, tensor.Elements())
			require.NoError(t, f.ReadFloats(tensor, 0, values))
			return values
		}
	}
	t.Fatalf("the golden case has no tensor %s", name)
	return nil
}

// near compares by the limits of golden/README.md: relative rms 1e-5, and for logits max abs 1e-3.
func near(t *testing.T, what string, got, want []float32) {
	t.Helper()
	require.Len(t, got, len(want), what)
	var diff, norm, worst float64
	for i := range want {
		d := float64(got[i]) - float64(want[i])
		diff += d * d
		norm += float64(want[i]) * float64(want[i])
		worst = max(worst, math.Abs(d))
	}
	require.LessOrEqual(t, math.Sqrt(diff/norm), 1e-5, "%s: relative rms", what)
	require.LessOrEqual(t, worst, 1e-3, "%s: max abs", what)
}

// noise makes n values of a normalised image.
func noise(n int, seed uint64) []float32 {
	random := rand.New(rand.NewPCG(seed, 7))
	values := make([]float32, n)
	for i := range values {
		values[i] = random.Float32()*4 - 2
	}
	return values
}

func TestVision(t *testing.T) {
	m := open(t, bindings.Params{TileBatch: 2})
	i := m.Info()
	one := 3 * i.TileSize * i.TileSize
	tiles := noise(3*one, 1)

	var shares []float32
	shapes := map[string][]int{}
	values := map[string][]float32{}
	got, err := m.EncodeTiles(t.Context(), tiles, 3, bindings.Call{
		Progress: func(done float32) { shares = append(shares, done) },
		Trace: func(name string, data []float32, shape []int) {
			shapes[name], values[name] = shape, data
		},
	})
	require.NoError(t, err)
	require.Len(t, got, 3*i.TileTokens*i.Embd)
	require.NotEmpty(t, shares)
	for k, s := range shares {
		require.True(t, s >= 0 && s <= 1, "share %v", s)
		require.True(t, k == 0 || s >= shares[k-1], "shares go back: %v", shares)
	}
	require.Equal(t, []int{3, i.VitTokens, i.VitEmbd}, shapes["vit_output"])
	require.Equal(t, []int{3, i.TileTokens, i.Embd}, shapes["mlp1_output"])
	require.Equal(t, got, values["mlp1_output"])

	// A tile's embeddings do not depend on its neighbours.
	last, err := m.EncodeTiles(t.Context(), tiles[2*one:], 1, none)
	require.NoError(t, err)
	near(t, "third tile alone", last, got[2*i.TileTokens*i.Embd:])

	_, err = m.EncodeTiles(t.Context(), tiles[1:], 3, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.EncodeTiles(t.Context(), nil, 0, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

// The language model from the reference's own image features: the same logits and states, step by step.
func TestSession(t *testing.T) {
	m := open(t, bindings.Params{})
	i := m.Info()
	g := readGolden(t, "seg_1tile")
	ids := bytesToEmbeddings(t, m, g.PromptIDs)
	features := g.tensor(t, "mlp1_output")

	s, err := m.NewSession(t.Context(), 512)
	require.NoError(t, err)
	defer s.Close()
	require.Equal(t, 512, s.Capacity())
	out := bindings.Outputs{Logits: make([]float32, i.Vocab), Hidden: make([]float32, i.Embd)}
	require.NoError(t, s.Prefill(t.Context(), ids, features, out, none))
	require.Equal(t, len(ids), s.Length())
	near(t, "prefill_logits", out.Logits, g.tensor(t, "prefill_logits"))
	near(t, "prefill_hidden", out.Hidden, g.tensor(t, "prefill_hidden"))

	steps := g.tensor(t, "step_logits")
	decode := func() {
		for k, id := range g.GeneratedIDs {
			near(t, fmt.Sprint("step_logits ", k), out.Logits, steps[k*i.Vocab:(k+1)*i.Vocab])
			require.NoError(t, s.Decode(t.Context(), []int32{id}, out))
			if k == g.SegPositions[0] {
				near(t, "seg_hidden", out.Hidden, g.tensor(t, "seg_hidden"))
			}
		}
	}
	decode()

	// The kept prefix answers again as it did before.
	require.NoError(t, s.Truncate(len(ids)-1))
	require.Equal(t, len(ids)-1, s.Length())
	require.NoError(t, s.Decode(t.Context(), ids[len(ids)-1:], out))
	decode()

	// The answer in one run.
	require.NoError(t, s.Truncate(len(ids)))
	n := len(g.GeneratedIDs)
	run := bindings.Outputs{Logits: make([]float32, n*i.Vocab), Hidden: make([]float32, n*i.Embd)}
	require.NoError(t, s.Decode(t.Context(), g.GeneratedIDs, run))
	for k := range n - 1 {
		near(t, fmt.Sprint("step_logits ", k+1, " of one run"), run.Logits[k*i.Vocab:(k+1)*i.Vocab], steps[(k+1)*i.Vocab:(k+2)*i.Vocab])
	}
	at := g.SegPositions[0]
	near(t, "seg_hidden of one run", run.Hidden[at*i.Embd:(at+1)*i.Embd], g.tensor(t, "seg_hidden"))
	require.ErrorIs(t, s.Decode(t.Context(), nil, bindings.Outputs{}), bindings.InvalidArgument)
	require.ErrorIs(t, s.Decode(t.Context(), make([]int32, bindings.DecodeAtOnce+1), bindings.Outputs{}), bindings.InvalidArgument)
	require.ErrorIs(t, s.Decode(t.Context(), g.GeneratedIDs, out), bindings.InvalidArgument, "room for one of several")

	// Outputs are optional.
	require.NoError(t, s.Truncate(0))
	require.NoError(t, s.Prefill(t.Context(), ids, features, bindings.Outputs{}, none))

	// What is canceled or does not fit changes nothing.
	n = s.Length()
	ctx, cancel := context.WithCancel(t.Context())
	err = s.Prefill(ctx, make([]int32, 200), nil, bindings.Outputs{}, bindings.Call{Progress: func(float32) { cancel() }})
	require.ErrorIs(t, err, bindings.Canceled)
	require.Equal(t, n, s.Length())
	require.ErrorIs(t, s.Prefill(t.Context(), ids, features, bindings.Outputs{}, none), bindings.ContextFull)
	require.ErrorIs(t, s.Prefill(t.Context(), ids, features[1:], bindings.Outputs{}, none), bindings.InvalidArgument)
	require.ErrorIs(t, s.Prefill(t.Context(), nil, nil, bindings.Outputs{}, none), bindings.InvalidArgument)
	require.ErrorIs(t, s.Prefill(t.Context(), []int32{-2}, nil, bindings.Outputs{}, none), bindings.InvalidArgument)
	require.ErrorIs(t, s.Prefill(t.Context(), []int32{int32(i.Vocab)}, nil, bindings.Outputs{}, none), bindings.InvalidArgument)
	require.ErrorIs(t, s.Decode(t.Context(), []int32{int32(i.Vocab)}, bindings.Outputs{}), bindings.InvalidArgument)
	require.ErrorIs(t, s.Decode(t.Context(), []int32{1}, bindings.Outputs{Hidden: make([]float32, 1)}), bindings.InvalidArgument)
	require.ErrorIs(t, s.Truncate(n+1), bindings.InvalidArgument)
	require.ErrorIs(t, s.Truncate(-1), bindings.InvalidArgument)
	require.Equal(t, n, s.Length())

	for s.Length() < s.Capacity() {
		require.NoError(t, s.Decode(t.Context(), []int32{1}, bindings.Outputs{}))
	}
	require.ErrorIs(t, s.Decode(t.Context(), []int32{1}, bindings.Outputs{}), bindings.ContextFull)
}

// bytesToEmbeddings puts Embedding where a prompt has image tokens.
func bytesToEmbeddings(t *testing.T, m *bindings.Model, prompt []int32) []int32 {
	image, err := m.Tokenize("<IMG_CONTEXT>", true)
	require.NoError(t, err)
	require.Len(t, image, 1)
	ids := make([]int32, len(prompt))
	for k, id := range prompt {
		if ids[k] = id; id == image[0] {
			ids[k] = bindings.Embedding
		}
	}
	return ids
}

// goldenFeatures are the reference's features of the first golden case.
func goldenFeatures(t *testing.T, m *bindings.Model, g *golden) *bindings.Features {
	f, err := m.FeaturesFrom(g.tensor(t, "F0"), g.tensor(t, "F1"), g.tensor(t, "F2"))
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// The mask decoder from the reference's own features and state.
func TestMasks(t *testing.T) {
	m := open(t, bindings.Params{MaskBatch: 2})
	i := m.Info()
	g := readGolden(t, "seg_1tile")
	f := goldenFeatures(t, m, g)
	hidden := g.tensor(t, "seg_hidden")

	check := func(got *bindings.Masks, k int) {
		cells := i.MaskSize * i.MaskSize
		near(t, "mask logits", got.Logits[k*cells:(k+1)*cells], g.tensor(t, "mask_logits.0.selected"))
		require.InDeltaSlice(t, g.IoU[0], got.IoU[k*i.Masks:(k+1)*i.Masks], 1e-4)
		require.InDelta(t, g.ObjectScore[0], got.ObjectScore[k], 1e-4)
		require.Equal(t, g.Selected[0], got.Selected[k])
	}
	names := map[string]bool{}
	got, err := m.DecodeMasks(t.Context(), f, hidden, 1, bindings.Call{Trace: func(name string, _ []float32, _ []int) { names[name] = true }})
	require.NoError(t, err)
	check(got, 0)
	near(t, "seg_embedding", got.Embedding, g.tensor(t, "seg_embedding"))
	for _, name := range []string{"seg_embedding", "sparse_tokens", "hs.0", "mask_logits.0"} {
		require.True(t, names[name], "%s was not traced, only %v", name, names)
	}

	// Three prompts in passes of two: each as if it were alone.
	other := noise(i.Embd, 3)
	got, err = m.DecodeMasks(t.Context(), f, append(append(append([]float32{}, hidden...), other...), hidden...), 3, none)
	require.NoError(t, err)
	require.Equal(t, 3, got.N)
	check(got, 0)
	check(got, 2)

	_, err = m.DecodeMasks(t.Context(), f, hidden[1:], 1, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.DecodeMasks(t.Context(), nil, hidden, 1, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.FeaturesFrom(nil, nil, nil)
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

func TestTrack(t *testing.T) {
	m := open(t, bindings.Params{})
	i := m.Info()
	g := readGolden(t, "seg_1tile")
	f := goldenFeatures(t, m, g)
	hidden := g.tensor(t, "seg_hidden")

	track, err := m.NewTrack(hidden)
	require.NoError(t, err)
	defer track.Close()
	prompted, err := track.Prompt(t.Context(), 0, f, none)
	require.NoError(t, err)
	near(t, "a prompted slice is an image", prompted.Logits, g.tensor(t, "mask_logits.0.selected"))
	require.Len(t, prompted.Embedding, i.MaskEmbd)

	first, err := track.Step(t.Context(), 1, f, none)
	require.NoError(t, err)
	require.Nil(t, first.Embedding)
	require.Len(t, first.Logits, i.MaskSize*i.MaskSize)
	_, err = track.Step(t.Context(), 2, f, none)
	require.NoError(t, err)

	// From the prompted slice again, the first step is the first step.
	track.Rewind()
	again, err := track.Step(t.Context(), 1, f, none)
	require.NoError(t, err)
	require.Equal(t, first.Logits, again.Logits)

	_, err = track.Step(t.Context(), -1, f, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = track.Step(t.Context(), 3, nil, none)
	require.ErrorIs(t, err, bindings.InvalidArgument)
	_, err = m.NewTrack(hidden[1:])
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

func TestStats(t *testing.T) {
	m := open(t, bindings.Params{})
	g := readGolden(t, "seg_1tile")
	f := goldenFeatures(t, m, g)
	hidden := g.tensor(t, "seg_hidden")
	_, err := m.DecodeMasks(t.Context(), f, append(append([]float32{}, hidden...), hidden...), 2, none)
	require.NoError(t, err)

	stats, err := m.Stats()
	require.NoError(t, err)
	require.Len(t, stats, 6)
	masks := stats[bindings.StageMasks]
	require.EqualValues(t, 2, masks.Items)
	require.Positive(t, masks.Time)
	require.Positive(t, masks.FLOP)
	require.Zero(t, stats[bindings.StageFeatures].Calls)

	operations, err := m.Operations()
	require.NoError(t, err)
	require.NotEmpty(t, operations)
	products := 0
	for _, o := range operations {
		require.Equal(t, "masks", o.Stage)
		require.Equal(t, "cpu", o.Device)
		require.Positive(t, o.Count)
		if o.Operation == "MUL_MAT" {
			products++
		}
	}
	require.Equal(t, 1, products)

	rate, err := m.PeakRate("f32", 256, 50*time.Millisecond)
	require.NoError(t, err)
	require.Positive(t, rate)
	_, err = m.PeakRate("f33", 256, 50*time.Millisecond)
	require.ErrorIs(t, err, bindings.InvalidArgument)
}

func TestQuantize(t *testing.T) {
	const rows, length = 3, 256
	src := noise(rows*length, 5)
	for typ, limit := range map[string]float64{
		"f32": 0, "f16": 1e-3, "bf16": 8e-3, "q8_0": 0.01, "q6_k": 0.04, "q5_k": 0.08, "q4_k": 0.15,
		"q5_1": 0.08, "q5_0": 0.08, "q4_1": 0.15, "q4_0": 0.2, "iq4_nl": 0.2,
	} {
		t.Run(typ, func(t *testing.T) {
			size, known := bindings.RowSize(typ, length)
			require.True(t, known)
			_, known = bindings.TypeID(typ)
			require.True(t, known)
			packed, back := make([]byte, rows*size), make([]float32, len(src))
			require.NoError(t, bindings.Quantize(typ, src, rows, length, packed, 0))
			require.NoError(t, bindings.Dequantize(typ, packed, rows, length, back))
			for i := range src {
				require.InDelta(t, src[i], back[i], 2*limit, "value %d", i)
			}

			bad := append([]float32{}, src...)
			bad[77] = float32(math.NaN())
			err := bindings.Quantize(typ, bad, rows, length, packed, 0)
			require.ErrorIs(t, err, bindings.Format)
			require.ErrorContains(t, err, "77")
			require.ErrorIs(t, bindings.Quantize(typ, src, rows, length, packed[1:], 0), bindings.InvalidArgument)
			require.ErrorIs(t, bindings.Dequantize(typ, packed, rows, length, back[1:]), bindings.InvalidArgument)
		})
	}
	_, known := bindings.RowSize("q8_0", 33)
	require.False(t, known)
	_, known = bindings.RowSize("q9", 32)
	require.False(t, known)
	_, known = bindings.TypeID("q8_0\x00")
	require.False(t, known)
	require.ErrorIs(t, bindings.Quantize("q9", src, rows, length, nil, 0), bindings.InvalidArgument)
	require.NoError(t, bindings.Quantize("q8_0", nil, 0, length, nil, 0))
}

// ------------------------------------------------------------------------------------------------------ calls and lifetime

func TestCancel(t *testing.T) {
	m := open(t, bindings.Params{})
	i := m.Info()
	tiles := noise(2*3*i.TileSize*i.TileSize, 1)
	image := noise(3*i.MaskImageSize*i.MaskImageSize, 1)

	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer stop()
	calls := map[string]func(context.Context, bindings.Call) error{
		"open": func(ctx context.Context, c bindings.Call) error {
			opened, err := bindings.Open(ctx, files(t), bindings.Params{Device: "cpu"}, c)
			opened.Close()
			return err
		},
		"vision": func(ctx context.Context, c bindings.Call) error {
			_, err := m.EncodeTiles(ctx, tiles, 2, c)
			return err
		},
		"features": func(ctx context.Context, c bindings.Call) error {
			f, err := m.EncodeImage(ctx, image, c)
			f.Close()
			return err
		},
		"prefill": func(ctx context.Context, c bindings.Call) error {
			s, err := m.NewSession(t.Context(), 1024)
			require.NoError(t, err)
			defer s.Close()
			return s.Prefill(ctx, make([]int32, 1000), nil, bindings.Outputs{}, c)
		},
	}
	for name, call := range calls {
		t.Run(name, func(t *testing.T) {
			err := call(canceled, none)
			require.ErrorIs(t, err, bindings.Canceled)
			require.ErrorIs(t, err, context.Canceled)
			err = call(late, none)
			require.ErrorIs(t, err, bindings.Canceled)
			require.ErrorIs(t, err, context.DeadlineExceeded)
			require.NotErrorIs(t, err, context.Canceled)

			// In the middle: at the first report the call is under way, and the next one stops it.
			ctx, cancel := context.WithCancel(t.Context())
			reports := 0
			err = call(ctx, bindings.Call{Progress: func(float32) { reports++; cancel() }})
			require.ErrorIs(t, err, bindings.Canceled)
			require.ErrorIs(t, err, context.Canceled)
			require.Equal(t, 1, reports)

			// A panic of the caller's own comes out where the call was made.
			require.PanicsWithValue(t, "mine", func() {
				call(t.Context(), bindings.Call{Progress: func(float32) { panic("mine") }})
			})

			// The model goes on.
			require.NoError(t, call(t.Context(), none))
		})
	}
}

func TestClose(t *testing.T) {
	m := open(t, bindings.Params{})
	g := readGolden(t, "seg_1tile")
	hidden := g.tensor(t, "seg_hidden")
	f := goldenFeatures(t, m, g)
	s, err := m.NewSession(t.Context(), 64)
	require.NoError(t, err)
	track, err := m.NewTrack(hidden)
	require.NoError(t, err)

	// What was made from a model outlives it.
	require.NoError(t, m.Close())
	require.NoError(t, m.Close())
	require.NoError(t, s.Prefill(t.Context(), []int32{1, 2, 3}, nil, bindings.Outputs{}, none))
	_, err = track.Prompt(t.Context(), 0, f, none)
	require.NoError(t, err)

	closed := func(err error) {
		t.Helper()
		require.ErrorIs(t, err, os.ErrClosed)
		require.ErrorIs(t, err, bindings.InvalidArgument)
	}
	_, err = m.Tokenize("x", false)
	closed(err)
	_, err = m.DecodeMasks(t.Context(), f, hidden, 1, none)
	closed(err)
	_, err = m.NewSession(t.Context(), 0)
	closed(err)
	require.EqualValues(t, -1, m.TokenKind(0))
	require.NotZero(t, m.Info().Vocab)

	require.NoError(t, s.Close())
	require.NoError(t, s.Close())
	closed(s.Decode(t.Context(), []int32{1}, bindings.Outputs{}))
	closed(s.Truncate(0))
	require.Zero(t, s.Length())

	require.NoError(t, f.Close())
	_, err = track.Step(t.Context(), 1, f, none)
	closed(err)
	require.NoError(t, track.Close())
	track.Rewind()
	_, err = track.Prompt(t.Context(), 1, f, none)
	closed(err)

	require.NoError(t, (*bindings.Model)(nil).Close())
	require.NoError(t, (*bindings.Session)(nil).Close())
	require.NoError(t, (*bindings.Features)(nil).Close())
	require.NoError(t, (*bindings.Track)(nil).Close())
}

func TestCloseWaits(t *testing.T) {
	var freed atomic.Int32
	g := bindings.NewGuarded(func() { freed.Add(1) })
	require.NoError(t, g.Enter())
	done := make(chan struct{})
	for range 3 {
		go func() {
			g.Close()
			done <- struct{}{}
		}()
	}
	require.Eventually(t, func() bool { // a Close has begun: later calls are turned away
		if g.Enter() != nil {
			return true
		}
		g.Leave()
		return false
	}, 5*time.Second, time.Millisecond)
	require.Zero(t, freed.Load())
	g.Leave()
	for range 3 {
		<-done
	}
	require.EqualValues(t, 1, freed.Load())
}

func TestForgotten(t *testing.T) {
	var freed atomic.Int32
	func() {
		g := bindings.NewGuarded(func() { freed.Add(1) })
		require.NoError(t, g.Enter())
		g.Leave()
	}()
	require.Eventually(t, func() bool {
		runtime.GC()
		return freed.Load() == 1
	}, 10*time.Second, time.Millisecond)

	// The same for the library's own objects, which must survive it: their model is closed before them.
	m := open(t, bindings.Params{})
	for range 5 {
		s, err := m.NewSession(t.Context(), 64)
		require.NoError(t, err)
		require.NoError(t, s.Decode(t.Context(), []int32{1}, bindings.Outputs{}))
	}
	require.NoError(t, m.Close())
	for range 5 {
		runtime.GC()
	}
}

// Many goroutines share a model, each with a session of its own, and get what one goroutine gets.
func TestConcurrent(t *testing.T) {
	m := open(t, bindings.Params{})
	i := m.Info()
	g := readGolden(t, "seg_1tile")
	f := goldenFeatures(t, m, g)
	hidden := g.tensor(t, "seg_hidden")
	ids := bytesToEmbeddings(t, m, g.PromptIDs)
	features := g.tensor(t, "mlp1_output")
	common, err := m.NewSession(t.Context(), 64)
	require.NoError(t, err)
	defer common.Close()

	errs := make(chan error, 8)
	var group sync.WaitGroup
	for k := range 8 {
		group.Go(func() {
			errs <- func() error {
				s, err := m.NewSession(t.Context(), 512)
				if err != nil {
					return err
				}
				defer s.Close()
				out := bindings.Outputs{Logits: make([]float32, i.Vocab)}
				if err := s.Prefill(t.Context(), ids, features, out, bindings.Call{Progress: func(float32) {}}); err != nil {
					return err
				}
				best := int32(0)
				for id, v := range out.Logits {
					if v > out.Logits[best] {
						best = int32(id)
					}
				}
				if best != g.GeneratedIDs[0] {
					return fmt.Errorf("goroutine %d: got id %d, want %d", k, best, g.GeneratedIDs[0])
				}
				if _, err := m.Tokenize("some text", true); err != nil {
					return err
				}
				masks, err := m.DecodeMasks(t.Context(), f, hidden, 1, none)
				if err != nil {
					return err
				}
				if masks.Selected[0] != g.Selected[0] {
					return fmt.Errorf("goroutine %d: selected %d, want %d", k, masks.Selected[0], g.Selected[0])
				}
				for range 4 { // one session for all: calls queue
					if err := common.Decode(t.Context(), []int32{1}, bindings.Outputs{}); err != nil {
						return err
					}
				}
				return nil
			}()
		})
	}
	group.Wait()
	close(errs)
	for err := range errs {
		require.NoError(t, err)
	}
	require.Equal(t, 32, common.Length())
}

// --------------------------------------------------------------------------------------------------------- benchmarks

func BenchmarkTokenize(b *testing.B) {
	m := open(b, bindings.Params{})
	text := strings.Repeat("Please segment the left lung in the chest X-ray. ", 20)
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := m.Tokenize(text, false); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDecode(b *testing.B) {
	m := open(b, bindings.Params{})
	s, err := m.NewSession(b.Context(), 1024)
	require.NoError(b, err)
	defer s.Close()
	require.NoError(b, s.Prefill(b.Context(), make([]int32, 256), nil, bindings.Outputs{}, none))
	out := bindings.Outputs{Logits: make([]float32, m.Info().Vocab), Hidden: make([]float32, m.Info().Embd)}
	n := 0
	for b.Loop() {
		if s.Length() == s.Capacity() {
			require.NoError(b, s.Truncate(256))
		}
		require.NoError(b, s.Decode(b.Context(), []int32{1}, out))
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "tokens/s")
}

func BenchmarkEncodeImage(b *testing.B) {
	m := open(b, bindings.Params{})
	image := noise(3*m.Info().MaskImageSize*m.Info().MaskImageSize, 1)
	n := 0
	for b.Loop() {
		f, err := m.EncodeImage(b.Context(), image, none)
		require.NoError(b, err)
		f.Close()
		n++
	}
	b.ReportMetric(float64(n)/b.Elapsed().Seconds(), "images/s")
}
