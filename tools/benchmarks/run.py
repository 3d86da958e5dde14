#!/usr/bin/env python3
"""Runs the benchmarks that tools/bench has built. It is tools/bench that a person calls."""
import argparse
import sys
from pathlib import Path

from compare_suite import compare_suite
from memory_suite import memory_suite
from micro_suite import micro_suite
from net_suite import net_suite
from page import write_page
from processes import clean_up_on_signals
from programs import Programs
from report import machine, print_suite, summary, write_json

SUITES = {"micro": (micro_suite, 7), "net": (net_suite, 5), "memory": (memory_suite, 3),
          "compare": (compare_suite, 5)}  # and how many rounds unless told


def read_options():
    parser = argparse.ArgumentParser(prog="tools/bench")
    parser.add_argument("suite", choices=[*SUITES, "all"])
    parser.add_argument("--build", required=True, help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json")
    parser.add_argument("--html")
    options = parser.parse_args()
    if options.rounds is not None and options.rounds < 1:
        parser.error("--rounds takes a number of at least 1")
    if options.suite == "all" and (options.json or options.html):
        parser.error("all has a file for each suite; --json and --html name one only")
    return options


def run_suite(name, programs, options):
    make, rounds = SUITES[name]
    where = machine(options.build)
    suite = make(programs, options.quick)
    if options.quick:
        suite.notes.append("quick: each run was too short for its figure to mean anything")
    if where["load"] > 0.5:
        suite.notes.append(f"WARNING: other programs were running (a load of {where['load']:.1f})")
    suite.run(options.rounds or (1 if options.quick else rounds))
    results = Path(options.build, "results")
    files = (Path(options.json or results / f"{name}.json"),
             Path(options.html or results / f"{name}.html"))
    write_json(files[0], suite, where)
    write_page(files[1], suite, where)
    print_suite(suite, where)
    print(f"written: {files[0]} and {files[1]}", flush=True)
    return suite


def main():
    options = read_options()
    clean_up_on_signals()
    programs = Programs(options.build)
    names = SUITES if options.suite == "all" else [options.suite]
    suites = [run_suite(name, programs, options) for name in names]
    if len(suites) > 1:
        print()
        for suite in suites:
            print(summary(suite))
    return 1 if any(suite.failures for suite in suites) else 0


if __name__ == "__main__":
    sys.exit(main())
