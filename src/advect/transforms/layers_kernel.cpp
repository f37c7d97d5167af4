// The elementwise parts of coupling and autoregressive layers in one pass over memory each: the functions of functions.h,
// their gradients, and what stands between the matrix products of a conditioner, in float32 and float64.
//
// Numbers come as rows x columns with any strides. A vector holds the same column of neighbouring rows, so parameters
// that lie rows last are read as they are; others are gathered. A log-slope whose column stride is 0 is the sum over
// the columns. The file is compiled once for each instruction set, with ADVECT_SET naming the functions. There is no
// state between calls and no call into Python.

#include <cstdint>

#include "functions.h"

namespace {

// Calls work(row, column, count) for all vectors.
template <class R, class Work> inline void everywhere(int64_t rows, int64_t columns, Work work) {
    for (int64_t c = 0; c < columns; ++c)
        for (int64_t r = 0; r < rows; r += kLanes<R>)
            work(r, c, int(rows - r < kLanes<R> ? rows - r : kLanes<R>));
}

// The log-slope of a number, or added to that of its row.
template <class R> inline void put_slope(const Grid<R> &slope, int64_t r, int64_t c, int count, Vec<R> value) {
    if (!slope.first) return;
    R *to = slope.at(r, c);
    if (!slope.column && c) value += take<R>(to, slope.row, count);
    put<R>(to, slope.row, count, value);
}

// Any of the functions of functions.h, everywhere.
template <class R, class Function>
int apply(int64_t rows, int64_t columns, const Function &function, int inverse, Grid<const R> x, Parameters<const R> theta,
         Grid<R> y, Grid<R> slope) {
    if (!function.fits()) return 1;
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> value, log_slope;
        function.move(inverse, take<R>(x.at(r, c), x.row, count), theta.at(r, c), theta, count, value, log_slope);
        put<R>(y.at(r, c), y.row, count, value);
        put_slope<R>(slope, r, c, count, log_slope);
    });
    return 0;
}

// The gradient by the parameters lies as they do.
template <class R, class Function>
int apply_back(int64_t rows, int64_t columns, const Function &function, int inverse, Grid<const R> x,
              Parameters<const R> theta, Grid<const R> by_y, Grid<const R> by_slope, Grid<R> by_x, R *by_theta) {
    if (!function.fits()) return 1;
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> value = take<R>(by_y.at(r, c), by_y.row, count);
        Vec<R> log_slope = by_slope.first ? take<R>(by_slope.at(r, c), by_slope.row, count) : all<R>(0);
        Vec<R> by_point = function.back(inverse, take<R>(x.at(r, c), x.row, count), theta.at(r, c), theta, count, value,
                                        log_slope, by_theta + (theta.at(r, c) - theta.first));
        put<R>(by_x.at(r, c), by_x.row, count, by_point);
    });
    return 0;
}

template <class R> int squash(int64_t rows, int64_t columns, R bulk, Grid<const R> x, Grid<R> out) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        put<R>(out.at(r, c), out.row, count, squash_of<R>(take<R>(x.at(r, c), x.row, count), bulk));
    });
    return 0;
}

// base + by_out times the slope; no base is zeros.
template <class R>
int squash_back(int64_t rows, int64_t columns, R bulk, Grid<const R> x, Grid<const R> by_out, Grid<const R> base,
                Grid<R> by_x) {
    everywhere<R>(rows, columns, [&](int64_t r, int64_t c, int count) {
        Vec<R> value = take<R>(by_out.at(r, c), by_out.row, count) /
                       inverse_squash_slope<R>(take<R>(x.at(r, c), x.row, count), bulk);
        if (base.first) value += take<R>(base.at(r, c), base.row, count);
        put<R>(by_x.at(r, c), by_x.row, count, value);
    });
    return 0;
}

// a sigmoid(a), and where asked for its derivative, which may lie where a did.
template <class R> int silu(int64_t numbers, const R *a, R *value, R *derivative) {
    for (int64_t i = 0; i < numbers; i += kLanes<R>) {
        int count = int(numbers - i < kLanes<R> ? numbers - i : kLanes<R>);
        Smooth<R> found(take<R>(a + i, 1, count));
        put<R>(value + i, 1, count, found.value);
        if (derivative) put<R>(derivative + i, 1, count, found.slope());
    }
    return 0;
}

} // namespace

#define ADVECT_LAYERS(R, name)                                                                                         \
    ADVECT_PUBLIC(advect_spline_##name)                                                                                \
    (int64_t rows, int64_t columns, int64_t bins, double low, double high, double minimum, int64_t inverse,            \
     const R *x, int64_t xr, int64_t xc, const R *theta, int64_t tr, int64_t tc, int64_t te, R *y, int64_t yr,         \
     int64_t yc, R *slope, int64_t sr, int64_t sc) {                                                                   \
        return apply<R>(rows, columns, Spline<R>{{int(bins), R(low), R(high), R(minimum)}}, int(inverse), {x, xr, xc},  \
                       {theta, tr, tc, te}, {y, yr, yc}, {slope, sr, sc});                                             \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_spline_back_##name)                                                                           \
    (int64_t rows, int64_t columns, int64_t bins, double low, double high, double minimum, int64_t inverse,            \
     const R *x, int64_t xr, int64_t xc, const R *theta, int64_t tr, int64_t tc, int64_t te, const R *by_y,            \
     int64_t yr, int64_t yc, const R *by_slope, int64_t sr, int64_t sc, R *by_x, int64_t gr, int64_t gc,               \
     R *by_theta) {                                                                                                    \
        return apply_back<R>(rows, columns, Spline<R>{{int(bins), R(low), R(high), R(minimum)}}, int(inverse),          \
                            {x, xr, xc}, {theta, tr, tc, te}, {by_y, yr, yc}, {by_slope, sr, sc}, {by_x, gr, gc},      \
                            by_theta);                                                                                 \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_affine_##name)                                                                                \
    (int64_t rows, int64_t columns, double bound, int64_t inverse, const R *x, int64_t xr, int64_t xc,                 \
     const R *theta, int64_t tr, int64_t tc, int64_t te, R *y, int64_t yr, int64_t yc, R *slope, int64_t sr,           \
     int64_t sc) {                                                                                                     \
        return apply<R>(rows, columns, Affine<R>{R(bound)}, int(inverse), {x, xr, xc}, {theta, tr, tc, te},             \
                       {y, yr, yc}, {slope, sr, sc});                                                                           \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_affine_back_##name)                                                                           \
    (int64_t rows, int64_t columns, double bound, int64_t inverse, const R *x, int64_t xr, int64_t xc,                 \
     const R *theta, int64_t tr, int64_t tc, int64_t te, const R *by_y, int64_t yr, int64_t yc, const R *by_slope,     \
     int64_t sr, int64_t sc, R *by_x, int64_t gr, int64_t gc, R *by_theta) {                                           \
        return apply_back<R>(rows, columns, Affine<R>{R(bound)}, int(inverse), {x, xr, xc}, {theta, tr, tc, te},        \
                            {by_y, yr, yc}, {by_slope, sr, sc}, {by_x, gr, gc}, by_theta);                             \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_squash_##name)                                                                                \
    (int64_t rows, int64_t columns, double bulk, const R *x, int64_t xr, int64_t xc, R *out, int64_t yr, int64_t yc) { \
        return squash<R>(rows, columns, R(bulk), {x, xr, xc}, {out, yr, yc});                                          \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_squash_back_##name)                                                                           \
    (int64_t rows, int64_t columns, double bulk, const R *x, int64_t xr, int64_t xc, const R *by_out, int64_t yr,      \
     int64_t yc, const R *base, int64_t br, int64_t bc, R *by_x, int64_t gr, int64_t gc) {                             \
        return squash_back<R>(rows, columns, R(bulk), {x, xr, xc}, {by_out, yr, yc}, {base, br, bc}, {by_x, gr, gc});  \
    }                                                                                                                  \
    ADVECT_PUBLIC(advect_silu_##name)(int64_t numbers, const R *a, R *value, R *derivative) {                          \
        return silu<R>(numbers, a, value, derivative);                                                                 \
    }

ADVECT_LAYERS(float, float)
ADVECT_LAYERS(double, double)
