// Replay: a run as a short text: its seed, and what in it was answered otherwise than usual.
#pragma once

#include "net/sim/chance.h"

#include <copse/sim.h>

namespace copse::sim::detail {

// false: it is no word for one.
bool schedule_called(const char* word, Schedule& found);

struct Replay {
    uint64_t seed = 0;
    Schedule schedule = Schedule::random;
    unsigned depth = 3;
    Array<Answer> answers;

    bool read(const char* path);  // false: there is none, or it is none
    bool write(const char* path, const char* campaign, const char* failure) const;
};

}  // namespace copse::sim::detail
