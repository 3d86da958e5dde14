"""Compare: copse beside the libraries that Debian offers, in one interleaving."""
import functools

from distance import place
from jobs import Chart, Suite
from measure import COPSE
from memory_suite import idle_connections, measure_idle
from micro_suite import LIMIT, add_test
from net_suite import (DEEP, FEW, HELLOS, MANY, add_load, add_system_calls, describe_load,
                       timing)
from processes import descriptor_limit

YIELDING = (2, 1000, 100000)
THREADS = 10000
TESTS = {"yield 2": "Yield, 2 threads", "yield 1000": "Yield, 1,000 threads",
         "yield 100000": "Yield, 100,000 threads", "spawn": "Spawn, run and end a thread",
         "handoff": "Hand-off: wake the other one and park",
         "timed 100000": "Hand-off with a deadline, 100,000 other deadlines"}


def add_schedulers(suite, programs, scale):
    for key, title in TESTS.items():
        suite.measure(key, title, "ns", limits=LIMIT)
        add_test(suite, COPSE, [programs.micro], key, key, scale)
        if not key.startswith("timed"):
            for name, program in programs.limits().items():
                add_test(suite, name, [program], key, key, scale)
    memory = f"memory {THREADS}"
    suite.measure(memory, f"{THREADS:,} parked threads, each", "KiB", limits=LIMIT)
    for name, program in {COPSE: programs.micro, **programs.limits()}.items():
        add_test(suite, name, [program], memory, memory, scale)
    for peer in programs.peers:
        for key in [*TESTS, memory]:
            if key.split()[0] in peer.get("tests", ()):
                add_test(suite, peer["name"], peer["micro"], key, key, scale)
    suite.charts.append(Chart("What a yield costs", "threads",
                              {"": {n: f"yield {n}" for n in YIELDING}}))


def add_servers(suite, programs, quick):
    echoes = {COPSE: [programs.echo], **programs.raw_servers()}
    most = {}
    for peer in programs.peers:
        if "server" in peer:
            echoes[peer["name"]] = peer["server"]
            most[peer["name"]] = peer.get("most_connections", descriptor_limit())
    for configuration in (FEW, MANY, DEEP):
        describe_load(suite, configuration)
        for name, command in echoes.items():
            if configuration.options["connections"] <= most.get(name, descriptor_limit()):
                add_load(suite, name, command, programs, configuration, timing(quick))
            else:
                suite.skip(f"{name}: {configuration.title}; it takes at most {most[name]}")
    add_system_calls(suite, echoes, programs, [FEW], quick)

    count = 800
    measure_idle(suite, "idle", count)
    for name, command in echoes.items():
        suite.add_job(name, "idle connections", ["idle"],
                      functools.partial(idle_connections, command, programs.load, count, "idle"),
                      1 if quick else 3)


def add_http(suite, programs, quick):
    servers = programs.raw_servers("http")
    if programs.hello.exists():
        servers[COPSE] = [programs.hello]
    else:
        suite.skip("copse-hello: there is no such program in this build")
    servers.update({peer["name"]: peer["http"] for peer in programs.peers if "http" in peer})
    for configuration in HELLOS:
        describe_load(suite, configuration)
        for name, command in servers.items():
            add_load(suite, name, command, programs, configuration, timing(quick))


def compare_suite(programs, quick):
    suite = Suite("compare", "Beside other libraries",
                  place=functools.partial(place, programs.distance))
    for peer in programs.peers:
        if "missing" in peer:
            suite.skip(f"{peer['name']}: install {peer['missing']}, or say --with-peers")
    add_schedulers(suite, programs, 0.02 if quick else None)
    add_servers(suite, programs, quick)
    add_http(suite, programs, quick)
    for measure in suite.measures.values():
        measure.bar = None  # those are micro's and net's
    return suite
