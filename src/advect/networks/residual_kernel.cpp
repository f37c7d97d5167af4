// The residual network of `residual.py`, block by block of rows: what it says, its exact divergence, and the gradient of a
// mean squared error by its weights, as `residual_regressor.py` writes them down. A block's numbers stay in cache from the
// first layer to the last, and there and back; gains, shifts, activations and their slopes are taken while the sums of a
// product are in registers.
//
// `shape` is {blocks, numbers of x, of the time's features, of the condition, units of the embedding, of the stream}.
// Weights come as those of time (with bias), condition (or null), modulation, input (with bias), of each block the inner
// and the outer (with biases), output (with bias); they are packed once (`pack`) and may be used by many calls. The
// modulation is 2 x blocks layers of their own: gain and shift of each block in turn. Where one time serves all rows
// and there is no condition they are computed once.

#include "../shares.h"
#include "residual.h"

namespace {

// Tangents of all coordinates through a block of rows, and their trace. Those after a block: kept for the next, and times
// the slopes that come first there.
template <class R> struct Both {
    R *tangents;
    Scaled<R> next;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        store<R>(tangents + r * next.row + c, value);
        next(r, c, value);
    }
};
template <class R> struct Tangents {
    const Net<R> &net;
    int64_t rows;
    R *tangents, *scaled, *inside, *sums;
    int32_t *owner;

    Tangents(const Net<R> &of, Room<R> &room) : net(of), rows(of.sizes.tangent_rows()) {
        const int64_t numbers = rows * net.sizes.features;
        for (R **one : {&tangents, &scaled, &inside}) *one = room.take(numbers * whole<R>(net.sizes.width));
        sums = room.take(rows * kLanes<R>);
        owner = reinterpret_cast<int32_t *>(room.take(numbers));
    }

    void trace(const Pass<R> &pass, int64_t from, int64_t count, R *to) const {
        const Sizes &sizes = net.sizes;
        const int64_t d = sizes.features, width = sizes.width, row = pass.stride, off = from * row;
        std::fill(sums, sums + count * kLanes<R>, R(0));
        for (int64_t r = 0; r < count * d; ++r) owner[r] = int32_t(r / d);
        const Both<R> first{tangents, {scaled, row, pass.by_h[0] + off, owner}};
        for (int64_t r = 0; r < count * d; ++r)
            for (int64_t c = 0; c < row; c += kLanes<R>) first(r, c, load<R>(net.columns + (r - owner[r] * d) * row + c));
        for (int64_t b = 0; b < sizes.blocks; ++b) {
            product<R>(count * d, width, width, {scaled, row, 1}, packed<R>(net.inner[b], width), {nullptr, 0},
                       Scaled<R>{inside, row, pass.by_a[b] + off, owner});
            const R *slopes = pass.by_h[b + 1] + off;
            if (b + 1 < sizes.blocks)
                product<R>(count * d, width, width, {inside, row, 1}, packed<R>(net.outer[b], width), {tangents, row},
                           Both<R>{tangents, {scaled, row, slopes, owner}});
            else
                product<R>(count * d, width, width, {inside, row, 1}, packed<R>(net.outer[b], width), {tangents, row},
                           Traced<R>{sums, row, slopes, owner, net.last, d});
        }
        for (int64_t r = 0; r < count; ++r) to[r] = sum_of<R>(load<R>(sums + r * kLanes<R>));
    }
};

// Rows from `first` to `end`; without memory only its size.
template <class R>
int64_t forward(const Sizes &sizes, int64_t first, int64_t end, const Input<R> &input, const R *packed_weights, R *memory,
                R *out, R *traces) {
    const Net<R> net(sizes, const_cast<R *>(packed_weights), false);
    Room<R> room{memory};
    const bool traced = traces || !memory, one_time = !input.time.row && !sizes.conditions;
    const Pass<R> pass(net, room, false, traced);
    const Tangents<R> tangents(net, room);
    if (!memory) return room.used;
    if (one_time) pass.modulate(input, 0, 1);
    for (int64_t start = first; start < end; start += pass.rows) {
        const int64_t count = std::min(pass.rows, end - start), d = sizes.features;
        pass.forward(input, start, count, one_time, Clipped<R>{out + start * d, d, d});
        for (int64_t from = 0; traced && from < count; from += tangents.rows)
            tangents.trace(pass, from, std::min(tangents.rows, count - from), traces + start + from);
    }
    return room.used;
}
// All rows, shared by threads, each with memory of its own.
template <class R>
void forward_shared(const Sizes &sizes, int64_t rows, const Input<R> &input, const R *packed_weights, R *memory, R *out,
                    R *traces, int64_t threads) {
    const int64_t each = forward<R>(sizes, 0, 0, {}, nullptr, nullptr, nullptr, nullptr);
    shared(threads, threads, [&](int64_t from, int64_t to) {
        forward<R>(sizes, rows * from / threads, rows * to / threads, input, packed_weights, memory + from * each, out, traces);
    });
}

// On the way back. By the sum before a slope.
template <class R> struct Sloped {
    R *first;
    const R *slopes;
    int64_t row;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        store<R>(first + r * row + c, value * load<R>(slopes + r * row + c));
    }
};
// The same onto what is there.
template <class R> struct SlopedOnto {
    R *first;
    const R *slopes;
    int64_t row;
    void operator()(int64_t r, int64_t c, Vec<R> value) const {
        R *at = first + r * row + c;
        store<R>(at, load<R>(at) + value * load<R>(slopes + r * row + c));
    }
};
// By gain, shift and u, from that by q.
template <class R> struct Inside {
    const R *slopes, *u, *gain;
    R *by_gain, *by_u; // that by the shift follows that by the gain
    int64_t stride, row;
    void operator()(int64_t r, int64_t c, Vec<R> by_q) const {
        const int64_t at = r * stride + c, of = r * row + c;
        const Vec<R> by_a = by_q * load<R>(slopes + at);
        store<R>(by_gain + of, by_a * load<R>(u + at));
        store<R>(by_gain + stride + of, by_a);
        store<R>(by_u + at, by_a + by_a * load<R>(gain + of));
    }
};

template <class R>
int64_t backward(const Sizes &sizes, int64_t rows, const Input<R> &input, const R *packed_weights, R *memory,
                 const Back<R> &back) {
    const Net<R> net(sizes, const_cast<R *>(packed_weights), true);
    Room<R> room{memory};
    const Pass<R> pass(net, room, true, false);
    const int64_t d = sizes.features, width = sizes.width, narrow = sizes.narrow, given = sizes.given();
    const int64_t stride = pass.stride, points = whole<R>(d), slim = whole<R>(narrow);
    R *said = room.take(pass.rows * points), *panels = room.take(pass.rows * whole<R>(sizes.widest() + kPanel<R>));
    R *by_h = room.take(pass.rows * stride), *by_u = room.take(pass.rows * stride), *by_e = room.take(pass.rows * slim);
    R *by_m = room.take(pass.rows * pass.modulation);
    R *const *to = back.gradients;
    const auto place = [&](int64_t layer) { return to ? to[layer] : nullptr; };
    const Gradient<R> embed = {room.take(narrow * whole<R>(given)), room.take(slim), whole<R>(given)};
    Gradient<R> parts[2 * kMost], inner[kMost], outer[kMost];
    for (int64_t p = 0; p < sizes.parts(); ++p)
        parts[p] = gradient_of<R>(narrow, width, to ? to[3] + p * width * narrow : nullptr, room);
    const Gradient<R> first = gradient_of<R>(d, width, place(sizes.input()), room);
    for (int64_t b = 0; b < sizes.blocks; ++b) {
        inner[b] = gradient_of<R>(width, width, place(sizes.layer(b, false)), room);
        outer[b] = gradient_of<R>(width, width, place(sizes.layer(b, true)), room);
    }
    const Gradient<R> last = gradient_of<R>(width, d, place(sizes.output()), room);
    if (!memory) return room.used;

    for (int64_t start = 0; start == 0 || start < rows; start += pass.rows) {
        const int64_t count = std::min(pass.rows, rows - start);
        const bool fresh = start == 0;
        pass.forward(input, start, count, false, Stored<R>{said, points});
        error_of(d, back, rows, start, count, said);
        add_weight<R>(last, d, width, count, {said, points}, pass.p[sizes.blocks], panels, fresh);
        add_columns<R>(count, {said, points}, points, last.by_bias, fresh);
        product<R>(count, width, d, {said, points, 1}, packed<R>(net.back_output, d), {nullptr, 0},
                   Sloped<R>{by_h, pass.by_h[sizes.blocks], stride});
        for (int64_t b = sizes.blocks - 1; b >= 0; --b) {
            add_weight<R>(outer[b], width, width, count, {by_h, stride}, pass.q[b], panels, fresh);
            add_columns<R>(count, {by_h, stride}, stride, outer[b].by_bias, fresh);
            const int64_t gain = 2 * b * stride;
            product<R>(count, width, width, {by_h, stride, 1}, packed<R>(net.back_outer[b], width), {nullptr, 0},
                       Inside<R>{pass.by_a[b], pass.u[b], pass.m + gain, by_m + gain, by_u, stride, pass.modulation});
            add_weight<R>(inner[b], width, width, count, {by_u, stride}, pass.p[b], panels, fresh);
            add_columns<R>(count, {by_u, stride}, stride, inner[b].by_bias, fresh);
            product<R>(count, width, width, {by_u, stride, 1}, packed<R>(net.back_inner[b], width), {nullptr, 0},
                       SlopedOnto<R>{by_h, pass.by_h[b], stride});
        }
        add_weight<R>(first, width, d, count, {by_h, stride}, pass.x, panels, fresh);
        add_columns<R>(count, {by_h, stride}, stride, first.by_bias, fresh);
        for (int64_t p = 0; p < sizes.parts(); ++p) {
            const Part<R> by_part{by_m + p * stride, pass.modulation};
            add_weight<R>(parts[p], width, narrow, count, by_part, pass.lit, panels, fresh);
            const Left<R> left{by_part.first, by_part.row, 1};
            const Right<R> right = packed<R>(net.back_parts[p], width);
            const Start<R> sum{p ? by_e : nullptr, slim};
            if (p + 1 < sizes.parts()) product<R>(count, narrow, width, left, right, sum, Stored<R>{by_e, slim});
            else product<R>(count, narrow, width, left, right, sum, Sloped<R>{by_e, pass.lit_slopes, slim});
        }
        add_weight<R>(embed, narrow, given, count, {by_e, slim}, pass.given, panels, fresh);
        add_columns<R>(count, {by_e, slim}, slim, embed.by_bias, fresh);
    }

    for (int64_t r = 0; r < narrow; ++r) {
        const R *row = embed.by_weight + r * embed.row;
        std::copy(row, row + sizes.times, to[0] + r * sizes.times);
        if (to[2]) std::copy(row + sizes.times, row + given, to[2] + r * sizes.conditions);
    }
    if (to[1]) std::copy(embed.by_bias, embed.by_bias + narrow, to[1]);
    for (int64_t p = 0; p < sizes.parts(); ++p) {
        R *const here[2] = {to[3] + p * width * narrow, nullptr};
        parts[p].hand_over(width, narrow, here);
    }
    first.hand_over(width, d, to + sizes.input());
    for (int64_t b = 0; b < sizes.blocks; ++b) {
        inner[b].hand_over(width, width, to + sizes.layer(b, false));
        outer[b].hand_over(width, width, to + sizes.layer(b, true));
    }
    last.hand_over(d, width, to + sizes.output());
    return room.used;
}

} // namespace

#define ADVECT_RESIDUAL(R, name)                                                                                       \
    ADVECT_PUBLIC(advect_residual_room_##name)(const int64_t *shape, int64_t gradients, int64_t *sizes) {              \
        const Sizes of(shape);                                                                                         \
        sizes[0] = Net<R>(of, nullptr, gradients != 0).room.used;                                                      \
        sizes[1] = gradients ? backward<R>(of, 0, {}, nullptr, nullptr, {})                                            \
                             : forward<R>(of, 0, 0, {}, nullptr, nullptr, nullptr, nullptr);                           \
        sizes[2] = of.narrow * of.given();                                                                             \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_residual_pack_##name)                                                                         \
    (const int64_t *shape, int64_t gradients, const R *const *weights, R *packed, R *joined) {                         \
        Net<R>(Sizes(shape), packed, gradients != 0).fill(weights, joined, gradients != 0);                            \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_residual_forward_##name)                                                                      \
    (const int64_t *shape, int64_t rows, const R *x, const R *time, int64_t tr, const R *condition, const R *packed,   \
     R *memory, R *out, R *traces, int64_t threads) {                                                                  \
        const Sizes of(shape);                                                                                         \
        forward_shared<R>(of, rows, {{x, of.features}, {time, tr}, {condition, of.conditions}}, packed, memory, out,   \
                          traces, threads);                                                                            \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_residual_back_##name)                                                                         \
    (const int64_t *shape, int64_t rows, const R *x, const R *time, const R *condition, const R *packed, R *memory,    \
     const R *target, const R *weight, R *const *gradients, double *loss) {                                            \
        const Sizes of(shape);                                                                                         \
        *loss = 0;                                                                                                     \
        backward<R>(of, rows, {{x, of.features}, {time, of.times}, {condition, of.conditions}}, packed, memory,        \
                    {nullptr, target, weight, gradients, loss});                                                       \
        return 0;                                                                                                      \
    }

ADVECT_RESIDUAL(float, float)
ADVECT_RESIDUAL(double, double)
