// Vectors of float32 numbers as assignments use them: the lesser of two, the least lane, lanes up to a limit.

#pragma once

#include "../vectors.h"

namespace {

constexpr float kFar = 1e37f; // above every value; sums of two stay finite
constexpr int kWidth = kLanes<float>;

inline Floats lesser(Floats a, Floats b) { return a < b ? a : b; }
inline Floats larger(Floats a, Floats b) { return a < b ? b : a; }

// The least lane, and the lanes up to a limit as bits.
#if defined(__AVX2__)
inline float least_of_eight(__m256 v) {
    __m128 half = _mm_min_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_min_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_min_ss(half, _mm_shuffle_ps(half, half, 1)));
}
#if defined(__AVX512F__)
inline float least(Floats v) {
    __m256 halves[2];
    std::memcpy(halves, &v, sizeof v);
    return least_of_eight(_mm256_min_ps(halves[0], halves[1]));
}
inline unsigned up_to(Floats v, float limit) { return _mm512_cmp_ps_mask(__m512(v), _mm512_set1_ps(limit), _CMP_LE_OQ); }
#else
inline float least(Floats v) { return least_of_eight(__m256(v)); }
inline unsigned up_to(Floats v, float limit) {
    return unsigned(_mm256_movemask_ps(_mm256_cmp_ps(__m256(v), _mm256_set1_ps(limit), _CMP_LE_OQ)));
}
#endif
#else
inline float least(Floats v) {
    float lane[kWidth], lowest = kFar;
    std::memcpy(lane, &v, sizeof lane);
    for (int l = 0; l < kWidth; ++l) lowest = lane[l] < lowest ? lane[l] : lowest;
    return lowest;
}
inline unsigned up_to(Floats v, float limit) {
    float lane[kWidth];
    std::memcpy(lane, &v, sizeof lane);
    unsigned bits = 0;
    for (int l = 0; l < kWidth; ++l) bits |= unsigned(lane[l] <= limit) << l;
    return bits;
}
#endif
inline int lowest_bit(unsigned bits) {
#if defined(__GNUC__)
    return __builtin_ctz(bits);
#else
    int at = 0;
    while (!(bits >> at & 1)) ++at;
    return at;
#endif
}

} // namespace
