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

// The thread's nearest end, or null outside a thread.
static int64_t* scope_end() {
    Loop* loop = Loop::current();
    ThreadBlock* thread = loop ? loop->running_thread() : nullptr;
    return thread ? &thread->scope_end : nullptr;
}

Timeout::Timeout(Duration length) : end_{now() + length}, outer_{Time::never()} {
    int64_t* scope = scope_end();
    if (!scope) return;
    outer_ = Time::at(*scope);
    if (end_ < outer_) *scope = end_.count();
}

Timeout::~Timeout() {
    if (int64_t* scope = scope_end()) *scope = outer_.count();
}

bool Timeout::expired() const { return left() == Duration{}; }

Duration Timeout::left() const {
    Time nearest = end_ < outer_ ? end_ : outer_;
    if (nearest == Time::never()) return never;
    Duration rest = nearest - now();
    return rest > Duration{} ? rest : Duration{};
}

}  // namespace copse
