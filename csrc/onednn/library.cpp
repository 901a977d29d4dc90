// library.cpp: see library.h.

#include "onednn/library.h"

#include <dnnl.h>

#include <dlfcn.h>

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <stdexcept>
#include <unordered_map>
#include <vector>

namespace ub::onednn {

namespace {

#define UB_DNNL_FUNCTIONS(X)                                                                                             \
    X(version) X(engine_create) X(stream_create) X(primitive_desc_query_md) X(primitive_desc_destroy)                     \
    X(primitive_create) X(primitive_destroy) X(primitive_execute) X(memory_desc_get_size) X(memory_create) X(memory_destroy)  \
    X(memory_set_data_handle) X(primitive_attr_create) X(primitive_attr_destroy) X(primitive_attr_set_scratchpad_mode)   \
    X(primitive_attr_set_post_ops) X(post_ops_create) X(post_ops_destroy) X(post_ops_append_sum) X(reorder_primitive_desc_create)
#if DNNL_VERSION_MAJOR >= 3
#  define UB_DNNL_OF_MAJOR(X) X(memory_desc_create_with_strides) X(memory_desc_create_with_tag) X(memory_desc_clone) X(memory_desc_destroy) X(matmul_primitive_desc_create)
#else
#  define UB_DNNL_OF_MAJOR(X) X(memory_desc_init_by_strides) X(memory_desc_init_by_tag) X(matmul_desc_init) X(primitive_desc_create)
#endif

struct library {
#define X(name) decltype(&dnnl_##name) name = nullptr;
    UB_DNNL_FUNCTIONS(X) UB_DNNL_OF_MAJOR(X)
#undef X
    void (*omp_set_num_threads)(int) = nullptr;
    int (*omp_get_max_threads)()     = nullptr;
    dnnl_engine_t engine             = nullptr;
    bool          ready              = false;
    std::string   text;

    library() {
#if defined(__APPLE__)
        const std::string file = "libdnnl." + std::to_string(DNNL_VERSION_MAJOR) + ".dylib";
#else
        const std::string file = "libdnnl.so." + std::to_string(DNNL_VERSION_MAJOR);
#endif
        void * handle = dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle == nullptr) {
            text = "no oneDNN (" + file + " is not installed)";
            return;
        }
        bool all = true;
        auto find = [&](auto & f, const char * name) {
            f = reinterpret_cast<std::decay_t<decltype(f)>>(dlsym(handle, name));
            return f != nullptr;
        };
#define X(name) all = find(name, "dnnl_" #name) && all;
        UB_DNNL_FUNCTIONS(X) UB_DNNL_OF_MAJOR(X)
#undef X
        if (!all) {
            text = "no oneDNN (" + file + " lacks functions)";
            return;
        }
        const dnnl_version_t * v = version();
        text = "oneDNN " + std::to_string(v->major) + "." + std::to_string(v->minor) + "." + std::to_string(v->patch);
        if (v->cpu_runtime == DNNL_RUNTIME_OMP) {
            // the OpenMP that oneDNN itself was linked with, found among what it brought along
            if (!find(omp_set_num_threads, "omp_set_num_threads") || !find(omp_get_max_threads, "omp_get_max_threads")) {
                text = "no oneDNN (the OpenMP of " + file + " is not found)";
                return;
            }
        } else if (v->cpu_runtime != DNNL_RUNTIME_SEQ) {
            text = "no oneDNN (" + file + " has threads of its own; wanted: OpenMP, or none)";
            return;
        }
        ready = engine_create(&engine, dnnl_cpu, 0) == dnnl_success;
        if (!ready) text = "no oneDNN (" + file + " can't make an engine)";
    }
};

library & lib() {
    static library * l = new library;  // for as long as threads may use it
    return *l;
}

void check(dnnl_status_t status, const char * what) {
    if (status == dnnl_success) return;
    if (status == dnnl_out_of_memory) throw std::bad_alloc();
    throw std::runtime_error(std::string("oneDNN: ") + what + " failed with status " + std::to_string(int(status)));
}

// A memory descriptor that both major versions can hold.
class layout {
  public:
    layout(dnnl_data_type_t type, int64_t rows, int64_t columns, int64_t row_stride, int64_t column_stride) {
        const dnnl_dims_t dims = {rows, columns}, strides = {row_stride, column_stride};
#if DNNL_VERSION_MAJOR >= 3
        check(lib().memory_desc_create_with_strides(&d, 2, dims, type, strides), "memory_desc_create_with_strides");
#else
        check(lib().memory_desc_init_by_strides(&d, 2, dims, type, strides), "memory_desc_init_by_strides");
#endif
    }
    // as the library likes it
    layout(dnnl_data_type_t type, int64_t rows, int64_t columns) {
        const dnnl_dims_t dims = {rows, columns};
#if DNNL_VERSION_MAJOR >= 3
        check(lib().memory_desc_create_with_tag(&d, 2, dims, type, dnnl_format_tag_any), "memory_desc_create_with_tag");
#else
        check(lib().memory_desc_init_by_tag(&d, 2, dims, type, dnnl_format_tag_any), "memory_desc_init_by_tag");
#endif
    }
    // a copy of the library's own
#if DNNL_VERSION_MAJOR >= 3
    explicit layout(const_dnnl_memory_desc_t other) { check(lib().memory_desc_clone(&d, other), "memory_desc_clone"); }
#else
    explicit layout(const dnnl_memory_desc_t * other) : d(*other) {}
#endif
    layout(const layout &) = delete;
#if DNNL_VERSION_MAJOR >= 3
    ~layout() { lib().memory_desc_destroy(d); }
    const_dnnl_memory_desc_t get() const { return d; }
  private:
    dnnl_memory_desc_t d = nullptr;
#else
    const dnnl_memory_desc_t * get() const { return &d; }
  private:
    dnnl_memory_desc_t d;
#endif
};

dnnl_data_type_t type_of_a(numbers t) { return t == numbers::u8s8 ? dnnl_u8 : t == numbers::f32 ? dnnl_f32 : dnnl_bf16; }
dnnl_data_type_t type_of_b(numbers t) { return t == numbers::u8s8 ? dnnl_s8 : t == numbers::f32 ? dnnl_f32 : dnnl_bf16; }
dnnl_data_type_t type_of_c(numbers t) { return t == numbers::u8s8 ? dnnl_s32 : dnnl_f32; }

// A product's primitive descriptor.
struct description {
    dnnl_primitive_desc_t pd = nullptr;

    // weights: B's layout where it is packed; null lets the library choose
    description(const product & p, const layout * weights) {
        const library & l = lib();
        const layout a(type_of_a(p.type), p.m, p.k, p.a, 1), c(type_of_c(p.type), p.m, p.n, p.c, 1);
        std::unique_ptr<layout> b;
        if (p.b_layout != product::packed) b = std::make_unique<layout>(type_of_b(p.type), p.k, p.n, p.b_layout == product::rows ? p.b : 1, p.b_layout == product::rows ? 1 : p.b);
        else if (weights == nullptr) b = std::make_unique<layout>(type_of_b(p.type), p.k, p.n);
        const layout & of_b = b != nullptr ? *b : *weights;

        dnnl_primitive_attr_t attr = nullptr;
        check(l.primitive_attr_create(&attr), "primitive_attr_create");
        dnnl_status_t status = l.primitive_attr_set_scratchpad_mode(attr, dnnl_scratchpad_mode_user);
        if (status == dnnl_success && p.accumulate) {
            dnnl_post_ops_t ops = nullptr;
            status = l.post_ops_create(&ops);
#if DNNL_VERSION_MAJOR >= 3
            if (status == dnnl_success) status = l.post_ops_append_sum(ops, 1.0f, 0, dnnl_data_type_undef);
#else
            if (status == dnnl_success) status = l.post_ops_append_sum(ops, 1.0f);
#endif
            if (status == dnnl_success) status = l.primitive_attr_set_post_ops(attr, ops);
            if (ops != nullptr) l.post_ops_destroy(ops);
        }
#if DNNL_VERSION_MAJOR >= 3
        if (status == dnnl_success) status = l.matmul_primitive_desc_create(&pd, l.engine, a.get(), of_b.get(), nullptr, c.get(), attr);
#else
        dnnl_matmul_desc_t d;
        if (status == dnnl_success) status = l.matmul_desc_init(&d, a.get(), of_b.get(), nullptr, c.get());
        if (status == dnnl_success) status = l.primitive_desc_create(&pd, &d, attr, l.engine, nullptr);
#endif
        l.primitive_attr_destroy(attr);
        check(status, "a matrix product");
    }
    ~description() { lib().primitive_desc_destroy(pd); }
    description(const description &) = delete;

    auto md(dnnl_query_t what) const { return lib().primitive_desc_query_md(pd, what, 0); }
};

// The product that B is packed for: its layout holds for any number of rows.
description packing(numbers type, int32_t k, int32_t n) { return description({type, product::packed, false, 128, n, k, (k + 63) / 64 * 64, 0, n}, nullptr); }

// A product that is ready to run.
struct primitive {
    dnnl_primitive_t p = nullptr;
    dnnl_memory_t    a = nullptr, b = nullptr, c = nullptr, scratch = nullptr;
    size_t           scratch_size = 0;

    explicit primitive(const product & s) {
        const library & l = lib();
        try {
            std::unique_ptr<layout> weights;
            if (s.b_layout == product::packed) weights = std::make_unique<layout>(packing(s.type, s.k, s.n).md(dnnl_query_weights_md));
            const description d(s, weights.get());
            auto memory = [&](dnnl_memory_t & m, dnnl_query_t what) { check(l.memory_create(&m, d.md(what), l.engine, nullptr), "memory_create"); };
            memory(a, dnnl_query_src_md);
            memory(b, dnnl_query_weights_md);
            memory(c, dnnl_query_dst_md);
            scratch_size = l.memory_desc_get_size(d.md(dnnl_query_scratchpad_md));
            if (scratch_size > 0) memory(scratch, dnnl_query_scratchpad_md);
            check(l.primitive_create(&p, d.pd), "primitive_create");
        } catch (...) {
            free();
            throw;
        }
    }
    ~primitive() { free(); }
    primitive(const primitive &) = delete;

  private:
    void free() {
        if (p != nullptr) lib().primitive_destroy(p);
        for (dnnl_memory_t m : {a, b, c, scratch}) {
            if (m != nullptr) lib().memory_destroy(m);
        }
    }
};

struct key_hash {
    size_t operator()(const product & p) const {
        uint64_t h = 0;
        for (uint64_t v : {uint64_t(p.type) * 8 + uint64_t(p.b_layout) * 2 + uint64_t(p.accumulate), uint64_t(p.m), uint64_t(p.n), uint64_t(p.k),
                           uint64_t(p.a), uint64_t(p.b), uint64_t(p.c)}) {
            h = (h ^ v) * 0x9e3779b97f4a7c15u;
            h ^= h >> 29;
        }
        return size_t(h);
    }
};
struct key_equal {
    bool operator()(const product & x, const product & y) const {
        return x.type == y.type && x.b_layout == y.b_layout && x.accumulate == y.accumulate && x.m == y.m && x.n == y.n && x.k == y.k && x.a == y.a &&
               x.b == y.b && x.c == y.c;
    }
};

// What a thread keeps: its stream, its primitives by shape, its scratch memory.
struct thread_state {
    static constexpr size_t most = 1024;  // primitives; lengths of prompts vary without end

    dnnl_stream_t stream = nullptr;
    std::unordered_map<product, std::unique_ptr<primitive>, key_hash, key_equal> primitives;
    std::vector<char> scratch;

    primitive & get(const product & p) {
        if (stream == nullptr) check(lib().stream_create(&stream, lib().engine, dnnl_stream_default_flags), "stream_create");
        auto it = primitives.find(p);
        if (it == primitives.end()) {
            if (primitives.size() >= most) primitives.clear();
            it = primitives.emplace(p, std::make_unique<primitive>(p)).first;
        }
        if (scratch.size() < it->second->scratch_size + 64) scratch.resize(it->second->scratch_size + 64);
        return *it->second;
    }
};

thread_state & mine() {
    static thread_local thread_state s;
    return s;
}

} // namespace

bool available() { return lib().ready; }
const std::string & version() { return lib().text; }

void multiply(const product & p, const void * A, const void * B, void * C) {
    if (p.m == 0 || p.n == 0) return;
    thread_state & t = mine();
    primitive & x = t.get(p);
    const library & l = lib();
    void * scratch = t.scratch.data() + (64 - reinterpret_cast<uintptr_t>(t.scratch.data()) % 64) % 64;
    check(l.memory_set_data_handle(x.a, const_cast<void *>(A)), "memory_set_data_handle");
    check(l.memory_set_data_handle(x.b, const_cast<void *>(B)), "memory_set_data_handle");
    check(l.memory_set_data_handle(x.c, C), "memory_set_data_handle");
    if (x.scratch != nullptr) check(l.memory_set_data_handle(x.scratch, scratch), "memory_set_data_handle");
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_SRC, x.a}, {DNNL_ARG_WEIGHTS, x.b}, {DNNL_ARG_DST, x.c}, {DNNL_ARG_SCRATCHPAD, x.scratch}};
    check(l.primitive_execute(x.p, t.stream, x.scratch != nullptr ? 4 : 3, args), "a matrix product");
}

size_t packed_size(numbers type, int32_t k, int32_t n) {
    return lib().memory_desc_get_size(packing(type, k, n).md(dnnl_query_weights_md));
}

void pack(numbers type, int32_t k, int32_t n, const void * rows, void * packed) {
    const library & l = lib();
    const description d = packing(type, k, n);
    const layout from(type_of_b(type), k, n, 1, k);
    dnnl_primitive_desc_t pd = nullptr;
    dnnl_primitive_t reorder = nullptr;
    dnnl_memory_t src = nullptr, dst = nullptr;
    dnnl_stream_t stream = nullptr;
    dnnl_status_t status = l.reorder_primitive_desc_create(&pd, from.get(), l.engine, d.md(dnnl_query_weights_md), l.engine, nullptr);
    if (status == dnnl_success) status = l.primitive_create(&reorder, pd);
    if (status == dnnl_success) status = l.memory_create(&src, from.get(), l.engine, const_cast<void *>(rows));
    if (status == dnnl_success) status = l.memory_create(&dst, d.md(dnnl_query_weights_md), l.engine, packed);
    if (status == dnnl_success && mine().stream == nullptr) status = l.stream_create(&mine().stream, l.engine, dnnl_stream_default_flags);
    stream = mine().stream;
    const dnnl_exec_arg_t args[] = {{DNNL_ARG_FROM, src}, {DNNL_ARG_TO, dst}};
    if (status == dnnl_success) status = l.primitive_execute(reorder, stream, 2, args);
    for (dnnl_memory_t m : {src, dst}) {
        if (m != nullptr) l.memory_destroy(m);
    }
    if (reorder != nullptr) l.primitive_destroy(reorder);
    if (pd != nullptr) l.primitive_desc_destroy(pd);
    check(status, "packing weights");
}

one_thread::one_thread() : before(0) {
    if (lib().omp_set_num_threads == nullptr) return;
    before = lib().omp_get_max_threads();
    if (before != 1) lib().omp_set_num_threads(1);
}

one_thread::~one_thread() {
    if (before > 1) lib().omp_set_num_threads(before);
}

} // namespace ub::onednn
