package checkpoint

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// A fake is a checkpoint of random weights and any sizes, in the published layout. Tests change it before they write it.
type fake struct {
	config    map[string]any    // config.json
	sam       map[string]any    // sam2_config.json
	extra     map[string]any    // unibiomed_config.json; nil: none
	tokenizer map[string]any    // tokenizer.json
	files     map[string]string // further files by name
	shards    int               // 1: model.safetensors
	dtype     func(name string) safetensors.DType
	tensors   func([]fakeTensor) []fakeTensor // changes the list before it is written
}

type fakeTensor struct {
	name  string
	shape []int64
	dtype safetensors.DType
	data  []float32 // as stored: exact in dtype
}

// addedTexts are the added tokens of the published tokenizer that the pipeline knows, and two others.
var addedTexts = []string{"<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool_call>", "<img>", "</img>", "<IMG_CONTEXT>", "[SEG]", "<p>", "</p>", "<vp>", "</vp>"}

// newFake makes a small checkpoint; its added tokens stand in the order that seed draws.
func newFake(seed uint64) *fake {
	r := rand.New(rand.NewPCG(seed, 1))
	vocab := map[string]any{}
	for _, c := range byteAlphabet() {
		vocab[string(c)] = len(vocab)
	}
	merges := []any{"a b", "c d", "ab cd", "Ġ a"}
	for _, text := range []string{"ab", "cd", "abcd", "Ġa"} {
		vocab[text] = len(vocab)
	}
	var added []any
	for _, i := range r.Perm(len(addedTexts)) {
		added = append(added, map[string]any{"id": len(vocab) + len(added), "content": addedTexts[i], "special": addedTexts[i] != "<tool_call>", "lstrip": false})
	}
	return &fake{
		config: map[string]any{
			"llm_config": map[string]any{"architectures": []any{"Qwen2ForCausalLM"}, "vocab_size": len(vocab) + len(added), "hidden_size": 64,
				"intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "rms_norm_eps": 1e-6,
				"rope_theta": 1e6, "max_position_embeddings": 4096, "hidden_act": "silu", "tie_word_embeddings": false, "rope_scaling": nil},
			"vision_config": map[string]any{"image_size": 56, "patch_size": 14, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2,
				"num_attention_heads": 2, "layer_norm_eps": 1e-6, "qkv_bias": true, "hidden_act": "gelu", "norm_type": "layer_norm", "qk_normalization": false},
			"force_image_size": 56, "select_layer": -1, "downsample_ratio": 0.5, "ps_version": "v2", "template": "phi3-chat", "use_llm_lora": 0,
			"use_backbone_lora": 0, "unknown": map[string]any{"nothing": nil},
		},
		sam: map[string]any{"image_size": 256, "hiera_embed_dim": 8, "hiera_num_heads": 1, "hiera_stages": []any{1, 2, 2, 1}, "hiera_global_att_blocks": []any{4},
			"d_model": 32, "memory_dim": 8, "memory_attention_num_layers": 1, "memory_attention_mlp_dim": 48, "decoder_mlp_dim": 40,
			"decoder_iou_head_hidden_dim": 24, "hiera_window_spec": []any{8, 4, 8, 8}},
		tokenizer: map[string]any{
			"version": "1.0", "added_tokens": added,
			"pre_tokenizer": map[string]any{"type": "Sequence", "pretokenizers": []any{
				map[string]any{"type": "Split", "pattern": map[string]any{"Regex": qwen2Pattern}}, map[string]any{"type": "ByteLevel"}}},
			"model": map[string]any{"type": "BPE", "vocab": vocab, "merges": merges, "byte_fallback": false},
		},
		files:  map[string]string{},
		shards: 1,
		dtype:  func(string) safetensors.DType { return safetensors.F32 },
	}
}

// byteAlphabet is the 256 characters that byte-level BPE writes bytes as.
func byteAlphabet() []rune {
	var out []rune
	next := rune(256)
	for b := rune(0); b < 256; b++ {
		if (b >= '!' && b <= '~') || (b >= '¡' && b <= '¬') || (b >= '®' && b <= 'ÿ') {
			out = append(out, b)
		} else {
			out = append(out, next)
			next++
		}
	}
	return out
}

func (f *fake) llm() map[string]any    { return f.config["llm_config"].(map[string]any) }
func (f *fake) vision() map[string]any { return f.config["vision_config"].(map[string]any) }

// ids returns the ids of the added tokens.
func (f *fake) ids() map[string]int {
	ids := map[string]int{}
	for _, a := range f.tokenizer["added_tokens"].([]any) {
		m := a.(map[string]any)
		ids[m["content"].(string)] = m["id"].(int)
	}
	return ids
}

// list returns the tensors that the configuration calls for, with random values, and those that nothing reads.
func (f *fake) list(t testing.TB) []fakeTensor {
	var problems []error
	main, err := parseObject("config.json", encode(t, f.config), &problems)
	require.NoError(t, err)
	sam, err := parseObject("sam2_config.json", encode(t, f.sam), &problems)
	require.NoError(t, err)
	c := parseConfig(main, sam, object{problems: &problems})
	require.Empty(t, problems)
	if c.vision.qkvBias == nil {
		c.vision.qkvBias = new(bool)
	}
	rules, bakes := c.tensorRules()
	for _, b := range bakes {
		rules = append(rules, b.from...)
	}
	d := c.sam.d
	for name, s := range map[string][]int64{
		"no_mem_pos_enc": shape(1, 1, d), "mask_downsample.weight": shape(1, 1, 4, 4), "mask_downsample.bias": shape(1),
		"sam_prompt_encoder.point_embeddings.0.weight": shape(1, d), "sam_prompt_encoder.mask_downscaling.0.weight": shape(4, 1, 2, 2),
	} {
		rules = append(rules, rule{from: samPrefix + name, fromShape: s})
	}
	slices.SortFunc(rules, func(a, b rule) int { return cmp.Compare(a.from, b.from) })
	r := rand.New(rand.NewPCG(7, 7))
	var out []fakeTensor
	for _, x := range rules {
		n := int64(1)
		for _, s := range x.fromShape {
			n *= s
		}
		ft := fakeTensor{name: x.from, shape: x.fromShape, dtype: f.dtype(x.from), data: make([]float32, n)}
		for i := range ft.data {
			v := float32(r.NormFloat64())
			switch ft.dtype {
			case safetensors.F16:
				v = half.FromF16(half.ToF16(v))
			case safetensors.BF16:
				v = toBF16(v)
			}
			ft.data[i] = v
		}
		out = append(out, ft)
	}
	if f.tensors != nil {
		out = f.tensors(out)
	}
	return out
}

func encode(t testing.TB, v any) []byte {
	b, err := json.Marshal(v)
	require.NoError(t, err)
	return b
}

// write writes the checkpoint to a new folder.
func (f *fake) write(t testing.TB) string {
	dir := t.TempDir()
	put := func(name string, data []byte) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), data, 0o666))
	}
	tensors := f.list(t)
	index := map[string]string{}
	for i := range f.shards {
		name := safetensors.SingleName
		if f.shards > 1 {
			name = fmt.Sprintf("model-%05d-of-%05d.safetensors", i+1, f.shards)
		}
		var own []fakeTensor
		for j, x := range tensors {
			if j%f.shards == i {
				own = append(own, x)
				index[x.name] = name
			}
		}
		put(name, safetensorsFile(t, own))
	}
	if f.shards > 1 {
		put(safetensors.IndexName, encode(t, map[string]any{"weight_map": index}))
	}
	put("config.json", encode(t, f.config))
	if f.sam != nil {
		put("sam2_config.json", encode(t, f.sam))
	}
	if f.extra != nil {
		put("unibiomed_config.json", encode(t, f.extra))
	}
	put("tokenizer.json", encode(t, f.tokenizer))
	for name, data := range f.files {
		put(name, []byte(data))
	}
	return dir
}

// safetensorsFile packs tensors as they come.
func safetensorsFile(t testing.TB, tensors []fakeTensor) []byte {
	header := map[string]any{"__metadata__": map[string]string{"format": "pt"}}
	var data []byte
	for _, x := range tensors {
		start := len(data)
		for _, v := range x.data {
			switch x.dtype {
			case safetensors.F32:
				data = binary.LittleEndian.AppendUint32(data, math.Float32bits(v))
			case safetensors.F16:
				data = binary.LittleEndian.AppendUint16(data, half.ToF16(v))
			case safetensors.BF16:
				data = binary.LittleEndian.AppendUint16(data, half.ToBF16(v))
			default:
				data = append(data, make([]byte, x.dtype.Size())...)
			}
		}
		header[x.name] = map[string]any{"dtype": x.dtype, "shape": x.shape, "data_offsets": []int{start, len(data)}}
	}
	h := encode(t, header)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(h))), h...), data...)
}
