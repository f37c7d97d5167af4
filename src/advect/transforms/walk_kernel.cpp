// The inverse of an autoregressive layer in one call: the masked network is walked level by level, each hidden unit
// computed once, and the coordinates of a level are inverted as soon as their parameters are there. As networks/walk.py,
// which says why, and autoregressive.py.
//
// Rows go in blocks. In a block all that is known lies units x rows, next to what is needed with it: one block of
// numbers for the inputs and one for each hidden layer, which stay in the first two caches. Units of a level are few, so
// each is a sum over all that is known, a vector of rows at a time.

#include <cstdint>

#include "../products.h"
#include "functions.h"

namespace {

constexpr int64_t kRows = 64; // of a block; _BLOCK of autoregressive_pass.py
constexpr int kWide = 4;      // vectors of rows that are summed at once
#if defined(__AVX512F__)
constexpr int kFew = 4; // units that are
#else
constexpr int kFew = 2;
#endif

// A masked network in the order of its levels. Layer i has the weights layers[i], units x (1 + inputs) with the bias
// first; the inputs of the first are the condition and the coordinates by level, the units of the last the parameters of
// the coordinates by level.
template <class R> struct Masked {
    int64_t levels, conditions, depth, width, each;
    int64_t silu; // 0 is ReLU
    R reach;
    const int64_t *coordinates, *units, *order; // of each level, of each level, and which coordinate is which
    const R *const *layers;
};

template <class R> inline Vec<R> clamp(Vec<R> x, R reach) {
    x = x < -reach ? all<R>(-reach) : x;
    return x > reach ? all<R>(reach) : x;
}

// put(unit, row, sum) for `Few` units and all rows of a block. Sums are over the first `depth` of what is known.
template <class R, int Few, class Put>
inline void sums(const R *weights, int64_t stride, int64_t depth, const R *known, int64_t rows, const Put &put) {
    for (int64_t r = 0; r < rows; r += kWide * kLanes<R>) {
        Vec<R> sum[Few][kWide] = {};
        const R *from = known + r;
        for (int64_t k = 0; k < depth; ++k, from += kRows) {
            Vec<R> right[kWide];
            for (int v = 0; v < kWide; ++v) right[v] = load<R>(from + v * kLanes<R>);
            for (int m = 0; m < Few; ++m) {
                const Vec<R> left = all<R>(weights[m * stride + k]);
                for (int v = 0; v < kWide; ++v) sum[m][v] += left * right[v];
            }
        }
        for (int m = 0; m < Few; ++m)
            for (int v = 0; v < kWide; ++v) put(m, r + v * kLanes<R>, sum[m][v]);
    }
}

// The same for any number of units, whose sums begin at `to`.
template <class R, class Function>
inline void all_sums(int64_t units, const R *weights, int64_t stride, int64_t depth, const R *known, int64_t rows, R *to,
                     const Function &function) {
    int64_t unit = 0;
    const auto put = [&](int m, int64_t r, Vec<R> sum) { store<R>(to + (unit + m) * kRows + r, function(sum)); };
    for (; unit + kFew <= units; unit += kFew)
        sums<R, kFew>(weights + unit * stride, stride, depth, known, rows, put);
    for (; unit < units; ++unit) sums<R, 1>(weights + unit * stride, stride, depth, known, rows, put);
}

// What is known of a block of rows.
template <class R> class Block {
  public:
    Block(const Masked<R> &network, int64_t rows, R *room) : network_(network), rows_(rows), inputs_(room) {
        for (int64_t level = 0; level < network.levels; ++level) features_ += network.coordinates[level];
        hidden_ = inputs_ + (1 + network.conditions + features_) * kRows;
        theta_ = hidden_ + network.depth * (1 + network.width) * kRows;
    }

    // A row of ones, which makes biases weights, and the condition.
    void begin(Grid<const R> condition, int64_t first, int64_t count) {
        known_ = units_ = 1;
        for (int64_t i = 0; i <= network_.depth; ++i)
            for (int64_t r = 0; r < rows_; r += kLanes<R>) store<R>(values(i) + r, all<R>(1));
        for (int64_t c = 0; c < network_.conditions; ++c, ++known_) {
            R *to = inputs_ + known_ * kRows;
            for (int64_t r = 0; r < rows_; r += kLanes<R>)
                store<R>(to + r, r < count ? taken(condition, first + r, c, count - r) : Vec<R>{});
        }
    }

    // The hidden units for which this level was the last thing missing.
    void compute(int64_t level) {
        const int64_t count = network_.units[level];
        if (!count) return;
        int64_t depth = known_, inputs = 1 + network_.conditions + features_;
        for (int64_t i = 0; i < network_.depth; ++i) {
            const R *weights = network_.layers[i] + (units_ - 1) * inputs;
            R *to = values(i + 1) + units_ * kRows;
            if (network_.silu)
                all_sums<R>(count, weights, inputs, depth, values(i), rows_, to,
                            [](Vec<R> a) { return a * sigmoid_of<R>(a); });
            else
                all_sums<R>(count, weights, inputs, depth, values(i), rows_, to,
                            [](Vec<R> a) { return a < 0 ? all<R>(0) : a; });
            depth = units_ + count;
            inputs = 1 + network_.width;
        }
        units_ += count;
    }

    // The parameters of `count` coordinates from the first of those that are not known: parameters x rows.
    const R *parameters(int64_t count) {
        const int64_t inputs = network_.depth ? 1 + network_.width : 1;
        const int64_t first = known_ - 1 - network_.conditions;
        all_sums<R>(count * network_.each, network_.layers[network_.depth] + first * network_.each * inputs, inputs,
                    network_.depth ? units_ : 1, values(network_.depth), rows_, theta_, [](Vec<R> a) { return a; });
        return theta_;
    }

    void push(int64_t r, Vec<R> value) { store<R>(inputs_ + known_ * kRows + r, clamp<R>(value, network_.reach)); }
    void next() { ++known_; }

    static Vec<R> taken(const Grid<const R> &from, int64_t r, int64_t c, int64_t count) {
        return take<R>(from.at(r, c), from.row, int(count < kLanes<R> ? count : kLanes<R>));
    }

  private:
    // Inputs, or a hidden layer counted from 1.
    R *values(int64_t i) { return i ? hidden_ + (i - 1) * (1 + network_.width) * kRows : inputs_; }

    const Masked<R> &network_;
    const int64_t rows_;
    int64_t features_ = 0, known_ = 1, units_ = 1;
    R *inputs_, *hidden_, *theta_;
};

// x and the sum of the log-slopes of each row, where that is wanted. `room` holds a block: see autoregressive_pass.py.
template <class R, class Function>
int walk(int64_t rows, const Function &function, const Masked<R> &network, Grid<const R> z, Grid<const R> condition,
         Grid<R> x, R *total, R *room) {
    if (!function.fits()) return 1;
    for (int64_t first = 0; first < rows; first += kRows) {
        const int64_t count = rows - first < kRows ? rows - first : kRows;
        const int64_t step = kWide * kLanes<R>, whole = (count + step - 1) / step * step;
        Block<R> block(network, whole, room);
        Vec<R> sum[kRows / kLanes<R>] = {};
        block.begin(condition, first, count);
        const int64_t *coordinate = network.order;
        for (int64_t level = 0; level < network.levels; ++level) {
            block.compute(level);
            const int64_t size = network.coordinates[level];
            const R *theta = block.parameters(size);
            for (int64_t i = 0; i < size; ++i, ++coordinate, theta += network.each * kRows) {
                for (int64_t r = 0; r < whole; r += kLanes<R>) {
                    if (r >= count) {
                        block.push(r, Vec<R>{});
                        continue;
                    }
                    const int lanes = int(count - r < kLanes<R> ? count - r : kLanes<R>);
                    const Parameters<const R> of{theta, 1, 0, kRows};
                    Vec<R> value, log_slope;
                    function.move(1, Block<R>::taken(z, first + r, *coordinate, lanes), theta + r, of, kLanes<R>, value,
                                  log_slope);
                    put<R>(x.at(first + r, *coordinate), x.row, lanes, value);
                    sum[r / kLanes<R>] += log_slope;
                    block.push(r, value);
                }
                block.next();
            }
        }
        if (total)
            for (int64_t r = 0; r < count; r += kLanes<R>)
                put<R>(total + first + r, 1, int(count - r < kLanes<R> ? count - r : kLanes<R>), sum[r / kLanes<R>]);
    }
    return 0;
}

} // namespace

#define ADVECT_WALK(R, name)                                                                                           \
    ADVECT_PUBLIC(advect_spline_walk_##name)                                                                           \
    (int64_t rows, int64_t bins, double low, double high, double minimum, int64_t levels, int64_t conditions,          \
     int64_t depth, int64_t width, int64_t each, int64_t silu, double reach, const int64_t *coordinates,               \
     const int64_t *units, const int64_t *order, const R *const *layers, const R *z, int64_t zr, int64_t zc,           \
     const R *condition, int64_t cr, int64_t cc, R *x, int64_t xr, int64_t xc, R *total, R *room) {                    \
        return walk<R>(rows, Spline<R>{{int(bins), R(low), R(high), R(minimum)}},                                      \
                       {levels, conditions, depth, width, each, silu, R(reach), coordinates, units, order, layers},    \
                       {z, zr, zc}, {condition, cr, cc}, {x, xr, xc}, total, room);                                    \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_affine_walk_##name)                                                                           \
    (int64_t rows, double bound, int64_t levels, int64_t conditions, int64_t depth, int64_t width, int64_t each,       \
     int64_t silu, double reach, const int64_t *coordinates, const int64_t *units, const int64_t *order,               \
     const R *const *layers, const R *z, int64_t zr, int64_t zc, const R *condition, int64_t cr, int64_t cc, R *x,     \
     int64_t xr, int64_t xc, R *total, R *room) {                                                                      \
        return walk<R>(rows, Affine<R>{R(bound)},                                                                      \
                       {levels, conditions, depth, width, each, silu, R(reach), coordinates, units, order, layers},    \
                       {z, zr, zc}, {condition, cr, cc}, {x, xr, xc}, total, room);                                    \
    }

ADVECT_WALK(float, float)
ADVECT_WALK(double, double)
