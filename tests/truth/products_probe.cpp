// C = S + A B by products.h, for a test: A either way round, B packed from either way round or as it lies.

#include "../../src/advect/products.h"

#include <vector>

namespace {

enum { kPacked, kTurned, kAsItLies };

template <class R>
void probe(int64_t rows, int64_t columns, int64_t depth, const R *a, int64_t a_row, int64_t a_step, const R *b, int how,
           const R *start, int64_t start_row, R *c) {
    std::vector<R> room(size_t(packed_size<R>(depth, columns)));
    Right<R> right = packed<R>(room.data(), depth);
    if (how == kPacked) pack<R>(b, depth, columns, room.data());
    if (how == kTurned) pack_turned<R>(b, depth, columns, room.data());
    if (how == kAsItLies) right = as_it_lies<R>(b, columns);
    product<R>(rows, columns, depth, {a, a_row, a_step}, right, {start, start_row},
               Stored<R>{c, how == kAsItLies ? columns : whole<R>(columns)});
}

} // namespace

extern "C" int lanes_float() { return kLanes<float>; }
extern "C" int lanes_double() { return kLanes<double>; }
extern "C" void probe_float(int64_t rows, int64_t columns, int64_t depth, const float *a, int64_t a_row, int64_t a_step,
                            const float *b, int how, const float *start, int64_t start_row, float *c) {
    probe<float>(rows, columns, depth, a, a_row, a_step, b, how, start, start_row, c);
}
extern "C" void probe_double(int64_t rows, int64_t columns, int64_t depth, const double *a, int64_t a_row,
                             int64_t a_step, const double *b, int how, const double *start, int64_t start_row,
                             double *c) {
    probe<double>(rows, columns, depth, a, a_row, a_step, b, how, start, start_row, c);
}
