// accel.cpp: see accel.h: the buffer type that ggml-cpu asks first.

#include "onednn/accel.h"

#include "onednn/kernels.h"
#include "onednn/library.h"

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "traits.h"

#include <cstdlib>
#include <cstring>
#include <mutex>

#include <cpuid.h>
#include <sys/mman.h>
#include <unistd.h>

namespace ub::accel {

namespace {

enum class mode { off, exact, int16, on };

mode wanted_mode() {
    const char * s = std::getenv("UNIBIOMED_ACCEL");
    if (s == nullptr) return mode::on;
    return std::strcmp(s, "off") == 0 ? mode::off : std::strcmp(s, "exact") == 0 ? mode::exact : std::strcmp(s, "int16") == 0 ? mode::int16 : mode::on;
}

// Without these a product of u8 by s8 saturates in 16 bits.
bool has_int8_dot_products() {
    unsigned a = 0, b, c, d;
    __get_cpuid_count(7, 1, &a, &b, &c, &d);
    const bool avx_vnni = (a >> 4 & 1) != 0;  // not every compiler's __builtin_cpu_supports knows it
    return avx_vnni || __builtin_cpu_supports("avx512vnni");
}

bool int8_on() {
    static const bool on = onednn::available() && ((wanted_mode() == mode::on && has_int8_dot_products()) || wide_rows());
    return on;
}

thread_local int mapped = 0;

ggml_backend_buffer_type_t buffer_type();

// Products of bf16 are faster than those of f32.
bool bf16_on() {
    static const bool on = wanted_mode() == mode::on && __builtin_cpu_supports("avx512bf16");
    return on;
}

// Tiles of bf16 are multiplied at once.
bool has_amx() {
    unsigned a, b, c, d = 0;
    __get_cpuid_count(7, 0, &a, &b, &c, &d);
    return (d >> 22 & 1) != 0;
}

// Attention's products of s16 are faster than those of f32 where both have registers of the same width, and finer than those of bf16. With
// few keys, where quantizing counts, bf16 is faster, and AMX is always.
bool int16_attention_on(const ggml_tensor * op) {
    static const bool on = wide_rows() || (int8_on() && int16_available() && (int16_is_wide() || !__builtin_cpu_supports("avx512f")));
    static const int64_t fewest = !bf16_on() ? 0 : has_amx() ? INT64_MAX : 512;
    return on && int16_attention_takes(op) && (op->op_params[param_levels] != 0 || op->src[1]->ne[1] >= fewest);
}

bool is_packed(const ggml_tensor * w) { return w->buffer != nullptr && w->buffer->buft == buffer_type(); }

struct traits : ggml::cpu::tensor_traits {
    bool work_size(int n_threads, const ggml_tensor * op, size_t & size) override {
        size = op->op == GGML_OP_MUL_MAT && is_packed(op->src[0])       ? int8_work(op, n_threads)
               : op->op == GGML_OP_FLASH_ATTN_EXT && few_queries(op) ? few_queries_work(op, n_threads)
                                                                     : 0;
        return true;
    }

    bool compute_forward(ggml_compute_params * p, ggml_tensor * op) override {
        if (ggml_is_empty(op)) return true;
        onednn::one_thread held;
        try {
            switch (op->op) {
                case GGML_OP_MUL_MAT:        is_packed(op->src[0]) ? int8_mul_mat(p, op) : f32_mul_mat(p, op); break;
                case GGML_OP_FLASH_ATTN_EXT:
                    if (few_queries(op)) few_queries_attention(p, op);
                    else if (int16_attention_on(op)) int16_attention(p, op);
                    else attention(p, op, bf16_on() && op->op_params[3] != GGML_PREC_F32);
                    break;
                case GGML_OP_NORM:           norm(p, op); break;
                case GGML_OP_POOL_2D:        max_rows(p, op); break;
                default:                     gelu(p, op); break;
            }
        } catch (const std::exception & e) {
            // no status leads out of here: results that can't be mistaken for any
            GGML_LOG_ERROR("%s: %s\n", ggml_op_desc(op), e.what());
            float * out = static_cast<float *>(op->data);
            for (int64_t i = 0; i < ggml_nelements(op); ++i) out[i] = NAN;
        }
        return true;
    }
};

bool is_plain_f32(const ggml_tensor * t) { return t->type == GGML_TYPE_F32 && t->nb[0] == sizeof(float); }

struct claims : ggml::cpu::extra_buffer_type {
    traits work;

    bool supports_op(ggml_backend_dev_t, const ggml_tensor * op) override {
        const ggml_tensor * w = op->src[0], * x = op->src[1];
        return op->op == GGML_OP_MUL_MAT && is_packed(w) && can_pack(w) && x->type == GGML_TYPE_F32 && x->nb[0] == sizeof(float) &&
               (x->buffer == nullptr || ggml_backend_buft_is_host(x->buffer->buft));
    }

    ggml::cpu::tensor_traits * get_tensor_traits(const ggml_tensor * op) override {
        bool take = false;
        switch (op->op) {
            case GGML_OP_MUL_MAT:        take = is_packed(op->src[0]) || f32_takes(op); break;
            case GGML_OP_FLASH_ATTN_EXT: take = attention_takes(op); break;
            case GGML_OP_NORM:           take = op->src[1] != nullptr; break;
            case GGML_OP_POOL_2D:        take = max_rows_takes(op); break;
            case GGML_OP_UNARY:          take = ggml_get_unary_op(op) == GGML_UNARY_OP_GELU_ERF && is_plain_f32(op) && is_plain_f32(op->src[0]); break;
            default: break;
        }
        return take ? &work : nullptr;
    }
};

// ---------------------------------------------------------------------------------------------------------- buffer type

const char * buffer_name(ggml_backend_buffer_type_t) { return "CPU_INT8"; }
size_t       buffer_alignment(ggml_backend_buffer_type_t) { return 64; }
size_t       buffer_size_of(ggml_backend_buffer_type_t, const ggml_tensor * t) { return can_pack(t) ? int8_size(t->ne[0], t->ne[1]) : ggml_nbytes(t); }

void buffer_set(ggml_backend_buffer_t, ggml_tensor * t, const void * data, size_t offset, size_t size) {
    GGML_ASSERT(offset == 0 && size == ggml_nbytes(t));
    onednn::one_thread held;
    int8_pack(t, data, std::max(1, mapped));
    if (mapped > 0) {
        const uintptr_t page = uintptr_t(sysconf(_SC_PAGESIZE)), from = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
        const uintptr_t to = (reinterpret_cast<uintptr_t>(data) + size) / page * page;
        if (from < to) {
            void * file = reinterpret_cast<void *>(from);
            madvise(file, to - from, MADV_DONTNEED);
            // else a norm between two matrices brings the 2 MiB around it back into memory
            madvise(file, to - from, MADV_NOHUGEPAGE);
        }
    }
}

ggml_backend_buffer_t buffer_new(ggml_backend_buffer_type_t type, size_t size) {
    ggml_backend_buffer_t b = ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), size);
    if (b == nullptr) return nullptr;
    b->buft              = type;
    b->iface.set_tensor  = buffer_set;
    b->iface.get_tensor  = nullptr;
    b->iface.cpy_tensor  = nullptr;
    return b;
}

ggml_backend_buffer_type_t buffer_type() {
    static ggml_backend_buffer_type type = {
        {buffer_name, buffer_new, buffer_alignment, /*get_max_size=*/nullptr, buffer_size_of, /*is_host=*/nullptr},
        /*device=*/ nullptr, /*context=*/ new claims};
    return &type;
}

// Whether GGML's own product of this MUL_MAT would not be used.
bool ours(const ggml_tensor * product) {
    return product->op == GGML_OP_MUL_MAT && product->src[0]->ne[2] * product->src[0]->ne[3] == 1 && (is_packed(product->src[0]) || f32_takes(product));
}

} // namespace

bool wide_rows() {
    static const bool wide = int16_available() && (wanted_mode() == mode::int16 || (wanted_mode() == mode::on && !has_int8_dot_products()));
    return wide;
}

bool enabled() {
    static const bool on = [] {
        if (wanted_mode() == mode::off || !onednn::available()) return false;
        ggml_backend_buffer_type_t type = buffer_type();
        type->device = ggml_backend_reg_dev_get(ggml_backend_cpu_reg(), 0);
        // the others make copies of weights beside the mapped file
        ggml_backend_cpu_get_extra_buffer_types() = {type};
        return true;
    }();
    return on;
}

std::string description() {
    if (wanted_mode() == mode::off) return "oneDNN off (UNIBIOMED_ACCEL)";
    if (!onednn::available()) return onednn::version();
    return onednn::version() + (int8_on() ? wide_rows() ? " (f32, int8 by int16)" : " (f32, int8)" : wanted_mode() == mode::exact ? " (f32, exact)" : " (f32)");
}

ggml_backend_buffer_type_t int8_buffer_type() { return enabled() && int8_on() ? buffer_type() : nullptr; }

bool is_int8(const ggml_tensor * weight) { return is_packed(weight); }
void allow_levels(ggml_tensor * attention) { attention->op_params[param_levels] = 1; }

bool can_pack(const ggml_tensor * w) {
    // the logits' matrix, by far the longest, stays exact
    return w->type == GGML_TYPE_Q8_0 && w->ne[2] * w->ne[3] == 1 && w->ne[0] >= 32 && w->ne[0] <= 65536 && w->ne[1] >= 16 && w->ne[1] <= 65536 &&
           std::strncmp(w->name, "output", 6) != 0 && std::strncmp(w->name, "token_embd", 10) != 0;
}

from_mapping::from_mapping(int n_threads) { mapped = std::max(1, n_threads); }
from_mapping::~from_mapping() { mapped = 0; }

bool fuse(ggml_tensor * product, const epilogue & e) {
    if (!enabled() || !ours(product)) return false;
    product->src[src_bias]     = e.bias;
    product->src[src_scale]    = e.scale;
    product->src[src_residual] = e.residual;
    product->op_params[param_gelu] = e.gelu;
    return true;
}

bool fuse_norm(ggml_tensor * norm, ggml_tensor * weight, ggml_tensor * bias) {
    if (!enabled() || !is_plain_f32(norm->src[0])) return false;
    norm->src[1] = weight;
    norm->src[2] = bias;
    return true;
}

} // namespace ub::accel
