// Self-attention of bfloat16 numbers as `attention_kernel.cpp` has it, with products of `bfloat16.h`: sums, scores and
// powers of two are float32, what goes into a product is rounded to bfloat16.
//
// Scores are made keys by queries, sᵀ = k qᵀ. There, pᵀ in pairs of rows is what outᵀ = vᵀ pᵀ takes, block after block of
// keys. Back, pᵀ and tᵀ are where ∂v = pᵀ g and ∂k = tᵀ q want them, all queries of some keys at once, and tᵀ in pairs of
// rows is what ∂qᵀ = kᵀ tᵀ takes; its sums over keys wait in float32.

#include "../bfloat16.h"
#include "../turned.h"
#include "attention.h"

namespace {

constexpr int64_t kKeys = 192; // in a block, on the way there
constexpr int64_t kGroup = 96; // keys at once on the way back: whole tiles, and whole blocks of rows
constexpr int64_t kSums = kRows * kTile;
static_assert(kGroup % kTile == 0 && kGroup % kRows == 0 && kKeys % kGroup == 0, "whole blocks");

// 2^x to 13 bits, at least 2^-126; NaN of NaN, which the second of two numbers passes on.
inline __m512 power_of_two(__m512 x) {
    const __m512 within = _mm512_max_ps(_mm512_set1_ps(-126.0f), x);
    const __m512 whole = _mm512_roundscale_ps(within, _MM_FROUND_TO_NEAREST_INT);
    const Floats rest = (Floats)_mm512_sub_ps(within, whole);
    const Floats series = 0.999928073f + rest * (0.693260986f + rest * (0.242611125f + rest * 0.0551716695f));
    return _mm512_scalef_ps((__m512)series, whole);
}

// Rows of whole tiles, zeros at their ends and after the last up to `rows`.
void copy(Rows<const Brief> from, int64_t tokens, int64_t each, int64_t rows, Brief *to) {
    const int64_t width = tiled(each);
    for (int64_t t = 0; t < tokens; ++t)
        for (int64_t c = 0; c < width; c += kWide)
            _mm256_storeu_si256((__m256i *)(to + t * width + c),
                                _mm256_maskz_loadu_epi16(lanes_of(each - c), from.of(t) + c));
    std::fill(to + tokens * width, to + rows * width, Brief(0));
}
// Panels of the transpose of such rows, for as many columns as there are rows.
void turn_panels(const Brief *rows, int64_t count, int64_t width, Brief *to) {
    for (int64_t start = 0; start < count; start += kTile, to += kTile * width)
        for (int64_t c = 0; c < kTile; c += kWide)
            for (int64_t k = 0; k < width; k += 2 * kWide) {
                __m512i square[16];
                for (int i = 0; i < 16; ++i) square[i] = _mm512_loadu_si512(rows + (start + c + i) * width + k);
                transpose(square);
                for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + (k / 2 + i) * 2 * kTile + 2 * c, square[i]);
            }
}
inline void write_row(Brief *to, int64_t each, const float *from, float scale) {
    for (int64_t c = 0; c < each; c += kWide)
        _mm256_mask_storeu_epi16(to + c, lanes_of(each - c),
                                 rounded(_mm512_mul_ps(_mm512_loadu_ps(from + c), _mm512_set1_ps(scale))));
}

// kTile queries at a time; their numbers lie side by side, so that sums and the greatest are taken lane by lane.
struct Forward {
    const Sizes &size;
    const int64_t width, tokens, row; // in whole tiles, the last for whole groups of keys
    Brief *rows[3], *queries, *values, *pairs;
    float *scores, *sums, *out, *made;
    Floats most[2], total[2], factor[2];
    Room room;
    const Tiles tiles;

    explicit Forward(const Sizes &of)
        : size(of), width(tiled(of.each)), tokens(tiled(of.tokens)), row(padded(tokens, kGroup)),
          room([this](Room &piece) {
              for (Brief *&part : rows) piece.take(part, (row + kRows) * width);
              piece.take(queries, tokens * width), piece.take(values, (width + kRows) * row);
              piece.take(pairs, kKeys * kTile), piece.take(scores, kKeys * kTile), piece.take(sums, kSums);
              piece.take(out, (width + kRows) * kTile), piece.take(made, width * kTile);
          }) {}

    // Of `keys` keys, whose scores are there: 2^(scores - the greatest), in pairs of rows, and what sums become.
    void soften(int64_t keys) {
        const float scale = size.scale() * kLog2e;
        for (int half = 0; half < 2; ++half) {
            const float *from = scores + half * kWide;
            __m512 highest[4];
            for (int i = 0; i < 4; ++i) highest[i] = _mm512_load_ps(from + i * kTile);
            for (int64_t r = 4; r < keys; r += 4)
                for (int i = 0; i < 4; ++i)
                    highest[i] = _mm512_max_ps(_mm512_load_ps(from + (r + i) * kTile), highest[i]);
            const Floats high = (Floats)_mm512_max_ps(_mm512_max_ps(highest[0], highest[1]),
                                                      _mm512_max_ps(highest[2], highest[3]));
            const Floats top = (Floats)_mm512_max_ps((__m512)(high * scale), (__m512)most[half]);
            factor[half] = (Floats)power_of_two((__m512)(most[half] - top));
            most[half] = top;
            Floats sum[2] = {};
            for (int64_t r = 0; r < keys; r += 2) {
                __m512 power[2];
                for (int i = 0; i < 2; ++i) {
                    power[i] = power_of_two((__m512)(load<float>(from + (r + i) * kTile) * scale - top));
                    sum[i] += (Floats)power[i];
                }
                _mm512_store_si512(pairs + r * kTile + 2 * half * kWide, paired(rounded(power[0], power[1])));
            }
            total[half] = total[half] * factor[half] + (sum[0] + sum[1]);
        }
    }
    void block(int64_t query) {
        for (int half = 0; half < 2; ++half) most[half] = all<float>(-INFINITY), total[half] = Floats{};
        std::fill(out, out + (width + kRows) * kTile, 0.0f);
        for (int64_t first = 0; first < tokens; first += kKeys) {
            const int64_t keys = std::min(kKeys, tokens - first);
            const Brief *panel = queries + query * width;
            for (int64_t at = 0; at < keys; at += kRows)
                block_of(rows[1] + (first + at) * width, width, panel, width, scores + at * kTile, panel, 0);
            if (first + keys > size.tokens)
                std::fill(scores + (size.tokens - first) * kTile, scores + keys * kTile, -INFINITY);
            soften(keys);
            for (int64_t c = 0; c < size.each; c += kRows) {
                block_of(values + c * row + first, row, pairs, keys, sums, pairs, 0);
                for (int64_t i = 0; i < kSums; i += kWide) {
                    float *to = out + c * kTile + i;
                    store<float>(to, load<float>(to) * factor[i / kWide % 2] + load<float>(sums + i));
                }
            }
        }
    }
    void head(const Rows<const Brief> *from, Rows<Brief> to, float *logs) {
        for (int part = 0; part < 3; ++part) copy(from[part], size.tokens, size.each, row + kRows, rows[part]);
        turn_panels(rows[0], tokens, width, queries);
        turn_rows(rows[2], row, width, values);
        for (int64_t query = 0; query < size.tokens; query += kTile) {
            block(query);
            turn<float>(out, kTile, width, kTile, made, width);
            float sum[kTile], top[kTile];
            for (int half = 0; half < 2; ++half)
                store<float>(sum + half * kWide, total[half]), store<float>(top + half * kWide, most[half]);
            for (int64_t r = 0; r < std::min(kTile, size.tokens - query); ++r) {
                logs[query + r] = top[r] + std::log2(sum[r]);
                write_row(to.of(query + r), size.each, made + r * width, 1 / sum[r]);
            }
        }
    }
};

struct Back {
    const Sizes &size;
    const int64_t width, tokens; // in whole tiles
    Brief *rows[4], *queries, *gradients, *query_pairs, *gradient_pairs, *turned; // rows of q, k, v and the gradient
    Brief *powers, *slopes, *pairs;
    float *inner, *logs, *by_query, *by_rows, *sums, *others;
    Room room;
    const Tiles tiles;

    explicit Back(const Sizes &of)
        : size(of), width(tiled(of.each)), tokens(tiled(of.tokens)), room([this](Room &piece) {
              for (Brief *&part : rows) piece.take(part, (tokens + kGroup + kRows) * width);
              for (Brief **part : {&queries, &gradients, &query_pairs, &gradient_pairs}) piece.take(*part, tokens * width);
              piece.take(turned, (width + kRows) * padded(tokens, kGroup));
              for (Brief **part : {&powers, &slopes}) piece.take(*part, (kGroup + kRows) * tokens);
              piece.take(pairs, kGroup * tokens), piece.take(inner, tokens), piece.take(logs, tokens);
              piece.take(by_query, (width + kRows) * tokens), piece.take(by_rows, tokens * width);
              piece.take(sums, kSums), piece.take(others, kSums);
          }) {}

    // kRows keys, from `first + at` on, and kTile queries: pᵀ and tᵀ in rows, the latter in pairs of rows too.
    void square(int64_t first, int64_t at, int64_t query) {
        const Brief *k = rows[1] + (first + at) * width, *v = rows[2] + (first + at) * width;
        const Brief *left = queries + query * width, *right = gradients + query * width;
        block_of(k, width, left, width, sums, left, 0);
        block_of(v, width, right, width, others, right, 0);
        const __m512 scale = _mm512_set1_ps(size.scale() * kLog2e);
        Brief *to = pairs + query * kGroup + at * kTile;
        for (int64_t r = 0; r < kRows; r += 2)
            for (int64_t c = 0; c < kTile; c += kWide) {
                const __m512 log = _mm512_load_ps(logs + query + c), less = _mm512_load_ps(inner + query + c);
                __m512 power[2], slope[2];
                for (int64_t i = 0; i < 2; ++i) {
                    const int64_t from = (r + i) * kTile + c;
                    const __mmask16 there = first + at + r + i < size.tokens ? 0xffff : 0;
                    power[i] = power_of_two(_mm512_fmsub_ps(_mm512_load_ps(sums + from), scale, log));
                    slope[i] = _mm512_maskz_mul_ps(there, power[i], _mm512_sub_ps(_mm512_load_ps(others + from), less));
                }
                const int64_t put = (at + r) * tokens + query + c;
                const __m512i by = rounded(slope[0], slope[1]);
                store_rows(powers + put, rounded(power[0], power[1]));
                store_rows(slopes + put, by);
                _mm512_storeu_si512(to + r * kTile + 2 * c, paired(by));
            }
    }
    void store_rows(Brief *to, __m512i two) const {
        _mm256_storeu_si256((__m256i *)to, _mm512_castsi512_si256(two));
        _mm256_storeu_si256((__m256i *)(to + tokens), _mm512_extracti64x4_epi64(two, 1));
    }
    // Rows of a gradient by keys or values: of pᵀ g or tᵀ q.
    void write(const Brief *left, const Brief *right, int64_t first, int64_t at, float scale, Rows<Brief> to) {
        for (int64_t c = 0; c < size.each; c += kTile) {
            const Brief *panel = right + c * tokens;
            block_of(left + at * tokens, tokens, panel, tokens, sums, panel, 0);
            for (int64_t r = 0; r < std::min(kRows, size.tokens - first - at); ++r)
                write_row(to.of(first + at + r) + c, std::min(kTile, size.each - c), sums + r * kTile, scale);
        }
    }
    void add_by_query(int64_t first, int64_t keys) {
        const int64_t row = padded(tokens, kGroup);
        for (int64_t query = 0; query < tokens; query += kTile)
            for (int64_t c = 0; c < size.each; c += kRows) {
                const Brief *panel = pairs + query * kGroup;
                block_of(turned + c * row + first, row, panel, keys, sums, panel, 0);
                for (int64_t r = 0; r < kRows; ++r)
                    for (int64_t i = 0; i < kTile; i += kWide) {
                        float *to = by_query + (c + r) * tokens + query + i;
                        store<float>(to, load<float>(to) + load<float>(sums + r * kTile + i));
                    }
            }
    }
    void group(int64_t first, const Rows<Brief> *to) {
        const int64_t keys = std::min(kGroup, tokens - first);
        for (int64_t query = 0; query < tokens; query += kTile)
            for (int64_t at = 0; at < keys; at += kRows) square(first, at, query);
        for (int64_t at = 0; at < keys && first + at < size.tokens; at += kRows) {
            write(slopes, query_pairs, first, at, size.scale(), to[1]);
            write(powers, gradient_pairs, first, at, 1, to[2]);
        }
        add_by_query(first, keys);
    }
    void sum_inner(Rows<const Brief> out, const float *log_sums) {
        for (int64_t t = 0; t < tokens; ++t) {
            __m512 sum = _mm512_setzero_ps();
            for (int64_t c = 0; t < size.tokens && c < size.each; c += kWide) {
                const __m512 made = widened(_mm256_maskz_loadu_epi16(lanes_of(size.each - c), out.of(t) + c));
                sum = _mm512_fmadd_ps(made, load_brief(rows[3] + t * width + c), sum);
            }
            inner[t] = _mm512_reduce_add_ps(sum);
            logs[t] = t < size.tokens ? log_sums[t] : 1e30f; // beyond the last, nothing
        }
    }
    // `from`: q, k, v, the gradient and the output; `to`: gradients by q, k and v.
    void head(const Rows<const Brief> *from, const float *log_sums, const Rows<Brief> *to) {
        for (int part = 0; part < 4; ++part)
            copy(from[part], size.tokens, size.each, tokens + kGroup + kRows, rows[part]);
        turn_panels(rows[0], tokens, width, queries), turn_panels(rows[3], tokens, width, gradients);
        pack_rows(rows[0], tokens, width, query_pairs), pack_rows(rows[3], tokens, width, gradient_pairs);
        turn_rows(rows[1], padded(tokens, kGroup), width, turned);
        sum_inner(from[4], log_sums);
        std::fill(by_query, by_query + (width + kRows) * tokens, 0.0f);
        for (int64_t first = 0; first < size.tokens; first += kGroup) group(first, to);
        turn<float>(by_query, tokens, width, tokens, by_rows, width);
        for (int64_t t = 0; t < size.tokens; ++t)
            write_row(to[0].of(t), size.each, by_rows + t * width, size.scale());
    }
};

int forward_of(const Sizes &size, const void *const *parts, const int64_t *strides, void *out, float *logs,
               int64_t threads) {
    each_head<Forward>(size, threads, [&](Forward &way, int64_t head) {
        Rows<const Brief> from[3];
        for (int i = 0; i < 3; ++i) from[i] = head_of<const Brief>(size, parts[i], strides, head);
        way.head(from, head_of<Brief>(size, out, strides + 3, head), logs + head * size.tokens);
    });
    return 0;
}
int back_of(const Sizes &size, const void *const *parts, const int64_t *strides, const float *logs, void *const *found,
            int64_t threads) {
    each_head<Back>(size, threads, [&](Back &way, int64_t head) {
        Rows<const Brief> from[5];
        for (int i = 0; i < 5; ++i) from[i] = head_of<const Brief>(size, parts[i], strides + (i < 3 ? 0 : 3), head);
        Rows<Brief> to[3];
        for (int i = 0; i < 3; ++i) to[i] = head_of<Brief>(size, found[i], strides + 6, head);
        way.head(from, logs + head * size.tokens, to);
    });
    return 0;
}

} // namespace

ADVECT_PUBLIC(advect_attention_able_bfloat16)() { return able(); }
ADVECT_PUBLIC(advect_attention_forward_bfloat16)
(const int64_t *sizes, const void *const *parts, const int64_t *strides, void *out, float *logs, int64_t threads) {
    return forward_of(Sizes(sizes), parts, strides, out, logs, threads);
}
ADVECT_PUBLIC(advect_attention_back_bfloat16)
(const int64_t *sizes, const void *const *parts, const int64_t *strides, const float *logs, void *const *found,
 int64_t threads) {
    return back_of(Sizes(sizes), parts, strides, logs, found, threads);
}
