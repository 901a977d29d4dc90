// gguf_file.h: a bounded reader of GGUF files (versions 2 and 3, little-endian).
//
//     "GGUF" u32 version, u64 tensors, u64 keys
//     keys:    string name, u32 type, value          (string: u64 length, bytes; array: u32 type, u64 length, values)
//     tensors: string name, u32 dims, u64 shape[dims], u32 type, u64 offset
//     padding to general.alignment, then tensor data in the same order, each padded
//
// Every count, length, offset and size is compared with the bytes that are left before it is used, so memory is bounded by
// a fraction of the file's size, and nothing here can make ggml or llama.cpp abort later on. Errors are UB_E_FORMAT and
// name file, key or tensor, what was wanted and what was found.

#pragma once

#include "error.h"

#include "ggml.h"

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace ub {

enum class gguf_type : uint32_t { u8 = 0, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64, count };
const char * gguf_type_name(gguf_type t);

class gguf_file {
  public:
    struct tensor {
        std::string name;
        ggml_type   type;
        int         n_dims;
        int64_t     ne[4];   // fastest axis first, ones beyond n_dims
        uint64_t    offset;  // from the start of the file
        uint64_t    size;    // bytes, without padding
    };

    explicit gguf_file(const std::string & path);

    const std::string & path() const { return path_; }
    uint64_t size() const { return size_; }
    uint64_t data_offset() const { return data_offset_; }
    uint64_t data_size() const;  // sum of the tensors' sizes

    const std::vector<tensor> & tensors() const { return tensors_; }
    const tensor * find(std::string_view name) const;  // nullptr: no such tensor

    // Typed getters. The form without a default fails when the key is absent; all fail when its type is another one.
    bool        has(const std::string & key) const { return keys_.count(key) != 0; }
    std::vector<std::string> key_names() const;
    uint32_t    u32(const std::string & key) const;
    uint32_t    u32(const std::string & key, uint32_t absent) const { return has(key) ? u32(key) : absent; }
    // u32 within [lo, hi], as an int.
    int         size_of(const std::string & key, uint32_t lo, uint32_t hi) const;
    float       f32(const std::string & key) const;  // finite
    bool        boolean(const std::string & key) const;
    bool        boolean(const std::string & key, bool absent) const { return has(key) ? boolean(key) : absent; }
    std::string str(const std::string & key) const;
    std::vector<uint32_t> u32s(const std::string & key, size_t least, size_t most) const;
    std::vector<int32_t>  i32s(const std::string & key, size_t least, size_t most) const;
    std::vector<float>    f32s(const std::string & key, size_t least, size_t most) const;  // finite
    // Calls visit(index, string) for each element of an array of strings. The view is valid during the call.
    template <class F> void strings(const std::string & key, F && visit) const {
        strings_impl(key, [](void * f, size_t i, std::string_view s) { (*static_cast<F *>(f))(i, s); }, &visit);
    }
    // Length of the array, after checking the type of its elements.
    size_t      length(const std::string & key, gguf_type element) const;
    // Any scalar or string value as text, arrays as "[n]"; false when the key is absent.
    bool        text(const std::string & key, std::string & out) const;

    // Reads [offset, offset + n) of the file.
    void        read(uint64_t offset, void * dst, size_t n) const;

    // Opened for reading, -1 never. Owned by this object.
    int         descriptor() const { return fd_.fd; }

  private:
    struct value {
        gguf_type type;
        gguf_type element;  // of an array
        uint64_t  length;   // elements of an array, bytes of a string
        uint64_t  offset;   // of the first byte of the value in the file
    };
    struct file_descriptor {
        int fd = -1;
        file_descriptor() = default;
        file_descriptor(const file_descriptor &) = delete;
        file_descriptor & operator=(const file_descriptor &) = delete;
        ~file_descriptor();
    };
    class cursor;

    const value & get(const std::string & key, gguf_type type) const;
    const value & get_array(const std::string & key, gguf_type element, size_t least, size_t most) const;
    template <class T> std::vector<T> numbers(const std::string & key, gguf_type element, size_t least, size_t most) const;
    void strings_impl(const std::string & key, void (*visit)(void *, size_t, std::string_view), void * f) const;
    void read_key(cursor & c, uint64_t index);
    void read_tensor(cursor & c, uint64_t index);

    std::string     path_;
    file_descriptor fd_;
    uint64_t        size_ = 0, data_offset_ = 0;
    std::unordered_map<std::string, value>  keys_;
    std::vector<tensor>                     tensors_;
    std::unordered_map<std::string, size_t> index_;
};

} // namespace ub
