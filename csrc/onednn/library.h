// library.h: oneDNN, loaded at run time, as matrix products of one thread.
//
// Nothing of oneDNN is linked: a machine without it runs on ggml alone. Threads are ggml's; each runs whole products by itself,
// so oneDNN's own threads never start.

#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace ub::onednn {

// Whether the library is there, in the major version that this build was compiled for. The first call loads it.
bool available();
// "oneDNN 2.6.3", or why there is none.
const std::string & version();

enum class numbers { u8s8, f32, bf16 };  // u8 rows by s8 weights to s32; f32 or bf16 products to f32

// C[m, n] = A[m, k] B[k, n], rows a, b and c elements apart.
struct product {
    numbers type;
    enum { rows, columns, packed } b_layout;  // B as [k][n], as [n][k], or as pack() left it
    bool    accumulate;                       // C += A B
    int32_t m, n, k;
    int64_t a, b, c;                          // b: of no meaning for packed
};

// Runs it on the calling thread, with oneDNN held to that thread. Throws std::bad_alloc or std::runtime_error.
void multiply(const product & p, const void * A, const void * B, void * C);

// Packed form of B, n rows of k values, s8, f32 or bf16.
size_t packed_size(numbers type, int32_t k, int32_t n);
void   pack(numbers type, int32_t k, int32_t n, const void * rows, void * packed);

// Holds OpenMP, which oneDNN asks, to one thread on the calling thread, and gives back what was there.
class one_thread {
  public:
    one_thread();
    ~one_thread();
    one_thread(const one_thread &) = delete;

  private:
    int before;
};

} // namespace ub::onednn
