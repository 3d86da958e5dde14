#include "net/buffer.h"

#include <string.h>

namespace copse {

uint32_t BufferPool::class_of(size_t size) {
    uint32_t size_class = 0;
    while (size_class < classes && (smallest << size_class) < size) ++size_class;
    return size_class;
}

char* BufferPool::take(size_t& size) {
    uint32_t size_class = class_of(size);
    if (size_class == classes) {
        // Beyond what is kept: to the next multiple of the smallest, growing by doubling above.
        if (size > SIZE_MAX - smallest) return nullptr;
        size = (size + smallest - 1) / smallest * smallest;
        return static_cast<char*>(loop_->allocate(size));
    }
    size = smallest << size_class;
    if (Free* block = free_[size_class]) {
        free_[size_class] = block->next;
        kept_ -= size;
        return reinterpret_cast<char*>(block);
    }
    return static_cast<char*>(loop_->allocate(size));
}

void BufferPool::give(char* memory, size_t size) {
    uint32_t size_class = class_of(size);
    if (size_class == classes || kept_ + size > most_kept || loop_->oddly()) {
        loop_->release(memory, size);
        return;
    }
    free_[size_class] = ::new (static_cast<void*>(memory)) Free{free_[size_class]};
    kept_ += size;
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

bool Buffer::make_room(BufferPool& pool, size_t bytes) {
    if (room_size() >= bytes) return true;
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

bool Buffer::append(BufferPool& pool, std::string_view bytes) {
    if (bytes.empty()) return true;
    if (!make_room(pool, bytes.size())) return false;
    memcpy(room(), bytes.data(), bytes.size());
    grew(bytes.size());
    return true;
}

bool Buffer::put_back(BufferPool& pool, std::string_view bytes) {
    if (bytes.empty()) return true;
    if (begin_ >= bytes.size()) {
        begin_ -= bytes.size();
        memmove(data(), bytes.data(), bytes.size());
        return true;
    }
    return move_to(pool, bytes.size(), 0, bytes);
}

void Buffer::give_back(BufferPool& pool) {
    if (memory_) pool.give(memory_, capacity_);
    memory_ = nullptr;
    capacity_ = begin_ = end_ = 0;
}

}  // namespace copse
