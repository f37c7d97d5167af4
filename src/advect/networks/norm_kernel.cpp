// A group norm with what stands before and after it in a U-Net, picture by picture: what the embedding adds before it,
// its scale and shift after it, and SiLU. torch makes a pass over memory for each of them, and two for the norm.
//
//     m = x + before,   y = (1 + gain) (weight (m - mean) rstd + bias) + shift,   out = silu(y) or y
//
// Pictures lie pixel by pixel (channels_last): x[picture][pixel][channel]. `before`, `gain` and `shift` are one number
// a picture and channel, or missing. Numbers are float32 or bfloat16, everything between is float32; sums over pixels
// are taken about each channel's first pixel, in blocks, so that a mean far from zero costs no digits.
//
// The file is compiled once for each instruction set. Pictures are independent, so how many threads share them changes
// no number.

#include <algorithm>
#include <vector>

#include "../numbers.h"
#include "../shares.h"

namespace {

constexpr int64_t kPixels = 128; // summed before the sum is added to the others

struct Sizes {
    int64_t pictures, pixels, channels, groups, silu;
};

// What stands beside the picture; a missing pointer is a number that changes nothing.
struct Beside {
    const float *weight, *bias, *before, *gain, *shift;
    int64_t before_row, gain_row, shift_row;
    float before_of(int64_t picture, int64_t c) const { return before ? before[picture * before_row + c] : 0; }
    float gain_of(int64_t picture, int64_t c) const { return gain ? 1 + gain[picture * gain_row + c] : 1; }
    float shift_of(int64_t picture, int64_t c) const { return shift ? shift[picture * shift_row + c] : 0; }
};

// y = (x - centre) slope + height for every channel of one picture.
struct Lines {
    std::vector<float> centre, slope, height;
    explicit Lines(int64_t channels) : centre(channels), slope(channels), height(channels) {}

    void fill(const Sizes &size, const Beside &beside, int64_t picture, const float *mean, const float *rstd) {
        const int64_t each = size.channels / size.groups;
        for (int64_t c = 0; c < size.channels; ++c) {
            const float gain = beside.gain_of(picture, c);
            centre[c] = mean[c / each] - beside.before_of(picture, c);
            slope[c] = rstd[c / each] * beside.weight[c] * gain;
            height[c] = beside.bias[c] * gain + beside.shift_of(picture, c);
        }
    }
};

// each(first channel, lanes in use) for blocks of W vectors of channels, and of one for what is left.
template <int W, class Each, class Last> inline void blocks(int64_t channels, const Each &each, const Last &last) {
    int64_t c = 0;
    for (; c + W * L <= channels; c += W * L) each(c);
    for (; c < channels; c += L) last(c, int(std::min<int64_t>(L, channels - c)));
}

// Mean and sum of squares about it of each of W vectors of channels.
template <class S, int W>
inline void moments(const S *x, const Sizes &size, int64_t c, int count, float *mean, float *squares) {
    V first[W], sum[W] = {}, square[W] = {};
    for (int w = 0; w < W; ++w) first[w] = Memory<S>::read(x + c + w * L, count);
    for (int64_t start = 0; start < size.pixels; start += kPixels) {
        V one[W] = {}, two[W] = {};
        const int64_t end = std::min(start + kPixels, size.pixels);
        for (int64_t p = start; p < end; ++p)
            for (int w = 0; w < W; ++w) {
                const V from = Memory<S>::read(x + p * size.channels + c + w * L, count) - first[w];
                one[w] += from;
                two[w] += from * from;
            }
        for (int w = 0; w < W; ++w) sum[w] += one[w], square[w] += two[w];
    }
    for (int w = 0; w < W; ++w) {
        const V by = sum[w] / float(size.pixels);
        Memory<float>::write(mean + c + w * L, first[w] + by, count);
        Memory<float>::write(squares + c + w * L, square[w] - by * sum[w], count);
    }
}

template <class S>
void statistics(const S *x, const Sizes &size, const Beside &beside, int64_t picture, double epsilon, float *mean,
                float *rstd, float *channel, float *squares) {
    blocks<4>(
        size.channels, [&](int64_t c) { moments<S, 4>(x, size, c, L, channel, squares); },
        [&](int64_t c, int count) { moments<S, 1>(x, size, c, count, channel, squares); });
    const int64_t each = size.channels / size.groups;
    for (int64_t g = 0; g < size.groups; ++g) {
        double sum = 0, square = 0;
        for (int64_t c = g * each; c < (g + 1) * each; ++c) sum += double(channel[c]) + beside.before_of(picture, c);
        const double middle = sum / double(each);
        for (int64_t c = g * each; c < (g + 1) * each; ++c) {
            const double away = double(channel[c]) + beside.before_of(picture, c) - middle;
            square += squares[c] + double(size.pixels) * away * away;
        }
        const double variance = square / double(each * size.pixels);
        mean[g] = float(middle);
        rstd[g] = float(1 / std::sqrt((variance > 0 || variance != variance ? variance : 0) + epsilon));
    }
}

template <class S, int W, bool Silu>
inline void apply(const S *x, const Sizes &size, const Lines &lines, int64_t c, int count, S *out) {
    V centre[W], slope[W], height[W];
    for (int w = 0; w < W; ++w) {
        centre[w] = Memory<float>::read(&lines.centre[c + w * L], count);
        slope[w] = Memory<float>::read(&lines.slope[c + w * L], count);
        height[w] = Memory<float>::read(&lines.height[c + w * L], count);
    }
    for (int64_t p = 0; p < size.pixels; ++p)
        for (int w = 0; w < W; ++w) {
            const int64_t at = p * size.channels + c + w * L;
            V y = (Memory<S>::read(x + at, count) - centre[w]) * slope[w] + height[w];
            if (Silu) y = y * sigmoid_of<float>(y);
            Memory<S>::write(out + at, y, count);
        }
}

template <class S, bool Silu>
void forward(const Sizes &size, double epsilon, const S *x, const Beside &beside, S *out, float *mean, float *rstd,
             int64_t from, int64_t to) {
    Lines lines(size.channels);
    std::vector<float> channel(size.channels), squares(size.channels);
    for (int64_t picture = from; picture < to; ++picture) {
        const S *given = x + picture * size.pixels * size.channels;
        S *made = out + picture * size.pixels * size.channels;
        float *middle = mean + picture * size.groups, *inverse = rstd + picture * size.groups;
        statistics(given, size, beside, picture, epsilon, middle, inverse, channel.data(), squares.data());
        lines.fill(size, beside, picture, middle, inverse);
        blocks<2>(
            size.channels, [&](int64_t c) { apply<S, 2, Silu>(given, size, lines, c, L, made); },
            [&](int64_t c, int count) { apply<S, 1, Silu>(given, size, lines, c, count, made); });
    }
}

// The gradient by y, from that by what SiLU made of it. It waits for the sums where that by x will be.
template <bool Silu> inline V by_line(V gradient, V y) {
    if (!Silu) return gradient;
    const V s = sigmoid_of<float>(y);
    return gradient * (s + s * y * (1 - s));
}

// The gradient by y, and its sums over pixels, of it times x - centre, and of x - centre.
template <class S, int W, bool Silu>
inline void gather(const S *x, const S *gradient, const Sizes &size, const Lines &lines, int64_t c, int count,
                   S *by_y, float *plain, float *along, float *away) {
    V centre[W], slope[W], height[W], sums[3][W] = {};
    for (int w = 0; w < W; ++w) {
        centre[w] = Memory<float>::read(&lines.centre[c + w * L], count);
        slope[w] = Memory<float>::read(&lines.slope[c + w * L], count);
        height[w] = Memory<float>::read(&lines.height[c + w * L], count);
    }
    for (int64_t start = 0; start < size.pixels; start += kPixels) {
        V part[3][W] = {};
        const int64_t end = std::min(start + kPixels, size.pixels);
        for (int64_t p = start; p < end; ++p)
            for (int w = 0; w < W; ++w) {
                const int64_t at = p * size.channels + c + w * L;
                const V from = Memory<S>::read(x + at, count) - centre[w];
                const V by = by_line<Silu>(Memory<S>::read(gradient + at, count), from * slope[w] + height[w]);
                if (Silu) Memory<S>::write(by_y + at, by, count);
                part[0][w] += by;
                part[1][w] += by * from;
                part[2][w] += from;
            }
        for (int s = 0; s < 3; ++s)
            for (int w = 0; w < W; ++w) sums[s][w] += part[s][w];
    }
    for (int w = 0; w < W; ++w) {
        Memory<float>::write(plain + c + w * L, sums[0][w], count);
        Memory<float>::write(along + c + w * L, sums[1][w], count);
        Memory<float>::write(away + c + w * L, sums[2][w], count);
    }
}

// slope by_y - level - tilt (x - centre), which may be written over by_y.
template <class S, int W>
inline void spread(const S *x, const S *by_y, const Sizes &size, const Lines &lines, const float *level,
                   const float *tilt, int64_t c, int count, S *by_x) {
    V centre[W], slope[W], flat[W], steep[W];
    for (int w = 0; w < W; ++w) {
        slope[w] = Memory<float>::read(&lines.slope[c + w * L], count);
        steep[w] = Memory<float>::read(tilt + c + w * L, count);
        flat[w] = Memory<float>::read(level + c + w * L, count);
        centre[w] = Memory<float>::read(&lines.centre[c + w * L], count);
    }
    for (int64_t p = 0; p < size.pixels; ++p)
        for (int w = 0; w < W; ++w) {
            const int64_t at = p * size.channels + c + w * L;
            const V from = Memory<S>::read(x + at, count) - centre[w], by = Memory<S>::read(by_y + at, count);
            Memory<S>::write(by_x + at, by * slope[w] - flat[w] - steep[w] * from, count);
        }
}

// Gradients of one number a picture and channel; what nobody wants is missing.
struct Found {
    float *weight, *bias, *before, *gain, *shift;
};

template <class S, bool Silu>
void back(const Sizes &size, const S *x, const S *gradient, const Beside &beside, const float *mean, const float *rstd,
          S *by_x, const Found &found, int64_t from, int64_t to) {
    const int64_t channels = size.channels, each = channels / size.groups;
    const double total = double(each * size.pixels);
    Lines lines(channels);
    std::vector<float> plain(channels), along(channels), away(channels), level(channels), tilt(channels);
    for (int64_t picture = from; picture < to; ++picture) {
        const int64_t start = picture * size.pixels * channels;
        const float *inverse = rstd + picture * size.groups;
        lines.fill(size, beside, picture, mean + picture * size.groups, inverse);
        blocks<2>(
            channels,
            [&](int64_t c) {
                gather<S, 2, Silu>(x + start, gradient + start, size, lines, c, L, by_x + start, &plain[0], &along[0],
                                   &away[0]);
            },
            [&](int64_t c, int count) {
                gather<S, 1, Silu>(x + start, gradient + start, size, lines, c, count, by_x + start, &plain[0],
                                   &along[0], &away[0]);
            });
        for (int64_t g = 0; g < size.groups; ++g) {
            double flat = 0, steep = 0;
            for (int64_t c = g * each; c < (g + 1) * each; ++c)
                flat += double(lines.slope[c]) * plain[c], steep += double(lines.slope[c]) * along[c];
            const double square = double(inverse[g]) * inverse[g];
            for (int64_t c = g * each; c < (g + 1) * each; ++c)
                level[c] = float(flat / total), tilt[c] = float(steep * square / total);
        }
        for (int64_t c = 0; c < channels; ++c) {
            const int64_t at = picture * channels + c;
            const float scaled = along[c] * inverse[c / each], gain = beside.gain_of(picture, c);
            found.weight[at] = scaled * gain;
            found.bias[at] = plain[c] * gain;
            if (found.gain) found.gain[at] = beside.weight[c] * scaled + beside.bias[c] * plain[c];
            if (found.shift) found.shift[at] = plain[c];
            if (found.before)
                found.before[at] = lines.slope[c] * plain[c] - level[c] * float(size.pixels) - tilt[c] * away[c];
        }
        const S *by_y = Silu ? by_x : gradient;
        blocks<4>(
            channels,
            [&](int64_t c) {
                spread<S, 4>(x + start, by_y + start, size, lines, &level[0], &tilt[0], c, L, by_x + start);
            },
            [&](int64_t c, int count) {
                spread<S, 1>(x + start, by_y + start, size, lines, &level[0], &tilt[0], c, count, by_x + start);
            });
    }
}

Sizes sizes_of(const int64_t *of) { return {of[0], of[1], of[2], of[3], of[4]}; }
Beside beside_of(const float *const *of, const int64_t *rows) {
    return {of[0], of[1], of[2], of[3], of[4], rows[0], rows[1], rows[2]};
}

template <class S>
int forward_of(const int64_t *sizes, double epsilon, const void *x, const float *const *beside, const int64_t *rows,
               void *out, float *mean, float *rstd, int64_t threads) {
    const Sizes size = sizes_of(sizes);
    const Beside other = beside_of(beside, rows);
    const auto way = size.silu ? forward<S, true> : forward<S, false>;
    shared(size.pictures, threads, [&](int64_t from, int64_t to) {
        way(size, epsilon, static_cast<const S *>(x), other, static_cast<S *>(out), mean, rstd, from, to);
    });
    return 0;
}

template <class S>
int back_of(const int64_t *sizes, const void *x, const void *gradient, const float *const *beside, const int64_t *rows,
            const float *mean, const float *rstd, void *by_x, float *const *found, int64_t threads) {
    const Sizes size = sizes_of(sizes);
    const Beside other = beside_of(beside, rows);
    const Found to_fill = {found[0], found[1], found[2], found[3], found[4]};
    const auto way = size.silu ? back<S, true> : back<S, false>;
    shared(size.pictures, threads, [&](int64_t from, int64_t to) {
        way(size, static_cast<const S *>(x), static_cast<const S *>(gradient), other, mean, rstd,
            static_cast<S *>(by_x), to_fill, from, to);
    });
    return 0;
}

} // namespace

#define ADVECT_NORM(kind, S)                                                                                           \
    ADVECT_PUBLIC(advect_norm_forward_##kind)                                                                          \
    (const int64_t *sizes, double epsilon, const void *x, const float *const *beside, const int64_t *rows, void *out,  \
     float *mean, float *rstd, int64_t threads) {                                                                      \
        return forward_of<S>(sizes, epsilon, x, beside, rows, out, mean, rstd, threads);                               \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_norm_back_##kind)                                                                             \
    (const int64_t *sizes, const void *x, const void *gradient, const float *const *beside, const int64_t *rows,       \
     const float *mean, const float *rstd, void *by_x, float *const *found, int64_t threads) {                         \
        return back_of<S>(sizes, x, gradient, beside, rows, mean, rstd, by_x, found, threads);                         \
    }
ADVECT_NORM(float, float)
ADVECT_NORM(bfloat16, Half)
