// What the loop tells a person: failures, counts, and who waits for what.
#include "runtime/loop.h"

namespace copse {

namespace {

using Line = Text<256>;

void add_name(Line& line, const ThreadBlock& thread) {
    if (thread.details->name[0]) line.add(thread.details->name);
    else line.add("thread_").add(thread.slot);
}

const char* word_of(State state) {
    switch (state) {
    case State::ready: return "ready";
    case State::running: return "running";
    case State::parked: return "parked";
    case State::free: break;
    }
    return "finished";
}

const char* word_of(Guard guard) {
    switch (guard) {
    case Guard::kernel: return "kernel guard";
    case Guard::mprotect: return "mprotect";
    case Guard::canary: break;
    }
    return "canary";
}

void add_wait(Line& line, const ThreadBlock& thread, int64_t now) {
    line.add(thread.waits_for ? thread.waits_for : "nothing");
    if (thread.waits_on >= 0) line.add(" fd ").add(uint64_t(thread.waits_on));
    int64_t ms = (now - thread.since) / 1000000;
    line.add(" for ").add(uint64_t(ms < 0 ? 0 : ms)).add(" ms");
}

void describe(Line& line, const System& system, const ThreadBlock& thread, int64_t now) {
    line.add(detail::Access::handle(thread).id()).add(" ");
    add_name(line, thread);
    line.add(" ").add(word_of(thread.state));
    if (thread.state == State::parked) {
        line.add(" in ");
        add_wait(line, thread, now);
    }
    if (thread.canceled) line.add(" canceled");
    line.add(" stack ").add(stack_use(system, thread.stack)).add("/").add(thread.stack.size());
    line.add("\n");
}

}  // namespace

// Page by page from below: what lies in memory and was never written is still zero. Other frames
// are looked into, which AddressSanitizer would take for a mistake.
COPSE_NO_ASAN size_t stack_use(const System& system, const Stack& stack) {
    const size_t page = system.page_size(system);
    const char* byte = stack.base + (stack.guard == Guard::canary ? Stacks::canary_size : 0);
    while (byte < stack.top()) {
        byte += system.lowest_resident(system, byte, size_t(stack.top() - byte));
        const char* end = reinterpret_cast<const char*>((uintptr_t(byte) | (page - 1)) + 1);
        if (end > stack.top()) end = stack.top();
        for (; byte < end; ++byte)
            if (*byte) return size_t(stack.top() - byte);
    }
    return 0;
}

// To the thread's own handler, else to the loop's, else a line on standard error.
void Loop::report(ThreadBlock* thread, const char* what) {
    const Handler handler = thread && thread->details->handler.function ? thread->details->handler : handler_;
    Thread handle = thread ? detail::Access::handle(*thread) : Thread{};
    if (handler.function && handler.call(handler.function, handle, what, handler.context)) return;
    Line line;
    line.add("copse: ").add(what);
    if (thread) {
        line.add(" (thread: ");
        add_name(line, *thread);
        line.add(")");
    }
    if (handler.function) line.add(" (and the error handler threw an exception)");
    line.add("\n");
    system_->write_all(*system_, 2, line.c_str(), line.size());
}

// One report that names every thread left and what it waits for.
void Loop::report_deadlock() {
    Text<4096> text;
    text.add("deadlock: nothing can wake");
    int64_t time = now();
    for (uint32_t i = 0; i < blocks_.size(); ++i) {
        ThreadBlock& thread = *blocks_.at(i);
        if (!thread.exists()) continue;
        Line line;
        line.add("\n  ");
        add_name(line, thread);
        line.add(" in ");
        add_wait(line, thread, time);
        text.add(line.c_str(), line.size());
    }
    report(nullptr, text.c_str());
}

Status Loop::status() {
    Status s;
    for (uint32_t i = 0; i < blocks_.size(); ++i) {
        const ThreadBlock& thread = *blocks_.at(i);
        switch (thread.state) {
        case State::ready: case State::running: ++s.ready; break;
        case State::parked:
            if (thread.waits_on >= 0) ++s.waiting;
            else if (thread.deadline != INT64_MAX) ++s.sleeping;
            else ++s.parked;
            break;
        case State::free: break;
        }
    }
    s.descriptors = watched_;
    s.buffered = unsent_;
    s.lost = lost_;
    s.allocations = allocations_;
    s.turns = turns_;
    s.switches = switches_;
    s.polls = polls_;
    if (turns_timed_) {
        s.turn_min = Duration::nanoseconds(turn_min_);
        s.turn_max = Duration::nanoseconds(turn_max_);
        s.turn_avg = Duration::nanoseconds(turn_total_ / int64_t(turns_timed_));
    }
    s.guard = word_of(stacks_.guard());
    s.poller = system_->poller_name;
    return s;
}

void Loop::dump(int fd) {
    int64_t time = now();
    for (uint32_t i = 0; i < blocks_.size(); ++i) {
        const ThreadBlock& thread = *blocks_.at(i);
        if (!thread.exists()) continue;
        Line line;
        describe(line, *system_, thread, time);
        system_->write_all(*system_, fd, line.c_str(), line.size());
    }
}

}  // namespace copse
