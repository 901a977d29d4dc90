package checkpoint

import "github.com/unibiomed/go-unibiomed/unibiomed/gguf"

// imagenetMean and imagenetStd normalise the input of both image encoders.
var (
	imagenetMean = []float32{0.485, 0.456, 0.406}
	imagenetStd  = []float32{0.229, 0.224, 0.225}
)

const projectorEps = 1e-5 // PyTorch's default, which mlp1 keeps

// languageKeys are those that llama.cpp's converter writes for Qwen2 (names: llama-arch.cpp of the pinned version).
func (c *config) languageKeys(t *tokenizer, m *Manifest, s scheme) []gguf.KV {
	l := c.language
	kv := []gguf.KV{
		{Key: "general.architecture", Value: "qwen2"},
		{Key: "general.type", Value: "model"},
		{Key: "general.name", Value: m.Name},
		{Key: "general.license", Value: m.Licence},
		{Key: "general.file_type", Value: s.ftype},
		{Key: "general.quantization_version", Value: uint32(2)},
		{Key: "qwen2.block_count", Value: uint32(l.layers)},
		{Key: "qwen2.context_length", Value: uint32(l.context)},
		{Key: "qwen2.embedding_length", Value: uint32(l.hidden)},
		{Key: "qwen2.feed_forward_length", Value: uint32(l.ffn)},
		{Key: "qwen2.attention.head_count", Value: uint32(l.heads)},
		{Key: "qwen2.attention.head_count_kv", Value: uint32(l.kvHeads)},
		{Key: "qwen2.attention.layer_norm_rms_epsilon", Value: float32(l.rmsEps)},
		{Key: "qwen2.rope.freq_base", Value: float32(l.ropeTheta)},
		{Key: "qwen2.vocab_size", Value: uint32(l.vocab)},
	}
	tokens, kinds := t.arrays()
	kv = append(kv,
		gguf.KV{Key: "tokenizer.ggml.model", Value: "gpt2"},
		gguf.KV{Key: "tokenizer.ggml.pre", Value: "qwen2"},
		gguf.KV{Key: "tokenizer.ggml.tokens", Value: tokens},
		gguf.KV{Key: "tokenizer.ggml.token_type", Value: kinds},
		gguf.KV{Key: "tokenizer.ggml.merges", Value: t.merges},
		gguf.KV{Key: "tokenizer.ggml.eos_token_id", Value: uint32(t.tokens.EOS)})
	if t.pad >= 0 {
		kv = append(kv, gguf.KV{Key: "tokenizer.ggml.padding_token_id", Value: uint32(t.pad)})
	}
	return append(kv, gguf.KV{Key: "tokenizer.ggml.add_bos_token", Value: false})
}

func (c *config) visionKeys(m *Manifest) []gguf.KV {
	v := c.vision
	return []gguf.KV{
		{Key: "general.architecture", Value: "unibiomed-vision"},
		{Key: "general.name", Value: m.Name},
		{Key: "unibiomed.format_version", Value: uint32(formatVersion)},
		{Key: "vision.image_size", Value: uint32(v.image)},
		{Key: "vision.patch_size", Value: uint32(v.patch)},
		{Key: "vision.embedding_length", Value: uint32(v.hidden)},
		{Key: "vision.feed_forward_length", Value: uint32(v.ffn)},
		{Key: "vision.block_count", Value: uint32(v.layers)},
		{Key: "vision.attention.head_count", Value: uint32(v.heads)},
		{Key: "vision.attention.layer_norm_epsilon", Value: float32(v.eps)},
		{Key: "vision.pixel_shuffle_factor", Value: uint32(v.shuffle)},
		{Key: "vision.pixel_shuffle_version", Value: uint32(v.shuffleVersion)},
		{Key: "vision.projection_length", Value: uint32(c.language.hidden)},
		{Key: "vision.projector.layer_norm_epsilon", Value: float32(projectorEps)},
		{Key: "vision.tiles.min", Value: uint32(c.extra.minTiles)},
		{Key: "vision.tiles.max", Value: uint32(c.extra.maxTiles)},
		{Key: "vision.tiles.thumbnail", Value: c.extra.thumbnail},
		{Key: "vision.image_mean", Value: imagenetMean},
		{Key: "vision.image_std", Value: imagenetStd},
	}
}

func (c *config) groundingKeys(m *Manifest) []gguf.KV {
	s := c.sam
	return []gguf.KV{
		{Key: "general.architecture", Value: "unibiomed-grounding"},
		{Key: "general.name", Value: m.Name},
		{Key: "unibiomed.format_version", Value: uint32(formatVersion)},
		{Key: "grounding.input_length", Value: uint32(c.language.hidden)},
		{Key: "sam2.image_size", Value: uint32(s.image)},
		{Key: "sam2.backbone_stride", Value: uint32(s.stride)},
		{Key: "sam2.image_mean", Value: imagenetMean},
		{Key: "sam2.image_std", Value: imagenetStd},
		{Key: "sam2.trunk.embedding_length", Value: uint32(s.embed)},
		{Key: "sam2.trunk.head_count", Value: uint32(s.heads)},
		{Key: "sam2.trunk.stages", Value: uints(s.stages)},
		{Key: "sam2.trunk.window_spec", Value: uints(s.windows)},
		{Key: "sam2.trunk.global_blocks", Value: uints(s.global)},
		{Key: "sam2.trunk.q_pool", Value: uint32(s.qPool)},
		{Key: "sam2.trunk.q_stride", Value: uint32(s.qStride)},
		{Key: "sam2.trunk.dim_mul", Value: uint32(s.dimMul)},
		{Key: "sam2.trunk.head_mul", Value: uint32(s.headMul)},
		{Key: "sam2.trunk.mlp_ratio", Value: uint32(s.mlp)},
		{Key: "sam2.neck.top_down_levels", Value: uints(s.topDown)},
		{Key: "sam2.embedding_length", Value: uint32(s.d)},
		{Key: "sam2.decoder.block_count", Value: uint32(s.decLayers)},
		{Key: "sam2.decoder.head_count", Value: uint32(s.decHeads)},
		{Key: "sam2.decoder.feed_forward_length", Value: uint32(s.decFFN)},
		{Key: "sam2.decoder.attention_downsample", Value: uint32(s.decDown)},
		{Key: "sam2.decoder.mask_count", Value: uint32(s.masks)},
		{Key: "sam2.memory.embedding_length", Value: uint32(s.mem)},
		{Key: "sam2.memory.attention_block_count", Value: uint32(s.memLayers)},
		{Key: "sam2.memory.attention_head_count", Value: uint32(s.memHeads)},
		{Key: "sam2.memory.feed_forward_length", Value: uint32(s.memFFN)},
		{Key: "sam2.memory.rope_theta", Value: float32(s.ropeTheta)},
		{Key: "sam2.memory.fuser_block_count", Value: uint32(s.fuserLayers)},
		{Key: "sam2.memory.slice_count", Value: uint32(s.slices)},
		{Key: "sam2.memory.object_pointer_count", Value: uint32(s.objectPointers)},
		{Key: "sam2.memory.mask_scale", Value: float32(s.maskScale)},
		{Key: "sam2.memory.mask_bias", Value: float32(s.maskBias)},
		{Key: "sam2.prompted_slices", Value: uint32(c.extra.promptedSlices)},
	}
}

func uints(n []int) []uint32 {
	out := make([]uint32, len(n))
	for i := range n {
		out[i] = uint32(n[i])
	}
	return out
}
