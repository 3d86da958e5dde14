// Sim-demo: a bank that loses a deposit once in a while, and how a simulated world finds out when.
//
// Two customers pay in over the network. The bank's handler reads the balance, has the deposit
// written to a journal on another host, and stores the new balance. Writing to the journal parks:
// whatever the other customer's handler stores meanwhile is overwritten. In most runs the two do
// not meet, and nothing is wrong.
//
// What is printed depends on the seed and on nothing else. tests/README.md has the exercise.
#include "program.h"

#include <copse/sim.h>

#include <getopt.h>
#include <stdarg.h>
#include <string.h>

using namespace copse;
using namespace copse::literals;
using sim::World;

namespace {

constexpr const char* usage =
    "usage: copse-sim-demo [--seed N] [--seeds N] [--campaign] [--fixed]\n"
    "  --seed N    tell the story of that seed; with --seeds: begin there\n"
    "  --seeds N   try so many seeds, 100 by default, and tell the story of the first that fails\n"
    "  --campaign  try them as a test would; COPSE_SEED, COPSE_REPLAY, COPSE_STOP_AT are heeded\n"
    "  --fixed     the bank as it should be\n"
    "Exit code 0: no deposit was lost.\n";

constexpr uint16_t bank_port = 1000, journal_port = 1001;
constexpr int customers = 2, deposits_of_each = 2;

bool fixed = false;
bool telling = false;

// A line of the story.
void tell(const char* who, const char* format, ...) __attribute__((format(printf, 2, 3)));
void tell(const char* who, const char* format, ...) {
    if (!telling) return;
    const World& world = *sim::inside();
    printf("  step %3llu  %6lld us  %-6s", (unsigned long long)world.steps(),
           (long long)(world.elapsed().count() / 1000), who);
    va_list words;
    va_start(words, format);
    vprintf(format, words);
    va_end(words);
    putchar('\n');
}

int number_in(std::string_view text) {
    int number = 0;
    for (char c : text)
        if (c >= '0' && c <= '9') number = number * 10 + (c - '0');
    return number;
}

Error send_number(Stream& stream, int number) {
    char text[16];
    return stream.send({text, size_t(snprintf(text, sizeof text, "%d\n", number))}).error;
}

// Sends a number and waits for the answer.
int ask(Stream& stream, int number) {
    if (send_number(stream, number)) return -1;
    Result<std::string_view> answer = stream.receive("*l");
    return answer ? number_in(*answer) : -1;
}

// The programs ------------------------------------------------------------------------------------

struct Bank {
    int balance = 100;
    int expected = 100;
    int customers_done = 0;
};

void journal() {
    Result<Server> server = addserver(journal_port, [](Stream& bank) {
        while (Result<std::string_view> line = bank.receive("*l"))
            if (send_number(bank, number_in(*line))) return;
    });
    (void)wait_for_stop();
}

void write_to_journal(int amount) {
    Result<Stream> book = connect("journal", journal_port);
    if (book) (void)ask(*book, amount);
}

void deposit(Bank& bank, int amount) {
    if (fixed) {
        write_to_journal(amount);
        bank.balance += amount;  // nothing parks between reading and writing
        return tell("bank", "the journal has the %d: the balance is %d", amount, bank.balance);
    }
    int balance = bank.balance;
    tell("bank", "the balance was %d; the journal is told of %d more", balance, amount);
    write_to_journal(amount);
    bank.balance = balance + amount;
    tell("bank", "the journal has the %d: the balance is %d", amount, bank.balance);
}

void serve_customers(Bank& bank) {
    Result<Server> server = addserver(bank_port, [&bank](Stream& customer) {
        while (Result<std::string_view> line = customer.receive("*l")) {
            deposit(bank, number_in(*line));
            if (send_number(customer, bank.balance)) return;
        }
    });
    (void)wait_for_stop();
}

void pay_in(Bank& bank, World& world, const char* name, int amount, Duration comes_after) {
    (void)sleep_for(comes_after);
    Result<Stream> stream = connect("bank", bank_port);
    for (int i = 0; stream && i < deposits_of_each; ++i) {
        (void)sleep_for(Duration::nanoseconds(world.choose(80'000'000)));
        tell(name, "pays in %d", amount);
        bank.expected += amount;
        (void)ask(*stream, amount);
    }
    if (++bank.customers_done < customers) return;
    tell("world", "the balance should be %d, and is %d", bank.expected, bank.balance);
    if (bank.balance != bank.expected)
        sim::fail("a deposit was lost: the balance is %d, not %d", bank.balance, bank.expected);
}

// The world ---------------------------------------------------------------------------------------

Bank bank;

void people(World& world) {
    bank = {};
    telling = telling || getenv("COPSE_SEED") || getenv("COPSE_REPLAY");
    world.host("journal").serve(journal);
    world.host("bank").serve([] { serve_customers(bank); });
    world.host("ann").run([&world] { pay_in(bank, world, "ann", 10, 0_ms); });
    world.host("bob").run([&world] { pay_in(bank, world, "bob", 20, 40_ms); });
}

bool tell_story(uint64_t seed) {
    printf("seed %llu\n", (unsigned long long)seed);
    telling = true;
    sim::Outcome outcome = sim::run(seed, people);
    telling = false;
    printf("%s after %llu steps; trace %016llx\n",
           outcome.ok ? "nothing is wrong" : outcome.failure, (unsigned long long)outcome.steps,
           (unsigned long long)outcome.trace);
    return outcome.ok;
}

bool try_seeds(uint64_t first, uint64_t count) {
    uint64_t failed = 0, first_failed = 0;
    for (uint64_t seed = first; seed < first + count; ++seed) {
        if (sim::run(seed, people)) continue;
        if (!failed++) first_failed = seed;
    }
    printf("%llu seeds from %llu on: a deposit was lost in %llu\n", (unsigned long long)count,
           (unsigned long long)first, (unsigned long long)failed);
    return failed == 0 || tell_story(first_failed);
}

}  // namespace

int main(int count, char** words) {
    static const option known[] = {{"seed", required_argument, nullptr, 's'},
                                   {"seeds", required_argument, nullptr, 'n'},
                                   {"campaign", no_argument, nullptr, 'c'},
                                   {"fixed", no_argument, nullptr, 'f'},
                                   {"help", no_argument, nullptr, 'h'},
                                   {}};
    unsigned seed = 0, seeds = 0;
    bool campaign = false;
    for (int found; (found = getopt_long(count, words, "", known, nullptr)) != -1;) {
        switch (found) {
        case 's': seed = program::whole("seed", optarg, 1, 4e9); break;
        case 'n': seeds = program::whole("seeds", optarg, 1, 1e9); break;
        case 'c': campaign = true; break;
        case 'f': fixed = true; break;
        case 'h': program::help(usage);
        default: program::misuse(usage);
        }
    }
    if (optind < count) program::misuse(usage);
    setvbuf(stdout, nullptr, _IOLBF, 0);  // whoever stops in the debugger sees the story so far
    if (campaign) {
        sim::CampaignOptions options{.seeds = seeds ? seeds : 100u, .first = seed ? seed : 1u};
        options.processes = 1;  // so that it is always the same seed that is found first
        return sim::campaign("sim-demo", options, people);
    }
    bool alone = seed && !seeds;
    bool right = alone ? tell_story(seed) : try_seeds(seed ? seed : 1, seeds ? seeds : 100);
    return right ? program::succeeded : program::failed;
}
