// Gradients of linear layers, summed over blocks of rows.

#pragma once

#include "../products.h"
#include "perceptron.h"

namespace {

// The gradients of a layer while they are summed, rows in whole vectors: where they go at last, if those are too.
template <class R> struct Gradient {
    R *by_weight, *by_bias;
    int64_t row;
    void hand_over(int64_t out, int64_t in, R *const *to) const {
        for (int64_t r = 0; by_weight != to[0] && r < out; ++r)
            std::copy(by_weight + r * row, by_weight + r * row + in, to[0] + r * in);
        if (to[1]) std::copy(by_bias, by_bias + out, to[1]);
    }
};
template <class R> Gradient<R> gradient_of(int64_t in, int64_t out, R *to, Room<R> &room) {
    R *by_bias = room.take(whole<R>(out));
    if (whole<R>(in) == in) return {to, by_bias, in};
    return {room.take(out * whole<R>(in)), by_bias, whole<R>(in)};
}

// The sum over rows of what is given (rows x out) by what came in (rows x in, in whole vectors), onto what is there.
template <class R>
void add_weight(const Gradient<R> &sum, int64_t out, int64_t in, int64_t rows, Part<R> given, const R *came, R *panels,
                bool first) {
    const int64_t width = whole<R>(in);
    const bool narrow = in <= kPanel<R>; // it is a panel as it lies
    if (!narrow) pack<R>(came, rows, width, panels);
    product<R>(out, in, rows, {given.first, 1, given.row}, narrow ? as_it_lies<R>(came, width) : packed<R>(panels, rows),
               {first ? nullptr : sum.by_weight, sum.row}, Stored<R>{sum.by_weight, sum.row});
}
template <class R> void add_columns(int64_t rows, Part<R> from, int64_t width, R *to, bool first) {
    for (int64_t c = 0; c < width; c += kLanes<R>) {
        Vec<R> sum = first ? Vec<R>{} : load<R>(to + c);
        for (int64_t r = 0; r < rows; ++r) sum += load<R>(from.first + r * from.row + c);
        store<R>(to + c, sum);
    }
}

} // namespace
