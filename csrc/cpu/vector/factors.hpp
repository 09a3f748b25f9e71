// Buffers of factors: a matrix written by pairs of rows, read as either factor of a product. Included once for
// each target, so without a guard.

namespace MF_TARGET {

// The bits of lanes rounded to bfloat16, in the upper halves; what is below them is to be dropped.
MF_ALWAYS_INLINE Vec<std::uint32_t> rounded_bits(const Vec<float>& lanes) {
    const auto bits = reinterpret_cast<Vec<std::uint32_t>>(lanes);
    return bits + 0x7fffu + ((bits >> 16) & 1u);  // to nearest, ties to even
}

// Numbers as factors of a product. Where a factor holds two terms, `second` has those that follow in the sum.
template <typename Term>
MF_ALWAYS_INLINE Vec<typename Term::Factor> as_factors(const Vec<typename Term::Number>& first,
                                                       const Vec<typename Term::Number>& second) {
    if constexpr (Term::kTerms == 2) {
        return rounded_bits(first) >> 16 | (rounded_bits(second) & 0xffff0000u);
    } else if constexpr (std::is_same_v<Term, Rounded>) {
        return reinterpret_cast<Vec<float>>(rounded_bits(first) & 0xffff0000u);
    } else {
        return first;
    }
}

// Takes chunks of memory off a block; with no block it counts how large that has to be.
class Arena {
  public:
    explicit Arena(void* block) : at_(reinterpret_cast<std::uintptr_t>(block)), first_(at_) {}

    template <typename T>
    T* take(std::int64_t count) {
        const std::uintptr_t chunk = at_;
        at_ += static_cast<std::uintptr_t>(round_up(count * static_cast<std::int64_t>(sizeof(T)), 64));
        return reinterpret_cast<T*>(chunk);
    }

    std::size_t taken() const { return at_ - first_; }

  private:
    std::uintptr_t at_, first_;
};

// As numbers, R rows of `columns`; both factors read the same memory.
template <typename Term>
class Factors {
    using T = typename Term::Number;

  public:
    Factors(Arena& arena, std::int64_t rows, std::int64_t columns)
        // A line more, or columns of a power of two would all lie in the same sets of the cache.
        : step_(columns + kLanes<T>), at_(arena.take<T>((rows + rows % 2) * step_)) {}

    // Lanes of rows 2 pair and 2 pair + 1.
    MF_ALWAYS_INLINE void put(std::int64_t pair, std::int64_t column, const Vec<T>& upper, const Vec<T>& lower) const {
        store(at_ + 2 * pair * step_ + column, in_type(upper));
        store(at_ + (2 * pair + 1) * step_ + column, in_type(lower));
    }

    // Terms along the columns, from `column` on.
    Left<T> across() const { return {at_, step_, 1}; }
    // Terms along the rows: the transposed matrix on the left, the matrix on the right.
    Left<T> down_left() const { return {at_, 1, step_}; }
    Right<T> down_right() const { return {at_, step_}; }

  private:
    static MF_ALWAYS_INLINE Vec<T> in_type(const Vec<T>& lanes) {
        if constexpr (std::is_same_v<Term, Rounded>) {
            return reinterpret_cast<Vec<T>>(rounded_bits(lanes) & 0xffff0000u);
        } else {
            return lanes;
        }
    }

    std::int64_t step_;
    T* at_;
};

#if MF_TARGET_BF16
// As bfloat16, twice: neighbours in a row as pairs, and neighbours in a column.
template <>
class Factors<Paired> {
  public:
    Factors(Arena& arena, std::int64_t rows, std::int64_t columns)
        : across_step_(columns / 2 + kLanes<float>),
          down_step_(columns + kLanes<float>),
          across_(arena.take<std::uint32_t>((rows + rows % 2) * across_step_)),
          down_(arena.take<std::uint32_t>((rows + 1) / 2 * down_step_)) {}

    MF_ALWAYS_INLINE void put(std::int64_t pair, std::int64_t column, const Vec<float>& upper,
                              const Vec<float>& lower) const {
        typedef std::uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));
        const auto first = rounded_bits(upper) >> 16;
        const auto second = rounded_bits(lower) & 0xffff0000u;
        const auto first_row = __builtin_convertvector(first, Halves);
        const auto second_row = __builtin_convertvector(second >> 16, Halves);
        std::memcpy(across_ + 2 * pair * across_step_ + column / 2, &first_row, sizeof(first_row));
        std::memcpy(across_ + (2 * pair + 1) * across_step_ + column / 2, &second_row, sizeof(second_row));
        store(down_ + pair * down_step_ + column, first | second);
    }

    Left<std::uint32_t> across() const { return {across_, across_step_, 1}; }
    Left<std::uint32_t> down_left() const { return {down_, 1, down_step_}; }
    Right<std::uint32_t> down_right() const { return {down_, down_step_}; }

  private:
    std::int64_t across_step_, down_step_;
    std::uint32_t* across_;
    std::uint32_t* down_;
};
#endif

// Weights on the right of a product, in panels: element (k, n) of the factor is `at(k, n)`, a number; what lies
// beyond `terms` or `columns` is zero. `terms` is even.
template <typename Term>
class PackedWeights {
    using T = typename Term::Number;
    using Factor = typename Term::Factor;

  public:
    PackedWeights(Arena& arena, std::int64_t padded_terms, std::int64_t padded_columns)
        : terms_(padded_terms / Term::kTerms),
          panels_(padded_columns / kPanel<T>),
          at_(arena.take<Factor>(terms_ * padded_columns)) {}

    template <typename At>
    void fill(std::int64_t terms, std::int64_t columns, const At& at) const {
        const auto number = [&](std::int64_t k, std::int64_t n) { return k < terms ? static_cast<T>(at(k, n)) : T(0); };
        for (std::int64_t p = 0; p < panels_; ++p) {
            const std::int64_t first = p * kPanel<T>;
            const std::int64_t inside = std::min<std::int64_t>(kPanel<T>, std::max<std::int64_t>(0, columns - first));
            for (std::int64_t k = 0; k < terms_; ++k) {
                Factor* factor = at_ + (p * terms_ + k) * kPanel<T>;
                for (std::int64_t j = 0; j < inside; ++j) {
                    if constexpr (Term::kTerms == 2) {
                        factor[j] = half(number(2 * k, first + j)) | half(number(2 * k + 1, first + j)) << 16;
                    } else if constexpr (std::is_same_v<Term, Rounded>) {
                        factor[j] = bit_cast<float>(half(number(k, first + j)) << 16);
                    } else {
                        factor[j] = number(k, first + j);
                    }
                }
                for (std::int64_t j = inside; j < kPanel<T>; ++j) factor[j] = 0;
            }
        }
    }

    std::int64_t num_panels() const { return panels_; }
    int num_terms() const { return static_cast<int>(terms_); }
    Right<Factor> panel(std::int64_t p) const { return {at_ + p * terms_ * kPanel<T>, kPanel<T>}; }

  private:
    static std::uint32_t half(float number) {
        const auto bits = bit_cast<std::uint32_t>(number);
        return (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    }

    std::int64_t terms_, panels_;
    Factor* at_;
};

}  // namespace MF_TARGET
