// Costs of an assignment as the caller has them, and what is asked of a row of them.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

namespace {

constexpr int kStreams = 32; // of a sum or a least number: in every instruction set, so that all come to the same

template <typename Cost> Cost least_of(const Cost *cost, int64_t n) {
    Cost lane[kStreams], lowest = cost[0];
    for (int l = 0; l < kStreams; ++l) lane[l] = cost[0];
    int64_t j = 0;
    for (; j + kStreams <= n; j += kStreams)
        for (int l = 0; l < kStreams; ++l) lane[l] = cost[j + l] < lane[l] ? cost[j + l] : lane[l];
    for (; j < n; ++j) lowest = cost[j] < lowest ? cost[j] : lowest;
    for (int l = 0; l < kStreams; ++l) lowest = lane[l] < lowest ? lane[l] : lowest;
    return lowest;
}

template <typename Cost> double sum_of(const Cost *cost, int64_t n) {
    Cost lane[kStreams] = {}, rest = 0;
    int64_t j = 0;
    for (; j + kStreams <= n; j += kStreams)
        for (int l = 0; l < kStreams; ++l) lane[l] += cost[j + l];
    for (; j < n; ++j) rest += cost[j];
    for (const Cost part : lane) rest += part;
    return double(rest);
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

} // namespace
