// Rounds of the scaling iteration for entropic plans, balanced and unbalanced; `scaling.py` says what a round is and does
// the same by torch.
//
// Costs s (n0, n1) are in units of the regularisation. The plan of duals f, g is P_ij = exp(f_i + g_j - s_ij)/(n0 n1). A
// round gives, with d = tau/(tau + eps), or 1 where all mass is kept,
//
//     f_i = -d (log sum_j exp(g_j - s_ij) - log n1),  g_j = -d (log sum_i exp(f_i - s_ij) - log n0).
//
// Both sums are products with one matrix exp(f'_i + g'_j - s_ij) of earlier duals, read once a round: a few rows give
// their f and are added to the columns while they are in cache. Where duals have moved far, or a sum is near the end of
// the range of a double, the round is made in the log domain and the matrix anew.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <memory>
#include <new>
#include <vector>

#include "../compiled.h"
#include "../vectors.h"

namespace {

constexpr double kFar = 100.0;             // that a dual may move before the matrix is made anew
constexpr double kLowest = -600.0;         // exponents below are raised to it: nothing becomes subnormal
constexpr double kLeast = 1e-200, kMost = 1e200; // of sums that neither the floor nor the range of a double has changed
constexpr int L = kLanes<double>;
typedef Vec<double> D;

inline D larger(D a, D b) { return a > b ? a : b; }
inline double greatest(D v) {
    double lanes[L];
    store<double>(lanes, v);
    return *std::max_element(lanes, lanes + L);
}
inline D power(D x) { return exp_of<double>(larger(x, all<double>(kLowest))); }
inline bool in_range(double sum) { return sum > kLeast && sum < kMost; }

// log sum_k exp(x_k - y_k stride) without vectors: for the few sums that need it alone.
inline double log_sum(const double *x, const double *y, int64_t stride, int64_t count) {
    double most = -HUGE_VAL, sum = 0;
    for (int64_t k = 0; k < count; ++k) most = std::max(most, x[k] - y[k * stride]);
    for (int64_t k = 0; k < count; ++k) sum += std::exp(std::max(x[k] - y[k * stride] - most, kLowest));
    return most + std::log(sum);
}

// Numbers in whole vectors; what is beyond the last of them is never read as a result.
typedef std::vector<double> Numbers;

struct Scaling {
    const double *scaled;
    const int64_t n0, n1, width; // columns in whole vectors
    const double damped;
    Numbers matrix, f, g, log_columns; // the duals, and log sum_i exp(f_i - s_ij) of the last round
    Numbers f_then, g_then, by_column, columns;
    bool near = false;

    Scaling(const double *costs, int64_t rows, int64_t cols, double part)
        : scaled(costs), n0(rows), n1(cols), width(whole<double>(cols)), damped(part), matrix(rows * width, 0.0),
          f(whole<double>(rows), 0.0), g(width, 0.0), log_columns(width, 0.0), f_then(f), g_then(g), by_column(width, 0.0),
          columns(width, 0.0) {}

    // f of g, and the sums of the columns with it.
    void round() {
        if (!near || !by_products()) by_logarithms();
    }

    bool by_products() {
        D moved = {};
        for (int64_t j = 0; j < width; j += L) {
            const D change = load(&g[j]) - load(&g_then[j]);
            moved = larger(moved, size_of<double>(change));
            store<double>(&by_column[j], power(change));
        }
        if (!(greatest(moved) <= kFar)) return false;
        for (int64_t j = n1; j < width; ++j) by_column[j] = 0;
        std::fill(columns.begin(), columns.end(), 0.0);
        for (int64_t i = 0; i < n0; i += L) {
            double sums[L], weights[L];
            const int64_t rows = std::min<int64_t>(L, n0 - i);
            for (int64_t r = 0; r < L; ++r) sums[r] = r < rows ? product(&matrix[(i + r) * width]) : 1.0;
            for (int64_t r = 0; r < rows; ++r)
                if (!in_range(sums[r])) return false;
            const D then = load(&f_then[i]);
            const D now = -damped * (log_of<double>(load(sums)) - then - std::log(double(n1)));
            store<double>(&f[i], now);
            store<double>(weights, power(now - then));
            for (int64_t r = 0; r < rows; ++r)
                if (!(std::fabs(f[i + r] - f_then[i + r]) <= kFar)) return false;
            if (rows == L) add_rows(&matrix[i * width], weights);
            else
                for (int64_t r = 0; r < rows; ++r) add_row(&matrix[(i + r) * width], weights[r]);
        }
        for (int64_t j = 0; j < n1; ++j)
            if (!in_range(columns[j])) return false;
        for (int64_t j = n1; j < width; ++j) columns[j] = 1;
        for (int64_t j = 0; j < width; j += L)
            store<double>(&log_columns[j], log_of<double>(load(&columns[j])) - load(&g_then[j]));
        return true;
    }

    double product(const double *row) const {
        D sum[4] = {};
        int64_t j = 0;
        for (; j + 4 * L <= width; j += 4 * L)
            for (int k = 0; k < 4; ++k) sum[k] += load(row + j + k * L) * load(&by_column[j + k * L]);
        for (; j < width; j += L) sum[0] += load(row + j) * load(&by_column[j]);
        return sum_of<double>((sum[0] + sum[1]) + (sum[2] + sum[3]));
    }
    void add_rows(const double *rows, const double *weights) {
        for (int64_t j = 0; j < width; j += L) {
            D sum = load(&columns[j]);
            for (int r = 0; r < L; ++r) sum += load(rows + r * width + j) * weights[r];
            store<double>(&columns[j], sum);
        }
    }
    void add_row(const double *row, double weight) {
        for (int64_t j = 0; j < width; j += L) store<double>(&columns[j], load(&columns[j]) + load(row + j) * weight);
    }

    // The same, and the matrix at the duals that were found.
    void by_logarithms() {
        std::fill(columns.begin(), columns.end(), 0.0);
        for (int64_t i = 0; i < n0; ++i) {
            const double *cost = scaled + i * n1;
            double *row = &matrix[i * width];
            double most = -HUGE_VAL;
            for (int64_t j = 0; j < n1; ++j) {
                row[j] = g[j] - cost[j];
                most = std::max(most, row[j]);
            }
            D sum = {};
            for (int64_t j = n1; j < width; ++j) row[j] = -HUGE_VAL; // these are less than any digit, and made 0 below
            for (int64_t j = 0; j < width; j += L) sum += power(load(row + j) - most);
            f[i] = -damped * (most + std::log(sum_of<double>(sum)) - std::log(double(n1)));
            for (int64_t j = 0; j < width; j += L) store<double>(row + j, power(load(row + j) + f[i]));
            for (int64_t j = n1; j < width; ++j) row[j] = 0;
            add_row(row, 1.0);
        }
        for (int64_t j = 0; j < n1; ++j)
            log_columns[j] = in_range(columns[j]) ? std::log(columns[j]) - g[j] : log_sum(f.data(), scaled + j, n1, n0);
        f_then = f;
        g_then = g;
        near = true;
    }

    // Total variation between the masses of the columns, which are those of all rows with this f, and 1/n1.
    double column_error() const {
        const double rows = std::log(double(n0));
        D sums = {};
        int64_t j = 0;
        for (; j + L <= n1; j += L)
            sums += size_of<double>(expm1_of<double>(load(&log_columns[j]) + load(&g[j]) - rows));
        double sum = sum_of<double>(sums);
        for (; j < n1; ++j) sum += std::fabs(std::expm1(log_columns[j] + g[j] - rows));
        return 0.5 * sum / double(n1);
    }

    // g of the sums of the columns.
    void follow() {
        for (int64_t j = 0; j < n1; ++j) g[j] = -damped * (log_columns[j] - std::log(double(n0)));
    }
};

// log mean_k exp(-x_k/reach).
double log_mean(const Numbers &x, int64_t count, double reach) {
    double least = HUGE_VAL, sum = 0;
    for (int64_t k = 0; k < count; ++k) least = std::min(least, x[k]);
    for (int64_t k = 0; k < count; ++k) sum += std::exp(std::max((least - x[k]) / reach, kLowest));
    return std::log(sum / double(count)) - least / reach;
}

} // namespace

// All mass is kept. g (n1) goes in as a start and comes out as duals whose plan, its rows made exact, has a column error of
// at most `target`, unless rounds ended before: after `most` of them, or after `few` once the rate of the last one promises
// none such within `patience` more. Returns the rounds, or -1 where there is no memory.
ADVECT_PUBLIC(advect_scaling_balanced)
(const double *scaled, int64_t n0, int64_t n1, double *g, double target, int64_t most, int64_t few, double patience) {
    try {
        Scaling plan(scaled, n0, n1, 1.0);
        std::copy(g, g + n1, plan.g.begin());
        double before = HUGE_VAL;
        for (int64_t turn = 1; turn <= most; ++turn) {
            plan.round();
            const double error = plan.column_error();
            const bool slow = turn > few && std::log(error / target) > patience * std::log(std::max(before / error, 1.0));
            if (error <= target || slow) {
                std::copy(plan.g.begin(), plan.g.begin() + n1, g);
                return int(turn);
            }
            plan.follow();
            before = error;
        }
        std::copy(plan.g.begin(), plan.g.begin() + n1, g);
        return int(most);
    } catch (const std::bad_alloc &) {
        return -1;
    }
}

// Mass may be made and lost; reach is tau/eps. f (n0) and g (n1) come out, and the greatest change of f in the last round,
// which is at most `tolerance` unless `most` rounds were not enough. Returns the rounds, or -1 where there is no memory.
ADVECT_PUBLIC(advect_scaling_unbalanced)
(const double *scaled, int64_t n0, int64_t n1, double *f, double *g, double reach, double tolerance, int64_t most,
 double *change) {
    try {
        Scaling plan(scaled, n0, n1, reach / (reach + 1));
        int64_t turn = 0;
        Numbers last(n0, 0.0);
        *change = HUGE_VAL;
        while (turn < most && !(*change <= tolerance)) {
            ++turn;
            plan.round();
            plan.follow();
            const double shift = reach / 2 * (log_mean(plan.f, n0, reach) - log_mean(plan.g, n1, reach));
            *change = 0;
            for (int64_t i = 0; i < n0; ++i) {
                plan.f[i] += shift;
                *change = std::max(*change, std::fabs(plan.f[i] - last[i]));
                last[i] = plan.f[i];
            }
            for (int64_t j = 0; j < n1; ++j) plan.g[j] -= shift;
        }
        std::copy(last.begin(), last.end(), f);
        std::copy(plan.g.begin(), plan.g.begin() + n1, g);
        return int(turn);
    } catch (const std::bad_alloc &) {
        return -1;
    }
}
