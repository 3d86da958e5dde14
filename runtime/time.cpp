#include <copse/time.h>

#include "runtime/loop.h"

namespace copse {

Time now() {
    if (Loop* loop = Loop::current()) return Time::at(loop->now());
    const System& system = system_to_use();
    return Time::at(system.now(system));
}

uint64_t random() {
    if (Result<Loop*> loop = Loop::obtain()) return loop.value->random();
    uint64_t bits = 0;
    const System& system = system_to_use();
    system.random(system, &bits, sizeof bits);
    return bits;
}

// A Timeout shortens what is left of its thread's time, and gives it back what it had.
static ThreadBlock* thread_of(Loop* loop) { return loop ? loop->running_thread() : nullptr; }

Timeout::Timeout(Duration length) : outer_{Time::never()} {
    Loop* loop = Loop::current();
    end_ = (loop ? Time::at(loop->now()) : now()) + length;
    ThreadBlock* thread = thread_of(loop);
    if (!thread) return;
    outer_ = Time::at(thread->scope_end);
    if (end_ < outer_) thread->scope_end = end_.count();
}

Timeout::~Timeout() {
    if (ThreadBlock* thread = thread_of(Loop::current())) thread->scope_end = outer_.count();
}

bool Timeout::expired() const { return left() == Duration{}; }

Duration Timeout::left() const {
    Time nearest = end_ < outer_ ? end_ : outer_;
    if (nearest == Time::never()) return never;
    Duration rest = nearest - now();
    return rest > Duration{} ? rest : Duration{};
}

}  // namespace copse
