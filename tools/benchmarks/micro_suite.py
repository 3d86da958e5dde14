"""Micro: the scheduler's verbs, in nanoseconds."""
import functools

from jobs import Chart, Suite
from measure import COPSE, Bar
from processes import MICRO_CPU, Failure, output_of
from programs import LIMITS

YIELDING = (2, 10, 100, 1000, 10000, 100000)
PENDING = (10, 100, 1000, 10000, 100000)
BATCHES = (100, 1000)
LIMIT = tuple(LIMITS)


def run_test(program, test, key, scale):
    said, _ = output_of([*program, *test.split()], MICRO_CPU, scale)
    try:
        return {key: float(said)}
    except ValueError as error:
        raise Failure(f"said {said!r} and not a figure") from error


def add_test(suite, subject, program, test, key, scale):
    """`program` is a command; it prints the figure of one test."""
    run = functools.partial(run_test, program, test, key, scale)
    suite.add_job(subject, suite.measures[key].title, [key], run)


def describe(suite):
    bars = {2: Bar(8, "ns"), 1000: Bar(12, "ns"), 100000: Bar(40, "ns")}
    for count in YIELDING:
        suite.measure(f"yield {count}", f"Yield, {count:,} threads", "ns", bar=bars.get(count),
                      limits=LIMIT)
    suite.measure("spawn", "Spawn, run and end a thread", "ns", bar=Bar(25, "ns"), limits=LIMIT)
    for count in BATCHES:
        suite.measure(f"spawn-batch {count}", f"The same, {count:,} at a time", "ns", limits=LIMIT)
    suite.measure("handoff", "Hand-off: wake the other one and park", "ns", bar=Bar(13, "ns"),
                  limits=LIMIT)
    for count in PENDING:
        suite.measure(f"untimed {count}", f"Hand-off, {count:,} others have deadlines", "ns")
        suite.measure(f"timed {count}", f"The same, each wait with a deadline ({count:,} others)",
                      "ns")
    suite.measure("scoped 100000", "The same, each wait in a Timeout of its own (100,000 others)",
                  "ns", note="making a Timeout reads the clock")
    suite.measure("deadline", "A deadline armed and cancelled among 100,000", "ns",
                  bar=Bar(20, "ns"), note="timed minus untimed, round by round")
    suite.differences.append(("deadline", "timed 100000", "untimed 100000"))
    suite.measure("sleep", "A sleep of 1 ms ends late by", "us", bar=Bar(70, "us"),
                  note="the median of 301 sleeps is one sample")


def micro_suite(programs, quick):
    suite = Suite("micro", "What the scheduler's verbs cost")
    scale = 0.02 if quick else None
    describe(suite)
    for key, measure in suite.measures.items():
        if key == "deadline":
            continue
        add_test(suite, COPSE, [programs.micro], key, key, scale)
        for name, program in programs.limits().items():
            if measure.limits:
                add_test(suite, name, [program], key, key, scale)
    if not programs.limits():
        suite.skip("the limit, which is written in x86-64's assembly")
    suite.charts = [
        Chart("What a yield costs", "threads", {"": {n: f"yield {n}" for n in YIELDING}}),
        Chart("What a hand-off costs", "other threads that wait with a deadline",
              {"no deadline": {n: f"untimed {n}" for n in PENDING},
               "with a deadline": {n: f"timed {n}" for n in PENDING}}),
    ]
    suite.notes.append("the limit's stacks are 128 KiB from each other, as copse's are; it has no "
                       "errors, deadlines, guards or poller")
    return suite
