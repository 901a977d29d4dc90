// quantize.h: rows of f32 to rows of a weight type and back.

#pragma once

#include "types.h"

#include <cstddef>
#include <cstdint>

namespace ub {

// Bytes of a row, or -1 when the type can't hold rows of that length.
int64_t row_size(const weight_type & t, int64_t row_length);

// src [rows, row_length] -> dst, with n_threads threads (0: physical cores). UB_E_FORMAT names the first value that is not
// finite, or that the type's range can't hold (f16).
void quantize(const weight_type & t, const float * src, int64_t rows, int64_t row_length, void * dst, size_t dst_size, int n_threads);
void dequantize(const weight_type & t, const void * src, size_t src_size, int64_t rows, int64_t row_length, float * dst);

} // namespace ub
