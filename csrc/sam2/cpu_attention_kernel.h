// cpu_attention_kernel.h: the operator for one instruction set; cpu_attention.cpp includes it once for each, with UB_KERNEL, the
// name of a namespace, UB_LANES, floats in a vector, UB_VECTORS, vectors of a panel, and UB_ROWS, rows whose sums are held in
// registers: rows * vectors sums, the vectors and a factor have to fit.
//
// A task takes up to `max_rows` rows of q of one head and walks over blocks of keys. For each block it packs K transposed and V
// in padded rows, makes the scores, and keeps a running maximum and sum a row (online softmax, Milakov and Gimelshein 2018,
// arXiv:1805.02867), rescaling what was summed so far when the maximum grows. Both products are outer products of a few rows
// with a few vectors held in registers.

namespace UB_KERNEL {

constexpr int lanes = UB_LANES, panel_vectors = UB_VECTORS, row_group = UB_ROWS;
constexpr int panel = lanes * panel_vectors;  // columns that a pass of the product makes

typedef float   vf __attribute__((vector_size(lanes * 4), aligned(4), may_alias));
typedef int32_t vi __attribute__((vector_size(lanes * 4), aligned(4), may_alias));

inline vf load(const float * p) { return *reinterpret_cast<const vf *>(p); }
inline void store(float * p, vf v) { *reinterpret_cast<vf *>(p) = v; }
inline vf all(float x) { return x - vf{}; }

// exp(x) for x <= 0, to about one unit in the last place: 2^n times a polynomial.
inline vf exponential(vf x) {
    const vf low = all(-87.0f);
    x = x > low ? x : low;
    const vf magic = all(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer in the low bits
    const vf t = x * 1.44269504088896f + magic, n = t - magic;
    const vf r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
    vf p = all(1.9875691500e-4f);  // Cephes expf
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    const vi power = reinterpret_cast<const vi &>(t) << 23;
    const vi bits = reinterpret_cast<const vi &>(p) + power;
    return reinterpret_cast<const vf &>(bits);
}

// out[r][0..V*lanes) = or += sum over i of a[r][i] * b[i][0..V*lanes), for R rows; b's rows are ldb apart. A block's sum is
// made on its own before it is added, which keeps rounding errors of long rows small.
template <int R, int V> inline void product(const float * a, int lda, const float * b, int ldb, float * out, int ldo, int depth, bool accumulate) {
    vf sum[R][V];
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) sum[r][v] = vf{};
    }
    for (int i = 0; i < depth; ++i) {
        vf x[V];
        for (int v = 0; v < V; ++v) x[v] = load(b + int64_t(i) * ldb + v * lanes);
        for (int r = 0; r < R; ++r) {
            const float s = a[r * lda + i];
            for (int v = 0; v < V; ++v) sum[r][v] += s * x[v];
        }
    }
    for (int r = 0; r < R; ++r) {
        for (int v = 0; v < V; ++v) {
            float * to = out + r * ldo + v * lanes;
            store(to, accumulate ? load(to) + sum[r][v] : sum[r][v]);
        }
    }
}

template <int V> void product_rows(const float * a, int lda, const float * b, int ldb, float * out, int ldo, int rows, int depth, bool accumulate) {
    constexpr int group = V == 1 ? 2 * row_group : row_group;  // enough sums at once to hide the latency of one
    int r = 0;
    for (; r + group <= rows; r += group) product<group, V>(a + r * lda, lda, b, ldb, out + r * ldo, ldo, depth, accumulate);
    for (; r < rows; ++r) product<1, V>(a + r * lda, lda, b, ldb, out + r * ldo, ldo, depth, accumulate);
}

// The same over all columns of b, which are a multiple of lanes.
void product_all(const float * a, int lda, const float * b, int ldb, float * out, int ldo, int rows, int columns, int depth, bool accumulate) {
    int c = 0;
    for (; c + panel <= columns; c += panel) product_rows<panel_vectors>(a, lda, b + c, ldb, out + c, ldo, rows, depth, accumulate);
    for (; c < columns; c += lanes) product_rows<1>(a, lda, b + c, ldb, out + c, ldo, rows, depth, accumulate);
}

struct shape {
    int C, padded, rows, keys;  // rows and keys of a block
    explicit shape(int64_t head, int64_t Nq)
        : C(int(head)), padded(up(head, lanes)), rows(int(std::min<int64_t>({rows_floats / padded, max_rows, Nq}))),
          keys(std::max<int>(lanes, std::min<int>(max_keys, int(block_floats / padded)) / lanes * lanes)) {}
};

void attend(const shape & s, buffers & b, const char * q, size_t q_row, int rows, const char * k, size_t k_row, const char * v,
            size_t v_row, int64_t Nk, char * out, size_t out_row) {
    const float scale = 1.0f / std::sqrt(float(s.C));
    for (int r = 0; r < rows; ++r) {
        const float * from = reinterpret_cast<const float *>(q + size_t(r) * q_row);
        for (int c = 0; c < s.C; ++c) b.q[r * s.C + c] = from[c] * scale;
        b.top[r] = -INFINITY;
        b.sum[r] = 0;
    }
    std::memset(b.out, 0, size_t(rows) * size_t(s.padded) * sizeof(float));

    for (int64_t at = 0; at < Nk; at += s.keys) {
        const int n = int(std::min<int64_t>(s.keys, Nk - at)), wide = up(n, lanes);
        for (int j = 0; j < n; ++j) {
            const float * from = reinterpret_cast<const float *>(k + size_t(at + j) * k_row);
            for (int c = 0; c < s.C; ++c) b.k[c * wide + j] = from[c];
            float * to = b.v + j * s.padded;
            std::memcpy(to, v + size_t(at + j) * v_row, size_t(s.C) * sizeof(float));
            for (int c = s.C; c < s.padded; ++c) to[c] = 0;
        }
        for (int c = 0; n < wide && c < s.C; ++c) {
            for (int j = n; j < wide; ++j) b.k[c * wide + j] = 0;
        }
        product_all(b.q, s.C, b.k, wide, b.scores, wide, rows, wide, s.C, false);

        for (int r = 0; r < rows; ++r) {
            float * p = b.scores + r * wide;
            for (int j = n; j < wide; ++j) p[j] = -INFINITY;
            vf most = load(p);
            for (int j = lanes; j < wide; j += lanes) {
                const vf x = load(p + j);
                most = x > most ? x : most;
            }
            float top = b.top[r];
            for (int i = 0; i < lanes; ++i) top = std::max(top, most[i]);
            vf sum = vf{};
            for (int j = 0; j < wide; j += lanes) {
                vf e = exponential(load(p + j) - top);
                if (j + lanes > n) {
                    for (int i = n - j; i < lanes; ++i) e[i] = 0;
                }
                store(p + j, e);
                sum += e;
            }
            float total = 0;
            for (int i = 0; i < lanes; ++i) total += sum[i];
            if (top > b.top[r]) {  // also for the first block, whose sums are zero
                const float shrink = std::exp(b.top[r] - top);
                float * o = b.out + r * s.padded;
                for (int c = 0; c < s.padded; c += lanes) store(o + c, load(o + c) * shrink);
                b.sum[r] *= shrink;
                b.top[r] = top;
            }
            b.sum[r] += total;
        }
        product_all(b.scores, wide, b.v, s.padded, b.out, s.padded, rows, s.padded, n, true);
    }

    for (int r = 0; r < rows; ++r) {
        float * to = reinterpret_cast<float *>(out + size_t(r) * out_row);
        const float * from = b.out + r * s.padded;
        const float by = 1.0f / b.sum[r];
        for (int c = 0; c < s.C; ++c) to[c] = from[c] * by;
    }
}

// The operator. user is the number of heads.
void compute(ggml_tensor * dst, int ith, int nth, void * user) {
    const ggml_tensor * q = dst->src[0], * k = dst->src[1], * v = dst->src[2];
    const int64_t heads = int64_t(reinterpret_cast<intptr_t>(user)), C = q->ne[0] / heads, Nq = q->ne[1], Nk = k->ne[1], B = q->ne[2];
    const shape s(C, Nq);
    const int64_t parts = (Nq + s.rows - 1) / s.rows, tasks = B * heads * parts;
    const int64_t first = tasks * ith / nth, last = tasks * (ith + 1) / nth;
    buffers b;
    for (int64_t t = first; t < last; ++t) {
        const int64_t part = t % parts, h = t / parts % heads, item = t / parts / heads, row = part * s.rows;
        const size_t head = size_t(h * C) * sizeof(float);
        auto at = [&](const ggml_tensor * x, int64_t r) {
            return static_cast<char *>(x->data) + size_t(item) * x->nb[2] + size_t(r) * x->nb[1] + head;
        };
        attend(s, b, at(q, row), q->nb[1], int(std::min<int64_t>(s.rows, Nq - row)), at(k, 0), k->nb[1], at(v, 0), v->nb[1], Nk,
               at(dst, row), dst->nb[1]);
    }
}

} // namespace UB_KERNEL

#undef UB_KERNEL
#undef UB_LANES
#undef UB_VECTORS
#undef UB_ROWS
