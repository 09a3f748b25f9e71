// Dropout's decisions; margformer_fast/reference/dropout.py says what they are. Included once for each target,
// so without a guard.

namespace MF_TARGET {

constexpr std::uint32_t kOfHiddenUnits = 0;
constexpr std::uint32_t kOfAttentionWeights = 1;

// A counter a lane, its words in the lower halves of four vectors; what is in the upper ones does not matter.
struct Counters {
    Vec<std::uint64_t> word[4];
};

// Philox4x32-10 of each lane's counter, in place: core/random.hpp says what it is.
MF_ALWAYS_INLINE void philox_lanes(Counters& counters, Key key) {
    Vec<std::uint64_t>* word = counters.word;
    for (int round = 0; round < 10; ++round) {
        const Vec<std::uint64_t> p0 = MF_MULTIPLY_HALVES(word[0], Vec<std::uint64_t>{} + 0xD2511F53u);
        const Vec<std::uint64_t> p1 = MF_MULTIPLY_HALVES(word[2], Vec<std::uint64_t>{} + 0xCD9E8D57u);
        word[0] = (p1 >> 32) ^ word[1] ^ std::uint64_t{key.k[0]};
        word[2] = (p0 >> 32) ^ word[3] ^ std::uint64_t{key.k[1]};
        word[1] = p1;
        word[3] = p0;
        key.k[0] += 0x9E3779B9u;
        key.k[1] += 0xBB67AE85u;
    }
}

// 16 random bits for each of 8 `groups` units of rows `first_row` and up, row after row.
__attribute__((noinline)) inline void draw_levels(std::uint64_t seed, std::uint32_t purpose, std::int64_t first_row,
                                                  std::int64_t num_rows, std::int64_t groups,
                                                  std::uint16_t* levels) {
    constexpr int lanes = kLanes<std::uint64_t>;
    constexpr int kSets = 2;  // so many vectors at a time hide each other's latency
    const Key key{{static_cast<std::uint32_t>(seed), static_cast<std::uint32_t>(seed >> 32)}};
    const std::int64_t count = num_rows * groups;
    // The group and the row of the next counter of each lane.
    Vec<std::uint64_t> group{};
    Vec<std::uint64_t> row = Vec<std::uint64_t>{} + static_cast<std::uint64_t>(first_row);
    for (int lane = 0; lane < lanes; ++lane) {
        group[lane] = static_cast<std::uint64_t>(lane % groups);
        row[lane] += static_cast<std::uint64_t>(lane / groups);
    }
    for (std::int64_t done = 0; done < count; done += kSets * lanes) {
        Counters counters[kSets];
        for (Counters& each : counters) {
            each.word[0] = group;
            each.word[1] = row;
            each.word[2] = row >> 32;
            each.word[3] = Vec<std::uint64_t>{} + purpose;
            group += static_cast<std::uint64_t>(lanes);
            for (std::int64_t wrapped = 0; wrapped < lanes; wrapped += groups) {
                const auto beyond = reinterpret_cast<Vec<std::uint64_t>>(group >= static_cast<std::uint64_t>(groups));
                group -= beyond & static_cast<std::uint64_t>(groups);
                row -= beyond;  // which is -1
            }
        }
#pragma GCC unroll 2
        for (Counters& each : counters) philox_lanes(each, key);
        for (int set = 0; set < kSets; ++set) {
            const Vec<std::uint64_t>* word = counters[set].word;
            const auto low = (word[0] & 0xffffffffu) | (word[1] << 32);
            const auto high = (word[2] & 0xffffffffu) | (word[3] << 32);
            std::uint64_t halves[2][lanes];
            store(halves[0], low);
            store(halves[1], high);
            std::uint64_t in_order[2 * lanes];
            for (int i = 0; i < lanes; ++i) {
                in_order[2 * i] = halves[0][i];
                in_order[2 * i + 1] = halves[1][i];
            }
            std::memcpy(levels + 8 * (done + set * lanes), in_order, sizeof(in_order));
        }
    }
}

// How many levels draw_levels() writes: it draws whole blocks.
MF_ALWAYS_INLINE std::int64_t levels_of(std::int64_t num_rows, std::int64_t groups) {
    return round_up(num_rows * groups, 2 * kLanes<std::uint64_t>) * 8;
}

// All bits of the lanes that are kept.
template <typename T>
MF_ALWAYS_INLINE Vec<BitsOf<T>> kept(const std::uint16_t* levels, std::int32_t dropped_levels) {
    typedef std::uint16_t Levels __attribute__((vector_size(2 * kLanes<T>)));
    Levels lanes;
    std::memcpy(&lanes, levels, sizeof(lanes));
    return __builtin_convertvector(lanes, Vec<BitsOf<T>>) >= static_cast<BitsOf<T>>(dropped_levels);
}

// `lanes` where they are kept, else 0.
template <typename T>
MF_ALWAYS_INLINE Vec<T> masked(const Vec<T>& lanes, const Vec<BitsOf<T>>& mask) {
    return reinterpret_cast<Vec<T>>(reinterpret_cast<Vec<BitsOf<T>>>(lanes) & mask);
}

}  // namespace MF_TARGET
