// model.cpp: see model.h.

#include "model.h"

#include "quantize.h"

#include <algorithm>
#include <numeric>

namespace ub {

model_files::model_files(const ub_model_files & paths) {
    auto open = [](const char * path) { return path != nullptr ? std::make_shared<const gguf_file>(path) : nullptr; };
    language  = open(paths.language);
    vision    = open(paths.vision);
    grounding = open(paths.grounding);
    UB_REQUIRE(language || vision || grounding, "no file is given");
}

void model_files::check(bool vocab_only) const {
    if (vocab_only) {
        UB_REQUIRE(language != nullptr, "vocab_only needs the language file");
        ub::language::check(language, true);
        return;
    }
    if (language) ub::language::check(language, false);
    if (vision) ub::vision::check(vision);
    if (grounding) sam2::check(grounding);

    auto same = [](const gguf_file * a, const char * key_a, const gguf_file * b, const char * key_b) {
        if (a == nullptr || b == nullptr || a->u32(key_a) == b->u32(key_b)) return;
        fail(UB_E_FORMAT, "files of different models: %s has %s %u, %s has %s %u", a->path().c_str(), key_a, a->u32(key_a), b->path().c_str(), key_b, b->u32(key_b));
    };
    same(vision.get(), "vision.projection_length", language.get(), "qwen2.embedding_length");
    same(grounding.get(), "grounding.input_length", language.get(), "qwen2.embedding_length");
    same(vision.get(), "vision.projection_length", grounding.get(), "grounding.input_length");
}

ub_model_info describe(const model_files & f, bool vocab_only) {
    ub_model_info i{};
    i.size = sizeof i;
    if (f.language) {
        const auto h  = language_hparams::read(*f.language, vocab_only);
        i.n_vocab     = h.n_vocab;
        i.n_embd      = h.n_embd;
        i.n_layer     = h.n_layer;
        i.n_ctx_train = h.n_ctx_train;
    }
    if (f.vision && !vocab_only) {
        const auto h     = vision_hparams::read(*f.vision);
        i.tile_size      = h.image_size;
        i.tile_tokens    = h.tile_tokens();
        i.tile_min       = h.tiles_min;
        i.tile_max       = h.tiles_max;
        i.tile_thumbnail = h.thumbnail;
        i.vit_tokens     = h.tokens();
        i.vit_embd       = h.width;
        if (i.n_embd == 0) i.n_embd = h.projection;
        std::copy_n(h.mean, 3, i.tile_mean);
        std::copy_n(h.std, 3, i.tile_std);
    }
    if (f.grounding && !vocab_only) {
        const auto h        = sam2_hparams::read(*f.grounding);
        i.mask_image_size   = h.image_size;
        i.mask_size         = h.mask_side();
        i.mask_embd         = h.width;
        i.n_masks           = h.n_masks;
        i.feature_size      = h.feature_side();
        i.memory_embd       = h.memory_width;
        i.n_maskmem         = h.slice_count;
        i.n_prompted_slices = h.prompted_slices;
        if (i.n_embd == 0) i.n_embd = h.input;
        std::copy_n(h.mean, 3, i.mask_image_mean);
        std::copy_n(h.std, 3, i.mask_image_std);
    }
    return i;
}

ub_memory_plan plan(const model_files & f, const ub_model_params & params, std::shared_ptr<const device> dev) {
    ub_memory_plan p{};
    p.size = sizeof p;
    p.available = params.memory_limit > 0 ? params.memory_limit : dev->memory_free();
    if (params.vocab_only) return p;
    if (f.language) {
        const auto h       = language_hparams::read(*f.language, false);
        const auto m       = language::measure(h, *dev, params.n_ctx, h.kv_type(params.kv_cache));
        p.weights_language = f.language->data_size();
        p.kv_cache         = m.kv_cache;
        p.compute_language = m.compute;
    }
    if (f.vision) {
        p.weights_vision = f.vision->data_size();
        p.compute_vision = vision::measure(f.vision, dev, int(params.tile_batch));
    }
    if (f.grounding) {
        const auto m        = sam2::measure(f.grounding, dev, int(params.mask_batch));
        p.weights_grounding = f.grounding->data_size();
        p.compute_features  = m.encode;
        p.compute_masks     = m.masks;
        p.compute_memory    = m.memory;
        p.features          = m.features;
    }
    // on a CPU the stages of images give their buffers back, so only the largest counts; on a GPU they keep them
    const uint64_t stages = dev->is_cpu() ? std::max({p.compute_vision, p.compute_features, p.compute_masks})
                                          : p.compute_vision + p.compute_features + p.compute_masks;
    p.total = p.weights_language + p.weights_vision + p.weights_grounding + p.kv_cache + p.compute_language + p.features + stages;
    return p;
}

model::model(const ub_model_files & paths, const ub_model_params & p, reporter & r) {
    const bool vocab_only = p.vocab_only != 0;
    const model_files files(paths);
    files.check(vocab_only);
    dev  = device::open(p.device, p.n_threads);
    info = describe(files, vocab_only);

    const ub_memory_plan m = plan(files, p, dev);
    if (m.total > m.available) {
        fail(UB_E_NOMEM, "the plan needs %llu bytes on device %s, %s is %llu: weights %llu, KV cache %llu, working memory %llu (language) %llu (vision) "
             "%llu (features) %llu (masks), features %llu", (unsigned long long) m.total, dev->name().c_str(),
             p.memory_limit > 0 ? "the limit" : "free", (unsigned long long) m.available,
             (unsigned long long) (m.weights_language + m.weights_vision + m.weights_grounding), (unsigned long long) m.kv_cache,
             (unsigned long long) m.compute_language, (unsigned long long) m.compute_vision, (unsigned long long) m.compute_features,
             (unsigned long long) m.compute_masks, (unsigned long long) m.features);
    }

    // The language model takes longest to open; the image parts are opened beside it, and only the caller's thread reports. On a CPU,
    // where nothing but packing weights is left to do, nobody waits for them before the first image.
    if (!vocab_only) {
        images = std::async(std::launch::async | std::launch::deferred, [this, files, tiles = int(p.tile_batch), masks = int(p.mask_batch)] {
            reporter silent;
            if (files.vision) tower = std::make_unique<vision>(files.vision, dev, tiles, silent);
            if (files.grounding) grounding = sam2::load(files.grounding, dev, masks, totals, silent);
        }).share();
    }
    if (files.language) lm = std::make_unique<language>(files.language, dev, p.n_ctx, p.kv_cache, vocab_only, totals, r);
    if (images.valid() && (!dev->is_cpu() || lm == nullptr)) images.get();
    r.range(0, 1);
    r.step(1);
}

language & model::need_language() const {
    UB_REQUIRE(lm != nullptr, "the model was opened without its language file");
    return *lm;
}

language & model::need_weights() const {
    UB_REQUIRE(!need_language().vocab_only, "the model was opened for its tokenizer only");
    return *lm;
}

vision & model::need_vision() const {
    if (images.valid()) images.get();
    UB_REQUIRE(tower != nullptr, "the model was opened without its vision file");
    return *tower;
}

sam2 & model::need_grounding() const {
    if (images.valid()) images.get();
    UB_REQUIRE(grounding != nullptr, "the model was opened without its grounding file");
    return *grounding;
}

double peak_rate(const device & dev, const weight_type & type, int n, float seconds) {
    UB_REQUIRE(n >= 1 && n <= 16384 && row_size(type, n) > 0, "n is %d, want 1 to 16384 and a multiple of %lld for %s", n,
               (long long) ggml_blck_size(type.type), type.name);
    UB_REQUIRE(seconds >= 0 && seconds <= 600, "seconds is %g, want 0 to 600", double(seconds));
    const uint64_t elements = uint64_t(n) * uint64_t(n), need = uint64_t(n) * uint64_t(row_size(type, n)) + 2 * elements * sizeof(float);
    if (const uint64_t free = dev.memory_free(); need > free) {
        fail(UB_E_NOMEM, "products of %d need %llu bytes, device %s has %llu free", n, (unsigned long long) need, dev.name().c_str(), (unsigned long long) free);
    }

    std::vector<float> values(elements);
    for (size_t i = 0; i < values.size(); ++i) values[i] = float(int((i * 2654435761u) >> 16 & 255) - 128) / 128.0f;
    std::vector<char> stored(size_t(n) * size_t(row_size(type, n)));
    quantize(type, values.data(), n, n, stored.data(), stored.size(), dev.n_threads());

    auto backends = dev.backends();
    std::vector<ggml_backend_t> raw;
    for (auto & b : backends) raw.push_back(b.get());

    ggml_init_params params = {4 * ggml_tensor_overhead() + ggml_graph_overhead(), nullptr, true};
    ggml_context_ptr weight_ctx(ggml_init(params)), rows_ctx(ggml_init(params)), ctx(ggml_init(params));
    if (!weight_ctx || !rows_ctx || !ctx) throw std::bad_alloc();
    ggml_tensor * w = ggml_new_tensor_2d(weight_ctx.get(), type.type, n, n), * x = ggml_new_tensor_2d(rows_ctx.get(), GGML_TYPE_F32, n, n);
    // q8_0 lies as in a model: packed, where products of int8 are on
    ggml_backend_buffer_type_t plain = ggml_backend_get_default_buffer_type(raw.front());
    const bool packs = dev.is_cpu() && accel::int8_buffer_type() != nullptr && accel::can_pack(w);
    ggml_backend_buffer_ptr weight(ggml_backend_alloc_ctx_tensors_from_buft(weight_ctx.get(), packs ? accel::int8_buffer_type() : plain));
    ggml_backend_buffer_ptr rows(ggml_backend_alloc_ctx_tensors_from_buft(rows_ctx.get(), plain));
    if (!weight || !rows) fail(UB_E_NOMEM, "%llu bytes can't be allocated on device %s", (unsigned long long) need, dev.name().c_str());
    ggml_backend_buffer_set_usage(weight.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    ggml_backend_tensor_set(w, stored.data(), 0, stored.size());
    ggml_backend_tensor_set(x, values.data(), 0, values.size() * sizeof(float));

    ggml_cgraph * gf = ggml_new_graph(ctx.get());
    ggml_build_forward_expand(gf, ggml_mul_mat(ctx.get(), w, x));
    ggml_backend_sched_ptr sched(ggml_backend_sched_new(raw.data(), nullptr, int(raw.size()), 64, false, false));
    if (!sched) throw std::bad_alloc();

    turn my_turn(dev.turns);
    double best = 0;
    for (const uint64_t start = now_ns(); best == 0 || double(now_ns() - start) < double(seconds) * 1e9;) {
        const uint64_t t = now_ns();
        const ggml_status status = ggml_backend_sched_graph_compute(sched.get(), gf);
        const uint64_t took = std::max<uint64_t>(1, now_ns() - t);
        if (status != GGML_STATUS_SUCCESS) fail(UB_E_DEVICE, "device %s failed with ggml status %d", dev.name().c_str(), int(status));
        best = std::max(best, 2.0 * double(n) * double(n) * double(n) * 1e9 / double(took));
    }
    return best;
}

} // namespace ub
