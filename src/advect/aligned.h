// Memory for numbers that begins where a line of the cache does: a vector that lies across two is read twice.

#pragma once

#include <cstdint>
#include <memory>

namespace {

template <typename Number> class Aligned {
  public:
    explicit Aligned(int64_t numbers) : bytes_(new char[size_t(numbers) * sizeof(Number) + 64]) {}
    Number *get() const { return reinterpret_cast<Number *>((reinterpret_cast<uintptr_t>(bytes_.get()) + 63) / 64 * 64); }

  private:
    std::unique_ptr<char[]> bytes_;
};

} // namespace
