// Matrix products of blocks of rows that stay in the first or second cache: next to no set-up, and whatever follows a
// product takes its numbers before they reach memory.
//
// C = S + A B, where A may lie either way round and B lies row by row in whole vectors. A tile of kTall rows and
// kPanel columns of C is summed in registers over the whole depth. Columns go in panels; `pack_turned` and `pack` put a
// matrix down panel by panel, which keeps a panel in the first cache. Rows and columns are independent: every number of
// C is summed in one order, whatever stands beside it. While the first rows go through a panel of a large packed matrix,
// the next panel is asked for: from the third cache it comes at half the speed at which tiles take it.

#pragma once

#include "vectors.h"

namespace {

// Tiles that fill the registers: 32 of them with AVX-512, 16 elsewhere.
constexpr int kTall = 6;
#if defined(__AVX512F__)
constexpr int kAcross = 4;
#else
constexpr int kAcross = 2;
#endif
template <class R> constexpr int kPanel = kAcross * kLanes<R>;
constexpr int64_t kLine = 64;          // bytes in a line of the cache
constexpr int64_t kFar = 3 * 64 * 1024; // bytes of a matrix that may no longer be in the second cache

// Numbers in a packed matrix of this depth.
template <class R> inline int64_t packed_size(int64_t depth, int64_t columns) {
    return (columns + kPanel<R> - 1) / kPanel<R> * kPanel<R> * depth;
}

// A: the number of row r at depth k is first[r * row + k * step].
template <class R> struct Left {
    const R *first;
    int64_t row, step;
};
// B: the numbers of depth k in panel p begin at first[p * panel + k * row]. Packed, or rows of whole vectors.
template <class R> struct Right {
    const R *first;
    int64_t row, panel;
};
template <class R> inline Right<R> packed(const R *first, int64_t depth) { return {first, kPanel<R>, kPanel<R> * depth}; }
template <class R> inline Right<R> as_it_lies(const R *first, int64_t row) { return {first, row, kPanel<R>}; }
// S: one row for all (row is 0), rows of their own, or nothing, which is zeros. Whole vectors.
template <class R> struct Start {
    const R *first;
    int64_t row;
};

// What is done with a vector of results by default: row r of the result begins at first + r * row.
template <class R> struct Stored {
    R *first;
    int64_t row;
    void operator()(int64_t r, int64_t c, Vec<R> value) const { store<R>(first + r * row + c, value); }
};

// Lines of the cache that are asked for one by one; step 0 asks for one that is there.
template <class R> struct Ahead {
    const R *first;
    int64_t step;
    void ask(int64_t k) const {
#if defined(__GNUC__)
        __builtin_prefetch(first + k * step, 0, 2);
#endif
    }
};

// Up to kTall rows and `Across` vectors. Rows beyond `count` repeat the last one and are not given away.
template <class R, int Across, class Put>
inline void tile(int64_t row, int count, int64_t column, int64_t depth, Left<R> a, const R *b, int64_t b_row,
                 Start<R> start, const Put &put, Ahead<R> ahead) {
    const R *from[kTall];
    Vec<R> sum[kTall][Across];
    for (int m = 0; m < kTall; ++m) {
        const int64_t r = row + (m < count ? m : count - 1);
        from[m] = a.first + r * a.row;
        for (int v = 0; v < Across; ++v)
            sum[m][v] = start.first ? load<R>(start.first + r * start.row + column + v * kLanes<R>) : Vec<R>{};
    }
    for (int64_t k = 0; k < depth; ++k, b += b_row) {
        ahead.ask(k);
        Vec<R> right[Across];
        for (int v = 0; v < Across; ++v) right[v] = load<R>(b + v * kLanes<R>);
        for (int m = 0; m < kTall; ++m) {
            const Vec<R> left = all<R>(from[m][k * a.step]);
            for (int v = 0; v < Across; ++v) sum[m][v] += left * right[v];
        }
    }
    Vec<R> done[kTall][Across];
    for (int m = 0; m < kTall; ++m)
        for (int v = 0; v < Across; ++v) done[m][v] = sum[m][v];
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 1
#endif
    for (int m = 0; m < count; ++m)
        for (int v = 0; v < Across; ++v) put(row + m, column + v * kLanes<R>, done[m][v]);
}

// put(row, column, vector) for all of C. Columns are rounded up to whole vectors, and so is what B and S must hold.
template <class R, class Put>
inline void product(int64_t rows, int64_t columns, int64_t depth, Left<R> a, Right<R> b, Start<R> start,
                    const Put &put) {
    const int64_t line = kLine / sizeof(R), size = kPanel<R> * depth;
    const bool far = b.panel == size && columns * depth * int64_t(sizeof(R)) > kFar;
    for (int64_t panel = 0, column = 0; column < columns; ++panel, column += kPanel<R>) {
        const R *right = b.first + panel * b.panel;
        for (int64_t row = 0; row < rows; row += kTall) {
            const int count = int(rows - row < kTall ? rows - row : kTall);
            const int64_t asked = row / kTall * depth * line;
            const bool more = far && asked < size;
            const Ahead<R> ahead{more ? right + size + asked : right, more ? line : 0};
            if (columns - column > kPanel<R> - kLanes<R>) {
                tile<R, kAcross>(row, count, column, depth, a, right, b.row, start, put, ahead);
                continue;
            }
            for (int64_t c = column; c < columns; c += kLanes<R>)
                tile<R, 1>(row, count, c, depth, a, right + (c - column), b.row, start, put, ahead);
        }
    }
}

// Panels of M for `packed`, M (depth x columns) row by row; zeros beyond its columns.
template <class R> inline void pack(const R *matrix, int64_t depth, int64_t columns, R *to) {
    for (int64_t column = 0; column < columns; column += kPanel<R>) {
        const int64_t count = columns - column < kPanel<R> ? columns - column : int64_t(kPanel<R>);
        for (int64_t k = 0; k < depth; ++k, to += kPanel<R>) {
            for (int64_t c = 0; c < count; ++c) to[c] = matrix[k * columns + column + c];
            for (int64_t c = count; c < kPanel<R>; ++c) to[c] = 0;
        }
    }
}
// The same of the transpose of M (columns x depth) row by row, such as the weight of a linear layer; a line of the cache
// at a time.
template <class R> inline void pack_turned(const R *matrix, int64_t depth, int64_t columns, R *to) {
    const int64_t line = kLine / sizeof(R);
    for (int64_t column = 0; column < columns; column += kPanel<R>, to += kPanel<R> * depth)
        for (int64_t start = 0; start < depth; start += line) {
            const int64_t end = start + line < depth ? start + line : depth;
            for (int64_t c = 0; c < kPanel<R>; ++c) {
                if (column + c >= columns) {
                    for (int64_t k = start; k < end; ++k) to[k * kPanel<R> + c] = 0;
                    continue;
                }
                const R *from = matrix + (column + c) * depth;
                Ahead<R>{from + start, line}.ask(4);
                for (int64_t k = start; k < end; ++k) to[k * kPanel<R> + c] = from[k];
            }
        }
}

} // namespace
