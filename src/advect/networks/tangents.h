// Tangents of all coordinates of a row, of which several share the slopes of that row.

#pragma once

#include "../vectors.h"

namespace {

// Results times the slopes of their row, of which several results may share one.
template <class R> struct Scaled {
    R *first;
    int64_t row;
    const R *slopes;
    const int32_t *owner;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        store<R>(first + r * row + c, value * load<R>(slopes + owner[r] * row + c));
    }
};
// The same, and summed with the last layer's weights: a row's trace, lane by lane.
template <class R> struct Traced {
    R *sums;
    int64_t row;
    const R *slopes;
    const int32_t *owner;
    const R *last;
    int64_t features;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        const int64_t of = owner[r];
        const Vec<R> slope = load<R>(slopes + of * row + c), weight = load<R>(last + (r - of * features) * row + c);
        store<R>(sums + of * kLanes<R>, load<R>(sums + of * kLanes<R>) + value * slope * weight);
    }
};

} // namespace
