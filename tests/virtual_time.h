// VirtualTime: a system table whose clock moves only when it is told to or when the loop sleeps.
//
// A wait takes no time: where nothing is ready, the clock jumps to the wait's end. So a test may
// sleep for a year, and no test depends on how fast the machine is. Everything else asks the real
// kernel, and every wait is written down. Made before the loop, which it takes down in the end.
#pragma once

#include "runtime/system.h"
#include "test.h"

#include <copse/loop.h>

#include <functional>
#include <vector>

namespace test {

struct VirtualTime : copse::System {
    mutable int64_t time = 1'000'000'000'000;
    mutable std::vector<int64_t> waits;  // what the poller was asked to wait, where not nothing
    mutable size_t looks = 0;            // how often it was asked not to wait
    mutable size_t questions = 0;        // how often the clock was read
    // What the rest of the world does while the loop sleeps: write to a descriptor, say.
    mutable std::function<void(int64_t timeout)> meanwhile;
    int64_t interrupts = 0;  // no wait lasts longer than this; 0: no signal comes
    int64_t lateness = 0;    // how much longer a wait takes than it was asked to
    int64_t tick = 0;        // how much passes each time somebody reads the clock

    VirtualTime() : System{copse::production_system} {
        now = [](const System& system) {
            ++self(system).questions;
            self(system).time += self(system).tick;
            return self(system).time;
        };
        poller_wait = wait;
        copse::use_system(this);
    }
    ~VirtualTime() {
        (void)copse::destroy_loop();
        copse::use_system(nullptr);
    }
    VirtualTime(const VirtualTime&) = delete;
    VirtualTime& operator=(const VirtualTime&) = delete;

    void pass(copse::Duration length) const { time = copse::Duration::add(time, length.count()); }
    copse::Time at() const { return copse::Time::at(time); }

  private:
    static const VirtualTime& self(const System& system) {
        return static_cast<const VirtualTime&>(system);
    }

    static int wait(const System& system, copse::Poller* poller, copse::PollEvent* events,
                    int capacity, int64_t timeout) {
        const VirtualTime& self = VirtualTime::self(system);
        if (timeout == 0) ++self.looks;
        else self.waits.push_back(timeout);
        auto look = [&] {
            return copse::production_system.poller_wait(system, poller, events, capacity, 0);
        };
        int count = look();
        if (count != 0 || timeout == 0) return count;
        if (self.meanwhile) {
            self.meanwhile(timeout);
            count = look();
            if (count != 0) return count;
        }
        REQUIRE(timeout > 0);  // else the loop would sleep for ever
        bool cut = self.interrupts && self.interrupts < timeout;
        self.pass(copse::Duration::nanoseconds(cut ? self.interrupts : timeout));
        if (!cut) self.pass(copse::Duration::nanoseconds(self.lateness));
        return 0;
    }
};

}  // namespace test
