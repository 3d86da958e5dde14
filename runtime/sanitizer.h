// Sanitizer: what ASan, TSan and valgrind must be told when stacks change, in one place.
//
// In a build without them every function here is empty, but for valgrind's: its request is a few
// instructions that do nothing outside of it, made once a stack.
#pragma once

#include "runtime/thread_block.h"

#if defined(__SANITIZE_ADDRESS__)
#define COPSE_ASAN 1
#elif defined(__SANITIZE_THREAD__)
#define COPSE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define COPSE_ASAN 1
#elif __has_feature(thread_sanitizer)
#define COPSE_TSAN 1
#endif
#endif

#if defined(COPSE_ASAN)
extern "C" {
void __sanitizer_start_switch_fiber(void** fake_stack, const void* bottom, size_t size);
void __sanitizer_finish_switch_fiber(void* fake_stack, const void** bottom, size_t* size);
void __asan_unpoison_memory_region(void const volatile* address, size_t size);
void __lsan_register_root_region(const void* address, size_t size);
void __lsan_unregister_root_region(const void* address, size_t size);
}
#elif defined(COPSE_TSAN)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
}
#endif

#if defined(COPSE_ASAN)
#define COPSE_NO_ASAN __attribute__((no_sanitize("address")))
#else
#define COPSE_NO_ASAN
#endif

namespace copse::sanitizer {

#if defined(COPSE_ASAN) || defined(COPSE_TSAN)
inline constexpr bool watches = true;
#else
inline constexpr bool watches = false;
#endif

// What is reached from here is no leak: a loop lies in pages of its own, and that of the program's
// first OS thread may well be there at its end.
inline void keep([[maybe_unused]] const void* memory, [[maybe_unused]] size_t size) {
#if defined(COPSE_ASAN)
    __lsan_register_root_region(memory, size);
#endif
}
inline void let_go([[maybe_unused]] const void* memory, [[maybe_unused]] size_t size) {
#if defined(COPSE_ASAN)
    __lsan_unregister_root_region(memory, size);
#endif
}

// A fiber of a thread that has ended; not called by the fiber itself.
inline void end([[maybe_unused]] ThreadBlock& thread) {
#if defined(COPSE_TSAN)
    if (thread.sanitizer) __tsan_destroy_fiber(thread.sanitizer);
    thread.sanitizer = nullptr;
#endif
}

// The stack of `thread` is about to be used by somebody new.
inline void begin([[maybe_unused]] ThreadBlock& thread) {
#if defined(COPSE_ASAN)
    __asan_unpoison_memory_region(thread.stack.base, thread.stack.size());
    thread.sanitizer = nullptr;
#elif defined(COPSE_TSAN)
    end(thread);
    thread.sanitizer = __tsan_create_fiber(0);
#endif
}

// Where a stack lies. The loop's own is learnt from the first thread that is entered from it.
struct Bounds {
    const void* bottom = nullptr;
    size_t size = 0;
};
inline Bounds bounds_of(const ThreadBlock& thread) {
    return {thread.stack.base, thread.stack.size()};
}

// Before a switch; ends: the thread left will never come back.
inline void leaving([[maybe_unused]] ThreadBlock& from, [[maybe_unused]] ThreadBlock& to,
                    [[maybe_unused]] Bounds target, [[maybe_unused]] bool ends) {
#if defined(COPSE_ASAN)
    __sanitizer_start_switch_fiber(ends ? nullptr : &from.sanitizer, target.bottom, target.size);
#elif defined(COPSE_TSAN)
    if (!from.stack.base) from.sanitizer = __tsan_get_current_fiber();
    __tsan_switch_to_fiber(to.sanitizer, 0);
#endif
}

// First thing after a switch, on the new stack; previous: learns where the stack left behind lies.
inline void arrived([[maybe_unused]] ThreadBlock& at, [[maybe_unused]] Bounds* previous) {
#if defined(COPSE_ASAN)
    Bounds unused;
    if (!previous) previous = &unused;
    __sanitizer_finish_switch_fiber(at.sanitizer, &previous->bottom, &previous->size);
#endif
}

// valgrind's client request: the operands are a code and two arguments.
inline unsigned valgrind_request([[maybe_unused]] uintptr_t code, [[maybe_unused]] uintptr_t a,
                                 [[maybe_unused]] uintptr_t b) {
#if defined(__x86_64__) && defined(__linux__)
    volatile uintptr_t words[6] = {code, a, b, 0, 0, 0};
    uintptr_t answer = 0;
    __asm__ volatile("rolq $3, %%rdi; rolq $13, %%rdi; rolq $61, %%rdi; rolq $51, %%rdi\n\t"
                     "xchgq %%rbx, %%rbx"
                     : "=d"(answer)
                     : "a"(&words[0]), "0"(answer)
                     : "cc", "memory");
    return unsigned(answer);
#elif defined(__aarch64__) && defined(__linux__)
    volatile uintptr_t words[6] = {code, a, b, 0, 0, 0};
    register uintptr_t answer __asm__("x3") = 0;
    register volatile uintptr_t* request __asm__("x4") = &words[0];
    __asm__ volatile("ror x12, x12, #3; ror x12, x12, #13; ror x12, x12, #51; ror x12, x12, #61\n\t"
                     "orr x10, x10, x10"
                     : "+r"(answer)
                     : "r"(request)
                     : "cc", "memory");
    return unsigned(answer);
#else
    return 0;
#endif
}
inline unsigned register_stack(const Stack& stack) {
    return valgrind_request(0x1501, uintptr_t(stack.base), uintptr_t(stack.top()));
}
inline void deregister_stack(unsigned id) { valgrind_request(0x1502, id, 0); }

}  // namespace copse::sanitizer
