// Kinds of processors that vector code is compiled for: vector/for_each_target.hpp.
#pragma once

#include <string>
#include <vector>

namespace margformer::cpu {

// Those that this processor is one of, the best first.
inline std::vector<std::string> targets() {
    std::vector<std::string> found;
#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#if !defined(MF_FEW_TARGETS)
    const bool has_avx512 = __builtin_cpu_supports("x86-64-v4") != 0;
    if (has_avx512 && __builtin_cpu_supports("avx512bf16")) found.emplace_back("avx512_bf16");
    if (has_avx512) found.emplace_back("avx512");
#endif
    if (__builtin_cpu_supports("x86-64-v3")) found.emplace_back("avx2");
#endif
    found.emplace_back("baseline");
    return found;
}

// The target of this name if this processor is of that kind, the best if the name is empty, else nothing.
inline std::string usable_target(const std::string& name) {
    static const std::vector<std::string> all = targets();
    if (name.empty()) return all.front();
    for (const std::string& each : all) {
        if (each == name) return each;
    }
    return "";
}

}  // namespace margformer::cpu
