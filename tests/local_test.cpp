// Local: one value per thread.
#include "inspection.h"
#include "test.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <string>

using namespace copse;

namespace {

std::string trace;
int made, ended;

template <char name> struct Traced {
    Traced() {
        ++made;
        trace += name;
    }
    ~Traced() {
        ++ended;
        trace += char(name - 'a' + 'A');
    }
    int number = 0;
};

Local<Traced<'a'>> a;
Local<Traced<'b'>> b;
Local<Traced<'c'>> c;

void run(auto body) {
    CHECK_EQ(loop([&] { body(); }), Error::none);
    Inspection::check_at_rest();
}

}  // namespace

TEST(every_thread_has_one_value_and_keeps_it) {
    for (int i = 0; i < 10; ++i)
        addthread([i] {
            CHECK_EQ(a->number, 0);
            a->number = i;
            for (int k = 0; k < 10; ++k) {
                CHECK_EQ(yield(), Error::none);
                CHECK_EQ(a->number, i);
                CHECK_EQ((*a).number, i);
            }
        });
    addthread([] { CHECK_EQ(yield(), Error::none); });  // never asks for it
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(made, 10);
    CHECK_EQ(ended, 10);
}

TEST(outside_a_thread_there_is_none) {
    CHECK(a.get() == nullptr);
    run([] { CHECK(a.get() != nullptr); });
    CHECK(a.get() == nullptr);
    CHECK_EQ(made, 1);
}

TEST(values_end_in_the_reverse_order_of_their_making) {
    run([] {
        (void)b.get();
        (void)a.get();
        (void)c.get();
        (void)a.get();
    });
    CHECK(trace == "bacCAB");
}

namespace {

// Made with the help of another: which is therefore made first, and outlives it.
struct User {
    User() {
        (void)a.get();
        trace += "u";
    }
    ~User() {
        trace += "U";
        a->number = 7;
    }
};
Local<User> user;

}  // namespace

TEST(a_value_that_another_is_made_from_outlives_it) {
    run([] { (void)user.get(); });
    CHECK(trace == "auUA");
}

TEST(values_end_when_the_thread_is_canceled_or_throws_or_the_loop_goes) {
    seterrorhandler([](Thread, const char*, void*) {}, nullptr, true);
    Thread canceled = *addthread([] {
        (void)a.get();
        CHECK_EQ(park(), Error::canceled);
    });
    addthread([=] { CHECK_EQ(canceled.cancel(), Error::none); });
    addthread([] {
        (void)a.get();
        throw 1;
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(made, 2);
    CHECK_EQ(ended, 2);
    addthread([] {
        (void)a.get();
        (void)park();
    });
    CHECK(step().value);
    CHECK_EQ(ended, 2);
    CHECK_EQ(destroy_loop(), Error::none);
    CHECK_EQ(ended, 3);
}

namespace {

struct MakesMore {
    ~MakesMore() {
        trace += "M";
        CHECK(inthread());
        (void)b.get();
        CHECK_EQ(yield(), Error::none);
        (void)c.get();
    }
};
Local<MakesMore> makes_more;

}  // namespace

TEST(a_values_end_may_make_others_and_park_and_they_end_too) {
    Thread thread;
    run([&] {
        thread = self();
        (void)makes_more.get();
    });
    CHECK(trace == "MbcCB");
    CHECK(thread.finished());
}

namespace {

int refusals;
struct Refuses {
    Refuses() {
        if (refusals-- > 0) throw refusals;
        trace += "r";
    }
    ~Refuses() { trace += "R"; }
};
Local<Refuses> refuses;

}  // namespace

TEST(a_value_that_cannot_be_made_is_not_ended_and_may_be_tried_again) {
    refusals = 2;
    run([] {
        for (int i = 0; i < 3; ++i) {
            try {
                (void)refuses.get();
            } catch (int) {
                trace += "x";
            }
        }
    });
    CHECK(trace == "xxrR");
}

namespace {

struct Parks {
    Parks() { CHECK_EQ(yield(), Error::none); }
    int number = 0;
};
Local<Parks> parks;

struct alignas(256) Aligned {
    char bytes[300] = {};
};
Local<Aligned> aligned;
Local<char> small;

}  // namespace

TEST(a_values_making_may_park) {
    for (int i = 1; i <= 5; ++i)
        addthread([i] {
            parks->number += i;
            CHECK_EQ(yield(), Error::none);
            CHECK_EQ(parks->number, i);
        });
    CHECK_EQ(loop(), Error::none);
}

TEST(values_are_aligned_as_they_ask) {
    run([] {
        CHECK_EQ(uintptr_t(aligned.get()) % 256, 0u);
        CHECK_EQ(uintptr_t(aligned->bytes) % 256, 0u);
        *small = 'x';
        aligned->bytes[299] = 'y';
        CHECK_EQ(*small, 'x');
    });
}

TEST(without_memory_there_is_none_and_nothing_is_lost) {
    test::VirtualTime clock;
    static bool refuse;
    clock.allocate = [](const System& system, size_t size) {
        return refuse ? nullptr : production_system.allocate(system, size);
    };
    run([] {
        refuse = true;
        CHECK(a.get() == nullptr);
        refuse = false;
        CHECK(a.get() != nullptr);
    });
    CHECK(trace == "aA");
}
