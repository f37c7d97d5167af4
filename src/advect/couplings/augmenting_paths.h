// What is left of an auction, placed by shortest augmenting paths in float64 (Jonker & Volgenant 1987, Computing 38).
//
// The prices are kept, each row takes its cheapest column where that is free, and from there the paths of the rest are
// short. Prices only rise here too, so that every row has its list as in the auction.

#pragma once

#include "assignment_costs.h"
#include "auction.h"

namespace {

constexpr double kUnreached = 1e300;

struct ExactBest {
    double first, second;
    int32_t column, other;
};

// Costs is one of `assignment_costs.h`; `rough` are the same in float32, from zero upwards, in units of `unit` above `least`
// of each row.
template <typename Costs> class Solver : public Auction {
  public:
    Solver(const Costs &costs, const float *rough, int64_t stride, const double *least, double unit, int64_t n)
        : Auction(rough, stride, unit, n), costs_(costs), least_(least), spare_(n) {}

    // The cost of the pairs of a completed auction.
    double total() const {
        double sum = 0;
        for (int64_t i = 0; i < n_; ++i) sum += costs_.at(i, column_of_[i]);
        return sum;
    }

    void finish() {
        exact_.resize(n_);
        for (int64_t j = 0; j < n_; ++j) exact_[j] = unit_ * double(price_[j]);
        std::fill(column_of_.begin(), column_of_.end(), -1);
        std::fill(row_of_.begin(), row_of_.end(), -1);
        forget_lists();
        std::vector<int32_t> left = reduce();
        distance_.assign(n_, kUnreached);
        from_.assign(n_, -1);
        for (int32_t i : left) augment(i);
        certify();
    }

    void answer(int64_t *column, double *price) const {
        for (int64_t i = 0; i < n_; ++i) column[i] = column_of_[i];
        for (int64_t j = 0; j < n_; ++j) price[j] = exact_.empty() ? unit_ * double(price_[j]) : exact_[j];
    }

  private:
    double value(int64_t i, int32_t j) const { return costs_.at(i, j) + exact_[j]; }

    // A float32 value of row i as a lower bound in the caller's units: each of its few roundings is below 2^-22.
    double lower(int64_t i, float rough) const { return least_[i] + unit_ * (double(rough) * (1 - 0x1p-20) - 1e-36); }

    // The two cheapest columns of row i at the exact prices.
    ExactBest cheapest_exact(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kListLanes];
            ExactBest best{kUnreached, kUnreached, 0, 0};
            for (int k = 0; k < length_[i]; ++k) {
                const double now = value(i, entry[k].column);
                if (now < best.first) {
                    best = {now, best.first, entry[k].column, best.column};
                } else if (now < best.second) {
                    best.second = now, best.other = entry[k].column;
                }
            }
            if (bound_[i] >= 0 && best.second <= lower(i, bound_[i])) return best;
            if (fresh) return cheapest_of_all(i);
            make_list(i);
        }
    }

    ExactBest cheapest_of_all(int64_t i) {
        ExactBest best{kUnreached, kUnreached, 0, 0};
        const auto *cost = costs_.row(i, spare_.data());
        for (int64_t j = 0; j < n_; ++j) {
            const double now = double(cost[j]) + exact_[j];
            if (now < best.first) {
                best = {now, best.first, int32_t(j), best.column};
            } else if (now < best.second) {
                best.second = now, best.other = int32_t(j);
            }
        }
        return best;
    }

    // Reads all costs once more: how far each pair is above the cheapest of its row at the final prices.
    void certify() {
        figures.gap = figures.total = 0;
        for (int64_t i = 0; i < n_; ++i) {
            const auto *cost = costs_.row(i, spare_.data());
            double lane[16];
            for (double &lowest : lane) lowest = kUnreached;
            int64_t j = 0;
            for (; j + 16 <= n_; j += 16)
                for (int l = 0; l < 16; ++l) {
                    const double now = double(cost[j + l]) + exact_[j + l];
                    lane[l] = now < lane[l] ? now : lane[l];
                }
            double lowest = *std::min_element(lane, lane + 16);
            for (; j < n_; ++j) lowest = std::min(lowest, double(cost[j]) + exact_[j]);
            figures.gap += double(cost[column_of_[i]]) + exact_[column_of_[i]] - lowest;
            figures.total += double(cost[column_of_[i]]);
        }
    }

    void raise(int32_t j, double by) {
        exact_[j] += by;
        price_[j] = float(exact_[j] / unit_);
    }

    void give(int64_t i, int32_t j) {
        column_of_[i] = j;
        row_of_[j] = int32_t(i);
    }

    // Rows take their cheapest columns; a row whose column is taken outbids the holder by what it would lose, for a few
    // rounds (an auction with eps = 0: "augmenting row reduction"). Returns the rows that are left.
    std::vector<int32_t> reduce() {
        std::vector<int32_t> left;
        for (int64_t i = 0; i < n_; ++i) {
            const int32_t j = cheapest_exact(i).column;
            if (row_of_[j] < 0) give(i, j);
            else left.push_back(int32_t(i));
        }
        figures.searches = int64_t(left.size());
        for (int round = 0; round < 2 && !left.empty(); ++round) {
            std::vector<int32_t> next;
            int64_t most = 8 * int64_t(left.size());
            while (!left.empty()) {
                const int32_t i = left.back();
                left.pop_back();
                if (--most < 0) {
                    next.push_back(i);
                    continue;
                }
                const ExactBest best = cheapest_exact(i);
                int32_t j = best.column;
                const bool dearer = best.second > best.first;
                if (dearer) raise(j, best.second - best.first);
                else if (row_of_[j] >= 0) j = best.other;
                const int32_t before = row_of_[j];
                give(i, j);
                if (before >= 0) {
                    column_of_[before] = -1;
                    (dearer ? left : next).push_back(before);
                }
            }
            left.swap(next);
        }
        return left;
    }

    struct Step {
        double distance;
        int32_t at; // a column, or ~row whose list is used up at this distance
        bool operator<(const Step &other) const { return distance > other.distance; }
    };

    // The shortest way from a free row to a free column in reduced costs c_ij + p_j - min_k (c_ik + p_k) >= 0.
    void augment(int32_t start) {
        steps_.clear();
        touched_.clear();
        settled_.clear();
        nearest_free_ = kUnreached;
        relax(start, cheapest_exact(start).first, 0);
        int32_t end = -1;
        double length = 0;
        while (end < 0) {
            const Step step = steps_.front();
            std::pop_heap(steps_.begin(), steps_.end());
            steps_.pop_back();
            if (step.at < 0) {
                const int32_t i = ~step.at;
                const double arrived = i == start ? 0 : distance_[column_of_[i]];
                const double least = i == start ? cheapest_exact(i).first : value(i, column_of_[i]);
                relax_all(i, least, arrived);
            } else if (step.distance <= distance_[step.at]) {
                const int32_t i = row_of_[step.at];
                length = step.distance;
                if (i < 0) end = step.at;
                else {
                    settled_.push_back(step.at);
                    relax(i, value(i, step.at), step.distance);
                }
            }
        }
        figures.settled += int64_t(settled_.size());
        for (int32_t j : settled_)
            if (length > distance_[j]) raise(j, length - distance_[j]);
        for (int32_t j = end;;) {
            const int32_t i = from_[j], next = column_of_[i];
            give(i, j);
            if (i == start) break;
            j = next;
        }
        for (int32_t j : touched_) distance_[j] = kUnreached;
    }

    void relax(int32_t i, double least, double arrived) {
        const Entry *entry = &lists_[int64_t(i) * kListLanes];
        for (int k = 0; k < length_[i]; ++k)
            reach(i, entry[k].column, arrived + std::max(0.0, value(i, entry[k].column) - least));
        const double later = std::max(arrived, arrived + lower(i, bound_[i]) - least);
        if (later < nearest_free_) push(later, ~i);
    }

    void relax_all(int32_t i, double least, double arrived) {
        ++figures.scans;
        const auto *cost = costs_.row(i, spare_.data());
        for (int64_t j = 0; j < n_; ++j) {
            const double distance = arrived + std::max(0.0, double(cost[j]) + exact_[j] - least);
            if (distance < nearest_free_) reach(i, int32_t(j), distance);
        }
    }

    void reach(int32_t i, int32_t j, double distance) {
        if (!(distance < distance_[j]) || distance >= nearest_free_) return;
        if (distance_[j] == kUnreached) touched_.push_back(j);
        distance_[j] = distance;
        from_[j] = i;
        if (row_of_[j] < 0) nearest_free_ = distance;
        push(distance, j);
    }

    void push(double distance, int32_t at) {
        steps_.push_back({distance, at});
        std::push_heap(steps_.begin(), steps_.end());
    }

    const Costs costs_;
    const double *least_;
    std::vector<double> exact_, distance_;
    std::vector<int32_t> from_, touched_, settled_;
    std::vector<Step> steps_;
    std::vector<double> spare_; // a row
    double nearest_free_ = kUnreached;
};

} // namespace
