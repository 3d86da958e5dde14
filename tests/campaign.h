// Campaign: what the campaigns have in common: the weather of a run, and what servers report of it.
#pragma once

#include <copse/sim.h>

#include <string.h>

namespace campaign {

using namespace copse;
using namespace copse::literals;

inline constexpr Duration bad_weather = 20_s;  // so long things go wrong; then all is healed

// What goes wrong in this run, until the weather gets better: each kind of trouble, in a strength
// of the run's own. true: in this run the weather is fair, and breaks no connection.
inline bool set_weather(sim::World& world) {
    bool fair = world.choose(4) == 0;
    sim::Faults trouble = sim::Faults::many();
    if (fair) trouble = {.short_write = trouble.short_write, .library = trouble.library};
    world.setfaults(trouble, !fair);
    world.at(bad_weather, [&world] {
        world.setfaults({});
        world.heal();
    });
    return fair;
}

// Notes what a loop reports about itself; set in a host's first thread.
inline void listen_to_reports() {
    auto note = [](Thread, const char* what, void*) {
        sim::sometimes("a server reported that memory ran out", strstr(what, "memory"));
        sim::sometimes("a server reported that descriptors ran out", strstr(what, "files"));
    };
    (void)seterrorhandler(note, nullptr, true);
}

}  // namespace campaign
