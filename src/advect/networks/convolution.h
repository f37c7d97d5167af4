// Patches of pictures for minimal filtering: which there are, the transforms of their rows and columns, and blocks of
// transformed ones. `convolution_kernel.cpp` says what they are for.

#pragma once

#include <algorithm>
#include <type_traits>
#include <utility>

#include "../aligned.h"
#include "../numbers.h"

namespace {

constexpr int64_t kLine = 64; // bytes in a line of the cache
constexpr int64_t kApart = L; // numbers between matrices: neighbouring ones share no set of the cache

struct Sizes {
    int64_t pictures, height, width, inputs, outputs; // height and width of the output
    bool doubled;
    explicit Sizes(const int64_t *of)
        : pictures(of[0]), height(of[1]), width(of[2]), inputs(of[3]), outputs(of[4]), doubled(of[5] != 0) {}
    int64_t down() const { return (height + 1) / 2; }
    int64_t across() const { return (width + 1) / 2; }
    int64_t patches() const { return pictures * down() * across(); }
};

// part(0), part(1), ..., each a constant.
template <class Part, int... I> inline void each_of(const Part &part, std::integer_sequence<int, I...>) {
    (part(std::integral_constant<int, I>()), ...);
}
template <int Count, class Part> inline void each(const Part &part) {
    each_of(part, std::make_integer_sequence<int, Count>());
}
// Patches side by side.
struct Run {
    int64_t picture, down, across, count, place; // place: in the block
};
// part(run) for the patches of a block.
template <class Part> inline void each_run(const Sizes &size, int64_t first, int64_t count, const Part &part) {
    const int64_t across = size.across(), down = size.down();
    for (int64_t at = first; at < first + count;) {
        const int64_t line = at / across, start = at % across, length = std::min(across - start, first + count - at);
        part(Run{line / down, line % down, start, length, at - first});
        at += length;
    }
}

// The transforms of one row or column. With three numbers in place of four the third is missing.
inline void patch(const V (&d)[4], V (&v)[4]) {
    v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3];
}
inline void patch(const V (&d)[4], V (&v)[3]) { v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[1] - d[3]; }
inline void patch(const V (&d)[3], V (&v)[3]) { v[0] = d[0] - d[1], v[1] = d[1] + d[1], v[2] = d[1] - d[2]; }
inline void result(const V (&m)[4], V (&y)[2]) { y[0] = m[0] + m[1] + m[2], y[1] = m[1] - m[2] - m[3]; }
inline void result(const V (&m)[3], V (&y)[2]) { y[0] = m[0] + m[1], y[1] = m[1] - m[2]; }
inline void result(const V (&m)[3], V (&y)[1]) { y[0] = m[0] + (m[1] + m[1]) - m[2]; }
inline void unfold(const V (&y)[2], V (&m)[4]) { m[0] = y[0], m[1] = y[0] + y[1], m[2] = y[0] - y[1], m[3] = -y[1]; }
inline void unfold(const V (&y)[2], V (&m)[3]) { m[0] = y[0], m[1] = y[0] + y[1], m[2] = -y[1]; }
inline void filter(const V (&g)[3], V (&u)[4]) {
    const V even = (g[0] + g[2]) * 0.5f, odd = g[1] * 0.5f;
    u[0] = g[0], u[1] = even + odd, u[2] = even - odd, u[3] = g[2];
}
inline void filter(const V (&g)[3], V (&u)[3]) { u[0] = g[0], u[1] = (g[0] + g[2] + g[1]) * 0.5f, u[2] = g[2]; }
inline void taps(const V (&u)[4], V (&g)[3]) {
    const V even = (u[1] + u[2]) * 0.5f;
    g[0] = u[0] + even, g[1] = (u[1] - u[2]) * 0.5f, g[2] = even + u[3];
}
inline void taps(const V (&u)[3], V (&g)[3]) { g[1] = u[1] * 0.5f, g[0] = u[0] + g[1], g[2] = g[1] + u[2]; }

template <bool Whole> inline V read(const float *from, int count) {
    return Memory<float>::read(from, Whole ? L : count);
}
template <bool Whole> inline void write(float *to, V value, int count) {
    Memory<float>::write(to, value, Whole ? L : count);
}
// part(channel, how many, whole or not) for whole vectors of channels from `first` on, and for the last one.
template <class Part> inline void each_vector(int64_t channels, const Part &part) {
    int64_t c = 0;
    for (; c + L <= channels; c += L) part(c, L, std::true_type());
    if (c < channels) part(c, int(channels - c), std::false_type());
}

// Pictures in memory: `height` x `width` pixels of `channels` numbers.
template <class S> struct Pictures {
    S *first;
    int64_t height, width, channels;
    S *line(int64_t picture, int64_t y) const { return first + (picture * height + y) * width * channels; }
};

// Lines of the cache that are asked for some at a time, between tiles of products: pixels that a block of patches is
// the first to need, `Step` by `Step` for each. Waiting for the third cache took a fifth of a convolution's time.
struct Ahead {
    const char *next = nullptr, *end = nullptr;
    template <int Step, class S>
    void begin(const Sizes &size, const Pictures<S> &pixels, int64_t first, int64_t count, int64_t above) {
        const auto at = [&](int64_t patch, int64_t more) {
            const int64_t line = patch / size.across(), y = Step * (line % size.down()) + more;
            return reinterpret_cast<const char *>(pixels.line(line / size.down(), std::min(y, pixels.height)));
        };
        next = end = nullptr;
        if (count > 0) next = at(first, above), end = at(first + count - 1, Step + above);
    }
    int64_t lines() const { return (end - next + kLine - 1) / kLine; }
    void ask(int64_t count) {
#if defined(__GNUC__)
        for (; count > 0 && next < end; --count, next += kLine) __builtin_prefetch(next, 0, 2);
#endif
    }
};
// Two of them, in so many steps.
struct Both {
    Ahead one, other;
    int64_t steps = 0;
    void share(int64_t tiles) { steps = std::max(one.lines(), other.lines()) / std::max<int64_t>(1, tiles) + 1; }
    void ask() { one.ask(steps), other.ask(steps); }
};

// Row `p` of transformed patches of a block, number by number, vector of channels by vector, patch by patch.
template <int P> struct Row {
    int64_t patches, channels; // room for so many
    Aligned<float> numbers;
    Row(int64_t patches, int64_t channels)
        : patches(patches), channels(whole<float>(channels)),
          numbers(P * (patches * whole<float>(channels) + kApart)) {}
    float *at(int64_t q, int64_t c) const { return numbers.get() + q * (patches * channels + kApart) + c * patches; }
};

// Patches that begin `Step` pixels apart, for one vector of channels. Zeros are around the picture.
template <int Step, int P, int p, bool Whole>
inline void gather(const Pictures<const float> &from, const Run &run, int64_t channel, int count, const Row<P> &to,
                   int64_t place) {
    constexpr int Side = Step + 2;
    static const float zeros[L] = {};
    const float *line[Side];
    int64_t pixel[Side];
    for (int i = 0; i < Side; ++i) {
        const int64_t y = Step * run.down - 1 + i;
        const bool inside = y >= 0 && y < from.height;
        line[i] = inside ? from.line(run.picture, y) + channel : zeros;
        pixel[i] = inside ? from.channels : 0;
    }
    const auto take = [&](int64_t x) {
        V d[Side] = {}, v[P];
        if (x >= 0 && x < from.width)
            for (int i = 0; i < Side; ++i) d[i] = read<Whole>(line[i] + x * pixel[i], count);
        patch(d, v);
        return v[p];
    };
    float *put[P];
    for (int q = 0; q < P; ++q) put[q] = to.at(q, place) + run.place * L;
    V column[Side], v[P];
    int64_t x = Step * run.across - 1;
    column[0] = take(x), column[1] = take(x + 1);
    for (int64_t t = 0; t < run.count; ++t, x += Step) {
        for (int j = 2; j < Side; ++j) column[j] = take(x + j);
        patch(column, v);
        for (int q = 0; q < P; ++q) store<float>(put[q] + t * L, v[q]);
        column[0] = column[Step], column[1] = column[Step + 1];
    }
}

// The same of gradients of patches of 2×2 outputs.
template <int P, int p, bool Whole>
inline void gather_gradient(const Pictures<const float> &from, const Run &run, int64_t channel, int count,
                            const Row<P> &to, int64_t place) {
    const bool below = 2 * run.down + 1 < from.height;
    const float *line = from.line(run.picture, 2 * run.down) + channel, *next = line + from.width * from.channels;
    const auto take = [&](int64_t x) {
        V y[2] = {}, m[P];
        if (x < from.width) y[0] = read<Whole>(line + x * from.channels, count);
        if (x < from.width && below) y[1] = read<Whole>(next + x * from.channels, count);
        unfold(y, m);
        return m[p];
    };
    float *put[P];
    for (int q = 0; q < P; ++q) put[q] = to.at(q, place) + run.place * L;
    for (int64_t t = 0; t < run.count; ++t) {
        const int64_t x = 2 * (run.across + t);
        const V y[2] = {take(x), take(x + 1)};
        V m[P];
        unfold(y, m);
        for (int q = 0; q < P; ++q) store<float>(put[q] + t * L, m[q]);
    }
}

} // namespace
