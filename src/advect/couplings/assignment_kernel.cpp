// The linear assignment problem, exactly or to a tolerance: an auction on float32 costs (`auction.h`), finished by shortest
// augmenting paths in float64 (`augmenting_paths.h`).
//
// The file is compiled once for each instruction set, with ADVECT_SET naming the functions. There is no state between
// calls and no call into Python.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <new>
#include <vector>

#include "../aligned.h"
#include "../compiled.h"
#include "assignment_costs.h"
#include "augmenting_paths.h"

namespace {

constexpr float kLargest = 1e30f; // costs are cut here, in units of a typical one
// The first eps, in units of a typical cost above the cheapest of a row, the share of it at the next level, and the least.
constexpr double kFirst = 0.04, kFall = 0.1, kLeast = 4e-5;
// The most bids at each level, per row: costs whose digits float32 does not hold could go on for ever, and any prices are a
// start for the paths.
constexpr int64_t kBids = 50;
// Rows of at least so many costs are read by their lists at levels below kListed: above, a list
// would be used up by nearly every bid.
constexpr int64_t kLongRow = 768;
constexpr double kListed = 2e-3;

template <typename Costs>
void solve(Solver<Costs> &solver, double typical, int64_t n, double tolerance, int64_t *column, double *price, double *figures) {
    bool done = false;
    solver.open();
    for (double level = kFirst, fall = kFall; level > 0.9 * kLeast && float(level * typical) > 0; level *= fall) {
        solver.bid(float(level * typical), kBids * n, n >= kLongRow && level < kListed);
        if (!(tolerance > 0) || !solver.complete()) continue;
        done = solver.within(tolerance, solver.total());
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
