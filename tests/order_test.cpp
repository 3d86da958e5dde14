// Order: what happened, a cancellation and a deadline in one turn, in every order there is.
//
// What has happened beats a cancellation, and that beats a deadline, whichever came first; the
// losers leave nothing behind.
#include "child.h"
#include "inspection.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <algorithm>
#include <vector>

using namespace copse;

namespace {

enum Event { completion, cancellation, deadline };

Thread subject, target;

struct Scene {
    const char* name;
    Error (*wait)();
    void (*complete)();  // run by the thread `target`, which then ends
};
const Scene scenes[] = {
    {"park", [] { return park(); }, [] { CHECK_EQ(subject.unpark(), Error::none); }},
    {"join", [] { return target.join(); }, [] {}},
    {"wait_for_stop", [] { return wait_for_stop(); }, [] { stop(); }},
};

Error expected_of(const std::vector<Event>& events) {
    auto has = [&](Event event) { return std::count(events.begin(), events.end(), event) != 0; };
    if (has(completion)) return Error::none;
    return has(cancellation) ? Error::canceled : Error::timeout;
}

void print(const char* scene, const std::vector<Event>& events) {
    fprintf(stderr, "%s:", scene);
    const char* words[] = {"completion", "cancellation", "deadline"};
    for (Event each : events) fprintf(stderr, " %s", words[each]);
    fprintf(stderr, "\n");
}

// The subject waits, and everything happens before it can run again: what comes before the deadline
// at the end of one turn, what comes after it at the beginning of the next, ahead of the subject.
void play(const Scene& scene, const std::vector<Event>& events) {
    test::VirtualTime clock;
    int failed_before = test::failures;
    Time end = clock.at() + 1_s;
    auto where = std::find(events.begin(), events.end(), deadline);
    target = {};
    std::vector<Thread> early;
    for (auto each = events.begin(); each != events.end(); ++each) {
        if (*each == deadline) continue;
        bool late = each > where;
        Result<Thread> actor = addthread([=, &events, &scene, event = *each] {
            if (late) CHECK_EQ(sleep_until(end - (events.end() - each) * 1_ns), Error::none);
            else CHECK_EQ(park(), Error::none);
            CHECK(!subject.finished());
            if (event == completion) scene.complete();
            else CHECK_EQ(subject.cancel(), Error::none);
        });
        if (!late) early.push_back(*actor);
        if (*each == completion) target = *actor;
    }
    Thread idle;  // a target that never ends
    if (!std::count(events.begin(), events.end(), completion)) {
        idle = *addthread([] { CHECK_EQ(park(), Error::none); });
        target = idle;
    }
    Error result = Error::busy, next = Error::busy;
    subject = *addthread([&] {
        {
            Timeout scope{end - clock.at()};
            result = scene.wait();
        }
        next = yield();
    });
    for (int i = 0; i < 3; ++i) CHECK(i > 0 || step(0_s).value);
    REQUIRE(Inspection::parked(subject));

    for (Thread each : early) CHECK_EQ(each.unpark(), Error::none);
    if (!early.empty()) CHECK(step(0_s).value);
    CHECK_EQ(result, Error::busy);
    Inspection::check();
    if (where != events.end()) clock.time = end.count();
    CHECK(step(0_s).value);
    Inspection::check();
    CHECK_EQ(result, expected_of(events));
    CHECK(step(0_s).value);
    CHECK(subject.finished());
    bool canceled = std::count(events.begin(), events.end(), cancellation) != 0;
    CHECK_EQ(next, canceled ? Error::canceled : Error::none);

    if (!idle.finished()) CHECK_EQ(idle.unpark(), Error::none);
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
    CHECK_EQ(destroy_loop(), Error::none);
    if (test::failures != failed_before) print(scene.name, events);
}

}  // namespace

TEST(what_happened_beats_a_cancellation_and_that_a_deadline_in_every_order) {
    for (const Scene& scene : scenes) {
        std::vector<Event> events{completion, cancellation, deadline};
        do {
            for (size_t count = 1; count <= events.size(); ++count)
                play(scene, {events.begin(), events.begin() + ptrdiff_t(count)});
        } while (std::next_permutation(events.begin(), events.end()));
    }
}

TEST(a_cancellation_beats_the_end_of_a_sleep_in_both_orders) {
    for (bool late : {false, true}) {
        test::VirtualTime clock;
        Time end = clock.at() + 1_s;
        Thread sleeper;
        addthread([&] {
            CHECK_EQ(late ? sleep_until(end - 1_ns) : yield(), Error::none);
            CHECK(!sleeper.finished());
            CHECK_EQ(sleeper.cancel(), Error::none);
        });
        sleeper = *addthread([=] { CHECK_EQ(sleep_until(end), Error::canceled); });
        CHECK(step(0_s).value);
        CHECK(Inspection::parked(sleeper));
        if (!late) CHECK(step(0_s).value);
        CHECK(Inspection::parked(sleeper) == late);
        clock.time = end.count();
        CHECK(step(0_s).value);
        CHECK(sleeper.finished());
        CHECK_EQ(loop(), Error::none);
        Inspection::check_at_rest();
        CHECK_EQ(destroy_loop(), Error::none);
    }
}

// Readiness is found where deadlines are, and before them: the order of the two is fixed. A
// cancellation comes a turn earlier, or from a thread that is woken by another descriptor first.
TEST(readiness_beats_a_cancellation_and_that_a_deadline_in_every_order) {
    enum When { not_at_all, before, after };
    for (When cancel : {not_at_all, before, after})
        for (bool ready : {false, true})
            for (bool due : {false, true}) {
                if (cancel == not_at_all && !ready && !due) continue;
                test::VirtualTime clock;
                int ends[2], first[2];
                REQUIRE(pipe(ends) == 0 && pipe(first) == 0);
                Time end = clock.at() + 1_s;
                Error result = Error::busy, next = Error::busy;
                Events got = Events::both;
                Thread killer = *addthread([&] {
                    if (cancel == after)
                        CHECK_EQ(wait(first[0], Events::readable).error, Error::none);
                    if (cancel == before) CHECK_EQ(park(), Error::none);
                    if (cancel != not_at_all) CHECK_EQ(subject.cancel(), Error::none);
                });
                subject = *addthread([&] {
                    Result<Events> answer = wait(ends[0], Events::readable, end - clock.at());
                    result = answer.error;
                    got = *answer;
                    next = yield();
                });
                CHECK(step(0_s).value);
                if (cancel == before) {
                    CHECK_EQ(killer.unpark(), Error::none);
                    CHECK(step(0_s).value);
                }
                CHECK(Inspection::parked(subject) == (cancel != before));
                if (cancel == after) CHECK_EQ(write(first[1], "x", 1), 1);
                if (ready) CHECK_EQ(write(ends[1], "x", 1), 1);
                if (due) clock.time = end.count();
                CHECK(step(0_s).value);
                if (cancel == after && !ready && !due) CHECK(step(0_s).value);
                Inspection::check();
                Error expected = ready    ? Error::none
                                 : cancel ? Error::canceled
                                          : Error::timeout;
                CHECK_EQ(result, expected);
                CHECK(got == (ready ? Events::readable : Events::none));
                CHECK_EQ(loop(), Error::none);
                CHECK_EQ(next, cancel ? Error::canceled : Error::none);
                Inspection::check_at_rest();
                CHECK_EQ(destroy_loop(), Error::none);
                for (int fd : {ends[0], ends[1], first[0], first[1]}) close(fd);
            }
}

TEST(two_ends_of_time_at_once_are_the_end_of_the_sleep) {
    test::VirtualTime clock;
    addthread([&] {
        Timeout scope{1_s};
        CHECK_EQ(sleep_for(1_s), Error::none);
        CHECK_EQ(sleep_for(1_ns), Error::timeout);
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}
