// unibiomed_codecs.h: decoders of compressed medical frames, as a small library of its own.
//
// It wraps CharLS (JPEG-LS; BSD-3-Clause) and OpenJPEG 2.5 (JPEG 2000 and HTJ2K; BSD-2-Clause). Nothing else of unibiomed
// needs it: without it frames of these kinds are refused by the name of their transfer syntax, and all else works.
//
// All functions are thread-safe and keep nothing between calls. Strings are UTF-8 and copied.
#ifndef UNIBIOMED_CODECS_H
#define UNIBIOMED_CODECS_H

#include <stdint.h>

#if defined(_WIN32)
#  define UBC_API __declspec(dllexport)
#else
#  define UBC_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define UBC_ABI_VERSION 1

typedef enum ubc_codec { UBC_JPEG_LS = 1, UBC_JPEG_2000 = 2 } ubc_codec; // JPEG 2000 is Part 1 and Part 15 (HTJ2K)

typedef struct ubc_error { char message[256]; } ubc_error; // filled on failure, may be NULL

typedef struct ubc_frame {
    int32_t width;
    int32_t height;
    int32_t components;
    int32_t bits;       // significant bits of a sample, 1 to 32
    int32_t is_signed;  // 0 or 1
    int32_t reserved;
} ubc_frame;

UBC_API int32_t ubc_abi_version(void);

// One line with the versions of the libraries; static storage.
UBC_API const char * ubc_build_info(void);

// Reads what the frame of n bytes at data says of itself. Allocates little. Returns 0, or 1 with err filled.
UBC_API int32_t ubc_probe(int32_t codec, const uint8_t * data, uint64_t n, ubc_frame * out, ubc_error * err);

// Decodes the frame into dst: interleaved samples, row after row, in native byte order, of 1 byte to 8 bits, 2 to 16 and 4
// above. want is what ubc_probe returned and the caller accepted; a frame that says otherwise is refused. dst_size must be
// width * height * components * bytes of a sample. Returns 0, or 1 with err filled.
UBC_API int32_t ubc_decode(int32_t codec, const uint8_t * data, uint64_t n, const ubc_frame * want, uint8_t * dst, uint64_t dst_size, ubc_error * err);

#ifdef __cplusplus
}
#endif

#endif // UNIBIOMED_CODECS_H
