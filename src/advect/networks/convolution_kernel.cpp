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
// Pictures lie pixel by pixel (channels_last), in float32. A block of patches goes row by row of V: what is transformed,
// its products (patches by channels by channels for each number of the row) and their sums stay in the first two caches.
// An output needs the nine inputs it has in any convolution, so NaN spreads no farther; neither neighbours nor blocks nor
// threads decide the order of its sum. The file is compiled once for each instruction set.

#include <algorithm>

#include "../aligned.h"
#include "../shares.h"
#include "../turned.h"
#include "convolution.h"

namespace {

// Tiles of sums that fill the registers: kTall patches or kHigh channels by two vectors.
#if defined(__AVX512F__)
constexpr int kTall = 12, kHigh = 8;
#else
constexpr int kTall = 6, kHigh = 4;
#endif
constexpr int64_t kPanel = 2 * L;  // output channels that are summed together
constexpr int64_t kWide = 128;     // output channels for which a patch is transformed once
constexpr int64_t kSquare = 64;    // channels of input and output whose gradients are summed together
constexpr int64_t kPatches = 48;   // in a block: whole tiles, and little enough for the first two caches
constexpr int64_t kGradients = 96; // patches in a block where filters have their gradients
constexpr int64_t kPortion = 1024; // patches whose gradients by weights are summed by one thread
constexpr int64_t kPortions = 32;

// Row `p` of Aᵀ in the line of results `i`.
template <int P, int Step> constexpr int factor(int p, int i) {
    if (Step == 1) return p == 0 ? 1 : p == 1 ? 2 : -1;
    if (i == 0) return p < P - 1;
    return p == 0 ? 0 : p == 1 ? 1 : -1;
}

// What results have so far: Step x Step numbers of each patch.
template <int P, int Step> struct Results {
    int64_t patches, channels;
    Aligned<float> numbers;
    Results(int64_t patches, int64_t channels)
        : patches(patches), channels(channels), numbers(Step * Step * (patches * channels + kApart)) {}
    float *at(int64_t number, int64_t c) const {
        return numbers.get() + number * (patches * channels + kApart) + c * patches;
    }
    // Adds row `p` of sums, `row` apart for patches and `step` for numbers; what is complete goes where it belongs.
    template <int p, bool Whole>
    void add(const float *sums, int64_t row, int64_t step, const Run &run, int64_t place, int64_t channel, int count,
             V bias, const Pictures<float> &to) const {
        for (int64_t t = 0; t < run.count; ++t) {
            V m[P], half[Step];
            for (int q = 0; q < P; ++q) m[q] = load<float>(sums + q * step + t * row);
            result(m, half);
            each<Step>([&](auto line) {
                constexpr int i = line.value, by = factor<P, Step>(p, i);
                if constexpr (by == 0) return;
                for (int j = 0; j < Step; ++j) {
                    float *kept = at(i * Step + j, place) + (run.place + t) * L;
                    V y = by == 2 ? half[j] + half[j] : by == 1 ? half[j] : -half[j];
                    if constexpr (p > 0 && factor<P, Step>(0, i) + (p > 1) != 0) y = load<float>(kept) + y;
                    if constexpr (p < P - 1 && factor<P, Step>(p + 1, i) != 0) {
                        store<float>(kept, y);
                        continue;
                    }
                    const int64_t down = Step * run.down + i, across = Step * (run.across + t) + j;
                    if (down < to.height && across < to.width)
                        write<Whole>(to.line(run.picture, down) + across * to.channels + channel, y + bias, count);
                }
            });
        }
    }
};

// Transformed filters: for each of P x P numbers, panels of columns (outputs), each depth (inputs) by columns.
struct Filters {
    int64_t depth, columns, place;
    Filters(int64_t inputs, int64_t outputs)
        : depth(inputs), columns(whole<float>(outputs)), place(columns * depth + kApart) {}
    int64_t across(int64_t c) const { return std::min(kPanel, columns - c / kPanel * kPanel); }
    // Where the number of this depth and column begins, a vector.
    int64_t at(int64_t k, int64_t c) const { return c / kPanel * kPanel * depth + k * across(c) + c % kPanel; }
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

// kTall patches of a row's number by `Across` vectors of output channels, summed over input channels.
template <int Across>
inline void tile(const float *a, int64_t next, int64_t depth, const float *b, float *to) {
    V sum[kTall][Across] = {};
    for (; depth > 0; depth -= L, a += next)
        for (int64_t k = 0; k < std::min<int64_t>(L, depth); ++k, b += Across * L) {
            V right[Across];
            for (int v = 0; v < Across; ++v) right[v] = load<float>(b + v * L);
            for (int m = 0; m < kTall; ++m)
                for (int v = 0; v < Across; ++v) sum[m][v] += a[m * L + k] * right[v];
        }
    for (int m = 0; m < kTall; ++m)
        for (int v = 0; v < Across; ++v) store<float>(to + (m * Across + v) * L, sum[m][v]);
}
// kHigh input channels by `Across` vectors of output channels, summed over patches and added to what is there.
template <int Across>
inline void gradient_tile(const float *a, const float *b, int64_t next, int64_t count, float *to) {
    V sum[kHigh][Across] = {};
    for (int64_t t = 0; t < count; ++t) {
        V right[Across];
        for (int v = 0; v < Across; ++v) right[v] = load<float>(b + v * next + t * L);
        for (int m = 0; m < kHigh; ++m)
            for (int v = 0; v < Across; ++v) sum[m][v] += a[t * L + m] * right[v];
    }
    for (int m = 0; m < kHigh; ++m)
        for (int v = 0; v < Across; ++v) {
            float *at = to + m * kSquare + v * L;
            store<float>(at, load<float>(at) + sum[m][v]);
        }
}

// The convolution of patches that begin `In` pixels apart, whose results are `Out` pixels wide.
template <int In, int Out, int P> struct Convolved {
    const Sizes &size;
    const Pictures<const float> from;
    const float *filters, *bias;
    const Pictures<float> to;
    const Filters lie;
    const int64_t step = kPatches * kPanel + kApart; // from sums of one number to the next
    Row<P> row;
    Results<P, Out> results;
    Aligned<float> sums;
    Both ahead; // pixels of the next block, and those that this one will write

    Convolved(const Sizes &size, const Pictures<const float> &from, const float *filters, const float *bias,
              const Pictures<float> &to)
        : size(size), from(from), filters(filters), bias(bias), to(to), lie(from.channels, to.channels),
          row(kPatches, from.channels), results(kPatches, std::min(kWide, lie.columns)), sums(P * step) {}

    void block(int64_t first, int64_t count, int64_t wide) {
        const int64_t columns = std::min(kWide, lie.columns - wide), after = first + count;
        ahead.one.begin<In>(size, from, after, std::min(kPatches, size.patches() - after), 1);
        ahead.other.begin<Out>(size, to, first, count, 0);
        ahead.share(P * P * ((columns + kPanel - 1) / kPanel) * ((count + kTall - 1) / kTall));
        each<P>([&](auto p) { line<p.value>(first, count, wide); });
    }
    template <int p> void line(int64_t first, int64_t count, int64_t wide) {
        each_run(size, first, count, [&](const Run &run) {
            each_vector(from.channels, [&](int64_t c, int lanes, auto full) {
                gather<In, P, p, full.value>(from, run, c, lanes, row, c);
            });
        });
        const int64_t end = std::min(lie.columns, wide + kWide);
        for (int64_t column = wide; column < end; column += kPanel) {
            const int64_t across = lie.across(column);
            const auto way = across == L ? tile<1> : tile<2>;
            for (int q = 0; q < P; ++q)
                for (int64_t r = 0; r < count; r += kTall, ahead.ask())
                    way(row.at(q, 0) + r * L, row.patches * L, lie.depth,
                        filters + (p * P + q) * lie.place + lie.at(0, column), sums.get() + q * step + r * across);
            each_run(size, first, count, [&](const Run &run) {
                each_vector(std::min(across, to.channels - column), [&](int64_t c, int lanes, auto full) {
                    const V shift = bias ? read<full.value>(bias + column + c, lanes) : V{};
                    results.template add<p, full.value>(sums.get() + run.place * across + c, across, step, run,
                                                        column - wide + c, column + c, lanes, shift, to);
                });
            });
        }
    }
};

template <int In, int Out, int P>
void convolve(const Sizes &size, const Pictures<const float> &from, const float *filters, const float *bias,
              const Pictures<float> &to, int64_t threads) {
    const int64_t wides = (to.channels + kWide - 1) / kWide;
    shared((size.patches() + kPatches - 1) / kPatches * wides, threads, [&](int64_t begin, int64_t end) {
        Convolved<In, Out, P> way(size, from, filters, bias, to);
        for (int64_t thing = begin; thing < end; ++thing) {
            const int64_t first = thing / wides * kPatches, count = std::min(kPatches, size.patches() - first);
            way.block(first, count, thing % wides * kWide);
        }
    });
}

// Gradients by weights and biases from some patches, for kSquare inputs and outputs.
template <int P> struct Gradient {
    static constexpr int Step = P - 2; // pixels from one patch to the next: one of a picture that is doubled
    const Sizes &size;
    Pictures<const float> x, by_y;
    Row<P> patches{kGradients, kSquare}, unfolded{kGradients, kSquare};
    Aligned<float> sums{P * P * kSquare * kSquare};
    Both ahead{}; // pixels of the next block

    template <int p>
    void line(int64_t first, int64_t count, int64_t input, int64_t inputs, int64_t output, int64_t outputs) {
        each_run(size, first, count, [&](const Run &run) {
            each_vector(inputs, [&](int64_t c, int lanes, auto full) {
                gather<Step, P, p, full.value>(x, run, input + c, lanes, patches, c);
            });
            each_vector(outputs, [&](int64_t c, int lanes, auto full) {
                gather_gradient<P, p, full.value>(by_y, run, output + c, lanes, unfolded, c);
            });
        });
        for (int q = 0; q < P; ++q)
            for (int64_t c = 0; c < outputs; c += kPanel) {
                const auto way = outputs - c > L ? gradient_tile<2> : gradient_tile<1>;
                for (int64_t k = 0; k < inputs; k += kHigh, ahead.ask())
                    way(patches.at(q, k / L * L) + k % L, unfolded.at(q, c), kGradients * L, count,
                        sums.get() + ((p * P + q) * kSquare + k) * kSquare + c);
            }
    }
    // From the second row, whose second number is the sum of the four gradients.
    void add_bias(int64_t count, int64_t outputs, float *bias) {
        for (int64_t c = 0; c < outputs; c += L) {
            V sum = {};
            for (int64_t t = 0; t < count; ++t) sum += load<float>(unfolded.at(1, c) + t * L);
            store<float>(bias + c, load<float>(bias + c) + sum);
        }
    }
    // `weight`: 9 taps of each input, rows of `row` numbers from its first output on; `bias` if wanted.
    void portion(int64_t first, int64_t count, int64_t input, int64_t output, int64_t row, float *weight, float *bias) {
        const int64_t inputs = std::min(kSquare, size.inputs - input);
        const int64_t outputs = std::min(kSquare, size.outputs - output);
        std::fill(sums.get(), sums.get() + P * P * kSquare * kSquare, 0.0f);
        if (bias) std::fill(bias, bias + whole<float>(outputs), 0.0f);
        for (int64_t at = first; at < first + count; at += kGradients) {
            const int64_t some = std::min(kGradients, first + count - at);
            ahead.one.begin<Step>(size, x, at + some, std::min(kGradients, first + count - at - some), 1);
            ahead.other.begin<2>(size, by_y, at + some, std::min(kGradients, first + count - at - some), 0);
            ahead.share(P * P * ((outputs + kPanel - 1) / kPanel) * ((inputs + kHigh - 1) / kHigh));
            each<P>([&](auto p) {
                line<p.value>(at, some, input, inputs, output, outputs);
                if (p.value == 1 && bias) add_bias(some, outputs, bias);
            });
        }
        for (int64_t k = 0; k < inputs; ++k)
            for (int64_t c = 0; c < outputs; c += L) {
                V down[3][P];
                for (int q = 0; q < P; ++q) {
                    V u[P], g[3];
                    for (int p = 0; p < P; ++p)
                        u[p] = load<float>(sums.get() + ((p * P + q) * kSquare + k) * kSquare + c);
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

// Portions of patches are as many for any number of threads; each goes in squares of kSquare inputs and outputs.
template <int P>
void back_filters(const Sizes &size, const Pictures<const float> &x, const Pictures<const float> &by_y, float *weight,
                  float *bias, int64_t threads) {
    const int64_t row = whole<float>(size.outputs), length = size.inputs * 9 * row + row, patches = size.patches();
    const int64_t portions = std::max<int64_t>(1, std::min(kPortions, patches / kPortion));
    const int64_t down = (size.inputs + kSquare - 1) / kSquare, across = (size.outputs + kSquare - 1) / kSquare;
    Aligned<float> room(portions * length);
    float *sums = room.get();
    shared(portions * down * across, threads, [&](int64_t begin, int64_t end) {
        Gradient<P> way{size, x, by_y};
        for (int64_t thing = begin; thing < end; ++thing) {
            const int64_t portion = thing / (down * across), input = thing / across % down * kSquare;
            const int64_t output = thing % across * kSquare, first = patches * portion / portions;
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
    const int64_t scale = size.doubled ? 2 : 1;
    return {first, size.height / scale, size.width / scale, size.inputs};
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
