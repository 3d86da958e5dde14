// Sanitizer: a mistake made in a thread is found where the build looks for mistakes.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"

#include <copse/copse.h>

#include <memory>
#include <pthread.h>
#include <string>

using namespace copse;

namespace {

// Of a child whose thread makes a mistake after others have come and gone on the same stack.
test::Ended after_others(void (*mistake)()) {
    return test::in_child([=] {
        for (int i = 0; i < 10; ++i) {
            addthread([] { CHECK_EQ(yield(), Error::none); });
            CHECK_EQ(loop(), Error::none);
        }
        addthread(mistake);
        addthread([] { CHECK_EQ(yield(), Error::none); });
        (void)loop();
        (void)destroy_loop();
    });
}

[[gnu::noinline]] void touch(volatile char* at) { *at = 1; }

void needs_address_sanitizer() {
    if (!test::address_sanitizer) test::skip("not built with AddressSanitizer");
}

}  // namespace

TEST(a_write_beyond_an_array_on_a_threads_stack_is_found) {
    needs_address_sanitizer();
    test::Ended ended = after_others([] {
        CHECK_EQ(yield(), Error::none);
        char room[32];
        touch(room);
        touch(room + sizeof room);
    });
    CHECK(!ended.well());
    CHECK(ended.mentions("stack-buffer-overflow"));
}

TEST(a_use_of_freed_memory_by_another_thread_is_found) {
    needs_address_sanitizer();
    test::Ended ended = after_others([] {
        auto* freed = new char[64];
        addthread([freed] { touch(freed); });
        delete[] freed;
        CHECK_EQ(yield(), Error::none);
        CHECK_EQ(yield(), Error::none);
    });
    CHECK(!ended.well());
    CHECK(ended.mentions("heap-use-after-free"));
}

TEST(memory_that_a_thread_forgot_is_found) {
    needs_address_sanitizer();
    test::Ended ended = test::in_child([] {
        addthread([] {
            auto* forgotten = new char[12345];
            touch(forgotten);
        });
        CHECK_EQ(loop(), Error::none);
        fflush(nullptr);
        exit(0);  // which looks for leaks
    });
    if (ended.mentions("LeakSanitizer has encountered a fatal error")) test::skip("no ptrace here");
    CHECK(!ended.well());
    CHECK(ended.mentions("12345 byte(s)"));
}

// The loop of a program's first OS thread is there to its end, and is no leak.
TEST(a_loop_that_lives_to_the_end_is_no_mistake) {
    test::Ended ended = test::in_child([] {
        addthread([] { CHECK_EQ(yield(), Error::none); });
        CHECK_EQ(loop(), Error::none);
        fflush(nullptr);
        exit(test::failures != 0);
    });
    if (ended.mentions("LeakSanitizer has encountered a fatal error")) test::skip("no ptrace here");
    if (!ended.well()) fprintf(stderr, "%s\n", ended.said.c_str());
    CHECK(ended.well());
}

TEST(a_race_between_the_loops_of_two_os_threads_is_found) {
    if (!test::thread_sanitizer) test::skip("not built with ThreadSanitizer");
    test::Ended ended = test::in_child([] {
        static long raced;
        auto body = [](void*) -> void* {
            addthread([] {
                for (int i = 0; i < 1000; ++i) {
                    ++raced;
                    CHECK_EQ(yield(), Error::none);
                }
            });
            (void)loop();
            return nullptr;
        };
        pthread_t threads[2];
        for (pthread_t& each : threads) REQUIRE(pthread_create(&each, nullptr, body, nullptr) == 0);
        for (pthread_t each : threads) pthread_join(each, nullptr);
        exit(0);
    });
    CHECK(ended.mentions("data race"));
}

TEST(threads_of_one_loop_do_not_race) {
    if (!test::thread_sanitizer) test::skip("not built with ThreadSanitizer");
    test::Ended ended = test::in_child([] {
        static long shared;
        for (int i = 0; i < 20; ++i)
            addthread([] {
                for (int k = 0; k < 100; ++k) {
                    ++shared;
                    CHECK_EQ(k % 3 ? yield() : sleep_for(1_ns), Error::none);
                }
            });
        CHECK_EQ(loop(), Error::none);
        CHECK_EQ(shared, 2000);
        exit(test::failures != 0);
    });
    if (!ended.well()) fprintf(stderr, "%s\n", ended.said.c_str());
    CHECK(ended.well());
}
