// log.cpp: see log.h.

#include "log.h"

#include "llama.h"

#include <algorithm>
#include <mutex>

namespace ub {

namespace {

thread_local std::string complaints;

void on_log(ggml_log_level level, const char * text, void *) {
    if (level != GGML_LOG_LEVEL_ERROR) return;
    if (complaints.size() < 600) complaints += text;
}

} // namespace

void quiet_log() {
    static std::once_flag once;
    std::call_once(once, [] { llama_log_set(on_log, nullptr); });
    complaints.clear();
}

std::string take_complaints() {
    std::string s;
    s.swap(complaints);
    std::replace(s.begin(), s.end(), '\n', ' ');
    return s.empty() ? "no reason given" : s;
}

} // namespace ub
