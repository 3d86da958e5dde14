"""Memory: what a thread that waits and a connection that is silent keep."""
import functools
import re
import time

from jobs import Suite
from measure import COPSE, Bar
from processes import MICRO_CPU, Failure, descriptor_limit, output_of
from programs import LIMITS, RAW
from servers import Connections, Server

THREADS = (1000, 100000, 1000000)
CONNECTIONS = 9000
SAID = re.compile(r"# (\d+) threads, [\d.]+ KiB of addresses each, (\d+) mappings, ([\d.]+) s")


def park_threads(program, count):
    said, complained = output_of([program, "memory", count], MICRO_CPU)
    details = SAID.search(complained)
    if not details or int(details.group(1)) != count:
        raise Failure(f"said {complained!r}")
    return {f"kib {count}": float(said), f"mappings {count}": float(details.group(2)),
            f"seconds {count}": float(details.group(3))}


def idle_connections(command, load_program, count, key):
    with Server(command) as server:
        before = server.resident_kib()
        with Connections(load_program, server, mode="idle", connections=count):
            time.sleep(0.3)
            return {key: (server.resident_kib() - before) / count}


def measure_idle(suite, key, count, bar=None):
    suite.measure(key, f"{count:,} connections, silent after an echo, each", "KiB", bar=bar,
                  limits=tuple(RAW), note="what the server's process keeps; the kernel's own "
                                          "memory for a socket is not in it")


def memory_suite(programs, quick):
    suite = Suite("memory", "What waiting costs in memory")
    rounds = 1 if quick else 3
    for count in THREADS:
        most = count == THREADS[-1]
        suite.measure(f"kib {count}", f"{count:,} parked threads, each", "KiB",
                      bar=Bar(4.3, "KiB") if most else None, limits=tuple(LIMITS))
        suite.measure(f"mappings {count}", f"{count:,} parked threads: mappings", "",
                      bar=Bar(99) if most else None)
        suite.measure(f"seconds {count}", f"{count:,} parked threads: time to make them", "s",
                      bar=Bar(20, "s") if most else None, limits=tuple(LIMITS))
        subjects = {COPSE: programs.micro, **programs.limits()}
        for name, program in subjects.items():
            suite.add_job(name, f"{count:,} parked threads",
                          [f"kib {count}", f"mappings {count}", f"seconds {count}"],
                          functools.partial(park_threads, program, count), rounds)
    if not programs.limits():
        suite.skip("the limit, which is written in x86-64's assembly")

    count = 1000 if quick else CONNECTIONS
    if count + 64 > descriptor_limit():
        suite.skip(f"{count:,} idle connections: a process may have {descriptor_limit():,} "
                   "descriptors here")
        return suite
    measure_idle(suite, "idle", count, Bar(4.4, "KiB"))
    servers = {COPSE: [programs.echo], **programs.raw_servers()}
    for name, command in servers.items():
        suite.add_job(name, f"{count:,} idle connections", ["idle"],
                      functools.partial(idle_connections, command, programs.load, count, "idle"),
                      rounds)
    suite.notes.append("copse's threads have a guard each; the limit's have none")
    return suite
