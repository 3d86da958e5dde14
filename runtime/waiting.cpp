// Parking and waking: threads, deadlines, descriptors.
#include "runtime/loop.h"

namespace copse {

// A thread that may not wait any more still gives way, so that one that ignores the answer cannot
// hold up the others. That a scope is over is told by the clock as the last look read it; it is read
// anew for whoever asks a second time without having given way. So a wait in a scope costs no reading,
// and a thread that goes on and on without waiting still hears of the end in time.
Error Loop::admit_slowly() {
    ThreadBlock& self = *running_;
    if (forked()) return Error::forked;
    if (&self == &home_) return Error::not_a_thread;
    Error error = Error::none;
    if (self.canceled) {
        error = Error::canceled;
        if (self.refusals < patience && ++self.refusals == patience)
            report(&self, ignores_cancellation);
    } else {
        if (asked_at_ == switches_) read_clock();
        asked_at_ = switches_;
        if (time_ >= self.scope_end) error = Error::timeout;
    }
    if (error) (void)yield();
    return error;
}

void Loop::cancel(ThreadBlock& thread) {
    thread.canceled = true;
    if (thread.state == State::parked) make_ready(thread);
}

void Loop::cancel_all() {
    for (uint32_t i = 0; i < blocks_.size(); ++i)
        if (blocks_.at(i)->exists()) cancel(*blocks_.at(i));
}

// Descriptors -------------------------------------------------------------------------------------

Result<Watch*> Loop::watch(int fd, uint32_t ready) {
    if (forked()) return {nullptr, Error::forked};
    Watch* watch = free_watches_;
    if (watch) free_watches_ = watch->next_free;
    else watch = watches_.carve();
    if (!watch) return {nullptr, Error::no_memory};
    watch->ready = ready;
    watch->on_writable = nullptr;
    int failed = system_->poller_add(*system_, poller_, fd, watch->token());
    if (failed) {
        watch->next_free = free_watches_;
        free_watches_ = watch;
        if (failed == -EPERM) return {nullptr, Error::unsupported};
        if (failed == -EEXIST) return {nullptr, Error::busy};
        return {nullptr, Error::from_errno(-failed)};
    }
    watch->fd = fd;
    ++watched_;
    return {watch, Error::none};
}

void Loop::unwatch(Watch& watch) {
    if (!forked()) system_->poller_remove(*system_, poller_, watch.fd);
    SlotTable<Watch>::renew(watch);
    watch.fd = -1;
    watch.ready = 0;
    watch.on_writable = nullptr;
    --watched_;
    disturb(watch);
    watch.next_free = free_watches_;
    free_watches_ = &watch;
}

void Loop::disturb(Watch& watch) {
    while (Waiter* reader = watch.readers.first()) make_ready(*reader->thread);
    while (Waiter* writer = watch.writers.first()) make_ready(*writer->thread);
}

Error Loop::wait_either(Watch& watch, Events wanted, const Wait& wait, Events& got) {
    uint32_t readable = PollEvent::readable | PollEvent::hangup;
    bool reads = (wanted & Events::readable) != Events::none;
    bool writes = (wanted & Events::writable) != Events::none;
    Waiter reader{running_};
    Waiter writer{running_, &reader};
    if (reads) watch.readers.append(reader);
    if (writes) watch.writers.append(writer);
    Error error = park({wait.what, wait.deadline, watch.fd}, &writer);
    if (reads && (watch.ready & readable)) got = got | Events::readable;
    if (writes && (watch.ready & PollEvent::writable)) got = got | Events::writable;
    return error;
}

}  // namespace copse
