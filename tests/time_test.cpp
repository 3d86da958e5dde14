// Time: durations that saturate, a clock that is never the wall's, waits that are never short.
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
#include <vector>
#ifdef __GLIBC__
#include <sys/syscall.h>
#endif

using namespace copse;

// Durations ---------------------------------------------------------------------------------------

namespace {

constexpr int64_t highest = INT64_MAX, lowest = INT64_MIN;
constexpr Duration ns(int64_t n) { return Duration::nanoseconds(n); }

template <class Rep, class Period> using Ticks = std::chrono::duration<Rep, Period>;
using Frames = Ticks<int64_t, std::ratio<1, 60>>;
using Picoseconds = Ticks<int64_t, std::pico>;
using Weeks = Ticks<int64_t, std::ratio<604800>>;
using Odd = Ticks<int64_t, std::ratio<1001, 30000>>;

}  // namespace

TEST(durations_saturate_instead_of_overflowing) {
    CHECK(never + 1_ns == never && never + never == never);
    CHECK(never - 1_ns == ns(highest - 1));
    CHECK(-never - 2_ns == ns(lowest) && -never - never == ns(lowest));
    CHECK(-ns(lowest) == never && ns(lowest) - 1_ns == ns(lowest));
    CHECK(ns(0) - ns(lowest) == never);
    CHECK(never * 2 == never && never * -2 == ns(lowest) && ns(lowest) * -1 == never);
    CHECK(2 * ns(lowest) == ns(lowest) && never * 0 == 0_s);
    CHECK(never / 2 == ns(highest / 2) && ns(lowest) / -1 == never && 7_ns / -1 == -7_ns);
    CHECK(Time::never() + 1_s == Time::never() && Time::never() + -1_ns < Time::never());
    CHECK(Time::at(lowest) - 1_s == Time::at(lowest));
    CHECK(Time::never() - Time::at(-1) == never && Time::at(lowest) - Time::at(1) == ns(lowest));
    CHECK(Time::at(5) - Time::at(lowest) == never);
    CHECK(1_s > 999_ms && -1_s < 0_s && Time::at(1) < Time::at(2));
}

TEST(literals_mean_what_they_say) {
    static_assert(1_us == 1000_ns && 1_ms == 1000_us && 1_s == 1000_ms && 2_min == 120_s);
    static_assert(1.5_us == 1500_ns && 0.9_ms == 900_us && 0.067_s == 67_ms && 4.9_us == 4900_ns);
    static_assert(9223372036854775807_ns == never);
    static_assert(18446744073709551615_ns == never && 18446744073709551615_min == never);
    static_assert(9223372037_s == never && 9223372036_s < never && 1e200_s == never);
    CHECK_EQ((1_s).count(), 1000000000);
}

TEST(seconds_are_rounded_up_and_what_is_no_number_is_nothing) {
    CHECK(Duration::seconds(1.5) == 1500_ms);
    CHECK(Duration::seconds(0.5e-9) == 1_ns);
    CHECK(Duration::seconds(1e-30) == 1_ns);
    CHECK(Duration::seconds(-0.5e-9) == 0_ns);
    CHECK(Duration::seconds(-1.5) == -1500_ms);
    CHECK(Duration::seconds(0.0) == 0_s && Duration::seconds(-0.0) == 0_s);
    CHECK(Duration::seconds(std::nan("")) == 0_s && Duration::seconds(-std::nan("")) == 0_s);
    CHECK(Duration::seconds(INFINITY) == never && Duration::seconds(1e300) == never);
    CHECK(Duration::seconds(-INFINITY) == ns(lowest) && Duration::seconds(-1e300) == ns(lowest));
    CHECK(Duration::seconds(9223372036.854775807) == never);
    CHECK(Duration::seconds(9223372036.0) == 9223372036_s);
}

TEST(every_chrono_duration_converts_rounded_up_and_saturating) {
    using namespace std::chrono;
    CHECK(Duration(nanoseconds(7)) == 7_ns && Duration(microseconds(-7)) == -7_us);
    CHECK(Duration(milliseconds(7)) == 7_ms && Duration(hours(2)) == 120_min);
    CHECK(Duration(Weeks(1)) == 604800_s);
    CHECK(Duration(hours(highest / 3600)) == never);
    CHECK(Duration(hours(-highest / 3600)) == ns(lowest));
    CHECK(Duration(nanoseconds::max()) == never && Duration(nanoseconds::min()) == ns(lowest));
    CHECK(Duration(seconds::max()) == never && Duration(Weeks::max()) == never);
    CHECK(Duration(Ticks<uint64_t, std::nano>(UINT64_MAX)) == never);
    CHECK(Duration(Ticks<int8_t, std::ratio<1>>(-128)) == -128_s);
    CHECK(Duration(duration<double>(0.25)) == 250_ms);
    CHECK(Duration(duration<float, std::milli>(0.5f)) == 500_us);
    CHECK(Duration(duration<double>(INFINITY)) == never);
    CHECK(Duration(duration<double>(std::nan(""))) == 0_s);
    // Where a tick is no whole number of nanoseconds.
    CHECK(Duration(Picoseconds(1)) == 1_ns && Duration(Picoseconds(1000)) == 1_ns);
    CHECK(Duration(Picoseconds(1001)) == 2_ns && Duration(Picoseconds(-1001)) == -1_ns);
    CHECK(Duration(Picoseconds(1'000'000'000'000'000'001)) == 1000000_s + 1_ns);
    CHECK(Duration(Frames(60)) == 1_s && Duration(Frames(3)) == 50_ms);
    CHECK(Duration(Frames(1)) == 16666667_ns);
    CHECK(Duration(Odd(30000)) == 1001_s && Duration(Odd::max()) == never);
}

TEST(no_tick_of_any_clock_is_cut_short) {
    // Against exact arithmetic: count * num * 10^9 / den, rounded up.
#ifdef __SIZEOF_INT128__
    __extension__ typedef __int128 Wide;
    uint64_t state = 1;
    for (int i = 0; i < 100000; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        int64_t count = int64_t(state) >> (i % 60);
        auto exact = [&](int64_t num, int64_t den) {
            Wide product = Wide(count) * num * 1000000000;
            Wide up = product / den + (product % den > 0);
            return up > highest ? highest : up < lowest ? lowest : int64_t(up);
        };
        auto check = [&](Duration got, int64_t expected) {
            // A double in between may come out a nanosecond late, never early.
            CHECK(got.count() >= expected);
            CHECK(got.count() - expected <= 1 || expected == lowest);
        };
        check(std::chrono::microseconds(count), exact(1, 1000000));
        check(Picoseconds(count), exact(1, 1000000000000));
        check(Frames(count), exact(1, 60));
        check(Odd(count), exact(1001, 30000));
        check(Weeks(count), exact(604800, 1));
    }
#else
    test::skip("no 128-bit arithmetic to compare with");
#endif
}

TEST(a_duration_converts_back_truncated) {
    using namespace std::chrono;
    CHECK(milliseconds(1999999_ns).count() == 1 && milliseconds(-1999999_ns).count() == -1);
    CHECK(nanoseconds(never).count() == highest && nanoseconds(ns(lowest)).count() == lowest);
    CHECK(microseconds(never).count() == highest / 1000 && seconds(never).count() == 9223372036);
    CHECK(hours(never).count() == 2562047 && Weeks(never).count() == 15250);
    CHECK(Picoseconds(5_ns).count() == 5000);
    CHECK(Picoseconds(never).count() == highest);
    CHECK(duration<double>(1500_ms).count() == 1.5);
    CHECK((duration<double, std::milli>(1500_us).count() == 1.5));
    CHECK(Frames(1_s).count() == 60 && Frames(50_ms).count() == 3);
    for (int64_t each : {int64_t(0), int64_t(1), int64_t(-1), highest, lowest, highest / 3})
        CHECK(Duration(nanoseconds(ns(each))) == ns(each));
}

// The clock ---------------------------------------------------------------------------------------

namespace {

bool watching = false;
int wall_clock_readings = 0, readings = 0;

}  // namespace

// What the library would call, if it asked for the time of day.
#ifdef __GLIBC__
extern "C" {
int clock_gettime(clockid_t clock, timespec* out) noexcept {
    if (watching) {
        ++readings;
        if (clock != CLOCK_MONOTONIC) ++wall_clock_readings;
    }
    return int(syscall(SYS_clock_gettime, clock, out));
}
int gettimeofday(timeval* out, void*) noexcept {
    if (watching) ++wall_clock_readings;
    timespec time{};
    syscall(SYS_clock_gettime, CLOCK_REALTIME, &time);
    *out = {time.tv_sec, suseconds_t(time.tv_nsec / 1000)};
    return 0;
}
time_t time(time_t* out) noexcept {
    timeval now{};
    gettimeofday(&now, nullptr);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}
}
#endif

TEST(the_wall_clock_is_never_read) {
#ifndef __GLIBC__
    test::skip("this libc's functions cannot be put in place of");
#endif
    watching = true;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    Error error = loop([&] {
        addthread([] { (void)sleep_for(1_us); });
        addthread([] { (void)sleep_until(now() + 1_us); });
        addthread([&] { (void)wait(ends[0], Events::readable, 1_us); });
        addthread([] {
            Timeout scope{1_us};
            (void)park();
            CHECK(scope.expired());
        });
        (void)copse::random();
        (void)yield();
    });
    (void)status();
    (void)destroy_loop();
    watching = false;
    CHECK_EQ(error, Error::none);
    CHECK(readings > 0);
    CHECK_EQ(wall_clock_readings, 0);
}

TEST(now_is_the_tables_clock_with_a_loop_and_without) {
    test::VirtualTime clock;
    CHECK_EQ(now().count(), clock.time);
    clock.pass(5_s);
    CHECK_EQ(now().count(), clock.time);
    CHECK(!step(0_s).value);
    clock.pass(5_s);
    CHECK_EQ(now().count(), clock.time);
    CHECK_EQ(destroy_loop(), Error::none);
}

TEST(random_numbers_come_from_the_tables_seed) {
    test::VirtualTime clock;
    clock.System::random = [](const System&, void* out, size_t size) { memset(out, 7, size); };
    std::vector<uint64_t> first, second;
    for (auto* each : {&first, &second}) {
        for (int i = 0; i < 1000; ++i) each->push_back(copse::random());
        CHECK_EQ(destroy_loop(), Error::none);
    }
    CHECK(first == second);
    std::sort(first.begin(), first.end());
    CHECK(std::unique(first.begin(), first.end()) == first.end());
    uint64_t ones = 0;
    for (uint64_t each : first) ones += uint64_t(__builtin_popcountll(each));
    CHECK(ones > 31000 && ones < 33000);
}

// Waiting -----------------------------------------------------------------------------------------

namespace {

constexpr int64_t ms = 1'000'000;
const int64_t lengths[] = {
    0, 1, 2, 999, 1000, 999'999, ms, ms + 1, 999 * ms + 999'999,
    (int64_t{1} << 31) * ms - 1, (int64_t{1} << 31) * ms, (int64_t{1} << 31) * ms + 1,
    ((int64_t{1} << 31) - 1) * ms, ((int64_t{1} << 31) + 1) * ms, (int64_t{1} << 32) * ms,
    int64_t{1} << 31, int64_t{1} << 32, int64_t{1} << 53, highest / 2,
    highest - 5'001,  // beyond that is never
    -1, -ms, lowest + 1, lowest,
};

}  // namespace

TEST(no_sleep_is_shorter_than_asked_and_the_poller_is_asked_for_exactly_that) {
    test::VirtualTime clock;
    setspin(0_s);
    addthread([&] {
        for (int64_t length : lengths) {
            clock.time = 5'000;
            clock.waits.clear();
            CHECK_EQ(sleep_for(ns(length)), Error::none);
            if (length <= 0) CHECK(clock.waits.empty());
            else CHECK(clock.waits == std::vector<int64_t>{length});
            CHECK_EQ(clock.time, length <= 0 ? 5'000 : 5'000 + length);
        }
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(sleeping_for_what_is_past_returns_after_one_turn) {
    test::VirtualTime clock;
    for (int64_t end : {lowest, lowest + 1, int64_t(-1), int64_t(0), int64_t(1), clock.time}) {
        addthread([&, end] {
            int64_t start = clock.time;
            clock.waits.clear();
            CHECK_EQ(sleep_until(Time::at(end)), Error::none);
            CHECK_EQ(clock.time, start);
            CHECK(clock.waits.empty());
        });
        CHECK_EQ(loop(), Error::none);
    }
}

TEST(a_wait_for_what_is_past_looks_once_at_the_world) {
    test::VirtualTime clock;
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    addthread([&] {
        for (Duration length : {0_s, -1_s, ns(lowest)}) {
            Result<Events> nothing = wait(ends[0], Events::readable, length);
            CHECK_EQ(nothing.error, Error::timeout);
            CHECK(*nothing == Events::none);
        }
        CHECK_EQ(write(ends[1], "x", 1), 1);
        for (Duration length : {0_s, -1_s, ns(lowest), never})
            CHECK(*wait(ends[0], Events::readable, length) == Events::readable);
        CHECK(clock.waits.empty());
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(a_sleep_without_end_arms_nothing_and_ends_by_cancellation) {
    test::VirtualTime clock;
    Thread sleeper = *addthread([] { CHECK_EQ(sleep_for(never), Error::canceled); });
    Thread second = *addthread([] { CHECK_EQ(sleep_until(Time::never()), Error::canceled); });
    CHECK(step(0_s).value);
    CHECK_EQ(Inspection::deadline_entries(), 0u);
    CHECK(finished());
    CHECK_EQ(sleeper.cancel(), Error::none);
    CHECK_EQ(second.cancel(), Error::none);
    CHECK_EQ(loop(), Error::none);
}

TEST(an_idle_loop_never_polls_without_waiting) {
    test::VirtualTime clock;
    setspin(0_s);
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    Thread waiter = *addthread(
        [&] { CHECK_EQ(wait(ends[0], Events::readable).error, Error::canceled); });
    addthread([&] {
        (void)yield();
        size_t before = clock.looks;
        for (int64_t length : {1, 999, 1000, 999'999, 1'000'001, 1'000'000'000})
            for (int i = 0; i < 100; ++i) CHECK_EQ(sleep_for(ns(length)), Error::none);
        CHECK_EQ(clock.looks, before);
        CHECK_EQ(waiter.cancel(), Error::none);
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(signals_make_no_timer_early_and_none_late) {
    test::VirtualTime clock;
    setspin(0_s);
    clock.interrupts = 333'333;  // a storm of them: no wait comes to its end
    for (int i = 1; i <= 20; ++i)
        addthread([&clock, length = i * 1_ms + i * 7_ns] {
            for (int times = 0; times < 20; ++times) {
                Time start = clock.at();
                CHECK_EQ(sleep_for(length), Error::none);
                CHECK(clock.at() - start == length);
            }
        });
    CHECK_EQ(loop(), Error::none);
    // Each wait asks for what is left, not for the whole again.
    for (size_t i = 0; i < clock.waits.size(); ++i) CHECK(clock.waits[i] <= 20'000'140);
}

TEST(a_wait_that_ends_late_makes_what_is_due_due_and_nothing_else) {
    test::VirtualTime clock;
    clock.lateness = 1'500'000;
    std::vector<int> order;
    Time start = clock.at();
    for (int i : {5, 3, 1, 4, 2})
        addthread([&, i] {
            CHECK_EQ(sleep_until(start + i * 1_ms), Error::none);
            CHECK(clock.at() >= start + i * 1_ms);
            order.push_back(i);
        });
    CHECK_EQ(loop(), Error::none);
    CHECK((order == std::vector<int>{1, 2, 3, 4, 5}));
}

TEST(the_bound_of_a_turn_is_kept_and_makes_nothing_late) {
    for (Duration bound : {100_us, 1_ms, 7_ms, never}) {
        test::VirtualTime clock;
        addthread([&] {
            Time start = clock.at();
            CHECK_EQ(sleep_for(20_ms), Error::none);
            CHECK(clock.at() - start == 20_ms);
        });
        CHECK_EQ(loop(bound), Error::none);
        CHECK(!clock.waits.empty());
        for (int64_t each : clock.waits) CHECK(each <= bound.count());
        CHECK_EQ(destroy_loop(), Error::none);
    }
}

TEST(a_loop_bounded_by_nothing_or_less_only_looks_and_still_keeps_time) {
    test::VirtualTime clock;
    clock.tick = 100'000;
    for (Duration bound : {0_s, -1_ns, ns(lowest)}) {
        addthread([] { CHECK_EQ(sleep_for(5_ms), Error::none); });
        CHECK_EQ(loop(bound), Error::none);
        CHECK(clock.waits.empty());
    }
}
