// Coupling layers one after another in one call, and their gradients in another: products, activations and the monotone
// functions together, by blocks of rows. As Coupling and Conditioner, which say what is computed; coupling_pass.py and
// coupling_run.py say when.
//
// In a block numbers lie columns x rows, so that everything runs along rows: with the weights W of a layer and what it
// sees H, the products are W H and, back from G = dL/d(W H + b), W^T G and G H^T. Only for the last H is turned, to
// rows x columns. A block goes through all layers before the next begins: what it needs stays in the first two caches.

#include "coupling.h"

namespace {

template <class R, class Function>
int coupling(const Run<R, Function> &run, Grid<R> out, R *total, R *room, int64_t keep) {
    if (!run.function.fits()) return 1;
    R *kept = room + carried(run);
    for (int64_t first = 0; first < run.rows; first += kRows) {
        const Block<R> block = begin(run, first, room);
        for (const Layer<R> &layer : run.layers) {
            ahead(run, layer, block, kept, keep);
            kept += keep ? layer.size() : 0;
        }
        if (out.column == 1 && run.in_order()) {
            turn<R>(block.state, kRows, run.features, block.count, out.at(first, 0), out.row);
        } else {
            for (int64_t c = 0; c < run.features; ++c)
                write<R>(out, first, block.count, c, block.state + run.order[c] * kRows);
        }
        if (total) std::memcpy(total + first, block.total, size_t(block.count) * sizeof(R));
    }
    return 0;
}

// The gradients of one linear layer over all rows: sums that grow block by block.
template <class R> struct Sums {
    R *weight, *bias; // outputs x whole vectors of inputs; outputs x one vector
    int64_t inputs, outputs;

    static int64_t size(int64_t inputs, int64_t outputs) { return outputs * (whole<R>(inputs) + kLanes<R>); }
    Sums(R *at, int64_t inputs, int64_t outputs)
        : weight(at), bias(at + outputs * whole<R>(inputs)), inputs(inputs), outputs(outputs) {}

    // `by` is outputs x rows, `seen` inputs x rows; `turned` has room for the latter turned.
    void add(const R *by, const R *seen, int64_t rows, R *turned) const {
        const int64_t stride = whole<R>(inputs);
        turn<R>(seen, kRows, inputs, rows, turned, stride);
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
            std::memcpy(by_weight + m * inputs, weight + m * stride, size_t(inputs) * sizeof(R));
            R sum = 0;
            for (int lane = 0; lane < kLanes<R>; ++lane) sum += bias[m * kLanes<R> + lane];
            by_bias[m] = sum;
        }
    }
};

// The gradients of all networks over all rows, and room for those inside a block.
template <class R> class Gradients {
  public:
    Gradients(const std::vector<Layer<R>> &layers, R *scratch) : layers_(layers), sums_(scratch), by_(scratch) {
        int64_t widest = 0;
        for (const Layer<R> &layer : layers)
            for (int64_t i = 0; i <= layer.network.layers; ++i) {
                const int64_t *sizes = layer.network.sizes + i;
                widest = *sizes > widest ? *sizes : widest;
                if (i < layer.network.layers) by_ += Sums<R>::size(sizes[0], sizes[1]);
            }
        end_ = by_;
        below_ = by_ + widest * kRows;
        turned_ = below_ + widest * kRows;
        room_ = turned_ + whole<R>(widest) * kRows - sums_;
    }
    int64_t room() const { return room_; }
    void clear() { std::memset(sums_, 0, size_t(by_ - sums_) * sizeof(R)); }
    void begin() { end_ = by_; } // the layers follow from the last to the first
    R *by_theta() { return by_; }

    // The next layer, whose gradients by its parameters are there. Returns those by what it sees, where asked for.
    const R *add(const Network<R> &network, R *kept, int64_t count, bool inputs_too) {
        R *by = by_, *below = below_;
        for (int64_t i = network.layers - 1; i >= 0; --i) {
            const int64_t inputs = network.sizes[i], outputs = network.sizes[i + 1];
            end_ -= Sums<R>::size(inputs, outputs);
            Sums<R>(end_, inputs, outputs).add(by, network.values(kept, i), count, turned_);
            if (!i && !inputs_too) break;
            const R *slopes = i ? network.slopes(kept, i) : nullptr;
            product<R>(inputs, count, outputs, {network.weights[2 * i], 1, inputs}, as_it_lies<R>(by, kRows),
                       {nullptr, 0}, [&](int64_t r, int64_t c, Vec<R> sum) {
                           const int64_t at = r * kRows + c;
                           store<R>(below + at, slopes ? sum * load<R>(slopes + at) : sum);
                       });
            std::swap(by, below);
        }
        return by;
    }
    void give(R *const *into) const {
        R *at = sums_;
        for (const Layer<R> &layer : layers_)
            for (int64_t i = 0; i < layer.network.layers; ++i, into += 2) {
                const int64_t *sizes = layer.network.sizes + i;
                Sums<R>(at, sizes[0], sizes[1]).give(into[0], into[1]);
                at += Sums<R>::size(sizes[0], sizes[1]);
            }
    }

  private:
    const std::vector<Layer<R>> &layers_;
    R *sums_, *by_, *end_, *below_, *turned_;
    int64_t room_;
};

// Back through all layers, from what `block` holds in the place of rows, condition and log-determinants: the gradients by
// them. `kept` is the end of what was kept of the block.
template <class R, class Function>
void back(const Run<R, Function> &run, const Block<R> &block, R *kept, Gradients<R> &gradients, bool rows_too) {
    gradients.begin();
    for (size_t i = run.layers.size(); i-- > 0;) {
        const Layer<R> &layer = run.layers[i];
        kept -= layer.size();
        const R *theta = layer.network.values(kept, layer.network.layers), *before = layer.before(kept);
        const int64_t each = layer.each();
        for (int64_t c = 0; c < layer.moves; ++c)
            for (int64_t r = 0; r < block.count; r += kLanes<R>) {
                R *at = block.state + layer.moved[c] * kRows + r;
                store<R>(at, run.function.back(int(run.inverse), load<R>(before + c * kRows + r),
                                               theta + c * each * kRows + r, {theta, 1, 0, kRows}, kLanes<R>,
                                               load<R>(at), load<R>(block.total + r),
                                               gradients.by_theta() + c * each * kRows + r));
            }
        const bool wanted = i || rows_too;
        const R *by_seen = gradients.add(layer.network, kept, block.count, wanted);
        if (!wanted) break;
        const R *slopes = layer.seen_slopes(kept);
        for (int64_t c = 0; c < layer.keeps + layer.conditions; ++c)
            for (int64_t r = 0; r < block.count; r += kLanes<R>) {
                const bool is_kept = c < layer.keeps;
                R *at = is_kept ? block.state + layer.kept[c] * kRows : block.condition + (c - layer.keeps) * kRows;
                Vec<R> found = load<R>(by_seen + c * kRows + r);
                if (is_kept) found /= load<R>(slopes + c * kRows + r);
                store<R>(at + r, load<R>(at + r) + found);
            }
    }
}

// What the gradients by value and log-determinant ask of rows, condition and weights. `room` is what `coupling` kept,
// `by_x.first` is null where rows and condition ask for nothing, `scratch` has room for `scratch_size` numbers.
template <class R, class Function>
int coupling_back(const Run<R, Function> &run, Grid<const R> by_value, Grid<const R> by_total, Grid<R> by_x,
                  Grid<R> by_condition, R *const *into, R *room, R *scratch, int64_t scratch_size) {
    if (!run.function.fits()) return 1;
    Gradients<R> gradients(run.layers, scratch);
    if (gradients.room() > scratch_size) return 2;
    gradients.clear();
    R *kept = room + carried(run);
    for (int64_t first = 0; first < run.rows; first += kRows) {
        Block<R> block = begin(run, first, room);
        for (int64_t c = 0; c < run.features; ++c)
            read<R>(by_value, first, block.count, c, block.state + run.order[c] * kRows);
        std::memset(block.condition, 0, size_t(run.conditions * kRows) * sizeof(R));
        if (by_total.first) read<R>(by_total, first, block.count, 0, block.total);
        kept += run.size();
        back(run, block, kept, gradients, by_x.first);
        if (!by_x.first) continue;
        for (int64_t c = 0; c < run.features; ++c) write<R>(by_x, first, block.count, c, block.state + c * kRows);
        for (int64_t c = 0; c < run.conditions && by_condition.first; ++c) {
            R *by = block.condition + c * kRows, *given = block.total; // which has served
            read<R>(run.condition, first, block.count, c, given);
            for (int64_t r = 0; r < block.count; r += kLanes<R>)
                store<R>(by + r, load<R>(by + r) / inverse_squash_slope<R>(load<R>(given + r), run.bulk));
            write<R>(by_condition, first, block.count, c, by);
        }
    }
    gradients.give(into);
    return 0;
}

// The mean of -log p under a standard normal, weighted by `share`, and its gradients, block by block there and back.
template <class R, class Function>
int likelihood(const Run<R, Function> &run, Grid<const R> share, Grid<R> by_x, R *const *into, double *loss, R *room,
               R *scratch, int64_t scratch_size) {
    if (!run.function.fits()) return 1;
    Gradients<R> gradients(run.layers, scratch);
    if (gradients.room() > scratch_size) return 2;
    gradients.clear();
    const R constant = R(0.9189385332046727 * double(run.features)); // log(2 pi)/2
    R *shares = room + (run.features + run.conditions + 1) * kRows;
    *loss = 0;
    for (int64_t first = 0; first < run.rows; first += kRows) {
        const Block<R> block = begin(run, first, room);
        R *kept = room + carried(run);
        for (const Layer<R> &layer : run.layers) {
            ahead(run, layer, block, kept, true);
            kept += layer.size();
        }
        read<R>(share, first, block.count, 0, shares);
        for (int64_t r = block.count; r < kRows; ++r) shares[r] = 0;
        Vec<R> losses = all<R>(0);
        for (int64_t r = 0; r < block.count; r += kLanes<R>) {
            const Vec<R> weight = load<R>(shares + r);
            Vec<R> squares = all<R>(0);
            for (int64_t c = 0; c < run.features; ++c) {
                const Vec<R> z = load<R>(block.state + c * kRows + r);
                squares += z * z;
                store<R>(block.state + c * kRows + r, z * weight);
            }
            losses += weight * (squares * R(0.5) + constant - load<R>(block.total + r));
            store<R>(block.total + r, -weight);
        }
        for (int lane = 0; lane < kLanes<R>; ++lane) {
            R each[kLanes<R>];
            store<R>(each, losses);
            *loss += each[lane];
        }
        back(run, block, kept, gradients, by_x.first);
        for (int64_t c = 0; c < run.features && by_x.first; ++c)
            write<R>(by_x, first, block.count, c, block.state + c * kRows);
    }
    gradients.give(into);
    return 0;
}

} // namespace

// Every call begins with what it is told of rows and layers.
#define ADVECT_TOLD(R, ...)                                                                                            \
    int64_t rows, __VA_ARGS__, int64_t inverse, int64_t features, int64_t conditions, const int64_t *order, double bulk,  \
        int64_t layers, const int64_t *shape, R *const *weights, const R *x, int64_t xr, int64_t xc,                   \
        const R *condition, int64_t cr, int64_t cc
#define ADVECT_RUN(R, Function, ...)                                                                                   \
    Run<R, Function>(rows, __VA_ARGS__, inverse, features, conditions, order, bulk, layers, shape, weights, {x, xr, xc},   \
                     {condition, cr, cc})
#define ADVECT_COUPLING(R, name, kind, constants, Function, function)                                                  \
    ADVECT_PUBLIC(advect_##kind##_coupling_##name)                                                                     \
    (ADVECT_TOLD(R, constants), R *out, int64_t yr, int64_t yc, R *total, R *room, int64_t keep) {                     \
        return coupling<R>(ADVECT_RUN(R, Function, function), Grid<R>{out, yr, yc}, total, room, keep);                \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_##kind##_coupling_back_##name)                                                                \
    (ADVECT_TOLD(R, constants), const R *by_value, int64_t vr, int64_t vc, const R *by_total, int64_t tr, int64_t tc,  \
     R *by_x, int64_t gr, int64_t gc, R *by_condition, int64_t hr, int64_t hc, R *const *into, R *room, R *scratch,    \
     int64_t scratch_size) {                                                                                           \
        return coupling_back<R>(ADVECT_RUN(R, Function, function), Grid<const R>{by_value, vr, vc},                    \
                                Grid<const R>{by_total, tr, tc}, Grid<R>{by_x, gr, gc},                                \
                                Grid<R>{by_condition, hr, hc}, into, room, scratch, scratch_size);                     \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_##kind##_likelihood_##name)                                                                   \
    (ADVECT_TOLD(R, constants), const R *share, int64_t sr, R *by_x, int64_t gr, int64_t gc, R *const *into,           \
     double *loss, R *room, R *scratch, int64_t scratch_size) {                                                        \
        return likelihood<R>(ADVECT_RUN(R, Function, function), Grid<const R>{share, sr, 0}, Grid<R>{by_x, gr, gc},    \
                             into, loss, room, scratch, scratch_size);                                                 \
    }
#define ADVECT_BINS int64_t bins, double low, double high, double minimum
#define ADVECT_SPLINE(R) Spline<R>{{int(bins), R(low), R(high), R(minimum)}}

ADVECT_COUPLING(float, float, spline, ADVECT_BINS, Spline<float>, ADVECT_SPLINE(float))
ADVECT_COUPLING(double, double, spline, ADVECT_BINS, Spline<double>, ADVECT_SPLINE(double))
ADVECT_COUPLING(float, float, affine, double bound, Affine<float>, Affine<float>{float(bound)})
ADVECT_COUPLING(double, double, affine, double bound, Affine<double>, Affine<double>{double(bound)})
