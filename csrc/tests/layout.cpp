// The mirror of the header that bindings test theirs against.

#include "fixtures.h"

TEST_CASE("layout") {
    CHECK(ub_abi_version() == UB_ABI_VERSION);
    CHECK(ub_struct_size("ub_error") == 1024);
    CHECK(ub_struct_size("ub_model_params") == int64_t(sizeof(ub_model_params)));
    CHECK(ub_struct_size("ub_nothing") == -1);
    CHECK(ub_struct_size(nullptr) == -1);
    CHECK(ub_field_offset("ub_model_info", "tile_mean") == int64_t(offsetof(ub_model_info, tile_mean)));
    CHECK(ub_field_offset("ub_model_info", "nothing") == -1);
    CHECK(ub_field_offset("ub_nothing", "size") == -1);
    CHECK(ub_field_offset("ub_call", nullptr) == -1);
    CHECK(ub_enum_value("UB_E_CANCELED") == UB_E_CANCELED);
    CHECK(ub_enum_value("UB_STAGE_MEMORY") == UB_STAGE_MEMORY);
    CHECK(ub_enum_value("UB_E_NOTHING") == -1);
}

// Reads the header itself, so that a struct, field or constant that is added there and forgotten in layout.cpp is found.
TEST_CASE("layout knows all of the header") {
    std::ifstream in("csrc/include/unibiomed.h");
    if (!in) {
        std::printf("SKIP: not run in the repository's root\n");
        return;
    }
    std::string line, name;
    int structs = 0, fields = 0, constants = 0;
    std::vector<std::string> seen;
    while (std::getline(in, line)) {
        const std::string code = line.substr(0, line.find("//"));
        if (code.rfind("typedef struct ub_", 0) == 0 && code.find('{') != std::string::npos) {
            seen.clear();
            name = code.substr(15, code.find(' ', 15) - 15);
            CAPTURE(name);
            CHECK(ub_struct_size(name.c_str()) > 0);
            ++structs;
        } else if (!name.empty() && code.find(';') != std::string::npos && code[0] == ' ') {
            std::string field = code.substr(0, code.find_first_of(";["));
            field = field.substr(field.find_last_of(" *") + 1);
            CAPTURE(name);
            CAPTURE(field);
            CHECK(ub_field_offset(name.c_str(), field.c_str()) >= 0);
            ++fields;
        } else if (code[0] == '}') {
            name.clear();
        }
        for (size_t at = code.find("UB_"); at != std::string::npos; at = code.find("UB_", at + 1)) {
            const size_t end = code.find_first_not_of("ABCDEFGHIJKLMNOPQRSTUVWXYZ_0123456789", at), equals = code.find_first_not_of(' ', end);
            if (end == std::string::npos || equals == std::string::npos || code[equals] != '=') continue;
            CAPTURE(code);
            CHECK(ub_enum_value(code.substr(at, end - at).c_str()) >= 0);
            ++constants;
        }
    }
    CHECK(structs == 9);
    CHECK(fields > 70);
    CHECK(constants == 20);
}

TEST_CASE("build info and devices") {
    CHECK(std::string(ub_build_info()).find("ggml") != std::string::npos);
    REQUIRE(ub_device_count() >= 1);
    ub_device_info info{};
    ub_error err;
    info.size = sizeof info;
    bool cpu = false;
    for (int i = 0; i < ub_device_count(); ++i) {
        REQUIRE(ub_device_get(i, &info, &err) == UB_OK);
        cpu = cpu || (info.type == UB_DEVICE_CPU && std::string(info.name) == "cpu" && info.memory_total > 0 && info.memory_free > 0);
    }
    CHECK(cpu);
    CHECK(ub_device_get(ub_device_count(), &info, &err) == UB_E_INVALID);
    CHECK(ub_device_get(0, nullptr, nullptr) == UB_E_INVALID);
    info.size = 8;
    CHECK(ub_device_get(0, &info, &err) == UB_E_INVALID);
    CHECK(std::string(err.message).find("ub_device_info.size is 8") != std::string::npos);
}
