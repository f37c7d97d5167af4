// Numbers in float32 as the sum of two in bfloat16, which keep 16 of their 24 bits: the first is the number rounded, the
// second what that leaves, rounded. A product of two such numbers is three products of their parts (`product<2>`), which
// by tiles take less time than one in float32. A number that is not finite has a second part that is none, so what comes
// of it is NaN.
//
// In rows and in panels the first parts of 32 numbers along the depth stand before their second parts.

#pragma once

#include "bfloat16.h"

namespace {

struct Halves {
    __m256i first, second;
};
inline Halves halves(__m512 value) {
    const __m256i first = rounded(value);
    return {first, rounded(_mm512_sub_ps(value, widened(first)))};
}

// Where number `column` of a row stands; its second part kTile further.
inline int64_t place_of(int64_t column) { return column / kTile * 2 * kTile + column % kTile; }

inline void store_halves(Brief *row, int64_t column, __m512 value) {
    const Halves parts = halves(value);
    Brief *to = row + place_of(column);
    _mm256_storeu_si256((__m256i *)to, parts.first);
    _mm256_storeu_si256((__m256i *)(to + kTile), parts.second);
}

// The weight of a linear layer (outputs x inputs), turned, in panels of kTile columns.
inline void pack_split(const float *weight, int64_t outputs, int64_t inputs, Brief *to) {
    for (int64_t start = 0; start < outputs; start += kTile)
        for (int64_t k = 0; k < tiled(inputs); k += kTile, to += 2 * kTile * kTile)
            for (int64_t c = 0; c < kTile; c += kWide) {
                __m512i square[2][16];
                for (int i = 0; i < 16; ++i) {
                    const int64_t of = start + c + i, left = of < outputs ? inputs - k : 0;
                    const float *from = weight + of * inputs + k;
                    const Halves low = halves(load_some(from, left)), high = halves(load_some(from + kWide, left - kWide));
                    square[0][i] = _mm512_inserti64x4(_mm512_castsi256_si512(low.first), high.first, 1);
                    square[1][i] = _mm512_inserti64x4(_mm512_castsi256_si512(low.second), high.second, 1);
                }
                for (int part = 0; part < 2; ++part) {
                    transpose(square[part]);
                    Brief *panel = to + part * kTile * kTile + 2 * c;
                    for (int i = 0; i < 16; ++i) _mm512_storeu_si512(panel + i * 2 * kTile, square[part][i]);
                }
            }
}

} // namespace
