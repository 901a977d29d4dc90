package checkpoint

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
)

// A config is what the configuration files of a checkpoint say.
type config struct {
	language languageConfig
	vision   visionConfig
	sam      samConfig
	template string
	extra    extraConfig
}

// languageConfig is the Qwen2 part of config.json.
type languageConfig struct {
	vocab, hidden, ffn, layers, heads, kvHeads, context int
	rmsEps, ropeTheta                                   float64
	tied                                                bool
}

// visionConfig is the InternViT part of config.json, with the pixel shuffle.
type visionConfig struct {
	image, patch, hidden, ffn, layers, heads int
	eps                                      float64
	qkvBias                                  *bool // nil: as the tensors say
	shuffle, shuffleVersion                  int
}

// samConfig is sam2_config.json; absent fields are those of hiera-L.
type samConfig struct {
	image, stride                        int
	embed, heads                         int
	stages, windows, global, background  []int
	qPool, qStride, dimMul, headMul, mlp int
	topDown                              []int
	d                                    int
	decLayers, decHeads, decFFN, decDown int
	masks, iouHidden                     int
	mem, memLayers, memHeads, memFFN     int
	ropeTheta                            float64
	fuserLayers, slices, objectPointers  int
	maskScale, maskBias                  float64
}

// extraConfig is unibiomed_config.json: what the reference hard-codes.
type extraConfig struct {
	name, description, licence, intendedUse string
	minTiles, maxTiles                      int
	thumbnail                               bool
	promptedSlices                          int
}

// Bounds of sizes, far above any known model; they keep products of a few sizes within an int.
const (
	maxWidth  = 1 << 20
	maxLayers = 1 << 12
	maxImage  = 1 << 13
)

// readConfig reads config.json, sam2_config.json and unibiomed_config.json of a checkpoint folder. The error lists every
// problem found. files gets the content of each file read, by name.
func readConfig(dir string, files map[string][]byte) (*config, error) {
	var problems []error
	read := func(name string, must bool) (object, error) {
		path := filepath.Join(dir, name)
		data, err := readLimited(path, maxConfig)
		if errors.Is(err, fs.ErrNotExist) && !must {
			return object{file: path, problems: &problems}, nil
		}
		if err != nil {
			return object{}, err
		}
		files[name] = data
		return parseObject(path, data, &problems)
	}
	main, err := read("config.json", true)
	if err != nil {
		return nil, err
	}
	sam, err := read("sam2_config.json", false)
	if err != nil {
		return nil, err
	}
	extra, err := read("unibiomed_config.json", false)
	if err != nil {
		return nil, err
	}
	c := parseConfig(main, sam, extra)
	return c, list(problems)
}

func parseConfig(main, sam, extra object) *config {
	c := &config{
		language: parseLanguage(main),
		vision:   parseVision(main),
		sam:      parseSAM(sam),
		extra:    parseExtra(extra),
		// The reference writes template names with either stroke.
		template: strings.ReplaceAll(main.string("template", ""), "-", "_"),
	}
	if c.template == "" {
		main.bad("template", main.fields["template"], `the name of a prompt template, such as "phi3_chat"`)
	}
	if v := main.int("select_layer", -1, -maxLayers, maxLayers); v != -1 {
		main.unsupported("select_layer", main.fields["select_layer"], "-1, the last layer")
	}
	for _, name := range []string{"use_llm_lora", "use_backbone_lora"} {
		if main.int(name, 0, 0, maxWidth) != 0 {
			main.unsupported(name, main.fields[name], "0: LoRA weights merged")
		}
	}
	return c
}

func parseLanguage(main object) languageConfig {
	if !main.has("llm_config") {
		main.bad("llm_config", main.fields["llm_config"], "an object")
		return languageConfig{}
	}
	o := main.object("llm_config")
	before := len(*main.problems)
	l := languageConfig{
		vocab:   o.int("vocab_size", required, 1, 1<<24),
		hidden:  o.int("hidden_size", required, 1, maxWidth),
		ffn:     o.int("intermediate_size", required, 1, maxWidth),
		layers:  o.int("num_hidden_layers", required, 1, maxLayers),
		heads:   o.int("num_attention_heads", required, 1, maxWidth),
		context: o.int("max_position_embeddings", 32768, 1, 1<<30),
		rmsEps:  o.float("rms_norm_eps", 1e-6, 1e-30, 1),
		tied:    o.bool("tie_word_embeddings", main.bool("tie_word_embeddings", false)),
	}
	l.kvHeads = o.int("num_key_value_heads", l.heads, 1, maxWidth)
	// Newer versions of the library keep the base among rope_parameters.
	l.ropeTheta = o.float("rope_theta", o.object("rope_parameters").float("rope_theta", 10000, 1, 1e12), 1, 1e12)
	for _, name := range []string{"rope_scaling", "rope_parameters"} {
		r := o.object(name)
		if kind := r.string("rope_type", r.string("type", "default")); kind != "default" {
			r.unsupported("rope_type", kind, `"default"`)
		}
	}
	if a, ok := o.fields["architectures"].([]any); ok && len(a) > 0 && a[0] != "Qwen2ForCausalLM" {
		o.unsupported("architectures[0]", a[0], `"Qwen2ForCausalLM"`)
	} else if o.has("architectures") && !ok {
		o.bad("architectures", o.fields["architectures"], "an array")
	} else if !o.has("architectures") {
		if kind := o.string("model_type", "qwen2"); kind != "qwen2" {
			o.unsupported("model_type", kind, `"qwen2"`)
		}
	}
	if act := o.string("hidden_act", "silu"); act != "silu" {
		o.unsupported("hidden_act", act, `"silu"`)
	}
	if o.bool("use_sliding_window", false) {
		o.unsupported("use_sliding_window", true, "false")
	}
	if len(*main.problems) == before {
		if l.hidden%l.heads != 0 {
			o.bad("num_attention_heads", o.fields["num_attention_heads"], fmt.Sprintf("a divisor of hidden_size %d", l.hidden))
		} else if l.hidden/l.heads%2 != 0 {
			o.unsupported("num_attention_heads", o.fields["num_attention_heads"], "heads of an even size, for rotary positions")
		}
		if l.heads%l.kvHeads != 0 {
			o.bad("num_key_value_heads", o.fields["num_key_value_heads"], fmt.Sprintf("a divisor of num_attention_heads %d", l.heads))
		}
	}
	return l
}

func parseVision(main object) visionConfig {
	if !main.has("vision_config") {
		main.bad("vision_config", main.fields["vision_config"], "an object")
		return visionConfig{}
	}
	o := main.object("vision_config")
	before := len(*main.problems)
	v := visionConfig{
		image:  o.int("image_size", required, 1, maxImage),
		patch:  o.int("patch_size", required, 1, 1024),
		hidden: o.int("hidden_size", required, 1, maxWidth),
		ffn:    o.int("intermediate_size", required, 1, maxWidth),
		layers: o.int("num_hidden_layers", required, 1, maxLayers),
		heads:  o.int("num_attention_heads", required, 1, maxWidth),
		eps:    o.float("layer_norm_eps", 1e-6, 1e-30, 1),
	}
	if o.has("qkv_bias") {
		bias := o.bool("qkv_bias", true)
		v.qkvBias = &bias
	}
	if act := o.string("hidden_act", "gelu"); act != "gelu" {
		o.unsupported("hidden_act", act, `"gelu"`)
	}
	if norm := o.string("norm_type", "layer_norm"); norm != "layer_norm" {
		o.unsupported("norm_type", norm, `"layer_norm"`)
	}
	if o.bool("qk_normalization", false) {
		o.unsupported("qk_normalization", true, "false")
	}
	if o.int("num_channels", 3, 1, maxWidth) != 3 {
		o.unsupported("num_channels", o.fields["num_channels"], "3")
	}
	ratio := main.float("downsample_ratio", 0.5, 1.0/64, 1)
	if v.shuffle = int(1/ratio + 0.5); 1/float64(v.shuffle) != ratio {
		main.unsupported("downsample_ratio", main.fields["downsample_ratio"], "1/n for a whole n")
	}
	switch version := main.string("ps_version", "v1"); version {
	case "v1":
		v.shuffleVersion = 1
	case "v2":
		v.shuffleVersion = 2
	default:
		main.unsupported("ps_version", version, `"v1" or "v2"`)
	}
	if len(*main.problems) > before {
		return v
	}
	if v.hidden%v.heads != 0 {
		o.bad("num_attention_heads", o.fields["num_attention_heads"], fmt.Sprintf("a divisor of hidden_size %d", v.hidden))
	}
	if v.image%v.patch != 0 {
		o.bad("patch_size", o.fields["patch_size"], fmt.Sprintf("a divisor of image_size %d", v.image))
	} else if v.image/v.patch%v.shuffle != 0 {
		main.bad("downsample_ratio", main.fields["downsample_ratio"], fmt.Sprintf("1/n with n a divisor of the %d patches of a row", v.image/v.patch))
	}
	if forced := main.int("force_image_size", v.image, 1, maxImage); forced != v.image {
		main.unsupported("force_image_size", main.fields["force_image_size"], fmt.Sprintf("vision_config.image_size %d", v.image))
	}
	return v
}

func parseSAM(o object) samConfig {
	before := len(*o.problems)
	s := samConfig{
		image:          o.int("image_size", 1024, 32, maxImage),
		stride:         o.int("backbone_stride", 16, 1, 1024),
		embed:          o.int("hiera_embed_dim", 144, 1, 1<<14),
		heads:          o.int("hiera_num_heads", 2, 1, 1<<14),
		stages:         o.ints("hiera_stages", []int{2, 6, 36, 4}, 4, 1, maxLayers),
		windows:        o.ints("hiera_window_spec", []int{8, 4, 16, 8}, 4, 1, maxImage),
		global:         o.ints("hiera_global_att_blocks", []int{23, 33, 43}, -1, 0, 4*maxLayers),
		background:     o.ints("hiera_window_pos_embed_bkg_spatial_size", []int{7, 7}, 2, 1, maxImage),
		qPool:          o.int("hiera_q_pool", 3, 0, 16),
		qStride:        o.stride("hiera_q_stride", 2),
		dimMul:         o.int("hiera_dim_mul", 2, 1, 16),
		headMul:        o.int("hiera_head_mul", 2, 1, 16),
		mlp:            o.int("hiera_mlp_ratio", 4, 1, 64),
		topDown:        o.ints("fpn_top_down_levels", []int{2, 3}, -1, 0, 3),
		d:              o.int("d_model", 256, 8, 1<<13),
		decLayers:      o.int("decoder_depth", 2, 1, maxLayers),
		decHeads:       o.int("decoder_num_heads", 8, 1, 1<<14),
		decFFN:         o.int("decoder_mlp_dim", 2048, 1, maxWidth),
		decDown:        o.int("decoder_attention_downsample_rate", 2, 1, 64),
		masks:          o.int("decoder_num_multimask_outputs", 3, 1, 64) + 1,
		iouHidden:      o.int("decoder_iou_head_hidden_dim", 256, 1, maxWidth),
		mem:            o.int("memory_dim", 64, 4, 1<<16),
		memLayers:      o.int("memory_attention_num_layers", 4, 1, maxLayers),
		memHeads:       o.int("memory_attention_num_heads", 1, 1, 1<<14),
		memFFN:         o.int("memory_attention_mlp_dim", 2048, 1, maxWidth),
		ropeTheta:      o.float("memory_attention_rope_theta", 10000, 1, 1e12),
		fuserLayers:    o.int("memory_encoder_fuser_layers", 2, 1, maxLayers),
		slices:         o.int("num_maskmem", 7, 1, 1024),
		objectPointers: o.int("max_obj_ptrs_in_encoder", 16, 1, 1024),
		maskScale:      o.float("sigmoid_scale_for_mem_enc", 20, -1e6, 1e6),
		maskBias:       o.float("sigmoid_bias_for_mem_enc", -10, -1e6, 1e6),
	}
	if o.int("scalp", 1, 0, 16) != 1 {
		o.unsupported("scalp", o.fields["scalp"], "1")
	}
	if len(*o.problems) == before {
		s.check(o)
	}
	return s
}

// stride reads a stride that may be written once or for both axes.
func (o object) stride(name string, fallback int) int {
	a, ok := o.fields[name].([]any)
	if !ok {
		return o.int(name, fallback, 1, 16)
	}
	both := o.ints(name, []int{fallback, fallback}, 2, 1, 16)
	if both[0] != both[1] {
		o.unsupported(name, a, "one stride for both axes")
	}
	return both[0]
}

// check compares the fields with each other.
func (s *samConfig) check(o object) {
	divides := func(name string, part, whole int, of string) {
		if whole%part != 0 {
			o.bad(name, part, fmt.Sprintf("a divisor of %s %d", of, whole))
		}
	}
	if s.qPool != 3 {
		o.unsupported("hiera_q_pool", s.qPool, "3: every stage but the first halves its map")
	}
	if s.qStride != 2 {
		o.unsupported("hiera_q_stride", s.qStride, "2")
	}
	if s.dimMul < 2 {
		o.unsupported("hiera_dim_mul", s.dimMul, "at least 2")
	}
	if s.stride != 16 {
		o.unsupported("backbone_stride", s.stride, "16, the stride of the third stage")
	}
	if s.image%32 != 0 {
		o.bad("image_size", s.image, "a multiple of 32, the stride of the last stage")
		return
	}
	width, heads := s.embed, s.heads
	for i := range s.stages {
		if width%heads != 0 {
			o.bad("hiera_num_heads", s.heads, fmt.Sprintf("heads that divide stage %d: got %d for width %d", i, heads, width))
		}
		if width > maxWidth {
			o.bad("hiera_dim_mul", s.dimMul, fmt.Sprintf("stages of at most %d channels", maxWidth))
			break
		}
		width, heads = width*s.dimMul, heads*s.headMul
	}
	// A window covers its map without padding: padded rows would need masks that no known model has.
	side, block := s.image/4, 0
	for i, n := range s.stages {
		if i > 0 {
			if slices.Contains(s.global, block) {
				o.bad("hiera_global_att_blocks", block, "no block that pools: the first of a stage has the window of the stage before")
			}
			// The first block runs on the map of the stage before, in its windows, and halves both.
			if s.windows[i-1]%s.qStride != 0 {
				o.unsupported("hiera_window_spec", s.windows[i-1], "an even window before a stage that pools")
			}
			side /= s.qStride
		}
		local := 0
		for b := block; b < block+n; b++ {
			if (i == 0 || b > block) && !slices.Contains(s.global, b) {
				local++
			}
		}
		if (local > 0 || i+1 < len(s.stages)) && side%s.windows[i] != 0 {
			o.unsupported("hiera_window_spec", s.windows[i], fmt.Sprintf("a divisor of the %d x %d map of stage %d", side, side, i))
		}
		block += n
	}
	for _, g := range s.global {
		if g >= block {
			o.bad("hiera_global_att_blocks", g, fmt.Sprintf("less than the %d blocks", block))
		}
	}
	if s.d%8 != 0 {
		o.bad("d_model", s.d, "a multiple of 8, for the channels of the finest features")
	}
	divides("decoder_num_heads", s.decHeads, s.d, "d_model")
	divides("decoder_attention_downsample_rate", s.decDown, s.d, "d_model")
	if s.d%s.decDown == 0 {
		divides("decoder_num_heads", s.decHeads, s.d/s.decDown, "the width of cross attention")
	}
	divides("memory_dim", s.mem, s.d, "d_model")
	if s.mem%4 != 0 {
		o.bad("memory_dim", s.mem, "a multiple of 4, for the sine positions")
	}
	divides("memory_attention_num_heads", s.memHeads, s.d, "d_model")
	if s.d%s.memHeads == 0 && s.d/s.memHeads%4 != 0 {
		o.bad("memory_attention_num_heads", s.memHeads, "heads of a multiple of 4, for rotary positions in two axes")
	}
}

func parseExtra(o object) extraConfig {
	e := extraConfig{
		name:           o.string("name", ""),
		description:    o.string("description", ""),
		licence:        o.string("licence", ""),
		intendedUse:    o.string("intended_use", ""),
		minTiles:       o.int("min_tiles", 1, 1, 1024),
		maxTiles:       o.int("max_tiles", 12, 1, 1024),
		thumbnail:      o.bool("thumbnail", true),
		promptedSlices: o.int("prompted_slices", 5, 1, 1024),
	}
	if e.minTiles > e.maxTiles {
		o.bad("min_tiles", e.minTiles, fmt.Sprintf("at most max_tiles %d", e.maxTiles))
	}
	return e
}

// list makes one error of all problems, nil of none.
func list(problems []error) error {
	switch len(problems) {
	case 0:
		return nil
	case 1:
		return problems[0]
	}
	return &ProblemsError{problems}
}

// A ProblemsError lists everything that a check found. errors.As finds the FormatErrors and UnsupportedErrors in it.
type ProblemsError struct {
	Problems []error
}

func (e *ProblemsError) Error() string {
	const most = 20
	var b strings.Builder
	fmt.Fprintf(&b, "%d problems:", len(e.Problems))
	for i, p := range e.Problems {
		if i == most {
			fmt.Fprintf(&b, "\n  and %d more", len(e.Problems)-most)
			break
		}
		b.WriteString("\n  " + p.Error())
	}
	return b.String()
}

// Unwrap returns the problems.
func (e *ProblemsError) Unwrap() []error { return e.Problems }

type (
	// A FormatError says that a file is broken, or that two places which must agree do not; it names both values.
	FormatError = fileerr.FormatError
	// An UnsupportedError says that a file is sound, but of a kind that this version does not read.
	UnsupportedError = fileerr.UnsupportedError
)
