// weights.cpp: see weights.h.

#include "weights.h"

#include "onednn/accel.h"
#include "types.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <thread>

#include <sys/mman.h>

namespace ub {

// The whole file, mapped for reading.
struct weights::mapping {
    void * base;
    size_t size;

    explicit mapping(const gguf_file & f) : base(nullptr), size(size_t(f.size())) {
        base = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, f.descriptor(), 0);
        if (base == MAP_FAILED) fail(UB_E_IO, "%s: can't be mapped: %s", f.path().c_str(), std::strerror(errno));
    }
    ~mapping() { ::munmap(base, size); }
};

bool is_matrix_type(ggml_type type) { return find_type(type) != nullptr; }

weights::weights(std::shared_ptr<const gguf_file> file) : file_(std::move(file)) {
    ggml_init_params params = {ggml_tensor_overhead() * (file_->tensors().size() + 1), nullptr, /*no_alloc=*/true};
    ctx_.reset(ggml_init(params));
    if (!ctx_) throw std::bad_alloc();
    for (const auto & t : file_->tensors()) {
        tensors_.push_back(ggml_set_name(ggml_new_tensor(ctx_.get(), t.type, t.n_dims, t.ne), t.name.c_str()));
    }
}

weights::~weights() = default;

namespace {

std::string shape_text(const int64_t ne[4], int least) {
    int n = 4;
    while (n > least && ne[n - 1] == 1) --n;
    std::string s = "[";  // slowest axis first, as the model folder's page writes shapes
    for (int i = n - 1; i >= 0; --i) s += std::to_string(ne[i]) + (i > 0 ? ", " : "]");
    return s;
}

// Adds an item to a list that names the first few and counts all.
void list(std::string & text, int & count, const std::string & item) {
    constexpr int shown = 6;
    if (count < shown) text += (count > 0 ? ", " : "") + item;
    if (count == shown) text += ", ...";
    ++count;
}

} // namespace

ggml_tensor * weights::expect(const std::string & name, std::initializer_list<int64_t> ne, bool any_matrix_type) {
    expected_.insert(name);
    const auto * t = file_->find(name);
    if (t == nullptr) {
        list(missing_, n_missing_, "'" + name + "'");
        return nullptr;
    }
    int64_t want[4] = {1, 1, 1, 1};
    std::copy(ne.begin(), ne.end(), want);
    if (!std::equal(want, want + 4, t->ne)) {
        const int least = std::max(1, int(ne.size()));
        list(wrong_, n_wrong_, format("'%s' is %s, want %s", name.c_str(), shape_text(t->ne, least).c_str(), shape_text(want, least).c_str()));
        return nullptr;
    }
    if (any_matrix_type ? !is_matrix_type(t->type) : t->type != GGML_TYPE_F32) {
        list(wrong_, n_wrong_, format("'%s' is of type %s, want %s", name.c_str(), ggml_type_name(t->type), any_matrix_type ? "a weight type" : "f32"));
        return nullptr;
    }
    return tensors_[size_t(t - file_->tensors().data())];
}

ggml_tensor * weights::matrix(const std::string & name, std::initializer_list<int64_t> ne) { return expect(name, ne, true); }
ggml_tensor * weights::f32(const std::string & name, std::initializer_list<int64_t> ne) { return expect(name, ne, false); }

linear_weights weights::linear(const std::string & name, int64_t in, int64_t out, bool bias) {
    return {matrix(name + ".weight", {in, out}), bias ? f32(name + ".bias", {out}) : nullptr};
}

linear_weights weights::linear_f32(const std::string & name, int64_t in, int64_t out, bool bias) {
    return {f32(name + ".weight", {in, out}), bias ? f32(name + ".bias", {out}) : nullptr};
}

norm_weights weights::norm(const std::string & name, int64_t n) {
    return {f32(name + ".weight", {n}), f32(name + ".bias", {n})};
}

void weights::finish() {
    std::string unexpected;
    int n_unexpected = 0;
    for (const auto & t : file_->tensors()) {
        if (expected_.count(t.name) == 0) list(unexpected, n_unexpected, "'" + t.name + "'");
    }
    std::string all;
    if (n_missing_ > 0)    all += format("; %d missing: %s", n_missing_, missing_.c_str());
    if (n_wrong_ > 0)      all += format("; %d wrong: %s", n_wrong_, wrong_.c_str());
    if (n_unexpected > 0)  all += format("; %d unexpected: %s", n_unexpected, unexpected.c_str());
    if (!all.empty()) fail(UB_E_FORMAT, "%s: tensors do not fit the keys%s", file_->path().c_str(), all.c_str());
}

bool weights::packs(const ggml_tensor * t) const {
    return accel::int8_buffer_type() != nullptr && accel::can_pack(t) &&
           std::any_of(packable_.begin(), packable_.end(), [&](const std::string & p) { return std::strncmp(t->name, p.c_str(), p.size()) == 0; });
}

void weights::load(const device & dev, reporter & r) {
    if (dev.is_cpu()) {
        map_ = std::make_unique<mapping>(*file_);
        const size_t start = size_t(file_->data_offset());
        buffer_.reset(ggml_backend_cpu_buffer_from_ptr(static_cast<char *>(map_->base) + start, map_->size - start));
        if (!buffer_) throw std::bad_alloc();
        ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
        std::vector<size_t> packed;
        size_t size = 0;
        for (size_t i = 0; i < tensors_.size(); ++i) {
            if (packs(tensors_[i])) {
                packed.push_back(i);
                size += GGML_PAD(ggml_backend_buft_get_alloc_size(accel::int8_buffer_type(), tensors_[i]), 64);
            } else {
                ggml_backend_tensor_alloc(buffer_.get(), tensors_[i], static_cast<char *>(map_->base) + file_->tensors()[i].offset);
            }
        }
        if (!packed.empty()) {
            packed_.reset(ggml_backend_buft_alloc_buffer(accel::int8_buffer_type(), size));
            if (!packed_) fail(UB_E_NOMEM, "%s: %zu bytes of packed weights can't be allocated", file_->path().c_str(), size);
            ggml_backend_buffer_set_usage(packed_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
            char * at = static_cast<char *>(ggml_backend_buffer_get_base(packed_.get()));
            for (size_t i : packed) {
                ggml_backend_tensor_alloc(packed_.get(), tensors_[i], at);
                at += GGML_PAD(ggml_backend_buft_get_alloc_size(accel::int8_buffer_type(), tensors_[i]), 64);
            }
            std::atomic<size_t> next{0};
            auto work = [&] {
                accel::from_mapping dropped;
                for (size_t k; (k = next++) < packed.size();) {
                    const auto & t = file_->tensors()[packed[k]];
                    ggml_backend_tensor_set(tensors_[packed[k]], static_cast<const char *>(map_->base) + t.offset, 0, size_t(t.size));
                }
            };
            std::vector<std::thread> pool;
            // one processor is left to the language model, which opens at the same time and is waited for
            for (int i = 1; i < dev.n_threads() - 1; ++i) {
                try { pool.emplace_back(work); } catch (const std::system_error &) { break; }  // fewer threads do it as well
            }
            work();
            for (auto & th : pool) th.join();
            ::madvise(map_->base, map_->size, MADV_DONTNEED);  // what faults mapped around the packed tensors, too; the rest comes back on use
        }
        r.step(1);
        return;
    }

    buffer_.reset(ggml_backend_alloc_ctx_tensors_from_buft(ctx_.get(), ggml_backend_dev_buffer_type(dev.main())));
    if (!buffer_) fail(UB_E_NOMEM, "%s: %llu bytes of weights do not fit on device %s", file_->path().c_str(),
                       (unsigned long long) bytes(), dev.name().c_str());
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    std::vector<char> chunk(size_t(16) << 20);
    uint64_t done = 0;
    for (size_t i = 0; i < tensors_.size(); ++i) {
        const auto & t = file_->tensors()[i];
        for (uint64_t at = 0; at < t.size; at += chunk.size()) {
            const size_t n = size_t(std::min<uint64_t>(chunk.size(), t.size - at));
            file_->read(t.offset + at, chunk.data(), n);
            ggml_backend_tensor_set(tensors_[i], chunk.data(), size_t(at), n);
            r.step(float(double(done += n) / double(bytes())));
        }
    }
}

void weights::pretend(const device & dev) {
    ggml_backend_buffer_type_t type = dev.is_cpu() ? ggml_backend_cpu_buffer_type() : ggml_backend_dev_buffer_type(dev.main());
    buffer_.reset(ggml_backend_buft_alloc_buffer(type, 0));
    if (!buffer_) throw std::bad_alloc();
    ggml_backend_buffer_set_usage(buffer_.get(), GGML_BACKEND_BUFFER_USAGE_WEIGHTS);
    if (dev.is_cpu() && accel::int8_buffer_type() != nullptr) packed_.reset(ggml_backend_buft_alloc_buffer(accel::int8_buffer_type(), 0));
    for (ggml_tensor * t : tensors_) t->buffer = packed_ && packs(t) ? packed_.get() : buffer_.get();
}

} // namespace ub
