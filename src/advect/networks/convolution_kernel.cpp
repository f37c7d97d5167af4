// Convolutions of size 3 with padding 1 by minimal filtering, F(2×2, 3×3) (Winograd; Lavin & Gray 2015, arXiv
// 1509.09308): four outputs from a patch of 4×4 inputs by 16 products in place of 36. For one patch d, filter g:
//
//     y = Aᵀ (Σ U ∘ V) A,   U = G g Gᵀ,   V = Bᵀ d B,   summed over channels
//     Bᵀ d: d0 - d2, d1 + d2, d2 - d1, d1 - d3     G g: g0, (g0 + g1 + g2)/2, (g0 - g1 + g2)/2, g2
//     Aᵀ m: m0 + m1 + m2, m1 - m2 - m3
//
// Back, by the input it is a convolution again, with taps turned round; by the filter Gᵀ (Σ V ∘ (A ∂y Aᵀ)) G, summed
// over patches. A picture that is first doubled, every pixel by itself, has d1 = d2, so that the third number is zero:
// 9 products remain, and V comes from 3×3 pixels of the picture before. Back, the four gradients of a pixel are added.
//
// Pictures lie pixel by pixel (channels_last), in float32. A block of patches goes through transform, products and
// transform in the second cache; products are one for each of the 16 numbers, patches by channels by channels. An output
// needs the nine inputs it has in any convolution, so that NaN spreads no farther; sums go in an order that is that of no
// neighbour, block or thread. The file is compiled once for each instruction set.

#include <algorithm>
#include <vector>

#include "../aligned.h"
#include "../shares.h"
#include "../strips.h"
#include "../turned.h"

namespace {

constexpr int64_t kPatches = 48;   // in a block: whole tiles of rows
constexpr int64_t kDepth = 64;     // channels that are transformed together
constexpr int64_t kWide = 128;     // output channels that are summed together
constexpr int64_t kApart = 16;     // numbers between those of one place and the next: they share no set of the cache
constexpr int64_t kStep = kPatches * kDepth + kApart;
constexpr int64_t kPortion = 1024; // patches whose gradients by weights are summed by one thread
constexpr int64_t kPortions = 32;

struct Sizes {
    int64_t pictures, height, width, inputs, outputs; // height and width of the output
    bool doubled;
    explicit Sizes(const int64_t *of)
        : pictures(of[0]), height(of[1]), width(of[2]), inputs(of[3]), outputs(of[4]), doubled(of[5] != 0) {}
    int64_t down() const { return (height + 1) / 2; }
    int64_t across() const { return (width + 1) / 2; }
    int64_t patches() const { return pictures * down() * across(); }
};

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
inline void patch(const V (&d)[4], V (&v)[4]) { v[0] = d[0] - d[2], v[1] = d[1] + d[2], v[2] = d[2] - d[1], v[3] = d[1] - d[3]; }
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

template <bool Whole> inline V read(const float *from, int count) { return Memory<float>::read(from, Whole ? L : count); }
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

// Transformed patches, which begin `Step` pixels apart, for one vector of channels: P x P numbers of each, kStep apart.
// Zeros are around the picture.
template <int Step, int P, bool Whole>
inline void gather(const Pictures<const float> &from, const Run &run, int64_t channel, int count, float *to) {
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
    const auto take = [&](int64_t x, V(&column)[P]) {
        V d[Side] = {};
        if (x >= 0 && x < from.width)
            for (int i = 0; i < Side; ++i) d[i] = read<Whole>(line[i] + x * pixel[i], count);
        patch(d, column);
    };
    V column[Side][P];
    int64_t x = Step * run.across - 1;
    take(x, column[0]), take(x + 1, column[1]);
    for (int64_t t = 0; t < run.count; ++t, x += Step, to += kDepth) {
        for (int j = 2; j < Side; ++j) take(x + j, column[j]);
        for (int p = 0; p < P; ++p) {
            V d[Side], v[P];
            for (int j = 0; j < Side; ++j) d[j] = column[j][p];
            patch(d, v);
            for (int q = 0; q < P; ++q) store<float>(to + (p * P + q) * kStep, v[q]);
        }
        for (int p = 0; p < P; ++p) column[0][p] = column[Step][p], column[1][p] = column[Step + 1][p];
    }
}

// Gradients of patches of 2x2 outputs, unfolded to P x P numbers.
template <int P, bool Whole>
inline void gather_gradient(const Pictures<const float> &from, const Run &run, int64_t channel, int count, float *to) {
    for (int64_t t = 0; t < run.count; ++t, to += kDepth) {
        V column[2][P];
        for (int j = 0; j < 2; ++j) {
            const int64_t x = 2 * (run.across + t) + j;
            V y[2] = {};
            for (int i = 0; i < 2; ++i)
                if (x < from.width && 2 * run.down + i < from.height)
                    y[i] = read<Whole>(from.line(run.picture, 2 * run.down + i) + x * from.channels + channel, count);
            unfold(y, column[j]);
        }
        for (int p = 0; p < P; ++p) {
            const V y[2] = {column[0][p], column[1][p]};
            V m[P];
            unfold(y, m);
            for (int q = 0; q < P; ++q) store<float>(to + (p * P + q) * kStep, m[q]);
        }
    }
}

// Outputs of patches, Step x Step each, from sums P x P that are `step` apart, rows of patches `row`.
template <int Step, int P, bool Whole>
inline void spread(const float *sums, int64_t row, int64_t step, const Run &run, int64_t channel, int count, V bias,
                   const Pictures<float> &to) {
    for (int64_t t = 0; t < run.count; ++t, sums += row) {
        V half[Step][P];
        for (int q = 0; q < P; ++q) {
            V m[P], y[Step];
            for (int p = 0; p < P; ++p) m[p] = load<float>(sums + (p * P + q) * step);
            result(m, y);
            for (int i = 0; i < Step; ++i) half[i][q] = y[i];
        }
        for (int i = 0; i < Step; ++i) {
            V y[Step];
            result(half[i], y);
            for (int j = 0; j < Step; ++j) {
                const int64_t down = Step * run.down + i, across = Step * (run.across + t) + j;
                if (down < to.height && across < to.width)
                    write<Whole>(to.line(run.picture, down) + across * to.channels + channel, y[j] + bias, count);
            }
        }
    }
}

// Transformed filters: for each of P x P places, panels of columns (outputs), each depth (inputs) by columns.
struct Filters {
    int64_t depth, columns, across, place;
    Filters(int64_t inputs, int64_t outputs)
        : depth(inputs), columns(whole<float>(outputs)), across(std::min(kPanel, columns)),
          place((columns + kPanel - 1) / kPanel * across * depth + kApart) {}
    int64_t panel() const { return across * depth; }
    // Where the number of this depth and column begins, a vector.
    int64_t at(int64_t k, int64_t c) const { return c / kPanel * panel() + k * across + c % kPanel; }
};

// From weights (outputs, inputs, 3, 3), or for the way back, where inputs are outputs and taps go backwards.
template <int P> void transform_filters(const Sizes &size, const float *weight, bool back, float *to) {
    const int64_t depth = back ? size.outputs : size.inputs, others = back ? size.inputs : size.outputs;
    const Filters filters(depth, others);
    Aligned<float> room(depth * 9 * filters.columns);
    float *apart = room.get(); // depth, tap, column
    if (others % L) std::fill(apart, apart + depth * 9 * filters.columns, 0.0f);
    if (back)
        for (int64_t k = 0; k < depth; ++k)
            turn<float>(weight + k * others * 9, 9, others, 9, apart + k * 9 * filters.columns, filters.columns);
    else turn<float>(weight, depth * 9, others, depth * 9, apart, filters.columns);
    for (int64_t k = 0; k < depth; ++k)
        for (int64_t c = 0; c < filters.columns; c += L) {
            const float *from = apart + k * 9 * filters.columns + c;
            V down[3][P];
            for (int j = 0; j < 3; ++j) {
                V g[3];
                for (int i = 0; i < 3; ++i)
                    g[i] = load<float>(from + (back ? 8 - 3 * i - j : 3 * i + j) * filters.columns);
                filter(g, down[j]);
            }
            for (int p = 0; p < P; ++p) {
                const V g[3] = {down[0][p], down[1][p], down[2][p]};
                V u[P];
                filter(g, u);
                for (int q = 0; q < P; ++q) store<float>(to + (p * P + q) * filters.place + filters.at(k, c), u[q]);
            }
        }
}

struct Sums { // begun, or added to what is there
    float *to;
    int64_t width;
    bool more;
    V start(int64_t r, int64_t c) const { return more ? load<float>(to + r * width + c) : V{}; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v) store<float>(to + r * width + c + v * L, values[v]);
    }
};
struct Added { // a block's sums to those of the blocks before
    float *to;
    V start(int64_t, int64_t) const { return V{}; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v) {
            float *at = to + r * kDepth + c + v * L;
            store<float>(at, load<float>(at) + values[v]);
        }
    }
};

// The convolution of patches that begin `In` pixels apart, whose results are `Out` pixels wide.
template <int In, int Out, int P>
void convolve(const Sizes &size, const Pictures<const float> &from, const float *filters, const float *bias,
              const Pictures<float> &to, int64_t threads) {
    const Filters lie(from.channels, to.channels);
    const int64_t blocks = (size.patches() + kPatches - 1) / kPatches, wides = (lie.columns + kWide - 1) / kWide;
    shared(blocks * wides, threads, [&](int64_t begin, int64_t end) {
        const int64_t row = std::min(kWide, lie.columns), step = kPatches * row + kApart;
        Aligned<float> patches(P * P * kStep), sums(P * P * step);
        for (int64_t thing = begin; thing < end; ++thing) {
            const int64_t first = thing / wides * kPatches, count = std::min(kPatches, size.patches() - first);
            const int64_t wide = thing % wides * kWide, columns = std::min(kWide, lie.columns - wide);
            for (int64_t depth = 0; depth < from.channels; depth += kDepth) {
                const int64_t channels = std::min(kDepth, from.channels - depth);
                each_run(size, first, count, [&](const Run &run) {
                    each_vector(channels, [&](int64_t c, int lanes, auto full) {
                        gather<In, P, full.value>(from, run, depth + c, lanes, patches.get() + run.place * kDepth + c);
                    });
                });
                for (int64_t p = 0; p < P * P; ++p)
                    product<kDepth>(count, columns, channels, patches.get() + p * kStep, 1,
                                    filters + p * lie.place + lie.at(depth, wide), lie.across, lie.panel(),
                                    Sums{sums.get() + p * step, row, depth > 0});
            }
            each_run(size, first, count, [&](const Run &run) {
                each_vector(std::min(columns, to.channels - wide), [&](int64_t c, int lanes, auto full) {
                    const V shift = bias ? read<full.value>(bias + wide + c, lanes) : V{};
                    spread<Out, P, full.value>(sums.get() + run.place * row + c, row, step, run, wide + c, lanes, shift,
                                               to);
                });
            });
        }
    });
}

// Gradients by weights and biases from some patches, for kDepth inputs and outputs.
template <int P> struct Gradient {
    static constexpr int Step = P - 2; // pixels from one patch to the next: one of a picture that is doubled
    const Sizes &size;
    Pictures<const float> x, by_y;
    Aligned<float> patches{P * P * kStep}, unfolded{P * P * kStep}, sums{P * P * (kDepth + kTallest) * kDepth};

    void block(int64_t first, int64_t count, int64_t input, int64_t inputs, int64_t output, int64_t outputs) {
        each_run(size, first, count, [&](const Run &run) {
            const int64_t at = run.place * kDepth;
            each_vector(inputs, [&](int64_t c, int lanes, auto full) {
                gather<Step, P, full.value>(x, run, input + c, lanes, patches.get() + at + c);
            });
            each_vector(outputs, [&](int64_t c, int lanes, auto full) {
                gather_gradient<P, full.value>(by_y, run, output + c, lanes, unfolded.get() + at + c);
            });
        });
        for (int64_t p = 0; p < P * P; ++p)
            product<1>(inputs, whole<float>(outputs), count, patches.get() + p * kStep, kDepth,
                       unfolded.get() + p * kStep, kDepth, kPanel, Added{sums.get() + p * kDepth * kDepth});
    }
    void add_bias(int64_t count, int64_t outputs, float *bias) {
        for (int64_t c = 0; c < outputs; c += L) { // the number in the middle is the sum of the four
            V sum = {};
            const float *from = unfolded.get() + (P + 1) * kStep + c;
            for (int64_t t = 0; t < count; ++t) sum += load<float>(from + t * kDepth);
            store<float>(bias + c, load<float>(bias + c) + sum);
        }
    }
    // `weight`: 9 taps of each input, rows of `row` numbers from its first output on; `bias` if wanted.
    void portion(int64_t first, int64_t count, int64_t input, int64_t output, int64_t row, float *weight, float *bias) {
        const int64_t inputs = std::min(kDepth, size.inputs - input), outputs = std::min(kDepth, size.outputs - output);
        std::fill(sums.get(), sums.get() + P * P * kDepth * kDepth, 0.0f);
        if (bias) std::fill(bias, bias + whole<float>(outputs), 0.0f);
        for (int64_t at = first; at < first + count; at += kPatches) {
            const int64_t some = std::min(kPatches, first + count - at);
            block(at, some, input, inputs, output, outputs);
            if (bias) add_bias(some, outputs, bias);
        }
        for (int64_t k = 0; k < inputs; ++k)
            for (int64_t c = 0; c < outputs; c += L) {
                V down[3][P];
                for (int q = 0; q < P; ++q) {
                    V u[P], g[3];
                    for (int p = 0; p < P; ++p) u[p] = load<float>(sums.get() + ((p * P + q) * kDepth + k) * kDepth + c);
                    taps(u, g);
                    for (int i = 0; i < 3; ++i) down[i][q] = g[i];
                }
                for (int i = 0; i < 3; ++i) {
                    V g[3];
                    taps(down[i], g);
                    for (int j = 0; j < 3; ++j) store<float>(weight + (k * 9 + 3 * i + j) * row + c, g[j]);
                }
            }
    }
};

// Portions of patches are as many for any number of threads; each goes in squares of kDepth inputs and outputs.
template <int P>
void back_filters(const Sizes &size, const Pictures<const float> &x, const Pictures<const float> &by_y, float *weight,
                  float *bias, int64_t threads) {
    const int64_t row = whole<float>(size.outputs), length = size.inputs * 9 * row + row, patches = size.patches();
    const int64_t portions = std::max<int64_t>(1, std::min(kPortions, patches / kPortion));
    const int64_t down = (size.inputs + kDepth - 1) / kDepth, across = (size.outputs + kDepth - 1) / kDepth;
    Aligned<float> room(portions * length);
    float *sums = room.get();
    shared(portions * down * across, threads, [&](int64_t begin, int64_t end) {
        Gradient<P> way{size, x, by_y};
        for (int64_t thing = begin; thing < end; ++thing) {
            const int64_t portion = thing / (down * across), input = thing / across % down * kDepth;
            const int64_t output = thing % across * kDepth, first = patches * portion / portions;
            float *found = sums + portion * length + output;
            way.portion(first, patches * (portion + 1) / portions - first, input, output, row, found + input * 9 * row,
                        bias && !input ? found + size.inputs * 9 * row : nullptr);
        }
    });
    for (int64_t portion = 1; portion < portions; ++portion)
        for (int64_t at = 0; at < length; at += L)
            store<float>(sums + at, load<float>(sums + at) + load<float>(sums + portion * length + at));
    turn<float>(sums, row, size.inputs * 9, size.outputs, weight, size.inputs * 9);
    if (bias) std::copy(sums + length - row, sums + length - row + size.outputs, bias);
}

template <class S> Pictures<S> input_of(const Sizes &size, S *first) {
    return {first, size.doubled ? size.height / 2 : size.height, size.doubled ? size.width / 2 : size.width, size.inputs};
}
template <class S> Pictures<S> output_of(const Sizes &size, S *first) {
    return {first, size.height, size.width, size.outputs};
}

template <int In, int Out, int P>
void convolve_with(const Sizes &size, const Pictures<const float> &from, const float *weight, bool back,
                   const float *bias, const Pictures<float> &to, int64_t threads) {
    Aligned<float> filters(P * P * Filters(from.channels, to.channels).place);
    transform_filters<P>(size, weight, back, filters.get());
    convolve<In, Out, P>(size, from, filters.get(), bias, to, threads);
}

} // namespace

// `sizes`: pictures, height and width of the output, channels of input and output, whether the input is doubled.
ADVECT_PUBLIC(advect_convolution_forward)
(const int64_t *sizes, const float *x, const float *weight, const float *bias, float *out, int64_t threads) {
    const Sizes size(sizes);
    const auto way = size.doubled ? convolve_with<1, 2, 3> : convolve_with<2, 2, 4>;
    way(size, input_of(size, x), weight, false, bias, output_of(size, out), threads);
    return 0;
}
// Gradients that nobody wants are missing; that by biases comes with that by weights.
ADVECT_PUBLIC(advect_convolution_back)
(const int64_t *sizes, const float *x, const float *weight, const float *gradient, float *by_x, float *by_weight,
 float *by_bias, int64_t threads) {
    const Sizes size(sizes);
    const auto way = size.doubled ? convolve_with<2, 1, 3> : convolve_with<2, 2, 4>;
    if (by_x) way(size, output_of(size, gradient), weight, true, nullptr, input_of(size, by_x), threads);
    const auto filters = size.doubled ? back_filters<3> : back_filters<4>;
    if (by_weight) filters(size, input_of(size, x), output_of(size, gradient), by_weight, by_bias, threads);
    return 0;
}
