#include "runtime/stacks.h"

namespace copse {

namespace {
constexpr uint64_t canary_word = 0x636f7073652d6f6bu;
constexpr size_t canary_words = Stacks::canary_size / sizeof canary_word;
// A first slab of 2 MiB for stacks of the default size; no slab above 8 GiB of address space.
constexpr size_t first_slab_stacks = 16;
constexpr size_t largest_slab = sizeof(void*) == 8 ? size_t(8) << 30 : size_t(16) << 20;
}  // namespace

void Stacks::close() {
    while (Slab* slab = slabs_) {
        slabs_ = slab->previous;
        system_->unmap(*system_, slab->memory, slab->size);
        system_->release(*system_, slab, sizeof(Slab));
    }
    for (Rest& rest : rest_) rest = {};
    mprotected_ = 0;
}

// A new slab, as many stacks as there are already; fewer where so much cannot be had.
bool Stacks::grow(uint32_t size_class) {
    Rest& rest = rest_[size_class];
    size_t stride = guard_size + (smallest << size_class);
    size_t stacks = rest.made ? rest.made : first_slab_stacks;
    while (stacks > 1 && stacks * stride > largest_slab) stacks /= 2;
    auto* slab = static_cast<Slab*>(system_->allocate(*system_, sizeof(Slab)));
    if (!slab) return false;
    for (; stacks; stacks /= 2) {
        void* memory = system_->map(*system_, stacks * stride);
        if (!memory) continue;
        *slab = {slabs_, static_cast<char*>(memory), stacks * stride};
        slabs_ = slab;
        rest.at = slab->memory;
        rest.stacks = stacks;
        rest.made += stacks;
        return true;
    }
    system_->release(*system_, slab, sizeof(Slab));
    return false;
}

Guard Stacks::protect(char* guard) {
    if (guard_ == Guard::kernel) {
        if (system_->guard(*system_, guard, guard_size, Guard::kernel) == 0) return Guard::kernel;
        guard_ = Guard::mprotect;
    }
    if (mprotected_ < most_mprotected &&
        system_->guard(*system_, guard, guard_size, Guard::mprotect) == 0) {
        ++mprotected_;
        return guard_ = Guard::mprotect;
    }
    return guard_ = Guard::canary;
}

Stack Stacks::carve(uint32_t size_class) {
    Rest& rest = rest_[size_class];
    if (rest.stacks == 0 && !grow(size_class)) return {};
    char* guard = rest.at;
    rest.at += guard_size + (smallest << size_class);
    --rest.stacks;
    Stack stack{guard + guard_size, 0, uint8_t(size_class), protect(guard)};
    if (stack.guard == Guard::canary) paint(stack);
    return stack;
}

void Stacks::paint(const Stack& stack) {
    auto* words = reinterpret_cast<uint64_t*>(stack.base);
    for (size_t i = 0; i < canary_words; ++i) words[i] = canary_word;
}

bool Stacks::painted(const Stack& stack) {
    auto* words = reinterpret_cast<const uint64_t*>(stack.base);
    for (size_t i = 0; i < canary_words; ++i)
        if (words[i] != canary_word) return false;
    return true;
}

}  // namespace copse
