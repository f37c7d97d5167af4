// What the perceptron of `perceptron_kernel.cpp` says, with weights and activations as sums of two numbers in bfloat16
// (`split.h`): products are good to 16 bits, activations and sums are in float32. It is for values alone, and for
// processors with tiles, on which it takes less than half the time.

#include "../split.h"
#include "perceptron.h"

namespace {

constexpr int64_t kBlockRows = 128;

struct Packed {
    Shape shape;
    Room<Brief> room;
    Brief *turned[64];
    float *bias[64];

    Packed(const Shape &of, Brief *first) : shape(of), room{first} {
        for (int64_t l = 0; l < shape.layers; ++l) turned[l] = room.take(2 * tiled(shape.in(l)) * tiled(shape.out(l)));
        for (int64_t l = 0; l < shape.layers; ++l) bias[l] = (float *)room.take(2 * tiled(shape.out(l)));
    }

    void fill(const float *const *weights) {
        for (int64_t l = 0; l < shape.layers; ++l) {
            const float *shift = weights[2 * l + 1];
            const int64_t out = shape.out(l);
            pack_split(weights[2 * l], out, shape.in(l), turned[l]);
            std::fill(bias[l], bias[l] + tiled(out), 0.0f);
            if (shift) std::copy(shift, shift + out, bias[l]);
        }
    }
};

// `line` has room for one row in float32.
void gather(const Shape &shape, const Input<float> &input, int64_t start, int64_t rows, float *line, Brief *to) {
    const int64_t width = tiled(shape.in(0));
    const Part<float> parts[] = {input.x, input.time, input.condition};
    const int64_t sizes[] = {shape.features, shape.times, shape.conditions};
    for (int64_t r = 0; r < rows; ++r, to += 2 * width) {
        float *next = line;
        for (int p = 0; p < 3; ++p) {
            const float *from = parts[p].first + (start + r) * parts[p].row;
            next = std::copy(from, from + sizes[p], next);
        }
        std::fill(next, line + width, 0.0f);
        for (int64_t c = 0; c < width; c += kWide) store_halves(to, c, _mm512_loadu_ps(line + c));
    }
}

template <int Kind> struct Activated {
    Brief *values;
    int64_t row;
    const float *bias;
    void operator()(int64_t r, int64_t c, __m512 value) const {
        Floats result, slope; // which nobody asks for
        activated<float, Kind>((Floats)value + load<float>(bias + c), result, slope);
        store_halves(values + r * row, c, (__m512)result);
    }
};

struct Block {
    const Packed &net;
    Brief *input, *turns[2];
    float *line;

    Block(const Packed &of, Room<Brief> &room) : net(of) {
        const int64_t rows = kBlockRows + kRows;
        input = room.take(2 * rows * tiled(net.shape.in(0)));
        for (Brief *&turn : turns) turn = room.take(2 * rows * tiled(net.shape.widest()));
        line = (float *)room.take(2 * tiled(net.shape.in(0)));
    }

    template <int Kind> void layer(int64_t l, int64_t count, const Brief *h) const {
        const int64_t in = net.shape.in(l), out = net.shape.out(l);
        product<2>(count, out, in, h, net.turned[l], Activated<Kind>{turns[l % 2], 2 * tiled(out), net.bias[l]});
    }

    void forward(const Input<float> &from, int64_t start, int64_t count, Clipped<float> to) const {
        const Shape &shape = net.shape;
        gather(shape, from, start, count, line, input);
        const Brief *h = input;
        for (int64_t l = 0; l < shape.last(); ++l) {
            if (shape.activation == kSelu) layer<kSelu>(l, count, h);
            if (shape.activation == kElu) layer<kElu>(l, count, h);
            if (shape.activation == kSilu) layer<kSilu>(l, count, h);
            if (shape.activation == kTanh) layer<kTanh>(l, count, h);
            h = turns[l % 2];
        }
        const int64_t last = shape.last();
        product<2>(count, shape.out(last), shape.in(last), h, net.turned[last], Said{to, net.bias[last]});
    }
};

} // namespace

ADVECT_PUBLIC(advect_perceptron_able_split)() { return able(); }
ADVECT_PUBLIC(advect_perceptron_room_split)(const int64_t *shape, int64_t, int64_t *sizes) {
    const Packed net(Shape(shape), nullptr);
    Room<Brief> room{nullptr};
    const Block block(net, room);
    sizes[0] = net.room.used;
    sizes[1] = room.used;
    return 0;
}
ADVECT_PUBLIC(advect_perceptron_pack_split)
(const int64_t *shape, int64_t, const float *const *weights, Brief *packed) {
    Packed(Shape(shape), packed).fill(weights);
    return 0;
}
// No traces are offered.
ADVECT_PUBLIC(advect_perceptron_forward_split)
(const int64_t *shape, int64_t rows, const float *x, int64_t xr, const float *time, int64_t tr, const float *condition,
 int64_t cr, const Brief *packed, Brief *memory, float *out, float *) {
    const Tiles tiles;
    const Packed net(Shape(shape), const_cast<Brief *>(packed));
    Room<Brief> room{memory};
    const Block block(net, room);
    const int64_t d = net.shape.features;
    for (int64_t start = 0; start < rows; start += kBlockRows)
        block.forward({{x, xr}, {time, tr}, {condition, cr}}, start, std::min(kBlockRows, rows - start),
                      {out + start * d, d, d});
    return 0;
}
