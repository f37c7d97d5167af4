// Products of bfloat16 numbers with sums in float32, by the tiles of AMX or by `vdpbf16ps`, and what goes around them:
// rounding, and numbers in pairs along the depth, as both instructions want them.
//
// C = A B. A lies row by row, rows of whole tiles (`tiled`) with zeros at their ends, and memory for whole tiles of rows.
// B lies in panels of kTile columns, in each the pairs of depth 0 and 1 of all columns, then of 2 and 3, …. Every number
// of C is summed in one order, whatever stands beside it. A row of A that is not finite concerns its own row alone.

#pragma once

#include <algorithm>

#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "vectors.h"

namespace {

typedef uint16_t Brief; // a number in bfloat16
constexpr int64_t kTile = 32;
constexpr int kWide = 16; // lanes

// Columns or rows in whole tiles.
inline int64_t tiled(int64_t numbers) { return (numbers + kTile - 1) / kTile * kTile; }

inline __mmask16 lanes_of(int64_t count) {
    return count >= kWide ? __mmask16(0xffff) : __mmask16((1u << (count > 0 ? count : 0)) - 1);
}
inline __m512 load_some(const float *from, int64_t count) { return _mm512_maskz_loadu_ps(lanes_of(count), from); }
inline __m512 widened(__m256i brief) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(brief), 16));
}
inline __m512 load_brief(const Brief *from) { return widened(_mm256_loadu_si256((const __m256i *)from)); }
inline __m256i rounded(__m512 value) { return (__m256i)_mm512_cvtneps_pbh(value); }
inline void store_brief(Brief *to, __m512 value) { _mm256_storeu_si256((__m256i *)to, rounded(value)); }
// Lane by lane, the first in the low half.
inline __m512i paired(__m256i first, __m256i second) {
    return _mm512_or_si512(_mm512_cvtepu16_epi32(first), _mm512_slli_epi32(_mm512_cvtepu16_epi32(second), 16));
}
// Two rows rounded, one after the other, and then lane by lane as `paired` has them.
inline __m512i rounded(__m512 first, __m512 second) { return (__m512i)_mm512_cvtne2ps_pbh(second, first); }
inline __m512i paired(__m512i rows) {
    const __m512i lanes = _mm512_set_epi32(0x1f000f, 0x1e000e, 0x1d000d, 0x1c000c, 0x1b000b, 0x1a000a, 0x190009, 0x180008,
                                           0x170007, 0x160006, 0x150005, 0x140004, 0x130003, 0x120002, 0x110001,
                                           0x100000);
    return _mm512_permutexvar_epi16(lanes, rows);
}

// Columns for rows of a square of 16.
inline void transpose(__m512i square[16]) {
    __m512i turn[16];
    for (int i = 0; i < 16; i += 2) {
        turn[i] = _mm512_unpacklo_epi32(square[i], square[i + 1]);
        turn[i + 1] = _mm512_unpackhi_epi32(square[i], square[i + 1]);
    }
    for (int i = 0; i < 16; i += 4)
        for (int j = 0; j < 2; ++j) {
            square[i + 2 * j] = _mm512_unpacklo_epi64(turn[i + j], turn[i + 2 + j]);
            square[i + 2 * j + 1] = _mm512_unpackhi_epi64(turn[i + j], turn[i + 2 + j]);
        }
    for (int i = 0; i < 4; ++i)
        for (int j = 0; j < 2; ++j) {
            turn[i + 8 * j] = _mm512_shuffle_i32x4(square[i + 8 * j], square[i + 4 + 8 * j], 0x88);
            turn[i + 4 + 8 * j] = _mm512_shuffle_i32x4(square[i + 8 * j], square[i + 4 + 8 * j], 0xdd);
        }
    for (int i = 0; i < 8; ++i) {
        square[i] = _mm512_shuffle_i32x4(turn[i], turn[i + 8], 0x88);
        square[i + 8] = _mm512_shuffle_i32x4(turn[i], turn[i + 8], 0xdd);
    }
}

// Panels of M (depth x columns) from depth `start` to `end`, whole tiles; `row_of(k, c)` gives 16 numbers in bfloat16 from
// column c of row k on.
template <class Rows>
inline void pack_pairs(int64_t depth, int64_t start, int64_t end, int64_t columns, const Rows &row_of, Brief *to) {
    for (int64_t column = 0; column < columns; column += kTile, to += kTile * tiled(depth))
        for (int64_t k = start; k < end; k += 2)
            for (int64_t c = 0; c < kTile; c += kWide)
                _mm512_storeu_si512(to + k * kTile + 2 * c, paired(row_of(k, column + c), row_of(k + 1, column + c)));
}
// Of rows in whole tiles, of which there are `depth`.
inline void pack_rows(const Brief *rows, int64_t depth, int64_t row, Brief *to) {
    const auto row_of = [=](int64_t k, int64_t c) {
        return k < depth ? _mm256_loadu_si256((const __m256i *)(rows + k * row + c)) : _mm256_setzero_si256();
    };
    pack_pairs(depth, 0, tiled(depth), row, row_of, to);
}
// kTile rows, from `start` on, of the weight of a linear layer (outputs x inputs): to panels of its transpose, and of
// itself where `back` is; read once for both.
inline void pack_weights(const float *weight, int64_t outputs, int64_t inputs, int64_t start, Brief *turned,
                         Brief *back) {
    turned += start * tiled(inputs);
    for (int64_t c = 0; c < kTile; c += kWide)
        for (int64_t k = 0; k < tiled(inputs); k += 2 * kWide) {
            __m512i square[16];
            for (int i = 0; i < 16; ++i) {
                const int64_t of = start + c + i, left = of < outputs ? inputs - k : 0;
                const float *from = weight + of * inputs + k;
                square[i] = (__m512i)_mm512_cvtne2ps_pbh(load_some(from + kWide, left - kWide), load_some(from, left));
            }
            transpose(square);
            for (int i = 0; i < 16; ++i) _mm512_storeu_si512(turned + (k / 2 + i) * 2 * kTile + 2 * c, square[i]);
        }
    const auto row_of = [=](int64_t k, int64_t c) {
        return k < outputs ? rounded(load_some(weight + k * inputs + c, inputs - c)) : _mm256_setzero_si256();
    };
    if (back) pack_pairs(outputs, start, start + kTile, inputs, row_of, back);
}
// The transpose of rows in whole tiles, of which there are `count`: as many columns in whole tiles, zeros at their ends.
inline void turn_rows(const Brief *rows, int64_t count, int64_t row, Brief *to) {
    const int64_t width = tiled(count);
    for (int64_t r = 0; r < width; r += 2 * kWide)
        for (int64_t c = 0; c < row; c += kWide) {
            __m512i square[16];
            for (int i = 0; i < 16; ++i) {
                __m256i pair[2];
                for (int j = 0; j < 2; ++j) {
                    const int64_t of = r + 2 * i + j;
                    const __m256i *from = (const __m256i *)(rows + of * row + c);
                    pair[j] = of < count ? _mm256_loadu_si256(from) : _mm256_setzero_si256();
                }
                square[i] = paired(pair[0], pair[1]);
            }
            transpose(square);
            for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (c + i) * width + r, square[i]);
        }
}

// put(row, column, 16 sums) of a block of C, some at a time.
template <class Put> struct Later {
    const Put *put;
    const float *sums = nullptr;
    int64_t row = 0, column = 0;
    int next = 0, end = 0; // halves of rows
    void some(int count) {
        for (const int until = std::min(end, next + count); next < until; ++next)
            (*put)(row + next / 2, column + next % 2 * kWide, _mm512_load_ps(sums + next * kWide));
    }
};
struct Nothing {
    void some(int) const {}
};

#if defined(__AMX_BF16__)
constexpr int64_t kRows = kTile; // of a block of C
// What was written must be in memory: some compilers do not know what the instructions below read.
inline void settle() { __asm__ volatile("" ::: "memory"); }
// Tiles of 16 rows of 64 bytes for as long as this lives.
struct Tiles {
    Tiles() {
        struct {
            uint8_t palette = 1, start_row = 0, reserved[14] = {};
            uint16_t bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
            uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
        } all_alike;
        settle();
        _tile_loadconfig(&all_alike);
    }
    ~Tiles() { _tile_release(); }
};
// The four products of two tiles of rows and two of columns that are loaded.
inline void multiply_tiles() {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
}
inline void load_rows(const Brief *a, int64_t a_row) {
    _tile_loadd(4, a, a_row * 2);
    _tile_loadd(5, a + kWide * a_row, a_row * 2);
}
inline void load_columns(const Brief *b) {
    _tile_loadd(6, b, 4 * kTile);
    _tile_loadd(7, b + 2 * kWide, 4 * kTile);
}
// Two by two tiles of C into `sums`, and the next panel of B asked for: `ahead` lines of every step. `before` is what is
// left of the block before: tiles are multiplied beside vectors, but neither begins while the other has filled the
// processor's window. Of numbers in two parts the product of the two small ones is left out: it is as small as what
// their rounding leaves.
template <int Parts = 1, class Before = Nothing>
inline void block_of(const Brief *a, int64_t a_row, const Brief *b, int64_t depth, float *sums, const Brief *ahead,
                     int lines, Before &&before = {}) {
    const int share = int((2 * kRows * Parts * kTile + depth - 1) / depth);
    settle();
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int64_t k = 0; k < depth; k += Parts * kTile, b += Parts * kTile * kTile) {
        load_rows(a + k, a_row);
        if (Parts == 2) {
            load_columns(b + kTile * kTile);
            multiply_tiles();
        }
        load_columns(b);
        for (int i = 0; i < lines; ++i, ahead += kTile) __builtin_prefetch(ahead, 0, 2);
        multiply_tiles();
        if (Parts == 2) {
            load_rows(a + k + kTile, a_row);
            multiply_tiles();
        }
        before.some(share);
    }
    _tile_stored(0, sums, 4 * kTile);
    _tile_stored(1, sums + kWide, 4 * kTile);
    _tile_stored(2, sums + kWide * kTile, 4 * kTile);
    _tile_stored(3, sums + kWide * kTile + kWide, 4 * kTile);
}
#else
constexpr int64_t kRows = 12;
struct Tiles {
    Tiles() {}
    ~Tiles() {}
};
template <int Parts = 1, class Before = Nothing>
inline void block_of(const Brief *a, int64_t a_row, const Brief *b, int64_t depth, float *sums, const Brief *ahead,
                     int lines, Before && = {}) {
    static_assert(Parts == 1, "three such products take longer than one in float32");
    __m512 sum[kRows][2] = {};
    for (int64_t k = 0; k < depth; k += 2, b += 2 * kTile) {
        const __m512bh first = (__m512bh)_mm512_loadu_si512(b), second = (__m512bh)_mm512_loadu_si512(b + kTile);
        if (k % kTile == 0)
            for (int i = 0; i < lines; ++i, ahead += kTile) __builtin_prefetch(ahead, 0, 2);
        for (int m = 0; m < kRows; ++m) {
            int32_t pair;
            std::memcpy(&pair, a + m * a_row + k, sizeof(pair));
            const __m512bh left = (__m512bh)_mm512_set1_epi32(pair);
            sum[m][0] = _mm512_dpbf16_ps(sum[m][0], left, first);
            sum[m][1] = _mm512_dpbf16_ps(sum[m][1], left, second);
        }
    }
    for (int m = 0; m < kRows; ++m)
        for (int v = 0; v < 2; ++v) _mm512_storeu_ps(sums + m * kTile + v * kWide, sum[m][v]);
}
#endif

// What a result may do before its sums are there: ask for where they go.
template <class Put> inline void expect(const Put &, int64_t, int64_t) {}

// put(row, column, 16 sums) for all of C, columns in whole tiles. A has memory for kRows rows beyond its last. With two
// parts of every number (`split.h`) rows and panels are twice as long.
template <int Parts = 1, class Put>
inline void product(int64_t rows, int64_t columns, int64_t depth, const Brief *a, const Brief *b, const Put &put) {
    const int64_t deep = Parts * tiled(depth), blocks = (rows + kRows - 1) / kRows;
    const int step = Parts * kTile; // lines of a panel in every step of the depth
    const int share = blocks ? int((step + blocks - 1) / blocks) : 0;
    alignas(64) float sums[Parts][kRows * kTile];
    Later<Put> before{&put};
    for (int64_t column = 0, turn = 0; column < columns; column += kTile, b += kTile * deep) {
        const Brief *ahead = b + kTile * deep;
        for (int64_t row = 0; row < rows; row += kRows, ahead += tiled(depth) * share, turn = 1 - turn) {
            const int lines = row / kRows * share < step ? share : 0;
            const int64_t count = rows - row < kRows ? rows - row : kRows;
            expect(put, row, column);
            if constexpr (Parts == 1) { // after so short a product waiting brings nothing
                block_of(a + row * deep, deep, b, deep, sums[0], ahead, lines);
                for (int64_t r = 0; r < count; ++r)
                    for (int64_t c = 0; c < kTile; c += kWide)
                        put(row + r, column + c, _mm512_load_ps(sums[0] + r * kTile + c));
            } else {
                block_of<Parts>(a + row * deep, deep, b, deep, sums[turn], ahead, lines, before);
                before.some(2 * kRows);
                before = {&put, sums[turn], row, column, 0, int(2 * count)};
            }
        }
    }
    before.some(2 * kRows);
}

#if !defined(__AMX_BF16__)
// Whether `vdpbf16ps` multiplies in less time than fused products in float32: on some processors it takes twice as long
// as one of those, and so brings nothing.
inline bool quicker() {
    const auto time_of = [](auto step, auto start) {
        unsigned long long best = ~0ull;
        for (int trial = 0; trial < 8; ++trial) {
            __m512 sums[12];
            for (__m512 &sum : sums) sum = _mm512_setzero_ps();
            const unsigned long long before = __rdtsc();
            for (int i = 0; i < 500; ++i)
                for (__m512 &sum : sums) {
                    sum = step(sum, start);
                    __asm__ volatile("" : "+v"(sum)); // each is wanted for itself
                }
            best = std::min<unsigned long long>(best, __rdtsc() - before);
        }
        return best;
    };
    const auto brief = time_of([](__m512 sum, __m512bh a) { return _mm512_dpbf16_ps(sum, a, a); }, __m512bh{});
    const auto full = time_of([](__m512 sum, __m512 a) { return _mm512_fmadd_ps(a, a, sum); }, _mm512_setzero_ps());
    return 3 * brief < 5 * full; // of twice as many products
}
#endif

// 0: not here. 1: the processor has the instructions and the system keeps their registers; Linux is asked for those of
// the tiles. 2: and they are quicker than those in float32.
inline int able() {
    unsigned a = 0, b = 0, c = 0, d = 0, low = 0, high = 0;
    if (!__get_cpuid_count(7, 1, &a, &b, &c, &d) || !(a & (1u << 5))) return 0;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    if ((low & 0xe6) != 0xe6) return 0;
#if defined(__AMX_BF16__)
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(d & (1u << 22)) || !(d & (1u << 24))) return 0;
    if ((low & 0x60000) != 0x60000) return 0;
#if defined(__linux__)
    if (syscall(SYS_arch_prctl, 0x1023, 18)) return 0; // ARCH_REQ_XCOMP_PERM of the tiles, for the whole process
#else
    return 0;
#endif
    return 2;
#else
    return quicker() ? 2 : 1;
#endif
}

} // namespace
