// Test: one sentence about copse that can turn out false.
//
// TEST(a_sentence_in_snake_case) { ... } defines it; the build registers each one with CTest as
// <file>.<sentence>, and each runs in a process of its own: a test may exhaust descriptors, die or
// leave a loop behind without touching the next. The program takes the sentence as its argument;
// with none it says which there are.
//
// CHECK(condition) and CHECK_EQ(a, b) report and go on; REQUIRE(condition) ends the test.
// skip("why") ends it as skipped (exit code 77), for what this kernel or build cannot show.
#pragma once

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

namespace test {

struct Case {
    const char* name;
    void (*body)();
    Case* next;
};
inline Case* first = nullptr;
inline int failures = 0;

struct Register {
    Case entry;
    Register(const char* name, void (*body)()) : entry{name, body, first} { first = &entry; }
};

inline void fail(const char* file, int line, const char* text) {
    ++failures;
    if (failures <= 20) fprintf(stderr, "%s:%d: failed: %s\n", file, line, text);
}

template <class A, class B>
void check_equal(const A& a, const B& b, const char* file, int line, const char* text) {
    if (a == b) return;
    fail(file, line, text);
    if constexpr (requires { (long long)a; (long long)b; })
        fprintf(stderr, "    left %lld, right %lld\n", (long long)a, (long long)b);
}

[[noreturn]] inline void skip(const char* why) {
    fprintf(stderr, "skipped: %s\n", why);
    fflush(nullptr);
    _Exit(77);
}

inline int run(int count, char** words) {
    bool found = false;
    for (Case* each = first; each; each = each->next) {
        if (count == 1) puts(each->name);
        if (count == 1 || strcmp(words[1], each->name) != 0) continue;
        found = true;
        each->body();
        if (failures) fprintf(stderr, "%s: %d failed\n", each->name, failures);
    }
    if (count == 1) return 0;
    if (!found) fprintf(stderr, "no such test\n");
    return found && failures == 0 ? 0 : 1;
}

}  // namespace test

#define TEST(sentence)                                                                             \
    static void test_##sentence();                                                                 \
    static test::Register register_##sentence{#sentence, test_##sentence};                         \
    static void test_##sentence()

#define CHECK(...)                                                                                 \
    do {                                                                                           \
        if (!(__VA_ARGS__)) test::fail(__FILE__, __LINE__, #__VA_ARGS__);                          \
    } while (0)
#define CHECK_EQ(a, b) test::check_equal((a), (b), __FILE__, __LINE__, #a " == " #b)
#define REQUIRE(...)                                                                               \
    do {                                                                                           \
        if (!(__VA_ARGS__)) {                                                                      \
            test::fail(__FILE__, __LINE__, #__VA_ARGS__);                                          \
            fflush(nullptr);                                                                       \
            _Exit(1);                                                                              \
        }                                                                                          \
    } while (0)

#ifndef TEST_WITHOUT_MAIN
int main(int count, char** words) { return test::run(count, words); }
#endif
