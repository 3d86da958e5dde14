// The public verbs of threads and loops, put in terms of the Loop.
#include <copse/thread.h>

#include "runtime/loop.h"

namespace copse {

namespace {

ThreadBlock* block_of(Thread handle) {
    Loop* loop = Loop::current();
    return loop ? loop->find(handle) : nullptr;
}

ThreadBlock* running_thread() {
    Loop* loop = Loop::current();
    return loop ? loop->running_thread() : nullptr;
}

}  // namespace

// Handles -----------------------------------------------------------------------------------------

Error Thread::join() const {
    Loop* loop = Loop::current();
    if (!loop) return Error::not_a_thread;
    if (Error error = loop->admit()) return error;
    ThreadBlock* target = loop->find(*this);
    if (!target) return Error::none;
    if (target == loop->running_thread()) return Error::deadlock;
    Waiter waiter{loop->running_thread()};
    target->joiners.append(waiter);
    Error error = loop->park({.what = "join"}, &waiter);
    return finished() ? Error::none : error;
}

Error Thread::cancel() const {
    ThreadBlock* target = block_of(*this);
    if (!target) return Error::none;
    if (Loop::current()->forked()) return Error::forked;
    Loop::current()->cancel(*target);
    return Error::none;
}

Error Thread::unpark() const {
    ThreadBlock* target = block_of(*this);
    if (!target) return Error::destroyed;
    if (Loop::current()->forked()) return Error::forked;
    Loop::current()->unpark(*target);
    return Error::none;
}

bool Thread::finished() const { return !block_of(*this); }

const char* Thread::name() const {
    ThreadBlock* target = block_of(*this);
    if (!target) return "";
    char(&name)[sizeof target->details->name] = target->details->name;
    if (!name[0]) copy_name(name, Text<sizeof name>{}.add("thread_").add(target->slot).c_str());
    return name;
}

void Thread::setname(const char* name) const {
    if (ThreadBlock* target = block_of(*this)) copy_name(target->details->name, name);
}

size_t Thread::stack_used() const {
    ThreadBlock* target = block_of(*this);
    return target ? stack_use(Loop::current()->system(), target->stack) : 0;
}

size_t Thread::stack_size() const {
    ThreadBlock* target = block_of(*this);
    return target ? target->stack.size() : 0;
}

// Adding ------------------------------------------------------------------------------------------

namespace detail {

Result<Reserved> reserve_thread(const ThreadOptions& options, size_t size, size_t alignment) {
    Result<Loop*> loop = Loop::obtain();
    if (!loop) return {{}, loop.error};
    Result<ThreadBlock*> block = loop.value->reserve(options);
    if (!block) return {{}, block.error};
    block.value->details->spawned_by = __builtin_return_address(0);
    void* room = loop.value->place_closure(*block.value, size, alignment);
    Thread handle = Access::handle(*block.value);
    if (!room) {
        loop.value->abandon(*block.value);
        return {{}, Error::invalid};
    }
    return {{handle, room}, Error::none};
}

static ThreadBlock& reserved_block(Thread thread) {
    return Loop::current()->thread_at(Access::slot(thread));
}

void launch_thread(Thread thread, void (*body)(void*)) {
    ThreadBlock& block = reserved_block(thread);
    block.details->body = body;
    Loop::current()->launch(block);
}

void abandon_thread(Thread thread) { Loop::current()->abandon(reserved_block(thread)); }

void thread_failed(const char* what) {
    Loop::current()->report(running_thread(), what);
}

}  // namespace detail

// The running thread ------------------------------------------------------------------------------

Thread self() {
    ThreadBlock* block = running_thread();
    return block ? detail::Access::handle(*block) : Thread{};
}

bool inthread() { return running_thread() != nullptr; }

Error yield() {
    Loop* loop = Loop::current();
    if (!loop) return Error::not_a_thread;
    if (Error error = loop->admit()) return error;
    return loop->yield();
}

Error sleep_until(Time end) {
    Loop* loop = Loop::current();
    if (!loop) return Error::not_a_thread;
    if (Error error = loop->admit()) return error;
    ThreadBlock& self = *loop->running_thread();
    Error error = loop->park({.what = "sleep", .deadline = end.count()});
    // Its own deadline is what a sleeper waits for; an enclosing one that came first is a timeout.
    return error == Error::timeout && end.count() <= self.scope_end ? Error::none : error;
}

Error sleep_for(Duration length) {
    if (length <= Duration{}) return yield();
    return sleep_until(now() + length);
}

Error park() {
    Loop* loop = Loop::current();
    if (!loop) return Error::not_a_thread;
    if (Error error = loop->admit()) return error;
    ThreadBlock& self = *loop->running_thread();
    Error error = Error::none;
    if (!self.permit) {
        self.awaits_permit = true;
        error = loop->park({.what = "park"});
        self.awaits_permit = false;
    }
    if (!self.permit) return error;
    self.permit = false;
    return Error::none;
}

Error detail::set_error_handler(ErrorHandler handler, HandlerCaller call, void* context,
                                bool default_for_all) {
    if (default_for_all) {
        Result<Loop*> loop = Loop::obtain();
        if (loop) loop.value->set_handler({handler, call, context});
        return loop.error;
    }
    ThreadBlock* block = running_thread();
    if (!block) return Error::not_a_thread;
    block->details->handler = {handler, call, context};
    return Error::none;
}

// Locals ------------------------------------------------------------------------------------------

// Of one value of a Local<T>; lies right below it.
struct LocalValue {
    LocalValue* older;
    const void* key;
    void (*destroy)(void*);
    void* memory;  // as it was allocated: the T may want a higher alignment
    size_t size;

    void* value() { return this + 1; }
    static LocalValue* of(void* value) { return static_cast<LocalValue*>(value) - 1; }
};

namespace detail {

void* local_find(const void* key) {
    ThreadBlock* block = running_thread();
    for (LocalValue* each = block ? block->details->locals : nullptr; each; each = each->older)
        if (each->key == key) return each->value();
    return nullptr;
}

void* local_room(size_t size, size_t alignment) {
    if (!running_thread()) return nullptr;
    if (alignment < alignof(LocalValue)) alignment = alignof(LocalValue);
    size_t whole = sizeof(LocalValue) + alignment + size;
    void* memory = Loop::current()->allocate(whole);
    if (!memory) return nullptr;
    uintptr_t first = uintptr_t(memory) + sizeof(LocalValue);
    auto* room = reinterpret_cast<void*>((first + alignment - 1) & ~uintptr_t(alignment - 1));
    *LocalValue::of(room) = {nullptr, nullptr, nullptr, memory, whole};
    return room;
}

void local_add(void* room, const void* key, void (*destroy)(void*)) {
    LocalValue* made = LocalValue::of(room);
    made->key = key;
    made->destroy = destroy;
    LocalValue*& newest = running_thread()->details->locals;
    made->older = newest;
    newest = made;
}

void local_drop(void* room) {
    LocalValue* made = LocalValue::of(room);
    Loop::current()->release(made->memory, made->size);
}

// Newest first; a destructor may use, and even make, other locals.
void end_locals(LocalValue*& locals) {
    while (LocalValue* newest = locals) {
        locals = newest->older;
        newest->destroy(newest->value());
        local_drop(newest->value());
    }
}

}  // namespace detail

// The loop ----------------------------------------------------------------------------------------

Error loop(Duration step_timeout) {
    Result<Loop*> mine = Loop::obtain();
    return mine ? mine.value->run(step_timeout) : mine.error;
}

Result<bool> step(Duration timeout) {
    Result<Loop*> mine = Loop::obtain();
    if (!mine) return {false, mine.error};
    return mine.value->step(timeout);
}

Error detail::may_loop() {
    bool within = Loop::current() && Loop::current()->busy_running();
    return within ? Error::already_running : Error::none;
}

bool running() { return Loop::current() && Loop::current()->in_loop(); }
bool finished() { return !Loop::current() || Loop::current()->finished(); }

void stop() {
    if (Loop::current()) Loop::current()->stop();
}
bool stopping() { return Loop::current() && Loop::current()->stopping(); }
Error wait_for_stop() {
    return Loop::current() ? Loop::current()->wait_for_stop() : Error::not_a_thread;
}

void cancelall() {
    if (!Loop::current()) return;
    Loop::current()->cancel_all();
    Loop::current()->stop();
}

Error destroy_loop() { return Loop::destroy(); }
Error after_fork() { return Loop::current() ? Loop::current()->rejoin_after_fork() : Error::none; }

void setspin(Duration at_most) {
    if (Result<Loop*> loop = Loop::obtain()) loop.value->set_spin(at_most.count());
}

Status status() { return Loop::current() ? Loop::current()->status() : Status{}; }

void dump(int fd) {
    if (Loop::current()) Loop::current()->dump(fd);
}

Result<Events> wait(int fd, Events wanted, Duration timeout) {
    Loop* loop = Loop::current();
    if (!loop) return {Events::none, Error::not_a_thread};
    if (Error error = loop->admit()) return {Events::none, error};
    if (fd < 0) return {Events::none, Error::from_errno(EBADF)};
    if (wanted == Events::none) return {Events::none, Error::invalid};
    Result<Watch*> watch = loop->watch(fd, 0);
    if (!watch) return {Events::none, watch.error};
    Events got = Events::none;
    Error error = loop->wait_either(**watch, wanted, {"wait", (now() + timeout).count()}, got);
    loop->unwatch(**watch);
    return {got, got == Events::none ? error : Error::none};
}

}  // namespace copse
