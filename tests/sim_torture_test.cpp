// Every call fails in turn, in every way its manual page knows, and peers vanish at every byte; in
// the simulated world. Nothing crashes, hangs or leaks; what was not delivered is told; and
// afterwards the loop serves as before.
#include "sim_torture_scenarios.h"
#include "sim_torture_sites.h"

#include <time.h>

using namespace torture;

namespace {

double processor_time() {
    timespec spent;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    return double(spent.tv_sec) + double(spent.tv_nsec) * 1e-9;
}

bool complain(const Scenario& scenario, uint64_t seed, const Plan& plan, const char* wrong) {
    if (!wrong) return false;
    test::fail(__FILE__, __LINE__, wrong);
    if (test::failures <= 20)
        fprintf(stderr, "    %s, seed %llu, %s %llu: %s\n", scenario.name, (unsigned long long)seed,
                plan.memory_from_then_on ? "memory from" : plan.call ? plan.call : "nothing fails",
                (unsigned long long)plan.number, strerror(plan.error));
    if (test::failures <= 20 && plan.first_call)
        fprintf(stderr, "    and first %s %llu: %s\n", plan.first_call,
                (unsigned long long)plan.first_number, strerror(plan.first_error));
    return true;
}

// Runs it as it is and counts its calls.
Plan count_calls(const Scenario& scenario, uint64_t seed) {
    Plan plan{.counts = true};
    Trial trial;
    sim::Outcome outcome = live(scenario, seed, plan, trial);
    complain(scenario, seed, plan, judge(outcome, trial, true));
    plan.over = false;
    return plan;
}

uint64_t injections;

void fail_one(const Scenario& scenario, uint64_t seed, Plan plan) {
    Trial trial;
    sim::Outcome outcome = live(scenario, seed, plan, trial);
    ++injections;
    if (complain(scenario, seed, plan, judge(outcome, trial, false))) return;
    // The run goes as the counted one did, until then.
    if (!plan.struck) complain(scenario, seed, plan, "the call never came");
}

// All errnos of the first so many calls of an entry; of the others a sample, with one errno each.
constexpr uint64_t all_errnos_of = 64;
constexpr uint64_t sampled = 48;

void fail_each_call(const Scenario& scenario, uint64_t seed, const Plan& counted) {
    for (size_t at = 0; at < fallibles.size(); ++at) {
        const auto& [call, errnos] = fallibles[at];
        uint64_t calls = counted.counted[at], every = 1 + calls / sampled, turn = seed;
        for (uint64_t number = 0; number < calls; ++number) {
            bool all = number < (test::sanitized || test::emulated() ? 8 : all_errnos_of);
            if (!all && number % every) continue;
            if (!all) ++turn;
            for (size_t i = 0; i < errnos.size(); ++i)
                if (all || i == turn % errnos.size())
                    fail_one(scenario, seed, {.call = call, .number = number, .error = errnos[i]});
        }
    }
}

// No memory from each time on that some is asked for.
void fail_all_memory(const Scenario& scenario, uint64_t seed, const Plan& counted) {
    for (uint64_t at = 0; at < counted.memory_asked; ++at)
        fail_one(scenario, seed, {.number = at, .error = ENOMEM, .memory_from_then_on = true});
}

constexpr size_t groups = 6;

template <class Fail> void torture_group(size_t group, uint64_t seeds, Fail fail) {
    double began = processor_time();
    if (test::sanitized || test::emulated()) seeds = 1;
    size_t tortured = 0;
    for (size_t i = group; i < scenarios.size(); i += groups, ++tortured)
        for (uint64_t seed = 1; seed <= (scenarios[i].is_long ? 1 : seeds); ++seed)
            fail(scenarios[i], seed, count_calls(scenarios[i], seed));
    fprintf(stderr, "%zu scenarios, %llu injections, %.1f s\n", tortured,
            (unsigned long long)injections, processor_time() - began);
}

}  // namespace

TEST(scenarios_end_well_if_nothing_fails) {
    CHECK(scenarios.size() >= 40);
    for (const Scenario& each : scenarios)
        for (uint64_t seed = 1; seed <= (test::sanitized ? 10 : 100); ++seed)
            (void)count_calls(each, seed);
}

constexpr uint64_t seeds_of_calls = 4;
TEST(any_call_may_fail_in_any_way_group_1) { torture_group(0, seeds_of_calls, fail_each_call); }
TEST(any_call_may_fail_in_any_way_group_2) { torture_group(1, seeds_of_calls, fail_each_call); }
TEST(any_call_may_fail_in_any_way_group_3) { torture_group(2, seeds_of_calls, fail_each_call); }
TEST(any_call_may_fail_in_any_way_group_4) { torture_group(3, seeds_of_calls, fail_each_call); }
TEST(any_call_may_fail_in_any_way_group_5) { torture_group(4, seeds_of_calls, fail_each_call); }
TEST(any_call_may_fail_in_any_way_group_6) { torture_group(5, seeds_of_calls, fail_each_call); }

TEST(two_calls_may_fail) {
    uint64_t drawn = 1;
    auto below = [&](uint64_t n) {
        drawn = drawn * 6364136223846793005u + 1442695040888963407u;
        return (drawn >> 33) % n;
    };
    for (const Scenario& each : scenarios) {
        Plan counted = count_calls(each, 1);
        auto some_call = [&] {
            for (;;)
                if (size_t at = below(fallibles.size()); counted.counted[at]) return at;
        };
        int pairs = each.is_long ? 20 : 400;
        if (test::sanitized || test::emulated()) pairs = 20;
        for (int i = 0; i < pairs; ++i) {
            size_t one = some_call(), other = some_call();
            const auto &first = fallibles[one].errnos, &second = fallibles[other].errnos;
            Plan plan{.call = fallibles[other].call, .number = below(counted.counted[other]),
                      .error = second[below(second.size())], .first_call = fallibles[one].call,
                      .first_number = below(counted.counted[one]),
                      .first_error = first[below(first.size())]};
            Trial trial;
            sim::Outcome outcome = live(each, 1, plan, trial);
            ++injections;
            complain(each, 1, plan, judge(outcome, trial, false));
        }
    }
    fprintf(stderr, "%llu pairs\n", (unsigned long long)injections);
}

TEST(memory_may_be_missing_from_any_time_on) {
    for (size_t group = 0; group < groups; ++group) torture_group(group, 4, fail_all_memory);
}

// Where calls come from ---------------------------------------------------------------------------

#if COPSE_TEST_BACKTRACE

namespace {

// Sites that no simulated host comes to, and why.
struct Excused {
    const char* file;
    const char* source;
    const char* why;
};
constexpr Excused excused[] = {
    {"runtime/loop.cpp", "poller_open(*system_, &fresh)",
     "a new poller is made after a fork, or where a descriptor was closed behind the loop's back"},
    {"runtime/loop.cpp", "poller_add(*system_, fresh", "the same"},
};
const char* why_excused(const Site& site) {
    for (const Excused& each : excused)
        if (site.file == each.file && site.source.find(each.source) != site.source.npos)
            return each.why;
    return nullptr;
}

std::string name_of(int error) {
#if __GLIBC_PREREQ(2, 32)
    return strerrorname_np(error);
#else
    return std::to_string(error);
#endif
}

// A call that came, and what has to fail first for it to come.
struct Seen {
    size_t scenario;
    uint64_t seed;
    Plan first;
    size_t call;
    uint64_t number;
    Frames frames;
};

struct Watcher {
    Seen next{};
    std::vector<Seen>* seen = nullptr;
    std::set<void*>* addresses = nullptr;
    std::set<Frames>* known = nullptr;
    Frames struck{};

    static void hear(void* self, size_t call, uint64_t number, bool strikes) {
        auto& watcher = *static_cast<Watcher*>(self);
        Frames frames = frames_here();
        if (strikes) {
            watcher.struck = frames;
            return;
        }
        if (!watcher.known->insert(frames).second) return;
        watcher.seen->push_back(watcher.next);
        watcher.seen->back().call = call;
        watcher.seen->back().number = number;
        watcher.seen->back().frames = frames;
        watcher.addresses->insert(frames.begin(), frames.end());
    }
};

// From where calls came so far.
struct Survey {
    std::vector<Site> sites = sites_in_sources();
    std::vector<Seen> seen;
    std::set<void*> addresses;
    std::set<Frames> known;
    std::map<void*, std::vector<Place>> places;
    std::map<Site*, size_t> callers;
    size_t done = 0;  // of seen

    // Runs it with one call failing, or none, and notes whence calls come that were not seen yet.
    Plan look(size_t scenario, uint64_t seed, const Plan& first) {
        Watcher watcher{{scenario, seed, first, 0, 0, {}}, &seen, &addresses, &known};
        Plan plan = first;
        plan.counts = true;
        plan.watch = Watcher::hear;
        plan.watcher = &watcher;
        Trial trial;
        sim::Outcome outcome = live(scenarios[scenario], seed, plan, trial);
        complain(scenarios[scenario], seed, plan, judge(outcome, trial, !first.first_call));
        return plan;
    }
    // Fails each site that is new, from up to so many of its callers, with each errno.
    void fail_what_is_new() {
        constexpr size_t most_callers = 3;
        places = places_of(addresses);
        for (; done < seen.size(); ++done) {
            Seen each = seen[done];
            std::vector<Site*> from = sites_of(each.frames, each.call, sites, places);
            bool wanted = false;
            for (Site* site : from) wanted |= callers[site]++ < most_callers;
            // Never called by a test.
            if (from.empty()) CHECK(strcmp(fallibles[each.call].call, "poller_wait") != 0);
            if (!wanted) continue;
            for (int error : fallibles[each.call].errnos) {
                Watcher watcher;
                Plan plan = each.first;
                plan.call = fallibles[each.call].call;
                plan.number = each.number;
                plan.error = error;
                plan.watch = Watcher::hear;
                plan.watcher = &watcher;
                Trial trial;
                sim::Outcome outcome = live(scenarios[each.scenario], each.seed, plan, trial);
                ++injections;
                complain(scenarios[each.scenario], each.seed, plan, judge(outcome, trial, false));
                CHECK(watcher.struck == each.frames);
                if (watcher.struck != each.frames) continue;
                for (Site* site : from) site->told.insert(error);
            }
        }
    }
};

void fail_every_site() {
    Survey survey;
    if (survey.sites.empty()) test::skip("the sources are not where they were compiled");
    if (test::emulated()) test::skip("an emulator's program is not what addr2line would read");
#if defined(__clang__) && defined(__OPTIMIZE__)
    test::skip("clang makes one call of two that end alike, and two lines of the source are none");
#endif
    std::vector<Plan> counted;
    for (size_t i = 0; i < scenarios.size(); ++i)
        for (uint64_t seed : {2, 1}) {
            Plan plan = survey.look(i, seed, {});
            if (seed == 1) counted.push_back(plan);
        }
    survey.fail_what_is_new();
    bool any_known = false;
    for (auto& [address, of] : survey.places)
        for (Place& each : of)
            any_known |= each.line > 0 && each.file.ends_with("net/sim/machine.cpp");
    if (!any_known) test::skip("no addr2line here, or no debug information");
    // What is called only after something else has failed.
    for (size_t i = 0; i < scenarios.size(); ++i) {
        for (size_t at = 0; at < fallibles.size() && !scenarios[i].is_long; ++at) {
            const auto& [call, errnos] = fallibles[at];
            for (uint64_t number = 0; number < counted[i].counted[at] && number < 32; ++number)
                (void)survey.look(i, 1, {.first_call = call, .first_number = number,
                                         .first_error = errnos.back()});
        }
    }
    survey.fail_what_is_new();

    uint64_t pairs = 0, wanted = 0;
    for (const Site& site : survey.sites) {
        const auto& [call, errnos] = fallibles[site.call];
        const char* excuse = why_excused(site);
        fprintf(stderr, "%s:%d: %s:", site.file.c_str(), site.line, call);
        for (int error : site.told) fprintf(stderr, " %s", name_of(error).c_str());
        fprintf(stderr, "%s%s\n", excuse ? " none: " : "", excuse ? excuse : "");
        pairs += site.told.size();
        if (excuse) {
            CHECK(site.told.empty());
            continue;
        }
        wanted += errnos.size();
        if (site.told.size() == errnos.size()) continue;
        test::fail(site.file.c_str(), site.line, "failed with every errno");
        fprintf(stderr, "    %zu of %zu: %s\n", site.told.size(), errnos.size(),
                site.source.c_str());
    }
    fprintf(stderr, "%zu sites, %llu of %llu pairs of site and errno, %llu injections\n",
            survey.sites.size(), (unsigned long long)pairs, (unsigned long long)wanted,
            (unsigned long long)injections);
}

}  // namespace

#else

static void fail_every_site() { test::skip("no backtraces here"); }

#endif

TEST(every_call_in_the_sources_is_failed_with_every_errno) { fail_every_site(); }

// Peers that vanish -------------------------------------------------------------------------------

namespace {

// What our side does; the peer does the reverse.
struct Step {
    enum What { receive_line, receive_count, receive_span, receive_pieces, send, flush } what;
    size_t size;
};

struct Dialogue {
    std::vector<Step> steps;
    std::string ours, theirs;
    bool by_kernel = false;  // the kernel's own timeouts end it, the calls have none
};

// Lines, counts and bulk: `number` says which.
Dialogue dialogue(uint64_t number) {
    uint64_t drawn = number * 0x9e3779b97f4a7c15u + 1;
    auto between = [&](uint64_t least, uint64_t most) {
        drawn = drawn * 6364136223846793005u + 1442695040888963407u;
        return least + (drawn >> 33) % (most - least + 1);
    };
    Dialogue made;
    bool bulk = number % 5 == 4;
    made.by_kernel = number % 2;
    for (uint64_t i = between(4, 9); i; --i) {
        auto what = Step::What(between(0, 5));
        if (number % 5 == 0 && i % 2) what = Step::receive_line;
        size_t size = bulk && i % 3 == 0 ? between(3000, 90000) : between(1, 60);
        if (what == Step::receive_line && size > 60000) size = 60000;
        made.steps.push_back({what, size});
        if (what == Step::send) made.ours += text(size, made.ours.size());
        else if (what != Step::flush) made.theirs += text(size, made.theirs.size());
        if (what == Step::receive_line) made.theirs += '\n';
    }
    return made;
}

enum class Vanishing { reset, close, half_close, stall, black_hole };
constexpr const char* vanishing_names[] = {"reset", "close", "half-close", "stall", "black hole"};

// Our side; stops at the first error, which is to be the only one.
struct Side {
    std::string received;
    size_t accepted = 0;
    Error error, last;
    bool was_sending = false;
    Status after;
    bool ended = false;

    void play(Stream& stream, const Dialogue& script) {
        if (script.by_kernel) {
            for (auto [option, value] : {std::pair{Option::tcp_user_timeout, 3000},
                                         std::pair{Option::tcp_keepidle, 1},
                                         std::pair{Option::tcp_keepintvl, 1},
                                         std::pair{Option::tcp_keepcnt, 3},
                                         std::pair{Option::keepalive, 1}})
                (void)stream.setoption(option, value);
        }
        std::string room;
        for (const Step& step : script.steps) {
            was_sending = step.what >= Step::send;
            switch (step.what) {
            case Step::receive_line: took(stream.receive("*l"), true); break;
            case Step::receive_count: took(stream.receive(step.size), false); break;
            case Step::receive_span:
                room.resize(step.size);
                took(stream.receive(std::span<char>(room)), false);
                break;
            case Step::receive_pieces:
                room.resize(step.size);
                for (size_t left = step.size; left && !error;) {
                    size_t before = received.size();
                    took(stream.receive_some(std::span<char>(room).first(left)), false);
                    left -= received.size() - before;
                }
                break;
            case Step::send: {
                Result<size_t> sent = stream.send(text(step.size, accepted));
                accepted += *sent;
                error = sent.error;
                break;
            }
            case Step::flush: error = stream.flush(); break;
            }
            if (error) break;
        }
        last = stream.close();
    }

  private:
    template <class View> void took(const Result<View>& got, bool line) {
        received.append(got->data(), got->size());
        if (line && got) received += '\n';
        error = got.error;
    }
};

struct Case {
    const Dialogue& script;
    size_t offset;  // of what the peer sends: it vanishes instead of sending more
    Vanishing how;
    bool as_client;
    uint64_t seed;
};

// The peer plays its part until it vanishes.
void play_peer(World& world, Stream& stream, const Case& is, std::string& heard, bool& cut) {
    std::string room(4096, ' ');
    size_t said = 0;
    auto hear = [&](size_t most) {
        size_t size = most < room.size() ? most : room.size();
        auto got = stream.receive_some(std::span<char>(room).first(size));
        heard.append(got->data(), got->size());
        return got ? got->size() : 0;
    };
    for (const Step& step : is.script.steps) {
        if (step.what == Step::flush) continue;
        if (step.what == Step::send) {
            for (size_t left = step.size; left;) {
                size_t some = hear(left);
                if (!some) return;
                left -= some;
            }
            continue;
        }
        size_t size = step.size + (step.what == Step::receive_line);
        if (said + size > is.offset) size = is.offset - said;
        (void)stream.send(std::string_view(is.script.theirs).substr(said, size));
        said += size;
        if (said == is.offset) break;
    }
    // What is said is on its way, and what was to be heard until here has come.
    (void)stream.flush();
    switch (is.how) {
    case Vanishing::reset:
        if (world.choose(2)) (void)sleep_for(10_ms);
        (void)stream.reset();
        return;
    case Vanishing::close: (void)stream.close(); return;
    case Vanishing::half_close:
        (void)stream.shutdown(How::send);
        while (hear(SIZE_MAX)) {}
        return;
    case Vanishing::black_hole: cut = true; [[fallthrough]];
    case Vanishing::stall: (void)sleep_for(500_s); return;
    }
}

bool vanish(const Case& is) {
    constexpr uint16_t port = 4500;
    Side side;
    std::string heard;
    bool cut = false, is_cut = false;
    // A peer that is only silent is no business of the kernel's.
    Duration timeout = is.script.by_kernel && is.how != Vanishing::stall ? never : 3_s;
    auto ours = [&](Stream& stream) {
        stream.settimeout(timeout);
        side.play(stream, is.script);
    };
    auto client = [&] {
        Result<Stream> stream = connect("there", port, 20_s);
        side.error = stream.error;
        if (stream) ours(*stream);
    };
    auto server = [&] {
        Result<Listener> listener = bind("*", port);
        sim::check(bool(listener), "a listener");
        Thread main = self();
        Result<Server> made = addserver(std::move(*listener), [&, main](Stream& stream) {
            ours(stream);
            (void)main.unpark();
        });
        sim::check(bool(made), "a server");
        (void)park();
        (void)made->remove();
    };
    auto people = [&](World& world) {
        sim::Host here = world.host("here"), there = world.host("there");
        if (is.seed % 2 == 0) world.setfaults({.short_write = 0.2});
        here.run([&] {
            if (is.as_client) client();
            else server();
            // Closing may take this long, and no longer.
            (void)sleep_for(31_s);
            side.after = status();
            Trial trial;
            trial.world = &world;
            sim::check(serves(trial, false), "the loop serves as before");
            side.ended = true;
        });
        there.serve([&] {
            Stream stream;
            if (is.as_client) {
                Result<Listener> listener = bind("*", port);
                Result<Stream> peer = listener->accept();
                stream = std::move(*peer);
                play_peer(world, stream, is, heard, cut);
            } else {
                Result<Stream> peer;
                for (int i = 0; i < 20 && !(peer = connect("here", port)); ++i)
                    (void)sleep_for(1_ms);
                stream = std::move(*peer);
                // A connection that never came about is told to nobody.
                (void)sleep_for(1_ms);
                play_peer(world, stream, is, heard, cut);
            }
        });
        world.always("", [&, here, there] {
            if (cut && !is_cut) world.partition(here, there), is_cut = true;
            return true;
        });
    };
    sim::Outcome outcome = sim::run(is.seed, people, {.limit = 600_s, .steps_per_second = 200'000,
                                                      .audit = 5});
    const std::string& theirs = is.script.theirs;
    const char* wrong = nullptr;
    auto expect = [&](bool held, const char* what) {
        if (!held && !wrong) wrong = what;
    };
    bool all_said = is.offset == theirs.size();
    expect(outcome.ok, outcome.failure);
    expect(side.ended, "it ends");
    // Bytes: the exact prefix, and no more than was said.
    expect(theirs.starts_with(side.received) && side.received.size() <= is.offset,
           "an exact prefix");
    expect(text(side.accepted).substr(0, heard.size()) == heard, "what was heard was sent");
    // One error, and only where there is something to tell.
    bool nothing_left =
        side.received.size() == theirs.size() && side.accepted == is.script.ours.size();
    expect(side.error || nothing_left, "what did not come is told");
    bool output_told = side.error && side.was_sending && side.error != Error::timeout;
    expect(!output_told || !side.last, "an error of sending is told once");
    bool rude = is.how == Vanishing::reset || is.how == Vanishing::close;
    expect(rude || !side.last || is.how == Vanishing::black_hole, "nothing else is wrong");
    // Whoever was only half gone, or gone in order, loses nothing on the way.
    if (is.how == Vanishing::half_close || is.how == Vanishing::stall)
        expect(side.error ? side.was_sending || side.received.size() == is.offset : all_said,
               "all that was said");
    if (is.how == Vanishing::close && side.error && !side.was_sending &&
        side.error.code() == Error::closed.code())
        expect(side.received.size() == is.offset, "all that was said before the end");
    if (is.how == Vanishing::half_close) {
        expect(heard.size() == side.accepted && side.after.lost == 0, "the open half is whole");
        expect(!side.error || side.error.code() == Error::closed.code(), "an end, no failure");
    }
    if (is.how == Vanishing::stall)
        expect(!side.error || side.error.code() == Error::timeout.code(), "the call's timeout");
    if (is.how == Vanishing::black_hole)
        expect(!side.error || side.error == Error::timeout, "somebody's timeout");
    if (is.how == Vanishing::reset)
        expect(!side.error || side.error == Error::closed || !side.accepted, "a reset");
    expect(heard.size() == side.accepted || side.error || side.last || side.after.lost ||
               is.how == Vanishing::black_hole || is.how == Vanishing::close ||
               is.how == Vanishing::reset || is.how == Vanishing::stall,
           "accepted bytes are delivered or told of");
    expect(heard.size() + side.after.lost <= side.accepted, "lost and delivered at once");
    expect(side.after.descriptors == 0 && side.after.buffered == 0, "nothing is kept");
    if (wrong) {
        test::fail(__FILE__, __LINE__, wrong);
        if (test::failures <= 20)
            fprintf(stderr,
                    "    seed %llu, %s at %zu of %zu, %s; received %zu, accepted %zu, heard %zu, "
                    "lost %llu, errors %d%s, then %d\n",
                    (unsigned long long)is.seed, vanishing_names[int(is.how)], is.offset,
                    theirs.size(), is.as_client ? "we connected" : "we accepted",
                    side.received.size(), side.accepted, heard.size(),
                    (unsigned long long)side.after.lost, side.error.code(),
                    side.was_sending ? " (sending)" : "", side.last.code());
    }
    return !wrong;
}

constexpr uint64_t dialogues = 20;
// Every offset of the first and the last so many, and as many in between as come to that again.
constexpr size_t every_offset = 80;

void vanish_everywhere(bool as_client, bool bulk) {
    double began = processor_time();
    bool slow = test::sanitized || test::emulated();
    uint64_t cases = 0, talks = 0;
    for (uint64_t number = 0; number < dialogues; ++number) {
        Dialogue script = dialogue(number);
        if ((script.theirs.size() > 2000) != bulk) continue;
        ++talks;
        uint64_t first_seed = number * 100 + as_client;
        size_t end = script.theirs.size(), stride = 1 + end / every_offset;
        for (uint64_t seed = first_seed; seed < first_seed + (slow ? 1 : bulk ? 4 : 9); ++seed) {
            for (size_t offset = 0; offset <= end; ++offset) {
                bool edge = !slow && (offset < every_offset || end - offset < every_offset);
                if (!edge && offset % stride && offset != end) continue;
                for (Vanishing how : {Vanishing::reset, Vanishing::close, Vanishing::half_close,
                                      Vanishing::stall, Vanishing::black_hole}) {
                    ++cases;
                    bool good = vanish({script, offset, how, as_client, seed});
                    if (!good && test::failures > 20) return;
                }
            }
        }
    }
    fprintf(stderr, "%llu dialogues, %llu cases, %.1f s\n", (unsigned long long)talks,
            (unsigned long long)cases, processor_time() - began);
    CHECK(cases > 100);
}

}  // namespace

TEST(a_server_may_vanish_at_any_byte) { vanish_everywhere(true, false); }
TEST(a_client_may_vanish_at_any_byte) { vanish_everywhere(false, false); }
TEST(a_server_may_vanish_amid_a_lot_of_bytes) { vanish_everywhere(true, true); }
TEST(a_client_may_vanish_amid_a_lot_of_bytes) { vanish_everywhere(false, true); }
