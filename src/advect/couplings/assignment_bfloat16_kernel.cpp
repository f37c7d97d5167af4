// Squared distances of rows of many coordinates, |x|^2 + |y|^2 - 2 x.y about a common centre, for pairs to a tolerance: the
// products are of bfloat16 numbers with sums in float32, the norms those of the rows before they are rounded. Each side is
// read once; rows are centred, measured, rounded and laid out for the product as they come, and a distance is complete
// before it goes to memory. It is compiled for processors with `vdpbf16ps` and for those with tiles besides; `able` says
// whether this one is of the kind.

#include <new>

#include "../aligned.h"
#include "../bfloat16.h"

namespace {

// 32 numbers of a row less their centre, rounded; the squares are added to `norm`.
inline __m512i pairs_of(const float *row, const float *centre, int64_t k, int64_t d, __m512 &norm) {
    const __m512 low = _mm512_sub_ps(load_some(row + k, d - k), load_some(centre + k, d - k));
    const int64_t left = d - k - kWide;
    const __m512 high = left > 0 ? _mm512_sub_ps(load_some(row + k + kWide, left), load_some(centre + k + kWide, left))
                                 : _mm512_setzero_ps();
    norm = _mm512_fmadd_ps(low, low, _mm512_fmadd_ps(high, high, norm));
    return (__m512i)_mm512_cvtne2ps_pbh(high, low);
}

// About the centre (d) of all rows of both sides, from some of each: distances are the same about any point near it.
void middle(const float *x, const float *y, int64_t n, int64_t d, float *centre) {
    const int64_t step = std::max<int64_t>(1, n / 64);
    int64_t some = 0;
    std::fill(centre, centre + d, 0.0f);
    for (int64_t i = 0; i < n; i += step, ++some)
        for (int64_t k = 0; k < d; ++k) centre[k] += x[i * d + k] + y[i * d + k];
    for (int64_t k = 0; k < d; ++k) centre[k] /= float(2 * some);
}

// Rows x (n, d) in whole tiles.
void lay_rows(const float *x, const float *centre, int64_t n, int64_t d, Brief *to, float *norm) {
    const int64_t width = tiled(d);
    for (int64_t i = 0; i < n; ++i, x += d, to += width) {
        __m512 sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k += kTile) _mm512_storeu_si512(to + k, pairs_of(x, centre, k, d, sum));
        norm[i] = _mm512_reduce_add_ps(sum);
    }
}

// Rows y (n, d) as columns, in panels.
void lay_columns(const float *y, const float *centre, int64_t n, int64_t d, Brief *to, float *norm) {
    const int64_t width = tiled(d);
    for (int64_t start = 0; start < tiled(n); start += kWide) {
        Brief *panel = to + start / kTile * kTile * width + 2 * (start % kTile);
        __m512 sums[kWide];
        for (__m512 &sum : sums) sum = _mm512_setzero_ps();
        for (int64_t k = 0; k < width; k += kTile) {
            __m512i square[kWide];
            for (int i = 0; i < kWide; ++i)
                square[i] = start + i < n ? pairs_of(y + (start + i) * d, centre, k, d, sums[i]) : _mm512_setzero_si512();
            transpose(square);
            for (int i = 0; i < kWide; ++i) _mm512_storeu_si512(panel + k * kTile + 2 * kTile * i, square[i]);
        }
        for (int i = 0; i < kWide; ++i) norm[start + i] = _mm512_reduce_add_ps(sums[i]);
    }
}

struct Distances {
    float *cost;
    const float *norm0, *norm1;
    int64_t n;
    void operator()(int64_t row, int64_t column, __m512 product) const {
        const __m512 norms = _mm512_add_ps(_mm512_set1_ps(norm0[row]), _mm512_loadu_ps(norm1 + column));
        const __m512 squared = _mm512_max_ps(_mm512_fnmadd_ps(_mm512_set1_ps(2.0f), product, norms), _mm512_setzero_ps());
        _mm512_mask_storeu_ps(cost + row * n + column, lanes_of(n - column), squared);
    }
};

} // namespace

ADVECT_PUBLIC(advect_assign_able_bfloat16)() { return able(); }

// Squared distances (n, n) of rows x (n, d), one row each, to rows y (n, d), and the mean of |x|^2 + |y|^2 about their centre.
// Returns 0, or 1 where memory is short.
ADVECT_PUBLIC(advect_assign_distances)
(const float *x, const float *y, int64_t n, int64_t d, float *cost, double *spread) {
    try {
        const int64_t width = tiled(d), rows = n + kRows, columns = tiled(n);
        const Aligned<Brief> laid((rows + columns) * width);
        const Aligned<float> rest(columns + n + d);
        Brief *left = laid.get(), *right = left + rows * width;
        float *norm1 = rest.get(), *norm0 = norm1 + columns, *centre = norm0 + n;
        middle(x, y, n, d, centre);
        lay_rows(x, centre, n, d, left, norm0);
        lay_columns(y, centre, n, d, right, norm1);
        double sum = 0;
        for (int64_t i = 0; i < n; ++i) sum += double(norm0[i]) + double(norm1[i]);
        *spread = sum / double(n);
        const Tiles tiles;
        product(n, n, width, left, right, Distances{cost, norm0, norm1, n});
        return 0;
    } catch (const std::bad_alloc &) {
        return 1;
    }
}
