// accel_off.cpp: accel.h for a build without oneDNN.

#include "onednn/accel.h"

namespace ub::accel {

bool enabled() { return false; }
std::string description() { return "built without oneDNN"; }
ggml_backend_buffer_type_t int8_buffer_type() { return nullptr; }
bool can_pack(const ggml_tensor *) { return false; }
bool is_int8(const ggml_tensor *) { return false; }
void allow_levels(ggml_tensor *) {}
from_mapping::from_mapping(int) {}
from_mapping::~from_mapping() {}
bool fuse(ggml_tensor *, const epilogue &) { return false; }
bool fuse_norm(ggml_tensor *, ggml_tensor *, ggml_tensor *) { return false; }

} // namespace ub::accel
