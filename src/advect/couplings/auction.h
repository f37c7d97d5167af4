// The auction of an assignment on float32 costs (Bertsekas 1988, "The auction algorithm"), at falling eps.
//
// Rows bid for columns. A column j has a price p_j that never falls, and row i wants the column of least c_ij + p_j. A row
// that holds no column takes its cheapest one and raises the price until that column is eps worse than the row's second
// choice; whoever held it bids again. Four rows look at the prices together, which reads these once and hides what each
// would wait for. At the end each pair is within eps of its row's cheapest column, so the cost of all pairs less the dual
// value sum_i min_j (c_ij + p_j) - sum_j p_j bounds what the pairing can have lost. Where a tolerance is asked for, each
// price is lowered first as far as that leaves the cheapest of every row as it is: the bound is then twice to three times
// as tight, and the auction ends at a coarser eps.
//
// Because prices never fall while rows bid, c_ij + p_j of any time is a lower bound ever after. At fine eps each long row
// therefore keeps a short list of its cheapest columns and the value that no column outside it can fall below (its bound):
// nearly all bids touch a few numbers of the list, and the row of n costs is read again only when the bound is reached. The
// outcome is that of reading the whole row every time.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <vector>

#include "../aligned.h"
#include "assignment_vectors.h"

namespace {

constexpr int kTogether = 4; // rows that bid together
constexpr int kListLanes = 32; // in every instruction set, so that all make the same lists
constexpr int kListVectors = kListLanes / kWidth;
constexpr int32_t kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

struct Entry {
    float cost;
    int32_t column;
};

struct Best { // at the auction's prices
    float first, second;
    int32_t column;
};

struct Figures {
    double gap = 0, total = 0;
    int64_t bids = 0, scans = 0, searches = 0, settled = 0;
};

class Auction {
  public:
    // `rough` are the costs from zero upwards, in units of `unit` of the caller's, above some number of each row; rows are
    // `stride` numbers apart.
    Auction(const float *rough, int64_t stride, double unit, int64_t n)
        : unit_(unit), n_(n), rough_(n), prices_(padded(n)), price_(prices_.get()), column_of_(n, -1), row_of_(n, -1) {
        for (int64_t i = 0; i < n; ++i) rough_[i] = rough + i * stride;
        std::fill(price_, price_ + padded(n), 0.0f);
        std::fill(price_, price_ + n, kFar);
    }

    static int64_t padded(int64_t n) { return (n + kListLanes - 1) / kListLanes * kListLanes; }

    // Of a row whose least cost is `lowest`. All rows have been seen when bids begin; until then prices are how dear a column
    // is for the row that likes it best.
    void see(const float *cost, float lowest) {
        for (int64_t j = 0; j < n_; ++j) price_[j] = cost[j] - lowest < price_[j] ? cost[j] - lowest : price_[j];
    }

    // First prices: the dearer a column is even for the row that likes it best, the lower.
    void open() {
        const float most = *std::max_element(price_, price_ + n_);
        for (int64_t j = 0; j < n_; ++j) price_[j] = most - price_[j];
    }

    // All rows look whether the columns they hold will do; those without bid, first come, first served. kTogether rows
    // look at the same prices, and of those that want the same column all but one come again: bids upon prices that have
    // risen since hold, as only the own column has to be at the price that was seen.
    void bid(float eps, int64_t most, bool listed) {
        std::vector<int32_t> queue(n_);
        std::vector<char> waits(n_, 1);
        for (int64_t i = 0; i < n_; ++i) queue[i] = int32_t(i);
        if (listed) forget_lists();
        int64_t head = 0, count = n_, bids = 0;
        const auto come_again = [&](int32_t i) {
            const int64_t at = head + count;
            queue[at < n_ ? at : at - n_] = i;
            waits[i] = 1;
            ++count;
        };
        while (count > 0 && bids < most) {
            const int together = int(std::min<int64_t>(count, kTogether));
            int32_t rows[kTogether];
            Best best[kTogether];
            float seen[kTogether];
            for (int k = 0; k < together; ++k) {
                rows[k] = queue[head];
                head = head + 1 < n_ ? head + 1 : 0;
            }
            count -= together;
            if (listed)
                for (int k = 0; k < together; ++k) best[k] = cheapest(rows[k]);
            else if (together == kTogether) scan<kTogether>(rows, best);
            else
                for (int k = 0; k < together; ++k) scan<1>(rows + k, best + k);
            for (int k = 0; k < together; ++k) seen[k] = price_[best[k].column];
            for (int k = 0; k < together; ++k) {
                const int32_t i = rows[k], j = best[k].column, held = column_of_[i];
                waits[i] = 0;
                if (held >= 0 && rough_[i][held] + price_[held] <= best[k].first + eps) continue;
                if (price_[j] != seen[k]) {
                    come_again(i);
                    continue;
                }
                if (held >= 0) row_of_[held] = -1;
                const int32_t before = row_of_[j];
                price_[j] += (best[k].second - best[k].first) + eps;
                if (before >= 0) {
                    column_of_[before] = -1;
                    if (!waits[before]) come_again(before);
                }
                column_of_[i] = j;
                row_of_[j] = i;
                ++bids;
            }
        }
        figures.bids += bids;
        complete_ = count == 0;
    }

    bool complete() const { return complete_; }

    // Lowers each price as far as no row has its column for less than its cheapest, and says whether what the pairing of a
    // completed auction, of cost `total`, can have lost then, in the caller's units, is within the tolerance.
    bool within(double tolerance, double total) {
        std::vector<float> room(n_, kFar);
        double gap = 0;
        for (int64_t i = 0; i < n_; ++i) gap += double(rough_[i][column_of_[i]] + price_[column_of_[i]]);
        int64_t i = 0;
        for (; i + kTogether <= n_; i += kTogether) gap -= find_room<kTogether>(i, room.data());
        for (; i < n_; ++i) gap -= find_room<1>(i, room.data());
        for (int64_t j = 0; j < n_; ++j) {
            gap -= double(room[j]);
            price_[j] -= room[j];
        }
        figures.gap = gap * unit_;
        figures.total = total;
        return figures.gap <= tolerance * std::fabs(total);
    }

    Figures figures;

  protected:
    // No list is known, as when prices have fallen.
    void forget_lists() {
        if (!lists_) lists_.reset(new Entry[n_ * kListLanes]);
        length_.assign(n_, 0);
        bound_.assign(n_, -1.0f);
    }

    // Reads row i: the cheapest column of each lane, as far as it is below the second of every lane, which is the bound.
    // The cheapest columns of all are in different lanes mostly, so that a list has about the root of 2 kListLanes entries.
    void make_list(int64_t i) {
        ++figures.scans;
        const float *cost = rough_[i];
        Floats first[kListVectors], second[kListVectors];
        Ints block[kListVectors];
        for (int v = 0; v < kListVectors; ++v) first[v] = second[v] = Floats{} + kFar, block[v] = Ints{};
        const int32_t whole = int32_t(n_ / kListLanes);
        for (int32_t b = 0; b < whole; ++b) look(cost + b * kListLanes, b, first, second, block);
        if (n_ > whole * kListLanes) {
            float rest[kListLanes];
            for (int l = 0; l < kListLanes; ++l) rest[l] = whole * kListLanes + l < n_ ? cost[whole * kListLanes + l] : kFar;
            look(rest, whole, first, second, block);
        }

        Floats next = second[0];
        for (int v = 1; v < kListVectors; ++v) next = lesser(next, second[v]);
        const float bound = least(next);
        Entry *entry = &lists_[i * kListLanes];
        int32_t count = 0;
        for (int v = 0; v < kListVectors; ++v) {
            int32_t in[kWidth];
            std::memcpy(in, &block[v], sizeof in);
            for (unsigned bits = up_to(first[v], bound); bits; bits &= bits - 1) {
                const int l = lowest_bit(bits), j = in[l] * kListLanes + v * kWidth + l;
                if (j < n_) entry[count++] = {cost[j], j};
            }
        }
        length_[i] = count;
        bound_[i] = bound;
    }

    void look(const float *cost, int32_t b, Floats *first, Floats *second, Ints *block) const {
        const float *price = price_ + int64_t(b) * kListLanes;
        for (int v = 0; v < kListVectors; ++v) {
            const Floats value = load(cost + v * kWidth) + load(price + v * kWidth);
            second[v] = lesser(second[v], larger(first[v], value));
            block[v] = value < first[v] ? Ints{} + b : block[v];
            first[v] = lesser(first[v], value);
        }
    }

    double unit_;
    int64_t n_;
    std::vector<const float *> rough_; // the rows: products of numbers and strides would be waited for
    Aligned<float> prices_;
    float *price_;
    std::unique_ptr<Entry[]> lists_;
    std::vector<int32_t> length_;
    std::vector<float> bound_;
    std::vector<int32_t> column_of_, row_of_;

  private:
    // The two cheapest columns of rows at the auction's prices, each row read once and the prices once for all. A row alone
    // is read in several streams, or each number would wait for the one before. Of equal columns the first is taken, however
    // wide a vector is.
    template <int Rows> void scan(const int32_t *rows, Best *best) {
        constexpr int streams = kTogether / Rows;
        figures.scans += Rows;
        const float *cost[Rows], *price = price_;
        Floats first[Rows][streams], second[Rows][streams];
        Ints block[Rows][streams];
        for (int k = 0; k < Rows; ++k) {
            cost[k] = rough_[rows[k]];
            for (int u = 0; u < streams; ++u) first[k][u] = second[k][u] = Floats{} + kFar, block[k][u] = Ints{};
        }
        const int32_t whole = int32_t(n_ / kWidth), even = whole / streams * streams;
        for (int32_t b = 0; b < even; b += streams)
            for (int u = 0; u < streams; ++u) {
                const Floats paid = load(price + (b + u) * kWidth);
                for (int k = 0; k < Rows; ++k)
                    keep_two(load(cost[k] + (b + u) * kWidth) + paid, b + u, first[k][u], second[k][u], block[k][u]);
            }
        for (int k = 0; k < Rows; ++k) {
            for (int32_t b = even; b < whole; ++b)
                keep_two(load(cost[k] + b * kWidth) + load(price + b * kWidth), b, first[k][0], second[k][0], block[k][0]);
            if (whole * kWidth < n_) {
                Floats rest = Floats{} + kFar;
                std::memcpy(&rest, cost[k] + whole * kWidth, sizeof(float) * (n_ - whole * kWidth));
                keep_two(rest + load(price + whole * kWidth), whole, first[k][0], second[k][0], block[k][0]);
            }
            for (int u = 1; u < streams; ++u) {
                const Ints later = (first[k][u] == first[k][0]) & (block[k][u] < block[k][0]);
                second[k][0] = lesser(lesser(second[k][0], second[k][u]), larger(first[k][0], first[k][u]));
                block[k][0] = (first[k][u] < first[k][0]) | later ? block[k][u] : block[k][0];
                first[k][0] = lesser(first[k][0], first[k][u]);
            }
            best[k] = of_lanes(first[k][0], second[k][0], block[k][0]);
        }
    }

    static void keep_two(Floats value, int32_t b, Floats &first, Floats &second, Ints &block) {
        second = lesser(second, larger(first, value));
        block = value < first ? Ints{} + b : block;
        first = lesser(first, value);
    }

    static Best of_lanes(Floats first, Floats second, Ints block) {
        int32_t in[kWidth];
        std::memcpy(in, &block, sizeof in);
        const float lowest = least(first);
        unsigned bits = up_to(first, lowest);
        int lane = lowest_bit(bits);
        for (bits &= bits - 1; bits; bits &= bits - 1) {
            const int other = lowest_bit(bits);
            if (in[other] < in[lane]) lane = other;
        }
        Ints lanes;
        std::memcpy(&lanes, kLaneNumbers, sizeof lanes);
        return {lowest, least(lanes == lane ? second : first), in[lane] * kWidth + lane};
    }

    // How far columns are above the cheapest of these rows, where that is less than `room`. Returns the sum of the cheapest.
    template <int Rows> double find_room(int64_t i, float *room) const {
        const float *cost[Rows], *price = price_;
        Floats lane[Rows];
        float lowest[Rows];
        double sum = 0;
        for (int k = 0; k < Rows; ++k) cost[k] = rough_[i + k], lane[k] = Floats{} + kFar;
        const int64_t even = n_ / kWidth * kWidth;
        for (int64_t j = 0; j < even; j += kWidth) {
            const Floats paid = load(price + j);
            for (int k = 0; k < Rows; ++k) lane[k] = lesser(lane[k], load(cost[k] + j) + paid);
        }
        for (int k = 0; k < Rows; ++k) {
            lowest[k] = least(lane[k]);
            for (int64_t j = even; j < n_; ++j) lowest[k] = std::min(lowest[k], cost[k][j] + price[j]);
            sum += double(lowest[k]);
        }
        for (int64_t j = 0; j < even; j += kWidth) {
            const Floats paid = load(price + j);
            Floats left = load(room + j);
            for (int k = 0; k < Rows; ++k) left = lesser(left, load(cost[k] + j) + paid - lowest[k]);
            std::memcpy(room + j, &left, sizeof left);
        }
        for (int64_t j = even; j < n_; ++j)
            for (int k = 0; k < Rows; ++k) room[j] = std::min(room[j], cost[k][j] + price[j] - lowest[k]);
        return sum;
    }

    // The same for one row by its list.
    Best cheapest(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kListLanes];
            float first = kFar, second = kFar;
            int32_t column = 0;
            for (int k = 0; k < length_[i]; ++k) { // without branches: which is the least cannot be foreseen
                const float value = entry[k].cost + price_[entry[k].column];
                const bool before = value < first || (value == first && entry[k].column < column);
                const float dearer = before ? first : value;
                second = dearer < second ? dearer : second;
                column = before ? entry[k].column : column;
                first = before ? value : first;
            }
            if (second < bound_[i]) return {first, second, column};
            if (fresh) return {first, second < bound_[i] ? second : bound_[i], column}; // else in the lane of the first
            make_list(i);
        }
    }

    bool complete_ = false;
};

} // namespace
