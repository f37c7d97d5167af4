// The elementwise parts of coupling and autoregressive layers in one pass over memory each: rational-quadratic splines,
// shift and scale, and what stands between the matrix products of a conditioner. Values and gradients, in float32 and
// float64.
//
// Numbers come as rows x columns with any strides. A vector holds the same column of neighbouring rows, so parameters
// that lie rows last are read as they are; others are gathered. A log-slope whose column stride is 0 is the sum over
// the columns. The formulas are those of spline.py, scale.py and layers.py, their gradients are written out here; the
// softmax, the knots and the bin of a point are computed again on the way back, which takes less than keeping them.
//
// NaN in gives NaN out. The file is compiled once for each instruction set, with ADVECT_SET naming the functions. There
// is no state between calls and no call into Python.

#include <cstdint>

#include "../vectors.h"

namespace {

constexpr int kMostBins = 64;
constexpr double kLogLeastDerivative = -6.907755278982137; // log 1e-3, as MIN_DERIVATIVE of spline.py

// Numbers in rows x columns.
template <class R> struct Grid {
    R *first;
    int64_t row, column;
    R *at(int64_t r, int64_t c) const { return first + r * row + c * column; }
};
// The parameters of every number of a grid.
template <class R> struct Parameters {
    R *first;
    int64_t row, column, each;
    R *at(int64_t r, int64_t c) const { return first + r * row + c * column; }
};

// Calls work(row, column, count) for all vectors.
template <class R, class Work> inline void everywhere(int64_t rows, int64_t columns, Work work) {
    for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; r += kLanes<R>)
            work(r, c, int(rows - r < kLanes<R> ? rows - r : kLanes<R>));
}

// The log-slope of a number, or added to that of its row.
template <class R> inline void put_slope(const Grid<R> &slope, int64_t r, int64_t c, int count, Vec<R> value) {
    if (!slope.first) return;
    R *to = slope.at(r, c);
    if (!slope.column && c) value += take<R>(to, slope.row, count);
    put<R>(to, slope.row, count, value);
}

template <class R> struct Box {
    int bins;
    R low, high, minimum;
};

// The bin of each point and where it lies in it; as _Bin of spline.py.
template <class R> struct Bin {
    Vec<R> x, y, width, height, left, right;
    Vec<R> raw_left, raw_right;
    Int<R> index;
};

template <class R> inline Vec<R> derivative_of(Vec<R> raw) {
    return exp_of<R>(raw / (1 - size_of<R>(raw) / R(kLogLeastDerivative)));
}

// Shares of the bins by a softmax.
template <class R> inline void shares_of(const R *from, int64_t row, int64_t each, int bins, int count, Vec<R> *share) {
    Vec<R> most = share[0] = take<R>(from, row, count);
    for (int k = 1; k < bins; ++k) {
        share[k] = take<R>(from + k * each, row, count);
        most = share[k] > most ? share[k] : most;
    }
    Vec<R> total = all<R>(0);
    for (int k = 0; k < bins; ++k) total += share[k] = exp_of<R>(share[k] - most);
    for (int k = 0; k < bins; ++k) share[k] /= total;
}

template <class R>
inline Bin<R> bin_of(const Box<R> &box, const R *theta, const Parameters<const R> &of, int count, Vec<R> point, int axis,
                     Vec<R> *wide, Vec<R> *high) {
    const int bins = box.bins;
    const R span = box.high - box.low, free = span * (1 - bins * box.minimum), least = span * box.minimum;
    shares_of<R>(theta, of.row, of.each, bins, count, wide);
    shares_of<R>(theta + bins * of.each, of.row, of.each, bins, count, high);
    const R *inner = theta + 2 * bins * of.each;
    Bin<R> bin{};
    Vec<R> x = all<R>(box.low), y = x, raw = all<R>(0), sum_x = all<R>(0), sum_y = sum_x;
    for (int k = 0; k < bins; ++k) {
        // The bin that begins at this knot, kept where the point is not below it.
        Vec<R> next_x = all<R>(box.high), next_y = next_x, next_raw = all<R>(0);
        if (k + 1 < bins) {
            const R lattice = box.low + (k + 1) * least;
            sum_x += wide[k];
            sum_y += high[k];
            next_x = lattice + free * sum_x;
            next_y = lattice + free * sum_y;
            next_raw = take<R>(inner + k * of.each, of.row, count);
        }
        auto here = k == 0 ? (point == point) | (point != point) : (axis ? y : x) <= point;
        bin.x = here ? x : bin.x;
        bin.y = here ? y : bin.y;
        bin.width = here ? next_x - x : bin.width;
        bin.height = here ? next_y - y : bin.height;
        bin.raw_left = here ? raw : bin.raw_left;
        bin.raw_right = here ? next_raw : bin.raw_right;
        bin.index = here ? Int<R>{} + k : bin.index;
        x = next_x;
        y = next_y;
        raw = next_raw;
    }
    bin.left = derivative_of<R>(bin.raw_left);
    bin.right = derivative_of<R>(bin.raw_right);
    return bin;
}

// (y - y_k)/h and log dy/dx at a fraction of the bin, and what its gradient needs again.
template <class R> struct Inside {
    Vec<R> xi, rest, theta, slope, bend, denominator, part, numerator;
    Inside(const Bin<R> &bin, Vec<R> at) : xi(at), rest(1 - at), theta(at * rest), slope(bin.height / bin.width) {
        bend = bin.left + bin.right - 2 * slope;
        denominator = slope + bend * theta;
        part = (slope * xi * xi + bin.left * theta) / denominator;
        numerator = bin.right * xi * xi + 2 * slope * theta + bin.left * rest * rest;
    }
    Vec<R> log_slope() const { return 2 * log_of<R>(slope / denominator) + log_of<R>(numerator); }
    Vec<R> steepness() const { return slope * slope * numerator / (denominator * denominator); }
};

template <class R> inline Vec<R> find(const Bin<R> &bin, Vec<R> fraction) {
    Vec<R> slope = bin.height / bin.width;
    Vec<R> b = bin.left - fraction * (bin.left + bin.right - 2 * slope);
    Vec<R> a = slope - b, c = slope * fraction;
    Vec<R> inner = b * b + 4 * a * c;
    const R tiny = sizeof(R) == 4 ? R(1.17549435e-38) : R(2.2250738585072014e-308);
    inner = inner < tiny ? all<R>(tiny) : inner;
    Vec<R> q = (size_of<R>(b) + root(inner)) / 2;
    Vec<R> xi = (b < 0 ? q : c) / (b < 0 ? a : q);
    xi = xi < 0 ? all<R>(0) : xi;
    return xi > 1 ? all<R>(1) : xi;
}

// What a change of y and of log dy/dx asks of the point and of the bin's numbers.
template <class R> struct Pull {
    Vec<R> point, x, y, width, height, left, right;
    Pull(const Bin<R> &bin, const Inside<R> &in, Vec<R> value, Vec<R> log_slope) {
        Vec<R> of_part = value * bin.height;
        Vec<R> top = of_part / in.denominator;
        Vec<R> bottom = -(of_part * in.part + 2 * log_slope) / in.denominator;
        Vec<R> numerator = log_slope / in.numerator;
        Vec<R> square = in.xi * in.xi;
        Vec<R> slope = 2 * log_slope / in.slope + top * square + bottom * (1 - 2 * in.theta) + numerator * 2 * in.theta;
        left = (top + bottom) * in.theta + numerator * in.rest * in.rest;
        right = bottom * in.theta + numerator * square;
        Vec<R> theta = top * bin.left + bottom * in.bend + numerator * 2 * in.slope;
        Vec<R> xi = top * 2 * in.slope * in.xi + theta * (1 - 2 * in.xi) +
                    numerator * 2 * (bin.right * in.xi - bin.left * in.rest);
        point = xi / bin.width;
        x = -point;
        y = value;
        width = -(xi * in.xi + slope * in.slope) / bin.width;
        height = value * in.part + slope / bin.width;
    }
};

template <class R> inline Vec<R> clip(const Box<R> &box, Vec<R> x) {
    x = x < box.low ? all<R>(box.low) : x;
    return x > box.high ? all<R>(box.high) : x;
}

template <class R>
int spline(int64_t rows, int64_t columns, Box<R> box, int inverse, Grid<const R> x, Parameters<const R> theta, Grid<R> y,
           Grid<R> slope) {
    if (box.bins > kMostBins) return 1;
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> wide[kMostBins], high[kMostBins];
        Vec<R> given = take<R>(x.at(r, c), x.row, count), point = clip(box, given);
        Bin<R> bin = bin_of<R>(box, theta.at(r, c), theta, count, point, inverse, wide, high);
        Vec<R> value, log_slope;
        if (inverse) {
            Vec<R> xi = find(bin, (point - bin.y) / bin.height);
            value = bin.x + bin.width * xi;
            log_slope = -Inside<R>(bin, xi).log_slope();
        } else {
            Inside<R> in(bin, (point - bin.x) / bin.width);
            value = bin.y + bin.height * in.part;
            log_slope = in.log_slope();
        }
        put<R>(y.at(r, c), y.row, count, point == given ? value : given);
        put_slope<R>(slope, r, c, count, point == given ? log_slope : all<R>(0));
    });
    return 0;
}

// The gradient of raw numbers from that of the lower knot of the point's bin, and of the bin's size.
template <class R>
inline void pull_shares(const Box<R> &box, const Vec<R> *share, Int<R> index, Vec<R> lower, Vec<R> size, R *to,
                        const Parameters<R> &of, int count) {
    const R free = (box.high - box.low) * (1 - box.bins * box.minimum);
    // The last knot is the end of the box: what its bin gains, the lower knot loses.
    auto last = index == box.bins - 1;
    lower = (last ? lower - size : lower) * free;
    size = (last ? all<R>(0) : size) * free;
    Vec<R> mean = all<R>(0);
    for (int k = 0; k < box.bins; ++k) {
        Vec<R> asked = k < index ? lower : (index == k ? size : all<R>(0));
        mean += share[k] * asked;
    }
    for (int k = 0; k < box.bins; ++k) {
        Vec<R> asked = k < index ? lower : (index == k ? size : all<R>(0));
        put<R>(to + k * of.each, of.row, count, share[k] * (asked - mean));
    }
}

template <class R>
int spline_back(int64_t rows, int64_t columns, Box<R> box, int inverse, Grid<const R> x, Parameters<const R> theta,
                Grid<const R> by_y, Grid<const R> by_slope, Grid<R> by_x, Parameters<R> by_theta) {
    if (box.bins > kMostBins) return 1;
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> wide[kMostBins], high[kMostBins];
        Vec<R> given = take<R>(x.at(r, c), x.row, count), point = clip(box, given);
        Vec<R> value = take<R>(by_y.at(r, c), by_y.row, count), passed = value;
        Vec<R> log_slope = by_slope.first ? take<R>(by_slope.at(r, c), by_slope.row, count) : all<R>(0);
        value = point == given ? value : all<R>(0);
        log_slope = point == given ? log_slope : all<R>(0);
        Bin<R> bin = bin_of<R>(box, theta.at(r, c), theta, count, point, inverse, wide, high);
        Vec<R> xi = inverse ? find(bin, (point - bin.y) / bin.height) : (point - bin.x) / bin.width;
        Inside<R> in(bin, xi);
        Vec<R> by_point;
        if (inverse) { // dx = (dy - what the parameters move y by) / slope
            Vec<R> bending = Pull<R>(bin, in, all<R>(0), all<R>(1)).point;
            by_point = (value - log_slope * bending) / in.steepness();
            value = -by_point;
            log_slope = -log_slope;
        }
        Pull<R> pull(bin, in, value, log_slope);
        if (!inverse) by_point = pull.point;
        put<R>(by_x.at(r, c), by_x.row, count, point == given ? by_point : passed);
        R *to = by_theta.at(r, c);
        pull_shares<R>(box, wide, bin.index, pull.x, pull.width, to, by_theta, count);
        pull_shares<R>(box, high, bin.index, pull.y, pull.height, to + box.bins * by_theta.each, by_theta, count);
        to += 2 * box.bins * by_theta.each;
        Vec<R> bent_left = 1 - size_of<R>(bin.raw_left) / R(kLogLeastDerivative);
        Vec<R> bent_right = 1 - size_of<R>(bin.raw_right) / R(kLogLeastDerivative);
        Vec<R> left = pull.left * bin.left / (bent_left * bent_left);
        Vec<R> right = pull.right * bin.right / (bent_right * bent_right);
        for (int k = 1; k < box.bins; ++k) { // an inner knot ends one bin and begins the next
            Vec<R> asked = bin.index == k ? left : (bin.index == k - 1 ? right : all<R>(0));
            put<R>(to + (k - 1) * by_theta.each, by_theta.row, count, asked);
        }
    });
    return 0;
}

template <class R> inline Vec<R> log_scale_of(Vec<R> raw, R bound) {
    return (sigmoid_of<R>(raw * (2 / bound)) - R(0.5)) * (2 * bound);
}

template <class R>
int affine(int64_t rows, int64_t columns, R bound, int inverse, Grid<const R> x, Parameters<const R> theta, Grid<R> y,
           Grid<R> slope) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        const R *raw = theta.at(r, c);
        Vec<R> given = take<R>(x.at(r, c), x.row, count);
        Vec<R> log_scale = log_scale_of<R>(take<R>(raw, theta.row, count), bound);
        Vec<R> shift = take<R>(raw + theta.each, theta.row, count);
        if (inverse) {
            log_scale = -log_scale;
            put<R>(y.at(r, c), y.row, count, (given - shift) * exp_of<R>(log_scale));
        } else {
            put<R>(y.at(r, c), y.row, count, shift + given * exp_of<R>(log_scale));
        }
        put_slope<R>(slope, r, c, count, log_scale);
    });
    return 0;
}

template <class R>
int affine_back(int64_t rows, int64_t columns, R bound, int inverse, Grid<const R> x, Parameters<const R> theta,
                Grid<const R> by_y, Grid<const R> by_slope, Grid<R> by_x, Parameters<R> by_theta) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        const R *raw = theta.at(r, c);
        Vec<R> given = take<R>(x.at(r, c), x.row, count);
        Vec<R> value = take<R>(by_y.at(r, c), by_y.row, count);
        Vec<R> log_slope = by_slope.first ? take<R>(by_slope.at(r, c), by_slope.row, count) : all<R>(0);
        Vec<R> log_scale = log_scale_of<R>(take<R>(raw, theta.row, count), bound);
        Vec<R> by_point, by_scale, by_shift;
        if (inverse) {
            Vec<R> shift = take<R>(raw + theta.each, theta.row, count);
            by_point = value * exp_of<R>(-log_scale);
            by_shift = -by_point;
            by_scale = -by_point * (given - shift) - log_slope;
        } else {
            by_point = value * exp_of<R>(log_scale);
            by_shift = value;
            by_scale = by_point * given + log_slope;
        }
        Vec<R> share = log_scale / bound;
        R *to = by_theta.at(r, c);
        put<R>(by_x.at(r, c), by_x.row, count, by_point);
        put<R>(to, by_theta.row, count, by_scale * (1 - share * share));
        put<R>(to + by_theta.each, by_theta.row, count, by_shift);
    });
    return 0;
}

// C asinh(x/C) by log(1 + t), t = a + a^2/(1 + sqrt(1 + a^2)) for a = |x|/C, with the rounding of 1 + t put right.
template <class R> int squash(int64_t rows, int64_t columns, R bulk, Grid<const R> x, Grid<R> out) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> given = take<R>(x.at(r, c), x.row, count) / bulk, size = size_of<R>(given);
        Vec<R> near = size > R(1e8) ? all<R>(R(1e8)) : size, square = near * near;
        Vec<R> more = near + square / (1 + root(1 + square)), whole = 1 + more;
        Vec<R> value = log_of<R>(whole) + (more - (whole - 1)) / whole;
        Vec<R> far = log_of<R>(size > R(1e8) ? size : all<R>(1)) + R(0.6931471805599453);
        value = size > R(1e8) ? far : value;
        put<R>(out.at(r, c), out.row, count, bulk * (given < 0 ? -value : value) + (given - given));
    });
    return 0;
}

// base + by_out / sqrt(1 + (x/C)^2); no base is zeros.
template <class R>
int squash_back(int64_t rows, int64_t columns, R bulk, Grid<const R> x, Grid<const R> by_out, Grid<const R> base,
                Grid<R> by_x) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> given = take<R>(x.at(r, c), x.row, count) / bulk;
        Vec<R> value = take<R>(by_out.at(r, c), by_out.row, count) / root(1 + given * given);
        if (base.first) value += take<R>(base.at(r, c), base.row, count);
        put<R>(by_x.at(r, c), by_x.row, count, value);
    });
    return 0;
}

// a sigmoid(a), and where asked for its derivative, which may lie where a did.
template <class R> int silu(int64_t numbers, const R *a, R *value, R *derivative) {
    for (int64_t i = 0; i < numbers; i += kLanes<R>) {
        int count = int(numbers - i < kLanes<R> ? numbers - i : kLanes<R>);
        Vec<R> given = take<R>(a + i, 1, count), share = sigmoid_of<R>(given), product = given * share;
        put<R>(value + i, 1, count, product);
        if (derivative) put<R>(derivative + i, 1, count, share + product * (1 - share));
    }
    return 0;
}

} // namespace

#define ADVECT_LAYERS(R, name)                                                                                         \
    ADVECT_PUBLIC(advect_spline_##name)                                                                                \
    (int64_t rows, int64_t columns, int64_t bins, double low, double high, double minimum, int64_t inverse,            \
     const R *x, int64_t xr, int64_t xc, const R *theta, int64_t tr, int64_t tc, int64_t te, R *y, int64_t yr,         \
     int64_t yc, R *slope, int64_t sr, int64_t sc) {                                                                   \
        return spline<R>(rows, columns, {int(bins), R(low), R(high), R(minimum)}, int(inverse), {x, xr, xc},           \
                         {theta, tr, tc, te}, {y, yr, yc}, {slope, sr, sc});                                           \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_spline_back_##name)                                                                           \
    (int64_t rows, int64_t columns, int64_t bins, double low, double high, double minimum, int64_t inverse,            \
     const R *x, int64_t xr, int64_t xc, const R *theta, int64_t tr, int64_t tc, int64_t te, const R *by_y,            \
     int64_t yr, int64_t yc, const R *by_slope, int64_t sr, int64_t sc, R *by_x, int64_t gr, int64_t gc,               \
     R *by_theta) {                                                                                                    \
        return spline_back<R>(rows, columns, {int(bins), R(low), R(high), R(minimum)}, int(inverse), {x, xr, xc},      \
                              {theta, tr, tc, te}, {by_y, yr, yc}, {by_slope, sr, sc}, {by_x, gr, gc},                 \
                              {by_theta, tr, tc, te});                                                                 \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_affine_##name)                                                                                \
    (int64_t rows, int64_t columns, double bound, int64_t inverse, const R *x, int64_t xr, int64_t xc,                 \
     const R *theta, int64_t tr, int64_t tc, int64_t te, R *y, int64_t yr, int64_t yc, R *slope, int64_t sr,           \
     int64_t sc) {                                                                                                     \
        return affine<R>(rows, columns, R(bound), int(inverse), {x, xr, xc}, {theta, tr, tc, te}, {y, yr, yc},         \
                         {slope, sr, sc});                                                                             \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_affine_back_##name)                                                                           \
    (int64_t rows, int64_t columns, double bound, int64_t inverse, const R *x, int64_t xr, int64_t xc,                 \
     const R *theta, int64_t tr, int64_t tc, int64_t te, const R *by_y, int64_t yr, int64_t yc, const R *by_slope,     \
     int64_t sr, int64_t sc, R *by_x, int64_t gr, int64_t gc, R *by_theta) {                                           \
        return affine_back<R>(rows, columns, R(bound), int(inverse), {x, xr, xc}, {theta, tr, tc, te}, {by_y, yr, yc}, \
                              {by_slope, sr, sc}, {by_x, gr, gc}, {by_theta, tr, tc, te});                             \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_squash_##name)                                                                                \
    (int64_t rows, int64_t columns, double bulk, const R *x, int64_t xr, int64_t xc, R *out, int64_t yr, int64_t yc) { \
        return squash<R>(rows, columns, R(bulk), {x, xr, xc}, {out, yr, yc});                                          \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_squash_back_##name)                                                                           \
    (int64_t rows, int64_t columns, double bulk, const R *x, int64_t xr, int64_t xc, const R *by_out, int64_t yr,      \
     int64_t yc, const R *base, int64_t br, int64_t bc, R *by_x, int64_t gr, int64_t gc) {                             \
        return squash_back<R>(rows, columns, R(bulk), {x, xr, xc}, {by_out, yr, yc}, {base, br, bc}, {by_x, gr, gc});  \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_silu_##name)(int64_t numbers, const R *a, R *value, R *derivative) {                          \
        return silu<R>(numbers, a, value, derivative);                                                                 \
    }

ADVECT_LAYERS(float, float)
ADVECT_LAYERS(double, double)
