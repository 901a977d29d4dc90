// operations.cpp: see operations.h.

#include "operations.h"

#include "ggml.h"

#include <algorithm>
#include <cctype>

namespace ub {

void operations::add(const ggml_tensor * node) {
    switch (node->op) {
        case GGML_OP_NONE: case GGML_OP_RESHAPE: case GGML_OP_VIEW: case GGML_OP_PERMUTE: case GGML_OP_TRANSPOSE: return;
        default: break;
    }
    const ggml_backend_buffer_t buffer = node->view_src != nullptr ? node->view_src->buffer : node->buffer;
    if (buffer == nullptr) return;
    // A scheduler computes a node where its result lies. Memory of the host belongs to the CPU, also where a GPU's driver pinned it.
    const ggml_backend_buffer_type_t type = ggml_backend_buffer_get_type(buffer);
    const ggml_backend_dev_t device = ggml_backend_buft_is_host(type) ? nullptr : ggml_backend_buft_get_device(type);
    std::lock_guard<std::mutex> lock(m);
    ++counts[{ggml_op_desc(node), device}];
}

void operations::print(const char * stage, std::string & out) const {
    std::map<std::pair<std::string, std::string>, uint64_t> lines;
    {
        std::lock_guard<std::mutex> lock(m);
        for (const auto & [key, count] : counts) {
            std::string device = key.second != nullptr ? ggml_backend_dev_name(key.second) : "cpu";
            std::transform(device.begin(), device.end(), device.begin(), [](unsigned char c) { return char(std::tolower(c)); });
            lines[{key.first, device}] += count;
        }
    }
    for (const auto & [key, count] : lines) {
        out += std::string(stage) + '\t' + key.first + '\t' + key.second + '\t' + std::to_string(count) + '\n';
    }
}

} // namespace ub
