// Exceptions: they end in the thread they were thrown in, and stay there while it is parked.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"

#include <copse/copse.h>

#include <exception>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

using namespace copse;

namespace {

std::string trace;

Thread add(auto&& body) {
    Result<Thread> thread = addthread(std::forward<decltype(body)>(body));
    REQUIRE(thread);
    return *thread;
}

void expect_reports() {
    auto keep = [](Thread thread, const char* what, void*) {
        trace += std::string(thread.name()) + ":" + what + " ";
    };
    CHECK_EQ(seterrorhandler(keep, nullptr, true), Error::none);
}

}  // namespace

// Leaving a thread --------------------------------------------------------------------------------

TEST(an_exception_that_leaves_a_thread_is_told_and_the_others_go_on) {
    expect_reports();
    addthread({.name = "first"}, [] { throw std::runtime_error("broken"); });
    addthread({.name = "second"}, [] {
        CHECK_EQ(yield(), Error::none);
        throw 5;
    });
    addthread({.name = "third"}, [] {
        for (int i = 0; i < 3; ++i) CHECK_EQ(yield(), Error::none);
        trace += "fine";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "first:broken second:an exception that is no std::exception fine");
    Inspection::check_at_rest();
}

TEST(whoever_joins_a_thread_that_failed_goes_on) {
    expect_reports();
    Result<Thread> failing = addthread({.name = "failing"}, [] {
        CHECK_EQ(yield(), Error::none);
        throw std::logic_error("x");
    });
    add([&] {
        CHECK_EQ(failing->join(), Error::none);
        trace += "joined";
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "failing:x joined");
}

TEST(destructors_run_before_the_thread_is_over) {
    expect_reports();
    struct Says {
        const char* what;
        explicit Says(const char* words) : what{words} {}
        Says(Says&& other) : what{other.what} { other.what = ""; }
        ~Says() { trace += what; }
    };
    addthread({.name = "t"}, [captured = Says{"captured "}] {
        Says outer{"outer "};
        try {
            Says inner{"inner "};
            throw std::runtime_error("e");
        } catch (const std::logic_error&) {
            CHECK(false);
        }
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "inner outer t:e captured ");
}

TEST(a_threads_own_handler_comes_before_the_one_for_all) {
    expect_reports();
    static int context;
    addthread({.name = "own"}, [] {
        auto handler = [](Thread thread, const char* what, void* given) {
            CHECK(thread == self());
            CHECK(given == &context);
            trace += std::string("own:") + what + " ";
        };
        CHECK_EQ(seterrorhandler(handler, &context), Error::none);
        throw std::runtime_error("a");
    });
    addthread({.name = "other"}, [] { throw std::runtime_error("b"); });
    CHECK_EQ(loop(), Error::none);
    // The slot's next thread has no handler of its own.
    addthread({.name = "next"}, [] { throw std::runtime_error("c"); });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "own:a other:b next:c ");
    addthread({.name = "cleared"}, [] {
        CHECK_EQ(seterrorhandler([](Thread, const char*, void*) { CHECK(false); }), Error::none);
        CHECK_EQ(seterrorhandler(nullptr), Error::none);
        throw std::runtime_error("d");
    });
    CHECK_EQ(loop(), Error::none);
    CHECK(trace == "own:a other:b next:c cleared:d ");
}

TEST(without_a_handler_a_line_on_standard_error_says_it) {
    test::Ended ended = test::in_child([] {
        CHECK_EQ(seterrorhandler(nullptr, nullptr, true), Error::none);
        addthread({.name = "some name"}, [] { throw std::runtime_error("some words"); });
        CHECK_EQ(loop(), Error::none);
    });
    CHECK(ended.well());
    CHECK(ended.mentions("copse: some words (thread: some name)\n"));
}

TEST(a_handler_that_throws_is_survived) {
    test::Ended ended = test::in_child([] {
        static int calls = 0;
        auto handler = [](Thread, const char*, void*) {
            ++calls;
            throw std::runtime_error("from the handler");
        };
        CHECK_EQ(seterrorhandler(handler, nullptr, true), Error::none);
        addthread({.name = "failing"}, [] { throw std::runtime_error("some words"); });
        addthread({.name = "own handler"}, [] {
            CHECK_EQ(seterrorhandler([](Thread, const char*, void*) { throw 1; }), Error::none);
            throw 2;
        });
        addthread({.name = "ignorant"}, [] {
            CHECK_EQ(self().cancel(), Error::none);
            for (int i = 0; i < 2000; ++i) CHECK_EQ(yield(), Error::canceled);
        });
        bool fine = false;
        Thread parked = add([&] {
            CHECK_EQ(park(), Error::none);
            fine = true;
        });
        CHECK_EQ(loop(), Error::deadlock);  // told from the loop's own stack
        CHECK_EQ(parked.unpark(), Error::none);
        CHECK_EQ(loop(), Error::none);
        CHECK(fine);
        CHECK_EQ(calls, 3);
        CHECK_EQ(std::uncaught_exceptions(), 0);
        CHECK(!std::current_exception());
        Inspection::check_at_rest();
    });
    if (!ended.well()) fprintf(stderr, "%s", ended.said.c_str());
    CHECK(ended.well());
    // What it was told is not lost with it.
    for (const char* each : {"some words (thread: failing)", "own handler", "deadlock"})
        CHECK(ended.mentions(each));
}

// Parked with an exception ------------------------------------------------------------------------

TEST(a_thread_may_park_while_it_handles_an_exception) {
    for (int i = 0; i < 10; ++i)
        add([i] {
            try {
                throw i;
            } catch (int& caught) {
                for (int k = 0; k < 5; ++k) {
                    CHECK_EQ(yield(), Error::none);
                    CHECK_EQ(caught, i);
                    try {
                        throw;
                    } catch (int again) {
                        CHECK_EQ(again, i);
                    }
                }
            }
            CHECK(!std::current_exception());
        });
    CHECK_EQ(loop(), Error::none);
}

TEST(an_exception_caught_in_a_thread_is_none_of_the_next_ones) {
    add([] {
        try {
            throw std::runtime_error("mine");
        } catch (...) {
            CHECK_EQ(yield(), Error::none);
            CHECK(std::current_exception());
        }
    });
    for (int i = 0; i < 2; ++i)
        add([] {
            CHECK(!std::current_exception());
            CHECK_EQ(yield(), Error::none);
            CHECK(!std::current_exception());
        });
    CHECK_EQ(loop(), Error::none);
    CHECK(!std::current_exception());
}

TEST(a_loop_may_run_within_a_catch_block) {
    try {
        throw std::runtime_error("of main");
    } catch (const std::runtime_error& e) {
        add([] {
            CHECK(!std::current_exception());
            try {
                throw 1;
            } catch (int) {
                CHECK_EQ(yield(), Error::none);
            }
            CHECK(!std::current_exception());
        });
        CHECK_EQ(loop(), Error::none);
        CHECK(!strcmp(e.what(), "of main"));
        try {
            throw;
        } catch (const std::runtime_error& again) {
            CHECK(&again == &e);
        }
    }
}

TEST(a_destructor_may_park_during_unwinding) {
    struct Parks {
        int number;
        ~Parks() {
            CHECK_EQ(std::uncaught_exceptions(), 1);
            for (int i = 0; i < number; ++i) {
                CHECK_EQ(yield(), Error::none);
                CHECK_EQ(std::uncaught_exceptions(), 1);
            }
            try {
                throw number;  // and throw, and catch, meanwhile
            } catch (int caught) {
                CHECK_EQ(yield(), Error::none);
                CHECK_EQ(caught, number);
            }
        }
    };
    for (int i = 0; i < 10; ++i)
        add([i] {
            CHECK_EQ(std::uncaught_exceptions(), 0);
            try {
                Parks parks{i};
                throw std::to_string(i);
            } catch (const std::string& words) {
                CHECK(words == std::to_string(i));
            }
            CHECK_EQ(std::uncaught_exceptions(), 0);
        });
    add([] {
        for (int i = 0; i < 12; ++i) {
            CHECK_EQ(std::uncaught_exceptions(), 0);
            CHECK_EQ(yield(), Error::none);
        }
    });
    CHECK_EQ(loop(), Error::none);
    CHECK_EQ(std::uncaught_exceptions(), 0);
}

TEST(exceptions_pass_from_thread_to_thread_by_pointer) {
    std::exception_ptr kept;
    add([&] {
        try {
            throw std::runtime_error("passed on");
        } catch (...) {
            kept = std::current_exception();
            CHECK_EQ(yield(), Error::none);
        }
    });
    add([&] {
        try {
            std::rethrow_exception(kept);
        } catch (const std::runtime_error& e) {
            CHECK_EQ(yield(), Error::none);
            CHECK(!strcmp(e.what(), "passed on"));
        }
    });
    CHECK_EQ(loop(), Error::none);
}

// A handler called in the middle of a library call throws: the exception ends with the handler, and
// one thrown by what a thread is made of passes through the library to who asked.
TEST(a_users_exception_passes_through_the_library) {
    struct Throws {
        bool armed = false;
        Throws() = default;
        Throws(const Throws& other) : armed{true} {
            if (other.armed) throw std::runtime_error("copied twice");
        }
        void operator()() {}
    };
    static Local<std::unique_ptr<int>> fine;
    add([] {
        Throws body;
        body.armed = true;
        for (int i = 0; i < 10; ++i) {
            try {
                (void)addthread(body);
                CHECK(false);
            } catch (const std::runtime_error& e) {
                CHECK(!strcmp(e.what(), "copied twice"));
                CHECK_EQ(yield(), Error::none);
            }
        }
        CHECK(fine.get());
    });
    CHECK_EQ(loop(), Error::none);
    Inspection::check_at_rest();
}

// Random programs ---------------------------------------------------------------------------------

namespace {

// Runs the program that a seed stands for: nested blocks that throw, catch, rethrow, keep pointers
// and rethrow them, unwind through destructors, and give way at any of these points. What it sees
// is folded into one number. Outside a thread giving way does nothing: that is the oracle.
class Program {
  public:
    explicit Program(uint64_t seed) : state_{seed * 2 + 1} {}

    uint64_t run() {
        for (int i = 0; i < 20; ++i) {
            try {
                block(0);
            } catch (int thrown) {
                note(uint64_t(thrown));
            } catch (const std::exception& thrown) {
                note(thrown.what());
            }
            note(uint64_t(std::uncaught_exceptions()));
            note(std::current_exception() == nullptr);
        }
        return seen_;
    }

    static inline uint64_t gave_way = 0;

  private:
    struct Guard {
        Program& program;
        int depth;
        ~Guard() {
            program.note(uint64_t(std::uncaught_exceptions()) + 100);
            program.give_way();
            if (depth < 5 && program.random(3) == 0) {
                try {
                    program.block(depth + 1);
                } catch (...) {
                    program.give_way();
                    program.note(200);
                }
            }
            program.note(uint64_t(std::uncaught_exceptions()) + 300);
        }
    };

    uint32_t random(uint32_t below) {
        state_ = state_ * 6364136223846793005u + 1442695040888963407u;
        return uint32_t((state_ >> 33) % below);
    }
    void note(uint64_t value) { seen_ = (seen_ ^ value) * 1099511628211u; }
    void note(const char* words) {
        while (*words) note(uint64_t(*words++));
    }
    void give_way() {
        if (random(2) == 0) return;
        gave_way += yield() == Error::none;
    }

    void block(int depth) {
        uint32_t statements = random(4) + 1;
        while (statements--) statement(depth);
    }

    void statement(int depth) {
        give_way();
        if (depth >= 6) return note(1);
        switch (random(7)) {
        case 0: throw int(random(1000));
        case 1: throw std::runtime_error(std::to_string(random(1000)));
        case 2: {
            Guard guard{*this, depth};
            block(depth + 1);
            break;
        }
        case 3:
            try {
                block(depth + 1);
            } catch (int thrown) {
                give_way();
                note(uint64_t(thrown) + 400);
                if (random(2)) throw;
                block(depth + 1);
                give_way();
                if (random(2)) throw;  // still the outer one, whatever the block did
            }
            break;
        case 4:
            try {
                block(depth + 1);
            } catch (const std::exception& thrown) {
                give_way();
                note(thrown.what());
                if (random(3) == 0) throw int(random(1000));
                if (random(3) == 0) throw;
            }
            break;
        case 5:
            try {
                Guard guard{*this, depth};
                block(depth + 1);
            } catch (...) {
                std::exception_ptr kept = std::current_exception();
                give_way();
                try {
                    std::rethrow_exception(kept);
                } catch (int thrown) {
                    give_way();
                    note(uint64_t(thrown) + 500);
                } catch (const std::exception& thrown) {
                    give_way();
                    note(thrown.what());
                }
                if (random(3) == 0) throw;
            }
            break;
        default: note(2); break;
        }
    }

    uint64_t state_;
    uint64_t seen_ = 14695981039346656037u;
};

}  // namespace

TEST(random_programs_of_exceptions_see_in_64_threads_what_they_see_alone) {
    const uint64_t rounds = test::sanitized ? 2 : 10;
    for (uint64_t round = 0; round < rounds; ++round) {
        std::vector<uint64_t> alone, together(64);
        for (uint64_t i = 0; i < 64; ++i) alone.push_back(Program{round * 64 + i}.run());
        for (uint64_t i = 0; i < 64; ++i)
            add([&together, round, i] { together[i] = Program{round * 64 + i}.run(); });
        CHECK_EQ(loop(), Error::none);
        for (size_t i = 0; i < 64; ++i) CHECK_EQ(together[i], alone[i]);
        CHECK_EQ(std::uncaught_exceptions(), 0);
    }
    CHECK(Program::gave_way > 1000 * rounds);
}
