"""gevent: its verbs, each in a loop of its own."""
import os
import sys
import time

import gevent
from gevent.event import Event

SCALE = float(os.environ.get("COPSE_BENCH_SCALE", 1))


def yields(count):
    rounds = max(3, int(5e5 * SCALE) // count)
    start = Event()

    def yield_often():
        start.wait()
        for _ in range(rounds):
            gevent.sleep(0)

    threads = [gevent.spawn(yield_often) for _ in range(count)]
    gevent.sleep(0)
    begun = time.perf_counter_ns()
    start.set()
    gevent.joinall(threads)
    return (time.perf_counter_ns() - begun) / rounds / count


def spawns():
    count = int(5e4 * SCALE) + 1
    begun = time.perf_counter_ns()
    for _ in range(count):
        gevent.spawn(lambda: None).join()
    return (time.perf_counter_ns() - begun) / count


def handoffs(pending, timeout):
    rounds = int(5e4 * SCALE) + 1
    never = Event()
    for i in range(pending):
        gevent.spawn(never.wait, 100 + i % 977)
    gevent.sleep(0)
    events = [Event(), Event()]

    def hand_over(self):
        for _ in range(rounds):
            if not events[self].wait(timeout):
                sys.exit(1)
            events[self].clear()
            events[not self].set()

    pair = [gevent.spawn(hand_over, 0), gevent.spawn(hand_over, 1)]
    begun = time.perf_counter_ns()
    events[0].set()
    gevent.joinall(pair)
    return (time.perf_counter_ns() - begun) / rounds / 2


def resident_kib():
    with open("/proc/self/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE") / 1024


def parked_memory(count):
    never = Event()
    before = resident_kib()
    threads = [gevent.spawn(never.wait) for _ in range(count)]
    gevent.sleep(0)
    return (resident_kib() - before) / len(threads)


test, number = sys.argv[1], int((sys.argv + ["2"])[2])
figure = {
    "yield": lambda: yields(number),
    "spawn": spawns,
    "handoff": lambda: handoffs(0, None),
    "timed": lambda: handoffs(number, 10),
    "memory": lambda: parked_memory(number),
}[test]()
print(f"{figure:.3f}", flush=True)
os._exit(0)  # some may be waiting still
