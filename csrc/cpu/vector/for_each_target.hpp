// Includes MF_BODY once for each kind of processor, in a namespace MF_TARGET of its own, compiled for it.
//
// For code whose shape depends on the processor: how long vectors are (kVectorBytes), how many rows of two vectors
// fit the registers as a tile (kTileRows; 65 tokens are 5 times 13). Where only instructions differ, cpu/clones.hpp
// is simpler. To be included in an unnamed namespace of one source file, after everything that the body needs: a
// header of the standard library must not be compiled for a newer processor than all others have. MF_FEW_TARGETS
// leaves those with AVX-512 out, for builds that take long.

#define MF_TARGET_BF16 0

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 12

#define MF_MULTIPLY_HALVES_BITS(bits, a, b)                                             \
    reinterpret_cast<Vec<std::uint64_t>>(                                               \
        _mm##bits##_mul_epu32(reinterpret_cast<__m##bits##i>(a), reinterpret_cast<__m##bits##i>(b)))

#if !defined(MF_FEW_TARGETS)

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4,avx512bf16")
#define MF_TARGET avx512_bf16
#undef MF_TARGET_BF16
#define MF_TARGET_BF16 1
#define MF_MULTIPLY_HALVES(a, b) MF_MULTIPLY_HALVES_BITS(512, a, b)
namespace MF_TARGET {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 13;
}  // namespace MF_TARGET
#include MF_BODY
#undef MF_TARGET_BF16
#define MF_TARGET_BF16 0
#undef MF_TARGET
#undef MF_MULTIPLY_HALVES
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v4")
#define MF_TARGET avx512
#define MF_MULTIPLY_HALVES(a, b) MF_MULTIPLY_HALVES_BITS(512, a, b)
namespace MF_TARGET {
constexpr int kVectorBytes = 64;
constexpr int kTileRows = 13;
}  // namespace MF_TARGET
#include MF_BODY
#undef MF_TARGET
#undef MF_MULTIPLY_HALVES
#pragma GCC pop_options

#define MF_CALL_AVX512(name, call)                         \
    if ((name) == "avx512_bf16") return avx512_bf16::call; \
    if ((name) == "avx512") return avx512::call;
#else
#define MF_CALL_AVX512(name, call)
#endif

#pragma GCC push_options
#pragma GCC target("arch=x86-64-v3")
#define MF_TARGET avx2
#define MF_MULTIPLY_HALVES(a, b) MF_MULTIPLY_HALVES_BITS(256, a, b)
namespace MF_TARGET {
constexpr int kVectorBytes = 32;
constexpr int kTileRows = 4;
}  // namespace MF_TARGET
#include MF_BODY
#undef MF_TARGET
#undef MF_MULTIPLY_HALVES
#pragma GCC pop_options

// Call a function of a target by the target's name, if it is one of these.
#define MF_CALL_TARGET(name, call)                       \
    do {                                                 \
        MF_CALL_AVX512(name, call)                       \
        if ((name) == "avx2") return avx2::call;         \
        if ((name) == "baseline") return baseline::call; \
    } while (false)

#else

#define MF_CALL_TARGET(name, call)                       \
    do {                                                 \
        if ((name) == "baseline") return baseline::call; \
    } while (false)

#endif

#define MF_TARGET baseline
// The product of the lower halves of all lanes of 64 bits.
#define MF_MULTIPLY_HALVES(a, b) (((a) & 0xffffffffu) * ((b) & 0xffffffffu))
namespace MF_TARGET {
constexpr int kVectorBytes = 16;
constexpr int kTileRows = 4;
}  // namespace MF_TARGET
#include MF_BODY
#undef MF_TARGET
#undef MF_MULTIPLY_HALVES
