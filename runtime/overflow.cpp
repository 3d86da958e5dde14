#include "runtime/overflow.h"

#include "runtime/loop.h"

namespace copse {

namespace {
bool wanted = true;  // set before the first loop is made, read after
}

void setoverflowreport(bool on) { wanted = on; }

void Overflow::catch_here(const System& system) {
    if (wanted) system.catch_faults(system, on_fault);
}

void Overflow::drop_here(const System& system) {
    if (wanted) system.drop_faults(system);
}

bool Overflow::on_fault(void* address) {
    Loop* loop = Loop::current();
    if (!loop) return false;
    const ThreadBlock& thread = *loop->running_;
    auto* at = static_cast<char*>(address);
    char* base = thread.stack.base;
    if (!base || at >= base || at < base - Stacks::guard_size) return false;
    report(loop->system(), thread);
    return true;
}

void Overflow::report(const System& system, const ThreadBlock& thread) {
    Text<256> line;
    line.add("copse: stack overflow in thread \"");
    if (thread.details->name[0]) line.add(thread.details->name);
    else line.add("thread_").add(thread.slot);
    line.add("\": all of its ").add(thread.stack.size()).add(" bytes are used; added by code at 0x");
    line.add(uintptr_t(thread.details->spawned_by), 16).add("\n");
    system.write_all(system, 2, line.c_str(), line.size());
}

// For stacks whose only guard is painted: found when the thread is switched out.
void Loop::die_of_overflow(ThreadBlock& thread) {
    Overflow::report(*system_, thread);
    fatal(__FILE__, __LINE__, "the painted end of the stack unharmed");
}

}  // namespace copse
