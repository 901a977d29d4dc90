// language.h: the language model and its tokenizer, through llama.h.
//
// language.gguf is a stock llama.cpp file. llama.cpp aborts on some broken files, so keys, tensors and tokenizer arrays are
// all checked before it opens one.

#pragma once

#include "weights.h"

#include "llama-cpp.h"

#include <functional>
#include <mutex>

namespace ub {

struct language_hparams {
    int   n_vocab = 0, n_embd = 0, n_layer = 0, n_head = 0, n_head_kv = 0, n_ff = 0, n_ctx_train = 0;
    bool  tied     = false;  // the logits use the token embeddings
    bool  all_f32  = false;  // every matrix is f32

    int   n_embd_kv() const { return n_embd / n_head * n_head_kv; }
    // Type of the KV cache by its name, see ub_model_params: by default f32 for an f32 model, whose parity needs it, else f16.
    ggml_type kv_type(const char * name) const;

    // Reads and checks the keys of sizes. With vocab_only the file may have no tensors, and then no sizes either.
    static language_hparams read(const gguf_file & f, bool vocab_only);
};

class tokenizer {
  public:
    tokenizer(const gguf_file & f, const llama_vocab * vocab);

    // text is UTF-8. See ub_tokenize.
    std::vector<int32_t> encode(const char * text, size_t length, bool special) const;
    std::string          bytes(int32_t id) const;  // id is in range
    int                  kind(int32_t id) const;   // -1: out of range
    int                  size() const { return int(kinds.size()); }

  private:
    struct added { std::string text; bool parsed_as_text; size_t cut; };

    void encode_piece(const char * text, size_t length, bool special, std::vector<int32_t> & ids) const;

    const llama_vocab *  vocab;
    std::vector<uint8_t> kinds;
    std::vector<added>   all_added;
};

class session;

class language {
  public:
    static constexpr uint32_t default_ctx = 8192;

    // Checks keys, tensors and tokenizer: all that llama.cpp would abort on. Takes a few tenths of a second for a large vocabulary.
    static void check(std::shared_ptr<const gguf_file> f, bool vocab_only);

    struct plan { uint64_t kv_cache, compute; };
    // n_ctx 0: the default. Throws UB_E_INVALID when n_ctx is more than the model was trained on.
    static uint32_t context_size(const language_hparams & h, uint32_t n_ctx);
    static plan     measure(const language_hparams & h, const device & dev, uint32_t n_ctx, ggml_type kv_type);

    // The file has passed check.
    language(std::shared_ptr<const gguf_file> f, std::shared_ptr<const device> dev, uint32_t n_ctx, const char * kv_cache, bool vocab_only,
             stage_counters & totals, reporter & r);

    const std::shared_ptr<const gguf_file> file;
    const language_hparams                 hparams;
    const std::shared_ptr<const device>    dev;
    const uint32_t                         n_ctx;       // default of a session
    const ggml_type                        kv_type;     // of a session's cache
    const bool                             vocab_only;

    const tokenizer & tokens() const { return *tok; }

  private:
    friend class session;

    void embed(int32_t id, float * row) const;  // the token's embedding, [n_embd]

    stage_counters &           totals;
    llama_model_ptr            model;
    std::unique_ptr<tokenizer> tok;
};

// A session is one conversation. Its calls queue for it.
class session {
  public:
    // n_ctx 0: the model's. The model must outlive the session.
    session(language & lm, uint32_t n_ctx);

    // ids may be UB_EMBEDDING. See ub_session_prefill.
    void prefill(const int32_t * ids, int32_t n, const float * embeddings, int32_t n_embeddings, float * logits, float * hidden, reporter & r);
    void decode(const int32_t * ids, int32_t n, float * logits, float * hidden);
    void truncate(int32_t length);
    int32_t length() const;
    int32_t capacity() const { return int32_t(n_ctx); }

  private:
    enum class results { last, each };  // of the last position, or of each
    void append(const int32_t * ids, int32_t n, const float * embeddings, results of, float * logits, float * hidden, reporter & r, counters & c);

    language &         lm;
    const uint32_t     n_ctx;
    llama_context_ptr  ctx;
    mutable std::mutex mutex;
    int32_t            used = 0;  // positions in the cache
    counters *         running = nullptr;  // of the call under way, for the context's callback
};

} // namespace ub
