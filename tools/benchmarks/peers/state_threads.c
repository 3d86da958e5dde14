// State Threads: its verbs, each in a loop of its own. Version 1.9 has no yield; a sleep of nothing
// is what its programs use.
#include "../figures.h"

#include <st.h>
#include <stdbool.h>

enum { stack_size = 16384 };

static double scale = 1;
static long scaled(double operations) { return (long)(operations * scale) + 1; }

static long rounds;
static bool timed;
static st_cond_t start, turns[2], never;
static bool ready[2];

static st_thread_t spawn(void* (*body)(void*), long argument, bool joinable) {
    st_thread_t thread = st_thread_create(body, (void*)argument, joinable, stack_size);
    if (thread) return thread;
    perror("st_thread_create");
    exit(1);
}

static void let_all_wait(void) {
    for (int i = 0; i < 3; ++i) st_sleep(0);
}

static void* yield_often(void* unused) {
    st_cond_wait(start);
    for (long left = rounds; left > 0; --left) st_sleep(0);
    return unused;
}

static double yields(long count) {
    rounds = share(scaled(count > 10000 ? 2e6 : 5e6), count);
    st_thread_t* threads = calloc((size_t)count, sizeof *threads);
    for (long i = 0; i < count; ++i) threads[i] = spawn(yield_often, 0, true);
    let_all_wait();
    st_cond_broadcast(start);
    double begun = clock_ns();
    for (long i = 0; i < count; ++i) st_thread_join(threads[i], NULL);
    return (clock_ns() - begun) / (double)rounds / (double)count;
}

static void* do_nothing(void* unused) { return unused; }

static double spawns(void) {
    long count = scaled(5e5);
    st_thread_join(spawn(do_nothing, 0, true), NULL);
    double begun = clock_ns();
    for (long i = 0; i < count; ++i) st_thread_join(spawn(do_nothing, 0, true), NULL);
    return (clock_ns() - begun) / (double)count;
}

static void* hand_over(void* argument) {
    long self = (long)argument;
    for (long left = rounds; left > 0; --left) {
        while (!ready[self])
            if (st_cond_timedwait(turns[self], timed ? 10000000 : ST_UTIME_NO_TIMEOUT)) exit(1);
        ready[self] = false;
        ready[!self] = true;
        st_cond_signal(turns[!self]);
    }
    return NULL;
}

static void* wait_long(void* argument) {
    st_cond_timedwait(never, (st_utime_t)(100 + (long)argument % 977) * 1000000);
    return NULL;
}

static double handoffs(long pending) {
    rounds = scaled(1e6);
    for (long i = 0; i < pending; ++i) spawn(wait_long, i, false);
    st_thread_t pair[2] = {spawn(hand_over, 0, true), spawn(hand_over, 1, true)};
    let_all_wait();
    double begun = clock_ns();
    ready[0] = true;
    st_cond_signal(turns[0]);
    for (int i = 0; i < 2; ++i) st_thread_join(pair[i], NULL);
    return (clock_ns() - begun) / (double)rounds / 2;
}

static void* wait_for_ever(void* unused) {
    st_cond_wait(never);
    return unused;
}

static void parked_memory(long count) {
    struct Memory before = memory_now();
    double begun = clock_ns();
    for (long i = 0; i < count; ++i) spawn(wait_for_ever, 0, false);
    let_all_wait();
    print_memory(before, count, (clock_ns() - begun) * 1e-9);
}

int main(int words, char** word) {
    if (getenv("COPSE_BENCH_SCALE")) scale = atof(getenv("COPSE_BENCH_SCALE"));
    const char* test = words > 1 ? word[1] : "";
    long number = words > 2 ? atol(word[2]) : 2;
    if (st_init()) return 1;
    start = st_cond_new();
    never = st_cond_new();
    for (int i = 0; i < 2; ++i) turns[i] = st_cond_new();
    timed = strcmp(test, "timed") == 0;
    if (strcmp(test, "yield") == 0)
        print_figure(yields(number));
    else if (strcmp(test, "spawn") == 0)
        print_figure(spawns());
    else if (strcmp(test, "handoff") == 0)
        print_figure(handoffs(0));
    else if (timed)
        print_figure(handoffs(number));
    else if (strcmp(test, "memory") == 0)
        parked_memory(number);
    else
        return 2;
    fflush(stdout);
    _exit(0);  // threads may be waiting still
}
