// Buffer: bytes on their way, in one contiguous piece of memory borrowed from the loop's pool.
//
//      Chunk      bytes()         begin            end             capacity
//        |  head  |  taken          |   the bytes    |    room        |
//
// What is known of the bytes stands in front of them: a socket that is idle owns no chunk, and keeps
// no more of a buffer than an empty pointer.
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

struct Chunk {
    Chunk* next = nullptr;  // in the pool
    size_t capacity = 0;
    size_t begin = 0;
    size_t end = 0;

    char* bytes() { return reinterpret_cast<char*>(this + 1); }
    size_t size() const { return end - begin; }
};

// Chunks whose capacities are powers of two, kept for the next buffer up to a bound, so that a steady
// exchange allocates nothing.
class BufferPool {
  public:
    static constexpr size_t smallest = 4096;
    static constexpr uint32_t classes = 5;            // 4 KiB .. 64 KiB are kept
    static constexpr size_t most_kept = size_t(1) << 20;  // bytes

    explicit BufferPool(Loop& loop) : loop_{&loop} {}

    // An empty one for at least `size` bytes. null: no memory.
    Chunk* take(size_t size) {
        uint32_t size_class = class_of(size);
        Chunk* chunk = size_class < classes ? free_[size_class] : nullptr;
        if (!chunk) [[unlikely]] return allocate(size);
        free_[size_class] = chunk->next;
        kept_ -= chunk->capacity;
        chunk->begin = chunk->end = 0;
        return chunk;
    }
    void give(Chunk* chunk) {
        uint32_t size_class = class_of(chunk->capacity);
        bool full = size_class == classes || kept_ + chunk->capacity > most_kept;
        if (full || loop_->oddly()) [[unlikely]] return release(chunk);
        chunk->next = free_[size_class];
        free_[size_class] = chunk;
        kept_ += chunk->capacity;
    }
    void close();

  private:
    static uint32_t class_of(size_t size) {
        if (size <= smallest) return 0;
        uint32_t bits = uint32_t(std::bit_width((size - 1) / smallest));
        return bits < classes ? bits : classes;
    }
    Chunk* allocate(size_t size);
    void release(Chunk*);

    Loop* loop_;
    Chunk* free_[classes] = {};
    size_t kept_ = 0;
};

class Buffer {
  public:
    size_t size() const { return chunk_ ? chunk_->size() : 0; }
    bool empty() const { return size() == 0; }
    char* data() const { return chunk_ ? chunk_->bytes() + chunk_->begin : nullptr; }
    std::string_view view() const { return {data(), size()}; }

    char* room() const { return chunk_->bytes() + chunk_->end; }
    size_t room_size() const { return chunk_ ? chunk_->capacity - chunk_->end : 0; }
    void grew(size_t bytes) { chunk_->end += bytes; }

    // Takes bytes away from the front; what was there stays readable until room is made.
    void take(size_t bytes) {
        if (chunk_) chunk_->begin += bytes;
    }

    // An empty buffer begins anew at its front; what was taken is no longer readable.
    void rewind() {
        if (chunk_ && empty()) chunk_->begin = chunk_->end = 0;
    }

    // Room for at least `bytes` more behind the end; false: no memory.
    bool make_room(BufferPool& pool, size_t bytes) {
        if (chunk_) return room_size() >= bytes || make_more_room(pool, bytes);
        return (chunk_ = pool.take(bytes));
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
        if (chunk_) pool.give(chunk_);
        chunk_ = nullptr;
    }

  private:
    bool make_more_room(BufferPool&, size_t bytes);
    bool put_in_front(BufferPool&, std::string_view bytes);
    bool move_to(BufferPool&, size_t front, size_t room, std::string_view prefix);

    Chunk* chunk_ = nullptr;
};

}  // namespace copse
