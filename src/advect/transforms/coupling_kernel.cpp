// A coupling layer in one call, and its gradient in another: products, activations and the monotone functions together,
// by blocks of rows. As Coupling and Conditioner, which say what is computed, and coupling_pass.py, which says when.
//
// In a block numbers lie columns x rows, so that everything runs along rows: with the weights W of a layer and what it
// sees H, the products are W H and, back from G = dL/d(W H + b), W^T G and G H^T. Only for the last H is turned, to
// rows x columns. What a block needs stays in the first two caches from its first product to its last.

#include <cstdint>

#include "../products.h"
#include "functions.h"

namespace {

constexpr int64_t kRows = 64; // of a block; _BLOCK of coupling_blocks.py

// Linear layer i has weights[2 i], sizes[i + 1] x sizes[i], and the bias weights[2 i + 1].
template <class R> struct Network {
    int64_t layers;
    const int64_t *sizes;
    R *const *weights;
    R bulk;

    // What is kept of a block: what the first layer sees, values and slopes of the hidden layers, and the parameters.
    int64_t block() const {
        int64_t columns = sizes[0] + sizes[layers];
        for (int64_t i = 1; i < layers; ++i) columns += 2 * sizes[i];
        return columns * kRows;
    }
    R *values(R *block, int64_t i) const { // what layer i sees; of the last the parameters
        if (!i) return block;
        block += sizes[0] * kRows;
        for (int64_t j = 1; j < i; ++j) block += 2 * sizes[j] * kRows;
        return block;
    }
    R *slopes(R *block, int64_t i) const { return values(block, i) + sizes[i] * kRows; } // of the values layer i sees
};

struct Columns {
    int64_t first, count;
};

template <class R> inline int lanes_of(int64_t left) { return int(left < kLanes<R> ? left : kLanes<R>); }

template <class R> struct Coupling {
    Columns kept, moved;
    int64_t conditions, inverse;
};

// All layers of a block whose inputs are there.
template <class R> void compute(const Network<R> &network, R *block, int64_t count, int64_t keep) {
    for (int64_t i = 0; i < network.layers; ++i) {
        const int64_t inputs = network.sizes[i], outputs = network.sizes[i + 1];
        const bool last = i + 1 == network.layers;
        const R *seen = network.values(block, i), *bias = network.weights[2 * i + 1];
        R *values = network.values(block, i + 1), *slopes = last || !keep ? nullptr : network.slopes(block, i + 1);
        product<R>(outputs, count, inputs, {network.weights[2 * i], inputs, 1}, as_it_lies<R>(seen, kRows),
                   {nullptr, 0}, [&](int64_t r, int64_t c, Vec<R> sum) {
                       const int64_t at = r * kRows + c;
                       sum += bias[r];
                       if (last) return store<R>(values + at, sum);
                       const Smooth<R> found(sum);
                       store<R>(values + at, found.value);
                       if (slopes) store<R>(slopes + at, found.slope());
                   });
    }
}

template <class R, class Function>
int coupling(int64_t rows, const Function &function, const Coupling<R> &layer, const Network<R> &network,
             Grid<const R> x, Grid<const R> condition, Grid<R> out, R *total, R *room, int64_t keep) {
    if (!function.fits()) return 1;
    const int64_t each = network.sizes[network.layers] / layer.moved.count, size = network.block();
    for (int64_t first = 0; first < rows; first += kRows, room += keep ? size : 0) {
        const int64_t count = rows - first < kRows ? rows - first : kRows;
        for (int64_t r = 0; r < count; r += kLanes<R>) {
            const int lanes = lanes_of<R>(count - r);
            R *to = room + r;
            for (int64_t c = layer.kept.first; c < layer.kept.first + layer.kept.count; ++c, to += kRows) {
                const Vec<R> given = take<R>(x.at(first + r, c), x.row, lanes);
                put<R>(out.at(first + r, c), out.row, lanes, given);
                store<R>(to, squash_of<R>(given, network.bulk));
            }
            for (int64_t c = 0; c < layer.conditions; ++c, to += kRows)
                store<R>(to, squash_of<R>(take<R>(condition.at(first + r, c), condition.row, lanes), network.bulk));
        }
        compute<R>(network, room, count, keep);
        const R *theta = network.values(room, network.layers);
        for (int64_t r = 0; r < count; r += kLanes<R>) {
            const int lanes = lanes_of<R>(count - r);
            Vec<R> sum = all<R>(0);
            for (int64_t c = 0; c < layer.moved.count; ++c) {
                const int64_t column = layer.moved.first + c;
                Vec<R> value, log_slope;
                function.move(int(layer.inverse), take<R>(x.at(first + r, column), x.row, lanes),
                              theta + c * each * kRows + r, {theta, 1, 0, kRows}, kLanes<R>, value, log_slope);
                put<R>(out.at(first + r, column), out.row, lanes, value);
                sum += log_slope;
            }
            if (total) put<R>(total + first + r, 1, lanes, sum);
        }
    }
    return 0;
}

// Columns x rows as rows x columns, `stride` apart. Squares of vectors that are shuffled were no faster.
template <class R> inline void turn(const R *from, int64_t columns, int64_t rows, R *to, int64_t stride) {
    for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; ++r) to[r * stride + c] = from[c * kRows + r];
}

// The gradients of one linear layer over all rows: sums that grow block by block.
template <class R> struct Sums {
    R *weight, *bias; // outputs x whole vectors of inputs; outputs x one vector
    int64_t inputs, outputs;

    static int64_t size(int64_t inputs, int64_t outputs) { return outputs * (whole<R>(inputs) + kLanes<R>); }

    // `by` is outputs x rows, `seen` inputs x rows; `turned` has room for the latter turned.
    void add(const R *by, const R *seen, int64_t rows, R *turned) const {
        const int64_t stride = whole<R>(inputs);
        turn<R>(seen, inputs, rows, turned, stride);
        product<R>(outputs, inputs, rows, {by, kRows, 1}, as_it_lies<R>(turned, stride), {weight, stride},
                   Stored<R>{weight, stride});
        for (int64_t m = 0; m < outputs; ++m) {
            Vec<R> sum = load<R>(bias + m * kLanes<R>);
            int64_t r = 0;
            for (; r + kLanes<R> <= rows; r += kLanes<R>) sum += load<R>(by + m * kRows + r);
            store<R>(bias + m * kLanes<R>, sum);
            for (; r < rows; ++r) bias[m * kLanes<R>] += by[m * kRows + r];
        }
    }
    void give(R *by_weight, R *by_bias) const {
        const int64_t stride = whole<R>(inputs);
        for (int64_t m = 0; m < outputs; ++m) {
            for (int64_t k = 0; k < inputs; ++k) by_weight[m * inputs + k] = weight[m * stride + k];
            R sum = 0;
            for (int lane = 0; lane < kLanes<R>; ++lane) sum += bias[m * kLanes<R> + lane];
            by_bias[m] = sum;
        }
    }
};

// The gradients of a network over all rows, and room for those inside a block.
template <class R> class Gradients {
  public:
    Gradients(const Network<R> &network, R *scratch) : network_(network), sums_(scratch), by_(scratch) {
        for (int64_t i = 0; i <= network.layers; ++i)
            widest_ = network.sizes[i] > widest_ ? network.sizes[i] : widest_;
        for (int64_t i = 0; i < network.layers; ++i) by_ += Sums<R>::size(network.sizes[i], network.sizes[i + 1]);
        below_ = by_ + widest_ * kRows;
        turned_ = below_ + widest_ * kRows;
    }
    int64_t room() const { return by_ - sums_ + (2 * widest_ + whole<R>(widest_)) * kRows; }
    void clear() { std::memset(sums_, 0, size_t(by_ - sums_) * sizeof(R)); }
    R *by_theta() { return by_; }

    // A block whose gradients by its parameters are there. Returns those by its inputs, where they are asked for.
    const R *add(R *block, int64_t count, bool inputs_too) {
        R *by = by_, *below = below_, *end = by_;
        for (int64_t i = network_.layers - 1; i >= 0; --i) {
            const int64_t inputs = network_.sizes[i], outputs = network_.sizes[i + 1];
            end -= Sums<R>::size(inputs, outputs);
            Sums<R>{end, end + outputs * whole<R>(inputs), inputs, outputs}.add(by, network_.values(block, i), count,
                                                                                turned_);
            if (!i && !inputs_too) break;
            const R *slopes = i ? network_.slopes(block, i) : nullptr;
            product<R>(inputs, count, outputs, {network_.weights[2 * i], 1, inputs}, as_it_lies<R>(by, kRows),
                       {nullptr, 0}, [&](int64_t r, int64_t c, Vec<R> sum) {
                           const int64_t at = r * kRows + c;
                           store<R>(below + at, slopes ? sum * load<R>(slopes + at) : sum);
                       });
            R *other = by;
            by = below;
            below = other;
        }
        return by;
    }
    void give(R *const *into) {
        R *at = sums_;
        for (int64_t i = 0; i < network_.layers; ++i) {
            const int64_t inputs = network_.sizes[i], outputs = network_.sizes[i + 1];
            Sums<R>{at, at + outputs * whole<R>(inputs), inputs, outputs}.give(into[2 * i], into[2 * i + 1]);
            at += Sums<R>::size(inputs, outputs);
        }
    }

  private:
    const Network<R> &network_;
    R *sums_, *by_, *below_, *turned_;
    int64_t widest_ = 0;
};

// What the gradients by value and log-determinant ask of rows, condition and weights. `room` is what `coupling` kept,
// `by_x.first` is null where rows and condition ask for nothing, `scratch` has room for `scratch_size` numbers.
template <class R, class Function>
int coupling_back(int64_t rows, const Function &function, const Coupling<R> &layer, const Network<R> &network,
                  Grid<const R> x, Grid<const R> condition, Grid<const R> by_value, Grid<const R> by_total, Grid<R> by_x,
                  Grid<R> by_condition, R *const *into, R *room, R *scratch, int64_t scratch_size) {
    if (!function.fits()) return 1;
    const int64_t layers = network.layers, each = network.sizes[layers] / layer.moved.count, size = network.block();
    Gradients<R> gradients(network, scratch);
    if (gradients.room() > scratch_size) return 2;
    gradients.clear();
    for (int64_t first = 0; first < rows; first += kRows, room += size) {
        const int64_t count = rows - first < kRows ? rows - first : kRows;
        const R *theta = network.values(room, layers);
        for (int64_t c = 0; c < layer.moved.count; ++c)
            for (int64_t r = 0; r < count; r += kLanes<R>) {
                const int lanes = lanes_of<R>(count - r);
                const int64_t column = layer.moved.first + c, row = first + r;
                Vec<R> log_slope = by_total.first ? take<R>(by_total.at(row, 0), by_total.row, lanes) : all<R>(0);
                Vec<R> by_point = function.back(
                    int(layer.inverse), take<R>(x.at(row, column), x.row, lanes), theta + c * each * kRows + r,
                    {theta, 1, 0, kRows}, kLanes<R>, take<R>(by_value.at(row, column), by_value.row, lanes), log_slope,
                    gradients.by_theta() + c * each * kRows + r);
                if (by_x.first) put<R>(by_x.at(row, column), by_x.row, lanes, by_point);
            }
        const R *by_seen = gradients.add(room, count, by_x.first);
        if (!by_x.first) continue;
        for (int64_t c = 0; c < network.sizes[0]; ++c)
            for (int64_t r = 0; r < count; r += kLanes<R>) {
                const int lanes = lanes_of<R>(count - r);
                const int64_t row = first + r, column = layer.kept.first + c, given = c - layer.kept.count;
                const bool is_kept = given < 0;
                const Grid<const R> &from = is_kept ? x : condition;
                const Vec<R> point = take<R>(from.at(row, is_kept ? column : given), from.row, lanes);
                Vec<R> found = load<R>(by_seen + c * kRows + r) / inverse_squash_slope<R>(point, network.bulk);
                if (is_kept) {
                    found += take<R>(by_value.at(row, column), by_value.row, lanes);
                    put<R>(by_x.at(row, column), by_x.row, lanes, found);
                } else if (by_condition.first) {
                    put<R>(by_condition.at(row, given), by_condition.row, lanes, found);
                }
            }
    }
    gradients.give(into);
    return 0;
}

} // namespace

#define ADVECT_COUPLING(R, name, kind, constants, function)                                                            \
    ADVECT_PUBLIC(advect_##kind##_coupling_##name)                                                                     \
    (int64_t rows, constants, int64_t inverse, int64_t kept, int64_t keeps, int64_t moved, int64_t moves,              \
     int64_t conditions, int64_t layers, const int64_t *sizes, R *const *weights, double bulk, const R *x, int64_t xr, \
     int64_t xc, const R *condition, int64_t cr, int64_t cc, R *out, int64_t yr, int64_t yc, R *total, R *room,        \
     int64_t keep) {                                                                                                   \
        return coupling<R>(rows, function, {{kept, keeps}, {moved, moves}, conditions, inverse},                       \
                           {layers, sizes, weights, R(bulk)}, {x, xr, xc}, {condition, cr, cc}, {out, yr, yc}, total,  \
                           room, keep);                                                                                \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_##kind##_coupling_back_##name)                                                                \
    (int64_t rows, constants, int64_t inverse, int64_t kept, int64_t keeps, int64_t moved, int64_t moves,              \
     int64_t conditions, int64_t layers, const int64_t *sizes, R *const *weights, double bulk, const R *x, int64_t xr, \
     int64_t xc, const R *condition, int64_t cr, int64_t cc, const R *by_value, int64_t vr, int64_t vc,                \
     const R *by_total, int64_t tr, int64_t tc, R *by_x, int64_t gr, int64_t gc, R *by_condition, int64_t hr,          \
     int64_t hc, R *const *into, R *room, R *scratch, int64_t scratch_size) {                                          \
        return coupling_back<R>(rows, function, {{kept, keeps}, {moved, moves}, conditions, inverse},                  \
                                {layers, sizes, weights, R(bulk)}, {x, xr, xc}, {condition, cr, cc},                   \
                                {by_value, vr, vc}, {by_total, tr, tc}, {by_x, gr, gc}, {by_condition, hr, hc}, into,  \
                                room, scratch, scratch_size);                                                          \
    }
#define ADVECT_BINS int64_t bins, double low, double high, double minimum
#define ADVECT_SPLINE(R) Spline<R>{{int(bins), R(low), R(high), R(minimum)}}

ADVECT_COUPLING(float, float, spline, ADVECT_BINS, ADVECT_SPLINE(float))
ADVECT_COUPLING(double, double, spline, ADVECT_BINS, ADVECT_SPLINE(double))
ADVECT_COUPLING(float, float, affine, double bound, Affine<float>{float(bound)})
ADVECT_COUPLING(double, double, affine, double bound, Affine<double>{double(bound)})
