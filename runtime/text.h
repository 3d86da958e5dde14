// Text: a line put together in a fixed buffer, without allocating and without printf's deep stack.
//
// What does not fit is cut; the result always ends in a zero byte.
#pragma once

#include <stddef.h>
#include <stdint.h>

namespace copse {

template <size_t capacity> class Text {
  public:
    Text& add(const char* words) {
        while (*words && size_ + 1 < capacity) text_[size_++] = *words++;
        text_[size_] = 0;
        return *this;
    }
    Text& add(const char* words, size_t size) {
        for (size_t i = 0; i < size && size_ + 1 < capacity; ++i) text_[size_++] = words[i];
        text_[size_] = 0;
        return *this;
    }
    Text& add(uint64_t number, unsigned base = 10) {
        char digits[24];
        size_t count = 0;
        do digits[count++] = "0123456789abcdef"[number % base];
        while ((number /= base) != 0);
        while (count && size_ + 1 < capacity) text_[size_++] = digits[--count];
        text_[size_] = 0;
        return *this;
    }
    void clear() { text_[size_ = 0] = 0; }
    const char* c_str() const { return text_; }
    size_t size() const { return size_; }
    bool empty() const { return size_ == 0; }

  private:
    char text_[capacity] = {};
    size_t size_ = 0;
};

// Copies a name into a fixed field, cut to fit.
template <size_t capacity> void copy_name(char (&field)[capacity], const char* name) {
    size_t size = 0;
    while (name && name[size] && size + 1 < capacity) {
        field[size] = name[size];
        ++size;
    }
    field[size] = 0;
}

}  // namespace copse
