// Chance: every open question of a run, and how it was answered.
//
// A question belongs to a stream (a host's schedule, one direction of a connection, ...) and has an
// index in it; its answer is a function of seed, stream and index, so what one stream asks does not
// shift what another is told. Answer 0 is always the usual: the first thread, the shortest delay, no
// fault. A replay gives the answers that a list has, and 0 to all else; so a failure is made small
// by leaving out of the list whatever it does not need.
#pragma once

#include "net/sim/store.h"

#include <stdint.h>

namespace copse::sim::detail {

inline uint64_t mix(uint64_t z) {  // splitmix64's finish
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

struct Stream {
    uint64_t key;
    uint64_t asked;
};

struct Answer {
    uint64_t key;
    uint64_t index;
    uint32_t value;
};

class Chance {
  public:
    void begin(uint64_t seed) { seed_ = mix(seed + 0x9e3779b97f4a7c15u); }
    void replay(const Answer* answers, uint32_t count);
    bool replays() const { return replays_; }
    // From now on, what is answered otherwise than by 0 is written down, as long as there is room;
    // at once, so that a run that dies has left its answers behind.
    void record(Answer* room, uint32_t most, uint32_t* used) {
        recorded_ = room;
        most_recorded_ = most;
        used_ = used;
    }

    static Stream stream(uint64_t kind, uint64_t a = 0, uint64_t b = 0) {
        return {mix(mix(mix(kind + 1) + a) + b), 0};
    }

    // One of n, all alike.
    uint32_t one_of(Stream& stream, uint32_t n) {
        uint64_t index = stream.asked++;
        if (n < 2) return 0;
        if (replays_) return found(stream.key, index, n);
        return settle(stream, index, below(value(stream.key, index), n));
    }
    // 0, usually; with the given chance (of 2^32) one of 1..n-1.
    uint32_t seldom(Stream& stream, uint64_t chance, uint32_t n) {
        uint64_t index = stream.asked++;
        if (n < 2) return 0;
        if (replays_) return found(stream.key, index, n);
        uint64_t drawn = value(stream.key, index);
        if ((drawn >> 32) >= chance) return 0;
        return settle(stream, index, 1 + below(mix(drawn), n - 1));
    }
    // What somebody else has decided; a replay may know better.
    template <class Decide> uint32_t decided(Stream& stream, uint32_t n, Decide decide) {
        uint64_t index = stream.asked++;
        if (replays_) return found(stream.key, index, n);
        return settle(stream, index, decide(value(stream.key, index)));
    }
    // Bits that nobody has to be able to leave out of a replay.
    uint64_t noise(Stream& stream) const { return value(stream.key, stream.asked++); }

    static uint32_t below(uint64_t drawn, uint32_t n) {
        return uint32_t(((drawn & 0xffffffffu) * n) >> 32);
    }

  private:
    uint64_t value(uint64_t key, uint64_t index) const {
        return mix(seed_ ^ (key + index * 0x9e3779b97f4a7c15u));
    }
    uint32_t settle(const Stream& stream, uint64_t index, uint32_t answer) {
        if (used_ && answer && *used_ < most_recorded_) [[unlikely]]
            recorded_[(*used_)++] = {stream.key, index, answer};
        return answer;
    }
    uint32_t found(uint64_t key, uint64_t index, uint32_t n);

    uint64_t seed_ = 0;
    bool replays_ = false;
    Answer* recorded_ = nullptr;
    uint32_t most_recorded_ = 0;
    uint32_t* used_ = nullptr;
    Array<Answer> table_;  // of a replay: open addressing, a power of two; value 0: free
};

}  // namespace copse::sim::detail
