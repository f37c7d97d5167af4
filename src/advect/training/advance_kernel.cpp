// A step of AdamW over numbers that lie in one buffer, with the clipping of its gradient before it and the averages of
// the weights after it, in one pass over memory (`advance` says what is computed, and for whom).
//
// A block of numbers is read and written once, and the averages take in the new weights while they are in the nearest
// cache. Products and sums are rounded where torch's own kernels round them, so that the numbers are theirs to the bit
// where both run with the same instruction set; the compiler must not fuse any (-ffp-contract=off).

#include <cstdint>

#include "../compiled.h"
#include "../shares.h"
#include "../vectors.h"

namespace {

constexpr int64_t kBlock = 4096, kAhead = 2048; // bytes of one buffer: done together, asked for before they are read

inline void ask_for(const void *place) {
#if defined(__GNUC__)
    __builtin_prefetch(place); // of a place behind the end nothing comes
#endif
}

// a * b + c, rounded once where the instruction set has that.
template <class R> inline Vec<R> fused(Vec<R> a, Vec<R> b, Vec<R> c) { return a * b + c; }
#if defined(__GNUC__) && defined(__AVX512F__)
template <> inline Floats fused<float>(Floats a, Floats b, Floats c) {
    return (Floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
}
template <> inline Doubles fused<double>(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
}
#elif defined(__GNUC__) && defined(__AVX2__)
template <> inline Floats fused<float>(Floats a, Floats b, Floats c) {
    return (Floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
}
template <> inline Doubles fused<double>(Doubles a, Doubles b, Doubles c) {
    return (Doubles)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
}
#endif

// From one number towards another by a share of the way, counted from the nearer end as torch does.
template <class R> struct Way {
    explicit Way(double share) : below(R(share) < R(0.5)), part(all<R>(below ? R(share) : R(share) - 1)) {}
    Vec<R> operator()(Vec<R> from, Vec<R> to) const { return fused<R>(part, to - from, below ? from : to); }
    bool below;
    Vec<R> part;
};

template <class R> struct Rule {
    // The numbers of `advance.rule`, in its order.
    explicit Rule(const double *of)
        : factor(R(of[0])), kept(R(of[1])), mean(of[2]), square_kept(R(of[3])), square_share(R(of[4])), root(R(of[5])),
          epsilon(R(of[6])), step(R(-of[7])) {}
    R factor, kept;
    Way<R> mean;
    R square_kept, square_share, root, epsilon, step;
};

template <class R>
void advance(const Rule<R> &rule, const R *gradients, R *weights, R *means, R *squares, int64_t from, int64_t to) {
    constexpr int64_t ahead = kAhead / sizeof(R);
    for (int64_t i = from; i < to; i += kLanes<R>) {
        for (const R *buffer : {gradients, static_cast<const R *>(weights), static_cast<const R *>(means),
                                static_cast<const R *>(squares)})
            ask_for(buffer + i + ahead);
        const Vec<R> gradient = load(gradients + i) * rule.factor;
        const Vec<R> mean = rule.mean(load(means + i), gradient);
        const Vec<R> square = fused<R>(rule.square_share * gradient, gradient, load(squares + i) * rule.square_kept);
        store(means + i, mean);
        store(squares + i, square);
        const Vec<R> size = root(square) / rule.root + rule.epsilon;
        store(weights + i, load(weights + i) * rule.kept + rule.step * mean / size);
    }
}

template <class R> void take_in(const Way<R> &way, const R *weights, R *average, int64_t from, int64_t to) {
    for (int64_t i = from; i < to; i += kLanes<R>) {
        ask_for(average + i + kBlock / sizeof(R)); // the next block's
        store(average + i, way(load(average + i), load(weights + i)));
    }
}

template <class R>
int advance_of(int64_t count, const double *numbers, const R *gradients, R *weights, R *means, R *squares,
               int64_t averages, R *const *averaged, const double *shares, int64_t threads) {
    const Rule<R> rule(numbers);
    const int64_t each = kBlock / sizeof(R), blocks = (count + each - 1) / each;
    shared(blocks, threads, [&](int64_t first, int64_t last) {
        for (int64_t block = first; block < last; ++block) {
            const int64_t from = block * each, to = std::min(count, from + each);
            advance(rule, gradients, weights, means, squares, from, to);
            for (int64_t k = 0; k < averages; ++k) take_in(Way<R>(shares[k]), weights, averaged[k], from, to);
        }
    });
    return 0;
}

} // namespace

// `count` is a multiple of the numbers of the widest vector.
#define ADVECT_ADVANCE(kind, R)                                                                                        \
    ADVECT_PUBLIC(advect_advance_##kind)                                                                               \
    (int64_t count, const double *numbers, const R *gradients, R *weights, R *means, R *squares, int64_t averages,     \
     R *const *averaged, const double *shares, int64_t threads) {                                                      \
        return advance_of<R>(count, numbers, gradients, weights, means, squares, averages, averaged, shares, threads); \
    }
ADVECT_ADVANCE(float, float)
ADVECT_ADVANCE(double, double)
