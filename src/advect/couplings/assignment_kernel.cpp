// The linear assignment problem, exactly or to a tolerance: an auction on float32 costs, finished by shortest augmenting
// paths in float64.
//
// Rows bid for columns. A column j has a price p_j that never falls, and row i wants the column of least c_ij + p_j.
//
// 1. Auction (Bertsekas 1988, "The auction algorithm"), at falling eps: a row that holds no column takes its cheapest one
//    and raises the price until that column is eps worse than the row's second choice; whoever held it bids again. Four
//    rows look at the prices together, which reads these once and hides what each would wait for. At the end each pair is
//    within eps of its row's cheapest column, so the cost of all pairs less the dual value
//    sum_i min_j (c_ij + p_j) - sum_j p_j bounds what the pairing can have lost. Where a tolerance is asked for, each price
//    is lowered first as far as that leaves the cheapest of every row as it is: the bound is then twice to three times as
//    tight, and the auction ends at a coarser eps.
// 2. For the exact result the prices are kept, each row takes its cheapest column where that is free, and the rest are
//    placed by shortest augmenting paths (Jonker & Volgenant 1987, Computing 38). From the prices of the auction these
//    are short.
//
// Because prices never fall while rows bid, c_ij + p_j of any time is a lower bound ever after. At fine eps each long row,
// and at the end every row, therefore keeps a short list of its cheapest columns and the value that no column outside it
// can fall below (its bound): nearly all bids and searches touch a few numbers of the list, and the row of n costs is read
// again only when the bound is reached. The outcome is that of reading the whole row every time.
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

#include "../aligned.h"
#include "../compiled.h"

namespace {

constexpr float kFar = 1e37f;     // above every value; sums of two stay finite
constexpr float kLargest = 1e30f; // costs are cut here, in units of a typical one
constexpr double kUnreached = 1e300;

// Vectors of the width the instruction set has; `chosen ? a : b` and comparisons work lane by lane.
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
typedef uint16_t Halves __attribute__((vector_size(2 * kWidth)));
inline Halves narrowed(Ints v) { return __builtin_convertvector(v, Halves); }
#else
constexpr int kWidth = 1;
typedef float Floats;
typedef int32_t Ints;
typedef uint16_t Halves;
inline Halves narrowed(Ints v) { return Halves(v); }
#endif
constexpr int kLanes = 32; // in every set, so that all make the same lists and sums
constexpr int kVectors = kLanes / kWidth;

constexpr int32_t kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

inline Floats load(const float *from) {
    Floats v;
    std::memcpy(&v, from, sizeof v);
    return v;
}
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
// Rows that bid together. Rows of at least so many costs are read by their lists at levels below kListed: above, a list
// would be used up by nearly every bid.
constexpr int kTogether = 4;
constexpr int64_t kLongRow = 768;
constexpr double kListed = 2e-3;

struct Entry {
    float cost;
    int32_t column;
};

struct Best { // at the auction's prices
    float first, second;
    int32_t column;
};

struct ExactBest {
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
template <typename Costs> double typical_above_least(const Costs &costs, int64_t n, double *spare) {
    const int64_t step = std::max<int64_t>(1, n / 8), apart = std::max<int64_t>(1, n / 64);
    std::vector<double> above;
    for (int64_t i = 0; i < n; i += step) {
        const auto *cost = costs.row(i, spare);
        const double lowest = double(least_of(cost, n));
        for (int64_t j = 0; j < n; j += apart) above.push_back(double(cost[j]) - lowest);
    }
    const auto middle = above.begin() + int64_t(above.size()) / 2;
    std::nth_element(above.begin(), middle, above.end());
    if (*middle > 0) return *middle;
    double sum = 0;
    for (double one : above) sum += one;
    return sum / double(above.size());
}

template <typename Cost> double sum_of(const Cost *cost, int64_t n) {
    Cost lane[kLanes] = {}, rest = 0;
    int64_t j = 0;
    for (; j + kLanes <= n; j += kLanes)
        for (int l = 0; l < kLanes; ++l) lane[l] += cost[j + l];
    for (; j < n; ++j) rest += cost[j];
    for (const Cost part : lane) rest += part;
    return double(rest);
}

// A row of products of rows, to squared distances |x|^2 + |y|^2 - 2 x.y. Returns their sum.
template <typename Cost> double complete(Cost *row, Cost norm0, const Cost *norm1, int64_t n) {
    for (int64_t j = 0; j < n; ++j) {
        const Cost squared = norm0 + norm1[j] - 2 * row[j];
        row[j] = squared > 0 ? squared : 0;
    }
    return sum_of(row, n);
}

// Costs as the caller has them: a matrix, or points whose squared distances they are. `row` fills or finds a whole row.
template <typename Number> struct Matrix {
    const Number *cost;
    int64_t n;
    double at(int64_t i, int64_t j) const { return double(cost[i * n + j]); }
    const Number *row(int64_t i, double *) const { return cost + i * n; }
};

// x and y (d, n), coordinate by coordinate.
struct Points {
    const double *x, *y;
    int64_t n, d;
    double at(int64_t i, int64_t j) const {
        double sum = 0;
        for (int64_t k = 0; k < d; ++k) sum += (x[k * n + i] - y[k * n + j]) * (x[k * n + i] - y[k * n + j]);
        return sum;
    }
    const double *row(int64_t i, double *out) const {
        if (d == 2) { // both at once: the row is written but once
            const double first = x[i], second = x[n + i];
            for (int64_t j = 0; j < n; ++j) {
                const double one = first - y[j], other = second - y[n + j];
                out[j] = one * one + other * other;
            }
            return out;
        }
        std::fill(out, out + n, 0.0);
        for (int64_t k = 0; k < d; ++k)
            for (int64_t j = 0; j < n; ++j) out[j] += (x[k * n + i] - y[k * n + j]) * (x[k * n + i] - y[k * n + j]);
        return out;
    }
};

// Costs is one of these; `rough` are the same in float32, from zero upwards, in units of `unit` above `least` of each row,
// whose rows are `stride` numbers apart.
template <typename Costs> class Solver {
  public:
    Solver(const Costs &costs, const float *rough, int64_t stride, const double *least, double unit, int64_t n)
        : costs_(costs), least_(least), unit_(unit), n_(n), rough_(n), prices_(padded(n)), price_(prices_.get()),
          column_of_(n, -1), row_of_(n, -1), spare_(n) {
        for (int64_t i = 0; i < n; ++i) rough_[i] = rough + i * stride;
        std::fill(price_, price_ + padded(n), 0.0f);
        std::fill(price_, price_ + n, kFar);
    }

    static int64_t padded(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }

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
    void auction(float eps, int64_t most, bool listed) {
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
    // completed auction can have lost then, in the caller's units, is within the tolerance.
    bool within(double tolerance) {
        std::vector<float> room(n_, kFar);
        double gap = 0, total = 0;
        for (int64_t i = 0; i < n_; ++i) {
            gap += double(rough_[i][column_of_[i]] + price_[column_of_[i]]);
            total += costs_.at(i, column_of_[i]);
        }
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

    Figures figures;

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

    // No list is known, as when prices have fallen.
    void forget_lists() {
        if (!lists_) lists_.reset(new Entry[n_ * kLanes]);
        length_.assign(n_, 0);
        bound_.assign(n_, -1.0f);
    }

    // The same for one row by its list.
    Best cheapest(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kLanes];
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

    // Reads row i: the cheapest column of each lane, as far as it is below the second of every lane, which is the bound.
    // The cheapest columns of all are in different lanes mostly, so that a list has about the root of 2 kLanes entries.
    void make_list(int64_t i) {
        ++figures.scans;
        const float *cost = rough_[i];
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
        const float *price = price_ + int64_t(b) * kLanes;
        for (int v = 0; v < kVectors; ++v) {
            const Floats value = load(cost + v * kWidth) + load(price + v * kWidth);
            second[v] = lesser(second[v], larger(first[v], value));
            block[v] = value < first[v] ? Ints{} + b : block[v];
            first[v] = lesser(first[v], value);
        }
    }

    double value(int64_t i, int32_t j) const { return costs_.at(i, j) + exact_[j]; }

    // A float32 value of row i as a lower bound in the caller's units: each of its few roundings is below 2^-22.
    double lower(int64_t i, float rough) const { return least_[i] + unit_ * (double(rough) * (1 - 0x1p-20) - 1e-36); }

    // The two cheapest columns of row i at the exact prices.
    ExactBest cheapest_exact(int64_t i) {
        for (bool fresh = false;; fresh = true) {
            const Entry *entry = &lists_[i * kLanes];
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
        const Entry *entry = &lists_[int64_t(i) * kLanes];
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
    double unit_;
    int64_t n_;
    std::vector<const float *> rough_; // the rows: products of numbers and strides would be waited for
    Aligned<float> prices_;
    float *price_;
    std::unique_ptr<Entry[]> lists_;
    std::vector<int32_t> length_;
    std::vector<float> bound_;
    std::vector<int32_t> column_of_, row_of_;
    std::vector<double> exact_, distance_;
    std::vector<int32_t> from_, touched_, settled_;
    std::vector<Step> steps_;
    std::vector<double> spare_; // a row
    double nearest_free_ = kUnreached;
    bool complete_ = false;
};

template <typename Costs>
void solve(Solver<Costs> &solver, double typical, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    bool done = false;
    solver.open();
    for (double level = kFirst, fall = kFall; level > 0.9 * kLeast && float(level * typical) > 0; level *= fall) {
        solver.auction(float(level * typical), kBids * n, n >= kLongRow && level < kListed);
        if (!(tolerance > 0) || !solver.complete()) continue;
        done = solver.within(tolerance);
        if (done) break;
        // The gap is near proportional to eps: no finer than the tolerance asks for.
        const double wanted = tolerance * std::fabs(solver.figures.total) / solver.figures.gap;
        fall = std::min(0.5, std::max(kFall, 0.5 * wanted));
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
template <typename Costs>
void solve_scaled(const Costs &costs, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    std::vector<double> least(n), spare(n);
    const double typical = typical_above_least(costs, n, spare.data());
    const double unit = typical > 1e-290 && typical < 1e290 ? typical : 1.0, scale = 1 / unit;
    const int64_t stride = Solver<Costs>::padded(n);
    const Aligned<float> rough(n * stride);
    Solver<Costs> solver(costs, rough.get(), stride, least.data(), unit, n);
    for (int64_t i = 0; i < n; ++i) {
        const double *cost = costs.row(i, spare.data());
        const double lowest = least[i] = least_of(cost, n);
        float *out = rough.get() + i * stride;
        for (int64_t j = 0; j < n; ++j) {
            const double above = (cost[j] - lowest) * scale;
            out[j] = float(above < kLargest ? above : kLargest);
        }
        solver.see(out, 0.0f);
    }
    solve(solver, typical > 0 ? 1.0 : 0.0, n, tolerance, column, price, figures);
}

// Points coordinate by coordinate, in float64. Returns whether all can be squared; this is seen in their bits, as the
// compiler is told that numbers are finite.
template <typename Number> bool spread(const Number *x, int64_t n, int64_t d, double *out) {
    constexpr double kMost = 1e150;
    int64_t most, largest = 0;
    std::memcpy(&most, &kMost, sizeof most);
    for (int64_t k = 0; k < d; ++k)
        for (int64_t i = 0; i < n; ++i) {
            const double one = double(x[i * d + k]);
            int64_t bits;
            std::memcpy(&bits, &one, sizeof bits);
            out[k * n + i] = one;
            largest = std::max(largest, bits & INT64_MAX);
        }
    return largest <= most;
}

// The mean of the squared distances of all points, of which there are n on each side.
double mean_distance(const double *x, const double *y, int64_t n, int64_t d) {
    double total = 0;
    for (int64_t k = 0; k < d; ++k, x += n, y += n) {
        const double mean0 = sum_of(x, n) / double(n), mean1 = sum_of(y, n) / double(n);
        double around = 0;
        for (int64_t i = 0; i < n; ++i) around += (x[i] - mean0) * (x[i] - mean0) + (y[i] - mean1) * (y[i] - mean1);
        total += around / double(n) + (mean0 - mean1) * (mean0 - mean1);
    }
    return total;
}

template <typename Number>
int solve_points(const Number *x, const Number *y, int64_t n, int64_t d, double tolerance, int64_t *column, double *price,
                 double *figures) {
    std::vector<double> points(2 * n * d);
    double *first = points.data(), *second = first + n * d;
    if (!spread(x, n, d, first) || !spread(y, n, d, second)) return 2;
    figures[6] = mean_distance(first, second, n, d);
    solve_scaled(Points{first, second, n, d}, n, tolerance, column, price, figures);
    return 0;
}

} // namespace

// The first two functions take costs (n, n) row by row, n >= 2, finite. Where norm0 (n) and norm1 (n) are not null, the
// costs are products x_i.y_j of rows, and are overwritten with the squared distances. They leave the column (n) of each
// row, the price (n) of each column, such that sum_i min_j (c_ij + p_j) - sum_j p_j is the dual value, and in figures (7):
// what the pairing can have lost at most and its cost (sums over the rows), bids, rows read, rows left to the paths, columns
// the paths settled, and the mean of all costs. With a tolerance above 0 they stop where the first is at most that share of
// the second. They return 0, or 1 where memory is short.

// Costs from 0 upwards, of a size between 1e-20 and 1e20; exact as far as float32 holds them.
ADVECT_PUBLIC(advect_assign_float)
(float *cost, const float *norm0, const float *norm1, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        const std::vector<double> least(n, 0.0);
        const Matrix<float> costs{cost, n};
        Solver<Matrix<float>> solver(costs, cost, n, least.data(), 1.0, n);
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) {
            float *row = cost + i * n;
            sum += norm0 ? complete(row, norm0[i], norm1, n) : sum_of(row, n);
            solver.see(row, least_of(row, n));
        }
        figures[6] = sum / double(n) / double(n);
        solve(solver, typical_above_least(costs, n, nullptr), n, tolerance, column, price, figures);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// Costs of any size and sign.
ADVECT_PUBLIC(advect_assign_double)
(double *cost, const double *norm0, const double *norm1, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        double mean = 0;
        for (int64_t i = 0; i < n; ++i) {
            double *row = cost + i * n;
            mean += (norm0 ? complete(row, norm0[i], norm1, n) : sum_of(row, n)) / double(n) / double(n);
        }
        figures[6] = mean;
        solve_scaled(Matrix<double>{cost, n}, n, tolerance, column, price, figures);
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// Squared distances of points x (n, d) to points y (n, d), row by row. They return 2 where a coordinate is too large to be
// squared, or not finite.
ADVECT_PUBLIC(advect_assign_near_float)
(const float *x, const float *y, int64_t n, int64_t d, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        return solve_points(x, y, n, d, tolerance, column, price, figures);
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
ADVECT_PUBLIC(advect_assign_near_double)
(const double *x, const double *y, int64_t n, int64_t d, double tolerance, int64_t *column, double *price, double *figures) {
    try {
        return solve_points(x, y, n, d, tolerance, column, price, figures);
    } catch (const std::bad_alloc &) {
        return 1;
    }
}

// Rows x (n, d) less their centre (d): rounded to bfloat16, to the nearest and ties to even, and the squares of their norms
// before that.
ADVECT_PUBLIC(advect_assign_round)(const float *x, const float *centre, int64_t n, int64_t d, uint16_t *rounded, float *norm) {
    for (int64_t i = 0; i < n; ++i) {
        const float *row = x + i * d;
        uint16_t *out = rounded + i * d;
        Floats lane[16 / kWidth] = {}, moved, from; // sixteen sums, however wide a vector is
        float lanes[16], rest = 0;
        int64_t k = 0;
        for (; k + 16 <= d; k += 16)
            for (int v = 0; v < 16 / kWidth; ++v) {
                std::memcpy(&moved, row + k + v * kWidth, sizeof moved);
                std::memcpy(&from, centre + k + v * kWidth, sizeof from);
                moved -= from;
                lane[v] += moved * moved;
                Ints bits;
                std::memcpy(&bits, &moved, sizeof bits);
                const Halves half = narrowed((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
                std::memcpy(out + k + v * kWidth, &half, sizeof half);
            }
        for (; k < d; ++k) {
            const float one = row[k] - centre[k];
            int32_t bits;
            std::memcpy(&bits, &one, sizeof bits);
            out[k] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            rest += one * one;
        }
        std::memcpy(lanes, lane, sizeof lanes);
        for (const float part : lanes) rest += part;
        norm[i] = rest;
    }
    return 0;
}

// The sum of the squared distances of rows x1 (n, d) from the rows of x0 that were chosen for them.
ADVECT_PUBLIC(advect_assign_apart)(const float *x0, const float *x1, const int64_t *chosen, int64_t n, int64_t d, double *total) {
    *total = 0;
    for (int64_t i = 0; i < n; ++i) {
        const float *one = x0 + chosen[i] * d, *other = x1 + i * d;
        float lane[16] = {}, rest = 0;
        int64_t k = 0;
        for (; k + 16 <= d; k += 16)
            for (int l = 0; l < 16; ++l) lane[l] += (one[k + l] - other[k + l]) * (one[k + l] - other[k + l]);
        for (; k < d; ++k) rest += (one[k] - other[k]) * (one[k] - other[k]);
        for (const float part : lane) rest += part;
        *total += double(rest);
    }
    return 0;
}
