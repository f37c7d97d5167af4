// Self-attention, softmax(q kᵀ / √d) v, and its way back, head by head and block by block of queries and keys: scores
// stay in cache, and what follows a product takes its numbers from registers. torch's own fused attention calls a
// library for each block and passes over its scores between calls.
//
//     p = 2^(s - l),  s = q kᵀ log2(e) / √d,  l = log2 Σ 2^s;   out = p v
//     back, from g = ∂out:   ∂v = pᵀ g,   t = p (g vᵀ - Σ g out),   ∂q = t k / √d,   ∂k = tᵀ q / √d
//
// There, the greatest score so far moves from block to block of keys (Milakov & Gimelshein 2018, arXiv 1805.02867); back,
// p is made anew from l (Dao et al. 2022, arXiv 2205.14135). Numbers are float32; `attention_bfloat16_kernel.cpp` has those
// in bfloat16. NaN in gives NaN out.
//
// The file is compiled once for each instruction set. Heads are independent, so how many threads share them changes no
// number.

#include <algorithm>

#include "../numbers.h"
#include "../turned.h"
#include "attention.h"

namespace {

// Tiles of sums that fill the registers: up to kAcross vectors, and as many rows as there is room for.
#if defined(__AVX512F__)
constexpr int kSums = 24, kAcross = 4;
#else
constexpr int kSums = 12, kAcross = 2;
#endif
constexpr int kTallest = 12;                  // rows of a tile
constexpr int64_t kQueries = 96, kKeys = 128; // in a block: whole tiles of rows, whole panels
constexpr int kRow = kKeys + 16;              // of scores: neighbouring rows share no set of the cache
constexpr int64_t kPanel = kAcross * L;       // columns that go together

// 2^x for x up to 126, to a rounding; NaN of NaN. A series for the rest, whose error is the same on both sides.
inline V power_of_two(V x) {
#if defined(__GNUC__) && defined(__AVX512F__)
    x = (V)_mm512_max_ps(_mm512_set1_ps(-125.0f), (__m512)x); // the second of two numbers passes on NaN
    const V whole = (V)_mm512_roundscale_ps((__m512)x, _MM_FROUND_TO_NEAREST_INT), rest = x - whole;
#else
    x = x < -125.0f ? all<float>(-125.0f) : x;
    const V shifted = x + Type<float>::magic, rest = x - (shifted - Type<float>::magic);
#endif
    V sum = all<float>(1.3276472e-3f);
    sum = sum * rest + 9.67554138e-3f;
    sum = sum * rest + 5.55071327e-2f;
    sum = sum * rest + 2.40221197e-1f;
    sum = sum * rest + 6.93146967e-1f;
    sum = sum * rest + 1.00000007f;
#if defined(__GNUC__) && defined(__AVX512F__)
    return (V)_mm512_scalef_ps((__m512)sum, (__m512)whole);
#else
    return sum * bits_of<V>((bits_of<Int<float>>(shifted) + (127 - bits_of<int32_t>(Type<float>::magic))) << 23);
#endif
}

// One by one, so that sums stay in registers.
template <int Tall, int Across, class Put, size_t... M>
inline void each_row(const V (&sum)[Tall][Across], const Put &put, std::index_sequence<M...>) {
    (put(int(M), sum[M]), ...);
}

// Tall x Across vectors of the sums over depth of a[m * Row + k * step] b[k * row + column].
template <int Tall, int Across, int Row, class Put>
inline void tile(const float *a, int64_t step, const float *b, int64_t row, int64_t depth, int count, const Put &put) {
    V sum[Tall][Across];
    for (int m = 0; m < Tall; ++m)
        for (int v = 0; v < Across; ++v) sum[m][v] = put.start(m, v);
    for (int64_t k = 0; k < depth; ++k, a += step, b += row) {
        V right[Across];
        for (int v = 0; v < Across; ++v) right[v] = load<float>(b + v * L);
        for (int m = 0; m < Tall; ++m)
            for (int v = 0; v < Across; ++v) sum[m][v] += a[m * Row] * right[v];
    }
    V done[Tall][Across];
    for (int m = 0; m < Tall; ++m)
        for (int v = 0; v < Across; ++v) done[m][v] = sum[m][v];
    if (count == Tall) return each_row(done, put, std::make_index_sequence<Tall>());
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 1
#endif
    for (int m = 0; m < count; ++m) put(m, done[m]);
}

// What is done with a tile, which begins at this row and column.
template <class Put, int Across> struct Placed {
    const Put &put;
    int64_t row, column;
    V start(int m, int v) const { return put.start(row + m, column + v * L); }
    void operator()(int m, const V (&sums)[Across]) const { put.template row<Across>(row + m, column, sums); }
};

template <int Across, int Row, class Put>
inline void strip(int64_t rows, int64_t depth, const float *a, int64_t step, const float *b, int64_t row, int64_t column,
                  const Put &put) {
    constexpr int Tall = std::min(kTallest, kSums / Across);
    for (int64_t r = 0; r < rows; r += Tall)
        tile<Tall, Across, Row>(a + r * Row, step, b, row, depth, int(std::min<int64_t>(Tall, rows - r)),
                                Placed<Put, Across>{put, r, column});
}

// put(row, column, vector) for all of A B, columns in whole vectors. Panels of B are `panel` numbers apart.
template <int Row, class Put>
inline void product(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t step, const float *b,
                    int64_t row, int64_t panel, const Put &put) {
    for (int64_t column = 0; column < columns; column += kPanel, b += panel) {
        const int64_t vectors = std::min(kPanel, columns - column) / L;
        if (vectors == 1) strip<1, Row>(rows, depth, a, step, b, row, column, put);
        if (vectors == 2) strip<2, Row>(rows, depth, a, step, b, row, column, put);
#if defined(__AVX512F__)
        if (vectors == 3) strip<3, Row>(rows, depth, a, step, b, row, column, put);
        if (vectors == 4) strip<4, Row>(rows, depth, a, step, b, row, column, put);
#endif
    }
}

inline V read(const float *from, int64_t count) { return Memory<float>::read(from, int(std::min<int64_t>(L, count))); }
// Rows of whole vectors, zeros at their ends.
void copy(const Rows<const float> *from, int parts, int64_t tokens, int64_t each, float *const *to) {
    const int64_t width = whole<float>(each);
    for (int64_t t = 0; t < tokens; ++t)
        for (int part = 0; part < parts; ++part)
            for (int64_t c = 0; c < each; c += L)
                store<float>(to[part] + t * width + c, read(from[part].of(t) + c, each - c));
}
inline void write_row(float *to, int64_t each, const float *from, float scale) {
    for (int64_t c = 0; c < each; c += L)
        Memory<float>::write(to + c, load<float>(from + c) * scale, int(std::min<int64_t>(L, each - c)));
}
// Columns for rows, by panels of `width` tokens, zeros beyond the last.
void turn(const float *rows, int64_t tokens, int64_t each, int64_t width, float *to) {
    const int64_t row = whole<float>(each);
    for (int64_t start = 0; start < tokens; start += width, to += width * each) {
        const int64_t count = std::min(width, tokens - start);
        turn<float>(rows + start * row, row, count, each, to, width);
        for (int64_t k = 0; count < width && k < each; ++k)
            std::fill(to + k * width + count, to + (k + 1) * width, 0.0f);
    }
}

struct Greatest { // scores, the greatest of a row and lane beside them
    float *scores, *most;
    V start(int64_t, int64_t) const { return V{}; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        V high = load<float>(most + r * L);
        for (int v = 0; v < Across; ++v) {
            store<float>(scores + r * kRow + c + v * L, values[v]);
            high = values[v] > high ? values[v] : high;
        }
        store<float>(most + r * L, high);
    }
};
struct Powers {
    float *powers;
    const float *logs;
    float scale;
    V start(int64_t, int64_t) const { return V{}; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v)
            store<float>(powers + r * kRow + c + v * L, power_of_two(values[v] * scale - logs[r]));
    }
};
struct Slopes {
    float *slopes;
    const float *powers, *inner;
    V start(int64_t, int64_t) const { return V{}; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v) {
            const int64_t at = r * kRow + c + v * L;
            store<float>(slopes + at, load<float>(powers + at) * (values[v] - inner[r]));
        }
    }
};
struct Added {
    float *to;
    int64_t width;
    V start(int64_t r, int64_t c) const { return load<float>(to + r * width + c); }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v) store<float>(to + r * width + c + v * L, values[v]);
    }
};
struct Moved { // what was there times a factor of its row
    float *to;
    int64_t width;
    const float *factor;
    V start(int64_t r, int64_t c) const { return load<float>(to + r * width + c) * factor[r]; }
    template <int Across> void row(int64_t r, int64_t c, const V (&values)[Across]) const {
        for (int v = 0; v < Across; ++v) store<float>(to + r * width + c + v * L, values[v]);
    }
};

struct Forward {
    const Sizes &size;
    const int64_t width; // in whole vectors
    float *rows[3], *queries, *keys, *scores, *out, *sums, *lanes, *most, *factor;
    Room room;

    explicit Forward(const Sizes &of)
        : size(of), width(whole<float>(of.each)), room([this](Room &piece) {
              for (float *&part : rows) piece.take(part, size.tokens * width);
              piece.take(queries, padded(size.tokens, kQueries) * size.each);
              piece.take(keys, padded(size.tokens, kPanel) * size.each);
              piece.take(scores, kQueries * kRow), piece.take(out, kQueries * width);
              for (float **part : {&sums, &lanes, &most, &factor}) piece.take(*part, kQueries * L);
          }) {}

    // 2^(scores - the greatest), their sums, and what older sums are multiplied by.
    void soften(int64_t queries, int64_t columns) {
        const float scale = size.scale() * kLog2e;
        for (int64_t r = 0; r < queries; ++r) {
            float top = most[r];
            for (int64_t lane = 0; lane < L; ++lane) top = std::max(top, lanes[r * L + lane] * scale);
            factor[r] = most[r] - top;
            most[r] = top;
        }
        for (int64_t r = 0; r < queries; r += L) store<float>(factor + r, power_of_two(load<float>(factor + r)));
        for (int64_t r = 0; r < queries; ++r) {
            V sum = load<float>(sums + r * L) * factor[r];
            for (int64_t c = 0; c < columns; c += L) {
                const V power = power_of_two(load<float>(scores + r * kRow + c) * scale - most[r]);
                store<float>(scores + r * kRow + c, power);
                sum += power;
            }
            store<float>(sums + r * L, sum);
        }
    }
    void block(int64_t start, int64_t count) {
        std::fill(sums, sums + count * L, 0.0f);
        std::fill(out, out + kQueries * width, 0.0f);
        std::fill(most, most + kQueries, -INFINITY);
        for (int64_t first = 0; first < size.tokens; first += kKeys) {
            const int64_t there = std::min(kKeys, size.tokens - first), columns = whole<float>(there);
            std::fill(lanes, lanes + count * L, -INFINITY);
            product<1>(count, columns, size.each, queries + start * size.each, kQueries, keys + first * size.each,
                       kPanel, kPanel * size.each, Greatest{scores, lanes});
            for (int64_t r = 0; r < count; ++r)
                std::fill(scores + r * kRow + there, scores + r * kRow + columns, -INFINITY);
            soften(count, columns);
            product<kRow>(count, width, there, scores, 1, rows[2] + first * width, width, kPanel,
                          Moved{out, width, factor});
        }
    }
    void head(const Rows<const float> *from, Rows<float> to, float *logs) {
        const int64_t tokens = size.tokens, each = size.each;
        copy(from, 3, tokens, each, rows);
        turn(rows[0], tokens, each, kQueries, queries), turn(rows[1], tokens, each, kPanel, keys);
        for (int64_t start = 0; start < tokens; start += kQueries) {
            const int64_t count = std::min(kQueries, tokens - start);
            block(start, count);
            for (int64_t r = 0; r < count; ++r) {
                double sum = 0;
                for (int64_t lane = 0; lane < L; ++lane) sum += sums[r * L + lane];
                logs[start + r] = most[r] + float(std::log2(sum));
                write_row(to.of(start + r), each, out + r * width, float(1 / sum));
            }
        }
    }
};

struct Back {
    const Sizes &size;
    const int64_t width;
    float *rows[4], *turned[4], *by[3], *powers, *slopes, *inner, *logs; // of q, k, v and the gradient
    Room room;

    explicit Back(const Sizes &of)
        : size(of), width(whole<float>(of.each)), room([this](Room &piece) {
              for (float *&part : rows) piece.take(part, size.tokens * width);
              for (int i = 0; i < 4; ++i) piece.take(turned[i], padded(size.tokens, panel(i)) * size.each);
              for (float *&part : by) piece.take(part, (size.tokens + kTallest) * width);
              for (float **part : {&powers, &slopes}) piece.take(*part, (kQueries + 1) * kRow);
              piece.take(inner, size.tokens), piece.take(logs, size.tokens + kTallest);
          }) {}
    static int64_t panel(int part) { return part % 3 ? kPanel : kQueries; } // keys and values go across

    void block(int64_t start, int64_t queries, int64_t first, int64_t keys) {
        const int64_t each = size.each, columns = whole<float>(keys);
        product<1>(queries, columns, each, turned[0] + start * each, kQueries, turned[1] + first * each, kPanel,
                   kPanel * each, Powers{powers, logs + start, size.scale() * kLog2e});
        product<1>(queries, columns, each, turned[3] + start * each, kQueries, turned[2] + first * each, kPanel,
                   kPanel * each, Slopes{slopes, powers, inner + start});
        product<kRow>(queries, width, keys, slopes, 1, rows[1] + first * width, width, kPanel,
                      Added{by[0] + start * width, width});
        product<1>(keys, width, queries, slopes, kRow, rows[0] + start * width, width, kPanel,
                   Added{by[1] + first * width, width});
        product<1>(keys, width, queries, powers, kRow, rows[3] + start * width, width, kPanel,
                   Added{by[2] + first * width, width});
    }
    // `from`: q, k, v, the gradient and the output; `to`: gradients by q, k and v.
    void head(const Rows<const float> *from, const float *log_sums, const Rows<float> *to) {
        const int64_t tokens = size.tokens, each = size.each;
        copy(from, 4, tokens, each, rows);
        for (int part = 0; part < 4; ++part) turn(rows[part], tokens, each, panel(part), turned[part]);
        for (float *part : by) std::fill(part, part + tokens * width, 0.0f);
        for (int64_t t = 0; t < tokens; ++t) {
            V sum = {};
            for (int64_t c = 0; c < each; c += L)
                sum += load<float>(rows[3] + t * width + c) * read(from[4].of(t) + c, each - c);
            float lanes[L];
            store<float>(lanes, sum);
            inner[t] = 0;
            for (float lane : lanes) inner[t] += lane;
            logs[t] = log_sums[t];
        }
        for (int64_t start = 0; start < tokens; start += kQueries)
            for (int64_t first = 0; first < tokens; first += kKeys)
                block(start, std::min(kQueries, tokens - start), first, std::min(kKeys, tokens - first));
        for (int64_t t = 0; t < tokens; ++t)
            for (int part = 0; part < 3; ++part)
                write_row(to[part].of(t), each, by[part] + t * width, part < 2 ? size.scale() : 1);
    }
};

// `strides` by batch, token and head: of q, k and v, of output and gradient, of the gradients found.
int forward_of(const Sizes &size, const void *const *parts, const int64_t *strides, void *out, float *logs,
               int64_t threads) {
    each_head<Forward>(size, threads, [&](Forward &way, int64_t head) {
        Rows<const float> from[3];
        for (int i = 0; i < 3; ++i) from[i] = head_of<const float>(size, parts[i], strides, head);
        way.head(from, head_of<float>(size, out, strides + 3, head), logs + head * size.tokens);
    });
    return 0;
}
int back_of(const Sizes &size, const void *const *parts, const int64_t *strides, const float *logs, void *const *found,
            int64_t threads) {
    each_head<Back>(size, threads, [&](Back &way, int64_t head) {
        Rows<const float> from[5];
        for (int i = 0; i < 5; ++i) from[i] = head_of<const float>(size, parts[i], strides + (i < 3 ? 0 : 3), head);
        Rows<float> to[3];
        for (int i = 0; i < 3; ++i) to[i] = head_of<float>(size, found[i], strides + 6, head);
        way.head(from, logs + head * size.tokens, to);
    });
    return 0;
}

} // namespace

ADVECT_PUBLIC(advect_attention_forward_float)
(const int64_t *sizes, const void *const *parts, const int64_t *strides, void *out, float *logs, int64_t threads) {
    return forward_of(Sizes(sizes), parts, strides, out, logs, threads);
}
ADVECT_PUBLIC(advect_attention_back_float)
(const int64_t *sizes, const void *const *parts, const int64_t *strides, const float *logs, void *const *found,
 int64_t threads) {
    return back_of(Sizes(sizes), parts, strides, logs, found, threads);
}
