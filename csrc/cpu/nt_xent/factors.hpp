// The unit rows as factors of products. Included once for each target, so without a guard.

namespace MF_TARGET {

// All rows, transposed: panels of kPanel rows side by side, terms along the dim. Both factors of the similarities.
template <typename Term>
class TransposedRows {
    using T = typename Term::Number;
    using Factor = typename Term::Factor;
    static constexpr std::int64_t P = kPanel<T>;

  public:
    TransposedRows(Arena& arena, std::int64_t rows, std::int64_t dim)
        : terms_((dim + Term::kTerms - 1) / Term::kTerms), at_(arena.take<Factor>(round_up(rows, P) * terms_)) {}

    // The panel that begins with row `first` of `z`; zeros beyond the last row, and beyond an odd dim.
    void fill(const T* z, std::int64_t rows, std::int64_t dim, std::int64_t first) const {
        const std::int64_t count = std::min(P, rows - first);
        Factor* panel = at_ + first * terms_;
        T term[2][P] = {};
        for (std::int64_t k = 0; k < dim; k += Term::kTerms) {
            const bool ends = k + 1 >= dim;
            for (std::int64_t j = 0; j < count; ++j) {
                const T* row = z + (first + j) * dim;
                term[0][j] = row[k];
                if (Term::kTerms == 2) term[1][j] = ends ? T(0) : row[k + 1];
            }
            for (std::int64_t j = 0; j < P; j += kLanes<T>) {
                store(panel + k / Term::kTerms * P + j, as_factors<Term>(load(term[0] + j), load(term[1] + j)));
            }
        }
    }

    int num_terms() const { return static_cast<int>(terms_); }
    // From a row up to the end of its panel.
    Left<Factor> rows(std::int64_t row) const { return {at_ + row / P * P * terms_ + row % P, 1, P}; }
    // The panel that begins with a row.
    Right<Factor> columns(std::int64_t first) const { return {at_ + first * terms_, P}; }

  private:
    std::int64_t terms_;
    Factor* at_;
};

// A panel of columns of a block of rows, terms along the rows: the right factor of a gradient.
template <typename Term>
class ColumnPanel {
    using T = typename Term::Number;
    using Factor = typename Term::Factor;
    static constexpr std::int64_t P = kPanel<T>;

  public:
    ColumnPanel(Arena& arena, std::int64_t most_rows) : at_(arena.take<Factor>(most_rows / Term::kTerms * P)) {}

    // From `column` on, of an even number of rows; zeros beyond the last column.
    void fill(const T* z, std::int64_t dim, std::int64_t rows, std::int64_t column) const {
        const std::int64_t count = std::min(P, dim - column);
        T padded[2][P] = {};
        for (std::int64_t r = 0; r < rows; r += Term::kTerms) {
            const T* term[2] = {z + r * dim + column, z + (r + Term::kTerms - 1) * dim + column};
            for (int t = 0; count < P && t < 2; ++t) {
                std::memcpy(padded[t], term[t], static_cast<std::size_t>(count) * sizeof(T));
                term[t] = padded[t];
            }
            for (std::int64_t j = 0; j < P; j += kLanes<T>) {
                store(at_ + r / Term::kTerms * P + j, as_factors<Term>(load(term[0] + j), load(term[1] + j)));
            }
        }
    }

    Right<Factor> get() const { return {at_, P}; }

  private:
    Factor* at_;
};

}  // namespace MF_TARGET
