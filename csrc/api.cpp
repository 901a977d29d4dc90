// api.cpp: the C ABI. Checks what a caller hands in, and ends every exception.

#include "log.h"
#include "model.h"
#include "quantize.h"

#include <algorithm>
#include <cstring>

struct ub_model    { std::shared_ptr<ub::model> state; };
struct ub_session  { std::shared_ptr<ub::model> state; ub::session session; };
struct ub_features { std::shared_ptr<ub::model> state; ub::sam2_features_ptr features; };
struct ub_track    { std::shared_ptr<ub::model> state; ub::sam2_track_ptr track; };

namespace {

using namespace ub;

#define REQUIRE_ARGUMENT(p) UB_REQUIRE((p) != nullptr, #p " is NULL")

// The caller's struct, whose size must be at least ours: there is no older ABI yet.
template <class T> T read_struct(const T * p, const char * name) {
    UB_REQUIRE(p != nullptr, "%s is NULL", name);
    UB_REQUIRE(p->size >= sizeof(T), "%s.size is %u, want at least %zu", name, p->size, sizeof(T));
    return *p;
}

template <class T> void write_struct(T * p, const char * name, const T & value) {
    const uint32_t size = read_struct(p, name).size;
    *p = value;
    p->size = size;
}

const weight_type & need_type(const char * name) {
    const weight_type * t = find_type(name);
    UB_REQUIRE(t != nullptr, "no weight type '%.32s'", name != nullptr ? name : "");
    return *t;
}

ub_model_params read_params(const ub_model_params * p) {
    const ub_model_params v = read_struct(p, "ub_model_params");
    UB_REQUIRE(v.tile_batch <= 1024, "tile_batch is %u, want 0 to 1024", v.tile_batch);
    UB_REQUIRE(v.mask_batch <= 1024, "mask_batch is %u, want 0 to 1024", v.mask_batch);
    UB_REQUIRE(v.vocab_only <= 1, "vocab_only is %u, want 0 or 1", v.vocab_only);
    return v;
}

// As ub_model_metadata hands text out.
void write_text(const std::string & text, char * buffer, int32_t capacity, int32_t * length) {
    *length = int32_t(text.size());
    if (capacity == 0) return;
    const size_t n = std::min(text.size(), size_t(capacity) - 1);
    std::memcpy(buffer, text.data(), n);
    buffer[n] = '\0';
}

constexpr int32_t most_tiles = 1 << 16, most_prompts = 1 << 16;

void check_features(const std::shared_ptr<model> & m, const ub_features * f) {
    REQUIRE_ARGUMENT(f);
    UB_REQUIRE(f->state == m, "the features belong to another model");
}

ub_masks read_masks(const ub_masks * out) { return read_struct(out, "ub_masks"); }

} // namespace

// ---------------------------------------------------------------------------------------------------------- the library

int32_t ub_abi_version(void) { return UB_ABI_VERSION; }

const char * ub_build_info(void) {
    static const std::string text = [] {
        quiet_log();
        std::string s = format("unibiomed ABI %d, ggml %s, backends", UB_ABI_VERSION, ggml_version());
        for (size_t i = 0; i < ggml_backend_reg_count(); ++i) {
            ggml_backend_reg_t reg = ggml_backend_reg_get(i);
            s += format("%s %s", i > 0 ? "," : "", ggml_backend_reg_name(reg));
            auto get = reinterpret_cast<ggml_backend_get_features_t>(ggml_backend_reg_get_proc_address(reg, "ggml_backend_get_features"));
            bool first = true;
            for (auto * f = get != nullptr ? get(reg) : nullptr; f != nullptr && f->name != nullptr; ++f) {
                if (std::strcmp(f->value, "0") == 0) continue;
                s += first ? " (" : " ";
                s += f->name;
                if (std::strcmp(f->value, "1") != 0) s += std::string("=") + f->value;
                first = false;
            }
            if (!first) s += ")";
        }
        s += ", " + accel::description();
        return s;
    }();
    return text.c_str();
}

int32_t ub_device_count(void) {
    int32_t n = 0;
    guarded(nullptr, [&] { n = device_count(); });
    return n;
}

ub_status ub_device_get(int32_t index, ub_device_info * out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(out);
        device_describe(index, *out);
    });
}

// ----------------------------------------------------------------------------------------------------------------- model

void ub_model_params_init(ub_model_params * p) {
    if (p == nullptr) return;
    *p = {};
    p->size = sizeof *p;
}

void ub_model_files_init(ub_model_files * f) {
    if (f == nullptr) return;
    *f = {};
    f->size = sizeof *f;
}

ub_status ub_model_check(const ub_model_files * files, ub_error * err) {
    return guarded(err, [&] { model_files(read_struct(files, "ub_model_files")).check(false); });
}

ub_status ub_model_plan(const ub_model_files * files, const ub_model_params * p, ub_memory_plan * out, ub_error * err) {
    return guarded(err, [&] {
        const ub_model_params params = read_params(p);
        read_struct(out, "ub_memory_plan");
        const model_files f(read_struct(files, "ub_model_files"));
        f.check(params.vocab_only != 0);
        write_struct(out, "ub_memory_plan", plan(f, params, device::open(params.device, params.n_threads)));
    });
}

ub_status ub_model_open(const ub_model_files * files, const ub_model_params * p, const ub_call * call, ub_model ** out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(out);
        const ub_model_params params = read_params(p);
        reporter r(call);
        auto m = std::make_unique<ub_model>();
        m->state = std::make_shared<model>(read_struct(files, "ub_model_files"), params, r);
        *out = m.release();
    });
}

void ub_model_close(ub_model * m) { delete m; }

ub_status ub_model_get_info(const ub_model * m, ub_model_info * out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        write_struct(out, "ub_model_info", m->state->info);
    });
}

ub_status ub_model_metadata(const ub_model * m, const char * key, char * buffer, int32_t capacity, int32_t * length, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(key);
        REQUIRE_ARGUMENT(length);
        UB_REQUIRE(capacity >= 0 && (capacity == 0 || buffer != nullptr), "capacity is %d, buffer is %s", capacity, buffer != nullptr ? "set" : "NULL");
        std::string text;
        if (!m->state->need_language().file->text(key, text)) {
            *length = -1;
            return;
        }
        if (text.size() > INT32_MAX) fail(UB_E_FORMAT, "key '%.64s' has %zu bytes", key, text.size());
        write_text(text, buffer, capacity, length);
    });
}

ub_status ub_model_stats(const ub_model * m, ub_stage_stats out[UB_STAGE_COUNT], ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(out);
        for (int i = 0; i < UB_STAGE_COUNT; ++i) {
            const counters & c = m->state->totals[size_t(i)];
            out[i] = {c.calls, c.items, c.nanoseconds, c.flop};
        }
    });
}

ub_status ub_model_operations(const ub_model * m, char * buffer, int32_t capacity, int32_t * length, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(length);
        UB_REQUIRE(capacity >= 0 && (capacity == 0 || buffer != nullptr), "capacity is %d, buffer is %s", capacity, buffer != nullptr ? "set" : "NULL");
        static const char * const stages[UB_STAGE_COUNT] = {"vision", "prefill", "decode", "features", "masks", "memory"};
        std::string text;
        for (size_t i = 0; i < UB_STAGE_COUNT; ++i) m->state->totals[i].ran.print(stages[i], text);
        write_text(text, buffer, capacity, length);
    });
}

ub_status ub_peak_rate(ub_model * m, const char * type, int32_t n, float seconds, double * flop_per_second, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(flop_per_second);
        *flop_per_second = peak_rate(*m->state->dev, need_type(type), n, seconds);
    });
}

// ------------------------------------------------------------------------------------------------------------- tokenizer

ub_status ub_tokenize(const ub_model * m, const char * text, int32_t length, bool special, int32_t * ids, int32_t capacity, int32_t * n, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(n);
        UB_REQUIRE(length >= 0 && (length == 0 || text != nullptr), "length is %d, text is %s", length, text != nullptr ? "set" : "NULL");
        UB_REQUIRE(capacity >= 0 && (capacity == 0 || ids != nullptr), "capacity is %d, ids is %s", capacity, ids != nullptr ? "set" : "NULL");
        const auto out = m->state->need_language().tokens().encode(text, size_t(length), special);
        *n = int32_t(out.size());
        if (capacity >= *n) std::copy(out.begin(), out.end(), ids);
    });
}

ub_status ub_token_bytes(const ub_model * m, int32_t id, char * buffer, int32_t capacity, int32_t * n, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(n);
        UB_REQUIRE(capacity >= 0 && (capacity == 0 || buffer != nullptr), "capacity is %d, buffer is %s", capacity, buffer != nullptr ? "set" : "NULL");
        const tokenizer & t = m->state->need_language().tokens();
        UB_REQUIRE(t.kind(id) >= 0, "id %d, want 0 to %d", id, t.size() - 1);
        const std::string s = t.bytes(id);
        *n = int32_t(s.size());
        if (capacity >= *n) std::copy(s.begin(), s.end(), buffer);
    });
}

int32_t ub_token_kind(const ub_model * m, int32_t id) {
    int32_t kind = -1;
    guarded(nullptr, [&] {
        REQUIRE_ARGUMENT(m);
        kind = m->state->need_language().tokens().kind(id);
    });
    return kind;
}

// ---------------------------------------------------------------------------------------------------------------- vision

ub_status ub_vision_encode(ub_model * m, const float * tiles, int32_t n, float * embeddings, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(tiles);
        REQUIRE_ARGUMENT(embeddings);
        UB_REQUIRE(n >= 1 && n <= most_tiles, "%d tiles, want 1 to %d", n, most_tiles);
        reporter r(call);
        const auto state = m->state;
        state->need_vision().encode(tiles, n, embeddings, r, state->totals[UB_STAGE_VISION]);
    });
}

// --------------------------------------------------------------------------------------------------------------- session

ub_status ub_session_open(ub_model * m, uint32_t n_ctx, ub_session ** out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(out);
        *out = new ub_session{m->state, {m->state->need_weights(), n_ctx}};
    });
}

void ub_session_close(ub_session * s) { delete s; }

ub_status ub_session_prefill(ub_session * s, const int32_t * ids, int32_t n, const float * embeddings, int32_t n_embeddings,
                             float * logits, float * hidden, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(s);
        REQUIRE_ARGUMENT(ids);
        UB_REQUIRE(n_embeddings >= 0 && (n_embeddings == 0 || embeddings != nullptr), "n_embeddings is %d, embeddings is %s", n_embeddings,
                   embeddings != nullptr ? "set" : "NULL");
        reporter r(call);
        s->session.prefill(ids, n, embeddings, n_embeddings, logits, hidden, r);
    });
}

ub_status ub_session_decode(ub_session * s, const int32_t * ids, int32_t n, float * logits, float * hidden, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(s);
        REQUIRE_ARGUMENT(ids);
        s->session.decode(ids, n, logits, hidden);
    });
}

int32_t ub_session_length(const ub_session * s) { return s != nullptr ? s->session.length() : 0; }
int32_t ub_session_capacity(const ub_session * s) { return s != nullptr ? s->session.capacity() : 0; }

ub_status ub_session_truncate(ub_session * s, int32_t length, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(s);
        s->session.truncate(length);
    });
}

// ------------------------------------------------------------------------------------------------------ SAM 2: one image

ub_status ub_features_encode(ub_model * m, const float * image, ub_features ** out, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(image);
        REQUIRE_ARGUMENT(out);
        reporter r(call);
        const auto state = m->state;
        auto f = std::make_unique<ub_features>();
        f->features = state->need_grounding().encode(image, r);
        f->state = state;
        *out = f.release();
    });
}

ub_status ub_features_from(ub_model * m, const float * f0, const float * f1, const float * f2, ub_features ** out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(f0);
        REQUIRE_ARGUMENT(f1);
        REQUIRE_ARGUMENT(f2);
        REQUIRE_ARGUMENT(out);
        const auto state = m->state;
        auto f = std::make_unique<ub_features>();
        f->features = state->need_grounding().features_from(f0, f1, f2);
        f->state = state;
        *out = f.release();
    });
}

void ub_features_free(ub_features * f) { delete f; }

void ub_masks_init(ub_masks * out) {
    if (out == nullptr) return;
    *out = {};
    out->size = sizeof *out;
}

ub_status ub_masks_decode(ub_model * m, const ub_features * f, const float * hidden, int32_t n, ub_masks * out, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(hidden);
        const auto state = m->state;
        check_features(state, f);
        UB_REQUIRE(n >= 1 && n <= most_prompts, "%d prompts, want 1 to %d", n, most_prompts);
        ub_masks masks = read_masks(out);
        reporter r(call);
        state->need_grounding().decode(*f->features, hidden, n, masks, r);
    });
}

// ------------------------------------------------------------------------------------------------------ SAM 2: a volume

ub_status ub_track_open(ub_model * m, const float * hidden, ub_track ** out, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(m);
        REQUIRE_ARGUMENT(hidden);
        REQUIRE_ARGUMENT(out);
        const auto state = m->state;
        auto t = std::make_unique<ub_track>();
        t->track = state->need_grounding().open_track(hidden);
        t->state = state;
        *out = t.release();
    });
}

void ub_track_close(ub_track * t) { delete t; }

ub_status ub_track_prompt(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(t);
        check_features(t->state, f);
        UB_REQUIRE(slice >= 0, "slice is %d, want 0 or more", slice);
        ub_masks masks = read_masks(out);
        reporter r(call);
        t->state->need_grounding().prompt(*t->track, slice, *f->features, masks, r);
    });
}

ub_status ub_track_step(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err) {
    return guarded(err, [&] {
        REQUIRE_ARGUMENT(t);
        check_features(t->state, f);
        UB_REQUIRE(slice >= 0, "slice is %d, want 0 or more", slice);
        ub_masks masks = read_masks(out);
        reporter r(call);
        t->state->need_grounding().step(*t->track, slice, *f->features, masks, r);
    });
}

void ub_track_rewind(ub_track * t) {
    if (t != nullptr) guarded(nullptr, [&] { sam2::rewind(*t->track); });
}

// ---------------------------------------------------------------------------------------------------------- quantization

int64_t ub_row_size(const char * type, int64_t row_length) {
    const weight_type * t = find_type(type);
    return t != nullptr ? row_size(*t, row_length) : -1;
}

int32_t ub_type_id(const char * type) {
    const weight_type * t = find_type(type);
    return t != nullptr ? int32_t(t->type) : -1;
}

ub_status ub_quantize(const char * type, const float * src, int64_t rows, int64_t row_length, void * dst, size_t dst_size, int32_t n_threads, ub_error * err) {
    return guarded(err, [&] { quantize(need_type(type), src, rows, row_length, dst, dst_size, n_threads); });
}

ub_status ub_dequantize(const char * type, const void * src, size_t src_size, int64_t rows, int64_t row_length, float * dst, ub_error * err) {
    return guarded(err, [&] { dequantize(need_type(type), src, src_size, rows, row_length, dst); });
}
