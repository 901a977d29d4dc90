// log.h: what llama.cpp and ggml write to their log.

#pragma once

#include <string>

namespace ub {

// Keeps errors for take_complaints and drops all else from now on; errors so far are forgotten. To be called before anything that may
// write: backends do when the registry first looks for devices.
void quiet_log();

// The errors of this thread since its last quiet_log, in one line.
std::string take_complaints();

} // namespace ub
