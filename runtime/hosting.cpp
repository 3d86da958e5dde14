#include "runtime/hosting.h"

#include "arch/context.h"
#include "runtime/invariants.h"
#include "runtime/loop.h"

#include <errno.h>

extern "C" copse::ExceptionState* __cxa_get_globals() noexcept __attribute__((weak));

namespace copse {

Strand::~Strand() { sanitizer::end(inside_); }

void Strand::begin(const Stack& stack, const System& system, void (*entry)(void*),
                   void* argument) {
    system_ = &system;
    entry_ = entry;
    argument_ = argument;
    inside_.stack = stack;
    sanitizer::begin(inside_);
    inside_.sp = copse_prepare(stack.top(), arrive, this);
}

void* Strand::arrive(void* strand) {
    Strand& self = *static_cast<Strand*>(strand);
    sanitizer::arrived(self.inside_, &self.outside_bounds_);
    self.entry_(self.argument_);
    self.leave(true);
    __builtin_unreachable();
}

void Strand::exchange() {
    Loop* loop = Loop::current_;
    Loop::current_ = loop_;
    loop_ = loop;
    const System* system = chosen_system();
    use_system(system_);
    system_ = system;
    if (&__cxa_get_globals) {
        ExceptionState kept = *__cxa_get_globals();
        *__cxa_get_globals() = exceptions_;
        exceptions_ = kept;
    }
    int kept = errno;
    errno = errno_;
    errno_ = kept;
}

void Strand::enter() {
    exchange();
    running_ = true;
    sanitizer::leaving(outside_, inside_, sanitizer::bounds_of(inside_), false);
    copse_switch(&outside_.sp, inside_.sp);
    sanitizer::arrived(outside_, nullptr);
    running_ = false;
    exchange();
}

void Strand::leave(bool ends) {
    sanitizer::leaving(inside_, outside_, outside_bounds_, ends);
    copse_switch(&inside_.sp, outside_.sp);
    sanitizer::arrived(inside_, &outside_bounds_);
}

void Strand::visit(void (*fn)(void*), void* context) {
    exchange();
    fn(context);
    exchange();
}

const char* first_broken_invariant() {
    Loop* loop = Loop::current();
    if (!loop) return nullptr;
    if (const char* broken = Invariants{*loop}.first_broken()) return broken;
    return loop->part ? loop->part->first_broken(*loop->part) : nullptr;
}

const char* ask_about_watches(const char* (*question)(void*, const Watched&), void* context) {
    Loop* loop = Loop::current();
    return loop ? Invariants{*loop}.ask_about_watches(question, context) : nullptr;
}

}  // namespace copse
