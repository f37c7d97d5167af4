// Products of small matrices that lie in the first two caches, strip by strip: what follows a product takes its sums from
// registers, and A may lie either way round.

#pragma once

#include <algorithm>
#include <utility>

#include "numbers.h"

namespace {

// Tiles of sums that fill the registers: up to kAcross vectors, and as many rows as there is room for.
#if defined(__AVX512F__)
constexpr int kSums = 24, kAcross = 4;
#else
constexpr int kSums = 12, kAcross = 2;
#endif
constexpr int kTallest = 12;            // rows of a tile
constexpr int64_t kPanel = kAcross * L; // columns that go together

// One by one, so that sums stay in registers.
template <int Tall, int Across, class Put, size_t... M>
inline void each_row(const V (&sum)[Tall][Across], const Put &put, std::index_sequence<M...>) {
    (put(int(M), sum[M]), ...);
}

// Tall x Across vectors of the sums over depth of a[m * Row + k * step] b[k * row + column].
template <int Tall, int Across, int Row, class Put>
inline void tile(const float *a, int64_t step, const float *b, int64_t row, int64_t depth, int count, const Put &put) {
    V sum[Tall][Across];
    for (int m = 0; m < Tall; ++m)
        for (int v = 0; v < Across; ++v) sum[m][v] = put.start(m, v);
    for (int64_t k = 0; k < depth; ++k, a += step, b += row) {
        V right[Across];
        for (int v = 0; v < Across; ++v) right[v] = load<float>(b + v * L);
        for (int m = 0; m < Tall; ++m)
            for (int v = 0; v < Across; ++v) sum[m][v] += a[m * Row] * right[v];
    }
    V done[Tall][Across];
    for (int m = 0; m < Tall; ++m)
        for (int v = 0; v < Across; ++v) done[m][v] = sum[m][v];
    if (count == Tall) return each_row(done, put, std::make_index_sequence<Tall>());
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 1
#endif
    for (int m = 0; m < count; ++m) put(m, done[m]);
}

// What is done with a tile, which begins at this row and column.
template <class Put, int Across> struct Placed {
    const Put &put;
    int64_t row, column;
    V start(int m, int v) const { return put.start(row + m, column + v * L); }
    void operator()(int m, const V (&sums)[Across]) const { put.template row<Across>(row + m, column, sums); }
};

template <int Across, int Row, class Put>
inline void strip(int64_t rows, int64_t depth, const float *a, int64_t step, const float *b, int64_t row, int64_t column,
                  const Put &put) {
    constexpr int Tall = std::min(kTallest, kSums / Across);
    for (int64_t r = 0; r < rows; r += Tall)
        tile<Tall, Across, Row>(a + r * Row, step, b, row, depth, int(std::min<int64_t>(Tall, rows - r)),
                                Placed<Put, Across>{put, r, column});
}

// put(row, column, vector) for all of A B, columns in whole vectors. Panels of B are `panel` numbers apart.
template <int Row, class Put>
inline void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t step, const float *b,
                    int64_t row, int64_t panel, const Put &put) {
    for (int64_t column = 0; column < columns; column += kPanel, b += panel) {
        const int64_t vectors = std::min(kPanel, columns - column) / L;
        if (vectors == 1) strip<1, Row>(rows, depth, a, step, b, row, column, put);
        if (vectors == 2) strip<2, Row>(rows, depth, a, step, b, row, column, put);
#if defined(__AVX512F__)
        if (vectors == 3) strip<3, Row>(rows, depth, a, step, b, row, column, put);
        if (vectors == 4) strip<4, Row>(rows, depth, a, step, b, row, column, put);
#endif
    }
}

} // namespace
