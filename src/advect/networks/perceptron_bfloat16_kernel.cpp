// The perceptron of `perceptron_kernel.cpp` with products of bfloat16 numbers: weights, activations, tangents and
// gradients by activations are rounded to 8 bits before they are multiplied, all sums and the error are in float32, and
// so is what goes out. Activations are good to 14 bits, as they are rounded next. It is compiled for processors with
// `vdpbf16ps` and for those with tiles besides; `able` says whether this one is of the kind.

#include "../bfloat16.h"
#include "perceptron.h"

namespace {

constexpr int64_t kBlockRows = 128, kBlockRowsBack = 256;
constexpr int64_t kTangents = 64 * 1024; // numbers in the tangents of a block, of which there are two buffers

template <class T> T *take(Room<Brief> &room, int64_t numbers) {
    return reinterpret_cast<T *>(room.take(numbers * int64_t(sizeof(T) / sizeof(Brief))));
}

struct Packed {
    Shape shape;
    Room<Brief> room;
    Brief *turned[64], *back[64];
    float *bias[64], *columns, *last;

    Packed(const Shape &of, Brief *first, bool gradients) : shape(of), room{first} {
        for (int64_t l = 0; l < shape.layers; ++l) turned[l] = room.take(tiled(shape.in(l)) * tiled(shape.out(l)));
        for (int64_t l = shape.last(); l >= 0; --l)
            back[l] = gradients && l ? room.take(tiled(shape.in(l)) * tiled(shape.out(l))) : nullptr;
        for (int64_t l = 0; l < shape.layers; ++l) bias[l] = take<float>(room, tiled(shape.out(l)));
        columns = gradients ? nullptr : take<float>(room, shape.features * tiled(shape.out(0)));
        last = gradients ? nullptr : take<float>(room, shape.features * tiled(shape.in(shape.last())));
    }

    void fill(const float *const *weights) {
        for (int64_t l = 0; l < shape.layers; ++l) {
            const float *weight = weights[2 * l], *shift = weights[2 * l + 1];
            const int64_t in = shape.in(l), out = shape.out(l);
            for (int64_t start = 0; start < out; start += kTile)
                pack_weights(weight, out, in, start, turned[l], back[l]);
            std::fill(bias[l], bias[l] + tiled(out), 0.0f);
            if (shift) std::copy(shift, shift + out, bias[l]);
        }
        if (!columns) return;
        const int64_t first = shape.out(0), end = shape.in(shape.last());
        for (int64_t i = 0; i < shape.features; ++i) {
            float *column = columns + i * tiled(first), *row = last + i * tiled(end);
            for (int64_t c = 0; c < tiled(first); ++c) column[c] = c < first ? weights[0][c * shape.in(0) + i] : 0;
            for (int64_t c = 0; c < tiled(end); ++c) row[c] = c < end ? weights[2 * shape.last()][i * end + c] : 0;
        }
    }
};

void gather(const Shape &shape, const Input<float> &input, int64_t start, int64_t rows, Brief *to) {
    const int64_t width = tiled(shape.in(0));
    const Part<float> parts[] = {input.x, input.time, input.condition};
    const int64_t sizes[] = {shape.features, shape.times, shape.conditions};
    for (int64_t r = 0; r < rows; ++r, to += width) {
        Brief *next = to;
        for (int p = 0; p < 3; ++p) {
            const float *from = parts[p].first + (start + r) * parts[p].row;
            for (int64_t c = 0; c < sizes[p]; c += kWide)
                _mm256_mask_storeu_epi16(next + c, lanes_of(sizes[p] - c), rounded(load_some(from + c, sizes[p] - c)));
            next += sizes[p];
        }
        std::fill(next, to + width, Brief(0));
    }
}

// 2^whole (1 + rest) = exp(x), the rest to 14 bits; of NaN NaN.
inline void parts_of_exp(Floats x, Floats &power, Floats &rest) {
    // The second of two numbers is the answer where one of them is NaN.
    __m512 within = _mm512_max_ps(_mm512_set1_ps(-126.0f), (__m512)(x * 1.4426950408889634f));
    within = _mm512_min_ps(_mm512_set1_ps(127.0f), within);
    const Floats whole = (Floats)_mm512_roundscale_ps(within, _MM_FROUND_TO_NEAREST_INT);
    const Floats f = (Floats)within - whole;
    rest = f * (0.69314718f + f * (0.24022651f + f * (0.05550411f + f * 0.00961813f)));
    power = (Floats)_mm512_scalef_ps(_mm512_set1_ps(1.0f), (__m512)whole);
}
inline Floats fraction(Floats x) { return (Floats)_mm512_rcp14_ps((__m512)x); }

// What slopes are multiplied by: kept as parts of it, those above zero are not rounded.
inline float scale_of(int64_t activation) { return activation == kSelu ? 1.0507009873554805f : 1.0f; }

// Value and slope of an activation, the latter as a part of its scale.
template <int Kind> inline void activated(Floats a, Floats &value, Floats &slope) {
    Floats power, rest;
    if (Kind == kSelu || Kind == kElu) {
        const float alpha = Kind == kSelu ? 1.6732632423543772f : 1;
        parts_of_exp(a, power, rest);
        const Floats below = alpha * (power * rest + (power - 1));
        value = scale_of(Kind) * (a > 0 ? a : below);
        slope = a > 0 ? all<float>(1) : below + alpha;
    } else if (Kind == kSilu) {
        parts_of_exp(-a, power, rest);
        const Floats share = fraction(1 + (power + power * rest));
        value = a * share;
        slope = share + value * (1 - share);
    } else {
        // Beyond 16 it is 1, and the exponential would have no fraction.
        const Floats within = (Floats)_mm512_min_ps(_mm512_set1_ps(16.0f), (__m512)a);
        parts_of_exp(within * 2, power, rest);
        const Floats grown = power * rest + (power - 1);
        value = grown * fraction(grown + 2);
        slope = 1 - value * value;
    }
}

template <int Kind> struct Activated {
    Brief *values, *slopes;
    int64_t row;
    const float *bias;
    void operator()(int64_t r, int64_t c, __m512 value) const {
        Floats result, slope;
        activated<Kind>((Floats)value + load<float>(bias + c), result, slope);
        store_brief(values + r * row + c, (__m512)result);
        if (slopes) store_brief(slopes + r * row + c, (__m512)slope);
    }
};
// Results times the slopes of their row, of which several results may share one.
struct Slopes {
    const Brief *first;
    int64_t row;
    const int32_t *owner;
    float scale;
    __m512 times(int64_t r, int64_t c, __m512 value) const {
        return (__m512)((Floats)value * scale * (Floats)load_brief(first + owner[r] * row + c));
    }
};
struct Scaled {
    Brief *first;
    Slopes slopes;
    void operator()(int64_t r, int64_t c, __m512 value) const {
        store_brief(first + r * slopes.row + c, slopes.times(r, c, value));
    }
};
// The same, and summed with the last layer's weights: a row's trace, lane by lane.
struct Traced {
    float *sums;
    Slopes slopes;
    const float *last;
    int64_t features;
    void operator()(int64_t r, int64_t c, __m512 value) const {
        const int64_t of = slopes.owner[r];
        const Floats weight = load<float>(last + (r - of * features) * slopes.row + c);
        store<float>(sums + of * kWide, load<float>(sums + of * kWide) + (Floats)slopes.times(r, c, value) * weight);
    }
};
// Gradients by weights: only the columns there are, added where some are there already.
struct Summed {
    float *first;
    int64_t rows, columns;
    bool more;
    void operator()(int64_t r, int64_t c, __m512 value) const {
        if (r >= rows || c >= columns) return;
        float *to = first + r * columns + c;
        if (more) value = _mm512_add_ps(value, load_some(to, columns - c));
        _mm512_mask_storeu_ps(to, lanes_of(columns - c), value);
    }
};

// They come from memory, which takes as long as the sums.
inline void expect(const Summed &sums, int64_t row, int64_t column) {
    for (int64_t r = row; r < std::min(sums.rows, row + kRows); ++r) {
        __builtin_prefetch(sums.first + r * sums.columns + column, 1);
        __builtin_prefetch(sums.first + r * sums.columns + column + kWide, 1);
    }
}

struct Block {
    const Packed &net;
    int64_t rows;
    Brief *input, *values[64], *slopes[64];

    Block(const Packed &of, Room<Brief> &room, bool kept, bool with_slopes)
        : net(of), rows(kept ? kBlockRowsBack : kBlockRows) {
        const Shape &shape = net.shape;
        input = room.take((rows + kRows) * tiled(shape.in(0)));
        Brief *turns[2];
        for (Brief *&turn : turns) turn = kept ? nullptr : room.take((rows + kRows) * tiled(shape.widest()));
        for (int64_t l = 0; l < shape.last(); ++l) {
            values[l] = kept ? room.take((rows + kRows) * tiled(shape.out(l))) : turns[l % 2];
            slopes[l] = with_slopes ? room.take(rows * tiled(shape.out(l))) : nullptr;
        }
    }

    template <int Kind> void layer(int64_t l, int64_t count, const Brief *h) const {
        const int64_t in = net.shape.in(l), out = net.shape.out(l);
        product(count, out, in, h, net.turned[l], Activated<Kind>{values[l], slopes[l], tiled(out), net.bias[l]});
    }

    void forward(const Input<float> &from, int64_t start, int64_t count, Clipped<float> to) const {
        const Shape &shape = net.shape;
        gather(shape, from, start, count, input);
        const Brief *h = input;
        for (int64_t l = 0; l < shape.last(); ++l) {
            if (shape.activation == kSelu) layer<kSelu>(l, count, h);
            if (shape.activation == kElu) layer<kElu>(l, count, h);
            if (shape.activation == kSilu) layer<kSilu>(l, count, h);
            if (shape.activation == kTanh) layer<kTanh>(l, count, h);
            h = values[l];
        }
        const int64_t last = shape.last();
        product(count, shape.out(last), shape.in(last), h, net.turned[last], Said{to, net.bias[last]});
    }
};

// Tangents of all coordinates through a block whose slopes are there, and the trace at the end.
struct Tangents {
    const Packed &net;
    int64_t rows;
    Brief *turns[2];
    float *sums;
    int32_t *owner;

    Tangents(const Packed &of, Room<Brief> &room) : net(of) {
        const int64_t d = net.shape.features, width = tiled(net.shape.widest());
        rows = std::max<int64_t>(1, std::min(kBlockRows, kTangents / width / d));
        for (Brief *&turn : turns) turn = room.take((rows * d + kRows) * width);
        sums = take<float>(room, rows * kWide);
        owner = take<int32_t>(room, rows * d);
    }

    void trace(const Block &block, int64_t from, int64_t count, float *to) const {
        const Shape &shape = net.shape;
        const int64_t d = shape.features, hidden = shape.last();
        const auto slopes = [&](int64_t l) {
            const int64_t width = tiled(shape.out(l));
            return Slopes{block.slopes[l] + from * width, width, owner, scale_of(shape.activation)};
        };
        std::fill(sums, sums + count * kWide, 0.0f);
        for (int64_t r = 0; r < count * d; ++r) owner[r] = int32_t(r / d);
        const int64_t width = tiled(shape.out(0));
        const Scaled first{turns[0], slopes(0)};
        const Traced only{sums, slopes(0), net.last, d};
        for (int64_t r = 0; r < count * d; ++r)
            for (int64_t c = 0; c < width; c += kWide) {
                const __m512 column = _mm512_loadu_ps(net.columns + (r - owner[r] * d) * width + c);
                hidden == 1 ? only(r, c, column) : first(r, c, column);
            }
        for (int64_t l = 1; l < hidden; ++l) {
            const Brief *given = turns[(l - 1) % 2];
            const int64_t in = shape.in(l), out = shape.out(l);
            if (l + 1 == hidden)
                product(count * d, out, in, given, net.turned[l], Traced{sums, slopes(l), net.last, d});
            else
                product(count * d, out, in, given, net.turned[l], Scaled{turns[l % 2], slopes(l)});
        }
        for (int64_t r = 0; r < count; ++r) to[r] = _mm512_reduce_add_ps(_mm512_load_ps(sums + r * kWide));
    }
};

int64_t forward(const Shape &shape, int64_t rows, const Input<float> &input, const Brief *packed, Brief *memory,
                float *out, float *traces) {
    const Packed net(shape, const_cast<Brief *>(packed), false);
    Room<Brief> room{memory};
    const bool traced = shape.features && (traces || !memory);
    const Block block(net, room, false, traced);
    const Tangents tangents(net, room);
    for (int64_t start = 0; memory && start < rows; start += block.rows) {
        const int64_t count = std::min(block.rows, rows - start);
        block.forward(input, start, count, {out + start * shape.features, shape.features, shape.features});
        for (int64_t from = 0; traced && from < count; from += tangents.rows)
            tangents.trace(block, from, std::min(tangents.rows, count - from), traces + start + from);
    }
    return room.used;
}

void round_rows(int64_t rows, int64_t columns, const float *from, int64_t row, Brief *to) {
    for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < tiled(columns); c += kWide)
            store_brief(to + r * tiled(columns) + c, load_some(from + r * row + c, columns - c));
}

void add_columns(int64_t rows, int64_t columns, const Brief *from, float *to, bool more) {
    for (int64_t c = 0; c < columns; c += kWide) {
        __m512 sum = more ? load_some(to + c, columns - c) : _mm512_setzero_ps();
        for (int64_t r = 0; r < rows; ++r) sum = _mm512_add_ps(sum, load_brief(from + r * tiled(columns) + c));
        _mm512_mask_storeu_ps(to + c, lanes_of(columns - c), sum);
    }
}

int64_t backward(const Shape &shape, int64_t rows, const Input<float> &input, const Brief *packed, Brief *memory,
                 const Back<float> &back) {
    const Packed net(shape, const_cast<Brief *>(packed), true);
    Room<Brief> room{memory};
    const Block block(net, room, true, true);
    const int64_t last = shape.last(), d = shape.features, width = tiled(shape.widest());
    float *said = take<float>(room, block.rows * whole<float>(d));
    Brief *turns[2], *turned = room.take((width + kRows) * tiled(block.rows));
    Brief *panels = room.take(width * tiled(block.rows));
    for (Brief *&turn : turns) turn = room.take((block.rows + kRows) * width);
    int32_t *owner = take<int32_t>(room, block.rows);
    if (!memory) return room.used;
    for (int64_t r = 0; r < block.rows; ++r) owner[r] = int32_t(r);

    for (int64_t start = 0; start == 0 || start < rows; start += block.rows) {
        const int64_t count = std::min(block.rows, rows - start);
        block.forward(input, start, count, {said, whole<float>(d), d});
        Brief *given = turns[(last + 1) % 2];
        if (back.target) {
            error_of(shape.features, back, rows, start, count, said);
            round_rows(count, d, said, whole<float>(d), given);
        } else {
            round_rows(count, d, back.by_output + start * d, d, given);
        }
        for (int64_t l = last; l >= 0; --l) {
            const int64_t in = shape.in(l), out = shape.out(l);
            turn_rows(given, count, tiled(out), turned);
            pack_rows(l ? block.values[l - 1] : block.input, count, tiled(in), panels);
            product(out, in, count, turned, panels, Summed{back.gradients[2 * l], out, in, start > 0});
            if (back.gradients[2 * l + 1]) add_columns(count, out, given, back.gradients[2 * l + 1], start > 0);
            if (!l) break;
            Brief *next = turns[l % 2];
            const Slopes slopes{block.slopes[l - 1], tiled(in), owner, scale_of(shape.activation)};
            product(count, in, out, given, net.back[l], Scaled{next, slopes});
            given = next;
        }
    }
    return room.used;
}

} // namespace

ADVECT_PUBLIC(advect_perceptron_able_bfloat16)() { return able(); }
ADVECT_PUBLIC(advect_perceptron_room_bfloat16)(const int64_t *shape, int64_t gradients, int64_t *sizes) {
    const Shape of(shape);
    sizes[0] = Packed(of, nullptr, gradients != 0).room.used;
    sizes[1] = gradients ? backward(of, 0, {}, nullptr, nullptr, {})
                         : forward(of, 0, {}, nullptr, nullptr, nullptr, nullptr);
    return 0;
}
ADVECT_PUBLIC(advect_perceptron_pack_bfloat16)
(const int64_t *shape, int64_t gradients, const float *const *weights, Brief *packed) {
    Packed(Shape(shape), packed, gradients != 0).fill(weights);
    return 0;
}
ADVECT_PUBLIC(advect_perceptron_forward_bfloat16)
(const int64_t *shape, int64_t rows, const float *x, int64_t xr, const float *time, int64_t tr, const float *condition,
 int64_t cr, const Brief *packed, Brief *memory, float *out, float *traces) {
    const Tiles tiles;
    forward(Shape(shape), rows, {{x, xr}, {time, tr}, {condition, cr}}, packed, memory, out, traces);
    return 0;
}
ADVECT_PUBLIC(advect_perceptron_back_bfloat16)
(const int64_t *shape, int64_t rows, const float *x, int64_t xr, const float *time, int64_t tr, const float *condition,
 int64_t cr, const Brief *packed, Brief *memory, const float *by_output, const float *target, const float *weight,
 float *const *gradients, double *loss) {
    const Tiles tiles;
    *loss = 0;
    backward(Shape(shape), rows, {{x, xr}, {time, tr}, {condition, cr}}, packed, memory,
             {by_output, target, weight, gradients, loss});
    return 0;
}
