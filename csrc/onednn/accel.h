// accel.h: matrix products and attention on the CPU through oneDNN, inside ggml's CPU backend.
//
// ggml-cpu lets a buffer type of its own kind claim operations. Ours claims MUL_MAT with many rows, FLASH_ATTN_EXT, GELU and
// NORM wherever its tensors lie, and holds q8_0 weights in a form of its own: s8 with one scale an output channel, packed as
// oneDNN asks. All of it runs on ggml's threads, a piece each: there is one pool.
//
// Off, and everything runs on ggml alone, when the build or the machine has no oneDNN, or UNIBIOMED_ACCEL is "off";
// "exact" keeps it on but in f32 arithmetic throughout.

#pragma once

#include "ggml-backend.h"

#include <string>

namespace ub::accel {

// Whether it is on. The first call puts it into ggml, so it comes before the first use of a CPU backend: device::open does it.
bool enabled();
// For people: "oneDNN 2.6.3 (int8, f32)", or why it is off.
std::string description();

// For q8_0 weights that may be computed in int8, null where that is off. Tensors in it are of use in MUL_MAT only.
ggml_backend_buffer_type_t int8_buffer_type();
// Whether this weight can live there, and whether it does.
bool can_pack(const ggml_tensor * weight);
bool is_int8(const ggml_tensor * weight);

// While it lives, data that this thread copies to the int8 buffer comes from a mapped file, whose pages are let go after use.
struct from_mapping {
    explicit from_mapping(int n_threads = 1);  // threads that pack each tensor
    ~from_mapping();
};

// What a product does to its result: out = residual + scale * gelu(x + bias). All but the product may be left out.
struct epilogue {
    ggml_tensor * bias = nullptr;      // {out}
    bool          gelu = false;
    ggml_tensor * scale = nullptr;     // {out}
    ggml_tensor * residual = nullptr;  // of the result's shape
};

// Lets an attention in f32 have products of levels in 16 bits.
void allow_levels(ggml_tensor * attention);

// Puts the epilogue into a MUL_MAT that has no data yet. False when ggml would compute the product: it stays as it was.
bool fuse(ggml_tensor * product, const epilogue & e);
// The same for NORM: x * weight + bias.
bool fuse_norm(ggml_tensor * norm, ggml_tensor * weight, ggml_tensor * bias);

} // namespace ub::accel
