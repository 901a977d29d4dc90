// device.cpp: see device.h.

#include "device.h"

#include "log.h"
#include "onednn/accel.h"

#include <algorithm>
#include <cctype>
#include <climits>
#include <cmath>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#if defined(__linux__)
#  include <sched.h>
#endif

namespace ub {

namespace {

std::string lower(const char * s) {
    std::string r(s ? s : "");
    for (char & c : r) c = char(std::tolower(static_cast<unsigned char>(c)));
    return r;
}

// A number at the start of a one-line system file, or -1.
long long number_in(const std::string & path) {
    std::ifstream in(path);
    long long v;
    return in >> v ? v : -1;
}

// Bytes that the system could give this process, or 0 when it does not say.
uint64_t system_memory_free() {
    uint64_t available = 0;
    std::ifstream in("/proc/meminfo");
    for (std::string line; std::getline(in, line);) {
        if (line.rfind("MemAvailable:", 0) == 0) available = std::strtoull(line.c_str() + 13, nullptr, 10) * 1024;
    }
    // a container's own limit, cgroup v2; page cache of mapped files counts as used there and can be given back
    const long long limit = number_in("/sys/fs/cgroup/memory.max"), used = number_in("/sys/fs/cgroup/memory.current");
    if (limit > 0 && used >= 0) {
        uint64_t cache = 0;
        std::ifstream stat("/sys/fs/cgroup/memory.stat");
        std::string key;
        for (uint64_t v; stat >> key >> v;) {
            if (key == "inactive_file" || key == "active_file") cache += v;
        }
        const uint64_t taken = uint64_t(used) > cache ? uint64_t(used) - cache : 0;
        const uint64_t room  = uint64_t(limit) > taken ? uint64_t(limit) - taken : 0;
        available = available == 0 ? room : std::min(available, room);
    }
    return available;
}

bool computes(ggml_backend_dev_t dev) {
    return ggml_backend_dev_type(dev) != GGML_BACKEND_DEVICE_TYPE_ACCEL;
}

std::string device_names() {
    std::string s;
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        if (!computes(ggml_backend_dev_get(i))) continue;
        if (!s.empty()) s += ", ";
        s += lower(ggml_backend_dev_name(ggml_backend_dev_get(i)));
    }
    return s;
}

} // namespace

int device_count() {
    quiet_log();
    return int(std::min<size_t>(ggml_backend_dev_count(), INT_MAX));
}

void device_describe(int index, ub_device_info & out) {
    UB_REQUIRE(out.size >= sizeof out, "ub_device_info.size is %u, want at least %zu", out.size, sizeof out);
    quiet_log();
    UB_REQUIRE(index >= 0 && index < device_count(), "device %d of %d", index, device_count());
    const uint32_t size = out.size;
    ggml_backend_dev_t dev = ggml_backend_dev_get(size_t(index));
    out = {};
    out.size = size;
    switch (ggml_backend_dev_type(dev)) {
        case GGML_BACKEND_DEVICE_TYPE_CPU:   out.type = UB_DEVICE_CPU; break;
        case GGML_BACKEND_DEVICE_TYPE_GPU:   out.type = UB_DEVICE_GPU; break;
        case GGML_BACKEND_DEVICE_TYPE_IGPU:  out.type = UB_DEVICE_INTEGRATED_GPU; break;
        case GGML_BACKEND_DEVICE_TYPE_ACCEL: out.type = UB_DEVICE_ACCELERATOR; break;
    }
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(dev, &free, &total);
    if (out.type == UB_DEVICE_CPU) {
        if (const uint64_t n = system_memory_free()) free = size_t(n);
    }
    out.memory_free  = free;
    out.memory_total = total;
    std::snprintf(out.name, sizeof out.name, "%s", lower(ggml_backend_dev_name(dev)).c_str());
    std::snprintf(out.description, sizeof out.description, "%s", ggml_backend_dev_description(dev));
}

int physical_cores() {
    int n = int(std::max(1u, std::thread::hardware_concurrency()));
#if defined(__linux__)
    cpu_set_t allowed;
    if (sched_getaffinity(0, sizeof allowed, &allowed) == 0) {
        std::set<std::pair<long long, long long>> cores;
        bool known = true;
        for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
            if (!CPU_ISSET(cpu, &allowed)) continue;
            const std::string topology = "/sys/devices/system/cpu/cpu" + std::to_string(cpu) + "/topology/";
            const long long core = number_in(topology + "core_id"), package = number_in(topology + "physical_package_id");
            known = known && core >= 0;
            cores.emplace(package, core);
        }
        n = known && !cores.empty() ? int(cores.size()) : CPU_COUNT(&allowed);
    }
    // a container's share of processor time: "quota period" in microseconds, or "max"
    std::ifstream in("/sys/fs/cgroup/cpu.max");
    double quota, period;
    if (in >> quota >> period && quota > 0 && period > 0) n = std::min(n, int(std::ceil(quota / period)));
#endif
    return std::clamp(n, 1, GGML_MAX_N_THREADS);
}

std::shared_ptr<device> device::open(const char * name, int n_threads) {
    UB_REQUIRE(n_threads >= 0 && n_threads <= GGML_MAX_N_THREADS, "n_threads is %d, want 0 to %d", n_threads, GGML_MAX_N_THREADS);
    accel::enabled();  // before ggml opens its CPU backend
    std::shared_ptr<device> d(new device);
    d->n_threads_ = n_threads > 0 ? n_threads : physical_cores();

    d->cpu_ = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
    if (d->cpu_ == nullptr) fail(UB_E_DEVICE, "this build has no CPU backend");
    const std::string wanted = lower(name);
    quiet_log();
    if (wanted.empty() || wanted == "auto") {
        d->main_ = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_GPU);
        if (d->main_ == nullptr) d->main_ = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_IGPU);
        if (d->main_ == nullptr) d->main_ = d->cpu_;
    } else {
        for (size_t i = 0; i < ggml_backend_dev_count() && d->main_ == nullptr; ++i) {
            ggml_backend_dev_t dev = ggml_backend_dev_get(i);
            if (computes(dev) && lower(ggml_backend_dev_name(dev)) == wanted) d->main_ = dev;
        }
        if (d->main_ == nullptr) fail(UB_E_DEVICE, "no device '%s', there are: %s", wanted.c_str(), device_names().c_str());
    }
    d->name_ = lower(ggml_backend_dev_name(d->main_));

    ggml_threadpool_params p = ggml_threadpool_params_default(d->n_threads_);
    p.poll = 1;  // a few milliseconds of waiting between graphs, then sleep
    d->pool_ = ggml_threadpool_new(&p);
    if (d->pool_ == nullptr) fail(UB_E_NOMEM, "can't start %d threads", d->n_threads_);
    return d;
}

device::~device() {
    if (pool_ != nullptr) ggml_threadpool_free(pool_);
}

bool device::is_cuda() const { return std::strcmp(ggml_backend_reg_name(ggml_backend_dev_backend_reg(main_)), "CUDA") == 0; }

uint64_t device::memory_free() const {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(main_, &free, &total);
    if (is_cpu()) {
        if (const uint64_t n = system_memory_free()) return n;
    }
    return free;
}

bool device::is_roomy() const {
    size_t free = 0, total = 0;
    ggml_backend_dev_memory(main_, &free, &total);
    return !is_cpu() && total >= size_t(8) << 30;
}

std::vector<ggml_backend_ptr> device::backends() const {
    std::vector<ggml_backend_ptr> list;
    auto add = [&](ggml_backend_dev_t dev) {
        ggml_backend_ptr b(ggml_backend_dev_init(dev, nullptr));
        if (!b) fail(UB_E_DEVICE, "device %s can't be opened", lower(ggml_backend_dev_name(dev)).c_str());
        list.push_back(std::move(b));
    };
    if (!is_cpu()) add(main_);
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        if (!computes(ggml_backend_dev_get(i))) add(ggml_backend_dev_get(i));
    }
    add(cpu_);
    ggml_backend_cpu_set_n_threads(list.back().get(), n_threads_);
    ggml_backend_cpu_set_threadpool(list.back().get(), pool_);
    return list;
}

} // namespace ub
