// A network of linear layers with one activation between them, block by block of rows: what it says, its exact
// divergence, and the gradient of a loss by its weights. A block's numbers stay in cache from the first
// layer to the last, and there and back; torch's own operations cost more than the arithmetic here where layers are
// narrow and rows few.
//
// `shape` is {layers, activation, numbers of x, of the time, of the condition, width of the input, …, of the output}.
// Rows of the input are put together from these three parts, a part with row stride 0 is one for all rows. Weights are
// packed once (`pack`) and may be used by many calls. Values, slopes and tangents are written out here as in layers.py
// and field.py; sums are of the type of the numbers, the loss is summed in float64.
//
// The file is compiled once for each instruction set, with ADVECT_SET naming the functions. There is no state between
// calls and no call into Python; whoever calls brings the room, whose size `room` tells.

#include "gradients.h"
#include "tangents.h"

namespace {

// Rows of a block are multiples of kTall. Where all weights stay in the second cache, activations stay in the first;
// beyond that every block fetches the weights anew, and on the way back their gradients, which many rows then share.
constexpr int64_t kMostRows = 96, kMostRowsBack = 258;
constexpr int64_t kBlock = 8192;        // numbers in the activations of a block: 32 kB in float32
constexpr int64_t kWeights = 32 * kBlock; // numbers in weights that stay
constexpr int64_t kTangents = 6 * kBlock; // numbers in the tangents of a block: both buffers stay in the second cache

// Rows that go together.
inline int64_t block_rows(const Shape &shape, bool gradients) {
    if (shape.weights() > kWeights) return gradients ? kMostRowsBack : kMostRows;
    return std::max<int64_t>(2 * kTall, std::min(kMostRows, kBlock / shape.widest() / kTall * kTall));
}
inline int64_t tangent_rows(const Shape &shape) {
    return std::max<int64_t>(1, std::min(block_rows(shape, false), kTangents / shape.widest() / shape.features));
}

// Packed weights of every layer, there and back, and what tangents need.
template <class R> struct Packed {
    Shape shape;
    Room<R> room;
    R *turned[64], *back[64], *bias[64];
    R *columns, *last;

    Packed(const Shape &of, R *first, bool gradients) : shape(of), room{first} {
        // In the order of their use, as the end of one asks for the next (`products.h`).
        for (int64_t l = 0; l < shape.layers; ++l) turned[l] = room.take(packed_size<R>(shape.in(l), shape.out(l)));
        for (int64_t l = shape.last(); l >= 0; --l)
            back[l] = gradients && l ? room.take(packed_size<R>(shape.out(l), shape.in(l))) : nullptr;
        for (int64_t l = 0; l < shape.layers; ++l) bias[l] = room.take(whole<R>(shape.out(l)) + kPanel<R>);
        columns = gradients ? nullptr : room.take(shape.features * whole<R>(shape.out(0)));
        last = gradients ? nullptr : room.take(shape.features * whole<R>(shape.in(shape.last())));
    }

    // weights: weight and bias of every layer in turn; a bias may be missing.
    void fill(const R *const *weights) {
        for (int64_t l = 0; l < shape.layers; ++l) {
            const R *weight = weights[2 * l], *shift = weights[2 * l + 1];
            const int64_t in = shape.in(l), out = shape.out(l);
            pack_turned<R>(weight, in, out, turned[l]);
            std::fill(bias[l], bias[l] + whole<R>(out) + kPanel<R>, R(0));
            if (shift) std::copy(shift, shift + out, bias[l]);
            if (back[l]) pack<R>(weight, out, in, back[l]);
        }
        if (!columns) return;
        const int64_t first = shape.out(0), end = shape.in(shape.last());
        for (int64_t i = 0; i < shape.features; ++i) {
            R *column = columns + i * whole<R>(first), *row = last + i * whole<R>(end);
            for (int64_t c = 0; c < whole<R>(first); ++c) column[c] = c < first ? weights[0][c * shape.in(0) + i] : 0;
            for (int64_t c = 0; c < whole<R>(end); ++c)
                row[c] = c < end ? weights[2 * shape.last()][i * end + c] : 0;
        }
    }
};

template <class R> void gather(const Shape &shape, const Input<R> &input, int64_t start, int64_t rows, R *to) {
    const int64_t width = whole<R>(shape.in(0));
    const Part<R> parts[] = {input.x, input.time, input.condition};
    const int64_t sizes[] = {shape.features, shape.times, shape.conditions};
    for (int64_t r = 0; r < rows; ++r, to += width) {
        R *next = to;
        for (int p = 0; p < 3; ++p)
            for (int64_t c = 0; c < sizes[p]; ++c) *next++ = parts[p].first[(start + r) * parts[p].row + c];
        std::fill(next, to + width, R(0));
    }
}

template <class R, int Kind> void activate_as(int64_t numbers, R *values, R *slopes) {
    for (int64_t i = 0; i < numbers; i += kLanes<R>) {
        Vec<R> value, slope;
        activated<R, Kind>(load<R>(values + i), value, slope);
        store<R>(values + i, value);
        if (slopes) store<R>(slopes + i, slope);
    }
}
template <class R> void activate(int64_t kind, int64_t numbers, R *values, R *slopes) {
    if (kind == kSelu) activate_as<R, kSelu>(numbers, values, slopes);
    if (kind == kElu) activate_as<R, kElu>(numbers, values, slopes);
    if (kind == kSilu) activate_as<R, kSilu>(numbers, values, slopes);
    if (kind == kTanh) activate_as<R, kTanh>(numbers, values, slopes);
}

// Values and slopes of the hidden layers of a block of rows; slopes may be left out, and values then take turns.
template <class R> struct Block {
    const Packed<R> &net;
    int64_t rows;
    R *input, *values[64], *slopes[64];

    Block(const Packed<R> &of, Room<R> &room, bool kept, bool with_slopes) : net(of), rows(block_rows(of.shape, kept)) {
        const Shape &shape = net.shape;
        input = room.take(rows * whole<R>(shape.in(0)));
        R *turns[2];
        for (R *&turn : turns) turn = kept ? nullptr : room.take(rows * whole<R>(shape.widest()));
        for (int64_t l = 0; l < shape.last(); ++l) {
            values[l] = kept ? room.take(rows * whole<R>(shape.out(l))) : turns[l % 2];
            slopes[l] = with_slopes ? room.take(rows * whole<R>(shape.out(l))) : nullptr;
        }
    }

    template <class Put> void forward(const Input<R> &from, int64_t start, int64_t count, const Put &put) const {
        const Shape &shape = net.shape;
        gather(shape, from, start, count, input);
        const R *h = input;
        for (int64_t l = 0; l < shape.layers; ++l) {
            const int64_t in = shape.in(l), out = shape.out(l);
            const Left<R> left{h, whole<R>(in), 1};
            const Right<R> right = packed<R>(net.turned[l], in);
            if (l == shape.last()) {
                product<R>(count, out, in, left, right, {net.bias[l], 0}, put);
            } else {
                product<R>(count, out, in, left, right, {net.bias[l], 0}, Stored<R>{values[l], whole<R>(out)});
                activate<R>(shape.activation, count * whole<R>(out), values[l], slopes[l]);
                h = values[l];
            }
        }
    }
};

// Tangents of all coordinates through a block whose slopes are there, and the trace at the end.
template <class R> struct Tangents {
    const Packed<R> &net;
    int64_t rows;
    R *turns[2], *sums;
    int32_t *owner;

    Tangents(const Packed<R> &of, Room<R> &room) : net(of), rows(tangent_rows(of.shape)) {
        const int64_t numbers = rows * net.shape.features;
        for (R *&turn : turns) turn = room.take(numbers * whole<R>(net.shape.widest()));
        sums = room.take(rows * kLanes<R>);
        owner = reinterpret_cast<int32_t *>(room.take(numbers));
    }

    void trace(const Block<R> &block, int64_t from, int64_t count, R *to) const {
        const Shape &shape = net.shape;
        const int64_t d = shape.features, hidden = shape.last();
        std::fill(sums, sums + count * kLanes<R>, R(0));
        for (int64_t r = 0; r < count * d; ++r) owner[r] = int32_t(r / d);
        int64_t width = whole<R>(shape.out(0));
        const Scaled<R> first{turns[0], width, block.slopes[0] + from * width, owner};
        const Traced<R> only{sums, width, block.slopes[0] + from * width, owner, net.last, d};
        for (int64_t r = 0; r < count * d; ++r)
            for (int64_t c = 0; c < width; c += kLanes<R>) {
                const Vec<R> column = load<R>(net.columns + (r - owner[r] * d) * width + c);
                hidden == 1 ? only(r, c, column) : first(r, c, column);
            }
        const R *given = turns[0];
        for (int64_t l = 1; l < hidden; ++l) {
            const Left<R> left{given, width, 1};
            width = whole<R>(shape.out(l));
            const R *slopes = block.slopes[l] + from * width;
            const Right<R> right = packed<R>(net.turned[l], shape.in(l));
            if (l + 1 == hidden) {
                const Traced<R> traced{sums, width, slopes, owner, net.last, d};
                product<R>(count * d, shape.out(l), shape.in(l), left, right, {nullptr, 0}, traced);
            } else {
                const Scaled<R> scaled{turns[l % 2], width, slopes, owner};
                product<R>(count * d, shape.out(l), shape.in(l), left, right, {nullptr, 0}, scaled);
                given = turns[l % 2];
            }
        }
        for (int64_t r = 0; r < count; ++r) to[r] = sum_of<R>(load<R>(sums + r * kLanes<R>));
    }
};

template <class R>
int64_t forward(const Shape &shape, int64_t rows, const Input<R> &input, const R *packed_weights, R *memory, R *out,
                R *traces) {
    const Packed<R> net(shape, const_cast<R *>(packed_weights), false);
    Room<R> room{memory};
    const bool traced = shape.features && (traces || !memory);
    const Block<R> block(net, room, false, traced);
    if (!traced) {
        for (int64_t start = 0; memory && start < rows; start += block.rows)
            block.forward(input, start, std::min(block.rows, rows - start),
                          Clipped<R>{out + start * shape.features, shape.features, shape.features});
        return room.used;
    }
    const Tangents<R> tangents(net, room);
    for (int64_t start = 0; memory && start < rows; start += block.rows) {
        const int64_t count = std::min(block.rows, rows - start);
        block.forward(input, start, count, Clipped<R>{out + start * shape.features, shape.features, shape.features});
        for (int64_t from = 0; from < count; from += tangents.rows)
            tangents.trace(block, from, std::min(tangents.rows, count - from), traces + start + from);
    }
    return room.used;
}

template <class R>
Gradient<R> gradient_of(const Shape &shape, int64_t layer, const Back<R> &back, Room<R> &room) {
    return gradient_of<R>(shape.in(layer), shape.out(layer), back.gradients ? back.gradients[2 * layer] : nullptr, room);
}

template <class R>
int64_t backward(const Shape &shape, int64_t rows, const Input<R> &input, const R *packed_weights, R *memory,
                 const Back<R> &back) {
    const Packed<R> net(shape, const_cast<R *>(packed_weights), true);
    Room<R> room{memory};
    const Block<R> block(net, room, true, true);
    const int64_t last = shape.last(), d = shape.features;
    R *said = room.take(block.rows * whole<R>(d));
    R *turns[2], *panels = room.take(block.rows * whole<R>(shape.widest() + kPanel<R>));
    for (R *&turn : turns) turn = room.take(block.rows * whole<R>(shape.widest()));
    int32_t *owner = reinterpret_cast<int32_t *>(room.take(block.rows));
    Gradient<R> sums[64];
    for (int64_t l = 0; l < shape.layers; ++l) sums[l] = gradient_of(shape, l, back, room);
    if (!memory) return room.used;
    for (int64_t r = 0; r < block.rows; ++r) owner[r] = int32_t(r);

    for (int64_t start = 0; start == 0 || start < rows; start += block.rows) {
        const int64_t count = std::min(block.rows, rows - start);
        block.forward(input, start, count, Stored<R>{said, whole<R>(d)});
        if (back.target)
            error_of(shape.features, back, rows, start, count, said);
        else
            for (int64_t r = 0; r < count; ++r)
                std::copy(back.by_output + (start + r) * d, back.by_output + (start + r + 1) * d, said + r * whole<R>(d));
        const R *given = said;
        for (int64_t l = last; l >= 0; --l) {
            const int64_t in = shape.in(l), out = shape.out(l);
            const Gradient<R> &sum = sums[l];
            const R *h = l ? block.values[l - 1] : block.input;
            add_weight<R>(sum, out, in, count, {given, whole<R>(out)}, h, panels, start == 0);
            add_columns<R>(count, {given, whole<R>(out)}, whole<R>(out), sum.by_bias, start == 0);
            if (!l) break;
            const Scaled<R> scaled{turns[l % 2], whole<R>(in), block.slopes[l - 1], owner};
            product<R>(count, in, out, {given, whole<R>(out), 1}, packed<R>(net.back[l], out), {nullptr, 0}, scaled);
            given = turns[l % 2];
        }
    }
    for (int64_t l = 0; l < shape.layers; ++l) sums[l].hand_over(shape.out(l), shape.in(l), back.gradients + 2 * l);
    return room.used;
}

} // namespace

#define ADVECT_PERCEPTRON(R, name)                                                                                     \
    ADVECT_PUBLIC(advect_perceptron_room_##name)(const int64_t *shape, int64_t gradients, int64_t *sizes) {            \
        const Shape of(shape);                                                                                         \
        sizes[0] = Packed<R>(of, nullptr, gradients != 0).room.used;                                                   \
        sizes[1] = gradients ? backward<R>(of, 0, {}, nullptr, nullptr, {})                                            \
                             : forward<R>(of, 0, {}, nullptr, nullptr, nullptr, nullptr);                              \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_perceptron_pack_##name)                                                                       \
    (const int64_t *shape, int64_t gradients, const R *const *weights, R *packed) {                                    \
        Packed<R>(Shape(shape), packed, gradients != 0).fill(weights);                                                 \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_perceptron_forward_##name)                                                                    \
    (const int64_t *shape, int64_t rows, const R *x, int64_t xr, const R *time, int64_t tr, const R *condition,        \
     int64_t cr, const R *packed, R *memory, R *out, R *traces) {                                                      \
        forward<R>(Shape(shape), rows, {{x, xr}, {time, tr}, {condition, cr}}, packed, memory, out, traces);           \
        return 0;                                                                                                      \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_perceptron_back_##name)                                                                       \
    (const int64_t *shape, int64_t rows, const R *x, int64_t xr, const R *time, int64_t tr, const R *condition,        \
     int64_t cr, const R *packed, R *memory, const R *by_output, const R *target, const R *weight,                     \
     R *const *gradients, double *loss) {                                                                              \
        *loss = 0;                                                                                                     \
        backward<R>(Shape(shape), rows, {{x, xr}, {time, tr}, {condition, cr}}, packed, memory,                        \
                    {by_output, target, weight, gradients, loss});                                                     \
        return 0;                                                                                                      \
    }

ADVECT_PERCEPTRON(float, float)
ADVECT_PERCEPTRON(double, double)
