#include "net/buffer.h"

namespace copse {

// Memory that is not there to be used again.
char* BufferPool::allocate(size_t& size) {
    uint32_t size_class = class_of(size);
    if (size_class < classes) {
        size = smallest << size_class;
    } else {
        // Beyond what is kept: to the next multiple of the smallest, growing by doubling above.
        if (size > SIZE_MAX - smallest) return nullptr;
        size = (size + smallest - 1) / smallest * smallest;
    }
    return static_cast<char*>(loop_->allocate(size));
}

void BufferPool::close() {
    for (uint32_t i = 0; i < classes; ++i) {
        while (Free* block = free_[i]) {
            free_[i] = block->next;
            loop_->release(block, smallest << i);
        }
    }
    kept_ = 0;
}

bool Buffer::make_more_room(BufferPool& pool, size_t bytes) {
    if (begin_ > 0 && capacity_ - size() >= bytes && begin_ >= size()) {
        memmove(memory_, data(), size());
        end_ = size();
        begin_ = 0;
        return true;
    }
    return move_to(pool, 0, bytes, {});
}

// Into new memory: prefix, then what is here, then room. Doubles, so that growing byte by byte
// costs linear time.
bool Buffer::move_to(BufferPool& pool, size_t front, size_t room, std::string_view prefix) {
    size_t held = front + size();
    if (room > SIZE_MAX / 4 || held > SIZE_MAX / 4) return false;
    size_t wanted = held + room;
    if (memory_ && wanted < 2 * held) wanted = 2 * held;
    char* memory = pool.take(wanted);
    if (!memory) return false;
    if (front) memcpy(memory, prefix.data(), front);
    if (!empty()) memcpy(memory + front, data(), size());
    if (memory_) pool.give(memory_, capacity_);
    memory_ = memory;
    capacity_ = wanted;
    begin_ = 0;
    end_ = held;
    return true;
}

bool Buffer::put_in_front(BufferPool& pool, std::string_view bytes) {
    if (begin_ >= bytes.size()) {
        begin_ -= bytes.size();
        memmove(data(), bytes.data(), bytes.size());
        return true;
    }
    return move_to(pool, bytes.size(), 0, bytes);
}

}  // namespace copse
