// Functions compiled several times, for older and newer processors; the loader picks as it loads the module.
//
// A module built on one machine so runs on all, and is as fast as one built for each. Rounding does not
// differ: fused multiply-add is off everywhere (-ffp-contract=off).
#pragma once

// A function that has clones, and into which everything it calls is inlined: what is not inlined is compiled
// once, for the oldest processor.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12
#define MF_CLONES_FLAT \
    __attribute__((flatten, target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define MF_CLONES_FLAT
#endif
