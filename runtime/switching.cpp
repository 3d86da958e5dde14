// From thread to thread: how one starts, gives way and ends, and the one place where stacks change.
#include "arch/context.h"
#include "runtime/loop.h"

namespace copse {

namespace {
// Ended threads' stacks that keep their pages while the loop is idle.
constexpr uint32_t most_warm = 256;
// Stacks whose pages are given back before the next look: an idle loop still answers quickly.
constexpr int trims_at_once = 256;

// Tops differ by a multiple of a cache line: 16 of them cost a parked thread no second page.
constexpr size_t colours = 16;
constexpr size_t colour_step = 64;

// The front of a ring, as a table is shown it.
struct Front : Candidates {
    const ReadyRing& ring;
    Front(const ReadyRing& of, uint32_t n) : Candidates{n, identity_of}, ring{of} {}
    static uint64_t identity_of(const Candidates& from, uint32_t index) {
        return detail::Access::handle(*static_cast<const Front&>(from).ring.at(index)).id();
    }
};
}  // namespace

// One of the first `count` in the ring: the very first, unless a table chooses otherwise.
inline ThreadBlock& Loop::take_from(ReadyRing& ring, uint32_t count) {
    if (system_->choose_thread) [[unlikely]]
        ring.bring_forward(system_->choose_thread(*system_, Front{ring, count}));
    return ring.pop();
}

inline ThreadBlock& Loop::granted() {
    --granted_;
    return queue_.pop();
}

inline void Loop::enter(ThreadBlock& next) {
    running_ = &next;
    next.state = State::running;
    ++switches_;
}

// Whether there is more to do than to change stacks.
inline bool Loop::special(const ThreadBlock& from, const ThreadBlock& to) const {
    return from.special | to.special | (exceptions_->caught != nullptr) | exceptions_->uncaught;
}

// Which thread next: one that the world has woken; else the next of this turn, while the budget
// lasts; a turn that left nothing to drain flows into the next one. Or home. Where no table chooses
// the answer is good for more than one: as many as the turn has left, or while it flows the budget.
inline ThreadBlock& Loop::pick() {
    if (!woken_.empty() && !system_->choose_thread && !granted_) return woken_.pop();
    return pick_from_many();
}

[[gnu::noinline]] ThreadBlock& Loop::pick_from_many() {
    budget_ += granted_;
    granted_ = 0;
    if (!woken_.empty()) return take_from(woken_, woken_.count());
    if (!budget_ || queue_.empty()) return home_;
    bool flows = looping_ && !drainables_;
    if (!turn_left_ && flows && !oddly()) begin_turn();
    uint32_t left = turn_left_;
    if (!left) return home_;
    if (system_->choose_thread) {
        --budget_;
        --turn_left_;
        return take_from(queue_, left);
    }
    if (flows) turn_left_ = 0;
    else turn_left_ -= left = left < budget_ ? left : budget_;
    granted_ = flows ? budget_ : left;
    budget_ -= granted_--;
    return queue_.pop();
}

// The one way out of a thread; the caller has put it where it will be found again. It has a fast
// lane, and whatever is seldom lies off it, in functions of their own: no register is saved twice.
void Loop::leave(ThreadBlock& self) {
    if (!granted_ || queue_.empty()) [[unlikely]] return leave_to_picked(self);
    dispatch(self, granted());
}

[[gnu::noinline]] void Loop::leave_to_picked(ThreadBlock& self) { dispatch(self, pick()); }

// The same for a thread that has ended: the context that goes on in its place. In the child of a
// fork only the thread that forked goes on: nobody comes after it. A sanitizer that was told of the
// switch must see no return on the old stack.
void* Loop::leave_for_ever(ThreadBlock& self) {
    ThreadBlock& next = forked() ? home_ : granted_ && !queue_.empty() ? granted() : pick();
    enter(next);
    if (special(self, next)) [[unlikely]] change_special(self, next);
    if (sanitizer::watches) change_stack(self, next, true);
    return next.sp;
}

// The one way in: runs what is ready until home is picked again.
void Loop::run_ready() {
    budget_ = dispatch_budget;
    granted_ = 0;
    ThreadBlock& next = pick();
    if (&next == &home_) return;
    dispatch(home_, next);
    --switches_;  // the one that came home: no thread was dispatched
}

// The first bytes to be drained end a turn that flows: who is ready now still belongs to it.
void Loop::end_flow() {
    if (granted_ <= queue_.count()) return;
    budget_ += granted_ - queue_.count();
    granted_ = queue_.count();
}

inline void Loop::dispatch(ThreadBlock& from, ThreadBlock& to) {
    enter(to);
    if (&from == &to) return;
    if (special(from, to)) [[unlikely]] return change_stack_and_more(from, to);
    change_stack(from, to, false);
}

[[gnu::noinline]] void Loop::change_stack_and_more(ThreadBlock& from, ThreadBlock& to) {
    change_special(from, to);
    change_stack(from, to, false);
}

// One call site for every switch there is, so that its return is predicted.
[[gnu::noinline]] void Loop::change_stack(ThreadBlock& from, ThreadBlock& to, bool ends) {
    int kept_errno = *errno_;
#if defined(COPSE_ASAN)
    left_ = &from;
#endif
    sanitizer::leaving(from, to, &to == &home_ ? home_bounds_ : sanitizer::bounds_of(to), ends);
    copse_switch(&from.sp, to.sp);
    sanitizer::arrived(from, left_ == &home_ ? &home_bounds_ : nullptr);
    *errno_ = kept_errno;
}

// What few threads need: exceptions in flight stay with their thread, a floating-point environment
// of its own is put in force, a stack without a guard is looked at.
void Loop::change_special(ThreadBlock& from, ThreadBlock& to) {
    if ((from.special & ThreadBlock::canary) && !Stacks::painted(from.stack)) die_of_overflow(from);
    if ((from.special | to.special) & ThreadBlock::own_fp) {
        uint64_t& leaving = from.special & ThreadBlock::own_fp ? from.details->fp_environment : home_fp_;
        leaving = copse_fp_environment();
        copse_set_fp_environment(to.special & ThreadBlock::own_fp ? to.details->fp_environment
                                                                  : home_fp_);
    }
    if (exceptions_->any()) {
        from.details->in_flight = *exceptions_;
        from.special |= ThreadBlock::exceptions;
    }
    *exceptions_ = to.special & ThreadBlock::exceptions ? to.details->in_flight : ExceptionState{};
    to.special &= uint8_t(~ThreadBlock::exceptions);
}

// A thread's whole life: its context begins here, and what this returns goes on in its place.
void* Loop::begin_thread(void* block) {
    auto& self = *static_cast<ThreadBlock*>(block);
    Loop& loop = *current_;
    sanitizer::arrived(self, loop.left_ == &loop.home_ ? &loop.home_bounds_ : nullptr);
    self.details->body(self.details->room);
    return loop.finish(self);
}

// The block may be used again as soon as somebody else runs, and nobody does before the switch: so
// the thread can retire its own stack while it still stands on it.
void* Loop::finish(ThreadBlock& self) {
    if (self.details->locals) [[unlikely]] detail::end_locals(self.details->locals);
    fire_all(self.joiners);
    SlotTable<ThreadBlock>::renew(self);
    --live_;
    retire(self);
    return leave_for_ever(self);
}

// Stacks in and out of use ------------------------------------------------------------------------

void Loop::retire(ThreadBlock& block) {
    block.state = State::free;
    block.next = warm_[block.stack.size_class];
    warm_[block.stack.size_class] = &block;
    ++warm_count_;
}

// Whatever a thread may come to be in has room for so many: neither arming nor waking can fail.
bool Loop::make_room(uint32_t threads) {
    return deadlines_.reserve(threads) && woken_.reserve(threads) && queue_.reserve(threads);
}

// A block with a stack of that class: the last one used, or one whose pages were given back, or a
// new one; null: no memory.
inline ThreadBlock* Loop::take_block(uint32_t size_class) {
    ThreadBlock* block = warm_[size_class];
    if (!block) [[unlikely]] return make_block(size_class);
    warm_[size_class] = block->next;
    --warm_count_;
    return block;
}

ThreadBlock* Loop::make_block(uint32_t size_class) {
    if (ThreadBlock* block = cold_[size_class]) {
        cold_[size_class] = block->next;
        return block;
    }
    if (!make_room(blocks_.size() + 1)) return nullptr;
    ThreadBlock* block = bare_;
    if (block) bare_ = block->next;
    else block = blocks_.carve();
    if (!block) return nullptr;
    block->stack = stacks_.carve(size_class);
    if (!block->stack.base) {
        block->next = bare_;
        bare_ = block;
        return nullptr;
    }
    block->special = block->stack.guard == Guard::canary ? ThreadBlock::canary : 0;
    block->stack.valgrind_id = sanitizer::register_stack(block->stack);
    char* top = block->stack.top() - (block->slot % colours) * colour_step;
    block->details = reinterpret_cast<ThreadDetails*>(top) - 1;
    return block;
}

Result<ThreadBlock*> Loop::reserve(const ThreadOptions& options) {
    if (forked()) [[unlikely]] return {nullptr, Error::forked};
    uint32_t size_class =
        options.stack_size ? Stacks::class_of(options.stack_size) : Stacks::default_class();
    if (size_class == Stacks::classes) return {nullptr, Error::invalid};
    ThreadBlock* block = take_block(size_class);
    if (!block) [[unlikely]] return {nullptr, Error::no_memory};
    sanitizer::begin(*block);
    // What the last one to stand there has left; the rest is set by who needs it, or went with it.
    block->special &= ThreadBlock::canary;
    block->timed_out = block->permit = block->awaits_permit = false;
    block->refusals = 0;
    block->canceled = ending_;
    block->scope_end = INT64_MAX;
    ThreadDetails* details = block->details;
    details->handler.function = nullptr;
    details->locals = nullptr;
    details->name[0] = 0;
    if (options.name) copy_name(details->name, options.name);
    if (options.own_fp_environment) {
        block->special |= ThreadBlock::own_fp;
        details->fp_environment = copse_fp_environment();
    }
    return {block, Error::none};
}

// Where a closure of this size goes: right below the details.
void* Loop::place_closure(ThreadBlock& block, size_t size, size_t alignment) {
    if (size > block.stack.size() / 2 || alignment > block.stack.size() / 4) return nullptr;
    if (alignment < 16) alignment = 16;
    uintptr_t place = (uintptr_t(block.details) - size) & ~uintptr_t(alignment - 1);
    return block.details->room = reinterpret_cast<void*>(place);
}

void Loop::launch(ThreadBlock& block) {
    block.sp = copse_prepare(block.details->room, begin_thread, &block);
    block.state = State::ready;
    ++live_;
    queue_.append(block);
}

void Loop::abandon(ThreadBlock& block) {
    SlotTable<ThreadBlock>::renew(block);
    retire(block);
}

// Gives back the pages of stacks beyond the cap, some at a time; true: there is more to do.
bool Loop::trim_stacks() {
    int left = trims_at_once;
    for (uint32_t i = 0; i < Stacks::classes && warm_count_ > most_warm; ++i) {
        for (; warm_[i] && warm_count_ > most_warm && left > 0; --left) {
            ThreadBlock* block = take_block(i);
            system_->discard(*system_, block->stack.base, block->stack.size());
            if (block->stack.guard == Guard::canary) Stacks::paint(block->stack);
            block->next = cold_[i];
            cold_[i] = block;
        }
    }
    return warm_count_ > most_warm;
}

}  // namespace copse
