// unibiomed.h: the C ABI of libunibiomed, the native core of unibiomed.
//
// One model is three GGUF files (docs/model-folder.md): a language model, a vision tower, and SAM 2 with the projection
// of [SEG]. The library holds what touches tensors; files, prompts, resampling and results belong to the caller.
//
//   ub_model    weights, shared, thread-safe: calls of one stage queue for it in arrival order
//   ub_session  one conversation: a KV cache, appended to by prefill and decode, cut back by truncate
//   ub_features SAM 2 image features of one image, immutable, shared by any number of decodes
//   ub_track    one [SEG] followed through the slices of a volume by SAM 2's memory
//
// Conventions
// - Arrays are row-major, the last axis fastest, f32 unless said otherwise, and read or written during the call only.
// - Strings are UTF-8, NUL-terminated unless a length is given, and copied.
// - Structs travel by pointer; the caller sets `size` (the *_init function does) so that an older caller meets a newer library.
// - Every function that can fail returns a ub_status and fills `err` when it is not NULL. On failure outputs are untouched
//   or unspecified, and the objects stay usable.
// - No exception, signal or abort leaves the library: what ggml would abort on is checked first.
// - Objects made from a model keep it alive: closing the model first is safe.

#ifndef UNIBIOMED_H
#define UNIBIOMED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#  define UB_API __declspec(dllexport)
#else
#  define UB_API __attribute__((visibility("default")))
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define UB_ABI_VERSION 2

// ---------------------------------------------------------------------------------------------------------- errors

typedef enum ub_status {
    UB_OK            = 0,
    UB_E_INVALID     = 1,  // an argument is out of its range
    UB_E_IO          = 2,  // a file can't be opened, read or mapped
    UB_E_FORMAT      = 3,  // a file is broken, or its parts disagree
    UB_E_UNSUPPORTED = 4,  // a file is sound, but not of a kind that this version reads
    UB_E_NOMEM       = 5,  // the memory plan does not fit, or an allocation failed
    UB_E_DEVICE      = 6,  // no such device, or it failed
    UB_E_CONTEXT     = 7,  // more positions than the session's context holds
    UB_E_CANCELED    = 8,  // a callback returned false
    UB_E_INTERNAL    = 9,  // a bug of ours
} ub_status;

typedef struct ub_error {
    int32_t code;           // a ub_status
    char    message[1020];  // one line: the file, the field, the values that disagree
} ub_error;

// ------------------------------------------------------------------------------------------------- calls in progress

// Called between blocks with the share of the call that is done, 0 to 1. Returning false cancels the call within one block.
typedef bool (*ub_progress_fn)(float done, void * user);

// Called with each stage's whole tensor, under the names and axis orders of the golden cases (docs/c-abi.md lists them).
// shape has n_dims entries, slowest axis first; data is valid during the call only.
typedef void (*ub_trace_fn)(const char * name, const float * data, const int64_t * shape, int32_t n_dims, void * user);

// What a long call reports to. NULL in place of a ub_call means: nothing.
typedef struct ub_call {
    uint32_t       size;
    uint32_t       reserved;
    ub_progress_fn progress;  // may be NULL
    ub_trace_fn    trace;     // may be NULL
    void *         user;      // handed to both
} ub_call;

UB_API int32_t ub_abi_version(void);
UB_API const char * ub_build_info(void);  // one line: versions, backends, instruction sets; static storage
// ub_struct_size returns sizeof the struct named, for instance "ub_model_params", or -1: for the bindings' layout test.
UB_API int64_t ub_struct_size(const char * name);
// ub_field_offset returns offsetof the field, or -1.
UB_API int64_t ub_field_offset(const char * struct_name, const char * field);
// ub_enum_value returns the value of an enum constant named in this header, or -1.
UB_API int64_t ub_enum_value(const char * name);

// --------------------------------------------------------------------------------------------------------- devices

typedef enum ub_device_type { UB_DEVICE_CPU = 0, UB_DEVICE_GPU = 1, UB_DEVICE_INTEGRATED_GPU = 2, UB_DEVICE_ACCELERATOR = 3 } ub_device_type;

typedef struct ub_device_info {
    uint32_t size;
    int32_t  type;              // a ub_device_type
    uint64_t memory_total;      // bytes
    uint64_t memory_free;       // bytes
    char     name[64];          // what params.device takes, for instance "cpu" or "cuda0"
    char     description[192];
} ub_device_info;

UB_API int32_t   ub_device_count(void);
UB_API ub_status ub_device_get(int32_t index, ub_device_info * out, ub_error * err);

// ----------------------------------------------------------------------------------------------------------- model

typedef struct ub_model_files {
    uint32_t     size;
    uint32_t     reserved;
    const char * language;   // paths; NULL leaves the part out, and calls that need it fail with UB_E_INVALID
    const char * vision;
    const char * grounding;
} ub_model_files;

typedef struct ub_model_params {
    uint32_t     size;
    int32_t      n_threads;      // CPU threads; 0: physical cores that this process may use
    const char * device;         // name of a device; NULL or "auto": the first GPU, then the CPU
    uint64_t     memory_limit;   // bytes that the plan may take on the device; 0: what is free
    uint32_t     n_ctx;          // positions of a session, for the plan and as default; 0: 8192, or less if the model was trained on less
    uint32_t     tile_batch;     // tiles a vision pass takes; 0: chosen by device
    uint32_t     mask_batch;     // [SEG] vectors a decoder pass takes; 0: chosen by device
    uint32_t     vocab_only;     // 1: tokenizer only, no weights are mapped
    const char * kv_cache;       // type of the KV cache: "f32", "f16" or "q8_0"; NULL or "auto": f32 for an f32 model, else f16
} ub_model_params;

// Bytes, known before anything is allocated.
typedef struct ub_memory_plan {
    uint32_t size;
    uint32_t reserved;
    uint64_t weights_language;    // as stored; mapped on the CPU, copied on a GPU
    uint64_t weights_vision;
    uint64_t weights_grounding;
    uint64_t kv_cache;            // of one session of n_ctx positions
    uint64_t compute_language;    // peak working buffers by stage
    uint64_t compute_vision;
    uint64_t compute_features;    // SAM 2 image encoder
    uint64_t compute_masks;       // mask decoder
    uint64_t compute_memory;      // memory encoder and attention, only taken by volumes
    uint64_t features;            // one image's features
    uint64_t total;               // peak of a 2D answer: weights, KV cache, features and buffers that live together
    uint64_t available;           // what the plan was compared with
} ub_memory_plan;

// Sizes that the caller's preprocessing needs, all read from GGUF keys. 0 where the part is absent.
typedef struct ub_model_info {
    uint32_t size;
    int32_t  n_vocab;
    int32_t  n_embd;              // H: hidden size of the language model
    int32_t  n_layer;
    int32_t  n_ctx_train;
    int32_t  tile_size;           // S: side of a tile in pixels
    int32_t  tile_tokens;         // embeddings a tile, a square number
    int32_t  tile_min;            // tiles of a grid, without the thumbnail
    int32_t  tile_max;
    int32_t  tile_thumbnail;      // 1: a thumbnail is appended when the grid has more than one tile
    int32_t  vit_tokens;          // tokens of a tile inside the ViT, class token included
    int32_t  vit_embd;
    float    tile_mean[3];        // of pixels in 0..1
    float    tile_std[3];
    int32_t  mask_image_size;     // side of SAM 2's input
    int32_t  mask_size;           // L: side of the low-resolution logits
    int32_t  mask_embd;           // D: channels of SAM 2's decoder, length of the projected [SEG]
    int32_t  n_masks;             // masks a decoder call predicts, the single-mask one included
    int32_t  feature_size;        // side of F2
    int32_t  memory_embd;         // M: channels of a memory
    int32_t  n_maskmem;           // slices that SAM 2's memory holds, the current one included
    int32_t  n_prompted_slices;   // slices of a volume that the language model sees and that get a prompt
    float    mask_image_mean[3];  // of SAM 2's pixels in 0..1, as stored; the caller rounds (spec/preprocess.md 4)
    float    mask_image_std[3];
} ub_model_info;

typedef struct ub_model ub_model;

UB_API void      ub_model_params_init(ub_model_params * p);
UB_API void      ub_model_files_init(ub_model_files * f);
// Checks the files' structure, keys, names, shapes, types and sizes with a bounded reader; maps nothing, allocates little.
UB_API ub_status ub_model_check(const ub_model_files * files, ub_error * err);
UB_API ub_status ub_model_plan(const ub_model_files * files, const ub_model_params * p, ub_memory_plan * out, ub_error * err);
// Opens after check and plan; UB_E_NOMEM with the numbers when the plan does not fit. On a CPU the image parts may finish opening in
// the first call that needs them.
UB_API ub_status ub_model_open(const ub_model_files * files, const ub_model_params * p, const ub_call * call, ub_model ** out, ub_error * err);
UB_API void      ub_model_close(ub_model * m);  // NULL is fine
UB_API ub_status ub_model_get_info(const ub_model * m, ub_model_info * out, ub_error * err);
// A metadata value of the language file as text, for instance "general.name"; *length gets the bytes needed without NUL,
// -1 when there is no such key. Writes at most capacity bytes, NUL included.
UB_API ub_status ub_model_metadata(const ub_model * m, const char * key, char * buffer, int32_t capacity, int32_t * length, ub_error * err);

// ------------------------------------------------------------------------------------------------------- tokenizer

// text has `length` bytes and may contain NUL. With special, added tokens in the text become their ids; without, only
// ordinary text is made of it. Nothing is normalised or added. *n gets the count; ids are written only if capacity >= *n.
UB_API ub_status ub_tokenize(const ub_model * m, const char * text, int32_t length, bool special, int32_t * ids, int32_t capacity, int32_t * n, ub_error * err);
// The bytes of one token, added tokens as their text. *n gets the length; written only if capacity >= *n.
UB_API ub_status ub_token_bytes(const ub_model * m, int32_t id, char * buffer, int32_t capacity, int32_t * n, ub_error * err);
// The token's kind: bit 0 added (control or user-defined), bit 1 control; -1 when id is out of range.
UB_API int32_t   ub_token_kind(const ub_model * m, int32_t id);

// ---------------------------------------------------------------------------------------------------------- vision

// tiles [n, 3, S, S], normalised RGB -> embeddings [n, tile_tokens, H]. Traces vit_output and mlp1_output.
UB_API ub_status ub_vision_encode(ub_model * m, const float * tiles, int32_t n, float * embeddings, const ub_call * call, ub_error * err);

// --------------------------------------------------------------------------------------------------------- session

typedef struct ub_session ub_session;

#define UB_EMBEDDING      (-1)  // in place of an id: the next row of `embeddings`
#define UB_DECODE_AT_ONCE 16    // ids of one ub_session_decode

// n_ctx 0: the model's params.n_ctx.
UB_API ub_status ub_session_open(ub_model * m, uint32_t n_ctx, ub_session ** out, ub_error * err);
UB_API void      ub_session_close(ub_session * s);
// Appends n positions. embeddings [n_embeddings, H]; n_embeddings must equal the number of UB_EMBEDDING ids.
// logits [V] and hidden [H] of the last position are written where not NULL; hidden is after the final norm.
UB_API ub_status ub_session_prefill(ub_session * s, const int32_t * ids, int32_t n, const float * embeddings, int32_t n_embeddings,
                                    float * logits, float * hidden, const ub_call * call, ub_error * err);
// Appends n ids in one run, 1 to UB_DECODE_AT_ONCE. logits [n, V] and hidden [n, H] of each are written where not NULL: hidden is the state at the position
// whose input is the id. With more than one id a guess of the next ones is checked: truncate takes back what was wrong.
UB_API ub_status ub_session_decode(ub_session * s, const int32_t * ids, int32_t n, float * logits, float * hidden, ub_error * err);
UB_API int32_t   ub_session_length(const ub_session * s);
UB_API int32_t   ub_session_capacity(const ub_session * s);
// Forgets all positions from `length` on.
UB_API ub_status ub_session_truncate(ub_session * s, int32_t length, ub_error * err);

// ----------------------------------------------------------------------------------------------- SAM 2: one image

typedef struct ub_features ub_features;

// image [3, mask_image_size, mask_image_size], normalised RGB. Traces C0..C3, P0..P2, F0..F2.
UB_API ub_status ub_features_encode(ub_model * m, const float * image, ub_features ** out, const ub_call * call, ub_error * err);
UB_API void      ub_features_free(ub_features * f);
// Makes features from given tensors, for stage tests: F0 [D/8,L,L], F1 [D/4,L/2,L/2], F2 [D,feature_size,feature_size].
UB_API ub_status ub_features_from(ub_model * m, const float * f0, const float * f1, const float * f2, ub_features ** out, ub_error * err);

// Results of a decoder call over n prompts; every pointer may be NULL.
typedef struct ub_masks {
    uint32_t  size;
    uint32_t  reserved;
    float *   logits;        // [n, L, L], the selected mask
    float *   iou;           // [n, n_masks], predicted
    float *   object_score;  // [n], raw logit
    int32_t * selected;      // [n], index among n_masks
    float *   embedding;     // [n, D], the projected [SEG]; left alone for tracked slices
} ub_masks;

UB_API void      ub_masks_init(ub_masks * out);
// hidden [n, H], the states at [SEG]. Decoded in batches. Traces seg_embedding, dense_pe, sparse_tokens,
// dense_prompt_vector, hs.<i> and mask_logits.<i> (all masks).
UB_API ub_status ub_masks_decode(ub_model * m, const ub_features * f, const float * hidden, int32_t n, ub_masks * out, const ub_call * call, ub_error * err);

// -------------------------------------------------------------------------------------------- SAM 2: slices of a volume

typedef struct ub_track ub_track;

// A track belongs to one [SEG]. hidden [H].
UB_API ub_status ub_track_open(ub_model * m, const float * hidden, ub_track ** out, ub_error * err);
UB_API void      ub_track_close(ub_track * t);
// A prompted slice: decoded with the track's [SEG] as ub_masks_decode does (n = 1), then memorised.
// Slices are named by their index in the volume. Traces slice.<t>.hs, slice.<t>.mask_logits, slice.<t>.obj_ptr and memory.<t>.
UB_API ub_status ub_track_prompt(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err);
// A tracked slice: decoded from memory without a prompt, then memorised. Traces also slice.<t>.memory_attention_out.
UB_API ub_status ub_track_step(ub_track * t, int32_t slice, const ub_features * f, ub_masks * out, const ub_call * call, ub_error * err);
// Forgets tracked slices and keeps prompted ones, to start again in the other direction.
UB_API void      ub_track_rewind(ub_track * t);

// ------------------------------------------------------------------------------------------------------- statistics

typedef enum ub_stage { UB_STAGE_VISION = 0, UB_STAGE_PREFILL = 1, UB_STAGE_DECODE = 2, UB_STAGE_FEATURES = 3, UB_STAGE_MASKS = 4, UB_STAGE_MEMORY = 5 } ub_stage;
#define UB_STAGE_COUNT 6

// Totals since the model was opened.
typedef struct ub_stage_stats {
    uint64_t calls;
    uint64_t items;        // tiles, positions, tokens, images, masks, slices
    uint64_t nanoseconds;  // inside the stage, without waiting for it
    uint64_t flop;         // of matrix products and attention, two a multiply-add
} ub_stage_stats;

UB_API ub_status ub_model_stats(const ub_model * m, ub_stage_stats out[UB_STAGE_COUNT], ub_error * err);
// Where all operations so far were computed, one line of text for each stage (vision, prefill, decode, features, masks, memory), operation
// of ggml and device: "STAGE\tOPERATION\tDEVICE\tCOUNT\n". *length and buffer as in ub_model_metadata.
UB_API ub_status ub_model_operations(const ub_model * m, char * buffer, int32_t capacity, int32_t * length, ub_error * err);
// Runs n x n x n products of weights of this type with f32 rows on this model's device for about `seconds` and returns the best rate seen.
UB_API ub_status ub_peak_rate(ub_model * m, const char * type, int32_t n, float seconds, double * flop_per_second, ub_error * err);

// ------------------------------------------------------------------------------------------------------ quantization

// Type names are those of the command: f32 f16 bf16 q8_0 q6_k q5_k q4_k q5_1 q5_0 q4_1 q4_0 iq4_nl.
// Bytes of one row, or -1 when the type is unknown or can't hold rows of that length.
UB_API int64_t   ub_row_size(const char * type, int64_t row_length);
// The ggml type number stored in GGUF files, or -1.
UB_API int32_t   ub_type_id(const char * type);
// src [rows, row_length] -> dst of rows * ub_row_size bytes. Non-finite input is UB_E_FORMAT and names the index.
UB_API ub_status ub_quantize(const char * type, const float * src, int64_t rows, int64_t row_length, void * dst, size_t dst_size, int32_t n_threads, ub_error * err);
UB_API ub_status ub_dequantize(const char * type, const void * src, size_t src_size, int64_t rows, int64_t row_length, float * dst, ub_error * err);

#ifdef __cplusplus
}
#endif

#endif
