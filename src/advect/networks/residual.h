// A residual network whose weights are packed, and a block of rows on its way through it (`residual_kernel.cpp`).

#pragma once

#include "gradients.h"
#include "tangents.h"

namespace {


constexpr int kMost = 32; // blocks
constexpr int64_t kMostRows = 96, kMostRowsBack = 258;
constexpr int64_t kBlock = 8192;          // numbers of the stream in a block of rows
constexpr int64_t kWeights = 32 * kBlock; // numbers in weights that stay in the second cache
constexpr int64_t kTangents = 6 * kBlock; // numbers in the tangents of a block of rows

struct Sizes {
    int64_t blocks, features, times, conditions, narrow, width;
    explicit Sizes(const int64_t *shape)
        : blocks(shape[0]), features(shape[1]), times(shape[2]), conditions(shape[3]), narrow(shape[4]), width(shape[5]) {}
    int64_t given() const { return times + conditions; }
    int64_t parts() const { return 2 * blocks; }
    int64_t weights() const { return given() * narrow + parts() * width * (narrow + width) + 2 * features * width; }
    int64_t rows(bool gradients) const {
        if (weights() > kWeights) return gradients ? kMostRowsBack : kMostRows;
        return std::max<int64_t>(2 * kTall, std::min(kMostRows, kBlock / width / kTall * kTall));
    }
    int64_t tangent_rows() const {
        return std::max<int64_t>(1, std::min(rows(false), kTangents / width / std::max<int64_t>(1, features)));
    }
    int64_t widest() const { return std::max(std::max(width, narrow), std::max(given(), features)); }
    // Where the weights of a layer stand among those that come.
    int64_t input() const { return 4; }
    int64_t layer(int64_t block, bool outer) const { return 6 + 4 * block + (outer ? 2 : 0); }
    int64_t output() const { return 6 + 4 * blocks; }
};

template <class R> struct Net {
    Sizes sizes;
    Room<R> room;
    R *embed, *parts[2 * kMost], *input, *inner[kMost], *outer[kMost], *output; // there
    R *back_parts[2 * kMost], *back_inner[kMost], *back_outer[kMost], *back_output;
    R *bias_embed, *bias_input, *bias_inner[kMost], *bias_outer[kMost], *bias_output, *zeros;
    R *columns, *last; // of tangents: the input's weight turned, the output's in whole vectors

    Net(const Sizes &of, R *first, bool gradients) : sizes(of), room{first} {
        const int64_t width = sizes.width, d = sizes.features, narrow = sizes.narrow;
        embed = room.take(packed_size<R>(sizes.given(), narrow));
        for (int64_t p = 0; p < sizes.parts(); ++p) parts[p] = room.take(packed_size<R>(narrow, width));
        input = room.take(packed_size<R>(d, width));
        for (int64_t b = 0; b < sizes.blocks; ++b) {
            inner[b] = room.take(packed_size<R>(width, width));
            outer[b] = room.take(packed_size<R>(width, width));
        }
        output = room.take(packed_size<R>(width, d));
        if (gradients) {
            back_output = room.take(packed_size<R>(d, width));
            for (int64_t b = sizes.blocks - 1; b >= 0; --b) {
                back_outer[b] = room.take(packed_size<R>(width, width));
                back_inner[b] = room.take(packed_size<R>(width, width));
            }
            for (int64_t p = 0; p < sizes.parts(); ++p) back_parts[p] = room.take(packed_size<R>(width, narrow));
        }
        bias_embed = bias(narrow);
        bias_input = bias(width);
        for (int64_t b = 0; b < sizes.blocks; ++b) {
            bias_inner[b] = bias(width);
            bias_outer[b] = bias(width);
        }
        bias_output = bias(d);
        zeros = bias(width);
        columns = gradients ? nullptr : room.take(d * whole<R>(width));
        last = gradients ? nullptr : room.take(d * whole<R>(width));
    }

    R *bias(int64_t numbers) { return room.take(whole<R>(numbers) + kPanel<R>); }
    static void set(R *to, const R *from, int64_t numbers) {
        std::fill(to, to + whole<R>(numbers) + kPanel<R>, R(0));
        if (from) std::copy(from, from + numbers, to);
    }

    // `joined` has room for the weights of time and condition side by side.
    void fill(const R *const *weights, R *joined, bool gradients) {
        const int64_t width = sizes.width, d = sizes.features, narrow = sizes.narrow, given = sizes.given();
        for (int64_t r = 0; r < narrow; ++r) {
            std::copy(weights[0] + r * sizes.times, weights[0] + (r + 1) * sizes.times, joined + r * given);
            if (sizes.conditions)
                std::copy(weights[2] + r * sizes.conditions, weights[2] + (r + 1) * sizes.conditions,
                          joined + r * given + sizes.times);
        }
        pack_turned<R>(joined, given, narrow, embed);
        set(bias_embed, weights[1], narrow);
        for (int64_t p = 0; p < sizes.parts(); ++p) {
            const R *part = weights[3] + p * width * narrow;
            pack_turned<R>(part, narrow, width, parts[p]);
            if (gradients) pack<R>(part, width, narrow, back_parts[p]);
        }
        const R *const *at = weights + sizes.input();
        pack_turned<R>(at[0], d, width, input);
        set(bias_input, at[1], width);
        for (int64_t c = 0; columns && c < whole<R>(width); ++c)
            for (int64_t i = 0; i < d; ++i) columns[i * whole<R>(width) + c] = c < width ? at[0][c * d + i] : 0;
        for (int64_t b = 0; b < sizes.blocks; ++b)
            for (const bool second : {false, true}) {
                at = weights + sizes.layer(b, second);
                pack_turned<R>(at[0], width, width, second ? outer[b] : inner[b]);
                if (gradients) pack<R>(at[0], width, width, second ? back_outer[b] : back_inner[b]);
                set(second ? bias_outer[b] : bias_inner[b], at[1], width);
            }
        at = weights + sizes.output();
        pack_turned<R>(at[0], width, d, output);
        if (gradients) pack<R>(at[0], d, width, back_output);
        set(bias_output, at[1], d);
        set(zeros, nullptr, width);
        for (int64_t i = 0; last && i < d; ++i)
            for (int64_t c = 0; c < whole<R>(width); ++c) last[i * whole<R>(width) + c] = c < width ? at[0][i * width + c] : 0;
    }
};

// silu of the sums and, where wanted, its slopes.
template <class R> struct Lit {
    R *values, *slopes;
    int64_t row;
    void operator()(int64_t r, int64_t c, Vec<R> sum) const {
        Vec<R> value, slope;
        silu<R>(sum, value, slope);
        store<R>(values + r * row + c, value);
        if (slopes) store<R>(slopes + r * row + c, slope);
    }
};
// The stream with a bias more, and the same of it.
template <class R> struct Grown {
    R *stream;
    const R *bias;
    Lit<R> lit;
    void operator()(int64_t r, int64_t c, Vec<R> sum) const {
        const Vec<R> h = sum + load<R>(bias + c);
        store<R>(stream + r * lit.row + c, h);
        lit(r, c, h);
    }
};
// silu((1 + gain) u + shift); u is kept for the way back, the slope by u for tangents.
template <class R> struct Modulated {
    Lit<R> lit;
    const R *gain, *shift;
    int64_t row;
    R *kept;
    bool by_u;
    void operator()(int64_t r, int64_t c, Vec<R> u) const {
        const Vec<R> g = load<R>(gain + r * row + c);
        Vec<R> value, slope;
        silu<R>(u + load<R>(shift + r * row + c) + u * g, value, slope);
        store<R>(lit.values + r * lit.row + c, value);
        if (kept) store<R>(kept + r * lit.row + c, u);
        if (lit.slopes) store<R>(lit.slopes + r * lit.row + c, by_u ? slope * (1 + g) : slope);
    }
};

// What a block of rows is on its way there; for the way back everything is kept.
template <class R> struct Pass {
    const Net<R> &net;
    const bool kept, traced;
    int64_t rows, stride, modulation; // numbers in a row of the stream, of all gains and shifts
    R *given, *lit, *lit_slopes, *m, *x, *h, *p[kMost + 1], *by_h[kMost + 1], *q[kMost], *by_a[kMost], *u[kMost];

    Pass(const Net<R> &of, Room<R> &room, bool back, bool tangents)
        : net(of), kept(back), traced(tangents), rows(of.sizes.rows(back)), stride(whole<R>(of.sizes.width)),
          modulation(of.sizes.parts() * stride) {
        const Sizes &sizes = net.sizes;
        given = room.take(rows * whole<R>(sizes.given()));
        lit = room.take(rows * whole<R>(sizes.narrow));
        lit_slopes = kept ? room.take(rows * whole<R>(sizes.narrow)) : nullptr;
        m = room.take(rows * modulation);
        x = room.take(rows * whole<R>(sizes.features));
        h = room.take(rows * stride);
        R *one = kept ? nullptr : room.take(rows * stride), *other = kept ? nullptr : room.take(rows * stride);
        for (int64_t b = 0; b <= sizes.blocks; ++b) {
            p[b] = kept ? room.take(rows * stride) : one;
            by_h[b] = kept || traced ? room.take(rows * stride) : nullptr;
        }
        for (int64_t b = 0; b < sizes.blocks; ++b) {
            q[b] = kept ? room.take(rows * stride) : other;
            u[b] = kept ? room.take(rows * stride) : nullptr;
            by_a[b] = kept || traced ? room.take(rows * stride) : nullptr;
        }
    }

    // Gains and shifts of rows from `start` on.
    void modulate(const Input<R> &from, int64_t start, int64_t count) const {
        const Sizes &sizes = net.sizes;
        const int64_t depth = sizes.given(), width = whole<R>(depth), narrow = whole<R>(sizes.narrow);
        for (int64_t r = 0; r < count; ++r) {
            R *to = given + r * width;
            const R *time = from.time.first + (start + r) * from.time.row;
            const R *condition = from.condition.first + (start + r) * from.condition.row;
            to = std::copy(time, time + sizes.times, to);
            to = std::copy(condition, condition + sizes.conditions, to);
            std::fill(to, given + (r + 1) * width, R(0));
        }
        product<R>(count, sizes.narrow, depth, {given, width, 1}, packed<R>(net.embed, depth), {net.bias_embed, 0},
                   Lit<R>{lit, lit_slopes, narrow});
        for (int64_t part = 0; part < sizes.parts(); ++part)
            product<R>(count, sizes.width, sizes.narrow, {lit, narrow, 1}, packed<R>(net.parts[part], sizes.narrow),
                       {nullptr, 0}, Stored<R>{m + part * stride, modulation});
    }

    // All layers, with gains and shifts of their own or one for all rows.
    template <class Put>
    void forward(const Input<R> &from, int64_t start, int64_t count, bool shared, const Put &put) const {
        const Sizes &sizes = net.sizes;
        const int64_t d = sizes.features, width = sizes.width, points = whole<R>(d), row = shared ? 0 : modulation;
        if (!shared) modulate(from, start, count);
        for (int64_t r = 0; r < count; ++r) {
            const R *point = from.x.first + (start + r) * from.x.row;
            std::fill(std::copy(point, point + d, x + r * points), x + (r + 1) * points, R(0));
        }
        product<R>(count, width, d, {x, points, 1}, packed<R>(net.input, d), {net.bias_input, 0},
                   Grown<R>{h, net.zeros, {p[0], by_h[0], stride}});
        for (int64_t b = 0; b < sizes.blocks; ++b) {
            const R *gain = m + 2 * b * stride;
            product<R>(count, width, width, {p[b], stride, 1}, packed<R>(net.inner[b], width), {net.bias_inner[b], 0},
                       Modulated<R>{{q[b], by_a[b], stride}, gain, gain + stride, row, u[b], traced});
            product<R>(count, width, width, {q[b], stride, 1}, packed<R>(net.outer[b], width), {h, stride},
                       Grown<R>{h, net.bias_outer[b], {p[b + 1], by_h[b + 1], stride}});
        }
        product<R>(count, d, width, {p[sizes.blocks], stride, 1}, packed<R>(net.output, width), {net.bias_output, 0}, put);
    }
};

} // namespace
