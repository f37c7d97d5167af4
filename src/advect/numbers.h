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
template <> struct Memory<Half> {
    static V read(const Half *from, int count) {
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
        uint32_t lanes[L];
        std::memcpy(lanes, &value, sizeof(value));
        if (count == L)
            for (int i = 0; i < L; ++i) to[i].bits = rounded(lanes[i]);
        else
            for (int i = 0; i < count; ++i) to[i].bits = rounded(lanes[i]);
    }
};

} // namespace
