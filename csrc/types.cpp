// types.cpp: see types.h.

#include "types.h"

#include <cstring>

namespace ub {

static constexpr weight_type types[] = {
    {"f32", GGML_TYPE_F32},   {"f16", GGML_TYPE_F16},   {"bf16", GGML_TYPE_BF16}, {"q8_0", GGML_TYPE_Q8_0},
    {"q6_k", GGML_TYPE_Q6_K}, {"q5_k", GGML_TYPE_Q5_K}, {"q4_k", GGML_TYPE_Q4_K}, {"q5_1", GGML_TYPE_Q5_1},
    {"q5_0", GGML_TYPE_Q5_0}, {"q4_1", GGML_TYPE_Q4_1}, {"q4_0", GGML_TYPE_Q4_0}, {"iq4_nl", GGML_TYPE_IQ4_NL},
};

const weight_type * find_type(const char * name) {
    for (const auto & t : types) {
        if (name != nullptr && std::strcmp(t.name, name) == 0) return &t;
    }
    return nullptr;
}

const weight_type * find_type(ggml_type type) {
    for (const auto & t : types) {
        if (t.type == type) return &t;
    }
    return nullptr;
}

} // namespace ub
