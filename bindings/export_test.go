package bindings

import "reflect"

// The inside that the conformance tests look at.

// A Layout pairs a Go struct with its C namesake, fields in order.
type Layout struct {
	C      string
	Go     reflect.Type
	Fields []string // C names
}

var Layouts = []Layout{
	{"ub_error", reflect.TypeFor[cError](), []string{"code", "message"}},
	{"ub_call", reflect.TypeFor[cCall](), []string{"size", "reserved", "progress", "trace", "user"}},
	{"ub_device_info", reflect.TypeFor[cDeviceInfo](), []string{"size", "type", "memory_total", "memory_free", "name", "description"}},
	{"ub_model_files", reflect.TypeFor[cModelFiles](), []string{"size", "reserved", "language", "vision", "grounding"}},
	{"ub_model_params", reflect.TypeFor[cModelParams](), []string{
		"size", "n_threads", "device", "memory_limit", "n_ctx", "tile_batch", "mask_batch", "vocab_only", "kv_cache"}},
	{"ub_memory_plan", reflect.TypeFor[cMemoryPlan](), []string{
		"size", "reserved", "weights_language", "weights_vision", "weights_grounding", "kv_cache", "compute_language", "compute_vision",
		"compute_features", "compute_masks", "compute_memory", "features", "total", "available"}},
	{"ub_model_info", reflect.TypeFor[cModelInfo](), []string{
		"size", "n_vocab", "n_embd", "n_layer", "n_ctx_train", "tile_size", "tile_tokens", "tile_min", "tile_max", "tile_thumbnail",
		"vit_tokens", "vit_embd", "tile_mean", "tile_std", "mask_image_size", "mask_size", "mask_embd", "n_masks", "feature_size",
		"memory_embd", "n_maskmem", "n_prompted_slices", "mask_image_mean", "mask_image_std"}},
	{"ub_masks", reflect.TypeFor[cMasks](), []string{"size", "reserved", "logits", "iou", "object_score", "selected", "embedding"}},
	{"ub_stage_stats", reflect.TypeFor[cStageStats](), []string{"calls", "items", "nanoseconds", "flop"}},
}

func StructSize(name string) int64 { return ubStructSize(cstring(name)) }

func FieldOffset(name, field string) int64 { return ubFieldOffset(cstring(name), cstring(field)) }

func EnumValue(name string) int64 { return ubEnumValue(cstring(name)) }

func Load() error { return load() }

func cstring(s string) *byte { return &append([]byte(s), 0)[0] }

// A Guarded is an object with the lifetime of every other one, that has no library below it.
type Guarded struct {
	lifetime
	_ [64]byte // as tiny objects share memory, which would keep it reachable
}

func NewGuarded(free func()) *Guarded {
	g := &Guarded{}
	start(g, &g.lifetime, "object", handle(new([16]byte)), func(handle) { free() })
	return g
}

func (g *Guarded) Enter() error {
	_, err := g.enter("use")
	return err
}

func (g *Guarded) Leave() { g.leave() }

func (g *Guarded) Close() { g.close() }
