// What the compiled perceptrons share: the sizes of a network, the memory they are brought, what they are asked, and the
// squared error at the end.

#pragma once

#include <algorithm>

#include "../vectors.h"

namespace {

enum Activation { kSelu, kElu, kSilu, kTanh };

struct Shape {
    int64_t layers, activation, features, times, conditions;
    const int64_t *widths;
    explicit Shape(const int64_t *shape)
        : layers(shape[0]), activation(shape[1]), features(shape[2]), times(shape[3]), conditions(shape[4]),
          widths(shape + 5) {}
    int64_t in(int64_t layer) const { return widths[layer]; }
    int64_t out(int64_t layer) const { return widths[layer + 1]; }
    int64_t last() const { return layers - 1; }
    int64_t widest() const { return *std::max_element(widths, widths + layers + 1); }
    int64_t weights() const {
        int64_t sum = 0;
        for (int64_t l = 0; l < layers; ++l) sum += in(l) * out(l);
        return sum;
    }
};

// Parts of the memory that was brought, in lines of the cache; without memory only its size.
template <class R> struct Room {
    R *first;
    int64_t used = 0;
    R *take(int64_t numbers) {
        R *part = first ? first + used : nullptr;
        const int64_t line = 64 / sizeof(R);
        used += (numbers + line - 1) / line * line;
        return part;
    }
};

template <class R> struct Part {
    const R *first;
    int64_t row;
};
// What the rows are made of.
template <class R> struct Input {
    Part<R> x, time, condition;
};

// SiLU and its slope.
template <class R> inline void silu(Vec<R> a, Vec<R> &value, Vec<R> &slope) {
    const Vec<R> share = sigmoid_of<R>(a);
    value = a * share;
    slope = share + value * (1 - share);
}

// Value and slope of an activation.
template <class R, int Kind> inline void activated(Vec<R> a, Vec<R> &value, Vec<R> &slope) {
    if (Kind == kSelu || Kind == kElu) {
        const R alpha = Kind == kSelu ? R(1.6732632423543772 * 1.0507009873554805) : R(1);
        const R scale = Kind == kSelu ? R(1.0507009873554805) : R(1);
        const Vec<R> below = alpha * expm1_of<R>(a > 0 ? all<R>(0) : a);
        value = a > 0 ? scale * a : below;
        slope = a > 0 ? all<R>(scale) : below + alpha;
    } else if (Kind == kSilu) {
        silu<R>(a, value, slope);
    } else {
        const Vec<R> grown = expm1_of<R>(a * 2);
        value = grown / (grown + 2);
        slope = 1 - value * value;
    }
}

// Results that go out: only the columns there are.
template <class R> struct Clipped {
    R *first;
    int64_t row, columns;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        put<R>(first + r * row + c, 1, int(std::min<int64_t>(kLanes<R>, columns - c)), value);
    }
};
// The last layer's sums by products of bfloat16 numbers, which give no bias of their own.
struct Said {
    Clipped<float> out;
    const float *bias;
    template <class V> void operator()(int64_t r, int64_t c, V value) const {
        if (c < out.columns) out(r, c, (Vec<float>)value + load<float>(bias + c));
    }
};
// The gradients of a loss whose gradient by the output is given, or of the mean squared error beside a
// target, weighted by rows where there are weights.
template <class R> struct Back {
    const R *by_output, *target, *weight;
    R *const *gradients;
    double *loss;
};

template <class R>
void error_of(int64_t d, const Back<R> &back, int64_t rows, int64_t start, int64_t count, R *said) {
    const int64_t width = whole<R>(d);
    const R share = R(1) / R(std::max<int64_t>(1, rows * d));
    for (int64_t r = 0; r < count; ++r) {
        const R of_row = back.weight ? back.weight[start + r] * share : share;
        double squares = 0;
        for (int64_t c = 0; c < d; ++c) {
            const R error = said[r * width + c] - back.target[(start + r) * d + c];
            squares += double(error) * double(error);
            said[r * width + c] = 2 * of_row * error;
        }
        *back.loss += squares * double(of_row);
    }
}

} // namespace
