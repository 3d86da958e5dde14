// Buffer: bytes on their way, in one contiguous piece of memory borrowed from the loop's pool.
//
//      memory        begin            end             capacity
//        |  taken      |   the bytes    |    room        |
//
// Invariants:
//  - An empty buffer may be given back; an idle connection owns none.
//  - Making room moves or copies bytes, never loses them; failing to leaves the buffer as it was.
#pragma once

#include "runtime/loop.h"

#include <bit>
#include <string.h>
#include <string_view>

namespace copse {

// Bytes of a view from a place on; unlike substr it cannot fail, and names no exception.
inline std::string_view part(std::string_view whole, size_t from, size_t size) {
    return {whole.data() + from, size};
}

// Blocks of memory in powers of two, kept for the next buffer up to a bound, so that a steady
// exchange allocates nothing.
class BufferPool {
  public:
    static constexpr size_t smallest = 4096;
    static constexpr uint32_t classes = 5;            // 4 KiB .. 64 KiB are kept
    static constexpr size_t most_kept = size_t(1) << 20;  // bytes

    explicit BufferPool(Loop& loop) : loop_{&loop} {}
    ~BufferPool() { close(); }

    // At least `size` bytes; size becomes what it is. null: no memory.
    char* take(size_t& size) {
        uint32_t size_class = class_of(size);
        Free* block = size_class < classes ? free_[size_class] : nullptr;
        if (!block) [[unlikely]] return allocate(size);
        size = smallest << size_class;
        free_[size_class] = block->next;
        kept_ -= size;
        return reinterpret_cast<char*>(block);
    }
    void give(char* memory, size_t size) {
        uint32_t size_class = class_of(size);
        if (size_class == classes || kept_ + size > most_kept || loop_->oddly()) [[unlikely]]
            return loop_->release(memory, size);
        free_[size_class] = ::new (static_cast<void*>(memory)) Free{free_[size_class]};
        kept_ += size;
    }
    void close();

  private:
    static uint32_t class_of(size_t size) {
        if (size <= smallest) return 0;
        uint32_t bits = uint32_t(std::bit_width((size - 1) / smallest));
        return bits < classes ? bits : classes;
    }
    char* allocate(size_t& size);

    struct Free {
        Free* next;
    };
    Loop* loop_;
    Free* free_[classes] = {};
    size_t kept_ = 0;
};

class Buffer {
  public:
    size_t size() const { return end_ - begin_; }
    bool empty() const { return begin_ == end_; }
    char* data() const { return memory_ + begin_; }
    std::string_view view() const { return {data(), size()}; }

    char* room() const { return memory_ + end_; }
    size_t room_size() const { return capacity_ - end_; }
    void grew(size_t bytes) { end_ += bytes; }

    // Takes bytes away from the front; what was there stays readable until room is made.
    void take(size_t bytes) { begin_ += bytes; }

    // An empty buffer begins anew at its front; what was taken is no longer readable.
    void rewind() { if (empty()) begin_ = end_ = 0; }

    // Room for at least `bytes` more behind the end; false: no memory.
    bool make_room(BufferPool& pool, size_t bytes) {
        if (memory_) return room_size() >= bytes || make_more_room(pool, bytes);
        capacity_ = bytes;
        memory_ = pool.take(capacity_);
        if (memory_) return true;
        capacity_ = 0;
        return false;
    }
    bool append(BufferPool& pool, std::string_view bytes) {
        if (bytes.empty()) return true;
        if (!make_room(pool, bytes.size())) return false;
        memcpy(room(), bytes.data(), bytes.size());
        grew(bytes.size());
        return true;
    }
    // Puts bytes in front of what is there. They may lie in this very buffer.
    bool put_back(BufferPool& pool, std::string_view bytes) {
        return bytes.empty() || put_in_front(pool, bytes);
    }
    void give_back(BufferPool& pool) {
        if (memory_) pool.give(memory_, capacity_);
        memory_ = nullptr;
        capacity_ = begin_ = end_ = 0;
    }

  private:
    bool make_more_room(BufferPool&, size_t bytes);
    bool put_in_front(BufferPool&, std::string_view bytes);
    bool move_to(BufferPool&, size_t front, size_t room, std::string_view prefix);

    char* memory_ = nullptr;
    size_t capacity_ = 0;
    size_t begin_ = 0;
    size_t end_ = 0;
};

}  // namespace copse
