// What assignments of rows of many coordinates need besides a product of matrices.

#include <cstdint>
#include <cstring>

#include "assignment_vectors.h"

namespace {

#if defined(__GNUC__)
typedef uint16_t Halves __attribute__((vector_size(kBytes / 2)));
#else
typedef uint16_t Halves;
#endif
inline Halves narrowed(Ints v) { return ADVECT_CONVERT(v, Halves); }

} // namespace

// Rows x (n, d) less their centre (d): rounded to bfloat16, to the nearest and ties to even, and the squares of their norms
// before that.
ADVECT_PUBLIC(advect_assign_round)(const float *x, const float *centre, int64_t n, int64_t d, uint16_t *rounded, float *norm) {
    for (int64_t i = 0; i < n; ++i) {
        const float *row = x + i * d;
        uint16_t *out = rounded + i * d;
        Floats lane[16 / kWidth] = {}, moved, from; // sixteen sums, however wide a vector is
        float lanes[16], rest = 0;
        int64_t k = 0;
        for (; k + 16 <= d; k += 16)
            for (int v = 0; v < 16 / kWidth; ++v) {
                std::memcpy(&moved, row + k + v * kWidth, sizeof moved);
                std::memcpy(&from, centre + k + v * kWidth, sizeof from);
                moved -= from;
                lane[v] += moved * moved;
                Ints bits;
                std::memcpy(&bits, &moved, sizeof bits);
                const Halves half = narrowed((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
                std::memcpy(out + k + v * kWidth, &half, sizeof half);
            }
        for (; k < d; ++k) {
            const float one = row[k] - centre[k];
            int32_t bits;
            std::memcpy(&bits, &one, sizeof bits);
            out[k] = uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
            rest += one * one;
        }
        std::memcpy(lanes, lane, sizeof lanes);
        for (const float part : lanes) rest += part;
        norm[i] = rest;
    }
    return 0;
}

// The sum of the squared distances of rows x1 (n, d) from the rows of x0 that were chosen for them.
ADVECT_PUBLIC(advect_assign_apart)(const float *x0, const float *x1, const int64_t *chosen, int64_t n, int64_t d, double *total) {
    *total = 0;
    for (int64_t i = 0; i < n; ++i) {
        const float *one = x0 + chosen[i] * d, *other = x1 + i * d;
        float lane[16] = {}, rest = 0;
        int64_t k = 0;
        for (; k + 16 <= d; k += 16)
            for (int l = 0; l < 16; ++l) lane[l] += (one[k + l] - other[k + l]) * (one[k + l] - other[k + l]);
        for (; k < d; ++k) rest += (one[k] - other[k]) * (one[k] - other[k]);
        for (const float part : lane) rest += part;
        *total += double(rest);
    }
    return 0;
}
