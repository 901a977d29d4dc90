// device.h: what computes: a ggml device, the CPU beside it, and the threads that the CPU uses.

#pragma once

#include "call.h"

#include "ggml-cpp.h"
#include "ggml-cpu.h"

#include <memory>
#include <string>
#include <vector>

namespace ub {

// Names as params.device takes them: ggml's, in lower case.
int  device_count();
void device_describe(int index, ub_device_info & out);

// Cores of the machine that this process may use, hyper-threads counted once.
int physical_cores();

// A device is what one model computes on. Its stages take turns on it (turns), block by block; so there is one pool of
// threads, and it never runs two graphs at once.
class device {
  public:
    // name NULL, "" or "auto": the first GPU, then the CPU. n_threads 0: physical_cores().
    static std::shared_ptr<device> open(const char * name, int n_threads);
    ~device();

    const std::string & name() const { return name_; }
    bool                is_cpu() const { return main_ == cpu_; }
    bool                is_cuda() const;
    ggml_backend_dev_t  main() const { return main_; }
    int                 n_threads() const { return n_threads_; }
    ggml_threadpool_t   pool() const { return pool_; }
    uint64_t            memory_free() const;  // bytes, now
    // A GPU that has room for large batches: 8 GiB or more.
    bool                is_roomy() const;

    // New backends in order of preference, the CPU last: what a scheduler takes. They share the pool.
    std::vector<ggml_backend_ptr> backends() const;

    // Bytes that one attention score buffer may take, see attention() in graph.h.
    size_t score_bytes() const { return is_cpu() ? size_t(32) << 20 : size_t(256) << 20; }

    mutable turnstile turns;

  private:
    device() = default;

    std::string        name_;
    ggml_backend_dev_t main_ = nullptr, cpu_ = nullptr;
    int                n_threads_ = 1;
    ggml_threadpool_t  pool_ = nullptr;
};

} // namespace ub
