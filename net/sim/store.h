// Store: where the simulator keeps things: arrays that grow, and bytes on their way.
//
// The simulator's own memory is libc's and is not simulated; where there is none left it ends the
// program. Items are plain data: they are moved by copying their bytes.
#pragma once

#include "runtime/check.h"

#include <stdlib.h>
#include <string.h>
#include <type_traits>

namespace copse::sim::detail {

// Zeroed memory for one object.
inline void* zeroed(size_t size) {
    void* memory = calloc(1, size ? size : 1);
    check(memory != nullptr, "memory for the simulator itself");
    return memory;
}

template <class Item> class Array {
    static_assert(std::is_trivially_copyable_v<Item>);

  public:
    Array() = default;
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { free(items_); }

    uint32_t size() const { return size_; }
    bool empty() const { return size_ == 0; }
    Item& operator[](uint32_t i) { return items_[i]; }
    const Item& operator[](uint32_t i) const { return items_[i]; }
    Item* begin() { return items_; }
    Item* end() { return items_ + size_; }
    const Item* begin() const { return items_; }
    const Item* end() const { return items_ + size_; }
    Item& back() { return items_[size_ - 1]; }

    void push(const Item& item) {
        if (size_ == capacity_) grow(size_ + 1);
        items_[size_++] = item;
    }
    Item pop() { return items_[--size_]; }
    // New items are zeroes.
    void resize(uint32_t size) {
        if (size > capacity_) grow(size);
        if (size > size_) memset(static_cast<void*>(items_ + size_), 0, (size - size_) * sizeof(Item));
        size_ = size;
    }
    void clear() { size_ = 0; }
    void remove(uint32_t at, uint32_t count = 1) {
        if (!count) return;
        memmove(static_cast<void*>(items_ + at), items_ + at + count,
                (size_ - at - count) * sizeof(Item));
        size_ -= count;
    }
    void swap(Array& other) {
        Item* items = items_;
        uint32_t size = size_, capacity = capacity_;
        items_ = other.items_, size_ = other.size_, capacity_ = other.capacity_;
        other.items_ = items, other.size_ = size, other.capacity_ = capacity;
    }

  private:
    void grow(uint32_t least) {
        uint32_t capacity = capacity_ ? capacity_ * 2 : 16;
        while (capacity < least) capacity *= 2;
        void* grown = realloc(static_cast<void*>(items_), capacity * sizeof(Item));
        check(grown != nullptr, "memory for the simulator itself");
        items_ = static_cast<Item*>(grown);
        capacity_ = capacity;
    }

    Item* items_ = nullptr;
    uint32_t size_ = 0;
    uint32_t capacity_ = 0;
};

// Bytes between a writer and a reader, at positions that only grow.
class Bytes {
  public:
    Bytes() = default;
    Bytes(const Bytes&) = delete;
    Bytes& operator=(const Bytes&) = delete;
    ~Bytes() { free(ring_); }

    // The bytes from position `begin` on are kept; `size` more are written at position `end`.
    void write(uint64_t begin, uint64_t end, const char* from, size_t size) {
        if (end - begin + size > capacity_) grow(begin, end, size_t(end - begin) + size);
        for (size_t done = 0; done < size;) {
            size_t at = (end + done) & (capacity_ - 1);
            size_t piece = capacity_ - at < size - done ? capacity_ - at : size - done;
            memcpy(ring_ + at, from + done, piece);
            done += piece;
        }
    }
    void read(uint64_t begin, char* out, size_t size) const {
        for (size_t done = 0; done < size;) {
            size_t at = (begin + done) & (capacity_ - 1);
            size_t piece = capacity_ - at < size - done ? capacity_ - at : size - done;
            memcpy(out + done, ring_ + at, piece);
            done += piece;
        }
    }
    // Nothing is on its way: an idle connection holds no memory.
    void drop() {
        free(ring_);
        ring_ = nullptr;
        capacity_ = 0;
    }

  private:
    void grow(uint64_t begin, uint64_t end, size_t least) {
        size_t capacity = capacity_ ? capacity_ : 256;
        while (capacity < least) capacity *= 2;
        auto* ring = static_cast<char*>(malloc(capacity));
        check(ring != nullptr, "memory for the simulator itself");
        for (uint64_t at = begin; at < end; ++at)
            ring[at & (capacity - 1)] = ring_[at & (capacity_ - 1)];
        free(ring_);
        ring_ = ring;
        capacity_ = capacity;
    }

    char* ring_ = nullptr;
    size_t capacity_ = 0;
};

}  // namespace copse::sim::detail
