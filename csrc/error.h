// error.h: the library's one exception, and the border where exceptions end.

#pragma once

#include "unibiomed.h"

#include <cstdarg>
#include <cstdio>
#include <exception>
#include <new>
#include <string>
#include <utility>

namespace ub {

struct error : std::exception {
    ub_status   status;
    std::string message;

    error(ub_status status, std::string message) : status(status), message(std::move(message)) {}
    const char * what() const noexcept override { return message.c_str(); }
};

[[gnu::format(printf, 1, 0)]] inline std::string format_v(const char * fmt, va_list args) {
    va_list again;
    va_copy(again, args);
    const int n = std::vsnprintf(nullptr, 0, fmt, args);
    std::string s(n > 0 ? size_t(n) : 0, '\0');
    if (n > 0) std::vsnprintf(s.data(), s.size() + 1, fmt, again);
    va_end(again);
    return s;
}

[[gnu::format(printf, 1, 2)]] inline std::string format(const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string s = format_v(fmt, args);
    va_end(args);
    return s;
}

// fail throws an error with a printf-like message of one line.
[[noreturn, gnu::format(printf, 2, 3)]] inline void fail(ub_status status, const char * fmt, ...) {
    va_list args;
    va_start(args, fmt);
    std::string s = format_v(fmt, args);
    va_end(args);
    throw error(status, std::move(s));
}

// Fills *err, which may be NULL. Control characters become spaces, since names from files get into messages.
inline ub_status report(ub_error * err, ub_status status, const char * message) {
    if (err != nullptr) {
        err->code = status;
        std::snprintf(err->message, sizeof err->message, "%s", message);
        for (char * c = err->message; *c; ++c) {
            if (static_cast<unsigned char>(*c) < 0x20 || *c == 0x7f) *c = ' ';
        }
    }
    return status;
}

// guarded runs the body of a function of the C ABI: nothing is thrown past it.
template <class F> ub_status guarded(ub_error * err, F && body) noexcept {
    try {
        body();
        if (err != nullptr) { err->code = UB_OK; err->message[0] = '\0'; }
        return UB_OK;
    } catch (const error & e) {
        return report(err, e.status, e.message.c_str());
    } catch (const std::bad_alloc &) {
        return report(err, UB_E_NOMEM, "out of memory");
    } catch (const std::exception & e) {
        return report(err, UB_E_INTERNAL, e.what());
    } catch (...) {
        return report(err, UB_E_INTERNAL, "unknown exception");
    }
}

// Throws UB_E_INVALID when what the caller gave does not hold.
#define UB_REQUIRE(condition, ...) do { if (!(condition)) ::ub::fail(UB_E_INVALID, __VA_ARGS__); } while (0)

} // namespace ub
