// codecs.cpp: the library behind unibiomed_codecs.h.

#include "unibiomed_codecs.h"

#include <algorithm>
#include <charls/charls.h>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <openjpeg.h>
#include <stdexcept>
#include <string>
#include <vector>

namespace {

using std::runtime_error;

// Exceptions end here: all functions of the header run in it.
template <class F> int32_t guarded(ubc_error * err, F && body) {
    const char * message = "unknown exception";
    std::string  kept;
    try {
        body();
        return 0;
    } catch (const std::bad_alloc &) {
        message = "out of memory";
    } catch (const std::exception & e) {
        kept    = e.what();
        message = kept.c_str();
    } catch (...) {
    }
    if (err) {
        std::snprintf(err->message, sizeof err->message, "%s", message);
    }
    return 1;
}

int sample_bytes(int bits) { return bits <= 8 ? 1 : bits <= 16 ? 2 : 4; }

void check(const ubc_frame & f, const ubc_frame & want, uint64_t dst_size) {
    if (f.width != want.width || f.height != want.height || f.components != want.components || f.bits != want.bits || f.is_signed != want.is_signed) {
        throw runtime_error("the frame is not the one that was probed");
    }
    const uint64_t need = uint64_t(f.width) * uint64_t(f.height) * uint64_t(f.components) * uint64_t(sample_bytes(f.bits));
    if (dst_size != need) {
        throw runtime_error("the buffer has " + std::to_string(dst_size) + " bytes, want " + std::to_string(need));
    }
}

ubc_frame checked(uint64_t width, uint64_t height, uint64_t components, int bits, bool is_signed) {
    if (width < 1 || width > 65535 || height < 1 || height > 65535 || components < 1 || components > 4 || bits < 1 || bits > 32) {
        throw runtime_error("frame of " + std::to_string(width) + " x " + std::to_string(height) + " x " + std::to_string(components) + " with " +
                            std::to_string(bits) + " bits");
    }
    return { int32_t(width), int32_t(height), int32_t(components), bits, is_signed, 0 };
}

// JPEG-LS --------------------------------------------------------------------------------------------------------------

ubc_frame open_jpegls(charls::jpegls_decoder & d, const uint8_t * data, uint64_t n) {
    d.source(data, size_t(n));
    d.read_header();
    const auto & f = d.frame_info();
    return checked(f.width, f.height, uint64_t(f.component_count), f.bits_per_sample, false);
}

void decode_jpegls(const uint8_t * data, uint64_t n, const ubc_frame & want, uint8_t * dst, uint64_t dst_size) {
    // CharLS 2.4 counts zero bits for seconds where a stream that is cut short just ends; a marker at the end stops it at once.
    std::vector<uint8_t> ended(data, data + n);
    ended.insert(ended.end(), { 0xff, 0xd9 });
    charls::jpegls_decoder d;
    const ubc_frame        f = open_jpegls(d, ended.data(), ended.size());
    check(f, want, dst_size);
    if (f.components == 1 || d.interleave_mode() != charls::interleave_mode::none) {
        d.decode(dst, size_t(dst_size));
        return;
    }
    std::vector<uint8_t> planes(dst_size); // component after component
    d.decode(planes.data(), planes.size());
    const size_t size = size_t(sample_bytes(f.bits)), pixels = size_t(f.width) * size_t(f.height);
    for (size_t c = 0; c < size_t(f.components); c++) {
        for (size_t i = 0; i < pixels; i++) {
            std::memcpy(dst + (i * size_t(f.components) + c) * size, planes.data() + (c * pixels + i) * size, size);
        }
    }
}

// JPEG 2000 ------------------------------------------------------------------------------------------------------------

struct bytes {
    const uint8_t * data;
    uint64_t        n, at;
};

struct jpeg2000 {
    bytes                                                       in;
    std::unique_ptr<opj_codec_t, decltype(&opj_destroy_codec)>  codec{ nullptr, opj_destroy_codec };
    std::unique_ptr<opj_stream_t, decltype(&opj_stream_destroy)> stream{ nullptr, opj_stream_destroy };
    std::unique_ptr<opj_image_t, decltype(&opj_image_destroy)>  image{ nullptr, opj_image_destroy };
    std::string                                                 said; // the library's last error

    // Opens the stream and reads its header.
    ubc_frame open(const uint8_t * data, uint64_t n) {
        in = { data, n, 0 };
        const bool boxes = n >= 12 && std::memcmp(data, "\0\0\0\x0cjP  \r\n\x87\n", 12) == 0;
        codec.reset(opj_create_decompress(boxes ? OPJ_CODEC_JP2 : OPJ_CODEC_J2K));
        stream.reset(opj_stream_create(1 << 16, OPJ_TRUE));
        if (!codec || !stream) {
            throw std::bad_alloc();
        }
        opj_set_error_handler(codec.get(), [](const char * m, void * user) { static_cast<jpeg2000 *>(user)->said = m; }, this);
        opj_stream_set_user_data(stream.get(), &in, nullptr);
        opj_stream_set_user_data_length(stream.get(), n);
        opj_stream_set_read_function(stream.get(), [](void * to, OPJ_SIZE_T want, void * user) -> OPJ_SIZE_T {
            bytes &      b    = *static_cast<bytes *>(user);
            const size_t have = size_t(std::min<uint64_t>(want, b.n - b.at));
            if (have == 0) {
                return OPJ_SIZE_T(-1);
            }
            std::memcpy(to, b.data + b.at, have);
            b.at += have;
            return have;
        });
        opj_stream_set_skip_function(stream.get(), [](OPJ_OFF_T by, void * user) -> OPJ_OFF_T {
            bytes & b = *static_cast<bytes *>(user);
            if (by < 0 || uint64_t(by) > b.n - b.at) {
                b.at = b.n;
                return -1;
            }
            b.at += uint64_t(by);
            return by;
        });
        opj_stream_set_seek_function(stream.get(), [](OPJ_OFF_T to, void * user) -> OPJ_BOOL {
            bytes & b = *static_cast<bytes *>(user);
            if (to < 0 || uint64_t(to) > b.n) {
                return OPJ_FALSE;
            }
            b.at = uint64_t(to);
            return OPJ_TRUE;
        });
        opj_dparameters_t p;
        opj_set_default_decoder_parameters(&p);
        opj_image_t * raw = nullptr;
        const bool    ok  = opj_setup_decoder(codec.get(), &p) && opj_read_header(stream.get(), codec.get(), &raw);
        image.reset(raw);
        if (!ok || !raw || raw->numcomps < 1) {
            throw runtime_error("JPEG 2000 header: " + said);
        }
        return describe();
    }

    ubc_frame describe() const {
        const opj_image_comp_t & c = image->comps[0];
        for (uint32_t i = 0; i < image->numcomps; i++) {
            const opj_image_comp_t & o = image->comps[i];
            if (o.prec != c.prec || o.sgnd != c.sgnd || o.dx != 1 || o.dy != 1) {
                throw runtime_error("JPEG 2000: components of different size, precision or sign");
            }
        }
        if (image->x1 < image->x0 || image->y1 < image->y0) {
            throw runtime_error("JPEG 2000: an image area of negative size");
        }
        return checked(image->x1 - image->x0, image->y1 - image->y0, image->numcomps, int(c.prec), c.sgnd != 0);
    }
};

void decode_jpeg2000(const uint8_t * data, uint64_t n, const ubc_frame & want, uint8_t * dst, uint64_t dst_size) {
    jpeg2000        j;
    const ubc_frame f = j.open(data, n);
    check(f, want, dst_size);
    if (!opj_decode(j.codec.get(), j.stream.get(), j.image.get()) || !opj_end_decompress(j.codec.get(), j.stream.get())) {
        throw runtime_error("JPEG 2000: " + j.said);
    }
    const int size = sample_bytes(f.bits);
    for (uint32_t c = 0; c < uint32_t(f.components); c++) {
        const opj_image_comp_t & in = j.image->comps[c];
        if (in.w != uint32_t(f.width) || in.h != uint32_t(f.height) || !in.data) {
            throw runtime_error("JPEG 2000: a component was not decoded");
        }
        uint8_t * to = dst + size_t(c) * size_t(size);
        for (size_t i = 0; i < size_t(in.w) * in.h; i++, to += size_t(size) * size_t(f.components)) {
            const int32_t x = in.data[i];
            switch (size) {
                case 1: *to = uint8_t(x); break;
                case 2: { const uint16_t v = uint16_t(x); std::memcpy(to, &v, 2); break; }
                default: std::memcpy(to, &x, 4);
            }
        }
    }
}

} // namespace

int32_t ubc_abi_version(void) { return UBC_ABI_VERSION; }

const char * ubc_build_info(void) {
    static const std::string info = std::string("CharLS ") + charls_get_version_string() + ", OpenJPEG " + opj_version();
    return info.c_str();
}

int32_t ubc_probe(int32_t codec, const uint8_t * data, uint64_t n, ubc_frame * out, ubc_error * err) {
    return guarded(err, [&] {
        if (!data || !out) {
            throw runtime_error("no data");
        }
        switch (codec) {
            case UBC_JPEG_LS: {
                charls::jpegls_decoder d;
                *out = open_jpegls(d, data, n);
                return;
            }
            case UBC_JPEG_2000: {
                jpeg2000 j;
                *out = j.open(data, n);
                return;
            }
        }
        throw runtime_error("no codec of number " + std::to_string(codec));
    });
}

int32_t ubc_decode(int32_t codec, const uint8_t * data, uint64_t n, const ubc_frame * want, uint8_t * dst, uint64_t dst_size, ubc_error * err) {
    return guarded(err, [&] {
        if (!data || !want || !dst) {
            throw runtime_error("no data");
        }
        switch (codec) {
            case UBC_JPEG_LS: return decode_jpegls(data, n, *want, dst, dst_size);
            case UBC_JPEG_2000: return decode_jpeg2000(data, n, *want, dst, dst_size);
        }
        throw runtime_error("no codec of number " + std::to_string(codec));
    });
}
