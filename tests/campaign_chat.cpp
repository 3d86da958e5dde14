// Chat's campaign: whatever goes wrong, all of a room hear the same, and nobody waits for the slow.
//
// Talkers on three hosts come, take a name, join rooms, speak, and go or are cut off; one member
// never reads; a witness only listens. What each connection heard in a room must be a stretch of
// what the room heard: without gaps, doubles or changes of order, however it ended. In fair
// weather the witness is never cut off. When the weather has got better a fresh client must be
// served.
//
//   campaign_chat --day    24 virtual hours with 1,000 clients: the memory must stay as it is
#include "campaign.h"
#include "tools/chat.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

using namespace campaign;
using sim::World;

namespace {

constexpr uint16_t port = 4008;
constexpr int talkers = 8;
constexpr size_t server_memory_limit = 16 << 20;
const char* const rooms[] = {"tea", "coffee"};

unsigned one_allocation_of = 0;  // the chat's own fails; 0: none does

void* allocate(size_t size) {
    World* world = sim::inside();
    if (world && one_allocation_of && world->choose(one_allocation_of) == 1) return nullptr;
    return malloc(size);
}

// What one connection heard while it was in one room, in order.
struct Heard {
    std::string room;
    std::vector<std::string> lines;
};

// The campaign's patience is short and its queues are: everything happens within its 20 seconds.
constexpr ChatOptions chat_options{.line_limit = 200, .backlog = 64, .buffer = 2048,
                                   .idle = 12_s, .patience = 3_s, .allocate = allocate};

struct Scenario {
    Chat chat{chat_options};
    std::vector<std::shared_ptr<Heard>> heard;
    std::map<std::string, Duration> said, confirmed;  // and when; confirmed: its speaker heard it
    int told_slow = 0, told_refused = 0, told_poor = 0, told_idle = 0, told_long = 0;
    int refused = 0, cut_off = 0, cut_in_mid_line = 0, witness_whole = 0;
    bool fair = false, fresh_served = false;

    ~Scenario() {
        if (chat.members() || chat.rooms() || chat.memory()) {
            fprintf(stderr, "the chat was left with %zu members, %zu rooms and %zu bytes\n",
                    chat.members(), chat.rooms(), chat.memory());
            abort();
        }
        sim::sometimes("something was said and heard", !confirmed.empty());
        sim::sometimes("a slow member was dropped", chat.dropped());
        sim::sometimes("a slow member heard why", told_slow);
        sim::sometimes("a name was refused", told_refused);
        sim::sometimes("a line was too long", told_long);
        sim::sometimes("a silent member was shown the door", told_idle);
        sim::sometimes("the chat ran out of memory", chat.without_memory());
        sim::sometimes("a member heard that memory ran out", told_poor);
        sim::sometimes("a connection was refused or timed out", refused);
        sim::sometimes("a connection was cut off", cut_off);
        sim::sometimes("a connection was cut off in mid-line", cut_in_mid_line);
        sim::sometimes("a witness was there to the end", witness_whole);
    }
};
using Shared = std::shared_ptr<Scenario>;

void serve(Chat& chat) {
    listen_to_reports();
    for (;;) {
        Result<Listener> listener = bind("*", port);
        Result<Server> server{};
        if (listener)
            server = addserver(std::move(*listener), [&](Stream& stream) { chat.serve(stream); });
        if (listener && server) return (void)wait_for_stop();
        if (sleep_for(100_ms)) return;
    }
}

// A client's end of a connection: what it hears is judged and written down.
class Ear {
  public:
    Ear(Shared scenario, Stream&& with, std::string tag)
        : stream{std::move(with)}, scenario_{std::move(scenario)}, tag_{std::move(tag)} {}

    Stream stream;

    // false: the connection has come to its end, or its time is over.
    bool hear() {
        auto [line, error] = stream.receive("*l", begun_);
        if (!error) {
            note(std::string(line));
            begun_.clear();
            return true;
        }
        begun_ = std::string(line);  // after a timeout the rest may come
        over_ = error != Error::timeout;
        scenario_->cut_off += error == Error::closed && error.code();
        scenario_->cut_in_mid_line += error == Error::closed && !line.empty();
        return false;
    }
    void hear_all() {
        while (hear()) {}
        over_ = true;
    }
    bool over() const { return over_; }  // nothing more will be heard
    std::string room() const { return heard_ ? heard_->room : ""; }
    const std::vector<std::string>& lines() const { return heard_->lines; }

    // Says the next of its lines; it tells where it was said, and by whom.
    Error say(const World& world) {
        std::string words = tag_ + " in " + room() + " #" + std::to_string(++said_) + " ";
        words += std::string(said_ % 5 * 35, '-') + ".";
        scenario_->said[words] = world.elapsed();
        return stream.send(words + "\n").error;
    }

  private:
    void note(const std::string& line) {
        if (line[0] == '*') return note_of_the_server(line);
        size_t colon = line.find(": ");
        if (colon == line.npos) return sim::fail("nobody said: %s", line.c_str());
        std::string words = line.substr(colon + 2);
        auto said = scenario_->said.find(words);
        if (said == scenario_->said.end()) return sim::fail("nobody said: %s", line.c_str());
        if (words.find(" in " + room() + " #") == words.npos)
            return sim::fail("in the room '%s' was heard: %s", room().c_str(), line.c_str());
        heard_->lines.push_back(words);
        if (words.compare(0, tag_.size() + 1, tag_ + " ") == 0) scenario_->confirmed.insert(*said);
    }
    void note_of_the_server(const std::string& line) {
        Scenario& s = *scenario_;
        auto begins = [&](const std::string& words) { return line.find(words) == 0; };
        auto has = [&](const char* words) { return line.find(words) != line.npos; };
        s.told_slow += has("you read too slowly");
        s.told_refused += has("is in use");
        s.told_poor += has("out of memory");
        s.told_idle += has("silent for too long");
        s.told_long += has("that line was too long");
        if (begins("* welcome, ")) name_ = line.substr(11, line.find(':') - 11);
        if (begins("* you are guest") || begins("* you are one-of-")) name_ = line.substr(10);
        if (begins("* " + name_ + " is now ")) name_ = line.substr(name_.size() + 10);
        if (!begins("* " + name_ + " joins ")) return;
        heard_ = std::make_shared<Heard>();
        heard_->room = line.substr(name_.size() + 9);
        s.heard.push_back(heard_);
    }

    Shared scenario_;
    std::string tag_, name_, begun_;
    std::shared_ptr<Heard> heard_;
    unsigned said_ = 0;
    bool over_ = false;
};

bool goes_on(const World& world) { return world.elapsed() < bad_weather && !world.failed(); }

std::shared_ptr<Ear> come(const Shared& scenario, const std::string& tag) {
    Result<Stream> stream = connect("server", port, 5_s);
    if (stream) {
        stream->settimeouts(never, 5_s, never);
        return std::make_shared<Ear>(scenario, std::move(*stream), tag);
    }
    ++scenario->refused;
    (void)sleep_for(200_ms);
    return nullptr;
}

// One thing that a talker does; false: it could not.
bool act(World& world, Ear& ear) {
    switch (world.choose(16)) {
    case 0: return !ear.stream.send("/who\n").error;
    case 1: return !ear.stream.send("/name one-of-" + std::to_string(world.choose(3)) + "\n").error;
    case 2: return !ear.stream.send(std::string(300, 'x') + "\n").error;
    case 3:
    case 7:
        for (int i = 0; i < 20; ++i)
            if (ear.room().empty() || ear.say(world)) return false;
        return true;
    case 4:
        if (world.choose(4) == 0) (void)sleep_for(13_s);
        return true;
    case 5:
    case 6: {
        std::string room = rooms[world.choose(2)];
        if (ear.stream.send("/join " + room + "\n").error) return false;
        // What it says next has to name the room: so it waits to hear that it is there.
        for (int i = 0; i < 100 && !ear.over() && ear.room() != room; ++i) (void)sleep_for(20_ms);
        return ear.room() == room;
    }
    default: return ear.room().empty() || !ear.say(world);
    }
}

// From coming to going.
void talk(const Shared& scenario, World& world, const std::string& tag) {
    std::shared_ptr<Ear> ear = come(scenario, tag);
    if (!ear) return;
    Result<Thread> listener = addthread([=] { ear->hear_all(); });
    if (!listener) return;
    for (uint32_t left = 5 + world.choose(100); left && !ear->over(); --left) {
        if (world.elapsed() > bad_weather + 5_s || !act(world, *ear)) break;
        (void)sleep_for(Duration::nanoseconds(world.choose(200'000'000)));
    }
    switch (world.choose(4)) {
    case 0: (void)ear->stream.reset(); break;
    case 1: (void)ear->stream.send("half a line"); break;
    case 2:
        (void)ear->stream.send("/quit\n");
        for (int i = 0; i < 100 && !ear->over(); ++i) (void)sleep_for(20_ms);
    }
    (void)ear->stream.close();
    (void)listener->join();
}

// Joins, and reads nothing for a while.
void be_deaf(const Shared& scenario, World& world, const std::string& tag) {
    std::shared_ptr<Ear> ear = come(scenario, tag);
    if (!ear) return;
    (void)ear->stream.setoption(Option::recv_buffer_size, 2048);
    (void)ear->stream.send("/join tea\n");
    ear->stream.settimeout(3_s);
    while (ear->room().empty())
        if (!ear->hear()) return;
    (void)sleep_for(2_s + 1_s * int64_t(world.choose(9)));
    ear->hear_all();
}

// Is in a room for as long as it can be, and must then have heard whatever anybody there did.
void witness(const Shared& scenario, World& world) {
    constexpr Duration end = bad_weather + 10_s;
    for (int visit = 0; goes_on(world); ++visit) {
        std::shared_ptr<Ear> ear = come(scenario, "w" + std::to_string(visit));
        if (!ear) continue;
        ear->stream.settimeout(1_s);
        (void)ear->stream.send("/join tea\n");
        while (ear->room().empty() && ear->hear()) {}
        if (ear->room().empty()) continue;
        Duration since = world.elapsed();
        Duration asked = since;
        while (!ear->over() && world.elapsed() < end) {
            (void)ear->hear();
            if (world.elapsed() - asked < 3_s) continue;
            (void)ear->stream.send("/who\n");  // lest it is shown the door
            asked = world.elapsed();
        }
        if (ear->over() && scenario->fair)
            return sim::fail("in fair weather the witness was cut off");
        if (ear->over()) continue;
        std::set<std::string> heard(ear->lines().begin(), ear->lines().end());
        for (auto& [words, when] : scenario->confirmed)
            if (when > since && words.find(" in tea #") != words.npos && !heard.count(words))
                return sim::fail("the witness has not heard: %s", words.c_str());
        ++scenario->witness_whole;
        return;
    }
}

// Of a room there is one order of lines, and everybody has heard a stretch of it.
void judge(const Scenario& scenario) {
    std::map<std::string, std::string> after, before;
    for (auto& each : scenario.heard) {
        std::set<std::string> once;
        std::map<std::string, unsigned long> last;  // of each speaker
        for (size_t i = 0; i < each->lines.size(); ++i) {
            const std::string& line = each->lines[i];
            if (!once.insert(line).second) return sim::fail("heard twice: %s", line.c_str());
            unsigned long number = strtoul(line.c_str() + line.find('#') + 1, nullptr, 10);
            unsigned long& latest = last[line.substr(0, line.find(' '))];
            if (number <= latest) return sim::fail("heard too late: %s", line.c_str());
            latest = number;
            if (i == 0) continue;
            const std::string& previous = each->lines[i - 1];
            if (after.emplace(previous, line).first->second != line ||
                before.emplace(line, previous).first->second != previous)
                return sim::fail("not for everybody the same came before: %s", line.c_str());
        }
    }
}

void be_fresh(Scenario& scenario) {
    (void)sleep_for(bad_weather + 8_s);  // a host may stand still for two, a link be cut for five
    Result<Stream> stream = connect("server", port, 5_s);
    if (!stream) return;
    stream->settimeout(5_s);
    (void)stream->send("/join fresh\nhello\n");
    for (bool heard = false; !heard;) {
        auto [line, error] = stream->receive("*l");
        if (error) return;
        heard = line.ends_with(": hello");
    }
    scenario.fresh_served = true;
}

void people(World& world) {
    auto scenario = std::make_shared<Scenario>();
    auto server = world.host("server");
    scenario->fair = set_weather(world);
    one_allocation_of = !scenario->fair && world.choose(2) ? 100 : 0;
    world.at(bad_weather, [] { one_allocation_of = 0; });
    server.serve([=] { serve(scenario->chat); });
    const char* const hosts[] = {"north", "south", "west"};
    for (int i = 0; i < talkers; ++i)
        world.host(hosts[i % 3]).run([=, &world] {
            for (int visit = 0; goes_on(world); ++visit)
                talk(scenario, world, "t" + std::to_string(i) + "." + std::to_string(visit));
        });
    world.host("deaf").run([=, &world] {
        for (int visit = 0; goes_on(world); ++visit)
            be_deaf(scenario, world, "d" + std::to_string(visit));
    });
    world.host("witness").run([=, &world] { witness(scenario, world); });
    world.host("east").run([=] {
        be_fresh(*scenario);
        (void)sleep_for(30_s);
        judge(*scenario);
    });
    world.always("the server's memory is bounded", [=] {
        return server.memory() + scenario->chat.memory() < server_memory_limit;
    });
    world.eventually("after the weather a fresh client is served", bad_weather + 15_s,
                     [=] { return scenario->fresh_served; });
}

// A day -------------------------------------------------------------------------------------------

constexpr int day_clients = 1000, day_hosts = 10, day_rooms = 100;
constexpr int hours = 24;

// One of a thousand: says a line every minute or so; whatever ends its connection, it comes again.
void spend_time(World& world, const std::string& room, const bool& over, uint64_t& heard) {
    while (!over && !world.failed()) {
        Result<Stream> stream = connect("server", port, 30_s);
        if (!stream) {
            (void)sleep_for(10_s);
            continue;
        }
        (void)stream->send("/join " + room + "\n");
        auto pause = [&] { return 1_s * int64_t(1 + world.choose(120)); };
        for (Duration says_next = world.elapsed() + pause(); !over;) {
            stream->settimeouts(never, 30_s, says_next - world.elapsed() + 1_ms);
            auto [line, error] = stream->receivepartial(1024);
            heard += line.size();
            if (error && error != Error::timeout) break;
            if (world.elapsed() < says_next) continue;
            says_next = world.elapsed() + pause();
            if (!stream->send("somebody has something to say in " + room + "\n")) break;
        }
    }
}

// The server's memory in each of a day's hours, printed: the last quarter may not need more than
// the first did.
int spend_a_day() {
    struct Day {
        Chat chat{{.idle = 1800_s}};
        bool over = false;
        uint64_t heard = 0;
        size_t at_hour[hours] = {}, most_of_quarter[4] = {};
        unsigned hour = 0;
    } day;
    constexpr Duration length = 3600_s * hours;
    sim::Options options{.limit = length + 7200_s, .most_steps = UINT64_MAX};
    auto body = [&](World& world) {
        auto server = world.host("server");
        server.setdescriptors(4096);
        server.serve([&] { serve(day.chat); });
        for (int i = 0; i < day_clients; ++i) {
            auto host = world.host(("host" + std::to_string(i % day_hosts)).c_str());
            host.run([&, i] {
                (void)sleep_for(Duration::nanoseconds(world.choose(60'000)) * 1'000'000);
                spend_time(world, "room" + std::to_string(i / day_hosts % day_rooms), day.over,
                           day.heard);
            });
        }
        auto memory = [&day, server] { return server.memory() + day.chat.memory(); };
        world.every(60_s, [&day, &world, memory] {
            int64_t now = world.elapsed().count() / 1'000'000'000;
            auto quarter = size_t(now * 4 / (hours * 3600));
            if (quarter < 4 && memory() > day.most_of_quarter[quarter])
                day.most_of_quarter[quarter] = memory();
        });
        world.every(3600_s, [&day, &world, memory] {
            if (day.hour == hours) return;
            day.at_hour[day.hour++] = memory();
            printf("hour %2u  %8zu KiB  %4zu members  %8llu lines said  %10llu bytes heard  "
                   "%8llu faults\n",
                   day.hour, memory() / 1024, day.chat.members(),
                   (unsigned long long)day.chat.said(), (unsigned long long)day.heard,
                   (unsigned long long)world.faults());
            fflush(stdout);
            day.over = day.hour == hours;
        });
        world.setfaults(sim::Faults::many());
        world.at(length, [&world] { world.setfaults({}), world.heal(); });
    };
    sim::Outcome outcome = sim::run(1, body, options);
    size_t first = day.most_of_quarter[0], last = day.most_of_quarter[3];
    constexpr size_t slack = 512 << 10;  // a few threads' stacks: less than a byte for each line
    bool flat = last <= first + slack;
    printf("%llu steps; most memory: %zu KiB in the first quarter, %zu in the last: %s\n",
           (unsigned long long)outcome.steps, first / 1024, last / 1024,
           flat ? "flat" : "it grows");
    if (!outcome) printf("failed: %s\n", outcome.failure);
    return outcome && flat ? 0 : 1;
}

}  // namespace

int main(int count, char** words) {
    if (count > 1 && strcmp(words[1], "--day") == 0) return spend_a_day();
    sim::CampaignOptions options{.run = {.audit = 16}, .seeds = 100};
    return sim::campaign("chat", options, people);
}
