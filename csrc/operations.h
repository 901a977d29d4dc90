// operations.h: which device computed each operation, counted: an audit that nothing left a GPU unseen.

#pragma once

#include "ggml-backend.h"

#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <utility>

namespace ub {

// Added to by one call at a time, read at any time.
class operations {
  public:
    // Counts a node of a graph whose tensors have their memory. Views and the like, which compute nothing, do not count.
    void add(const ggml_tensor * node);
    // Appends lines "STAGE\tOPERATION\tDEVICE\tCOUNT\n", sorted. Devices have the names that params.device takes.
    void print(const char * stage, std::string & out) const;

  private:
    using where = std::pair<const char *, ggml_backend_dev_t>;  // ggml's name of the operation; null: the CPU

    mutable std::mutex        m;
    std::map<where, uint64_t> counts;
};

} // namespace ub
