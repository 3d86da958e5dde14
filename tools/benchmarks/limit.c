// Limit: the least that a run queue of threads with stacks of their own can cost on x86-64.
//
// What a library adds to it is what copse is measured by. It has a circular list of control blocks
// that lie next to each other, asks for the one after next ahead of time, and switches straight
// from thread to thread. There are no errors, no deadlines, no guards and no poller in it. Stacks
// are coloured, and as far from each other as copse's are (128 KiB): the distance decides how many
// pages of the page table a round through 100,000 threads touches.
//
// It is built twice, for the two ways to switch:
//
//   call    a function that pushes the six registers a function has to keep, and returns
//   inline  assembly within yield(), which tells the compiler that every register is gone: it saves
//           only those that matter there, and the jump at its end is predicted place by place
#define _GNU_SOURCE
#include "figures.h"

#include <sys/mman.h>

enum { stride = 128 * 1024, colours = 24, colour = 128, stacks_a_slab = 1024 };

struct thread {
    void* sp;
    struct thread *next, *previous;
    void (*body)(long);
    long argument;
    char* top;
    long to_fill_a_line[2];
};

static struct thread* current;
static struct thread main_thread;

// The compiler must not look into a function that switches: it would carry what it knows about
// variables of this file over to the other side, where another thread has changed them.
#define SWITCHES __attribute__((noipa))

#ifdef SWITCH_INLINE
static inline __attribute__((always_inline)) void change(struct thread* from, struct thread* to) {
    register void** save __asm__("rdi") = &from->sp;
    register void** load __asm__("rsi") = &to->sp;
    __asm__ volatile("lea 1f(%%rip), %%rax\n\t"
                     "push %%rbp\n\t"
                     "push %%rax\n\t"
                     "mov %%rsp, (%%rdi)\n\t"
                     "mov (%%rsi), %%rsp\n\t"
                     "pop %%rax\n\t"
                     "pop %%rbp\n\t"
                     "jmp *%%rax\n\t"
                     "1:"
                     : "+r"(save), "+r"(load)
                     :
                     : "rax", "rbx", "rcx", "rdx", "r8", "r9", "r10", "r11", "r12", "r13", "r14",
                       "r15", "memory", "cc");
}
enum { saved_words = 1 };  // below the address to go on at, a thread that has not begun has these
#else
void limit_change(void** save, void* load);
__asm__(".text\n"
        ".p2align 4\n"
        "limit_change:\n"
        "  push %rbp\n  push %rbx\n  push %r12\n  push %r13\n  push %r14\n  push %r15\n"
        "  mov %rsp, (%rdi)\n"
        "  mov %rsi, %rsp\n"
        "  pop %r15\n  pop %r14\n  pop %r13\n  pop %r12\n  pop %rbx\n  pop %rbp\n"
        "  ret\n");
static void change(struct thread* from, struct thread* to) { limit_change(&from->sp, to->sp); }
enum { saved_words = 6 };
#endif

// The run queue: a ring through the current thread; its end is just before that one
// ----------------

static void make_ready(struct thread* thread) {
    thread->next = current;
    thread->previous = current->previous;
    current->previous->next = thread;
    current->previous = thread;
}

static void remove_from_ring(struct thread* thread) {
    thread->previous->next = thread->next;
    thread->next->previous = thread->previous;
}

SWITCHES static void yield(void) {
    struct thread *from = current, *to = from->next;
    current = to;
    __builtin_prefetch(to->next->next);
    __builtin_prefetch(to->next->sp);
    change(from, to);
}

SWITCHES static void park(void) {
    struct thread *from = current, *to = from->next;
    remove_from_ring(from);
    current = to;
    change(from, to);
}

// Threads -----------------------------------------------------------------------------------------

static struct thread* resting;  // ended; the last one's stack is still in the cache

static void* map(size_t size) {
    void* memory = mmap(NULL, size, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) {
        perror("mmap");
        exit(1);
    }
    madvise(memory, size, MADV_NOHUGEPAGE);  // or each stack would cost 2 MiB
    return memory;
}

static struct thread* make(void) {
    static struct thread* blocks;
    static char* slab;
    static long made;
    if (made % stacks_a_slab == 0) slab = map((size_t)stride * stacks_a_slab);
    if (made % 65536 == 0) blocks = map(sizeof(struct thread) * 65536);
    struct thread* thread = &blocks[made % 65536];
    thread->top = slab + (made % stacks_a_slab + 1) * stride - made % colours * colour;
    ++made;
    return thread;
}

SWITCHES static void run(void) {
    current->body(current->argument);
    struct thread *from = current, *to = from->next, nobody;
    remove_from_ring(from);
    from->next = resting;
    resting = from;
    current = to;
    change(&nobody, to);
    __builtin_unreachable();
}

static struct thread* spawn(void (*body)(long), long argument) {
    struct thread* thread = resting;
    if (thread)
        resting = thread->next;
    else
        thread = make();
    thread->body = body;
    thread->argument = argument;
    void** stack = (void**)(void*)thread->top;
    *--stack = NULL;  // run() has to find its stack as if it had been called
#ifdef SWITCH_INLINE
    *--stack = NULL;  // rbp comes after the address here
    *--stack = (void*)run;
#else
    *--stack = (void*)run;
    for (int i = 0; i < saved_words; ++i) *--stack = NULL;
#endif
    thread->sp = stack;
    make_ready(thread);
    return thread;
}

// Tests -------------------------------------------------------------------------------------------

static double scale = 1;
static long scaled(double operations) { return (long)(operations * scale) + 1; }

static struct thread** threads;
static long live, rounds, ran;

static void end_one(void) {
    if (--live == 0) make_ready(&main_thread);
}

static void yield_often(long unused) {
    (void)unused;
    park();
    for (long left = rounds; left > 0; --left) yield();
    end_one();
}

static double yields(long count) {
    rounds = share(scaled(2e7), count);
    live = count;
    for (long i = 0; i < count; ++i) threads[i] = spawn(yield_often, 0);
    yield();  // all run until they park: their stacks are there
    for (long i = 0; i < count; ++i) make_ready(threads[i]);
    double start = clock_ns();
    park();
    return (clock_ns() - start) / (double)rounds / (double)count;
}

static void count_one(long unused) {
    (void)unused;
    ++ran;
}

static double spawns(long batch) {
    long batches = share(scaled(5e6), batch);
    double start = 0;
    for (long i = -1; i < batches; ++i) {  // the first one warms up
        if (i == 0) start = clock_ns(), ran = 0;
        for (long j = 0; j < batch; ++j) spawn(count_one, 0);
        yield();
    }
    double took = clock_ns() - start;
    if (ran != batches * batch) exit(1);
    return took / (double)ran;
}

static void hand_over(long self) {
    park();
    for (long left = rounds; left > 0; --left) {
        make_ready(threads[!self]);
        park();
    }
    if (live == 2) make_ready(threads[!self]);
    end_one();
}

static double handoffs(void) {
    rounds = scaled(5e6);
    live = 2;
    for (long i = 0; i < 2; ++i) threads[i] = spawn(hand_over, i);
    yield();
    double start = clock_ns();
    make_ready(threads[0]);
    park();
    return (clock_ns() - start) / (double)rounds / 2;
}

static void only_park(long unused) {
    (void)unused;
    park();
}

static void parked_memory(long count) {
    struct Memory before = memory_now();
    double start = clock_ns();
    for (long i = 0; i < count; ++i) spawn(only_park, 0);
    yield();
    print_memory(before, count, (clock_ns() - start) * 1e-9);
}

int main(int words, char** word) {
    if (getenv("COPSE_BENCH_SCALE")) scale = atof(getenv("COPSE_BENCH_SCALE"));
    const char* test = words > 1 ? word[1] : "";
    long number = words > 2 ? atol(word[2]) : 2;
    threads = calloc((size_t)number + 2, sizeof *threads);
    if (!threads || number < 1) return 1;
    current = &main_thread;
    main_thread.next = main_thread.previous = &main_thread;
    if (strcmp(test, "yield") == 0)
        print_figure(yields(number));
    else if (strcmp(test, "spawn") == 0)
        print_figure(spawns(1));
    else if (strcmp(test, "spawn-batch") == 0)
        print_figure(spawns(number));
    else if (strcmp(test, "handoff") == 0)
        print_figure(handoffs());
    else if (strcmp(test, "memory") == 0)
        parked_memory(number);
    else {
        fputs("usage: copse-bench-limit-* yield|spawn|spawn-batch|handoff|memory [N]\n", stderr);
        return 2;
    }
    return 0;
}
