#include "net/buffer.h"

namespace copse {

// A chunk that is not there to be used again.
Chunk* BufferPool::allocate(size_t size) {
    uint32_t size_class = class_of(size);
    if (size_class < classes) {
        size = smallest << size_class;
    } else {
        // Beyond what is kept: to the next multiple of the smallest, growing by doubling above.
        if (size > SIZE_MAX / 2) return nullptr;
        size = (size + smallest - 1) / smallest * smallest;
    }
    void* memory = loop_->allocate(sizeof(Chunk) + size);
    return memory ? ::new (memory) Chunk{.capacity = size} : nullptr;
}

void BufferPool::release(Chunk* chunk) { loop_->release(chunk, sizeof(Chunk) + chunk->capacity); }

void BufferPool::close() {
    for (Chunk*& first : free_) {
        while (Chunk* chunk = first) {
            first = chunk->next;
            release(chunk);
        }
    }
    kept_ = 0;
}

bool Buffer::make_more_room(BufferPool& pool, size_t bytes) {
    size_t held = size();
    if (chunk_->begin > 0 && chunk_->capacity - held >= bytes && chunk_->begin >= held) {
        memmove(chunk_->bytes(), data(), held);
        chunk_->begin = 0;
        chunk_->end = held;
        return true;
    }
    return move_to(pool, 0, bytes, {});
}

// Into another chunk: prefix, then what is here, then room. Doubles, so that growing byte by byte
// costs linear time.
bool Buffer::move_to(BufferPool& pool, size_t front, size_t room, std::string_view prefix) {
    size_t held = front + size();
    if (room > SIZE_MAX / 4 || held > SIZE_MAX / 4) return false;
    size_t wanted = held + room;
    if (chunk_ && wanted < 2 * held) wanted = 2 * held;
    Chunk* larger = pool.take(wanted);
    if (!larger) return false;
    if (front) memcpy(larger->bytes(), prefix.data(), front);
    if (!empty()) memcpy(larger->bytes() + front, data(), size());
    larger->end = held;
    give_back(pool);
    chunk_ = larger;
    return true;
}

bool Buffer::put_in_front(BufferPool& pool, std::string_view bytes) {
    if (chunk_ && chunk_->begin >= bytes.size()) {
        chunk_->begin -= bytes.size();
        memmove(data(), bytes.data(), bytes.size());
        return true;
    }
    return move_to(pool, bytes.size(), 0, bytes);
}

}  // namespace copse
