// What the two compiled attentions share: sizes, where heads lie, and what a thread works with.

#pragma once

#include <cmath>
#include <memory>

#include "../shares.h"
#include "../vectors.h"

namespace {

constexpr float kLog2e = 1.44269504f;
inline int64_t padded(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

struct Sizes {
    int64_t batch, tokens, heads, each;
    explicit Sizes(const int64_t *of) : batch(of[0]), tokens(of[1]), heads(of[2]), each(of[3]) {}
    float scale() const { return float(1 / std::sqrt(double(each))); }
};

// Numbers of one head, token by token; those of one token lie side by side.
template <class S> struct Rows {
    S *first;
    int64_t token;
    S *of(int64_t t) const { return first + t * token; }
};
// One head of a tensor, from its strides by batch, token and head.
template <class S, class Void> inline Rows<S> head_of(const Sizes &size, Void *first, const int64_t *by, int64_t head) {
    return {static_cast<S *>(first) + head / size.heads * by[0] + head % size.heads * by[2], by[1]};
}

// Memory for one thread, taken piece by piece; each begins a line of the cache.
class Room {
    std::unique_ptr<char[]> all;
    char *next = nullptr;
    int64_t used = 0;

  public:
    // `lay` takes all that it wants: once to learn how much that is, once in earnest.
    template <class Lay> explicit Room(const Lay &lay) {
        lay(*this);
        all.reset(new char[used + 64]);
        next = all.get() + (64 - reinterpret_cast<uintptr_t>(all.get()) % 64) % 64;
        lay(*this);
    }
    template <class T> void take(T *&piece, int64_t numbers) {
        const int64_t bytes = padded(numbers * int64_t(sizeof(T)), 64);
        piece = reinterpret_cast<T *>(next);
        if (next) next += bytes;
        else used += bytes;
    }
};

// Every head by a Way of its thread, which holds its memory; `run(way, head)`.
template <class Way, class Run> void each_head(const Sizes &size, int64_t threads, const Run &run) {
    shared(size.batch * size.heads, threads, [&](int64_t from, int64_t to) {
        Way way(size);
        for (int64_t head = from; head < to; ++head) run(way, head);
    });
}

} // namespace
