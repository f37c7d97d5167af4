// The functions of coupling and autoregressive layers on a vector of points: rational-quadratic splines, shift and scale,
// and what stands between the products of a conditioner. Values, inverses and gradients; the formulas are those of
// spline.py, scale.py and layers.py, their gradients are written out here. The softmax, the knots and the bin of a point
// are computed again on the way back, which takes less than keeping them. NaN in gives NaN out.

#pragma once

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

// 1/x for x from 1 to where it is no longer a normal number. A division of 16 floats takes as long as sixteen products:
// there it is a first guess and one step of Newton's, right to the last bit or the one before.
inline Doubles inverse_of(Doubles x) { return 1 / x; }
inline Floats inverse_of(Floats x) {
#if defined(__GNUC__) && defined(__AVX512F__)
    const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
    return guess + guess * (1 - x * guess);
#else
    return 1 / x;
#endif
}
template <class R> inline Vec<R> smooth_step(Vec<R> x) { return inverse_of(1 + exp_of<R>(-x)); } // the sigmoid

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

// The gradient of raw numbers from that of the lower knot of the point's bin, and of the bin's size.
template <class R>
inline void pull_shares(const Box<R> &box, const Vec<R> *share, Int<R> index, Vec<R> lower, Vec<R> size, R *to,
                        const Parameters<const R> &of, int count) {
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

// A spline inside its box, the identity outside. Parameters begin at `theta`; their strides are those of `of`.
template <class R> struct Spline {
    Box<R> box;
    bool fits() const { return box.bins <= kMostBins; }

    void move(int inverse, Vec<R> given, const R *theta, const Parameters<const R> &of, int count, Vec<R> &value,
              Vec<R> &log_slope) const {
        Vec<R> wide[kMostBins], high[kMostBins];
        const Vec<R> point = clip(box, given);
        Bin<R> bin = bin_of<R>(box, theta, of, count, point, inverse, wide, high);
        if (inverse) {
            Vec<R> xi = find(bin, (point - bin.y) / bin.height);
            value = bin.x + bin.width * xi;
            log_slope = -Inside<R>(bin, xi).log_slope();
        } else {
            Inside<R> in(bin, (point - bin.x) / bin.width);
            value = bin.y + bin.height * in.part;
            log_slope = in.log_slope();
        }
        value = point == given ? value : given;
        log_slope = point == given ? log_slope : all<R>(0);
    }

    // What the gradients by value and log-slope ask of the point, and of its parameters, which lie as `of` does.
    Vec<R> back(int inverse, Vec<R> given, const R *theta, const Parameters<const R> &of, int count, Vec<R> value,
                Vec<R> log_slope, R *to) const {
        Vec<R> wide[kMostBins], high[kMostBins];
        const Vec<R> point = clip(box, given), passed = value;
        value = point == given ? value : all<R>(0);
        log_slope = point == given ? log_slope : all<R>(0);
        Bin<R> bin = bin_of<R>(box, theta, of, count, point, inverse, wide, high);
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
        pull_shares<R>(box, wide, bin.index, pull.x, pull.width, to, of, count);
        pull_shares<R>(box, high, bin.index, pull.y, pull.height, to + box.bins * of.each, of, count);
        to += 2 * box.bins * of.each;
        Vec<R> bent_left = 1 - size_of<R>(bin.raw_left) / R(kLogLeastDerivative);
        Vec<R> bent_right = 1 - size_of<R>(bin.raw_right) / R(kLogLeastDerivative);
        Vec<R> left = pull.left * bin.left / (bent_left * bent_left);
        Vec<R> right = pull.right * bin.right / (bent_right * bent_right);
        for (int k = 1; k < box.bins; ++k) { // an inner knot ends one bin and begins the next
            Vec<R> asked = bin.index == k ? left : (bin.index == k - 1 ? right : all<R>(0));
            put<R>(to + (k - 1) * of.each, of.row, count, asked);
        }
        return point == given ? by_point : passed;
    }
};

// x exp(s) + b, s = B tanh(r/B).
template <class R> struct Affine {
    R bound;
    bool fits() const { return true; }

    void move(int inverse, Vec<R> given, const R *theta, const Parameters<const R> &of, int count, Vec<R> &value,
              Vec<R> &log_slope) const {
        log_slope = log_scale(take<R>(theta, of.row, count));
        const Vec<R> shift = take<R>(theta + of.each, of.row, count);
        if (inverse) log_slope = -log_slope;
        const Vec<R> scale = exp_of<R>(log_slope);
        value = inverse ? (given - shift) * scale : shift + given * scale;
    }

    Vec<R> back(int inverse, Vec<R> given, const R *theta, const Parameters<const R> &of, int count, Vec<R> value,
                Vec<R> log_slope, R *to) const {
        const Vec<R> s = log_scale(take<R>(theta, of.row, count));
        Vec<R> by_point, by_scale, by_shift;
        if (inverse) {
            const Vec<R> shift = take<R>(theta + of.each, of.row, count);
            by_point = value * exp_of<R>(-s);
            by_shift = -by_point;
            by_scale = -by_point * (given - shift) - log_slope;
        } else {
            by_point = value * exp_of<R>(s);
            by_shift = value;
            by_scale = by_point * given + log_slope;
        }
        const Vec<R> share = s / bound;
        put<R>(to, of.row, count, by_scale * (1 - share * share));
        put<R>(to + of.each, of.row, count, by_shift);
        return by_point;
    }

  private:
    Vec<R> log_scale(Vec<R> raw) const { return (smooth_step<R>(raw * (2 / bound)) - R(0.5)) * (2 * bound); }
};

// C asinh(x/C) by log(1 + t), t = a + a^2/(1 + sqrt(1 + a^2)) for a = |x|/C, with the rounding of 1 + t put right.
template <class R> inline Vec<R> squash_of(Vec<R> x, R bulk) {
    Vec<R> given = x * (1 / bulk), size = size_of<R>(given);
    Vec<R> near = size > R(1e8) ? all<R>(R(1e8)) : size, square = near * near;
    Vec<R> more = near + square * inverse_of(1 + root(1 + square)), whole = 1 + more;
    Vec<R> value = log_of<R>(whole) + (more - (whole - 1)) * inverse_of(whole);
    Vec<R> far = log_of<R>(size > R(1e8) ? size : all<R>(1)) + R(0.6931471805599453);
    value = size > R(1e8) ? far : value;
    return bulk * (given < 0 ? -value : value) + (given - given);
}
// sqrt(1 + (x/C)^2).
template <class R> inline Vec<R> inverse_squash_slope(Vec<R> x, R bulk) {
    Vec<R> given = x * (1 / bulk);
    return root(1 + given * given);
}

// a sigmoid(a) and its derivative.
template <class R> struct Smooth {
    Vec<R> share, value;
    explicit Smooth(Vec<R> a) : share(smooth_step<R>(a)), value(a * share) {}
    Vec<R> slope() const { return share + value * (1 - share); }
};

} // namespace
