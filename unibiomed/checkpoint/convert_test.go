package checkpoint

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/half"
	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// blocks stands for the native library where a test only counts types and sizes. It fills q8_0 in earnest, others with zeros.
var blocks = QuantizerFunc(func(typ string, src []float32, rows, rowLength int, dst []byte) error {
	t, ok := gguf.ParseType(typ)
	if !ok || len(src) != rows*rowLength {
		return fmt.Errorf("quantize %s: %d values for %d x %d", typ, len(src), rows, rowLength)
	}
	if n, ok := t.RowBytes(int64(rowLength)); !ok || int(n)*rows != len(dst) {
		return fmt.Errorf("quantize %s: %d bytes for %d x %d", typ, len(dst), rows, rowLength)
	}
	clear(dst)
	if t != gguf.Q8_0 {
		return nil
	}
	for b := range len(src) / 32 {
		in, out := src[32*b:32*b+32], dst[34*b:34*b+34]
		most := float32(0)
		for _, v := range in {
			most = max(most, float32(math.Abs(float64(v))))
		}
		binary.LittleEndian.PutUint16(out, half.ToF16(most/127))
		for i, v := range in {
			if most > 0 {
				out[2+i] = byte(int8(math.Round(float64(v / (most / 127)))))
			}
		}
	}
	return nil
})

func openModel(t testing.TB, dir string) (Manifest, parts) {
	m, err := Verify(context.Background(), dir, nil)
	require.NoError(t, err)
	files, err := openParts(dir, m)
	require.NoError(t, err)
	t.Cleanup(files.close)
	return m, files
}

// values reads a tensor of a model.
func values(t testing.TB, f *gguf.File, name string) []float32 {
	x, ok := f.Tensor(name)
	require.True(t, ok, name)
	raw := make([]byte, x.Bytes)
	require.NoError(t, f.Read(x, 0, raw))
	rows, length := x.Rows()
	out := make([]float32, rows*length)
	widen := floats(x.Type)
	require.NotNil(t, widen, "%s is %s", name, x.Type)
	require.NoError(t, widen(out, raw))
	return out
}

// TestGoldenCheckpoint converts the small trained checkpoint and compares every tensor with its source.
func TestGoldenCheckpoint(t *testing.T) {
	source := shared(t, "golden/tiny/checkpoint")
	dest := filepath.Join(t.TempDir(), "tiny-f32")
	summary, err := Convert(context.Background(), source, dest, Options{})
	require.NoError(t, err)
	m, files := openModel(t, dest)
	require.Equal(t, *summary.Model, m)
	require.Equal(t, TokenIDs{Seg: 1531, ImgContext: 1524, ImgStart: 1522, ImgEnd: 1523, VPStart: 1534, VPEnd: 1535, EOS: 1502}, m.Tokens)
	require.Equal(t, "tiny-f32", m.Name)
	require.Equal(t, "phi3_chat", m.Template)

	// The sums of the source are those of its files.
	var lines strings.Builder
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range m.Source.Files {
			if !yield(name) {
				return
			}
		}
	}) {
		data, err := os.ReadFile(filepath.Join(source, name))
		require.NoError(t, err)
		sum := sha256.Sum256(data)
		require.Equal(t, hex.EncodeToString(sum[:]), m.Source.Files[name], name)
		fmt.Fprintf(&lines, "%x  %s\n", sum, name)
	}
	sum := sha256.Sum256([]byte(lines.String()))
	require.Equal(t, hex.EncodeToString(sum[:]), m.Source.SHA256)
	require.Contains(t, m.Source.Files, "model.safetensors")

	tensors, err := safetensors.OpenFolder(source)
	require.NoError(t, err)
	defer tensors.Close()
	for _, x := range []struct{ part, to, from string }{
		{"language", "token_embd.weight", "language_model.model.embed_tokens.weight"},
		{"language", "blk.2.attn_v.bias", "language_model.model.layers.2.self_attn.v_proj.bias"},
		{"vision", "pos_embed", "vision_model.embeddings.position_embedding"},
		{"vision", "blocks.3.mlp.fc2.weight", "vision_model.encoder.layers.3.mlp.fc2.weight"},
		{"vision", "projector.fc2.weight", "mlp1.3.weight"},
		{"grounding", "trunk.blocks.6.proj.weight", samPrefix + "image_encoder.trunk.blocks.6.proj.weight"},
		{"grounding", "neck.3.weight", samPrefix + "image_encoder.neck.convs.3.conv.weight"},
		{"grounding", "memory_encoder.mask_downsampler.12.weight", samPrefix + "memory_encoder.mask_downsampler.encoder.12.weight"},
		{"grounding", "memory_encoder.fuser.1.dwconv.weight", samPrefix + "memory_encoder.fuser.layers.1.dwconv.weight"},
	} {
		file, s, ok := tensors.Tensor(x.from)
		require.True(t, ok)
		want := make([]float32, s.Elements())
		require.NoError(t, file.ReadFloats(s, 0, want))
		require.Equal(t, want, values(t, files[Part(x.part)], x.to), x.to)
	}

	// Row (dy*2 + dx)*out + o of the matrix is the kernel's tap (dy, dx) for output channel o.
	file, s, _ := tensors.Tensor(samPrefix + "sam_mask_decoder.output_upscaling.3.weight")
	kernel := make([]float32, s.Elements())
	require.NoError(t, file.ReadFloats(s, 0, kernel))
	matrix := values(t, files[Grounding], "decoder.upscale.3.weight")
	in, out := int(s.Shape[0]), int(s.Shape[1])
	for i := range in {
		for o := range out {
			for dy := range 2 {
				for dx := range 2 {
					require.Equal(t, kernel[((i*out+o)*2+dy)*2+dx], matrix[((dy*2+dx)*out+o)*in+i])
				}
			}
		}
	}
}

// TestPublishedLayoutIsComplete counts the tensors of the real configuration: 1541 in the published file, 17 of which nothing reads.
func TestPublishedLayoutIsComplete(t *testing.T) {
	var problems []error
	yes := true
	c := &config{
		language: languageConfig{vocab: 151679, hidden: 896, ffn: 4864, layers: 24, heads: 14, kvHeads: 2},
		vision:   visionConfig{image: 448, patch: 14, hidden: 1024, ffn: 4096, layers: 24, heads: 16, qkvBias: &yes, shuffle: 2},
		sam:      parseSAM(object{problems: &problems}), // hiera-L
	}
	require.Empty(t, problems)
	wanted, bakes := c.tensorRules()
	count, elements := map[string]int{}, map[string]int64{}
	tally := func(r rule) {
		group, _, _ := strings.Cut(r.from, ".")
		n := int64(1)
		for _, s := range r.fromShape {
			n *= s
		}
		count[group]++
		elements[group] += n
		require.LessOrEqual(t, len(r.to), 63, "a GGUF name")
		m := int64(1)
		for _, s := range r.shape {
			m *= s
		}
		if r.to != "" {
			require.Equal(t, n, m, r.to)
		}
	}
	for _, r := range wanted {
		tally(r)
	}
	for _, b := range bakes {
		for _, r := range b.from {
			tally(r)
		}
	}
	// no_mem_pos_enc, mask_downsample (2), point_embeddings (4) and mask_downscaling (10) are not read.
	const unreadTensors, unreadElements = 17, 256 + 17 + 4*256 + (16 + 4 + 4 + 4) + (256 + 16 + 16 + 16) + (4096 + 256)
	require.Equal(t, map[string]int{"vision_model": 340, "language_model": 291, "mlp1": 6, "text_hidden_fcs": 4, "grounding_encoder": 900 - unreadTensors}, count)
	require.Equal(t, map[string]int64{"vision_model": 304012288, "language_model": 629706880, "mlp1": 4482816, "text_hidden_fcs": 1033344,
		"grounding_encoder": 224430386 - unreadElements}, elements)
}

// anyFake draws sizes, depths, types, shards and ids.
var anyFake = rapid.Custom(func(t *rapid.T) *fake {
	f := newFake(rapid.Uint64().Draw(t, "seed"))
	heads := rapid.SampledFrom([]int{1, 2, 3}).Draw(t, "kv heads")
	f.llm()["num_key_value_heads"] = heads
	f.llm()["num_attention_heads"] = heads * 2
	f.llm()["hidden_size"] = heads * 2 * rapid.SampledFrom([]int{2, 8, 14}).Draw(t, "head")
	f.llm()["num_hidden_layers"] = rapid.IntRange(1, 3).Draw(t, "language layers")
	f.llm()["tie_word_embeddings"] = rapid.Bool().Draw(t, "tied")
	f.vision()["num_hidden_layers"] = rapid.IntRange(1, 3).Draw(t, "vision layers")
	f.vision()["qkv_bias"] = rapid.Bool().Draw(t, "bias")
	f.config["downsample_ratio"] = rapid.SampledFrom([]float64{1, 0.5, 0.25}).Draw(t, "ratio")
	f.sam["hiera_stages"] = rapid.SampledFrom([][]any{{1, 1, 1, 1}, {2, 1, 3, 1}}).Draw(t, "stages")
	f.sam["hiera_global_att_blocks"] = rapid.SampledFrom([][]any{{}, {0}}).Draw(t, "global")
	f.sam["d_model"] = rapid.SampledFrom([]int{16, 48}).Draw(t, "d")
	f.sam["decoder_num_heads"] = rapid.SampledFrom([]int{2, 8}).Draw(t, "decoder heads")
	f.sam["decoder_num_multimask_outputs"] = rapid.IntRange(1, 4).Draw(t, "masks")
	f.sam["num_maskmem"] = rapid.IntRange(1, 9).Draw(t, "slices")
	f.shards = rapid.IntRange(1, 3).Draw(t, "shards")
	salt := rapid.Uint64().Draw(t, "dtypes")
	f.dtype = func(name string) safetensors.DType {
		r := rand.New(rand.NewPCG(salt, uint64(len(name))))
		return []safetensors.DType{safetensors.F32, safetensors.F16, safetensors.BF16}[r.IntN(3)]
	}
	return f
})

// TestConvertsAnyCheckpoint: every one must convert, verify and keep its values.
func TestConvertsAnyCheckpoint(t *testing.T) {
	for seed := range 3 * len(Types()) {
		typ := Types()[seed%len(Types())]
		t.Run(fmt.Sprintf("%d %s", seed, typ), func(t *testing.T) {
			f := anyFake.Example(seed)
			source := f.write(t)
			dest := filepath.Join(t.TempDir(), "model")
			summary, err := Convert(context.Background(), source, dest, Options{Vision: typ, Grounding: typ, Quantizer: blocks})
			require.NoError(t, err)
			m, files := openModel(t, dest)
			require.Equal(t, *summary.Model, m)
			for text, id := range f.ids() {
				for _, field := range m.Tokens.fields() {
					if field.text == text || (field.text == "" && text == "<|im_end|>") {
						require.EqualValues(t, id, *field.id, text)
					}
				}
			}
			_, untied := files[Language].Tensor("output.weight")
			require.Equal(t, f.llm()["tie_word_embeddings"] != true, untied)
			// The language part is f32: each tensor holds its source's values.
			names := map[string]string{"embed_tokens.weight": "token_embd.weight", "layers.0.self_attn.q_proj.bias": "blk.0.attn_q.bias", "layers.0.mlp.down_proj.weight": "blk.0.ffn_down.weight"}
			for _, x := range f.list(t) {
				if to, ok := names[strings.TrimPrefix(x.name, "language_model.model.")]; ok {
					require.Equal(t, x.data, values(t, files[Language], to))
				}
			}
		})
	}
}

func TestTypesAndFallbacks(t *testing.T) {
	f := newFake(1)
	f.llm()["hidden_size"] = 256
	f.llm()["num_hidden_layers"] = 1
	source := f.write(t)
	tests := []struct {
		typ                      string
		embed, value, down, gate gguf.Type
		trunk, neck              gguf.Type // rows of 8 and of 64
		memory, memoryValue      gguf.Type // rows of 32
	}{
		{"f32", gguf.F32, gguf.F32, gguf.F32, gguf.F32, gguf.F32, gguf.F32, gguf.F32, gguf.F32},
		{"f16", gguf.F16, gguf.F16, gguf.F16, gguf.F16, gguf.F16, gguf.F16, gguf.F16, gguf.F16},
		{"bf16", gguf.BF16, gguf.BF16, gguf.BF16, gguf.BF16, gguf.BF16, gguf.BF16, gguf.BF16, gguf.BF16},
		{"q8_0", gguf.Q8_0, gguf.Q8_0, gguf.Q8_0, gguf.Q8_0, gguf.F16, gguf.Q8_0, gguf.Q8_0, gguf.Q8_0},
		{"q6_k", gguf.Q6_K, gguf.Q6_K, gguf.Q8_0, gguf.Q6_K, gguf.F16, gguf.Q8_0, gguf.Q8_0, gguf.Q8_0},
		{"q5_k_m", gguf.Q5_K, gguf.Q6_K, gguf.Q8_0, gguf.Q5_K, gguf.F16, gguf.Q5_1, gguf.Q5_1, gguf.Q8_0},
		{"q4_k_m", gguf.Q4_K, gguf.Q5_K, gguf.Q5_1, gguf.Q4_K, gguf.F16, gguf.Q5_0, gguf.Q5_0, gguf.Q5_1},
		{"q4_0", gguf.Q4_0, gguf.Q4_0, gguf.Q4_0, gguf.Q4_0, gguf.F16, gguf.Q4_0, gguf.Q4_0, gguf.Q4_0},
		{"iq4_nl", gguf.IQ4NL, gguf.IQ4NL, gguf.IQ4NL, gguf.IQ4NL, gguf.F16, gguf.IQ4NL, gguf.IQ4NL, gguf.IQ4NL},
	}
	require.Len(t, tests, len(Types()))
	for _, tt := range tests {
		t.Run(tt.typ, func(t *testing.T) {
			dest := filepath.Join(t.TempDir(), "model")
			summary, err := Convert(context.Background(), source, dest, Options{Language: tt.typ, Vision: tt.typ, Grounding: tt.typ, Quantizer: blocks})
			require.NoError(t, err)
			m, files := openModel(t, dest)
			require.Equal(t, map[string]string{"language": tt.typ, "vision": tt.typ, "grounding": tt.typ}, m.Quantization)
			for _, x := range []struct {
				part Part
				name string
				want gguf.Type
			}{
				{Language, "token_embd.weight", tt.embed}, {Language, "blk.0.attn_v.weight", tt.value}, {Language, "blk.0.ffn_down.weight", tt.down},
				{Language, "blk.0.ffn_gate.weight", tt.gate}, {Language, "output.weight", tt.value},
				{Grounding, "trunk.blocks.0.attn.qkv.weight", tt.trunk}, {Grounding, "neck.0.weight", tt.neck},
				{Grounding, "memory_attention.layers.0.linear1.weight", tt.memory}, {Grounding, "memory_attention.layers.0.self_attn.v_proj.weight", tt.memoryValue},
				{Language, "blk.0.attn_norm.weight", gguf.F32}, {Language, "blk.0.attn_q.bias", gguf.F32}, {Vision, "patch_embed.weight", gguf.F32},
				{Vision, "pos_embed", gguf.F32}, {Grounding, "trunk.patch_embed.weight", gguf.F32}, {Grounding, "decoder.layers.0.mlp.0.weight", gguf.F32},
				{Grounding, "text_hidden_fcs.0.weight", gguf.F32}, {Grounding, "obj_ptr_proj.0.weight", gguf.F32}, {Grounding, "memory_encoder.pix_feat_proj.weight", gguf.F32},
				{Grounding, "decoder.dense_pe", gguf.F32}, {Grounding, "memory_encoder.fuser.0.pwconv1.weight", gguf.F32},
			} {
				got, ok := files[x.part].Tensor(x.name)
				require.True(t, ok, x.name)
				require.Equal(t, x.want, got.Type, x.name)
			}
			for _, p := range summary.Parts {
				total := 0
				for _, n := range p.Tensors {
					total += n
				}
				require.Equal(t, len(files[p.Part].Tensors), total)
				require.Equal(t, files[p.Part].Size, p.Bytes)
				for _, fb := range p.Fallbacks {
					got, _ := files[p.Part].Tensor(fb.Tensor)
					require.Equal(t, fb.Used, got.Type.String())
					require.NotEqual(t, fb.Used, fb.Wanted)
				}
			}
			require.Equal(t, tt.trunk == gguf.F16 && tt.typ != "f16", len(summary.Parts[2].Fallbacks) > 0)
		})
	}
}

func TestQuantize(t *testing.T) {
	f := newFake(2)
	dir := t.TempDir()
	from := func(typ string) string { return filepath.Join(dir, typ) }
	ctx := context.Background()
	source := f.write(t)
	for _, typ := range []string{"f32", "q8_0", "q4_0"} {
		_, err := Convert(ctx, source, from(typ), Options{Language: typ, Vision: typ, Grounding: typ, Quantizer: blocks})
		require.NoError(t, err)
	}
	sameFile := func(a, b string, part Part) bool {
		x, err := os.ReadFile(filepath.Join(a, part.File()))
		require.NoError(t, err)
		y, err := os.ReadFile(filepath.Join(b, part.File()))
		require.NoError(t, err)
		return string(x) == string(y)
	}

	// From f32 it makes what Convert makes.
	summary, err := Quantize(ctx, from("f32"), from("again"), Options{Name: "q8_0", Language: "q8_0", Vision: "q8_0", Grounding: "q8_0", Quantizer: blocks})
	require.NoError(t, err)
	require.Equal(t, "q8_0", summary.Model.Name)
	openModel(t, from("again"))
	for _, p := range Parts() {
		require.True(t, sameFile(from("q8_0"), from("again"), p), p)
	}

	// A part that is not named stays as it is.
	_, err = Quantize(ctx, from("f32"), from("mixed"), Options{Language: "bf16"})
	require.NoError(t, err)
	m, _ := openModel(t, from("mixed"))
	require.Equal(t, map[string]string{"language": "bf16", "vision": "f32", "grounding": "f32"}, m.Quantization)
	require.True(t, sameFile(from("f32"), from("mixed"), Vision))

	// From q8_0 it is possible, from fewer bits it is not, but such parts can be copied.
	_, err = Quantize(ctx, from("q8_0"), from("half"), Options{Language: "f16", Quantizer: blocks})
	require.NoError(t, err)
	_, files := openModel(t, from("half"))
	_, q8 := openModel(t, from("q8_0"))
	require.InDeltaSlice(t, values(t, q8[Language], "token_embd.weight"), values(t, files[Language], "token_embd.weight"), 2e-3)
	_, err = Quantize(ctx, from("q4_0"), from("no"), Options{Language: "q8_0", Quantizer: blocks})
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
	require.NoDirExists(t, from("no"))
	_, err = Quantize(ctx, from("q4_0"), from("copy"), Options{Name: "q4_0", Quantizer: blocks})
	require.NoError(t, err)
	for _, p := range Parts() {
		require.True(t, sameFile(from("q4_0"), from("copy"), p), p)
	}

	// A source whose bytes are not those of its sum is refused.
	path := filepath.Join(from("f32"), GroundingFile)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	data[len(data)-100] ^= 1
	require.NoError(t, os.WriteFile(path, data, 0o666))
	_, err = Quantize(ctx, from("f32"), from("flipped"), Options{Language: "f16"})
	require.ErrorContains(t, err, "grounding.gguf: sha256")
	require.NoDirExists(t, from("flipped"))
}

func TestTensorsOfTheirOwnType(t *testing.T) {
	f := newFake(3)
	dir := t.TempDir()
	to := func(name string) string { return filepath.Join(dir, name) }
	ctx := context.Background()
	types := func(model string, want map[string]gguf.Type) {
		t.Helper()
		_, files := openModel(t, to(model))
		for name, typ := range want {
			part := map[string]Part{"blk": Language, "tra": Grounding, "nec": Grounding}[name[:3]]
			got, ok := files[part].Tensor(name)
			require.True(t, ok, name)
			require.Equal(t, typ, got.Type, name)
		}
	}
	source := f.write(t)
	_, err := Convert(ctx, source, to("mixed"), Options{Language: "q8_0", Vision: "q8_0", Grounding: "q8_0", Quantizer: blocks, Tensors: []TensorType{
		{"blk.*.attn_*.weight", "f16"}, {"blk.*.attn_v.weight", "bf16"}, {"neck.*", "f32"},
	}})
	require.NoError(t, err)
	mixed := map[string]gguf.Type{
		"blk.0.attn_q.weight": gguf.F16, "blk.0.attn_v.weight": gguf.BF16, "blk.0.ffn_up.weight": gguf.Q8_0, "neck.0.weight": gguf.F32,
		"blk.0.attn_norm.weight": gguf.F32, // matched by the first pattern, and no matrix
	}
	types("mixed", mixed)

	// Quantize keeps what no pattern names, in parts that keep their type.
	_, err = Quantize(ctx, to("mixed"), to("again"), Options{Quantizer: blocks, Tensors: []TensorType{{"blk.0.ffn_up.weight", "f16"}}})
	require.NoError(t, err)
	mixed["blk.0.ffn_up.weight"] = gguf.F16
	types("again", mixed)

	for _, bad := range []struct {
		tensor TensorType
		want   string
	}{
		{TensorType{"blk.*.attn_w.weight", "f16"}, `"blk.*.attn_w.weight": no matrix has such a name`},
		{TensorType{"blk.0.attn_norm.weight", "f16"}, "no matrix has such a name"},
		{TensorType{"blk.*", "q4_k_m"}, `got "q4_k_m", want one of f32 f16 bf16 q8_0 q6_k q4_0 iq4_nl`},
		{TensorType{"blk.*", "q3"}, `got "q3"`},
		{TensorType{"blk.[", "f16"}, "syntax error in pattern"},
	} {
		_, err := Convert(ctx, source, to("bad"), Options{Quantizer: blocks, Tensors: []TensorType{bad.tensor}})
		require.ErrorContains(t, err, bad.want)
		require.NoDirExists(t, to("bad"))
	}
	_, err = Convert(ctx, source, to("bad"), Options{Tensors: []TensorType{{"blk.*", "q8_0"}}})
	require.ErrorContains(t, err, "q8_0 needs a Quantizer")
}

// A few input channels far above the rest leave those of their blocks no digits: such a matrix is stored as f16.
func TestMatricesThatQ8WouldHurtAreKept(t *testing.T) {
	const name, hurt, flat = "blocks.0.attn.qkv.weight", "vision_model.encoder.layers.0.attn.qkv.weight", "vision_model.encoder.layers.1.attn.qkv.weight"
	f := newFake(3)
	f.tensors = func(all []fakeTensor) []fakeTensor {
		for _, x := range all {
			if x.name == hurt {
				for i := 0; i < len(x.data); i += int(x.shape[1]) {
					x.data[i+3] *= 100
				}
			}
			if x.name == flat { // rows apart by as much do no harm: a block lies within a row
				for i := range x.data[:x.shape[1]] {
					x.data[i] *= 100
				}
			}
		}
		return all
	}
	dir := t.TempDir()
	to := func(name string) string { return filepath.Join(dir, name) }
	ctx := context.Background()
	source := f.write(t)
	_, err := Convert(ctx, source, to("f32"), Options{})
	require.NoError(t, err)
	for _, tt := range []struct {
		name  string
		o     Options
		kept  bool
		limit float64
	}{
		{"default", Options{}, true, DefaultMaxError},
		{"no bound", Options{MaxError: -1}, false, 0},
		{"high bound", Options{MaxError: 2}, false, 0},
		{"named", Options{Tensors: []TensorType{{name, "q8_0"}}}, false, 0},
		{"other type", Options{Vision: "q4_0"}, false, 0},
	} {
		tt.o.Vision, tt.o.Quantizer = cmp.Or(tt.o.Vision, "q8_0"), blocks
		made := map[string]func(dest string) (*Summary, error){
			"convert":  func(dest string) (*Summary, error) { return Convert(ctx, source, dest, tt.o) },
			"quantize": func(dest string) (*Summary, error) { return Quantize(ctx, to("f32"), dest, tt.o) },
		}
		for verb, run := range made {
			t.Run(verb+" "+tt.name, func(t *testing.T) {
				dest := filepath.Join(t.TempDir(), "model")
				s, err := run(dest)
				require.NoError(t, err)
				_, files := openModel(t, dest)
				got, _ := files[Vision].Tensor(name)
				want := map[bool]gguf.Type{true: gguf.F16, false: gguf.Q8_0}[tt.kept]
				if tt.o.Vision == "q4_0" {
					want = gguf.Q4_0
				}
				require.Equal(t, want, got.Type)
				for _, p := range s.Parts {
					if p.Part != Vision || !tt.kept {
						require.Empty(t, p.Kept)
						continue
					}
					require.Len(t, p.Kept, 1)
					require.Equal(t, name, p.Kept[0].Tensor)
					require.Greater(t, p.Kept[0].Error, 5*tt.limit)
				}
			})
		}
	}
}

func TestTokenizerArrays(t *testing.T) {
	f := newFake(3)
	dest := filepath.Join(t.TempDir(), "model")
	_, err := Convert(context.Background(), f.write(t), dest, Options{})
	require.NoError(t, err)
	_, files := openModel(t, dest)
	l := files[Language]
	require.Equal(t, "gpt2", l.Value("tokenizer.ggml.model"))
	require.Equal(t, false, l.Value("tokenizer.ggml.add_bos_token"))
	require.Equal(t, []string{"a b", "c d", "ab cd", "Ġ a"}, l.Value("tokenizer.ggml.merges"))
	ids := f.ids()
	require.EqualValues(t, ids["<|im_end|>"], l.Value("tokenizer.ggml.eos_token_id"))
	require.EqualValues(t, ids["<|endoftext|>"], l.Value("tokenizer.ggml.padding_token_id"))
	tokens, kinds := l.Value("tokenizer.ggml.tokens").([]string), l.Value("tokenizer.ggml.token_type").([]int32)
	require.Len(t, kinds, len(tokens))
	for i, text := range tokens {
		want := int32(tokenNormal)
		if _, ok := ids[text]; ok {
			want = tokenControl
		}
		if text == "<tool_call>" {
			want = tokenUserDefined
		}
		require.Equal(t, want, kinds[i], text)
	}

	// Newer tokenizer files write a merge as a pair.
	pairs := newFake(3)
	pairs.tokenizer["model"].(map[string]any)["merges"] = []any{[]any{"a", "b"}, []any{"c", "d"}, []any{"ab", "cd"}, []any{"Ġ", "a"}}
	again := filepath.Join(t.TempDir(), "model")
	_, err = Convert(context.Background(), pairs.write(t), again, Options{})
	require.NoError(t, err)
	_, files = openModel(t, again)
	require.Equal(t, l.Value("tokenizer.ggml.merges"), files[Language].Value("tokenizer.ggml.merges"))
}

// TestRealTokenizer reads the tokenizer of the published model.
func TestRealTokenizer(t *testing.T) {
	tok, err := readTokenizer(shared(t, "golden/tokenizer/qwen2.5-unibiomed"), map[string][]byte{})
	require.NoError(t, err)
	require.NoError(t, tok.checkSize(151679))
	require.Equal(t, TokenIDs{Seg: 151674, ImgContext: 151667, ImgStart: 151665, ImgEnd: 151666, VPStart: 151677, VPEnd: 151678, EOS: 151645}, tok.tokens)
	require.Equal(t, 151643, tok.pad)
	require.Len(t, tok.merges, 151387)
	_, kinds := tok.arrays()
	require.Equal(t, int32(tokenControl), kinds[151674])
	require.Equal(t, int32(tokenUserDefined), kinds[151657], "<tool_call>")
	require.Error(t, tok.checkSize(151680))
}

// TestBadCheckpoints lists what must be refused before anything is written.
func TestBadCheckpoints(t *testing.T) {
	added := func(f *fake, i int) map[string]any { return f.tokenizer["added_tokens"].([]any)[i].(map[string]any) }
	model := func(f *fake) map[string]any { return f.tokenizer["model"].(map[string]any) }
	vocab := func(f *fake) map[string]any { return model(f)["vocab"].(map[string]any) }
	drop := func(name string) func([]fakeTensor) []fakeTensor {
		return func(l []fakeTensor) []fakeTensor {
			return slices.DeleteFunc(l, func(x fakeTensor) bool { return strings.HasSuffix(x.name, name) })
		}
	}
	edit := func(name string, change func(*fakeTensor)) func([]fakeTensor) []fakeTensor {
		return func(l []fakeTensor) []fakeTensor {
			for i := range l {
				if strings.HasSuffix(l[i].name, name) {
					change(&l[i])
				}
			}
			return l
		}
	}
	ids := func(f *fake, change map[string]int) string {
		m := f.ids()
		for text, id := range change {
			if m[text] = id; id < 0 {
				delete(m, text)
			}
		}
		b, _ := json.Marshal(m)
		return string(b)
	}
	tests := []struct {
		name        string
		change      func(f *fake)
		want        []string
		unsupported bool
	}{
		{name: "vocab_size lies", change: func(f *fake) {
			f.tensors = edit("embed_tokens.weight", func(x *fakeTensor) { x.shape, x.data = []int64{3, 64}, x.data[:192] })
		}, want: []string{"model.safetensors", "embed_tokens.weight: got shape [3 64], want [272 64]"}},
		{name: "a token too many", change: func(f *fake) { vocab(f)["bd"] = 272 }, want: []string{"tokenizer.json", "number of tokens: got 273, want 272"}},
		{name: "a token beyond the rows", change: func(f *fake) { added(f, 0)["id"] = 900 }, want: []string{"id 900, want less than 272"}},
		{name: "missing tensor", change: func(f *fake) { f.tensors = drop("layers.1.mlp.up_proj.weight") }, want: []string{"language_model.model.layers.1.mlp.up_proj.weight: got nothing"}},
		{name: "two problems at once", change: func(f *fake) {
			f.tensors = func(l []fakeTensor) []fakeTensor { return drop("no_mem_embed")(drop("mlp1.3.bias")(l)) }
		}, want: []string{"2 problems", "mlp1.3.bias", "no_mem_embed"}},
		{name: "wrong shape", change: func(f *fake) {
			f.tensors = edit("mlp1.1.weight", func(x *fakeTensor) { slices.Reverse(x.shape) })
		}, want: []string{"mlp1.1.weight: got shape [128 64], want [64 128]"}},
		{name: "a layer more than the configuration says", change: func(f *fake) {
			f.tensors = func(l []fakeTensor) []fakeTensor {
				return append(l, fakeTensor{"language_model.model.layers.2.mlp.up_proj.weight", []int64{1}, safetensors.F32, []float32{1}})
			}
		}, want: []string{"layers.2.mlp.up_proj.weight", "no such tensor"}},
		{name: "integers for weights", change: func(f *fake) {
			f.tensors = edit("mlp1.3.bias", func(x *fakeTensor) { x.dtype = "I32" })
		}, want: []string{"mlp1.3.bias: got I32, want F32, F16 or BF16"}, unsupported: true},
		{name: "qkv_bias against the tensors", change: func(f *fake) { f.tensors = drop("attn.qkv.bias") }, want: []string{"attn.qkv.bias: got nothing"}},
		{name: "id of a wrong kind", change: func(f *fake) { added(f, 2)["id"] = "7" }, want: []string{`added_tokens[2]: got "7" (a string), want a whole number`}},
		{name: "no [SEG]", change: func(f *fake) {
			for i := range addedTexts {
				if added(f, i)["content"] == "[SEG]" {
					added(f, i)["content"] = "[GES]"
				}
			}
		}, want: []string{`token "[SEG]": got nothing`}},
		{name: "two tokens with one id", change: func(f *fake) { added(f, 0)["id"] = added(f, 1)["id"] }, want: []string{"want an id of its own"}},
		{name: "two entries with one id", change: func(f *fake) { vocab(f)["ab"] = vocab(f)["cd"] }, want: []string{`for "ab" and "cd"`}},
		{name: "merge of an unknown entry", change: func(f *fake) { model(f)["merges"] = []any{"a x"} }, want: []string{`model.merges[0]: got "ax"`}},
		{name: "merge of one part", change: func(f *fake) { model(f)["merges"] = []any{"ab"} }, want: []string{`model.merges[0]: got "ab"`}},
		{name: "merge of three", change: func(f *fake) { model(f)["merges"] = []any{[]any{"a", "b", "c"}} }, want: []string{"model.merges[0]: got a longer array, want a string, or an array of 2"}},
		{name: "merge of numbers", change: func(f *fake) { model(f)["merges"] = []any{[]any{1, 2}} }, want: []string{"model.merges[0]"}},
		{name: "another tokenizer model", change: func(f *fake) { model(f)["type"] = "Unigram" }, want: []string{`model.type: got "Unigram"`}, unsupported: true},
		{name: "another pre-tokenizer", change: func(f *fake) { f.tokenizer["pre_tokenizer"] = map[string]any{"type": "ByteLevel"} }, want: []string{"pre_tokenizer"}, unsupported: true},
		{name: "no vocabulary", change: func(f *fake) { model(f)["vocab"] = nil }, want: []string{"model.vocab: got null, want an object"}},
		{name: "tokenizer is a list", change: func(f *fake) { f.files["tokenizer.json"] = "[]" }, want: []string{"got an array, want an object"}},
		{name: "tokenizer cut", change: func(f *fake) { f.files["tokenizer.json"] = `{"model":{"vocab":{"a"` }, want: []string{"unexpected EOF"}},
		{name: "an entry twice", change: func(f *fake) { f.files["tokenizer.json"] = `{"model":{"vocab":{"a":1,"a":2}}}` }, want: []string{`name "a" stands twice`}},
		{name: "added_tokens.json has another id", change: func(f *fake) { f.files["added_tokens.json"] = ids(f, map[string]int{"[SEG]": 3}) },
			want: []string{`added_tokens.json: "[SEG]": got id 3`}},
		{name: "added_tokens.json lacks one", change: func(f *fake) { f.files["added_tokens.json"] = ids(f, map[string]int{"[SEG]": -1}) },
			want: []string{`added_tokens.json: "[SEG]": got no entry`}},
		{name: "vocab.json disagrees", change: func(f *fake) { f.files["vocab.json"] = `{"a":1}` }, want: []string{`vocab.json`, "problems"}},
		{name: "merges.txt in another order", change: func(f *fake) { f.files["merges.txt"] = "#version: 0.2\nc d\na b\nab cd\nĠ a\n" }, want: []string{`merges.txt: merge 0: got "c d", want "a b"`}},
		{name: "merges.txt is shorter", change: func(f *fake) { f.files["merges.txt"] = "#version: 0.2\na b\n" }, want: []string{"merges.txt: merges: got 1, want 4"}},
		{name: "eos is no token", change: func(f *fake) { f.files["tokenizer_config.json"] = `{"eos_token":"<end>"}` }, want: []string{`tokenizer_config.json: eos_token: got "<end>"`}},
		{name: "two files name two eos", change: func(f *fake) {
			f.files["tokenizer_config.json"] = `{"eos_token":"<|im_end|>"}`
			f.files["special_tokens_map.json"] = `{"eos_token":{"content":"<|endoftext|>"}}`
		}, want: []string{`special_tokens_map.json: eos_token: got "<|endoftext|>", want "<|im_end|>"`}},
		{name: "config is no JSON", change: func(f *fake) { f.files["config.json"] = "{" }, want: []string{"config.json: json: got unexpected EOF"}},
		{name: "config without llm_config", change: func(f *fake) { f.files["config.json"] = `{"vision_config":{}}` }, want: []string{"llm_config: got null", "vision_config.image_size"}},
		{name: "hidden_size is a text", change: func(f *fake) { f.files["config.json"] = replace(f, `"hidden_size":64`, `"hidden_size":"64"`) },
			want: []string{`config.json: llm_config.hidden_size: got "64" (a string), want a whole number from 1 to`}},
		{name: "hidden_size is negative", change: func(f *fake) { f.files["config.json"] = replace(f, `"hidden_size":64`, `"hidden_size":-64`) }, want: []string{"llm_config.hidden_size: got -64"}},
		{name: "hidden_size is huge", change: func(f *fake) { f.files["config.json"] = replace(f, `"hidden_size":64`, `"hidden_size":1e30`) }, want: []string{"llm_config.hidden_size: got 1e30"}},
		{name: "image_size is null", change: func(f *fake) { f.files["config.json"] = replace(f, `"image_size":56`, `"image_size":null`) }, want: []string{"vision_config.image_size"}},
		{name: "another language model", change: func(f *fake) { f.files["config.json"] = replace(f, "Qwen2ForCausalLM", "Phi3ForCausalLM") }, want: []string{"architectures[0]"}, unsupported: true},
		{name: "another activation", change: func(f *fake) { f.files["config.json"] = replace(f, `"silu"`, `"gelu"`) }, want: []string{"hidden_act"}, unsupported: true},
		{name: "rope scaling", change: func(f *fake) {
			f.files["config.json"] = replace(f, `"rope_scaling":null`, `"rope_scaling":{"type":"yarn","factor":4}`)
		}, want: []string{"llm_config.rope_scaling.rope_type"}, unsupported: true},
		{name: "LoRA not merged", change: func(f *fake) { f.files["config.json"] = replace(f, `"use_llm_lora":0`, `"use_llm_lora":128`) }, want: []string{"use_llm_lora: got 128"}, unsupported: true},
		{name: "no template", change: func(f *fake) { f.files["config.json"] = replace(f, `"template":"phi3-chat"`, `"template":null`) }, want: []string{"template"}},
		{name: "heads do not divide", change: func(f *fake) {
			f.files["config.json"] = replace(f, `"num_key_value_heads":2`, `"num_key_value_heads":3`)
		}, want: []string{"num_key_value_heads: got 3"}},
		{name: "a block that pools is global", change: func(f *fake) { f.files["sam2_config.json"] = `{"hiera_global_att_blocks":[2]}` }, want: []string{"hiera_global_att_blocks: got 2"}},
		{name: "SAM 2 stages", change: func(f *fake) { f.files["sam2_config.json"] = `{"hiera_stages":[1,2]}` }, want: []string{"hiera_stages: got an array of 2, want 4 whole numbers"}},
		{name: "a window that does not divide", change: func(f *fake) { f.files["sam2_config.json"] = `{"hiera_window_spec":[8,4,10,8]}` }, want: []string{"hiera_window_spec: got 10"}, unsupported: true},
		{name: "SAM 2 image size", change: func(f *fake) { f.files["sam2_config.json"] = `{"image_size":1000}` }, want: []string{"image_size: got 1000, want a multiple of 32"}},
		{name: "tiles", change: func(f *fake) { f.files["unibiomed_config.json"] = `{"min_tiles":9,"max_tiles":3}` }, want: []string{"min_tiles: got 9, want at most max_tiles 3"}},
		{name: "thumbnail is a number", change: func(f *fake) { f.files["unibiomed_config.json"] = `{"thumbnail":1}` }, want: []string{"thumbnail: got 1, want true or false"}},
		{name: "weights cut", change: func(f *fake) {
			data := safetensorsFile(t, f.list(t))
			f.files["model.safetensors"] = string(data[:len(data)-1])
		}, want: []string{"model.safetensors", "data_offsets"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(4)
			tt.change(f)
			dest := filepath.Join(t.TempDir(), "model")
			_, err := Convert(context.Background(), f.write(t), dest, Options{})
			require.Error(t, err)
			for _, want := range tt.want {
				require.ErrorContains(t, err, want)
			}
			var format *FormatError
			var unsupported *UnsupportedError
			require.Equal(t, tt.unsupported, errors.As(err, &unsupported), "%v", err)
			require.Equal(t, !tt.unsupported, errors.As(err, &format), "%v", err)
			requireEmpty(t, filepath.Dir(dest))
		})
	}
}

func replace(f *fake, old, new string) string {
	b, _ := json.Marshal(f.config)
	if !strings.Contains(string(b), old) {
		panic(old)
	}
	return strings.ReplaceAll(string(b), old, new)
}

func requireEmpty(t *testing.T, dir string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	require.Empty(t, entries, "nothing is left")
}

// TestBadValues covers what only the weights show: found while writing, and nothing is left.
func TestBadValues(t *testing.T) {
	tests := []struct {
		name, tensor string
		value        float32
		typ          string
		want         string
	}{
		{"NaN in a matrix", "mlp.up_proj.weight", float32(math.NaN()), "f32", "layers.0.mlp.up_proj.weight: got NaN at element 5, want finite values"},
		{"infinity in a bias", "mlp1.3.bias", float32(math.Inf(-1)), "f32", "mlp1.3.bias: got -Inf at element 5"},
		{"NaN in a transposed convolution", "output_upscaling.0.weight", float32(math.NaN()), "f32", "got NaN"},
		{"NaN in a table to bake", "pos_embed_window", float32(math.NaN()), "f32", "pos_embed_window: got NaN at element 5"},
		{"too large for f16", "mlp.up_proj.weight", 70000, "f16", "70000 at element 5, want values of at most 65504 for f16"},
		{"too large for a scale", "mlp.up_proj.weight", 1e9, "q8_0", "65504 for q8_0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(5)
			f.tensors = func(l []fakeTensor) []fakeTensor {
				for i := range l {
					if strings.HasSuffix(l[i].name, tt.tensor) {
						l[i].data[5] = tt.value
					}
				}
				return l
			}
			dest := filepath.Join(t.TempDir(), "model")
			_, err := Convert(context.Background(), f.write(t), dest, Options{Language: tt.typ, Quantizer: blocks})
			require.ErrorContains(t, err, tt.want)
			requireEmpty(t, filepath.Dir(dest))
		})
	}
}

func TestDestinations(t *testing.T) {
	f := newFake(6)
	source := f.write(t)
	ctx := context.Background()
	parent := t.TempDir()
	dest := filepath.Join(parent, "deep", "model")
	_, err := Convert(ctx, source, dest, Options{})
	require.NoError(t, err, "parents are made")
	_, err = Convert(ctx, source, dest, Options{})
	require.ErrorIs(t, err, fs.ErrExist)
	var exists *ExistsError
	require.ErrorAs(t, err, &exists)
	_, err = Convert(ctx, source, dest, Options{Overwrite: true, Language: "f16"})
	require.NoError(t, err)
	m, _ := openModel(t, dest)
	require.Equal(t, "f16", m.Quantization["language"])

	notes := filepath.Join(dest, "notes.txt")
	require.NoError(t, os.WriteFile(notes, nil, 0o666))
	_, err = Convert(ctx, source, dest, Options{Overwrite: true})
	require.ErrorContains(t, err, `"notes.txt", which is no file of a model`)
	require.FileExists(t, notes)

	empty := t.TempDir()
	_, err = Convert(ctx, source, empty, Options{})
	require.NoError(t, err, "an empty folder will do")

	file := filepath.Join(parent, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o666))
	_, err = Convert(ctx, source, file, Options{})
	require.Error(t, err)
	_, err = Convert(ctx, source, filepath.Join(file, "model"), Options{})
	require.Error(t, err)

	entries, err := os.ReadDir(filepath.Dir(dest))
	require.NoError(t, err)
	require.Len(t, entries, 1, "no staging folder stays")

	_, err = Convert(ctx, filepath.Join(parent, "absent"), filepath.Join(parent, "new"), Options{})
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = Convert(ctx, source, filepath.Join(parent, "new"), Options{Vision: "q3_k"})
	require.ErrorContains(t, err, `type of vision: got "q3_k"`)
	_, err = Convert(ctx, source, filepath.Join(parent, "new"), Options{Vision: "q8_0"})
	require.ErrorContains(t, err, "needs a Quantizer")
}

func TestCancel(t *testing.T) {
	source := newFake(7).write(t)
	dest := filepath.Join(t.TempDir(), "model")
	ctx, cancel := context.WithCancel(context.Background())
	calls, last := 0, int64(0)
	_, err := Convert(ctx, source, dest, Options{Progress: func(done, total int64, name string) {
		require.GreaterOrEqual(t, done, last)
		require.LessOrEqual(t, done, total)
		if last, calls = done, calls+1; calls == 50 {
			cancel()
		}
	}})
	require.ErrorIs(t, err, context.Canceled)
	require.Equal(t, 50, calls, "it stops at once")
	requireEmpty(t, filepath.Dir(dest))
}

// TestQuantizerFailure: an error of the native library comes through, and nothing is left.
func TestQuantizerFailure(t *testing.T) {
	source := newFake(8).write(t)
	dest := filepath.Join(t.TempDir(), "model")
	broken := errors.New("no such device")
	_, err := Convert(context.Background(), source, dest, Options{Language: "q8_0", Quantizer: QuantizerFunc(func(string, []float32, int, int, []byte) error { return broken })})
	require.ErrorIs(t, err, broken)
	requireEmpty(t, filepath.Dir(dest))
}
