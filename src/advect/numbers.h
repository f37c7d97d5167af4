// Numbers that are float32 or bfloat16 in memory and float32 in vectors.

#pragma once

#include "vectors.h"

namespace {

typedef Vec<float> V;
constexpr int L = kLanes<float>;

struct Half {
    uint16_t bits;
};

template <class S> struct Memory;
template <> struct Memory<float> {
    static V read(const float *from, int count) {
        V value = {};
        if (count == L) std::memcpy(&value, from, sizeof(value));
        else std::memcpy(&value, from, count * sizeof(float));
        return value;
    }
    static void write(float *to, V value, int count) {
        if (count == L) std::memcpy(to, &value, sizeof(value));
        else std::memcpy(to, &value, count * sizeof(float));
    }
};
// Whole vectors of them: what compilers make of the loops below takes several times as long.
#if defined(__GNUC__) && defined(__AVX512BW__) && defined(__AVX512VL__)
#define ADVECT_WHOLE_HALVES
inline V widened_halves(const Half *from) {
    const __m512i lanes = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i *)from));
    return (V)_mm512_slli_epi32(lanes, 16);
}
inline void store_halves(Half *to, V value) {
    const __m512i bits = (__m512i)value, odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i even = _mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd);
    const __mmask16 nan = _mm512_cmp_ps_mask((__m512)value, (__m512)value, _CMP_UNORD_Q);
    const __m512i kept = _mm512_mask_mov_epi32(even, nan, _mm512_set1_epi32(0x7fc00000));
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(_mm512_srli_epi32(kept, 16)));
}
#elif defined(__GNUC__) && defined(__AVX2__)
#define ADVECT_WHOLE_HALVES
inline V widened_halves(const Half *from) {
    const __m256i lanes = _mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from));
    return (V)_mm256_slli_epi32(lanes, 16);
}
inline void store_halves(Half *to, V value) {
    const __m256i bits = (__m256i)value, odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i even = _mm256_add_epi32(_mm256_add_epi32(bits, _mm256_set1_epi32(0x7fff)), odd);
    const __m256 nan = _mm256_cmp_ps((__m256)value, (__m256)value, _CMP_UNORD_Q);
    const __m256i kept = _mm256_blendv_epi8(even, _mm256_set1_epi32(0x7fc00000), (__m256i)nan);
    const __m256i high = _mm256_srli_epi32(kept, 16), both = _mm256_packus_epi32(high, high);
    _mm_storeu_si128((__m128i *)to, _mm256_castsi256_si128(_mm256_permute4x64_epi64(both, 0x08)));
}
#endif

template <> struct Memory<Half> {
    static V read(const Half *from, int count) {
#if defined(ADVECT_WHOLE_HALVES)
        if (count == L) return widened_halves(from);
#endif
        uint32_t lanes[L] = {};
        if (count == L)
            for (int i = 0; i < L; ++i) lanes[i] = uint32_t(from[i].bits) << 16;
        else
            for (int i = 0; i < count; ++i) lanes[i] = uint32_t(from[i].bits) << 16;
        V value;
        std::memcpy(&value, lanes, sizeof(value));
        return value;
    }
    static uint16_t rounded(uint32_t bits) {
        const uint32_t even = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
        return uint16_t((bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : even);
    }
    static void write(Half *to, V value, int count) {
#if defined(ADVECT_WHOLE_HALVES)
        if (count == L) return store_halves(to, value);
#endif
        uint32_t lanes[L];
        std::memcpy(lanes, &value, sizeof(value));
        if (count == L)
            for (int i = 0; i < L; ++i) to[i].bits = rounded(lanes[i]);
        else
            for (int i = 0; i < count; ++i) to[i].bits = rounded(lanes[i]);
    }
};

} // namespace
