// What a call is told of coupling layers, a block of rows that goes through them, and one layer (`coupling_kernel.cpp`).

#pragma once

#include <cstdint>
#include <vector>

#include "../products.h"
#include "../turned.h"
#include "functions.h"

namespace {

constexpr int64_t kRows = 64; // of a block; _BLOCK of coupling_blocks.py

// Linear layer i has weights[2 i], sizes[i + 1] x sizes[i], and the bias weights[2 i + 1].
template <class R> struct Network {
    int64_t layers;
    const int64_t *sizes;
    R *const *weights;

    // What is kept of a block: what the first layer sees, values and slopes of the hidden layers, and the parameters.
    int64_t block() const {
        int64_t columns = sizes[0] + sizes[layers];
        for (int64_t i = 1; i < layers; ++i) columns += 2 * sizes[i];
        return columns * kRows;
    }
    R *values(R *block, int64_t i) const { // what layer i sees; of the last the parameters
        if (!i) return block;
        block += sizes[0] * kRows;
        for (int64_t j = 1; j < i; ++j) block += 2 * sizes[j] * kRows;
        return block;
    }
    R *slopes(R *block, int64_t i) const { return values(block, i) + sizes[i] * kRows; } // of the values layer i sees

    // All layers of a block whose inputs are there.
    void compute(R *block, int64_t count, bool keep) const {
        for (int64_t i = 0; i < layers; ++i) {
            const int64_t inputs = sizes[i], outputs = sizes[i + 1];
            const bool last = i + 1 == layers;
            const R *seen = values(block, i), *bias = weights[2 * i + 1];
            R *to = values(block, i + 1), *slope = last || !keep ? nullptr : slopes(block, i + 1);
            product<R>(outputs, count, inputs, {weights[2 * i], inputs, 1}, as_it_lies<R>(seen, kRows), {nullptr, 0},
                       [&](int64_t r, int64_t c, Vec<R> sum) {
                           const int64_t at = r * kRows + c;
                           sum += bias[r];
                           if (last) return store<R>(to + at, sum);
                           const Smooth<R> found(sum);
                           store<R>(to + at, found.value);
                           if (slope) store<R>(slope + at, found.slope());
                       });
        }
    }
};

// One coupling: which columns it looks at, which it moves, and its conditioner.
template <class R> struct Layer {
    int64_t keeps, moves, conditions;
    const int64_t *kept, *moved;
    Network<R> network;

    // What is kept of a block: that of the network, the columns before they move, the slopes of what the network sees.
    R *before(R *block) const { return block + network.block(); }
    R *seen_slopes(R *block) const { return before(block) + moves * kRows; }
    int64_t size() const { return network.block() + (moves + keeps) * kRows; }
    int64_t each() const { return network.sizes[network.layers] / moves; }
};

// All that a call is told of its layers. `shape` is, for each: how many columns are kept and moved, how many numbers of
// the condition and how many linear layers there are, the columns kept and moved, and the sizes of the linear layers.
template <class R, class Function> struct Run {
    Function function;
    int64_t rows, inverse, features, conditions;
    const int64_t *order; // which column each that goes out is
    R bulk;
    Grid<const R> x, condition;
    std::vector<Layer<R>> layers;

    Run(int64_t rows, Function function, int64_t inverse, int64_t features, int64_t conditions, const int64_t *order,
        double bulk, int64_t count, const int64_t *shape, R *const *weights, Grid<const R> x, Grid<const R> condition)
        : function(function), rows(rows), inverse(inverse), features(features), conditions(conditions), order(order),
          bulk(R(bulk)), x(x), condition(condition) {
        for (int64_t i = 0; i < count; ++i) {
            const int64_t *columns = shape + 4, keeps = shape[0], moves = shape[1], depth = shape[3];
            const int64_t *sizes = columns + keeps + moves;
            layers.push_back({keeps, moves, shape[2], columns, columns + keeps, {depth, sizes, weights}});
            shape = sizes + depth + 1;
            weights += 2 * depth;
        }
    }
    bool in_order() const {
        for (int64_t c = 0; c < features; ++c)
            if (order[c] != c) return false;
        return true;
    }
    int64_t size() const { // of what is kept of a block
        int64_t total = 0;
        for (const Layer<R> &layer : layers) total += layer.size();
        return total;
    }
};

inline int64_t whole_rows(int64_t count, int lanes) { return (count + lanes - 1) / lanes * lanes; }

// A column of a block. Rows beyond `count` that fill a vector repeat the first.
template <class R> void fill(int64_t count, R *column) {
    for (int64_t r = count; r < whole_rows(count, kLanes<R>); ++r) column[r] = column[0];
}
template <class R> void read(const Grid<const R> &from, int64_t first, int64_t count, int64_t column, R *to) {
    const R *at = from.at(first, column);
    for (int64_t r = 0; r < count; ++r) to[r] = at[r * from.row];
    fill<R>(count, to);
}
template <class R> void write(const Grid<R> &into, int64_t first, int64_t count, int64_t column, const R *from) {
    R *at = into.at(first, column);
    for (int64_t r = 0; r < count; ++r) at[r * into.row] = from[r];
}

// What a block carries through the layers.
template <class R> struct Block {
    int64_t first, count;
    R *state, *condition, *total; // columns x rows; what networks see of the condition; log-determinants
};

// Numbers for a block: its state, the condition as networks see it, log-determinants, twice for their gradients.
template <class R, class Function> int64_t carried(const Run<R, Function> &run) {
    return 2 * (run.features + run.conditions + 1) * kRows;
}

template <class R, class Function> Block<R> begin(const Run<R, Function> &run, int64_t first, R *room) {
    Block<R> block{first, run.rows - first < kRows ? run.rows - first : kRows, room, nullptr, nullptr};
    block.condition = block.state + run.features * kRows;
    block.total = block.condition + run.conditions * kRows;
    if (run.x.column == 1) {
        turn<R>(run.x.at(first, 0), run.x.row, block.count, run.features, block.state, kRows);
        for (int64_t c = 0; c < run.features; ++c) fill<R>(block.count, block.state + c * kRows);
    } else {
        for (int64_t c = 0; c < run.features; ++c) read<R>(run.x, first, block.count, c, block.state + c * kRows);
    }
    for (int64_t c = 0; c < run.conditions; ++c) {
        R *to = block.condition + c * kRows;
        read<R>(run.condition, first, block.count, c, to);
        for (int64_t r = 0; r < block.count; r += kLanes<R>)
            store<R>(to + r, squash_of<R>(load<R>(to + r), run.bulk));
    }
    std::memset(block.total, 0, kRows * sizeof(R));
    return block;
}

// A block through one layer; `kept` holds what the way back needs.
template <class R, class Function>
void ahead(const Run<R, Function> &run, const Layer<R> &layer, const Block<R> &block, R *kept, bool keep) {
    R *seen = kept, *slopes = layer.seen_slopes(kept), *before = layer.before(kept);
    for (int64_t i = 0; i < layer.keeps; ++i, seen += kRows, slopes += kRows) {
        const R *from = block.state + layer.kept[i] * kRows;
        for (int64_t r = 0; r < block.count; r += kLanes<R>) {
            const Vec<R> given = load<R>(from + r);
            store<R>(seen + r, squash_of<R>(given, run.bulk));
            if (keep) store<R>(slopes + r, inverse_squash_slope<R>(given, run.bulk));
        }
    }
    std::memcpy(seen, block.condition, size_t(layer.conditions * kRows) * sizeof(R));
    layer.network.compute(kept, block.count, keep);
    const R *theta = layer.network.values(kept, layer.network.layers);
    const int64_t each = layer.each();
    for (int64_t r = 0; r < block.count; r += kLanes<R>) {
        Vec<R> sum = load<R>(block.total + r);
        for (int64_t i = 0; i < layer.moves; ++i) {
            R *at = block.state + layer.moved[i] * kRows + r;
            const Vec<R> given = load<R>(at);
            Vec<R> value, log_slope;
            run.function.move(int(run.inverse), given, theta + i * each * kRows + r, {theta, 1, 0, kRows}, kLanes<R>,
                              value, log_slope);
            if (keep) store<R>(before + i * kRows + r, given);
            store<R>(at, value);
            sum += log_slope;
        }
        store<R>(block.total + r, sum);
    }
}

} // namespace
