// Figures: what every benchmark program needs: a clock, the process's memory, one way to print.
//
// A program is called as `program <test> [number]`, measures that one thing, and prints one figure
// on standard output: nanoseconds an operation, or KiB a thread. What it has to say besides goes to
// standard error, after a '#'. Programs in C and in C++ use it.
#pragma once

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static inline double clock_ns(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1e9 + (double)time.tv_nsec;
}

static inline void print_figure(double figure) { printf("%.3f\n", figure); }

// So many operations altogether, shared by so many threads: how often each does it.
static inline long share(long operations, long threads) {
    long each = operations / threads;
    return each < 3 ? 3 : each;
}

struct Memory {
    double virtual_kib, resident_kib;
    long mappings;
};

static inline struct Memory memory_now(void) {
    struct Memory memory = {0, 0, 0};
    double page_kib = (double)sysconf(_SC_PAGESIZE) / 1024;
    FILE* file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%lf %lf", &memory.virtual_kib, &memory.resident_kib) != 2) abort();
    fclose(file);
    memory.virtual_kib *= page_kib;
    memory.resident_kib *= page_kib;
    file = fopen("/proc/self/maps", "r");
    for (int c; file && (c = getc(file)) != EOF;) memory.mappings += c == '\n';
    if (file) fclose(file);
    return memory;
}

// What so many threads have cost since `before`.
static inline void print_memory(struct Memory before, long threads, double seconds) {
    struct Memory after = memory_now();
    print_figure((after.resident_kib - before.resident_kib) / (double)threads);
    fprintf(stderr, "# %ld threads, %.3f KiB of addresses each, %ld mappings, %.2f s\n", threads,
            (after.virtual_kib - before.virtual_kib) / (double)threads, after.mappings, seconds);
}

static inline int by_size(const void* a, const void* b) {
    double left = *(const double*)a, right = *(const double*)b;
    return (left > right) - (left < right);
}

static inline double median_of(double* values, size_t count) {
    qsort(values, count, sizeof *values, by_size);
    return values[count / 2];
}
