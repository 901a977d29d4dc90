// types.h: the types of weights, under the names of the command.

#pragma once

#include "ggml.h"

namespace ub {

struct weight_type {
    const char * name;
    ggml_type    type;
};

const weight_type * find_type(const char * name);  // nullptr: no such type
const weight_type * find_type(ggml_type type);

} // namespace ub
