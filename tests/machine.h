// Machine: what the tests must know of the build and of what it runs on.
#pragma once

#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

namespace test {

#if defined(__has_feature)
#define COPSE_TEST_FEATURE(name) __has_feature(name)
#else
#define COPSE_TEST_FEATURE(name) 0
#endif
#if defined(__SANITIZE_ADDRESS__) || COPSE_TEST_FEATURE(address_sanitizer)
constexpr bool address_sanitizer = true;
#else
constexpr bool address_sanitizer = false;
#endif
#if defined(__SANITIZE_THREAD__) || COPSE_TEST_FEATURE(thread_sanitizer)
constexpr bool thread_sanitizer = true;
#else
constexpr bool thread_sanitizer = false;
#endif
// Both keep a shadow of memory, slow the program down and have handlers of their own for faults.
constexpr bool sanitized = address_sanitizer || thread_sanitizer;

// Emulators of Linux (qemu-user) say yes to every advice; the kernel refuses what it does not know.
inline bool emulated() {
#ifdef __linux__
    constexpr int no_such_advice = 0x6b01;
    size_t size = size_t(sysconf(_SC_PAGESIZE));
    void* page = mmap(nullptr, size, PROT_READ, MAP_PRIVATE | MAP_ANON, -1, 0);
    bool credulous = page != MAP_FAILED && madvise(page, size, no_such_advice) == 0;
    if (page != MAP_FAILED) munmap(page, size);
    return credulous;
#else
    return false;
#endif
}

}  // namespace test
