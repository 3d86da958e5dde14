// System: what production_system promises of memory, descriptors and the process.
#include "runtime/check.h"
#include "runtime/system.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <initializer_list>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace copse;

namespace {

const System& sys = production_system;

#ifdef __has_feature
constexpr bool thread_sanitizer = __has_feature(thread_sanitizer);
#elif defined(__SANITIZE_THREAD__)
constexpr bool thread_sanitizer = true;
#else
constexpr bool thread_sanitizer = false;
#endif

// The status, as of waitpid(), of a child that runs body: 0 where nothing failed in it.
template <class Body> int in_child(const Body& body) {
    fflush(nullptr);
    pid_t child = fork();
    if (child < 0) test::skip("no fork here");
    if (child == 0) {
        rlimit no_core{};
        setrlimit(RLIMIT_CORE, &no_core);
        test::failures = 0;
        body();
        _exit(test::failures != 0);
    }
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) {}
    return status;
}

// The signal that ended a child which wrote to address; 0 if none did.
int signal_of_touching(volatile char* address) {
    int status = in_child([=] {
        signal(SIGSEGV, SIG_DFL);
        signal(SIGBUS, SIG_DFL);
        *address = 1;
    });
    return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

bool is_fault(int number) { return number == SIGSEGV || number == SIGBUS; }

ssize_t put(int fd, const char* text) {
    iovec piece{const_cast<char*>(text), strlen(text)};
    return sys.send(sys, fd, &piece, 1);
}

// A number that is no descriptor's.
int closed_number() {
    int fd = dup(2);
    close(fd);
    return fd;
}

bool nonblocking(int fd) { return fcntl(fd, F_GETFL) & O_NONBLOCK; }
bool closed_on_exec(int fd) { return fcntl(fd, F_GETFD) & FD_CLOEXEC; }

}  // namespace

// Time and chance -------------------------------------------------------------------------------

TEST(time_goes_forward_in_nanoseconds) {
    int64_t before = sys.now(sys);
    CHECK(before >= 0);
    for (int i = 0; i < 10'000; ++i) {
        int64_t now = sys.now(sys);
        CHECK(now >= before);
        before = now;
    }
    usleep(2000);
    CHECK(sys.now(sys) - before >= 2'000'000);
}

TEST(random_bytes_fill_what_they_are_asked_to_and_no_more) {
    unsigned char first[5000] = {}, second[5000] = {};
    sys.random(sys, first, sizeof first - 1);
    sys.random(sys, second, sizeof second - 1);
    CHECK(memcmp(first, second, sizeof first) != 0);
    CHECK_EQ(first[sizeof first - 1], 0);
    int zeroes = 0;
    for (unsigned char each : first) zeroes += each == 0;
    CHECK(zeroes < 200);
}

// Memory ----------------------------------------------------------------------------------------

TEST(mapped_pages_are_zero_and_cost_nothing_until_touched) {
    const size_t size = size_t{256} << 20;
    auto* memory = static_cast<char*>(sys.map(sys, size));
    REQUIRE(memory);
    CHECK_EQ(sys.lowest_resident(sys, memory, size), size);
    CHECK_EQ(memory[0], 0);
    CHECK_EQ(memory[size - 1], 0);
    sys.unmap(sys, memory, size);
}

TEST(more_than_there_is_cannot_be_mapped) { CHECK(!sys.map(sys, SIZE_MAX / 2)); }

TEST(the_lowest_page_in_memory_is_found) {
    const size_t page = sys.page_size(sys), size = 300 * page;
    auto* memory = static_cast<char*>(sys.map(sys, size));
    REQUIRE(memory);
    if (sys.lowest_resident(sys, memory, size) != size) test::skip("no mincore here");
    for (size_t touched : {size_t{299}, size_t{130}, size_t{129}, size_t{64}, size_t{63}, size_t{1},
                           size_t{0}}) {
        memory[touched * page + 5] = 1;
        CHECK_EQ(sys.lowest_resident(sys, memory, size), touched * page);
    }
    // Within a page already in memory, the answer is the beginning of what was asked about.
    CHECK_EQ(sys.lowest_resident(sys, memory + 7, size - 7), 0u);
    sys.unmap(sys, memory, size);
}

TEST(discarded_pages_are_given_back_and_read_zero) {
    const size_t page = sys.page_size(sys), size = 16 * page;
    auto* memory = static_cast<char*>(sys.map(sys, size));
    REQUIRE(memory);
    memset(memory, 1, size);
    sys.discard(sys, memory + page, size - page);
    for (size_t i = page; i < size; ++i) CHECK_EQ(memory[i], 0);
    CHECK_EQ(memory[page - 1], 1);
    memset(memory, 1, size);
    sys.discard(sys, memory, size);
    size_t lowest = sys.lowest_resident(sys, memory, size);
    CHECK(lowest == size || lowest == 0);  // 0: this kernel cannot say
    sys.unmap(sys, memory, size);
}

TEST(a_guard_traps_and_outlives_discarding_what_lies_beside_it) {
    const size_t page = sys.page_size(sys), guarded = 16 * page, size = 64 * page;
    for (Guard kind : {Guard::kernel, Guard::mprotect}) {
        auto* memory = static_cast<char*>(sys.map(sys, size));
        REQUIRE(memory);
        char* guard = memory + 16 * page;
        memset(guard, 1, guarded);
        int result = sys.guard(sys, guard, guarded, kind);
        if (result < 0) {
            CHECK(kind == Guard::kernel);
            CHECK(result == -ENOSYS || result == -EINVAL);
            fprintf(stderr, "no kernel guards here: %d\n", result);
            continue;
        }
        for (bool discarded : {false, true}) {
            if (discarded) {
                sys.discard(sys, memory, 16 * page);
                sys.discard(sys, guard + guarded, 32 * page);
            }
            CHECK(is_fault(signal_of_touching(guard)));
            CHECK(is_fault(signal_of_touching(guard + guarded - 1)));
            CHECK_EQ(signal_of_touching(guard - 1), 0);
            CHECK_EQ(signal_of_touching(guard + guarded), 0);
        }
        sys.unmap(sys, memory, size);
    }
}

TEST(a_canary_is_no_business_of_the_kernel) {
    const size_t page = sys.page_size(sys);
    void* memory = sys.map(sys, page);
    CHECK_EQ(sys.guard(sys, memory, page, Guard::canary), -EINVAL);
}

// Descriptors -----------------------------------------------------------------------------------

TEST(every_descriptor_is_born_close_on_exec_and_non_blocking) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    auto* at = reinterpret_cast<sockaddr*>(&address);
    int listener = sys.open_socket(sys, AF_INET, SOCK_STREAM, 0);
    CHECK(nonblocking(listener) && closed_on_exec(listener));
    REQUIRE(sys.bind(sys, listener, at, size) == 0 && sys.listen(sys, listener, 8) == 0);
    REQUIRE(sys.get_socket_name(sys, listener, at, &size) == 0);
    CHECK_EQ(sys.accept(sys, listener, nullptr, nullptr), -EAGAIN);

    int client = sys.open_socket(sys, AF_INET, SOCK_STREAM, 0);
    int result = sys.connect(sys, client, at, size);
    CHECK(result == 0 || result == -EINPROGRESS);
    int server = -EAGAIN;
    for (int i = 0; i < 1000 && server == -EAGAIN; ++i) {
        usleep(1000);
        server = sys.accept(sys, listener, nullptr, nullptr);
    }
    REQUIRE(server >= 0);
    CHECK(nonblocking(server) && closed_on_exec(server));

    int pair[2];
    CHECK_EQ(sys.open_pair(sys, AF_UNIX, SOCK_STREAM, pair), 0);
    for (int fd : pair) CHECK(nonblocking(fd) && closed_on_exec(fd));
}

TEST(an_adopted_descriptor_becomes_close_on_exec_and_non_blocking) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    CHECK(!nonblocking(ends[0]) && !closed_on_exec(ends[0]));
    CHECK_EQ(sys.adopt(sys, ends[0]), 0);
    CHECK_EQ(sys.adopt(sys, ends[0]), 0);
    CHECK(nonblocking(ends[0]) && closed_on_exec(ends[0]));
    int socket = ::socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(sys.adopt(sys, socket), 0);
    CHECK(nonblocking(socket) && closed_on_exec(socket));
    CHECK_EQ(sys.adopt(sys, closed_number()), -EBADF);
}

TEST(pipes_are_received_from_and_sent_to_like_sockets) {
    int ends[2];
    REQUIRE(pipe(ends) == 0 && sys.adopt(sys, ends[0]) == 0 && sys.adopt(sys, ends[1]) == 0);
    char bytes[16];
    CHECK_EQ(sys.receive(sys, ends[0], bytes, sizeof bytes), -EAGAIN);
    iovec pieces[] = {{const_cast<char*>("ab"), 2}, {const_cast<char*>("cde"), 3}};
    CHECK_EQ(sys.send(sys, ends[1], pieces, 2), 5);
    CHECK_EQ(sys.receive(sys, ends[0], bytes, sizeof bytes), 5);
    CHECK(memcmp(bytes, "abcde", 5) == 0);
    sys.close(sys, ends[1]);
    CHECK_EQ(sys.receive(sys, ends[0], bytes, sizeof bytes), 0);
}

TEST(more_pieces_than_one_call_takes_are_sent_in_part) {
    int pair[2];
    REQUIRE(sys.open_pair(sys, AF_UNIX, SOCK_STREAM, pair) == 0);
    static iovec pieces[5000];
    for (iovec& each : pieces) each = {const_cast<char*>("x"), 1};
    ssize_t sent = sys.send(sys, pair[0], pieces, 5000);
    CHECK(sent > 0 && sent <= 5000);
}

TEST(sending_to_nobody_raises_no_signal) {
    int status = in_child([] {
        signal(SIGPIPE, SIG_DFL);
        int pair[2], ends[2];
        REQUIRE(sys.open_pair(sys, AF_UNIX, SOCK_STREAM, pair) == 0 && pipe(ends) == 0);
        REQUIRE(sys.adopt(sys, ends[1]) == 0);
        sys.close(sys, pair[1]);
        sys.close(sys, ends[0]);
        for (int i = 0; i < 3; ++i) {
            REQUIRE(put(pair[0], "x") == -EPIPE);
            REQUIRE(put(ends[1], "x") == -EPIPE);
            sys.write_all(sys, ends[1], "x", 1);
        }
        // Nothing is left behind either: not in the mask, not pending.
        sigset_t mask, pending;
        REQUIRE(pthread_sigmask(SIG_BLOCK, nullptr, &mask) == 0 && sigpending(&pending) == 0);
        REQUIRE(!sigismember(&mask, SIGPIPE) && !sigismember(&pending, SIGPIPE));
    });
    CHECK_EQ(status, 0);
}

TEST(a_broken_pipe_signal_of_the_programs_own_stays_pending) {
    int status = in_child([] {
        sigset_t pipe_only, pending;
        sigemptyset(&pipe_only);
        sigaddset(&pipe_only, SIGPIPE);
        pthread_sigmask(SIG_BLOCK, &pipe_only, nullptr);
        raise(SIGPIPE);  // to this OS thread, as a write's would be
        int ends[2];
        REQUIRE(pipe(ends) == 0 && sys.adopt(sys, ends[1]) == 0);
        sys.close(sys, ends[0]);
        REQUIRE(put(ends[1], "x") == -EPIPE);
        REQUIRE(sigpending(&pending) == 0 && sigismember(&pending, SIGPIPE));
    });
    CHECK_EQ(status, 0);
}

TEST(errors_are_returned_negated) {
    const int closed = closed_number();
    CHECK_EQ(sys.close(sys, closed), -EBADF);
    CHECK_EQ(sys.open_socket(sys, -1, SOCK_STREAM, 0), -EAFNOSUPPORT);
    CHECK_EQ(sys.accept(sys, closed, nullptr, nullptr), -EBADF);
    char byte;
    CHECK_EQ(sys.receive(sys, closed, &byte, 1), -EBADF);
    CHECK_EQ(put(closed, "x"), -EBADF);
    CHECK_EQ(sys.unlink(sys, "/no/such/name"), -ENOENT);
    CHECK_EQ(sys.shutdown(sys, closed, SHUT_WR), -EBADF);
    int option = 1;
    CHECK_EQ(sys.set_option(sys, closed, SOL_SOCKET, SO_REUSEADDR, &option, sizeof option), -EBADF);
}

TEST(the_descriptor_limit_is_the_processs) {
    rlimit limit{};
    getrlimit(RLIMIT_NOFILE, &limit);
    if (limit.rlim_max != RLIM_INFINITY && limit.rlim_max < 77) test::skip("few descriptors here");
    limit.rlim_cur = 77;
    REQUIRE(setrlimit(RLIMIT_NOFILE, &limit) == 0);
    CHECK_EQ(sys.descriptor_limit(sys), 77u);
}

TEST(write_all_waits_for_a_slow_reader) {
    static int ends[2];
    REQUIRE(pipe(ends) == 0 && sys.adopt(sys, ends[1]) == 0);
    static size_t total = 0;
    pthread_t reader;
    pthread_create(
        &reader, nullptr,
        [](void*) -> void* {
            static char bytes[4096];
            for (ssize_t got; (got = read(ends[0], bytes, sizeof bytes)) > 0;) {
                total += size_t(got);
                usleep(100);
            }
            return nullptr;
        },
        nullptr);
    static char text[300'000];
    sys.write_all(sys, ends[1], text, sizeof text);
    close(ends[1]);
    pthread_join(reader, nullptr);
    CHECK_EQ(total, sizeof text);
}

// The process -----------------------------------------------------------------------------------

TEST(a_fork_is_counted_in_the_child_alone) {
    uint32_t before = *sys.fork_count(sys);
    int status = in_child([=] {
        if (*sys.fork_count(sys) != before + 1) _exit(1);
        int grandchild = in_child([=] { _exit(*sys.fork_count(sys) == before + 2 ? 0 : 1); });
        _exit(grandchild == 0 && *sys.fork_count(sys) == before + 1 ? 0 : 2);
    });
    CHECK_EQ(status, 0);
    CHECK_EQ(*sys.fork_count(sys), before);
}

namespace {

void* run_os_thread(void* (*body)(void*), void* argument) {
    pthread_t thread;
    REQUIRE(pthread_create(&thread, nullptr, body, argument) == 0);
    void* result = nullptr;
    pthread_join(thread, &result);
    return result;
}

int ends_seen = 0;
void count_end(void* by) { ends_seen += *static_cast<int*>(by); }

// What catches faults stays installed for good: in a process of its own.
void in_os_thread_of_child(void* (*body)(void*)) {
    CHECK_EQ(in_child([=] { run_os_thread(body, nullptr); }), 0);
}

}  // namespace

TEST(the_end_of_an_os_thread_is_told_once_to_the_last_who_asked) {
    ends_seen = 0;
    run_os_thread(
        [](void*) -> void* {
            static int one = 1, hundred = 100;
            CHECK_EQ(sys.at_thread_end(sys, count_end, &hundred), 0);
            CHECK_EQ(sys.at_thread_end(sys, count_end, &one), 0);
            CHECK_EQ(ends_seen, 0);
            return nullptr;
        },
        nullptr);
    CHECK_EQ(ends_seen, 1);
}

TEST(what_runs_at_an_os_threads_end_may_drop_faults_and_ask_again) {
    int status = in_child([] {
        ends_seen = 0;
        run_os_thread(
            [](void*) -> void* {
                CHECK_EQ(sys.catch_faults(sys, [](void*) { return false; }), 0);
                sys.at_thread_end(
                    sys,
                    [](void*) {
                        sys.drop_faults(sys);
                        static int one = 1;
                        sys.at_thread_end(sys, count_end, &one);
                    },
                    nullptr);
                return nullptr;
            },
            nullptr);
        CHECK_EQ(ends_seen, 1);
    });
    CHECK_EQ(status, 0);
}

// Faults ----------------------------------------------------------------------------------------

namespace {

// Written by handlers, read by the parent.
struct Seen {
    void* volatile address;
    volatile int reports, forwarded;
    volatile bool on_own_stack;
};
Seen* seen = nullptr;
char* forbidden = nullptr;

void prepare_fault() {
    const size_t page = sys.page_size(sys);
    seen = static_cast<Seen*>(mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANON,
                                   -1, 0));
    forbidden = static_cast<char*>(sys.map(sys, page));
    REQUIRE(sys.guard(sys, forbidden, page, Guard::mprotect) == 0);
}

bool report(void* address) {
    stack_t current{};
    sigaltstack(nullptr, &current);
    auto here = reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
    auto bottom = reinterpret_cast<uintptr_t>(current.ss_sp);
    seen->on_own_stack = here >= bottom && here < bottom + current.ss_size;
    seen->address = address;
    seen->reports = seen->reports + 1;
    return true;
}

void default_faults() {
    signal(SIGSEGV, SIG_DFL);
    signal(SIGBUS, SIG_DFL);
}

void handle_faults(int flags, void (*handler)(int, siginfo_t*, void*)) {
    struct sigaction action{};
    action.sa_sigaction = handler;
    action.sa_flags = SA_SIGINFO | flags;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, nullptr);
    sigaction(SIGBUS, &action, nullptr);
}

void touch() { *const_cast<volatile char*>(forbidden + 5) = 1; }

}  // namespace

TEST(a_fault_is_reported_with_its_address_and_dies_as_before) {
    prepare_fault();
    int status = in_child([] {
        default_faults();
        REQUIRE(sys.catch_faults(sys, report) == 0);
        touch();
    });
    CHECK(WIFSIGNALED(status) && is_fault(WTERMSIG(status)));
    CHECK_EQ(seen->reports, 1);
    CHECK(seen->on_own_stack);
    CHECK(seen->address == forbidden + 5);
}

TEST(a_fault_on_a_stack_that_is_used_up_is_reported) {
    if (thread_sanitizer) test::skip("the sanitizer's own call stack may overflow first");
    prepare_fault();
    int status = in_child([] {
        default_faults();
        run_os_thread(
            [](void*) -> void* {
                REQUIRE(sys.catch_faults(sys, report) == 0);
                struct Deep {
                    [[gnu::noinline]] static void down(int left) {
                        char frame[1024];
                        __asm__ volatile("" : : "r"(frame) : "memory");
                        if (left > 0) down(left - 1);
                        __asm__ volatile("" : : "r"(frame) : "memory");  // no tail call
                    }
                };
                volatile int more_than_fit = 1 << 20;
                Deep::down(more_than_fit);
                return nullptr;
            },
            nullptr);
    });
    CHECK(WIFSIGNALED(status) && is_fault(WTERMSIG(status)));
    CHECK_EQ(seen->reports, 1);
}

TEST(the_handler_that_was_there_before_is_called_after_the_report) {
    prepare_fault();
    int status = in_child([] {
        handle_faults(0, [](int, siginfo_t* info, void* machine) {
            bool same = info->si_addr == forbidden + 5 && machine && seen->reports == 1;
            _exit(same ? 33 : 1);
        });
        REQUIRE(sys.catch_faults(sys, report) == 0);
        touch();
    });
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 33);
}

TEST(a_previous_handler_that_mends_the_fault_lets_the_program_go_on) {
    prepare_fault();
    int status = in_child([] {
        handle_faults(0, [](int, siginfo_t*, void*) {
            mprotect(forbidden, sys.page_size(sys), PROT_READ | PROT_WRITE);
            seen->forwarded = seen->forwarded + 1;
        });
        REQUIRE(sys.catch_faults(sys, report) == 0);
        touch();
        _exit(forbidden[5] == 1 && seen->forwarded == 1 ? 0 : 1);
    });
    CHECK_EQ(status, 0);
}

TEST(a_previous_handler_for_one_time_is_called_one_time) {
    prepare_fault();
    int status = in_child([] {
        handle_faults(static_cast<int>(SA_RESETHAND),
                      [](int, siginfo_t*, void*) { seen->forwarded = seen->forwarded + 1; });
        REQUIRE(sys.catch_faults(sys, report) == 0);
        touch();
    });
    CHECK(WIFSIGNALED(status) && is_fault(WTERMSIG(status)));
    CHECK_EQ(seen->forwarded, 1);
}

TEST(a_previous_handler_may_jump_away_again_and_again) {
    prepare_fault();
    int status = in_child([] {
        static sigjmp_buf back;
        handle_faults(SA_NODEFER, [](int, siginfo_t*, void*) { siglongjmp(back, 1); });
        REQUIRE(sys.catch_faults(sys, report) == 0);
        volatile int times = 0;
        sigsetjmp(back, 1);
        times = times + 1;
        if (times <= 5) touch();
        _exit(times == 6 && seen->reports == 5 ? 0 : 1);
    });
    CHECK_EQ(status, 0);
}

TEST(a_fault_signal_that_was_sent_is_no_fault_and_kills) {
    prepare_fault();
    int status = in_child([] {
        default_faults();
        REQUIRE(sys.catch_faults(sys, report) == 0);
        kill(getpid(), SIGSEGV);
        pause();
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    CHECK_EQ(seen->reports, 0);
}

TEST(dropped_faults_are_not_reported_and_still_kill) {
    prepare_fault();
    int status = in_child([] {
        default_faults();
        REQUIRE(sys.catch_faults(sys, report) == 0);
        sys.drop_faults(sys);
        touch();
    });
    CHECK(WIFSIGNALED(status) && is_fault(WTERMSIG(status)));
    CHECK_EQ(seen->reports, 0);
}

TEST(the_signal_stack_is_taken_once_and_given_back) {
    in_os_thread_of_child([](void*) -> void* {
        stack_t before{}, during{}, after{};
        sigaltstack(nullptr, &before);
        for (int i = 0; i < 2; ++i) CHECK_EQ(sys.catch_faults(sys, report), 0);
        sigaltstack(nullptr, &during);
        CHECK(!(during.ss_flags & SS_DISABLE));
        sys.drop_faults(sys);
        sys.drop_faults(sys);
        sigaltstack(nullptr, &after);
        CHECK_EQ(before.ss_flags & SS_DISABLE, after.ss_flags & SS_DISABLE);
        if (before.ss_flags & SS_DISABLE) CHECK(during.ss_size >= 64 * 1024);
        return nullptr;
    });
}

TEST(a_signal_stack_of_the_threads_own_is_kept) {
    in_os_thread_of_child([](void*) -> void* {
        const size_t size = 128 * 1024;
        stack_t own{}, now{};
        own.ss_sp = sys.map(sys, size);
        own.ss_size = size;
        REQUIRE(sigaltstack(&own, nullptr) == 0);
        CHECK_EQ(sys.catch_faults(sys, report), 0);
        sigaltstack(nullptr, &now);
        CHECK(now.ss_sp == own.ss_sp && now.ss_size == size);
        sys.drop_faults(sys);
        sigaltstack(nullptr, &now);
        CHECK(now.ss_sp == own.ss_sp && !(now.ss_flags & SS_DISABLE));
        own.ss_flags = SS_DISABLE;
        sigaltstack(&own, nullptr);
        return nullptr;
    });
}

namespace {

// Of what is not mapped msync() says ENOMEM.
bool is_mapped(void* page) { return msync(page, sys.page_size(sys), MS_ASYNC) == 0; }

}  // namespace

TEST(os_threads_that_come_and_go_leave_no_signal_stack_behind) {
    void* gone = sys.map(sys, sys.page_size(sys));
    sys.unmap(sys, gone, sys.page_size(sys));
    if (is_mapped(gone)) test::skip("an emulator says everything is mapped");
    int status = in_child([] {
        int left = 0;
        for (int i = 0; i < 20; ++i) {
            void* stack = run_os_thread(
                [](void*) -> void* {
                    CHECK_EQ(sys.catch_faults(sys, report), 0);
                    stack_t current{};
                    sigaltstack(nullptr, &current);
                    return current.ss_sp;
                },
                nullptr);
            left += is_mapped(stack);
        }
        CHECK(left < 5);  // something else may lie there by now
    });
    CHECK_EQ(status, 0);
}

// The table -------------------------------------------------------------------------------------

TEST(each_os_thread_chooses_its_own_table) {
    CHECK(&system_to_use() == &production_system);
    static System other = production_system;
    use_system(&other);
    CHECK(&system_to_use() == &other);
    run_os_thread(
        [](void*) -> void* {
            CHECK(&system_to_use() == &production_system);
            return nullptr;
        },
        nullptr);
    use_system(nullptr);
    CHECK(&system_to_use() == &production_system);
}

TEST(a_broken_check_says_where_and_what_and_aborts) {
    int ends[2];
    REQUIRE(pipe(ends) == 0);
    int status = in_child([=] {
        dup2(ends[1], 2);
        check(true, "nothing");
        check(1 + 1 == 3, "one and one to be three", "some/file.cpp", 1234567);
    });
    CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    char text[200] = {};
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    const char* expected = "copse: some/file.cpp:1234567: one and one to be three\n";
    CHECK(strncmp(text, expected, strlen(expected)) == 0);
}
