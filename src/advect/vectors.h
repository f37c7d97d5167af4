// Vectors of the instruction set a file is compiled for, and functions of them: exp, log and what follows from them.
//
// exp and log are series after the usual reduction, with terms enough for the rounding of the type. NaN in gives NaN
// out. Without the vector types of GCC and Clang a vector is one number.

#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "compiled.h"

namespace {

#if defined(__GNUC__)
#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Floats __attribute__((vector_size(kBytes)));
typedef double Doubles __attribute__((vector_size(kBytes)));
typedef int32_t Ints __attribute__((vector_size(kBytes)));
typedef int64_t Longs __attribute__((vector_size(kBytes)));
#define ADVECT_CONVERT(value, type) __builtin_convertvector(value, type)
#else
typedef float Floats;
typedef double Doubles;
typedef int32_t Ints;
typedef int64_t Longs;
#define ADVECT_CONVERT(value, type) static_cast<type>(value)
#endif

template <class R> struct Type;
template <> struct Type<float> {
    typedef Floats Vector;
    typedef Ints Whole;
    typedef int32_t Bits;
    static constexpr int mantissa = 23, bias = 127, exp_terms = 7, log_terms = 5;
    static constexpr float magic = 12582912.0f; // 1.5 * 2^23: adding it rounds to a whole number
    static constexpr float log2_high = 0.693359375f, log2_low = -2.12194440e-4f, least = -87.0f, most = 88.0f;
};
template <> struct Type<double> {
    typedef Doubles Vector;
    typedef Longs Whole;
    typedef int64_t Bits;
    static constexpr int mantissa = 52, bias = 1023, exp_terms = 14, log_terms = 12;
    static constexpr double magic = 6755399441055744.0; // 1.5 * 2^52
    static constexpr double log2_high = 6.93145751953125e-1, log2_low = 1.42860682030941723212e-6, least = -708.0,
                            most = 709.0;
};
template <class R> using Vec = typename Type<R>::Vector;
template <class R> using Int = typename Type<R>::Whole;
template <class R> constexpr int kLanes = sizeof(Vec<R>) / sizeof(R);
// Columns in whole vectors: what rows of most matrices have room for.
template <class R> inline int64_t whole(int64_t columns) { return (columns + kLanes<R> - 1) / kLanes<R> * kLanes<R>; }

template <class To, class From> inline To bits_of(From value) {
    static_assert(sizeof(To) == sizeof(From), "sizes");
    To result;
    std::memcpy(&result, &value, sizeof(result));
    return result;
}

template <class R> inline Vec<R> load(const R *from) {
    Vec<R> result;
    std::memcpy(&result, from, sizeof(result));
    return result;
}
template <class R> inline void store(R *to, Vec<R> value) { std::memcpy(to, &value, sizeof(value)); }

template <class R> inline Vec<R> all(R value) { return Vec<R>{} + value; }

inline Floats root(Floats x) {
#if defined(__GNUC__) && defined(__AVX512F__)
    return (Floats)_mm512_sqrt_ps((__m512)x);
#elif defined(__GNUC__) && defined(__AVX2__)
    return (Floats)_mm256_sqrt_ps((__m256)x);
#else
    float lanes[kLanes<float>];
    std::memcpy(lanes, &x, sizeof(x));
    for (float &lane : lanes) lane = std::sqrt(lane);
    std::memcpy(&x, lanes, sizeof(x));
    return x;
#endif
}
inline Doubles root(Doubles x) {
#if defined(__GNUC__) && defined(__AVX512F__)
    return (Doubles)_mm512_sqrt_pd((__m512d)x);
#elif defined(__GNUC__) && defined(__AVX2__)
    return (Doubles)_mm256_sqrt_pd((__m256d)x);
#else
    double lanes[kLanes<double>];
    std::memcpy(lanes, &x, sizeof(x));
    for (double &lane : lanes) lane = std::sqrt(lane);
    std::memcpy(&x, lanes, sizeof(x));
    return x;
#endif
}

template <class R> inline R sum_of(Vec<R> x) {
    R lanes[kLanes<R>], sum = 0;
    store<R>(lanes, x);
    for (const R lane : lanes) sum += lane;
    return sum;
}

template <class R> inline Vec<R> size_of(Vec<R> x) { return x < 0 ? -x : x; }

constexpr double inverse_factorial(int n) { return n < 2 ? 1.0 : inverse_factorial(n - 1) / n; }
template <int N> struct Factorials {
    double value[N + 1];
    constexpr Factorials() : value() {
        for (int n = 0; n <= N; ++n) value[n] = inverse_factorial(n);
    }
};

// 2^n times the Taylor series of the rest, |rest| <= log(2)/2.
template <class R> inline Vec<R> exp_of(Vec<R> x) {
    typedef Type<R> T;
    constexpr Factorials<T::exp_terms> series;
    x = x < T::least ? all<R>(T::least) : x;
    x = x > T::most ? all<R>(T::most) : x;
    Vec<R> shifted = x * R(1.4426950408889634) + T::magic;
    Vec<R> whole = shifted - T::magic;
    Vec<R> rest = (x - whole * T::log2_high) - whole * T::log2_low;
    Vec<R> sum = all<R>(R(series.value[T::exp_terms]));
    for (int n = T::exp_terms - 1; n >= 0; --n) sum = sum * rest + R(series.value[n]);
    typename T::Bits offset = bits_of<typename T::Bits>(T::magic) - T::bias;
    return sum * bits_of<Vec<R>>((bits_of<Int<R>>(shifted) - offset) << T::mantissa);
}

// exp(x) - 1 without cancellation at 0: 2^n (exp(rest) - 1) + (2^n - 1).
template <class R> inline Vec<R> expm1_of(Vec<R> x) {
    typedef Type<R> T;
    constexpr Factorials<T::exp_terms> series;
    x = x < T::least ? all<R>(T::least) : x;
    x = x > T::most ? all<R>(T::most) : x;
    Vec<R> shifted = x * R(1.4426950408889634) + T::magic;
    Vec<R> whole = shifted - T::magic;
    Vec<R> rest = (x - whole * T::log2_high) - whole * T::log2_low;
    Vec<R> sum = all<R>(R(series.value[T::exp_terms]));
    for (int n = T::exp_terms - 1; n >= 1; --n) sum = sum * rest + R(series.value[n]);
    typename T::Bits offset = bits_of<typename T::Bits>(T::magic) - T::bias;
    Vec<R> power = bits_of<Vec<R>>((bits_of<Int<R>>(shifted) - offset) << T::mantissa);
    return power * (sum * rest) + (power - 1);
}

// log(m 2^e) = e log 2 + 2 artanh((m - 1)/(m + 1)), m within sqrt(2) of 1; for positive normal numbers.
template <class R> inline Vec<R> log_of(Vec<R> y) {
    typedef Type<R> T;
    typedef typename T::Bits Bits;
    Int<R> bits = bits_of<Int<R>>(y);
    Int<R> exponent = (bits >> T::mantissa) - T::bias;
    Bits fraction = (Bits(1) << T::mantissa) - 1;
    Vec<R> m = bits_of<Vec<R>>((bits & fraction) | (Bits(T::bias) << T::mantissa));
    Vec<R> e = ADVECT_CONVERT(exponent, Vec<R>);
    e = m > R(1.4142135623730951) ? e + 1 : e;
    m = m > R(1.4142135623730951) ? m * R(0.5) : m;
    Vec<R> z = (m - 1) / (m + 1);
    Vec<R> square = z * z;
    Vec<R> sum = all<R>(R(1.0 / (2 * T::log_terms - 1)));
    for (int n = T::log_terms - 2; n >= 0; --n) sum = sum * square + R(1.0 / (2 * n + 1));
    return e * T::log2_high + (z * 2 * sum + e * T::log2_low) + (y - y); // the last is NaN for NaN
}

// 1 / x for numbers from 1 to the greatest: the processor's guess of 14 bits, made good twice as far by one step of
// Newton's, takes half the time of a division.
template <class R> inline Vec<R> inverse_of(Vec<R> x) { return 1 / x; }
#if defined(__GNUC__) && defined(__AVX512F__)
template <> inline Floats inverse_of<float>(Floats x) {
    const Floats guess = (Floats)_mm512_rcp14_ps((__m512)x);
    return guess + guess * (1 - x * guess);
}
#endif
template <class R> inline Vec<R> sigmoid_of(Vec<R> x) { return inverse_of<R>(1 + exp_of<R>(-x)); }

// Neighbouring rows of one column; the lanes beyond `count` repeat the first row.
template <class R> inline Vec<R> take(const R *from, int64_t stride, int count) {
    Vec<R> result;
    if (stride == 1 && count == kLanes<R>) {
        std::memcpy(&result, from, sizeof(result));
        return result;
    }
    R lanes[kLanes<R>];
    for (int lane = 0; lane < kLanes<R>; ++lane) lanes[lane] = from[lane < count ? lane * stride : 0];
    std::memcpy(&result, lanes, sizeof(result));
    return result;
}
template <class R> inline void put(R *to, int64_t stride, int count, Vec<R> value) {
    if (stride == 1 && count == kLanes<R>) {
        std::memcpy(to, &value, sizeof(value));
        return;
    }
    R lanes[kLanes<R>];
    std::memcpy(lanes, &value, sizeof(value));
    for (int lane = 0; lane < count; ++lane) to[lane * stride] = lanes[lane];
}

} // namespace
