// gguf_file.cpp: see gguf_file.h.

#include "gguf_file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

namespace ub {

namespace {

constexpr uint64_t max_keys      = 4096;       // readers after us compare each name with all before it
constexpr uint64_t max_tensors   = 16384;
constexpr uint64_t max_name      = 65535;
constexpr uint64_t max_metadata  = 256u << 20; // readers after us keep all of it in memory
constexpr uint32_t min_alignment = 32;         // what the tensors of a mapped file need

size_t size_of_type(gguf_type t) {
    switch (t) {
        case gguf_type::u8: case gguf_type::i8: case gguf_type::boolean:           return 1;
        case gguf_type::u16: case gguf_type::i16:                                  return 2;
        case gguf_type::u32: case gguf_type::i32: case gguf_type::f32:             return 4;
        case gguf_type::u64: case gguf_type::i64: case gguf_type::f64:             return 8;
        default:                                                                   return 0;
    }
}

} // namespace

const char * gguf_type_name(gguf_type t) {
    static const char * const names[] = {"u8", "i8", "u16", "i16", "u32", "i32", "f32", "bool", "string", "array", "u64", "i64", "f64"};
    return t < gguf_type::count ? names[uint32_t(t)] : "unknown";
}

gguf_file::file_descriptor::~file_descriptor() {
    if (fd >= 0) ::close(fd);
}

void gguf_file::read(uint64_t offset, void * dst, size_t n) const {
    auto * p = static_cast<char *>(dst);
    while (n > 0) {
        const ssize_t got = ::pread(fd_.fd, p, n, off_t(offset));
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) fail(UB_E_IO, "%s: %s", path_.c_str(), std::strerror(errno));
        if (got == 0) fail(UB_E_IO, "%s: ends at byte %llu, it had %llu bytes when it was opened", path_.c_str(),
                           (unsigned long long) offset, (unsigned long long) size_);
        p += got; offset += uint64_t(got); n -= size_t(got);
    }
}

// A cursor reads forward through the file with a window, and never past its end.
class gguf_file::cursor {
  public:
    cursor(const gguf_file & f, uint64_t at, std::string what = "") : what(std::move(what)), f(f), pos(at) {}

    uint64_t at() const { return pos; }
    uint64_t left() const { return f.size_ - pos; }

    void need(uint64_t n) const {
        if (n > left()) {
            fail(UB_E_FORMAT, "%s: %s needs %llu bytes at byte %llu, the file has %llu left", f.path_.c_str(), what.c_str(),
                 (unsigned long long) n, (unsigned long long) pos, (unsigned long long) left());
        }
    }

    template <class T> T take() {
        T v;
        need(sizeof v);
        copy(&v, sizeof v);
        return v;
    }

    std::string take_string(uint64_t limit) {
        const uint64_t n = take<uint64_t>();
        need(n);
        if (n > limit) {
            fail(UB_E_FORMAT, "%s: %s has %llu bytes, at most %llu are allowed", f.path_.c_str(), what.c_str(),
                 (unsigned long long) n, (unsigned long long) limit);
        }
        std::string s(size_t(n), '\0');
        copy(s.data(), s.size());
        return s;
    }

    void skip(uint64_t n) { need(n); pos += n; }

    std::string what;  // being read, for messages

  private:
    void copy(void * dst, size_t n) {
        auto * out = static_cast<char *>(dst);
        while (n > 0) {
            if (pos < start || pos >= start + fill) {
                start = pos;
                fill  = size_t(std::min<uint64_t>(sizeof window, left()));
                f.read(start, window, fill);
            }
            const size_t k = std::min(n, size_t(start + fill - pos));
            std::memcpy(out, window + (pos - start), k);
            out += k; pos += k; n -= k;
        }
    }

    const gguf_file & f;
    uint64_t pos, start = 0;
    size_t   fill = 0;
    char     window[1 << 15];
};

gguf_file::gguf_file(const std::string & path) : path_(path) {
    fd_.fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd_.fd < 0) fail(UB_E_IO, "%s: %s", path.c_str(), std::strerror(errno));

    struct stat st {};
    if (::fstat(fd_.fd, &st) != 0) fail(UB_E_IO, "%s: %s", path.c_str(), std::strerror(errno));
    if (!S_ISREG(st.st_mode)) fail(UB_E_IO, "%s: not a regular file", path.c_str());
    size_ = uint64_t(st.st_size);

    cursor c(*this, 0, "the header");
    if (c.take<uint32_t>() != 0x46554747u) fail(UB_E_FORMAT, "%s: not a GGUF file: the first four bytes are not \"GGUF\"", path.c_str());
    const uint32_t version = c.take<uint32_t>();
    if (version == 0 || (version & 0xffff) == 0) fail(UB_E_FORMAT, "%s: GGUF version 0x%08x, want 3 (a big-endian file?)", path.c_str(), version);
    if (version != 2 && version != 3) fail(UB_E_UNSUPPORTED, "%s: GGUF version %u, want 2 or 3", path.c_str(), version);

    const uint64_t n_tensors = c.take<uint64_t>();
    const uint64_t n_keys    = c.take<uint64_t>();
    // the smallest key has 8 + 1 + 4 + 1 bytes, the smallest tensor 8 + 1 + 4 + 8 + 4 + 8
    if (n_keys > max_keys || n_keys > c.left() / 14) {
        fail(UB_E_FORMAT, "%s: %llu keys claimed in a file of %llu bytes, at most %llu are allowed", path.c_str(),
             (unsigned long long) n_keys, (unsigned long long) size_, (unsigned long long) max_keys);
    }
    if (n_tensors > max_tensors || n_tensors > c.left() / 33) {
        fail(UB_E_FORMAT, "%s: %llu tensors claimed in a file of %llu bytes, at most %llu are allowed", path.c_str(),
             (unsigned long long) n_tensors, (unsigned long long) size_, (unsigned long long) max_tensors);
    }
    for (uint64_t i = 0; i < n_keys; ++i) read_key(c, i);
    for (uint64_t i = 0; i < n_tensors; ++i) read_tensor(c, i);
    if (c.at() > max_metadata) {
        fail(UB_E_FORMAT, "%s: keys and tensor names take %llu bytes, at most %llu are allowed", path.c_str(),
             (unsigned long long) c.at(), (unsigned long long) max_metadata);
    }

    const uint32_t alignment = u32("general.alignment", min_alignment);
    if (alignment == 0 || (alignment & (alignment - 1)) != 0 || alignment > (1u << 16)) {
        fail(UB_E_FORMAT, "%s: general.alignment is %u, want a power of two up to 65536", path.c_str(), alignment);
    }
    if (alignment < min_alignment) {
        fail(UB_E_UNSUPPORTED, "%s: general.alignment is %u, want at least %u", path.c_str(), alignment, min_alignment);
    }
    auto pad = [&](uint64_t n) { return (n + alignment - 1) / alignment * alignment; };
    data_offset_ = pad(c.at());
    if (n_tensors > 0 && data_offset_ > size_) {
        fail(UB_E_FORMAT, "%s: tensor data starts at byte %llu, the file has %llu", path.c_str(),
             (unsigned long long) data_offset_, (unsigned long long) size_);
    }
    uint64_t next = 0;  // sizes are at most the file's size each, see read_tensor: the sum can't overflow
    for (auto & t : tensors_) {
        if (t.offset != next) {
            fail(UB_E_FORMAT, "%s: tensor '%s' has offset %llu, want %llu", path.c_str(), t.name.c_str(),
                 (unsigned long long) t.offset, (unsigned long long) next);
        }
        if (t.size > size_ - data_offset_ - t.offset) {
            fail(UB_E_FORMAT, "%s: tensor '%s' needs %llu bytes at byte %llu, the file has %llu", path.c_str(), t.name.c_str(),
                 (unsigned long long) t.size, (unsigned long long) (data_offset_ + t.offset), (unsigned long long) size_);
        }
        next += pad(t.size);
        t.offset += data_offset_;
        if (&t != &tensors_.back() && next > size_ - data_offset_) {
            fail(UB_E_FORMAT, "%s: the file ends inside the padding of tensor '%s'", path.c_str(), t.name.c_str());
        }
    }
}

void gguf_file::read_key(cursor & c, uint64_t index) {
    c.what = format("the name of key %llu", (unsigned long long) index);
    const std::string name = c.take_string(max_name);
    if (name.empty() || name.find('\0') != std::string::npos) {
        fail(UB_E_FORMAT, "%s: key %llu has an empty name or one with a zero byte", path_.c_str(), (unsigned long long) index);
    }
    c.what = "key '" + name + "'";

    value v{};
    v.type   = gguf_type(c.take<uint32_t>());
    v.offset = c.at();
    switch (v.type) {
        case gguf_type::string:
            v.length = c.take<uint64_t>();
            v.offset = c.at();
            c.skip(v.length);
            break;
        case gguf_type::array: {
            v.element = gguf_type(c.take<uint32_t>());
            v.length  = c.take<uint64_t>();
            v.offset  = c.at();
            const size_t element = v.element == gguf_type::string ? 8 : size_of_type(v.element);
            if (element == 0) fail(UB_E_FORMAT, "%s: key '%s' is an array of unknown type %u", path_.c_str(), name.c_str(), uint32_t(v.element));
            if (v.length > c.left() / element) {
                fail(UB_E_FORMAT, "%s: key '%s' claims %llu elements of at least %zu bytes, the file has %llu left", path_.c_str(),
                     name.c_str(), (unsigned long long) v.length, element, (unsigned long long) c.left());
            }
            if (v.element == gguf_type::string) {
                for (uint64_t i = 0; i < v.length; ++i) c.skip(c.take<uint64_t>());
            } else {
                c.skip(v.length * element);
            }
            if (v.element == gguf_type::boolean) {
                cursor again(*this, v.offset, c.what);
                for (uint64_t i = 0; i < v.length; ++i) {
                    if (const uint8_t b = again.take<uint8_t>(); b > 1) fail(UB_E_FORMAT, "%s: key '%s' has a bool of %u", path_.c_str(), name.c_str(), b);
                }
            }
            break;
        }
        case gguf_type::boolean:
            if (const uint8_t b = c.take<uint8_t>(); b > 1) fail(UB_E_FORMAT, "%s: key '%s' is a bool of %u", path_.c_str(), name.c_str(), b);
            break;
        default: {
            const size_t n = size_of_type(v.type);
            if (n == 0) fail(UB_E_FORMAT, "%s: key '%s' has unknown type %u", path_.c_str(), name.c_str(), uint32_t(v.type));
            c.skip(n);
        }
    }
    if (!keys_.emplace(name, v).second) fail(UB_E_FORMAT, "%s: key '%s' appears twice", path_.c_str(), name.c_str());
}

void gguf_file::read_tensor(cursor & c, uint64_t index) {
    c.what = format("the name of tensor %llu", (unsigned long long) index);
    tensor t{};
    t.name = c.take_string(GGML_MAX_NAME - 1);
    if (t.name.empty() || t.name.find('\0') != std::string::npos) {
        fail(UB_E_FORMAT, "%s: tensor %llu has an empty name or one with a zero byte", path_.c_str(), (unsigned long long) index);
    }
    c.what = "tensor '" + t.name + "'";
    const char * file = path_.c_str(), * name = t.name.c_str();

    const uint32_t n_dims = c.take<uint32_t>();
    if (n_dims < 1 || n_dims > 4) fail(UB_E_FORMAT, "%s: tensor '%s' has %u dimensions, want 1 to 4", file, name, n_dims);
    t.n_dims = int(n_dims);
    uint64_t elements = 1;
    for (int i = 0; i < 4; ++i) {
        const uint64_t n = i < t.n_dims ? c.take<uint64_t>() : 1;
        // no type takes less than a bit an element
        if (n == 0 || n > 8 * size_ || elements > 8 * size_ / n) {
            fail(UB_E_FORMAT, "%s: tensor '%s' has extent %llu on axis %d, the file has %llu bytes", file, name,
                 (unsigned long long) n, i, (unsigned long long) size_);
        }
        t.ne[i] = int64_t(n);
        elements *= n;
    }

    const uint32_t type = c.take<uint32_t>();
    if (type >= GGML_TYPE_COUNT || ggml_blck_size(ggml_type(type)) == 0 || ggml_type_size(ggml_type(type)) == 0) {
        fail(UB_E_FORMAT, "%s: tensor '%s' has unknown type %u", file, name, type);
    }
    t.type = ggml_type(type);
    const int64_t block = ggml_blck_size(t.type);
    if (t.ne[0] % block != 0) {
        fail(UB_E_FORMAT, "%s: tensor '%s' has rows of %lld, want a multiple of %lld for type %s", file, name,
             (long long) t.ne[0], (long long) block, ggml_type_name(t.type));
    }
    const uint64_t blocks = elements / uint64_t(block), block_bytes = ggml_type_size(t.type);
    if (blocks > size_ / block_bytes) {
        fail(UB_E_FORMAT, "%s: tensor '%s' of %llu %s elements is larger than the file of %llu bytes", file, name,
             (unsigned long long) elements, ggml_type_name(t.type), (unsigned long long) size_);
    }
    t.size   = blocks * block_bytes;
    t.offset = c.take<uint64_t>();
    if (t.offset > size_) {
        fail(UB_E_FORMAT, "%s: tensor '%s' has offset %llu, the file has %llu bytes", file, name,
             (unsigned long long) t.offset, (unsigned long long) size_);
    }
    if (!index_.emplace(t.name, tensors_.size()).second) fail(UB_E_FORMAT, "%s: tensor '%s' appears twice", file, name);
    tensors_.push_back(std::move(t));
}

uint64_t gguf_file::data_size() const {
    uint64_t n = 0;
    for (const auto & t : tensors_) n += t.size;
    return n;
}

const gguf_file::tensor * gguf_file::find(std::string_view name) const {
    const auto it = index_.find(std::string(name));
    return it == index_.end() ? nullptr : &tensors_[it->second];
}

const gguf_file::value & gguf_file::get(const std::string & key, gguf_type type) const {
    const auto it = keys_.find(key);
    if (it == keys_.end()) fail(UB_E_FORMAT, "%s: key '%s' is missing, want %s", path_.c_str(), key.c_str(), gguf_type_name(type));
    if (it->second.type != type) {
        fail(UB_E_FORMAT, "%s: key '%s' is of type %s, want %s", path_.c_str(), key.c_str(), gguf_type_name(it->second.type), gguf_type_name(type));
    }
    return it->second;
}

const gguf_file::value & gguf_file::get_array(const std::string & key, gguf_type element, size_t least, size_t most) const {
    const value & v = get(key, gguf_type::array);
    if (v.element != element) {
        fail(UB_E_FORMAT, "%s: key '%s' is an array of %s, want %s", path_.c_str(), key.c_str(), gguf_type_name(v.element), gguf_type_name(element));
    }
    if (v.length < least || v.length > most) {
        fail(UB_E_FORMAT, "%s: key '%s' has %llu elements, want %zu to %zu", path_.c_str(), key.c_str(), (unsigned long long) v.length, least, most);
    }
    return v;
}

template <class T> std::vector<T> gguf_file::numbers(const std::string & key, gguf_type element, size_t least, size_t most) const {
    const value & v = get_array(key, element, least, most);
    std::vector<T> out(v.length);
    read(v.offset, out.data(), out.size() * sizeof(T));
    return out;
}

std::vector<std::string> gguf_file::key_names() const {
    std::vector<std::string> names;
    for (const auto & k : keys_) names.push_back(k.first);
    return names;
}

uint32_t gguf_file::u32(const std::string & key) const {
    uint32_t v;
    read(get(key, gguf_type::u32).offset, &v, sizeof v);
    return v;
}

int gguf_file::size_of(const std::string & key, uint32_t lo, uint32_t hi) const {
    const uint32_t v = u32(key);
    if (v < lo || v > hi) fail(UB_E_FORMAT, "%s: key '%s' is %u, want %u to %u", path_.c_str(), key.c_str(), v, lo, hi);
    return int(v);
}

float gguf_file::f32(const std::string & key) const {
    float v;
    read(get(key, gguf_type::f32).offset, &v, sizeof v);
    if (!std::isfinite(v)) fail(UB_E_FORMAT, "%s: key '%s' is not a finite number", path_.c_str(), key.c_str());
    return v;
}

bool gguf_file::boolean(const std::string & key) const {
    uint8_t v;
    read(get(key, gguf_type::boolean).offset, &v, sizeof v);
    return v != 0;
}

std::string gguf_file::str(const std::string & key) const {
    const value & v = get(key, gguf_type::string);
    std::string s(size_t(v.length), '\0');
    read(v.offset, s.data(), s.size());
    return s;
}

std::vector<uint32_t> gguf_file::u32s(const std::string & key, size_t least, size_t most) const { return numbers<uint32_t>(key, gguf_type::u32, least, most); }
std::vector<int32_t>  gguf_file::i32s(const std::string & key, size_t least, size_t most) const { return numbers<int32_t>(key, gguf_type::i32, least, most); }

std::vector<float> gguf_file::f32s(const std::string & key, size_t least, size_t most) const {
    auto v = numbers<float>(key, gguf_type::f32, least, most);
    for (float x : v) {
        if (!std::isfinite(x)) fail(UB_E_FORMAT, "%s: key '%s' has a number that is not finite", path_.c_str(), key.c_str());
    }
    return v;
}

size_t gguf_file::length(const std::string & key, gguf_type element) const {
    return size_t(get_array(key, element, 0, SIZE_MAX).length);
}

void gguf_file::strings_impl(const std::string & key, void (*visit)(void *, size_t, std::string_view), void * f) const {
    const value & v = get_array(key, gguf_type::string, 0, SIZE_MAX);
    cursor c(*this, v.offset, "key '" + key + "'");
    for (uint64_t i = 0; i < v.length; ++i) {
        const std::string s = c.take_string(max_metadata);
        visit(f, size_t(i), s);
    }
}

bool gguf_file::text(const std::string & key, std::string & out) const {
    const auto it = keys_.find(key);
    if (it == keys_.end()) return false;
    const value & v = it->second;
    union { uint8_t u8; int8_t i8; uint16_t u16; int16_t i16; uint32_t u32; int32_t i32; float f32; uint64_t u64; int64_t i64; double f64; } x{};
    if (const size_t n = size_of_type(v.type)) read(v.offset, &x, n);
    switch (v.type) {
        case gguf_type::u8:      out = std::to_string(x.u8); break;
        case gguf_type::i8:      out = std::to_string(x.i8); break;
        case gguf_type::u16:     out = std::to_string(x.u16); break;
        case gguf_type::i16:     out = std::to_string(x.i16); break;
        case gguf_type::u32:     out = std::to_string(x.u32); break;
        case gguf_type::i32:     out = std::to_string(x.i32); break;
        case gguf_type::u64:     out = std::to_string(x.u64); break;
        case gguf_type::i64:     out = std::to_string(x.i64); break;
        case gguf_type::f32:     out = format("%.9g", double(x.f32)); break;
        case gguf_type::f64:     out = format("%.17g", x.f64); break;
        case gguf_type::boolean: out = x.u8 ? "true" : "false"; break;
        case gguf_type::string:  out = str(key); break;
        default:                 out = format("[%llu]", (unsigned long long) v.length); break;
    }
    return true;
}

} // namespace ub
