package checkpoint

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// Verify checks a model folder: everything that CheckFiles checks, and the sha256 of every file. progress, when not nil, is told the
// bytes that are done, of all, and the file at hand.
func Verify(ctx context.Context, dir string, progress func(done, total int64, name string)) (Manifest, error) {
	m, err := ReadModel(dir)
	if err != nil {
		return Manifest{}, err
	}
	var problems []error
	if err := CheckFiles(dir, m); err != nil {
		problems = append(problems, err)
	}
	var done, total int64
	for _, part := range Parts() {
		total += m.Files[part.File()].Size
	}
	for _, part := range Parts() {
		path := filepath.Join(dir, part.File())
		got, err := sumFile(ctx, path, func(n int64) {
			if done += n; progress != nil {
				progress(done, total, part.File())
			}
		})
		if ctx.Err() != nil {
			return Manifest{}, context.Cause(ctx)
		}
		if err != nil {
			problems = append(problems, err)
		} else if want := m.Files[part.File()].SHA256; got != want {
			problems = append(problems, fileerr.Format(path, "sha256", got, want+", as "+ManifestFile+" says"))
		}
	}
	return m, list(flatten(problems))
}

func sumFile(ctx context.Context, path string, step func(n int64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	for {
		n, err := io.CopyN(h, f, 4<<20)
		step(n)
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err != nil {
			return "", err
		}
	}
}

// CheckFiles checks, without reading weights, that the files of a model folder are those that the manifest names, whole, and
// belong together: sizes, GGUF structure, keys, the name, shape and type of every tensor, hidden sizes, tokens and their ids.
func CheckFiles(dir string, m Manifest) error {
	files, err := openParts(dir, m)
	if err != nil {
		return err
	}
	defer files.close()
	return files.check(dir, m)
}

func (p parts) check(dir string, m Manifest) error {
	var problems []error
	k := map[Part]keys{}
	for _, part := range Parts() {
		k[part] = keys{p[part], &problems}
		if got := k[part].string("general.architecture"); got != architectures[part] && got != "" {
			k[part].bad("general.architecture", fileerr.Quote(got), fileerr.Quote(architectures[part]))
		} else if part != Language {
			if v := k[part].int("unibiomed.format_version", math.MaxInt32); v != formatVersion && v > 0 {
				problems = append(problems, fileerr.Unsupported(p[part].Name, "unibiomed.format_version", v, formatVersion))
			}
		}
	}
	if len(problems) > 0 {
		return list(problems) // the other keys need not be there
	}
	tokens, kinds := k[Language].vocabulary()
	eos, _ := value[uint32](k[Language], "tokenizer.ggml.eos_token_id", "a u32")
	c := &config{language: k[Language].language(len(tokens)), vision: k[Vision].vision(), sam: k[Grounding].sam()}
	for _, e := range []struct {
		part Part
		key  string
	}{{Vision, "vision.projection_length"}, {Grounding, "grounding.input_length"}} {
		if n, hidden := k[e.part].int(e.key, maxWidth), c.language.hidden; n > 0 && hidden > 0 && n != hidden {
			k[e.part].bad(e.key, n, fmt.Sprintf("%d, qwen2.embedding_length of %s", hidden, LanguageFile))
		}
	}
	if len(problems) > 0 {
		return list(problems)
	}
	problems = checkTokens(filepath.Join(dir, ManifestFile), m.Tokens, tokens, kinds, int(eos))
	_, untied := p[Language].Tensor("output.weight")
	c.language.tied = !untied
	_, bias := p[Vision].Tensor("blocks.0.attn.qkv.bias")
	c.vision.qkvBias = &bias
	if t, ok := p[Grounding].Tensor("decoder.iou_head.0.weight"); ok {
		c.sam.iouHidden = int(t.Shape[0]) // of no other use, so no key has it
	}
	wanted, bakes := c.tensorRules()
	for _, b := range bakes {
		wanted = append(wanted, rule{part: b.part, to: b.to, shape: b.shape})
	}
	return list(append(problems, p.checkTensors(wanted)...))
}

var architectures = map[Part]string{Language: "qwen2", Vision: "unibiomed-vision", Grounding: "unibiomed-grounding"}

// checkTensors compares the tensors of the files with those that the keys call for.
func (p parts) checkTensors(wanted []rule) []error {
	var problems []error
	known := map[Part]map[string]bool{Language: {}, Vision: {}, Grounding: {}}
	for _, r := range wanted {
		known[r.part][r.to] = true
		f := p[r.part]
		t, ok := f.Tensor(r.to)
		switch {
		case !ok:
			problems = append(problems, fileerr.Format(f.Name, "tensor "+r.to, "nothing", fmt.Sprintf("shape %v, as the keys say", r.shape)))
		case !slices.Equal(t.Shape, r.shape):
			problems = append(problems, fileerr.Format(f.Name, "tensor "+r.to, fmt.Sprintf("shape %v", t.Shape), fmt.Sprintf("%v, as the keys say", r.shape)))
		case t.Type != gguf.F32 && !isMatrix(r.part, r.to, len(r.shape)):
			problems = append(problems, fileerr.Format(f.Name, "tensor "+r.to, t.Type, "f32"))
		}
	}
	for _, part := range Parts() {
		for _, t := range p[part].Tensors {
			if !known[part][t.Name] {
				problems = append(problems, fileerr.Format(p[part].Name, "tensor "+fileerr.Quote(t.Name), fmt.Sprintf("shape %v", t.Shape), "no such tensor, as the keys say"))
			}
		}
	}
	return problems
}

// checkTokens compares the ids of model.json with the vocabulary of language.gguf.
func checkTokens(manifest string, ids TokenIDs, tokens []string, kinds []int32, eos int) []error {
	var problems []error
	for _, f := range ids.fields() {
		id := int(*f.id)
		switch field := "tokens." + f.name; {
		case id >= len(tokens):
			problems = append(problems, fileerr.Format(manifest, field, id, fmt.Sprintf("less than %d, the tokens of %s", len(tokens), LanguageFile)))
		case f.text == "" && id != eos:
			problems = append(problems, fileerr.Format(manifest, field, id, fmt.Sprintf("%d, tokenizer.ggml.eos_token_id of %s", eos, LanguageFile)))
		case f.text != "" && tokens[id] != f.text:
			problems = append(problems, fileerr.Format(manifest, field, fmt.Sprintf("%d, which is %s in %s", id, fileerr.Quote(tokens[id]), LanguageFile), "the id of "+fileerr.Quote(f.text)))
		case f.text != "" && kinds[id] != tokenControl && kinds[id] != tokenUserDefined:
			problems = append(problems, fileerr.Format(manifest, field, fmt.Sprintf("%d, a token of type %d in %s", id, kinds[id], LanguageFile), "an added token, of type 3 or 4"))
		}
	}
	return problems
}

// keys reads the keys of a file and notes those that are missing, of a wrong type or out of range.
type keys struct {
	f        *gguf.File
	problems *[]error
}

func (k keys) bad(key string, got, want any) {
	*k.problems = append(*k.problems, fileerr.Format(k.f.Name, key, got, want))
}

// value returns a key's value of type T, and notes it when it has none.
func value[T any](k keys, key, want string) (v T, ok bool) {
	any := k.f.Value(key)
	if any == nil {
		k.bad(key, "nothing", want)
		return v, false
	}
	if v, ok = any.(T); !ok {
		k.bad(key, fmt.Sprintf("a value of type %T", any), want)
	}
	return v, ok
}

func (k keys) string(key string) string {
	s, _ := value[string](k, key, "a string")
	return s
}

// int returns a u32 from 1 to most, 0 when there is none.
func (k keys) int(key string, most int) int {
	want := fmt.Sprintf("a u32 from 1 to %d", most)
	v, ok := value[uint32](k, key, want)
	if ok && (v < 1 || int64(v) > int64(most)) {
		k.bad(key, v, want)
		return 0
	}
	return int(v)
}

func (k keys) ints(key string, count, most int) []int {
	want := fmt.Sprintf("u32 values of at most %d", most)
	v, _ := value[[]uint32](k, key, want)
	if count >= 0 && len(v) != count {
		k.bad(key, fmt.Sprintf("%d values", len(v)), fmt.Sprint(count))
		return make([]int, count)
	}
	out := make([]int, len(v))
	for i := range v {
		if int64(v[i]) > int64(most) {
			k.bad(key, v, want)
		}
		out[i] = int(v[i])
	}
	return out
}

// float returns a finite f32, which is positive unless signed.
func (k keys) float(key string, signed bool) float64 {
	v, ok := value[float32](k, key, "an f32")
	if ok && (v-v != 0 || (!signed && v <= 0)) {
		k.bad(key, v, "a positive number")
	}
	return float64(v)
}

// vocabulary returns the tokens and their types.
func (k keys) vocabulary() ([]string, []int32) {
	if model := k.string("tokenizer.ggml.model"); model != "gpt2" && model != "" {
		k.bad("tokenizer.ggml.model", fileerr.Quote(model), `"gpt2"`)
	}
	if pre := k.string("tokenizer.ggml.pre"); pre != "qwen2" && pre != "" {
		k.bad("tokenizer.ggml.pre", fileerr.Quote(pre), `"qwen2"`)
	}
	tokens, _ := value[[]string](k, "tokenizer.ggml.tokens", "an array of strings")
	kinds, _ := value[[]int32](k, "tokenizer.ggml.token_type", "an array of i32")
	value[[]string](k, "tokenizer.ggml.merges", "an array of strings")
	if len(kinds) != len(tokens) {
		k.bad("tokenizer.ggml.token_type", fmt.Sprintf("%d values", len(kinds)), fmt.Sprintf("%d, the number of tokens", len(tokens)))
	}
	return tokens, kinds
}

func (k keys) language(vocab int) languageConfig {
	k.float("qwen2.attention.layer_norm_rms_epsilon", false)
	k.float("qwen2.rope.freq_base", false)
	k.int("qwen2.context_length", 1<<30)
	return languageConfig{
		vocab:   vocab,
		hidden:  k.int("qwen2.embedding_length", maxWidth),
		ffn:     k.int("qwen2.feed_forward_length", maxWidth),
		layers:  k.int("qwen2.block_count", maxLayers),
		heads:   k.int("qwen2.attention.head_count", maxWidth),
		kvHeads: k.int("qwen2.attention.head_count_kv", maxWidth),
	}
}

func (k keys) vision() visionConfig {
	k.float("vision.attention.layer_norm_epsilon", false)
	k.float("vision.projector.layer_norm_epsilon", false)
	k.int("vision.pixel_shuffle_version", 2)
	if least, most := k.int("vision.tiles.min", 1024), k.int("vision.tiles.max", 1024); least > most {
		k.bad("vision.tiles.min", least, fmt.Sprintf("at most vision.tiles.max %d", most))
	}
	value[bool](k, "vision.tiles.thumbnail", "a bool")
	k.triple("vision.image_mean")
	k.triple("vision.image_std")
	return visionConfig{
		image:   k.int("vision.image_size", maxImage),
		patch:   k.int("vision.patch_size", 1024),
		hidden:  k.int("vision.embedding_length", maxWidth),
		ffn:     k.int("vision.feed_forward_length", maxWidth),
		layers:  k.int("vision.block_count", maxLayers),
		heads:   k.int("vision.attention.head_count", maxWidth),
		shuffle: k.int("vision.pixel_shuffle_factor", 64),
	}
}

func (k keys) sam() samConfig {
	k.float("sam2.memory.rope_theta", false)
	k.float("sam2.memory.mask_scale", true)
	k.float("sam2.memory.mask_bias", true)
	k.int("sam2.memory.object_pointer_count", 1024)
	k.int("sam2.prompted_slices", 1024)
	k.int("sam2.memory.attention_head_count", 1<<14)
	k.int("sam2.decoder.head_count", 1<<14)
	k.int("sam2.trunk.q_pool", 16)
	k.ints("sam2.neck.top_down_levels", -1, 3)
	k.ints("sam2.trunk.global_blocks", -1, 4*maxLayers)
	k.triple("sam2.image_mean")
	k.triple("sam2.image_std")
	s := samConfig{
		image:       k.int("sam2.image_size", maxImage),
		stride:      k.int("sam2.backbone_stride", 1024),
		embed:       k.int("sam2.trunk.embedding_length", 1<<14),
		heads:       k.int("sam2.trunk.head_count", 1<<14),
		stages:      k.ints("sam2.trunk.stages", 4, maxLayers),
		windows:     k.ints("sam2.trunk.window_spec", 4, maxImage),
		qStride:     k.int("sam2.trunk.q_stride", 16),
		dimMul:      k.int("sam2.trunk.dim_mul", 16),
		headMul:     k.int("sam2.trunk.head_mul", 16),
		mlp:         k.int("sam2.trunk.mlp_ratio", 64),
		d:           k.int("sam2.embedding_length", 1<<13),
		decLayers:   k.int("sam2.decoder.block_count", maxLayers),
		decFFN:      k.int("sam2.decoder.feed_forward_length", maxWidth),
		decDown:     k.int("sam2.decoder.attention_downsample", 64),
		masks:       k.int("sam2.decoder.mask_count", 65),
		mem:         k.int("sam2.memory.embedding_length", 1<<16),
		memLayers:   k.int("sam2.memory.attention_block_count", maxLayers),
		memFFN:      k.int("sam2.memory.feed_forward_length", maxWidth),
		fuserLayers: k.int("sam2.memory.fuser_block_count", maxLayers),
		slices:      k.int("sam2.memory.slice_count", 1024),
		background:  []int{1, 1}, // baked away
	}
	return s
}

// triple checks three finite numbers, one a colour.
func (k keys) triple(key string) {
	v, ok := value[[]float32](k, key, "three f32")
	if ok && (len(v) != 3 || slices.ContainsFunc(v, func(x float32) bool { return x-x != 0 })) {
		k.bad(key, v, "three finite f32")
	}
}
