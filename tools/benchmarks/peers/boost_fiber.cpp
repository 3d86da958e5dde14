// Boost.Fiber: its verbs, each in a loop of its own. One operating-system thread, round robin.
#include "../figures.h"

#include <boost/fiber/all.hpp>
#include <chrono>
#include <vector>

namespace fibers = boost::fibers;
using namespace std::chrono_literals;
using boost::this_fiber::yield;
using fibers::fiber;

namespace {

constexpr size_t stack_size = 16384;
double scale = 1;
long scaled(double operations) { return long(operations * scale) + 1; }

template <class F> fiber start(F&& body) {
    static fibers::pooled_fixedsize_stack stacks{stack_size};
    return fiber{fibers::launch::post, std::allocator_arg, stacks, std::forward<F>(body)};
}

// A place to wait at. A fiber that is woken twice before it waits remembers one of them.
class Event {
  public:
    void set() {
        std::lock_guard lock{mutex_};
        is_set_ = true;
        condition_.notify_one();
    }
    void wait() {
        std::unique_lock lock{mutex_};
        condition_.wait(lock, [this] { return is_set_; });
        is_set_ = false;
    }
    bool wait_for(std::chrono::seconds time) {
        std::unique_lock lock{mutex_};
        bool came = condition_.wait_for(lock, time, [this] { return is_set_; });
        is_set_ = false;
        return came;
    }

  private:
    fibers::mutex mutex_;
    fibers::condition_variable condition_;
    bool is_set_ = false;
};

double yields(long count) {
    long rounds = share(scaled(5e6), count);
    fibers::barrier all_are_there{size_t(count) + 1};
    std::vector<fiber> all;
    for (long i = 0; i < count; ++i) {
        all.push_back(start([&] {
            all_are_there.wait();
            for (long left = rounds; left > 0; --left) yield();
        }));
    }
    all_are_there.wait();
    double begun = clock_ns();
    for (fiber& each : all) each.join();
    return (clock_ns() - begun) / double(rounds) / double(count);
}

double spawns() {
    long count = scaled(5e5);
    start([] {}).join();
    double begun = clock_ns();
    for (long i = 0; i < count; ++i) start([] {}).join();
    return (clock_ns() - begun) / double(count);
}

double handoffs(long pending, bool timed) {
    long rounds = scaled(5e5);
    std::vector<fiber> others;
    bool ending = false;
    fibers::mutex mutex;
    fibers::condition_variable end;
    for (long i = 0; i < pending; ++i) {
        others.push_back(start([&, i] {
            std::unique_lock lock{mutex};
            end.wait_for(lock, std::chrono::seconds(100 + i % 977), [&] { return ending; });
        }));
    }
    for (int i = 0; i < 3; ++i) yield();
    Event events[2];
    auto hand_over = [&](int self) {
        for (long left = rounds; left > 0; --left) {
            if (timed && !events[self].wait_for(10s)) exit(1);
            if (!timed) events[self].wait();
            events[!self].set();
        }
    };
    fiber pair[2] = {start([&] { hand_over(0); }), start([&] { hand_over(1); })};
    double begun = clock_ns();
    events[0].set();
    for (fiber& each : pair) each.join();
    double took = clock_ns() - begun;
    ending = true;
    end.notify_all();
    for (fiber& each : others) each.join();
    return took / double(rounds) / 2;
}

void parked_memory(long count) {
    Event never;
    std::vector<fiber> all;
    all.reserve(size_t(count));
    fibers::fixedsize_stack stacks{stack_size};  // without a guard: those end at 32,000
    Memory before = memory_now();
    double begun = clock_ns();
    for (long i = 0; i < count; ++i)
        all.emplace_back(fibers::launch::post, std::allocator_arg, stacks, [&] { never.wait(); });
    yield();
    yield();
    print_memory(before, count, (clock_ns() - begun) * 1e-9);
    fflush(stdout);
    _exit(0);  // they are all still waiting
}

}  // namespace

int main(int words, char** word) {
    if (const char* factor = getenv("COPSE_BENCH_SCALE")) scale = atof(factor);
    std::string_view test = words > 1 ? word[1] : "";
    long number = words > 2 ? atol(word[2]) : 2;
    if (test == "yield")
        print_figure(yields(number));
    else if (test == "spawn")
        print_figure(spawns());
    else if (test == "handoff")
        print_figure(handoffs(0, false));
    else if (test == "timed")
        print_figure(handoffs(number, true));
    else if (test == "memory")
        parked_memory(number);
    else
        return 2;
}
