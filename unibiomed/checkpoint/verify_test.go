package checkpoint

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed/gguf"
)

// convert makes an f32 model of a fake.
func convert(t testing.TB, f *fake) string {
	dir := filepath.Join(t.TempDir(), "model")
	_, err := Convert(context.Background(), f.write(t), dir, Options{})
	require.NoError(t, err)
	return dir
}

func copyFile(t testing.TB, from, to string) {
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o666))
}

func editFile(t testing.TB, path string, change func([]byte) []byte) {
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, change(data), 0o666))
}

// editManifest changes model.json as a map.
func editManifest(t testing.TB, dir string, change func(m map[string]any)) {
	editFile(t, filepath.Join(dir, ManifestFile), func(data []byte) []byte {
		m := map[string]any{}
		require.NoError(t, json.Unmarshal(data, &m))
		change(m)
		return encode(t, m)
	})
}

// reseal writes the sizes and sums that the files have now into model.json, so that only their content is at fault.
func reseal(t testing.TB, dir string) {
	files := map[string]any{}
	for _, p := range Parts() {
		path := filepath.Join(dir, p.File())
		st, err := os.Stat(path)
		require.NoError(t, err)
		sum, err := sumFile(context.Background(), path, func(int64) {})
		require.NoError(t, err)
		files[p.File()] = map[string]any{"sha256": sum, "size": st.Size()}
	}
	editManifest(t, dir, func(m map[string]any) { m["files"] = files })
}

// rewrite writes a part again with other keys or tensors.
func rewrite(t testing.TB, dir string, part Part, kv func([]gguf.KV) []gguf.KV, tensors func([]gguf.Tensor) []gguf.Tensor) {
	path := filepath.Join(dir, part.File())
	f, err := gguf.Open(path)
	require.NoError(t, err)
	var b bytes.Buffer
	list := f.Tensors
	if tensors != nil {
		list = tensors(append([]gguf.Tensor{}, list...))
	}
	w, err := gguf.NewWriter(&b, kv(append([]gguf.KV{}, f.KV...)), list)
	require.NoError(t, err)
	for _, x := range list {
		bytes, ok := x.Type.RowBytes(x.Shape[len(x.Shape)-1])
		require.True(t, ok)
		rows, _ := x.Rows()
		require.NoError(t, w.Write(x.Name, make([]byte, bytes*rows)))
	}
	require.NoError(t, w.Close())
	require.NoError(t, f.Close())
	require.NoError(t, os.WriteFile(path, b.Bytes(), 0o666))
	reseal(t, dir)
}

func setKey(key string, value any) func([]gguf.KV) []gguf.KV {
	return func(kv []gguf.KV) []gguf.KV {
		for i := range kv {
			if kv[i].Key == key {
				kv[i].Value = value
				if value == nil {
					return append(kv[:i], kv[i+1:]...)
				}
				return kv
			}
		}
		panic(key)
	}
}

func same(kv []gguf.KV) []gguf.KV { return kv }

func TestVerify(t *testing.T) {
	base := convert(t, newFake(20))
	wider := newFake(21)
	wider.llm()["hidden_size"] = 32
	other := convert(t, wider)
	sibling := convert(t, newFake(20)) // the same sizes and ids
	editFile(t, filepath.Join(sibling, VisionFile), func(b []byte) []byte { b[len(b)-200] ^= 1; return b })

	tests := []struct {
		name        string
		change      func(t *testing.T, dir string)
		want        string
		unsupported bool
		onlySum     bool // CheckFiles, which reads no weights, can't see it
	}{
		{name: "a bit of a weight", change: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(sibling, VisionFile), filepath.Join(dir, VisionFile))
		},
			want: "vision.gguf: sha256: got", onlySum: true},
		{name: "a file cut", change: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, GroundingFile), func(b []byte) []byte { return b[:len(b)-32] })
		}, want: "grounding.gguf: "},
		{name: "a file grown", change: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, GroundingFile), func(b []byte) []byte { return append(b, 0) })
		}, want: "grounding.gguf: size: got"},
		{name: "a file of another model", change: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(other, VisionFile), filepath.Join(dir, VisionFile))
			reseal(t, dir)
		}, want: "vision.gguf: vision.projection_length: got 32, want 64, qwen2.embedding_length of language.gguf"},
		{name: "the tokenizer of another model", change: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(convert(t, newFake(22)), LanguageFile), filepath.Join(dir, LanguageFile))
			reseal(t, dir)
		}, want: "model.json: tokens."},
		{name: "parts swapped", change: func(t *testing.T, dir string) {
			copyFile(t, filepath.Join(base, VisionFile), filepath.Join(dir, GroundingFile))
			reseal(t, dir)
		}, want: `grounding.gguf: general.architecture: got "unibiomed-vision", want "unibiomed-grounding"`},
		{name: "no GGUF", change: func(t *testing.T, dir string) {
			editFile(t, filepath.Join(dir, VisionFile), func(b []byte) []byte { copy(b, "SAFE"); return b })
		}, want: `vision.gguf: magic: got "SAFE"`},
		{name: "a key is missing", change: func(t *testing.T, dir string) { rewrite(t, dir, Vision, setKey("vision.patch_size", nil), nil) },
			want: "vision.gguf: vision.patch_size: got nothing, want a u32"},
		{name: "a key of a wrong type", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Vision, setKey("vision.patch_size", "14"), nil)
		}, want: "vision.patch_size: got a value of type string"},
		{name: "a key of zero", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Grounding, setKey("sam2.embedding_length", uint32(0)), nil)
		},
			want: "sam2.embedding_length: got 0"},
		{name: "a huge key", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Grounding, setKey("sam2.decoder.block_count", uint32(1<<31)), nil)
		}, want: "sam2.decoder.block_count: got 2147483648"},
		{name: "stages of three", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Grounding, setKey("sam2.trunk.stages", []uint32{1, 2, 3}), nil)
		},
			want: "sam2.trunk.stages: got 3 values, want 4"},
		{name: "a newer format", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Grounding, setKey("unibiomed.format_version", uint32(2)), nil)
		}, want: "unibiomed.format_version: got 2", unsupported: true},
		{name: "keys and tensors disagree", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Vision, setKey("vision.feed_forward_length", uint32(65)), nil)
		}, want: "tensor blocks.0.mlp.fc1.weight: got shape [64 32], want [65 32]"},
		{name: "a tensor is missing", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Vision, same, func(l []gguf.Tensor) []gguf.Tensor { return l[1:] })
		}, want: "got nothing, want shape"},
		{name: "a tensor too many", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Vision, same, func(l []gguf.Tensor) []gguf.Tensor {
				return append(l, gguf.Tensor{Name: "extra", Shape: []int64{1}})
			})
		}, want: `tensor "extra": got shape [1], want no such tensor`},
		{name: "a norm in f16", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Vision, same, func(l []gguf.Tensor) []gguf.Tensor {
				for i := range l {
					if l[i].Name == "projector.norm.weight" {
						l[i].Type = gguf.F16
					}
				}
				return l
			})
		}, want: "tensor projector.norm.weight: got f16, want f32"},
		{name: "eos moved", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Language, setKey("tokenizer.ggml.eos_token_id", uint32(1)), nil)
		}, want: "tokenizer.ggml.eos_token_id of language.gguf"},
		{name: "kinds cut", change: func(t *testing.T, dir string) {
			rewrite(t, dir, Language, setKey("tokenizer.ggml.token_type", []int32{1}), nil)
		}, want: "tokenizer.ggml.token_type: got 1 values"},
		{name: "id beyond the vocabulary", change: func(t *testing.T, dir string) {
			editManifest(t, dir, func(m map[string]any) { m["tokens"].(map[string]any)["seg"] = 5000 })
		}, want: "model.json: tokens.seg: got 5000, want less than 272"},
		{name: "wrong sum in model.json", change: func(t *testing.T, dir string) {
			editManifest(t, dir, func(m map[string]any) {
				m["files"].(map[string]any)[VisionFile].(map[string]any)["sha256"] = strings.Repeat("0", 64)
			})
		}, want: "vision.gguf: sha256: got", onlySum: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, name := range []string{ManifestFile, LanguageFile, VisionFile, GroundingFile} {
				copyFile(t, filepath.Join(base, name), filepath.Join(dir, name))
			}
			_, err := Verify(context.Background(), dir, nil)
			require.NoError(t, err)
			tt.change(t, dir)
			_, err = Verify(context.Background(), dir, nil)
			require.ErrorContains(t, err, tt.want)
			var format *FormatError
			var unsupported *UnsupportedError
			require.Equal(t, tt.unsupported, errors.As(err, &unsupported), "%v", err)
			require.Equal(t, !tt.unsupported, errors.As(err, &format), "%v", err)

			m, err := ReadModel(dir)
			require.NoError(t, err)
			require.Equal(t, tt.onlySum, CheckFiles(dir, m) == nil)
		})
	}

	require.NoError(t, os.Remove(filepath.Join(base, VisionFile)))
	_, err := Verify(context.Background(), base, nil)
	require.ErrorIs(t, err, fs.ErrNotExist)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_, err = Verify(ctx, other, nil)
	require.ErrorIs(t, err, context.Canceled)
}

// sound is a small document that ReadModel takes.
const sound = `{"schema":"unibiomed.model/1","name":"m","description":"","licence":"","intended_use":"",
"source":{"name":"s","sha256":"","files":{}},"quantization":{"language":"q8_0","vision":"f16","grounding":"f32"},
"tokens":{"seg":7,"img_context":1,"img_start":2,"img_end":3,"vp_start":4,"vp_end":5,"eos":6},"template":"phi3_chat",
"files":{"language.gguf":{"sha256":"SUM","size":1},"vision.gguf":{"sha256":"SUM","size":2},"grounding.gguf":{"sha256":"SUM","size":3}}}`

func soundModel() string { return strings.ReplaceAll(sound, "SUM", strings.Repeat("0a", 32)) }

var badModels = []struct {
	name, old, new string
	want           string
	unsupported    bool
}{
	{name: "cut", old: `"files":{`, new: `"files":`, want: "json: got invalid character"},
	{name: "a list", old: soundModel(), new: "[]", want: "got an array of 0, want an object"},
	{name: "empty", old: soundModel(), new: "", want: "unexpected EOF"},
	{name: "no schema", old: `"schema"`, new: `"scheme"`, want: `schema: got null, want "unibiomed.model/1"`},
	{name: "another schema", old: "unibiomed.model/1", new: "unibiomed.result/1", want: `schema: got "unibiomed.result/1"`},
	{name: "a newer schema", old: "unibiomed.model/1", new: "unibiomed.model/2", want: `schema: got "unibiomed.model/2"`, unsupported: true},
	{name: "an unknown field", old: `"name":"m"`, new: `"name":"m","weights":1`, want: `unknown field "weights"`},
	{name: "a field twice", old: `"name":"m"`, new: `"name":"m","name":"n"`, want: `name "name" stands twice`},
	{name: "name is a number", old: `"name":"m"`, new: `"name":1`, want: "name: got a number, want a string"},
	{name: "no name", old: `"name":"m"`, new: `"name":""`, want: "name: got"},
	{name: "an id is a text", old: `"seg":7`, new: `"seg":"7"`, want: "tokens.seg: got a string"},
	{name: "an id is negative", old: `"seg":7`, new: `"seg":-7`, want: "tokens.seg: got -7"},
	{name: "an id is missing", old: `"seg":7,`, new: ``, want: "tokens.seg: got nothing"},
	{name: "an id is null", old: `"seg":7`, new: `"seg":null`, want: "tokens.seg: got nothing"},
	{name: "two equal ids", old: `"seg":7`, new: `"seg":1`, want: "want an id of its own, that one is seg's"},
	{name: "a file is missing", old: `"vision.gguf"`, new: `"lesion.gguf"`, want: "files.vision.gguf: got nothing"},
	{name: "a file elsewhere", old: `"files":{"l`, new: `"files":{"../x":{"sha256":"","size":1},"l`, want: "files: got 4 files"},
	{name: "a short sum", old: strings.Repeat("0a", 32), new: "0a", want: "64 hexadecimal digits"},
	{name: "a size of zero", old: `"size":2`, new: `"size":0`, want: "files.vision.gguf.size: got 0"},
	{name: "an unknown type", old: `"q8_0"`, new: `"q2_k"`, want: `quantization.language: got "q2_k"`},
	{name: "a template with a path", old: "phi3_chat", new: "../phi3", want: "template: got"},
}

func TestReadModel(t *testing.T) {
	dir := t.TempDir()
	put := func(text string) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, ManifestFile), []byte(text), 0o666))
	}
	put(soundModel())
	m, err := ReadModel(dir)
	require.NoError(t, err)
	require.Equal(t, int32(7), m.Tokens.Seg)
	var b bytes.Buffer
	require.NoError(t, m.write(&b))
	put(b.String())
	again, err := ReadModel(dir)
	require.NoError(t, err)
	require.Equal(t, m, again)
	for _, tt := range badModels {
		t.Run(tt.name, func(t *testing.T) {
			put(strings.ReplaceAll(soundModel(), tt.old, tt.new))
			_, err := ReadModel(dir)
			require.ErrorContains(t, err, tt.want)
			require.ErrorContains(t, err, ManifestFile)
			var format *FormatError
			var unsupported *UnsupportedError
			require.Equal(t, tt.unsupported, errors.As(err, &unsupported), "%v", err)
			require.Equal(t, !tt.unsupported, errors.As(err, &format), "%v", err)
		})
	}
	_, err = ReadModel(filepath.Join(dir, "absent"))
	require.ErrorIs(t, err, fs.ErrNotExist)
	put(soundModel() + strings.Repeat(" ", maxConfig))
	_, err = ReadModel(dir)
	var unsupported *UnsupportedError
	require.ErrorAs(t, err, &unsupported)
}

func FuzzModel(f *testing.F) {
	f.Add([]byte(soundModel()))
	for _, b := range badModels {
		f.Add([]byte(strings.ReplaceAll(soundModel(), b.old, b.new)))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := parseModel("model.json", data); err == nil {
			var b bytes.Buffer
			require.NoError(t, m.write(&b))
			_, err = parseModel("model.json", b.Bytes())
			require.NoError(t, err)
		}
	})
}

func FuzzConfig(f *testing.F) {
	x := newFake(30)
	f.Add(encode(f, x.config), encode(f, x.sam), []byte(`{"min_tiles":1,"max_tiles":6,"thumbnail":false,"prompted_slices":3,"name":"n"}`))
	f.Add([]byte(`{"llm_config":{"hidden_size":1e9,"num_attention_heads":0},"vision_config":[]}`), []byte(`{"hiera_stages":[1,1,1,1e3],"d_model":8}`), []byte(`{}`))
	f.Add([]byte(`{"a":{"a":{"a":null}}}`), []byte(`{"image_size":null,"hiera_q_stride":[2,2]}`), []byte(`{"max_tiles":0}`))
	f.Fuzz(func(t *testing.T, main, sam, extra []byte) {
		var problems []error
		var objects []object
		for _, data := range [][]byte{main, sam, extra} {
			o, err := parseObject("config.json", data, &problems)
			if err != nil {
				return
			}
			objects = append(objects, o)
		}
		c := parseConfig(objects[0], objects[1], objects[2])
		if len(problems) > 0 || c.language.layers > 64 || c.vision.layers > 64 || c.sam.stages[0]+c.sam.stages[1]+c.sam.stages[2]+c.sam.stages[3] > 64 ||
			c.sam.decLayers+c.sam.memLayers+c.sam.fuserLayers > 64 {
			return
		}
		c.vision.qkvBias = new(bool)
		rules, bakes := c.tensorRules() // a configuration that passes has shapes
		require.NotEmpty(t, bakes)
		for _, r := range rules {
			for _, n := range r.shape {
				require.Positive(t, n, r.to)
			}
		}
	})
}

func FuzzTokenizer(f *testing.F) {
	x := newFake(31)
	f.Add(encode(f, x.tokenizer), []byte(`{"[SEG]":260}`), "#version: 0.2\na b\n")
	f.Add([]byte(`{"added_tokens":[{"id":1,"content":"a","special":true}],"model":{"type":"BPE","vocab":{"a":0,"b":1,"ab":2},"merges":["a b"]},`+
		`"pre_tokenizer":{"type":"Split","pattern":{"Regex":"x"}}}`), []byte(`{`), "")
	f.Add([]byte(`{"model":{"vocab":{"":0}}}`), []byte(`{"a":"b"}`), "a")
	f.Add([]byte(`{"model":{"merges":[["a"],["a","b"],"a b c"," "]}}`), []byte(`[]`), "\r\n")
	f.Fuzz(func(t *testing.T, data, added []byte, merges string) {
		tok, err := parseTokenizer("tokenizer.json", data)
		if err != nil {
			return
		}
		content := map[string][]byte{"added_tokens.json": added, "vocab.json": added, "merges.txt": []byte(merges), "tokenizer_config.json": added}
		if tok.crossCheck("", content) == nil && tok.checkSize(len(tok.ids)) == nil {
			texts, kinds := tok.arrays()
			require.Len(t, kinds, len(texts))
		}
	})
}
