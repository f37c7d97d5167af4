// Matrices turned, by squares of shuffled vectors: a quarter of the time of plain loops.

#pragma once

#include <utility>

#include "vectors.h"

namespace {

#if defined(__GNUC__) && (defined(__clang__) || __GNUC__ >= 12)
template <int Half, class V, size_t... I> inline V interleaved(V a, V b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (int(I / 2 + Half * sizeof...(I) / 2 + (I % 2) * sizeof...(I)))...);
}
// A square of as many vectors as a vector has numbers, `step` apart, and `stride` afterwards.
template <class R> inline void turn_square(const R *from, int64_t step, R *to, int64_t stride) {
    constexpr int lanes = kLanes<R>;
    Vec<R> given[lanes], next[lanes];
    for (int i = 0; i < lanes; ++i) given[i] = load<R>(from + i * step);
    for (int done = 1; done < lanes; done *= 2) {
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = interleaved<0>(given[i], given[i + lanes / 2], std::make_index_sequence<lanes>());
            next[2 * i + 1] = interleaved<1>(given[i], given[i + lanes / 2], std::make_index_sequence<lanes>());
        }
        for (int i = 0; i < lanes; ++i) given[i] = next[i];
    }
    for (int i = 0; i < lanes; ++i) store<R>(to + i * stride, given[i]);
}
#else
template <class R> inline void turn_square(const R *from, int64_t step, R *to, int64_t stride) {
    for (int i = 0; i < kLanes<R>; ++i)
        for (int r = 0; r < kLanes<R>; ++r) to[r * stride + i] = from[i * step + r];
}
#endif

// rows x columns, `step` apart, as columns x rows, `stride` apart.
template <class R> inline void turn(const R *from, int64_t step, int64_t rows, int64_t columns, R *to, int64_t stride) {
    constexpr int64_t lanes = kLanes<R>;
    const int64_t high = rows / lanes * lanes, wide = columns / lanes * lanes;
    for (int64_t r = 0; r < high; r += lanes)
        for (int64_t c = 0; c < wide; c += lanes)
            turn_square<R>(from + r * step + c, step, to + c * stride + r, stride);
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = r < high ? wide : 0; c < columns; ++c) to[c * stride + r] = from[r * step + c];
}

} // namespace
