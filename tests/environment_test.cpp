// Environment: what the C library and the processor keep for an OS thread, and who has it.
#include "inspection.h"
#include "machine.h"
#include "test.h"

#include <copse/copse.h>

#include <cfenv>
#include <errno.h>
#include <unistd.h>
#include <vector>

using namespace copse;

// errno -------------------------------------------------------------------------------------------

TEST(errno_is_kept_for_each_thread_over_every_park) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    CHECK_EQ(write(ends[1], "x", 1), 1);
    std::vector<Thread> threads;
    for (int i = 1; i <= 20; ++i)
        threads.push_back(*addthread([&, i] {
            int fd = dup(ends[0]);
            for (int k = 0; k < 20; ++k) {
                errno = 100 * i + k;
                switch ((i + k) % 5) {
                case 0: CHECK_EQ(yield(), Error::none); break;
                case 1: CHECK_EQ(sleep_for(1_ns), Error::none); break;
                case 2: {
                    Timeout scope{1_ns};
                    CHECK_EQ(park(), Error::timeout);
                    break;
                }
                case 3: CHECK_EQ(wait(fd, Events::readable, 1_us).error, Error::none); break;
                case 4: {
                    Timeout scope{1_us};
                    (void)threads[size_t(i) % threads.size()].join();
                    break;
                }
                }
                CHECK_EQ(errno, 100 * i + k);
            }
        }));
    errno = 7;
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(errno, 7);
    Inspection::check_at_rest();
}

// Rounding ----------------------------------------------------------------------------------------

namespace {

// A sum that comes out differently under each mode.
double sum_of_thirds(bool give_way, int mode) {
    volatile double sum = 0, three = 3;
    for (int i = 1; i < 200; ++i) {
        sum = sum + i / three;
        if (give_way) CHECK_EQ(yield(), Error::none);
        CHECK_EQ(fegetround(), mode);
    }
    return sum;
}

const int modes[] = {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO};

}  // namespace

TEST(a_thread_that_asks_keeps_its_own_rounding) {
    double alone[4];
    for (int i = 0; i < 4; ++i) {
        if (fesetround(modes[i]) != 0) test::skip("this processor has one rounding mode");
        alone[i] = sum_of_thirds(false, modes[i]);
    }
    CHECK(alone[1] > alone[2]);
    fesetround(FE_TONEAREST);
    if (TEST_PORTABLE_SWITCH) test::skip("the portable ports leave rounding to libc");
    for (int round = 0; round < 3; ++round)
        for (int i = 0; i < 4; ++i)
            addthread({.own_fp_environment = true}, [&, i] {
                CHECK_EQ(fegetround(), FE_TONEAREST);
                fesetround(modes[i]);
                CHECK(sum_of_thirds(true, modes[i]) == alone[i]);
            });
    for (int i = 0; i < 4; ++i)
        addthread([&] { CHECK(sum_of_thirds(true, FE_TONEAREST) == alone[0]); });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(fegetround(), FE_TONEAREST);
}

TEST(the_others_share_the_os_threads_rounding) {
    if (fesetround(FE_UPWARD) != 0) test::skip("this processor has one rounding mode");
    fesetround(FE_TONEAREST);
    if (TEST_PORTABLE_SWITCH) test::skip("the portable ports leave rounding to libc");
    Thread own = *addthread({.own_fp_environment = true}, [] {
        fesetround(FE_DOWNWARD);
        for (int i = 0; i < 10; ++i) {
            CHECK_EQ(yield(), Error::none);
            CHECK_EQ(fegetround(), FE_DOWNWARD);
        }
    });
    addthread([] {
        CHECK_EQ(yield(), Error::none);
        fesetround(FE_UPWARD);
        CHECK_EQ(yield(), Error::none);
        // One that is added by it starts with what it has.
        addthread({.own_fp_environment = true}, [] {
            CHECK_EQ(yield(), Error::none);
            CHECK_EQ(fegetround(), FE_UPWARD);
        });
    });
    addthread([] {
        CHECK_EQ(fegetround(), FE_TONEAREST);
        for (int i = 0; i < 5; ++i) CHECK_EQ(yield(), Error::none);
        CHECK_EQ(fegetround(), FE_UPWARD);
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(own.finished());
    CHECK_EQ(fegetround(), FE_UPWARD);
    fesetround(FE_TONEAREST);
}
