// The core under every schedule: threads that do everything to each other that copse has, on hosts
// that talk to each other, and what must be true of it whatever the order.
//
//   core_campaign                what CTest runs; COPSE_SEEDS, COPSE_STEPS and the like as always
//   core_campaign --must-fail    the same, with a defect built in: 0 if it was found
//   core_campaign --traces       what the first seeds come to, the same in every build
#include "machine.h"

#include <copse/sim.h>

#include <errno.h>
#include <exception>
#include <memory>
#include <stdio.h>
#include <string.h>
#include <string>
#include <vector>

using namespace copse;
using namespace copse::literals;
using sim::World;

namespace {

// What the seed gives to one run: all of it is drawn, none of it depends on the order of threads.
struct Dice {
    World& world;
    uint32_t below(uint32_t n) const { return world.choose(n); }
    bool one_in(uint32_t n) const { return world.choose(n) == n - 1; }
    Duration up_to(Duration most) const { return most / 64 * int64_t(1 + below(64)); }
};

#define MUST(condition)                                                                            \
    do {                                                                                           \
        if (!(condition)) sim::fail("%s:%d: %s", __FILE_NAME__, __LINE__, #condition);             \
    } while (0)
#ifndef __FILE_NAME__
#define __FILE_NAME__ "core_campaign.cpp"
#endif

// Threads that only yield: nobody runs three times while another waits for its turn.
void yielders(World&, Dice dice) {
    constexpr int number = 6;
    auto turns = std::make_shared<std::vector<int>>(number, 0);
    int rounds = 2 + int(dice.below(20));
    for (int i = 0; i < number; ++i)
        (void)addthread([=] {
            for (int k = 0; k < rounds; ++k) {
                std::vector<int> before = *turns;
                if (yield()) return;
                for (int j = 0; j < number; ++j) MUST((*turns)[j] - before[j] <= 2);
                ++(*turns)[i];
            }
        });
}

// Sleepers: never early, and late by no more than the others can take.
void sleepers(World&, Dice dice) {
    int number = 1 + int(dice.below(12));
    for (int i = 0; i < number; ++i)
        (void)addthread([=] {
            for (int k = 0; k < 4; ++k) {
                Duration length = dice.up_to(dice.one_in(3) ? 10_s : 10_ms);
                Time before = now();
                if (sleep_for(length)) return;
                MUST(now() - before >= length);
                MUST(now() - before <= length + 50_ms);
            }
        });
}

// A token goes round: unpark() before or after park(), it is never lost and never two.
void runners(World&, Dice dice) {
    constexpr int number = 5;
    struct Ring {
        std::vector<Thread> threads;
        int holder = 0, passed = 0;
        bool over = false;
    };
    auto ring = std::make_shared<Ring>();
    int rounds = 3 + int(dice.below(10));
    for (int i = 0; i < number; ++i) {
        Result<Thread> added = addthread([=] {
            while (!ring->over) {
                if (ring->holder != i) {
                    // Whoever passes the token on meanwhile finds nobody parked.
                    if (dice.one_in(4) && yield()) return;
                    if (park()) return;
                    continue;
                }
                if (dice.one_in(3) && yield()) return;
                ring->holder = (i + 1) % number;
                ring->over = ++ring->passed == rounds * number;
                for (int j = 0; j < number; ++j)
                    if (ring->over || j == ring->holder) (void)ring->threads[size_t(j)].unpark();
            }
        });
        if (!added) return;
        ring->threads.push_back(*added);
    }
}

// Joiners: join() answers when the other has ended and not before; an ended thread's name is nobody.
void joiners(World&, Dice dice) {
    struct Child {
        Thread thread;
        bool ended = false;
        int touched = 0;
    };
    auto family = std::make_shared<std::vector<Child>>(4);
    for (Child& child : *family) {
        auto* own = &child;
        Result<Thread> added = addthread([=] {
            (void)family;
            if (dice.one_in(2)) (void)sleep_for(dice.up_to(5_ms));
            else for (uint32_t k = dice.below(5); k; --k) (void)yield();
            own->ended = true;
        });
        if (!added) return;
        child.thread = *added;
    }
    for (int i = 0; i < 3; ++i)
        (void)addthread([=] {
            for (Child& child : *family) {
                if (child.thread.join()) return;
                MUST(child.ended);
                MUST(child.thread.finished());
            }
            // Their slots go to others, whom the old names must not reach.
            auto bystander = std::make_shared<bool>(false);
            for (int k = 0; k < 3; ++k)
                (void)addthread([=] {
                    Error error = sleep_for(1_ms);
                    MUST(!error || error == Error::canceled);
                    MUST(!error || *bystander);
                });
            for (Child& child : *family) {
                (void)child.thread.cancel();
                (void)child.thread.unpark();
            }
        });
}

// The canceled: whatever they wait for, the call answers `canceled`, and so does every later one.
void canceled(World&, Dice dice) {
    for (int i = 0; i < 4; ++i) {
        auto told = std::make_shared<bool>(false);
        int kind = int(dice.below(4));
        Result<std::pair<Stream, Stream>> both = pair();
        if (!both) return;
        auto ends = std::make_shared<std::pair<Stream, Stream>>(std::move(*both));
        Result<Thread> added = addthread([=] {
            Error error = Error::none;
            while (!error) {
                if (kind == 0) error = sleep_for(3_ms);
                if (kind == 1) error = park();
                if (kind == 2) error = ends->first.receive("*l").error;
                if (kind == 3) error = yield();
            }
            MUST(error == Error::canceled);
            for (int k = 0; k < 3; ++k) MUST(yield() == Error::canceled);
            *told = true;
        });
        if (!added) return;
        Thread victim = *added;
        (void)addthread([=]() mutable {
            (void)ends;
            if (sleep_for(dice.up_to(10_ms))) return;
            (void)victim.cancel();
            Timeout bound{1_s};
            if (victim.join() == Error::canceled) return;
            MUST(*told);
        });
    }
}

// Scopes: nothing inside lasts longer, and what ends in time is not disturbed afterwards.
void scopes(World&, Dice dice) {
    for (int i = 0; i < 3; ++i)
        (void)addthread([=] {
            for (int k = 0; k < 3; ++k) {
                Duration limit = dice.up_to(800_ms), length = dice.up_to(800_ms);
                Time before = now();
                Error error;
                {
                    Timeout scope{limit};
                    error = sleep_for(length);
                }
                if (error == Error::canceled) return;
                Duration took = now() - before;
                MUST(error == Error::none || error == Error::timeout);
                MUST(error ? took >= limit : took >= length);
                MUST(took <= (limit < length ? limit : length) + 50_ms);
                // A timer left behind would cut this one short.
                before = now();
                if (sleep_for(1_s)) return;
                MUST(now() - before >= 1_s);
            }
        });
}

char letter(uint64_t at) { return char('a' + (at * 7 + at / 26) % 26); }

struct Flow {
    uint64_t offered = 0, accepted = 0, received = 0;
    bool sender_done = false, ended = false, rude = false;
};

void write_flow(Stream& stream, Flow& flow, Dice dice, uint64_t size) {
    std::string bytes;
    while (flow.accepted < size) {
        bytes.clear();
        uint64_t piece = 1 + dice.below(dice.one_in(4) ? 5000 : 100);
        for (uint64_t i = 0; i < piece; ++i) bytes += letter(flow.accepted + i);
        flow.offered += piece;  // and may arrive before send() has come back
        Result<size_t> sent = stream.send(bytes);
        flow.accepted += *sent;
        if (!sent) break;
        MUST(*sent == piece);
        if (dice.one_in(3) && yield()) break;
        if (dice.one_in(6) && stream.flush()) break;
    }
    flow.sender_done = true;
}

void read_flow(Stream& stream, Flow& flow, Dice dice) {
    char room[700];
    for (;;) {
        size_t most = 1 + dice.below(sizeof room);
        Result<std::span<char>> got = stream.receive_some({room, most});
        for (char each : *got) MUST(each == letter(flow.received++));
        if (got) continue;
        flow.ended = got.error == Error::closed;
        return;
    }
}

// Bytes both ways over a pair: the reader sees what was written, all of it unless somebody was rude.
void pairs(World&, Dice dice) {
    Result<std::pair<Stream, Stream>> both = pair();
    if (!both) return;
    struct Line {
        Stream ends[2];
        Flow ways[2];
    };
    auto line = std::make_shared<Line>();
    line->ends[0] = std::move(both->first);
    line->ends[1] = std::move(both->second);
    int rude = dice.one_in(4) ? int(dice.below(2)) : -1;
    for (int i = 0; i < 2; ++i) {
        if (dice.one_in(2)) line->ends[i].setlimit(0, 1 + dice.below(3000));
        (void)addthread([=] {
            write_flow(line->ends[i], line->ways[i], dice, dice.below(60000));
            (void)line->ends[i].shutdown(How::send);
        });
        (void)addthread([=] {
            read_flow(line->ends[i], line->ways[1 - i], dice);
            Flow& in = line->ways[1 - i];
            if (in.ended && rude < 0) MUST(in.received == in.accepted);
            MUST(in.received <= in.offered);
        });
    }
    if (rude >= 0)
        (void)addthread([=] {
            if (sleep_for(dice.up_to(100_us))) return;
            // While threads are parked on it: they must come back, and find it closed.
            (void)(dice.one_in(2) ? line->ends[rude].close() : line->ends[rude].reset());
        });
}

// What belongs to a thread stays with it: errno, and the exceptions in its hands.
void keepers(World&, Dice dice) {
    for (int i = 1; i <= 5; ++i)
        (void)addthread([=] {
            for (int k = 0; k < 5; ++k) {
                errno = i;
                try {
                    throw i;
                } catch (int) {
                    if (dice.one_in(2) ? yield() : sleep_for(dice.up_to(10_us))) return;
                    MUST(errno == i);
                    try {
                        throw;
                    } catch (int own) {
                        MUST(own == i);
                        if (yield()) return;
                    }
                }
                MUST(std::uncaught_exceptions() == 0);
                MUST(!std::current_exception());
            }
        });
}

// A question of any size, and a word in answer: nothing else will wake who overlooks the last byte.
void dialogues(World&, Dice dice) {
    Result<std::pair<Stream, Stream>> both = pair();
    if (!both) return;
    auto ends = std::make_shared<std::pair<Stream, Stream>>(std::move(*both));
    auto size = std::make_shared<size_t>(0);
    int rounds = 2 + int(dice.below(8));
    (void)addthread([=] {
        for (int k = 0; k < rounds; ++k) {
            *size = 1 + dice.below(dice.one_in(3) ? 40000 : 2000);
            if (!ends->first.send(std::string(*size, 'q'))) return;
            if (!ends->first.receive(1)) return;
        }
        (void)ends->first.close();
    });
    (void)addthread([=] {
        char room[500];
        for (int k = 0; k < rounds; ++k) {
            for (size_t got = 0; got == 0 || got < *size;) {
                Result<std::span<char>> some = ends->second.receive_some({room, 1 + dice.below(500)});
                if (!some) return;
                got += some->size();
            }
            if (!ends->second.send("a")) return;
        }
    });
}

// Bytes that come just when patience ends: the answer is one or the other, once.
void racers(World&, Dice dice) {
    for (int i = 0; i < 4; ++i) {
        Result<std::pair<Stream, Stream>> both = pair();
        if (!both) return;
        auto ends = std::make_shared<std::pair<Stream, Stream>>(std::move(*both));
        Duration rhythm = dice.up_to(1_ms);
        constexpr int beats = 20;
        (void)addthread([=] {
            for (int k = 0; k < beats; ++k) {
                if (sleep_for(rhythm)) return;
                if (!ends->first.send("b") || ends->first.flush()) return;
            }
            (void)ends->first.close();
        });
        (void)addthread([=] {
            ends->second.settimeout(rhythm);
            int got = 0;
            for (int late = 0; late < 10000;) {
                Time before = now();
                Result<std::string_view> beat = ends->second.receive(1);
                got += bool(beat);
                if (beat) continue;
                if (beat.error != Error::timeout) break;
                MUST(now() - before >= rhythm);
                ++late;
            }
            MUST(got == beats || ends->second.getstats().received == size_t(got));
        });
        // Who keeps the loop from looking, so that much has happened when it does.
        (void)addthread([=] {
            for (int k = 0; k < 400; ++k)
                if (yield()) return;
        });
    }
}

// A client's request, whole, and an answer that the server closes behind: not a byte is missing.
void answer(Stream& peer) {
    Result<std::string_view> size = peer.receive("*l");
    if (!size) return;
    uint64_t wanted = strtoull(std::string(*size).c_str(), nullptr, 10);
    std::string reply;
    for (uint64_t i = 0; i < wanted; ++i) reply += letter(i);
    (void)peer.send(reply);
    // What else the client says stays unread.
}

void serve(int connections) {
    Result<Listener> listener = bind("*", 4000, {.max_connections = size_t(connections)});
    if (!listener) return sim::fail("bind: %s", listener.error.message());
    Result<Server> server = addserver(std::move(*listener), answer);
    MUST(bool(server));
    (void)wait_for_stop();
}

void ask(Dice dice, int& answered) {
    if (dice.one_in(2) && sleep_for(dice.up_to(20_ms))) return;
    Result<Stream> server = connect("server", 4000);
    MUST(bool(server));
    uint64_t wanted = dice.below(dice.one_in(4) ? 200000 : 2000), got = 0;
    std::string request = std::to_string(wanted) + "\n";
    (void)server->send(request + std::string(dice.below(2000), 'x'));
    char room[4096];
    for (;;) {
        if (dice.one_in(8) && sleep_for(dice.up_to(3_ms))) return;
        Result<std::span<char>> some = server->receive_some(room);
        for (char each : *some) MUST(each == letter(got++));
        if (!some) break;
    }
    MUST(got == wanted);
    ++answered;
}

// One that yields for ever beside one that waits for the other end of a stream.
void starving(World&, Dice dice) {
    Result<std::pair<Stream, Stream>> both = pair();
    if (!both) return;
    auto ends = std::make_shared<std::pair<Stream, Stream>>(std::move(*both));
    auto answered = std::make_shared<bool>(false);
    for (int i = 0; i < 3; ++i)
        (void)addthread([=] {
            for (int k = 0; k < 3000 && !*answered; ++k)
                if (yield()) return;
            MUST(*answered);
        });
    (void)addthread([=] {
        for (int k = 0; k < 3; ++k)
            if (ends->first.receive(1).error) return;
        *answered = true;
    });
    (void)addthread([=] {
        for (int k = 0; k < 3; ++k) {
            for (uint32_t j = dice.below(20); j; --j)
                if (yield()) return;
            if (!ends->second.send("x") || ends->second.flush()) return;
        }
    });
}

using Part = void (*)(World&, Dice);
constexpr Part parts[] = {yielders, sleepers, runners,   joiners, canceled, scopes,
                          pairs,    racers,   dialogues, keepers, starving};

void body(World& world) {
    Dice dice{world};
    auto server = world.host("server"), client = world.host("client"), other = world.host("other");
    auto answered = std::make_shared<int>(0);
    int asking = 1 + int(dice.below(6)), connections = 1 + int(dice.below(4));
    server.serve([=] { serve(connections); });
    for (int i = 0; i < asking; ++i) client.run([=] { ask(dice, *answered); });
    for (int i = 0; i < 3; ++i) {
        Part part = parts[dice.below(sizeof parts / sizeof *parts)];
        (dice.one_in(2) ? other : client).run([=, &world] { part(world, dice); });
    }
    // Legal ways that copse itself seldom goes; nothing that would excuse a missing byte.
    world.setfaults({.lost = 0.01, .short_write = 0.1, .library = 0.1}, true);
    world.eventually("everybody is answered", never, [=] { return *answered == asking; });
}

}  // namespace

int main(int count, char** words) {
    bool must_fail = count > 1 && strcmp(words[1], "--must-fail") == 0;
    sim::CampaignOptions options;
    options.seeds = test::sanitized || test::emulated() ? 60 : 3000;
    options.run.audit = 1;
    options.run.limit = 600_s;
    if (must_fail) {
        options.seeds = 100000;
        options.steps = 10'000'000;
        options.shrink = false;
        options.patience = 10_s;
    }
    if (count > 1 && strcmp(words[1], "--traces") == 0) {
        for (uint64_t seed = 1; seed <= 50; ++seed) {
            sim::Outcome outcome = sim::run(seed, body, options.run);
            printf("%llu %llu %016llx\n", (unsigned long long)seed,
                   (unsigned long long)outcome.steps, (unsigned long long)outcome.trace);
        }
        return 0;
    }
    int result = sim::campaign("core", options, body);
    return must_fail ? !result : result;
}
