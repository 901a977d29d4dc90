// stock_llama.cpp: language.gguf is a stock llama.cpp file. This program uses libllama and nothing of ours.
//
//     test-stock_llama language.gguf ["a prompt"]
//
// loads the file, evaluates the prompt and prints the ids of eight greedy tokens, or fewer where the answer ends. ctest gives it the
// model of the repository; a Go test converts the golden checkpoint and compares the ids with the reference's.

#include "llama.h"

#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

int main(int argc, char ** argv) {
    if (argc < 2) return std::fprintf(stderr, "usage: %s language.gguf [PROMPT]\n", argv[0]), 2;
    const std::string prompt = argc > 2 ? argv[2] : "What is in the image?";
    llama_log_set([](ggml_log_level level, const char * text, void *) {
        if (level >= GGML_LOG_LEVEL_WARN && level != GGML_LOG_LEVEL_CONT) std::fputs(text, stderr);
    }, nullptr);
    llama_backend_init();

    llama_model * model = llama_model_load_from_file(argv[1], llama_model_default_params());
    if (model == nullptr) return std::fprintf(stderr, "%s can't be loaded\n", argv[1]), 1;
    const llama_vocab * vocab = llama_model_get_vocab(model);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = 512;
    llama_context * ctx = llama_init_from_model(model, params);
    if (ctx == nullptr) return std::fprintf(stderr, "no context\n"), 1;

    std::vector<llama_token> ids(prompt.size() + 1);
    const int32_t n = llama_tokenize(vocab, prompt.c_str(), int32_t(prompt.size()), ids.data(), int32_t(ids.size()), true, true);
    if (n <= 0) return std::fprintf(stderr, "the prompt gave %d tokens\n", n), 1;
    ids.resize(size_t(n));
    std::fprintf(stderr, "%d tokens in the vocabulary, %d in the prompt\n", llama_vocab_n_tokens(vocab), n);

    for (int step = 0; step < 8; ++step) {
        if (llama_decode(ctx, llama_batch_get_one(ids.data(), int32_t(ids.size()))) != 0) return std::fprintf(stderr, "decode failed\n"), 1;
        const float * logits = llama_get_logits_ith(ctx, -1);
        llama_token best = 0;
        for (llama_token v = 1; v < llama_vocab_n_tokens(vocab); ++v) {
            if (logits[v] > logits[best]) best = v;
        }
        if (!std::isfinite(logits[best])) return std::fprintf(stderr, "logit %d is not finite\n", best), 1;
        char piece[256];
        const int32_t length = llama_token_to_piece(vocab, best, piece, sizeof piece, 0, true);
        if (length < 0) return std::fprintf(stderr, "token %d has no text\n", best), 1;
        std::fprintf(stderr, "'%.*s' ", length, piece);
        std::printf("%d ", best);
        if (llama_vocab_is_eog(vocab, best)) break;
        ids = {best};
    }
    std::printf("\n");
    llama_free(ctx);
    llama_model_free(model);
    llama_backend_free();
    return 0;
}
