// Work shared by threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <thread>
#include <vector>

namespace {

// part(from, to) for shares of so many independent things, each on a thread of its own.
template <class Part> void shared(int64_t things, int64_t threads, const Part &part) {
    std::vector<std::thread> others;
    const int64_t shares = std::max<int64_t>(1, std::min(threads, things));
    for (int64_t share = 1; share < shares; ++share) {
        const int64_t from = things * share / shares, to = things * (share + 1) / shares;
        try {
            others.emplace_back([&part, from, to] { part(from, to); });
        } catch (...) { // no thread to be had
            part(from, to);
        }
    }
    part(0, things / shares);
    for (std::thread &other : others) other.join();
}

} // namespace
