// Vectors of a target. Included once for each target, so without a guard.

namespace MF_TARGET {

template <typename T>
struct VecOf {
    typedef T Type __attribute__((vector_size(kVectorBytes)));
};
// As many numbers as a register holds; arithmetic is element by element.
template <typename T>
using Vec = typename VecOf<T>::Type;
template <typename T>
constexpr int kLanes = kVectorBytes / static_cast<int>(sizeof(T));
// Columns of a tile of a product, and what weights are padded to.
template <typename T>
constexpr int kPanel = 2 * kLanes<T>;

// The integers of the same width, for masks and bits.
template <typename T>
using BitsOf = std::conditional_t<sizeof(T) == 8, std::int64_t, std::int32_t>;

template <typename T>
MF_ALWAYS_INLINE Vec<T> load(const T* address) {
    Vec<T> lanes;
    std::memcpy(&lanes, address, sizeof(lanes));
    return lanes;
}

template <typename T, typename Lanes>
MF_ALWAYS_INLINE void store(T* address, const Lanes& lanes) {
    static_assert(std::is_same_v<Lanes, Vec<T>>);
    std::memcpy(address, &lanes, sizeof(lanes));
}

// The sum over the lanes, by halves. (By shuffles: lanes whose address is taken live in memory.)
template <typename Lanes, int... kLow>
MF_ALWAYS_INLINE auto sum_of(const Lanes& lanes, std::integer_sequence<int, kLow...>) {
    constexpr int half = sizeof...(kLow);
    const auto folded =
        __builtin_shufflevector(lanes, lanes, kLow...) + __builtin_shufflevector(lanes, lanes, (half + kLow)...);
    if constexpr (half == 2) {
        return folded[0] + folded[1];
    } else {
        return sum_of(folded, std::make_integer_sequence<int, half / 2>{});
    }
}

template <typename T>
MF_ALWAYS_INLINE T sum(const Vec<T>& lanes) {
    if constexpr (kLanes<T> == 2) {
        return lanes[0] + lanes[1];
    } else {
        return sum_of(lanes, std::make_integer_sequence<int, kLanes<T> / 2>{});
    }
}

template <typename T>
MF_ALWAYS_INLINE Vec<T> max(const Vec<T>& a, const Vec<T>& b) {
    return a > b ? a : b;
}

MF_ALWAYS_INLINE std::int64_t round_up(std::int64_t count, std::int64_t multiple) {
    return (count + multiple - 1) / multiple * multiple;
}

}  // namespace MF_TARGET
