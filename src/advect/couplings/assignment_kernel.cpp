// The linear assignment problem, exactly or to a tolerance: an auction on float32 costs, finished by shortest augmenting
// paths in float64.
//
// Rows bid for columns. A column j has a price p_j that never falls, and row i wants the column of least c_ij + p_j.
//
// 1. Auction (Bertsekas 1988, "The auction algorithm"), Gauss-Seidel, at falling eps: a row that holds no column takes
//    its cheapest one and raises the price until that column is eps worse than the row's second choice; whoever held it
//    bids again. At the end each pair is within eps of its row's cheapest column, so the cost of all pairs less the dual
//    value sum_i min_j (c_ij + p_j) - sum_j p_j bounds what the pairing can have lost.
// 2. For the exact result the prices are kept, each row takes its cheapest column where that is free, and the rest are
//    placed by shortest augmenting paths (Jonker & Volgenant 1987, Computing 38). From the prices of the auction these
//    are short.
//
// Because prices never fall, c_ij + p_j of any time is a lower bound ever after. Each row therefore keeps a short list of
// its cheapest columns and the value that no column outside it can fall below (its bound): nearly all bids and
// searches touch a few numbers of the list, and the row of n costs is read again only when the bound is reached. The
// outcome is that of reading the whole row every time.
//
// The file is compiled once for each instruction set, with ADVECT_SET naming the functions. There is no state between
// calls and no call into Python.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <vector>

#include "../compiled.h"

namespace {

constexpr float kFar = 1e37f;     // above every value; sums of two stay finite
constexpr float kLargest = 1e30f; // costs are cut here, in units of a typical one
constexpr double kUnreached = 1e300;

// Vectors of the width the instruction set has; `chosen ? a : b` and comparisons work lane by lane. A row is read by four
// of them.
#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int kWidth = 16;
#elif defined(__AVX2__)
constexpr int kWidth = 8;
#else
constexpr int kWidth = 4;
#endif
typedef float Floats __attribute__((vector_size(4 * kWidth)));
typedef int32_t Ints __attribute__((vector_size(4 * kWidth)));
#else
constexpr int kWidth = 1;
typedef float Floats;
typedef int32_t Ints;
#endif
constexpr int kVectors = kWidth == 1 ? 16 : 4;
constexpr int kLanes = kVectors * kWidth;

inline Floats lesser(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a < b ? b : a; }

// The least lane, and the lanes up to a limit as bits.
#if defined(__AVX2__)
inline float least_of_eight(__m256 v) {
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#if defined(__AVX512F__)
inline float least(Floats v) {
    __m256 halves[2];
    std::memcpy(halves, &v, sizeof v);
    return least_of_eight(_mm256_min_ps(halves[0], halves[1]));
}
inline unsigned up_to(Floats v, float limit) { return _mm512_cmp_ps_mask(__m512(v), _mm512_set1_ps(limit), _CMP_LE_OQ); }
#else
inline float least(Floats v) { return least_of_eight(__m256(v)); }
inline unsigned up_to(Floats v, float limit) {
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(__m256(v), _mm256_set1_ps(limit), _CMP_LE_OQ)));
}
#endif
#else
inline float least(Floats v) {
    float lane[kWidth], lowest = kFar;
    std::memcpy(lane, &v, sizeof lane);
    for (int l = 0; l < kWidth; ++l) lowest = lane[l] < lowest ? lane[l] : lowest;
    return lowest;
}
inline unsigned up_to(Floats v, float limit) {
    float lane[kWidth];
    std::memcpy(lane, &v, sizeof lane);
    unsigned bits = 0;
    for (int l = 0; l < kWidth; ++l) bits |= unsigned(lane[l] <= limit) << l;
    return bits;
}
#endif
inline int lowest_bit(unsigned bits) {
#if defined(__GNUC__)
    return __builtin_ctz(bits);
#else
    int at = 0;
    while (!(bits >> at & 1)) ++at;
    return at;
#endif
}

// The first eps, in units of a typical cost above the cheapest of a row, the share of it at the next level, and the least.
constexpr double kFirst = 0.04, kFall = 0.1, kLeast = 4e-5;
// The most bids at each level, per row: costs whose digits float32 does not hold could go on for ever, and any prices are a
// start for the paths.
constexpr int64_t kBids = 50;

struct Entry {
    float cost;
    int32_t column;
};

struct Best {
    double first, second;
    int32_t column, other;
};

struct Figures {
    double gap = 0, total = 0;
    int64_t bids = 0, scans = 0, searches = 0, settled = 0;
};

template <typename Cost> Cost least_of(const Cost *cost, int64_t n) {
    Cost lane[kLanes], lowest = cost[0];
    for (int l = 0; l < kLanes; ++l) lane[l] = cost[0];
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
        for (int l = 0; l < kLanes; ++l) lane[l] = cost[j + l] < lane[l] ? cost[j + l] : lane[l];
    for (; j < n; ++j) lowest = cost[j] < lowest ? cost[j] : lowest;
    for (int l = 0; l < kLanes; ++l) lowest = lane[l] < lowest ? lane[l] : lowest;
    return lowest;
}

// The median of the costs above the cheapest of their row, over a few rows: a mean would let one outlying row set the
// scale for all. Where half of them are the cheapest, the mean.
template <typename Cost> double typical_above_least(const Cost *cost, int64_t n) {
    const int64_t step = std::max<int64_t>(1, n / 8), apart = std::max<int64_t>(1, n / 256);
    std::vector<double> above;
    for (int64_t i = 0; i < n; i += step) {
        const double lowest = double(least_of(cost + i * n, n));
        for (int64_t j = 0; j < n; j += apart) above.push_back(double(cost[i * n + j]) - lowest);
    }
    const auto middle = above.begin() + int64_t(above.size()) / 2;
    std::nth_element(above.begin(), middle, above.end());
    if (*middle > 0) return *middle;
    double sum = 0;
    for (double one : above) sum += one;
    return sum / double(above.size());
}

// From the products of rows to squared distances, |x|^2 + |y|^2 - 2 x.y. Returns their mean.
template <typename Cost> double complete(Cost *cost, const Cost *norm0, const Cost *norm1, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        Cost *row = cost + i * n;
        Cost lane[kLanes] = {}, rest = 0;
        for (int64_t j = 0; j < n; ++j) {
            const Cost squared = norm0[i] + norm1[j] - 2 * row[j];
            row[j] = squared > 0 ? squared : 0;
        }
        int64_t j = 0;
        for (; j + kLanes <= n; j += kLanes)
            for (int l = 0; l < kLanes; ++l) lane[l] += row[j + l];
        for (; j < n; ++j) rest += row[j];
        for (const Cost part : lane) rest += part;
        sum += double(rest);
    }
    return sum / double(n) / double(n);
}

// Cost is what the caller gave, float or double; `rough` the same in float32, from zero upwards, in units of `unit`
// above `least` of each row.
template <typename Cost> class Solver {
  public:
    Solver(const Cost *cost, const float *rough, const double *least, double unit, int64_t n)
        : cost_(cost), rough_(rough), least_(least), unit_(unit), n_(n), price_((n + kLanes - 1) / kLanes * kLanes, 0.0f),
          lists_(new Entry[n * kLanes]), length_(n, 0), bound_(n, -1.0f), column_of_(n, -1), row_of_(n, -1) {}

    // First prices: the dearer a column is even for the row that likes it best, the lower.
    void open() {
        std::vector<float> least(n_, kFar);
        for (int64_t i = 0; i < n_; ++i) {
            const float *cost = rough_ + i * n_;
            const float lowest = least_of(cost, n_);
            for (int64_t j = 0; j < n_; ++j) least[j] = cost[j] - lowest < least[j] ? cost[j] - lowest : least[j];
        }
        const float most = *std::max_element(least.begin(), least.end());
        for (int64_t j = 0; j < n_; ++j) price_[j] = most - least[j];
    }

    void auction(float eps, int64_t most) {
        std::vector<int32_t> waiting;
        waiting.reserve(n_);
        for (int64_t i = n_ - 1; i >= 0; --i) {
            const int32_t held = column_of_[i];
            if (held >= 0 && rough_[i * n_ + held] + price_[held] <= cheapest(i).first + eps) continue;
            if (held >= 0) row_of_[held] = -1;
            column_of_[i] = -1;
            waiting.push_back(int32_t(i));
        }
        for (int64_t bid = 0; !waiting.empty() && bid < most; ++bid, ++figures.bids) {
            const int32_t i = waiting.back();
            waiting.pop_back();
            const Best best = cheapest(i);
            const int32_t j = best.column, before = row_of_[j];
            price_[j] += float(best.second - best.first) + eps;
            if (before >= 0) {
                column_of_[before] = -1;
                waiting.push_back(before);
            }
            column_of_[i] = j;
            row_of_[j] = i;
        }
        complete_ = waiting.empty();
    }

    bool complete() const { return complete_; }

    // What the pairing of a completed auction can have lost, in the caller's units.
    bool within(double tolerance) {
        double gap = 0, total = 0;
        for (int64_t i = 0; i < n_; ++i) {
            const int64_t at = i * n_ + column_of_[i];
            gap += double(rough_[at]) + double(price_[column_of_[i]]) - cheapest(i).first;
            total += double(cost_[at]);
        }
        figures.gap = gap * unit_;
        figures.total = total;
        return figures.gap <= tolerance * std::fabs(total);
    }

    void finish() {
        exact_.resize(n_);
        for (int64_t j = 0; j < n_; ++j) exact_[j] = unit_ * double(price_[j]);
        std::fill(column_of_.begin(), column_of_.end(), -1);
        std::fill(row_of_.begin(), row_of_.end(), -1);
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

    Figures figures;

  private:
    // The two cheapest columns of row i at the auction's prices.
    Best cheapest(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kLanes];
            float first = kFar, second = kFar;
            int32_t column = 0;
            for (int k = 0; k < length_[i]; ++k) { // without branches: which is the least cannot be foreseen
                const float value = entry[k].cost + price_[entry[k].column];
                const float dearer = value < first ? first : value;
                second = dearer < second ? dearer : second;
                column = value < first ? entry[k].column : column;
                first = value < first ? value : first;
            }
            if (second <= bound_[i]) return {first, second, column, column};
            if (fresh) return {first, bound_[i], column, column}; // the second lies in the lane of the first
            make_list(i);
        }
    }

    // Reads row i: the cheapest column of each lane, as far as it is below the second of every lane, which is the bound.
    // The cheapest columns of all are in different lanes mostly, so that a list has about the root of 2 kLanes entries.
    void make_list(int64_t i) {
        ++figures.scans;
        const float *cost = rough_ + i * n_;
        Floats first[kVectors], second[kVectors];
        Ints block[kVectors];
        for (int v = 0; v < kVectors; ++v) first[v] = second[v] = Floats{} + kFar, block[v] = Ints{};
        const int32_t whole = int32_t(n_ / kLanes);
        for (int32_t b = 0; b < whole; ++b) look(cost + b * kLanes, b, first, second, block);
        if (n_ > whole * kLanes) {
            float rest[kLanes];
            for (int l = 0; l < kLanes; ++l) rest[l] = whole * kLanes + l < n_ ? cost[whole * kLanes + l] : kFar;
            look(rest, whole, first, second, block);
        }

        Floats next = second[0];
        for (int v = 1; v < kVectors; ++v) next = lesser(next, second[v]);
        const float bound = least(next);
        Entry *entry = &lists_[i * kLanes];
        int32_t count = 0;
        for (int v = 0; v < kVectors; ++v) {
            int32_t in[kWidth];
            std::memcpy(in, &block[v], sizeof in);
            for (unsigned bits = up_to(first[v], bound); bits; bits &= bits - 1) {
                const int l = lowest_bit(bits), j = in[l] * kLanes + v * kWidth + l;
                if (j < n_) entry[count++] = {cost[j], j};
            }
        }
        length_[i] = count;
        bound_[i] = bound;
    }

    void look(const float *cost, int32_t b, Floats *first, Floats *second, Ints *block) const {
        const float *price = price_.data() + int64_t(b) * kLanes;
        for (int v = 0; v < kVectors; ++v) {
            Floats value, paid;
            std::memcpy(&value, cost + v * kWidth, sizeof value);
            std::memcpy(&paid, price + v * kWidth, sizeof paid);
            value += paid;
            second[v] = lesser(second[v], larger(first[v], value));
            block[v] = value < first[v] ? Ints{} + b : block[v];
            first[v] = lesser(first[v], value);
        }
    }

    double value(int64_t i, int32_t j) const { return double(cost_[i * n_ + j]) + exact_[j]; }

    // A float32 value of row i as a lower bound in the caller's units: each of its few roundings is below 2^-22.
    double lower(int64_t i, float rough) const { return least_[i] + unit_ * (double(rough) * (1 - 0x1p-20) - 1e-36); }

    // The two cheapest columns of row i at the exact prices.
    Best cheapest_exact(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kLanes];
            Best best{kUnreached, kUnreached, 0, 0};
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

    Best cheapest_of_all(int64_t i) const {
        Best best{kUnreached, kUnreached, 0, 0};
        for (int64_t j = 0; j < n_; ++j) {
            const double now = value(i, int32_t(j));
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
            const Cost *cost = cost_ + i * n_;
            double lane[16];
            for (double &lowest : lane) lowest = kUnreached;
            int64_t j = 0;
            for (; j + 16 <= n_; j += 16)
                for (int l = 0; l < 16; ++l) {
                    const double now = double(cost[j + l]) + exact_[j + l];
                    lane[l] = now < lane[l] ? now : lane[l];
                }
            double lowest = *std::min_element(lane, lane + 16);
            for (; j < n_; ++j) lowest = std::min(lowest, value(i, int32_t(j)));
            figures.gap += value(i, column_of_[i]) - lowest;
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
                const Best best = cheapest_exact(i);
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
        const Entry *entry = &lists_[int64_t(i) * kLanes];
        for (int k = 0; k < length_[i]; ++k)
            reach(i, entry[k].column, arrived + std::max(0.0, value(i, entry[k].column) - least));
        const double later = std::max(arrived, arrived + lower(i, bound_[i]) - least);
        if (later < nearest_free_) push(later, ~i);
    }

    void relax_all(int32_t i, double least, double arrived) {
        ++figures.scans;
        const Cost *cost = cost_ + int64_t(i) * n_;
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

    const Cost *cost_;
    const float *rough_;
    const double *least_;
    double unit_;
    int64_t n_;
    std::vector<float> price_;
    std::unique_ptr<Entry[]> lists_;
    std::vector<int32_t> length_;
    std::vector<float> bound_;
    std::vector<int32_t> column_of_, row_of_;
    std::vector<double> exact_, distance_;
    std::vector<int32_t> from_, touched_, settled_;
    std::vector<Step> steps_;
    double nearest_free_ = kUnreached;
    bool complete_ = false;
};

template <typename Cost>
void solve(Solver<Cost> &solver, double typical, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    bool done = false;
    solver.open();
    for (double level = kFirst, fall = kFall; level > 0.9 * kLeast && float(level * typical) > 0; level *= fall) {
        solver.auction(float(level * typical), kBids * n);
        if (!(tolerance > 0) || !solver.complete()) continue;
        done = solver.within(tolerance);
        if (done) break;
        // The gap is near proportional to eps: no finer than the tolerance asks for.
        const double wanted = tolerance * std::fabs(solver.figures.total) / solver.figures.gap;
        fall = std::min(0.5, std::max(kFall, 0.7 * wanted));
    }
    if (!done) solver.finish();
    solver.answer(column, price);
    figures[0] = solver.figures.gap;
    figures[1] = solver.figures.total;
    figures[2] = double(solver.figures.bids);
    figures[3] = double(solver.figures.scans);
    figures[4] = double(solver.figures.searches);
    figures[5] = double(solver.figures.settled);
}

// Costs of any size and sign.
void solve_double(const double *cost, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    const double typical = typical_above_least(cost, n);
    const double unit = typical > 1e-290 && typical < 1e290 ? typical : 1.0;
    std::vector<double> least(n);
    const std::unique_ptr<float[]> rough(new float[n * n]);
    for (int64_t i = 0; i < n; ++i) {
        least[i] = least_of(cost + i * n, n);
        for (int64_t j = 0; j < n; ++j) {
            const double above = (cost[i * n + j] - least[i]) * (1 / unit);
            rough[i * n + j] = float(above < kLargest ? above : kLargest);
        }
    }
    Solver<double> solver(cost, rough.get(), least.data(), unit, n);
    solve(solver, typical > 0 ? 1.0 : 0.0, n, tolerance, column, price, figures);
}

// |x_i - y_j|^2 from x (n, d) row by row and y (d, n) coordinate by coordinate. Returns their mean.
double distances(const double *x, const double *y, int64_t n, int64_t d, double *cost) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
        double *row = cost + i * n;
        for (int64_t k = 0; k < d; ++k) {
            const double at = x[i * d + k], *other = y + k * n;
            if (k == 0)
                for (int64_t j = 0; j < n; ++j) row[j] = (at - other[j]) * (at - other[j]);
            else
                for (int64_t j = 0; j < n; ++j) row[j] += (at - other[j]) * (at - other[j]);
        }
        double lane[kLanes] = {}, rest = 0;
        int64_t j = 0;
        for (; j + kLanes <= n; j += kLanes)
            for (int l = 0; l < kLanes; ++l) lane[l] += row[j + l];
        for (; j < n; ++j) rest += row[j];
        for (const double part : lane) rest += part;
        sum += rest;
    }
    return sum / double(n) / double(n);
}

} // namespace

// The first two functions take costs (n, n) row by row, n >= 2, finite. Where norm0 (n) and norm1 (n) are not null, the costs are
// products x_i.y_j of rows, and are overwritten with the squared distances. They leave the column (n) of each row, the
// price (n) of each column, such that sum_i min_j (c_ij + p_j) - sum_j p_j is the dual value, and in figures (7): what the
// pairing can have lost at most and its cost (sums over the rows), bids, rows read, rows left to the paths, columns the
// paths settled, and the mean of all costs where norms were given. With a tolerance above 0 they stop where the first is at most that share of the second. They return 0,
// or 1 where memory is short.

// Costs from 0 upwards, of a size between 1e-20 and 1e20; exact as far as float32 holds them.
ADVECT_PUBLIC(advect_assign_float)
(float *cost, const float *norm0, const float *norm1, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        figures[6] = norm0 ? complete(cost, norm0, norm1, n) : 0;
        const std::vector<double> least(n, 0.0);
        Solver<float> solver(cost, cost, least.data(), 1.0, n);
        solve(solver, typical_above_least(cost, n), n, tolerance, column, price, figures);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// Costs of any size and sign.
ADVECT_PUBLIC(advect_assign_double)
(double *cost, const double *norm0, const double *norm1, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        figures[6] = norm0 ? complete(cost, norm0, norm1, n) : 0;
        solve_double(cost, n, tolerance, column, price, figures);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// Squared distances of points x (n, d), row by row, to points y (d, n), coordinate by coordinate. Returns 2 where a
// coordinate is too large to be squared.
ADVECT_PUBLIC(advect_assign_points)
(const double *x, const double *y, int64_t n, int64_t d, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        for (int64_t k = 0; k < n * d; ++k)
            if (std::fabs(x[k]) > 1e150 || std::fabs(y[k]) > 1e150) return 2;
        const std::unique_ptr<double[]> cost(new double[n * n]);
        figures[6] = distances(x, y, n, d, cost.get());
        solve_double(cost.get(), n, tolerance, column, price, figures);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
