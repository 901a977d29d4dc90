package checkpoint

import (
	"fmt"
	"regexp"
	"slices"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/safetensors"
)

// A Part is one of the three files of a model.
type Part string

// The parts of a model. The file of a part is its name with ".gguf".
const (
	Language  Part = "language"
	Vision    Part = "vision"
	Grounding Part = "grounding"
)

// Parts lists the parts in the order of the pipeline's files.
func Parts() []Part { return []Part{Language, Vision, Grounding} }

// File returns the name of the part's file.
func (p Part) File() string { return string(p) + ".gguf" }

// A rule says where a tensor of a model comes from. Shapes are slowest axis first.
type rule struct {
	part      Part
	from      string
	fromShape []int64
	to        string
	shape     []int64 // the same elements in the same order, unless deconv
	deconv    bool    // transposed convolution: [in, out, 2, 2] -> [(dy, dx, out), in]
}

// A bake is a tensor computed from others of the checkpoint.
type bake struct {
	part  Part
	to    string
	shape []int64
	from  []rule                                                            // the inputs, by from and fromShape
	rows  func(inputs [][]float32, each func(values []float32) error) error // calls each with consecutive pieces
}

const samPrefix = "grounding_encoder.sam2_model."

// unread matches tensors of the published layout that no computation reads.
var unread = regexp.MustCompile(`^grounding_encoder\.sam2_model\.(no_mem_pos_enc$|mask_downsample\.|sam_prompt_encoder\.(point_embeddings|mask_downscaling)\.)|\.rotary_emb\.inv_freq$`)

type rules struct {
	list     []rule
	part     Part
	from, to string // prefixes of the names
}

func (r *rules) add(from, to string, fromShape []int64, shape ...int64) {
	r.list = append(r.list, rule{part: r.part, from: r.from + from, fromShape: fromShape, to: r.to + to, shape: shape})
}

// same adds a tensor that keeps its shape; linear a matrix with its bias; norm a scale with its bias.
func (r *rules) same(from, to string, shape ...int64) { r.add(from, to, shape, shape...) }

func (r *rules) linear(from, to string, out, in int) {
	r.same(from+".weight", to+".weight", int64(out), int64(in))
	r.same(from+".bias", to+".bias", int64(out))
}

func (r *rules) norm(from, to string, n int) {
	r.same(from+".weight", to+".weight", int64(n))
	r.same(from+".bias", to+".bias", int64(n))
}

// conv1 adds a 1x1 convolution as a matrix.
func (r *rules) conv1(from, to string, out, in int) {
	r.add(from+".weight", to+".weight", shape(out, in, 1, 1), shape(out, in)...)
	r.same(from+".bias", to+".bias", int64(out))
}

// patches adds a patch embedding of 3 channels as a matrix.
func (r *rules) patches(from, to string, out, side int) {
	r.add(from+".weight", to+".weight", shape(out, 3, side, side), shape(out, 3*side*side)...)
	r.same(from+".bias", to+".bias", int64(out))
}

func (r *rules) deconv(from, to string, in, out int) {
	r.add(from+".weight", to+".weight", shape(in, out, 2, 2), shape(4*out, in)...)
	r.list[len(r.list)-1].deconv = true
	r.same(from+".bias", to+".bias", int64(out))
}

// mlp adds a stack of linear layers.
func (r *rules) mlp(from, to string, widths ...int) {
	for i := range len(widths) - 1 {
		r.linear(fmt.Sprintf("%s.layers.%d", from, i), fmt.Sprintf("%s.%d", to, i), widths[i+1], widths[i])
	}
}

func shape(n ...int) []int64 {
	s := make([]int64, len(n))
	for i := range n {
		s[i] = int64(n[i])
	}
	return s
}

// tensorRules lists every tensor that the configuration calls for, and the baked ones.
func (c *config) tensorRules() ([]rule, []bake) {
	list := c.language.rules()
	list = append(list, c.vision.rules(c.language.hidden)...)
	sam, bakes := c.sam.rules(c.language.hidden)
	return append(list, sam...), bakes
}

func (l languageConfig) rules() []rule {
	r := rules{part: Language, from: "language_model.model."}
	r.same("embed_tokens.weight", "token_embd.weight", int64(l.vocab), int64(l.hidden))
	kv := l.hidden / l.heads * l.kvHeads
	for i := range l.layers {
		r.from, r.to = fmt.Sprintf("language_model.model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		r.same("input_layernorm.weight", "attn_norm.weight", int64(l.hidden))
		r.linear("self_attn.q_proj", "attn_q", l.hidden, l.hidden)
		r.linear("self_attn.k_proj", "attn_k", kv, l.hidden)
		r.linear("self_attn.v_proj", "attn_v", kv, l.hidden)
		r.same("self_attn.o_proj.weight", "attn_output.weight", int64(l.hidden), int64(l.hidden))
		r.same("post_attention_layernorm.weight", "ffn_norm.weight", int64(l.hidden))
		r.same("mlp.gate_proj.weight", "ffn_gate.weight", int64(l.ffn), int64(l.hidden))
		r.same("mlp.up_proj.weight", "ffn_up.weight", int64(l.ffn), int64(l.hidden))
		r.same("mlp.down_proj.weight", "ffn_down.weight", int64(l.hidden), int64(l.ffn))
	}
	r.from, r.to = "language_model.", ""
	r.same("model.norm.weight", "output_norm.weight", int64(l.hidden))
	if !l.tied {
		r.same("lm_head.weight", "output.weight", int64(l.vocab), int64(l.hidden))
	}
	return r.list
}

func (v visionConfig) rules(languageHidden int) []rule {
	c := v.hidden
	n := v.image / v.patch * (v.image / v.patch)
	r := rules{part: Vision, from: "vision_model.embeddings."}
	r.add("class_embedding", "class_embed", shape(1, 1, c), int64(c))
	r.add("position_embedding", "pos_embed", shape(1, 1+n, c), shape(1+n, c)...)
	r.patches("patch_embedding", "patch_embed", c, v.patch)
	for i := range v.layers {
		r.from, r.to = fmt.Sprintf("vision_model.encoder.layers.%d.", i), fmt.Sprintf("blocks.%d.", i)
		r.norm("norm1", "norm1", c)
		r.norm("norm2", "norm2", c)
		r.same("attn.qkv.weight", "attn.qkv.weight", int64(3*c), int64(c))
		if *v.qkvBias {
			r.same("attn.qkv.bias", "attn.qkv.bias", int64(3*c))
		}
		r.linear("attn.proj", "attn.proj", c, c)
		r.linear("mlp.fc1", "mlp.fc1", v.ffn, c)
		r.linear("mlp.fc2", "mlp.fc2", c, v.ffn)
		r.same("ls1", "ls1", int64(c))
		r.same("ls2", "ls2", int64(c))
	}
	r.from, r.to = "mlp1.", "projector."
	wide := c * v.shuffle * v.shuffle
	r.norm("0", "norm", wide)
	r.linear("1", "fc1", languageHidden, wide)
	r.linear("3", "fc2", languageHidden, languageHidden)
	return r.list
}

func (s samConfig) rules(languageHidden int) ([]rule, []bake) {
	d := s.d
	r := rules{part: Grounding}
	r.linear("text_hidden_fcs.0", "text_hidden_fcs.0", languageHidden, languageHidden)
	r.linear("text_hidden_fcs.2", "text_hidden_fcs.2", d, languageHidden)

	r.from, r.to = samPrefix+"image_encoder.trunk.", "trunk."
	r.patches("patch_embed.proj", "patch_embed", s.embed, 7)
	in, block := s.embed, 0
	widths := make([]int, len(s.stages))
	for stage, n := range s.stages {
		out := in
		if stage > 0 {
			out = in * s.dimMul
		}
		widths[stage] = out
		for range n {
			r.from, r.to = fmt.Sprintf("%simage_encoder.trunk.blocks.%d.", samPrefix, block), fmt.Sprintf("trunk.blocks.%d.", block)
			r.norm("norm1", "norm1", in)
			r.linear("attn.qkv", "attn.qkv", 3*out, in)
			r.linear("attn.proj", "attn.proj", out, out)
			r.norm("norm2", "norm2", out)
			r.mlp("mlp", "mlp", out, s.mlp*out, out)
			if in != out {
				r.linear("proj", "proj", out, in)
			}
			in = out
			block++
		}
	}
	r.from, r.to = samPrefix, ""
	for i := range widths {
		r.conv1(fmt.Sprintf("image_encoder.neck.convs.%d.conv", i), fmt.Sprintf("neck.%d", i), d, widths[len(widths)-1-i])
	}
	r.row("sam_prompt_encoder.not_a_point_embed.weight", "prompt.not_a_point", d)
	r.row("sam_prompt_encoder.no_mask_embed.weight", "prompt.no_mask", d)
	s.decoderRules(&r)
	s.memoryRules(&r)
	return r.list, s.bakes()
}

// row adds a table of one row as a vector.
func (r *rules) row(from, to string, n int) { r.add(from, to, shape(1, n), int64(n)) }

func (s samConfig) decoderRules(r *rules) {
	d := s.d
	r.from, r.to = samPrefix+"sam_mask_decoder.", "decoder."
	r.row("iou_token.weight", "iou_token", d)
	r.row("obj_score_token.weight", "obj_score_token", d)
	r.same("mask_tokens.weight", "mask_tokens", int64(s.masks), int64(d))
	attention := func(from, to string, inner int) {
		for _, p := range []string{"q_proj", "k_proj", "v_proj"} {
			r.linear(from+"."+p, to+"."+p, inner, d)
		}
		r.linear(from+".out_proj", to+".out_proj", d, inner)
	}
	for i := range s.decLayers {
		from, to := fmt.Sprintf("transformer.layers.%d.", i), fmt.Sprintf("layers.%d.", i)
		attention(from+"self_attn", to+"self_attn", d)
		attention(from+"cross_attn_token_to_image", to+"cross_attn_token_to_image", d/s.decDown)
		attention(from+"cross_attn_image_to_token", to+"cross_attn_image_to_token", d/s.decDown)
		r.mlp(from+"mlp", to+"mlp", d, s.decFFN, d)
		for n := 1; n <= 4; n++ {
			r.norm(fmt.Sprintf("%snorm%d", from, n), fmt.Sprintf("%snorm%d", to, n), d)
		}
	}
	attention("transformer.final_attn_token_to_image", "final_attn_token_to_image", d/s.decDown)
	r.norm("transformer.norm_final_attn", "norm_final_attn", d)
	r.deconv("output_upscaling.0", "upscale.0", d, d/4)
	r.norm("output_upscaling.1", "upscale.1", d/4)
	r.deconv("output_upscaling.3", "upscale.3", d/4, d/8)
	r.conv1("conv_s0", "conv_s0", d/8, d)
	r.conv1("conv_s1", "conv_s1", d/4, d)
	for i := range s.masks {
		r.mlp(fmt.Sprintf("output_hypernetworks_mlps.%d", i), fmt.Sprintf("hyper.%d", i), d, d, d, d/8)
	}
	r.mlp("iou_prediction_head", "iou_head", d, s.iouHidden, s.iouHidden, s.masks)
	r.mlp("pred_obj_score_head", "obj_score_head", d, d, d, 1)
}

func (s samConfig) memoryRules(r *rules) {
	d, m := s.d, s.mem
	r.from, r.to = samPrefix, ""
	r.add("no_mem_embed", "no_mem_embed", shape(1, 1, d), int64(d))
	r.row("no_obj_ptr", "no_obj_ptr", d)
	r.add("maskmem_tpos_enc", "maskmem_tpos_enc", shape(s.slices, 1, 1, m), shape(s.slices, m)...)
	r.mlp("obj_ptr_proj", "obj_ptr_proj", d, d, d, d)
	for i := range s.memLayers {
		name := fmt.Sprintf("memory_attention.layers.%d.", i)
		for _, a := range []struct {
			name string
			kv   int
		}{{"self_attn.", d}, {"cross_attn_image.", m}} {
			r.linear(name+a.name+"q_proj", name+a.name+"q_proj", d, d)
			r.linear(name+a.name+"k_proj", name+a.name+"k_proj", d, a.kv)
			r.linear(name+a.name+"v_proj", name+a.name+"v_proj", d, a.kv)
			r.linear(name+a.name+"out_proj", name+a.name+"out_proj", d, d)
		}
		r.linear(name+"linear1", name+"linear1", s.memFFN, d)
		r.linear(name+"linear2", name+"linear2", d, s.memFFN)
		for n := 1; n <= 3; n++ {
			r.norm(fmt.Sprintf("%snorm%d", name, n), fmt.Sprintf("%snorm%d", name, n), d)
		}
	}
	r.norm("memory_attention.norm", "memory_attention.norm", d)

	r.from, r.to = samPrefix+"memory_encoder.", "memory_encoder."
	// Each convolution halves the mask and has four times the channels, until it has the size of the features.
	channels, index := 1, 0
	for side := s.stride; side > 1; side /= 2 {
		name := fmt.Sprintf("mask_downsampler.encoder.%d", index)
		to := fmt.Sprintf("mask_downsampler.%d", index)
		r.same(name+".weight", to+".weight", shape(4*channels, channels, 3, 3)...)
		r.same(name+".bias", to+".bias", int64(4*channels))
		channels *= 4
		r.norm(fmt.Sprintf("mask_downsampler.encoder.%d", index+1), fmt.Sprintf("mask_downsampler.%d", index+1), channels)
		index += 3
	}
	r.conv1(fmt.Sprintf("mask_downsampler.encoder.%d", index), fmt.Sprintf("mask_downsampler.%d", index), d, channels)
	r.conv1("pix_feat_proj", "pix_feat_proj", d, d)
	for i := range s.fuserLayers {
		from, to := fmt.Sprintf("fuser.layers.%d.", i), fmt.Sprintf("fuser.%d.", i)
		r.same(from+"dwconv.weight", to+"dwconv.weight", shape(d, 1, 7, 7)...)
		r.same(from+"dwconv.bias", to+"dwconv.bias", int64(d))
		r.norm(from+"norm", to+"norm", d)
		r.linear(from+"pwconv1", to+"pwconv1", 4*d, d)
		r.linear(from+"pwconv2", to+"pwconv2", d, 4*d)
		r.same(from+"g_weight", to+"g_weight", int64(d))
	}
	r.conv1("out_proj", "out_proj", s.mem, d)
}

// checkTensors compares the tensors of a checkpoint with what its configuration calls for.
func checkTensors(tensors *safetensors.Folder, wanted []rule, bakes []bake, tied bool) error {
	var problems []error
	known := map[string]bool{}
	check := func(r rule) {
		known[r.from] = true
		file, t, ok := tensors.Tensor(r.from)
		switch {
		case !ok:
			problems = append(problems, fileerr.Format(tensors.Files[0].Name, "tensor "+r.from, "nothing", fmt.Sprintf("shape %v, as the configuration says", r.fromShape)))
		case !slices.Equal(t.Shape, r.fromShape):
			problems = append(problems, fileerr.Format(file.Name, "tensor "+r.from, fmt.Sprintf("shape %v", t.Shape), fmt.Sprintf("%v, as the configuration says", r.fromShape)))
		case t.DType != safetensors.F32 && t.DType != safetensors.F16 && t.DType != safetensors.BF16:
			problems = append(problems, fileerr.Unsupported(file.Name, "tensor "+r.from, t.DType, "F32, F16 or BF16"))
		}
	}
	for _, r := range wanted {
		check(r)
	}
	for _, b := range bakes {
		for _, r := range b.from {
			check(r)
		}
	}
	for _, file := range tensors.Files {
		for _, t := range file.Tensors {
			if known[t.Name] || unread.MatchString(t.Name) || (tied && t.Name == "language_model.lm_head.weight") {
				continue
			}
			problems = append(problems, fileerr.Format(file.Name, "tensor "+fileerr.Quote(t.Name), fmt.Sprintf("shape %v", t.Shape), "no such tensor, as the configuration says"))
		}
	}
	return list(problems)
}
