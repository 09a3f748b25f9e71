// An order in which blocks of rows meet in pairs, for several threads.
//
// What two blocks owe each other is added to both, so no two threads may hold the same block; and the order in which
// a block meets the others decides how its sums are rounded. A round-robin tournament settles both: in each round
// every block meets one other. A thread takes the next meeting of the list, and waits until both have come through
// the rounds before. So there is no copy of the sums for each thread, no barrier, and threads may be as fast or as
// slow as they like, yet every sum is added in one order, whatever the number of threads.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <vector>

namespace margformer::cpu {

// Blocks of rows and of columns that meet. If the two are one, it meets itself.
struct Meeting {
    std::int64_t row, column;
};

class Tournament {
  public:
    // Mutual: every block with itself, and with every other once. Else each of `rows` blocks with each of `columns`,
    // which are only looked at.
    Tournament(std::int64_t rows, std::int64_t columns, bool is_mutual)
        : rows_(rows),
          columns_(columns),
          seats_(columns + columns % 2),
          first_round_(is_mutual ? columns : 0),
          rounds_(is_mutual ? seats_ - 1 : columns),
          meetings_a_round_(is_mutual ? seats_ / 2 : rows),
          is_mutual_(is_mutual),
          rounds_played_(at(rows)) {}

    // How many threads can be busy at a time.
    std::int64_t width() const { return meetings_a_round_; }

    // Play what is left to play, beside other threads that do the same.
    template <typename Play>
    void take_part(const Play& play) noexcept {
        const std::int64_t meetings = first_round_ + rounds_ * meetings_a_round_;
        for (std::int64_t next = next_++; next < meetings; next = next_++) {
            std::int64_t round = 0;
            const Meeting meeting = find(next, round);
            // An odd one out meets a seat that is empty.
            const bool is_on = meeting.row < rows_;
            if (is_on) await(meeting.row, round);
            if (is_mutual_ && meeting.column != meeting.row) await(meeting.column, round);
            if (is_on) play(meeting);
            tell(meeting, is_on, round + 1);
        }
    }

  private:
    static std::size_t at(std::int64_t block) { return static_cast<std::size_t>(block); }

    // The circle method: one seat stays, the others move on by one a round.
    Meeting find(std::int64_t number, std::int64_t& round) const {
        if (number < first_round_) return {number, number};
        const std::int64_t turn = (number - first_round_) / meetings_a_round_;
        const std::int64_t table = (number - first_round_) % meetings_a_round_;
        if (!is_mutual_) {
            round = turn;
            return {table, (table + turn) % columns_};
        }
        round = turn + 1;
        const std::int64_t moving = seats_ - 1;
        return {table == 0 ? moving : (turn + table) % moving, (turn - table + moving) % moving};
    }

    // Asleep, not in a loop that gives way: with more threads than cores, a scheduler may let two such loops give way
    // to each other for minutes, and never run the thread that both wait for (Linux 6.18 does).
    void await(std::int64_t block, std::int64_t round) {
        const std::atomic<std::int64_t>& played = rounds_played_[at(block)];
        if (played.load(std::memory_order_acquire) == round) return;
        std::unique_lock<std::mutex> lock(telling_);
        told_.wait(lock, [&] { return played.load(std::memory_order_acquire) == round; });
    }

    void tell(const Meeting& meeting, bool is_on, std::int64_t rounds_played) {
        {
            const std::lock_guard<std::mutex> lock(telling_);
            if (is_on) rounds_played_[at(meeting.row)].store(rounds_played, std::memory_order_release);
            if (is_mutual_) rounds_played_[at(meeting.column)].store(rounds_played, std::memory_order_release);
        }
        told_.notify_all();
    }

    std::int64_t rows_, columns_, seats_, first_round_, rounds_, meetings_a_round_;
    bool is_mutual_;
    std::atomic<std::int64_t> next_{0};
    std::vector<std::atomic<std::int64_t>> rounds_played_;
    std::mutex telling_;
    std::condition_variable told_;
};

}  // namespace margformer::cpu
