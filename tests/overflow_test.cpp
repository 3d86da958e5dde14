// Overflow: a thread that outgrows its stack dies at once, by name, and harms nobody before.
#include "child.h"
#include "inspection.h"
#include "machine.h"
#include "test.h"
#include "virtual_time.h"
#include "virtual_time.h"

#include <copse/copse.h>

#include <pthread.h>
#include <signal.h>
#include <string>
#include <sys/mman.h>
#include <utility>

using namespace copse;

namespace {

void skip_under_sanitizers() {
    if (test::sanitized) test::skip("sanitizers see to overflows in a way of their own");
}

bool is_fault(int number) { return number == SIGSEGV || number == SIGBUS; }

// Code that is as large as it likes, as users' code is.
template <size_t size> [[gnu::noinline]] void frame(size_t left) {
    char room[size];
    __asm__ volatile("" : : "r"(room) : "memory");
    room[0] = room[size - 1] = 1;
    if (left) frame<size>(left - 1);
    __asm__ volatile("" : : "r"(room) : "memory");  // no tail call
}

[[gnu::noinline]] void variable_frame(size_t size, size_t left) {
    char* room = static_cast<char*>(__builtin_alloca(size));
    __asm__ volatile("" : : "r"(room) : "memory");
    room[0] = room[size - 1] = 1;
    if (left) variable_frame(size, left - 1);
    __asm__ volatile("" : : "r"(room) : "memory");
}

[[gnu::noinline]] void with_stack_used(size_t size, void (*body)(size_t), size_t argument) {
    char* room = static_cast<char*>(__builtin_alloca(size + 16));
    memset(room, 1, size);
    __asm__ volatile("" : : "r"(room) : "memory");
    body(argument);
    __asm__ volatile("" : : "r"(room) : "memory");
}

void overflow() { frame<1000>(1000); }

// Memory that a child's stacks lie in and its parent looks at when the child is dead.
struct Arena {
    static constexpr size_t size = size_t{64} << 20;
    struct Neighbour {
        char* from;
        size_t size;
        char before[65536];
    };
    struct Shared {
        Neighbour neighbours[2];
    };
    char* memory;
    size_t used = (sizeof(Shared) + 0xffff) & ~size_t{0xffff};

    Arena() {
        void* got = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON, -1, 0);
        REQUIRE(got != MAP_FAILED);
        memory = static_cast<char*>(got);
    }
    ~Arena() { munmap(memory, size); }
    Shared& shared() { return *reinterpret_cast<Shared*>(memory); }

    bool neighbours_are_unharmed() {
        for (Neighbour& each : shared().neighbours)
            if (!each.from || memcmp(each.from, each.before, each.size) != 0) return false;
        return true;
    }
};
Arena* arena;

struct InArena : System {
    InArena() : System{production_system} {
        map = [](const System&, size_t size) -> void* {
            size_t at = arena->used;
            if (size > Arena::size - at) return nullptr;
            arena->used += (size + 0xffff) & ~size_t{0xffff};
            return arena->memory + at;
        };
        unmap = [](const System&, void*, size_t) {};
        use_system(this);
    }
};

// A victim between two neighbours whose stacks are in use; it dies of body(argument).
void die_between_neighbours(size_t used, void (*body)(size_t), size_t argument) {
    static InArena system;
    Thread neighbours[2];
    auto live = [] { with_stack_used(40000, [](size_t) { (void)park(); }, 0); };
    neighbours[0] = *addthread({.name = "neighbour below"}, live);
    addthread({.name = "the victim"}, [=, &neighbours] {
        for (int i = 0; i < 2; ++i) {
            Stack stack = Inspection::stack_of(neighbours[i]);
            REQUIRE(stack.size() == sizeof Arena::Neighbour::before);
            Arena::Neighbour& kept = arena->shared().neighbours[i];
            kept.size = stack.size();
            memcpy(kept.before, stack.base, stack.size());
            kept.from = stack.base;
        }
        with_stack_used(used, body, argument);
        fprintf(stderr, "survived\n");
    });
    neighbours[1] = *addthread({.name = "neighbour above"}, live);
    CHECK_EQ(yield(), Error::not_a_thread);
    (void)loop();
}

void check_that_it_dies_named(size_t used, void (*body)(size_t), size_t argument) {
    Arena mine;
    arena = &mine;
    test::Ended ended = test::in_child([=] { die_between_neighbours(used, body, argument); });
    const char* report = "stack overflow in thread \"the victim\": all of its 65536 bytes";
    bool right = is_fault(ended.signal()) && ended.mentions(report) && mine.neighbours_are_unharmed();
    CHECK(right);
    if (!right)
        fprintf(stderr, "frames of %zu bytes, %zu bytes used: status %x, said: %s\n", argument,
                used, unsigned(ended.status), ended.said.c_str());
}

// Without probes a frame larger than the guard steps over it: nothing can be done about that.
#if defined(TEST_PROBED) && !(defined(__clang__) && defined(__aarch64__))
constexpr size_t largest_frame = size_t{1} << 20;
#else
constexpr size_t largest_frame = 60000;
#endif

// 256 bytes to 1 MiB, closer together where frames of real programs are.
constexpr size_t sizes[] = {
    256,    512,    768,    1024,   1280,   1536,   2048,   2304,   3072,   3840,   4096,
    4352,   5120,   6144,   7936,   8192,   8448,   10240,  12288,  14336,  16384,  16640,
    20480,  24576,  28672,  32512,  32768,  33024,  33312,  36864,  40960,  49152,  57344,
    60000,  65280,  65536,  65792,  66560,  69632,  73728,  98304,  130816, 131072, 131328,
    196608, 262144, 327680, 524288, 786432, 1048576,
};
constexpr size_t size_count = sizeof sizes / sizeof sizes[0];

template <size_t size> void recurse(size_t) { frame<size>(4 * 65536 / size + 2); }

template <size_t... i> void sweep(size_t used, std::index_sequence<i...>) {
    auto one = [=](void (*body)(size_t), size_t size) {
        if (size <= largest_frame) check_that_it_dies_named(used, body, size);
    };
    (one(recurse<sizes[i]>, sizes[i]), ...);
}

}  // namespace

TEST(frames_of_every_size_on_an_empty_stack_die_named_and_harm_nobody) {
    skip_under_sanitizers();
    sweep(0, std::make_index_sequence<size_count>{});
}

TEST(frames_of_every_size_on_a_stack_half_full_die_named_and_harm_nobody) {
    skip_under_sanitizers();
    sweep(32768, std::make_index_sequence<size_count>{});
}

TEST(frames_of_every_size_on_a_stack_nearly_full_die_named_and_harm_nobody) {
    skip_under_sanitizers();
    sweep(60000, std::make_index_sequence<size_count>{});
}

TEST(frames_whose_size_is_known_only_then_die_named_and_harm_nobody) {
    skip_under_sanitizers();
    for (size_t size : sizes)
        if (size <= largest_frame)
            check_that_it_dies_named(
                0, [](size_t each) { variable_frame(each, 4 * 65536 / each + 2); }, size);
}

TEST(a_stack_with_a_painted_end_is_found_out_when_its_thread_gives_way) {
    skip_under_sanitizers();
    static System system = production_system;
    system.guard = [](const System&, void*, size_t, Guard) { return -ENOSYS; };
    use_system(&system);
    for (size_t beyond : {64, 1000, 10000, 50000}) {
        test::Ended ended = test::in_child([=] {
            addthread({.name = "quiet one"}, [] {
                for (int i = 0; i < 1000; ++i) CHECK_EQ(yield(), Error::none);
            });
            addthread({.name = "the victim"}, [=] {
                with_stack_used(50000, [](size_t) {}, 0);
                CHECK_EQ(yield(), Error::none);  // all is well so far
                fputs("alive\n", stderr);
                with_stack_used(65536 + beyond, [](size_t) {}, 0);
                (void)yield();
                fputs("survived\n", stderr);
            });
            (void)loop();
        });
        CHECK_EQ(ended.signal(), SIGABRT);
        CHECK(ended.mentions("alive"));
        CHECK(ended.mentions("stack overflow in thread \"the victim\""));
        CHECK(!ended.mentions("survived"));
    }
}

TEST(a_painted_end_is_painted_again_for_the_next_thread) {
    test::VirtualTime system;
    system.guard = [](const System&, void*, size_t, Guard) { return -ENOSYS; };
    addthread([] {
        // More than stay warm: their pages are given back, paint and all.
        for (int round = 0; round < 2; ++round) {
            Thread last;
            for (int i = 0; i < 1000; ++i)
                last = *addthread([] { CHECK_EQ(yield(), Error::none); });
            CHECK_EQ(last.join(), Error::none);
            CHECK_EQ(sleep_for(1_s), Error::none);
            CHECK(Inspection::cold() > 0);
        }
    });
    CHECK_EQ(loop(), Error::none);
}

TEST(the_report_tells_the_name_the_size_and_where_the_thread_was_added) {
    skip_under_sanitizers();
    test::Ended ended = test::in_child([] {
        addthread({.stack_size = 100000}, overflow);
        (void)loop();
    });
    CHECK(is_fault(ended.signal()));
    CHECK(ended.mentions("copse: stack overflow in thread \"thread_0\": all of its 131072 bytes"));
    size_t at = ended.said.find("added by code at 0x");
    REQUIRE(at != std::string::npos);
    uintptr_t code = uintptr_t(strtoull(ended.said.c_str() + at + 17, nullptr, 16));
    // In this program, and not in the library's: near a function of this file.
    intptr_t distance = intptr_t(code) - reinterpret_cast<intptr_t>(&overflow);
    CHECK(distance > -0x100000 && distance < 0x100000);
}

TEST(an_overflow_in_another_os_threads_loop_is_named_too) {
    skip_under_sanitizers();
    test::Ended ended = test::in_child([] {
        addthread({.name = "innocent"}, [] {});
        (void)loop();
        pthread_t thread;
        auto body = [](void*) -> void* {
            addthread({.name = "far away"}, overflow);
            (void)loop();
            return nullptr;
        };
        REQUIRE(pthread_create(&thread, nullptr, body, nullptr) == 0);
        pthread_join(thread, nullptr);
    });
    CHECK(is_fault(ended.signal()));
    CHECK(ended.mentions("thread \"far away\""));
}

TEST(a_fault_that_is_no_overflow_is_not_called_one) {
    skip_under_sanitizers();
    test::Ended ended = test::in_child([] {
        addthread({.name = "faulty"}, [] {
            volatile uintptr_t nowhere = 16;
            *reinterpret_cast<volatile int*>(nowhere) = 1;
        });
        (void)loop();
    });
    CHECK(is_fault(ended.signal()));
    CHECK(!ended.mentions("overflow"));
}

TEST(the_programs_own_handler_still_has_the_last_word) {
    skip_under_sanitizers();
    test::Ended ended = test::in_child([] {
        struct sigaction action{};
        action.sa_flags = SA_ONSTACK;
        action.sa_handler = [](int) {
            constexpr char words[] = "the program's own\n";
            if (write(2, words, sizeof words - 1) < 0) _exit(1);
            _exit(42);
        };
        sigaction(SIGSEGV, &action, nullptr);
        sigaction(SIGBUS, &action, nullptr);
        addthread({.name = "the victim"}, overflow);
        (void)loop();
    });
    CHECK_EQ(ended.code(), 42);
    size_t ours = ended.said.find("stack overflow in thread \"the victim\"");
    size_t theirs = ended.said.find("the program's own");
    CHECK(ours != std::string::npos && theirs != std::string::npos && ours < theirs);
}

TEST(a_program_that_wants_no_report_gets_none_and_keeps_its_signals) {
    skip_under_sanitizers();
    test::Ended ended = test::in_child([] {
        setoverflowreport(false);
        struct sigaction before{}, after{};
        sigaction(SIGSEGV, nullptr, &before);
        addthread(overflow);
        sigaction(SIGSEGV, nullptr, &after);
        CHECK(before.sa_handler == after.sa_handler);
        stack_t stack{};
        sigaltstack(nullptr, &stack);
        CHECK(stack.ss_flags & SS_DISABLE);
        REQUIRE(test::failures == 0);
        (void)loop();
    });
    CHECK(is_fault(ended.signal()));
    CHECK(!ended.mentions("copse"));
}
