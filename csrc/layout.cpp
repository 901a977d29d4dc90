// layout.cpp: sizes, offsets and constants of the header by name, so that bindings can test their mirror of it.

#include "unibiomed.h"

#include <cstring>

namespace {

struct field  { const char * name; size_t offset; };
struct layout { const char * name; size_t size; const field * fields; size_t n; };
struct constant { const char * name; int64_t value; };

#define FIELD(type, name) {#name, offsetof(type, name)}
#define LAYOUT(type) {#type, sizeof(type), type##_fields, sizeof(type##_fields) / sizeof(field)}

const field ub_error_fields[] = {FIELD(ub_error, code), FIELD(ub_error, message)};
const field ub_call_fields[]  = {FIELD(ub_call, size), FIELD(ub_call, reserved), FIELD(ub_call, progress), FIELD(ub_call, trace), FIELD(ub_call, user)};
const field ub_device_info_fields[] = {
    FIELD(ub_device_info, size), FIELD(ub_device_info, type), FIELD(ub_device_info, memory_total), FIELD(ub_device_info, memory_free),
    FIELD(ub_device_info, name), FIELD(ub_device_info, description)};
const field ub_model_files_fields[] = {
    FIELD(ub_model_files, size), FIELD(ub_model_files, reserved), FIELD(ub_model_files, language), FIELD(ub_model_files, vision), FIELD(ub_model_files, grounding)};
const field ub_model_params_fields[] = {
    FIELD(ub_model_params, size), FIELD(ub_model_params, n_threads), FIELD(ub_model_params, device), FIELD(ub_model_params, memory_limit),
    FIELD(ub_model_params, n_ctx), FIELD(ub_model_params, tile_batch), FIELD(ub_model_params, mask_batch), FIELD(ub_model_params, vocab_only),
    FIELD(ub_model_params, kv_cache)};
const field ub_memory_plan_fields[] = {
    FIELD(ub_memory_plan, size), FIELD(ub_memory_plan, reserved), FIELD(ub_memory_plan, weights_language), FIELD(ub_memory_plan, weights_vision),
    FIELD(ub_memory_plan, weights_grounding), FIELD(ub_memory_plan, kv_cache), FIELD(ub_memory_plan, compute_language),
    FIELD(ub_memory_plan, compute_vision), FIELD(ub_memory_plan, compute_features), FIELD(ub_memory_plan, compute_masks),
    FIELD(ub_memory_plan, compute_memory), FIELD(ub_memory_plan, features), FIELD(ub_memory_plan, total), FIELD(ub_memory_plan, available)};
const field ub_model_info_fields[] = {
    FIELD(ub_model_info, size), FIELD(ub_model_info, n_vocab), FIELD(ub_model_info, n_embd), FIELD(ub_model_info, n_layer), FIELD(ub_model_info, n_ctx_train),
    FIELD(ub_model_info, tile_size), FIELD(ub_model_info, tile_tokens), FIELD(ub_model_info, tile_min), FIELD(ub_model_info, tile_max),
    FIELD(ub_model_info, tile_thumbnail), FIELD(ub_model_info, vit_tokens), FIELD(ub_model_info, vit_embd), FIELD(ub_model_info, tile_mean),
    FIELD(ub_model_info, tile_std), FIELD(ub_model_info, mask_image_size), FIELD(ub_model_info, mask_size), FIELD(ub_model_info, mask_embd),
    FIELD(ub_model_info, n_masks), FIELD(ub_model_info, feature_size), FIELD(ub_model_info, memory_embd), FIELD(ub_model_info, n_maskmem),
    FIELD(ub_model_info, n_prompted_slices), FIELD(ub_model_info, mask_image_mean), FIELD(ub_model_info, mask_image_std)};
const field ub_masks_fields[] = {
    FIELD(ub_masks, size), FIELD(ub_masks, reserved), FIELD(ub_masks, logits), FIELD(ub_masks, iou), FIELD(ub_masks, object_score),
    FIELD(ub_masks, selected), FIELD(ub_masks, embedding)};
const field ub_stage_stats_fields[] = {
    FIELD(ub_stage_stats, calls), FIELD(ub_stage_stats, items), FIELD(ub_stage_stats, nanoseconds), FIELD(ub_stage_stats, flop)};

const layout layouts[] = {
    LAYOUT(ub_error), LAYOUT(ub_call), LAYOUT(ub_device_info), LAYOUT(ub_model_files), LAYOUT(ub_model_params), LAYOUT(ub_memory_plan),
    LAYOUT(ub_model_info), LAYOUT(ub_masks), LAYOUT(ub_stage_stats)};

#define CONSTANT(name) {#name, int64_t(name)}
const constant constants[] = {
    CONSTANT(UB_ABI_VERSION), CONSTANT(UB_EMBEDDING), CONSTANT(UB_DECODE_AT_ONCE), CONSTANT(UB_STAGE_COUNT),
    CONSTANT(UB_OK), CONSTANT(UB_E_INVALID), CONSTANT(UB_E_IO), CONSTANT(UB_E_FORMAT), CONSTANT(UB_E_UNSUPPORTED), CONSTANT(UB_E_NOMEM),
    CONSTANT(UB_E_DEVICE), CONSTANT(UB_E_CONTEXT), CONSTANT(UB_E_CANCELED), CONSTANT(UB_E_INTERNAL),
    CONSTANT(UB_DEVICE_CPU), CONSTANT(UB_DEVICE_GPU), CONSTANT(UB_DEVICE_INTEGRATED_GPU), CONSTANT(UB_DEVICE_ACCELERATOR),
    CONSTANT(UB_STAGE_VISION), CONSTANT(UB_STAGE_PREFILL), CONSTANT(UB_STAGE_DECODE), CONSTANT(UB_STAGE_FEATURES), CONSTANT(UB_STAGE_MASKS),
    CONSTANT(UB_STAGE_MEMORY)};

template <class T, size_t N> const T * find(const T (&all)[N], const char * name) {
    for (const T & x : all) {
        if (name != nullptr && std::strcmp(x.name, name) == 0) return &x;
    }
    return nullptr;
}

} // namespace

int64_t ub_struct_size(const char * name) {
    const layout * l = find(layouts, name);
    return l != nullptr ? int64_t(l->size) : -1;
}

int64_t ub_field_offset(const char * struct_name, const char * field_name) {
    const layout * l = find(layouts, struct_name);
    for (size_t i = 0; l != nullptr && field_name != nullptr && i < l->n; ++i) {
        if (std::strcmp(l->fields[i].name, field_name) == 0) return int64_t(l->fields[i].offset);
    }
    return -1;
}

int64_t ub_enum_value(const char * name) {
    const constant * c = find(constants, name);
    return c != nullptr ? c->value : -1;
}
