// Histogram: how often each value occurred, to within 1.6 %, in memory that never grows.
//
// Small values have a slot each; above them every octave is cut into 64 slots of equal width, so a
// slot's width is at most 1/64 of the values in it.
#pragma once

#include <stddef.h>
#include <stdint.h>

class Histogram {
  public:
    void add(uint64_t value) {
        ++counts_[slot_of(value)];
        ++total_;
        if (value > highest_) highest_ = value;
    }

    uint64_t total() const { return total_; }
    uint64_t highest() const { return highest_; }

    // The value that this share of all values does not exceed; 0 when there is none.
    uint64_t quantile(double share) const {
        uint64_t left = uint64_t(share * double(total_));
        for (size_t slot = 0; slot < slots; ++slot) {
            if (counts_[slot] > left) return top_of(slot) < highest_ ? top_of(slot) : highest_;
            left -= counts_[slot];
        }
        return highest_;
    }

  private:
    static constexpr unsigned bits = 6;
    static constexpr uint64_t per_octave = 1 << bits;
    static constexpr size_t slots = (64 - bits + 1) << bits;

    static size_t slot_of(uint64_t value) {
        if (value < 2 * per_octave) return size_t(value);
        unsigned shift = 63 - bits - unsigned(__builtin_clzll(value));
        return (size_t(shift) << bits) + size_t(value >> shift);
    }
    static uint64_t top_of(size_t slot) {
        if (slot < 2 * per_octave) return slot;
        unsigned shift = unsigned(slot >> bits) - 1;
        return (((slot & (per_octave - 1)) + per_octave + 1) << shift) - 1;
    }

    uint64_t counts_[slots] = {};
    uint64_t total_ = 0;
    uint64_t highest_ = 0;
};
