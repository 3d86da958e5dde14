// Distance: how long a cache line takes to the other processor and back, in nanoseconds.
//
// A virtual machine's processors may be moved while it runs: now they share a cache, now they lie on
// different sockets, and everything that is sent from one to the other costs two or three times as
// much. Nobody tells the guest. So it is measured, in a few milliseconds, before and after each run.
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { trips = 4000, attempts = 5 };

static _Alignas(128) atomic_int side;  // where the line is wanted next
static int cpus[2];

static void pin(int cpu) {
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0) exit(1);
}

// Waits for the line to come to `here`, and sends it on.
static void send_on(int here) {
    while (atomic_load_explicit(&side, memory_order_acquire) != here) {}
    atomic_store_explicit(&side, !here, memory_order_release);
}

static void* other_end(void* unused) {
    (void)unused;
    pin(cpus[1]);
    for (int i = 0; i < trips * attempts; ++i) send_on(1);
    return NULL;
}

static double now_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

int main(int count, char** words) {
    if (count != 3) {
        fputs("usage: copse-bench-distance CPU CPU\n", stderr);
        return 2;
    }
    cpus[0] = atoi(words[1]);
    cpus[1] = atoi(words[2]);
    if (cpus[0] == cpus[1]) return puts("0") < 0;
    pin(cpus[0]);
    pthread_t thread;
    if (pthread_create(&thread, NULL, other_end, NULL) != 0) return 1;
    double least = 1e18;
    for (int i = 0; i < attempts; ++i) {
        double start = now_ns();
        for (int j = 0; j < trips; ++j) send_on(0);
        double took = (now_ns() - start) / trips;
        if (took < least) least = took;
    }
    pthread_join(thread, NULL);
    printf("%.0f\n", least);
    return 0;
}
