// Matrix products: small, on data in the cache. Included once for each target, so without a guard.

namespace MF_TARGET {

// One term of a sum: a number of A times a vector of B.
template <typename T>
struct Plain {
    using Number = T;  // of the result
    using Factor = T;  // of A and B
    static constexpr int kTerms = 1;
    static MF_ALWAYS_INLINE void add(Vec<T>& sum, Factor a, const Vec<T>& b) { sum += a * b; }
};

// Factors are rounded to bfloat16, and multiplied as what they then are.
struct Rounded : Plain<float> {};

#if MF_TARGET_BF16
// Two terms at once: neighbours in the sum as a pair of bfloat16, the first in the lower half.
struct Paired {
    using Number = float;
    using Factor = std::uint32_t;
    static constexpr int kTerms = 2;
    static MF_ALWAYS_INLINE void add(Vec<float>& sum, Factor a, const Vec<std::uint32_t>& b) {
        const __m512i pair = _mm512_set1_epi32(static_cast<int>(a));
        sum = reinterpret_cast<Vec<float>>(_mm512_dpbf16_ps(
            reinterpret_cast<__m512>(sum), reinterpret_cast<__m512bh>(pair), reinterpret_cast<__m512bh>(b)));
    }
};
using Halved = Paired;
#else
using Halved = Rounded;
#endif

// Where a factor's elements lie: steps between its rows (columns of B lie side by side) and between terms.
template <typename Factor>
struct Left {
    const Factor* at;
    std::ptrdiff_t row, term;
};
template <typename Factor>
struct Right {
    const Factor* at;
    std::ptrdiff_t term;
};

// A tile of C (+)= A B in registers: kRows rows, kVecs vectors.
template <typename Term, int kRows, int kVecs>
MF_ALWAYS_INLINE void product_tile(Left<typename Term::Factor> a, Right<typename Term::Factor> b,
                                   typename Term::Number* c, std::ptrdiff_t c_row, int terms, bool adds) {
    using Number = typename Term::Number;
    using Factor = typename Term::Factor;
    Vec<Number> sum[kRows][kVecs];
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) {
            sum[r][v] = adds ? load(c + r * c_row + v * kLanes<Number>) : Vec<Number>{};
        }
    }
    for (int k = 0; k < terms; ++k) {
        Vec<Factor> row[kVecs];
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) row[v] = load(b.at + v * kLanes<Factor>);
#pragma GCC unroll 16
        for (int r = 0; r < kRows; ++r) {
            const Factor factor = a.at[r * a.row];
#pragma GCC unroll 4
            for (int v = 0; v < kVecs; ++v) Term::add(sum[r][v], factor, row[v]);
        }
        a.at += a.term;
        b.at += b.term;
    }
#pragma GCC unroll 16
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 4
        for (int v = 0; v < kVecs; ++v) store(c + r * c_row + v * kLanes<Number>, sum[r][v]);
    }
}

// A column of tiles. Not inlined: one body for all products that have such tiles.
template <typename Term, int kRows, int kVecs>
__attribute__((noinline)) void product_tiles(Left<typename Term::Factor> a, Right<typename Term::Factor> b,
                                             typename Term::Number* c, std::ptrdiff_t c_row, int rows,
                                             int terms, bool adds) {
    for (; rows >= kRows; rows -= kRows, a.at += kRows * a.row, c += kRows * c_row) {
        product_tile<Term, kRows, kVecs>(a, b, c, c_row, terms, adds);
    }
    if constexpr (kRows > 1) {
        if (rows > 0) product_tiles<Term, (kRows > 8 ? 8 : kRows / 2), kVecs>(a, b, c, c_row, rows, terms, adds);
    }
}

// C (+)= A B for the columns of one panel.
template <typename Term>
MF_ALWAYS_INLINE void product_panel(Left<typename Term::Factor> a, Right<typename Term::Factor> b,
                                    typename Term::Number* c, std::ptrdiff_t c_row, int rows, int terms,
                                    bool adds) {
    product_tiles<Term, kTileRows, 2>(a, b, c, c_row, rows, terms, adds);
}

// C (+)= A B for `columns` columns, a multiple of the lanes; rows of B are not cut into panels.
template <typename Term>
MF_ALWAYS_INLINE void product(Left<typename Term::Factor> a, Right<typename Term::Factor> b,
                              typename Term::Number* c, std::ptrdiff_t c_row, int rows, int terms, int columns,
                              bool adds) {
    constexpr int lanes = kLanes<typename Term::Number>;
    int done = 0;
    for (; done + 2 * lanes <= columns; done += 2 * lanes) {
        product_tiles<Term, kTileRows, 2>(a, {b.at + done, b.term}, c + done, c_row, rows, terms, adds);
    }
    if (done < columns) {
        product_tiles<Term, kTileRows, 1>(a, {b.at + done, b.term}, c + done, c_row, rows, terms, adds);
    }
}

}  // namespace MF_TARGET
