// call.h: what a long call reports to, and what a stage adds up.

#pragma once

#include "error.h"
#include "operations.h"

#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>

namespace ub {

inline uint64_t now_ns() {
    return uint64_t(std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch()).count());
}

// A reporter is the caller's ub_call for the time of one call. It is used from the calling thread only.
class reporter {
  public:
    explicit reporter(const ub_call * call = nullptr) {
        if (call != nullptr) {
            UB_REQUIRE(call->size >= sizeof(ub_call), "ub_call.size is %u, want at least %zu", call->size, sizeof(ub_call));
            c = *call;
        }
    }

    // The part [from, to] of the call that the coming work stands for.
    void range(float from, float to) { done = lo = from; hi = to; }

    // Reports a share of the current range. False: cancel.
    bool at(float share) {
        done = lo + (hi - lo) * share;
        return tell();
    }

    // Asks the caller again without progress, at most every 10 ms. False: cancel.
    bool poll() {
        if (cancelled || c.progress == nullptr) return !cancelled;
        return now_ns() - last < 10'000'000 || tell();
    }

    bool canceled() const { return cancelled; }
    void check() const { if (cancelled) fail(UB_E_CANCELED, "canceled"); }

    // at, then check.
    void step(float share) { at(share); check(); }

    bool traced() const { return c.trace != nullptr; }
    void trace(const char * name, const float * data, const int64_t * shape, int n_dims) const {
        if (c.trace != nullptr) c.trace(name, data, shape, n_dims, c.user);
    }

  private:
    bool tell() {
        last = now_ns();
        if (!cancelled && c.progress != nullptr && !c.progress(done, c.user)) cancelled = true;
        return !cancelled;
    }

    ub_call  c{};
    float    lo = 0, hi = 1, done = 0;
    uint64_t last = 0;
    bool     cancelled = false;
};

// Totals of one ub_stage. Added to by one call at a time, read at any time.
struct counters {
    std::atomic<uint64_t> calls{0}, items{0}, nanoseconds{0}, flop{0};
    operations            ran;
};
using stage_counters = std::array<counters, UB_STAGE_COUNT>;

// A turnstile lets one holder in at a time, in arrival order. Stages of one device share it: whoever computes holds it,
// and offers it to the next in line between blocks.
class turnstile {
  public:
    void enter() {
        std::unique_lock<std::mutex> lock(m);
        const uint64_t mine = next++;
        cv.wait(lock, [&] { return mine == serving; });
    }
    void leave() {
        { std::lock_guard<std::mutex> lock(m); ++serving; }
        cv.notify_all();
    }
    // Lets others in if someone waits. Returns the nanoseconds spent waiting to get back in.
    uint64_t yield() {
        {
            std::lock_guard<std::mutex> lock(m);
            if (next == serving + 1) return 0;
        }
        const uint64_t t = now_ns();
        leave();
        enter();
        return now_ns() - t;
    }

  private:
    std::mutex              m;
    std::condition_variable cv;
    uint64_t                next = 0, serving = 0;
};

struct turn {
    turnstile & t;
    explicit turn(turnstile & t) : t(t) { t.enter(); }
    ~turn() { t.leave(); }
    turn(const turn &) = delete;
    turn & operator=(const turn &) = delete;
};

} // namespace ub
