"""Net: an echo server and one that says hello, against servers that are nothing but epoll."""
import functools
import shutil
import time
from dataclasses import dataclass

from counts import instructions_per_request, system_call_counter, system_calls_per_request
from distance import place
from jobs import Suite
from measure import COPSE, Bar
from processes import LOAD_CPU, SERVER_CPU, descriptor_limit
from programs import RAW, RAW_SPINNING
from servers import Connections, Nginx, Server, load

RAW_NAMES = tuple(RAW)


@dataclass
class Configuration:
    """How a server is put under load. `counted` are the requests of a run that counts."""
    key: str
    title: str
    options: dict
    counted: int = 20000

    def fits(self):
        return self.options.get("connections", 0) + 64 <= descriptor_limit()


FEW = Configuration("50", "50 connections", {"connections": 50})
MANY = Configuration("1000", "1,000 connections", {"connections": 1000})
MOST = Configuration("10000", "10,000 connections", {"connections": 10000}, 40000)
DEEP = Configuration("50x16", "50 connections, 16 deep", {"connections": 50, "depth": 16}, 160000)
ONE = Configuration("1", "1 connection, on two cores", {"connections": 1})
RATE = Configuration("connect", "Connect, one echo, close; 20 at a time",
                     {"connections": 20, "mode": "connect"}, 5000)
ECHOES = (FEW, MANY, MOST, DEEP, ONE, RATE)
PLAIN = Configuration("hello", "Hello over HTTP, 50 connections",
                      {"connections": 50, "mode": "http"})
PIPELINED = Configuration("hello16", "Hello over HTTP, 50 connections, 16 deep",
                          {"connections": 50, "mode": "http", "depth": 16})
HELLOS = (PLAIN, PIPELINED)

CPU_BARS = {each.key: Bar(1.05, times=RAW_NAMES) for each in (FEW, MANY, MOST, DEEP)}
RATE_BARS = {"1": Bar(25000, "/s", at_most=False),
             "connect": Bar(0.95, at_most=False, times=RAW_NAMES),
             "hello": Bar(1.5, at_most=False, times=("nginx",)),
             "hello16": Bar(10, at_most=False, times=("nginx",))}
CALL_BARS = {"50": Bar(2.1)}


@dataclass
class Timing:
    """How long a load lasts, in seconds."""
    warm_up: float
    seconds: float


def timing(quick):
    return Timing(0.05, 0.15) if quick else Timing(0.2, 0.4)


def make_server(name, command):
    return Nginx(command) if name == "nginx" else Server(command)


def put_under_load(name, command, load_program, configuration, time_):
    with make_server(name, command) as server:
        found = load(load_program, server, warm_up=time_.warm_up, seconds=time_.seconds,
                     **configuration.options)
    key = configuration.key
    return {f"rate {key}": found["requests_per_second"], f"p50 {key}": found["p50_us"],
            f"p99 {key}": found["p99_us"], f"cpu {key}": found.get("server_ns_per_request")}


def describe_load(suite, configuration, limits=RAW_NAMES):
    key, title = configuration.key, configuration.title
    what = "connections" if key == "connect" else "requests"
    deep = configuration.options.get("depth", 1) > 1
    suite.measure(f"rate {key}", f"{title}: {what}", "/s", higher_is_better=True, limits=limits,
                  bar=RATE_BARS.get(key))
    for part in (50, 99):
        suite.measure(f"p{part} {key}", f"{title}: {part} of 100 answered within", "us",
                      limits=limits, note="a burst of 16 is one answer" if deep else "")
    suite.measure(f"cpu {key}", f"{title}: the server's time for each", "ns", limits=limits,
                  bar=CPU_BARS.get(key))


def add_load(suite, name, command, programs, configuration, time_, rounds=None):
    key = configuration.key
    suite.add_job(name, configuration.title,
                  [f"rate {key}", f"p50 {key}", f"p99 {key}", f"cpu {key}"],
                  functools.partial(put_under_load, name, command, programs.load, configuration,
                                    time_), rounds, apart=True)


def add_system_calls(suite, servers, programs, configurations, quick):
    counter = system_call_counter()
    if not counter:
        suite.skip("system calls a request: neither perf nor strace works here")
        return
    suite.notes.append(f"system calls are counted by {counter.name}")

    def count(name, command, configuration):
        requests = configuration.counted // (10 if quick else 1)
        requests = max(requests, 2 * configuration.options["connections"])
        return {f"calls {configuration.key}": system_calls_per_request(
            counter, lambda: make_server(name, command), programs.load, requests,
            **configuration.options)}

    for configuration in configurations:
        key = f"calls {configuration.key}"
        suite.measure(key, f"{configuration.title}: system calls for each", "",
                      limits=RAW_NAMES, bar=CALL_BARS.get(configuration.key))
        for name, command in servers.items():
            suite.add_job(name, f"system calls, {configuration.title}", [key],
                          functools.partial(count, name, command, configuration),
                          1 if quick else 3)


def add_instructions(suite, servers, programs, quick):
    if not shutil.which("valgrind"):
        suite.skip("instructions a request: valgrind is not installed")
        return
    suite.measure("instructions", f"{FEW.title}: the server's own instructions a request", "",
                  limits=RAW_NAMES, bar=Bar(250), note="counted by valgrind; the kernel's are not "
                                                       "in it")

    def count(command):
        return {"instructions": instructions_per_request(
            command, programs.load, 2000 if quick else 10000, **FEW.options)}

    for name, command in servers.items():
        suite.add_job(name, "instructions", ["instructions"], functools.partial(count, command),
                      1 if quick else 3)


def busy_when_idle(command, load_program):
    with Server(command) as server, \
            Connections(load_program, server, mode="idle", connections=50):
        time.sleep(1)
        before, start = server.processor_seconds(), time.monotonic()
        time.sleep(1)
        spent = server.processor_seconds() - before
        return {"idle": 100 * spent / (time.monotonic() - start)}


def add_hello(suite, programs, time_):
    servers = {}
    if programs.hello.exists():
        servers[COPSE] = [programs.hello]
    else:
        suite.skip("copse-hello: there is no such program in this build")
    nginx = programs.peer("nginx").get("http")
    if nginx:
        servers["nginx"] = nginx
    else:
        suite.skip("nginx, which is not installed; copse-hello's bars need it")
    servers.update(programs.raw_servers("http"))
    for configuration in HELLOS:
        describe_load(suite, configuration)
        for name, command in servers.items():
            add_load(suite, name, command, programs, configuration, time_)


def net_suite(programs, quick):
    suite = Suite("net", "What a request costs",
                  place=functools.partial(place, programs.distance))
    time_ = timing(quick)
    servers = {COPSE: [programs.echo], **programs.raw_servers()}
    configurations = [each for each in ECHOES if each.fits()]
    for configuration in ECHOES:
        if not configuration.fits():
            suite.skip(f"{configuration.title}: a process may have {descriptor_limit():,} "
                       "descriptors here")
    for configuration in configurations:
        describe_load(suite, configuration)
        for name, command in servers.items():
            add_load(suite, name, command, programs, configuration, time_)
    add_load(suite, RAW_SPINNING, programs.raw_spinning(), programs, ONE, time_)
    add_system_calls(suite, servers, programs, configurations, quick)
    add_instructions(suite, servers, programs, quick)
    suite.measure("idle", "Processor time after a second of silence, 50 connections", "%",
                  bar=Bar(0.05, "%"))
    suite.add_job(COPSE, "idle", ["idle"],
                  functools.partial(busy_when_idle, [programs.echo], programs.load), 3)
    add_hello(suite, programs, time_)
    if SERVER_CPU == LOAD_CPU:
        suite.notes.append("WARNING: there is one processor only; server and load share it")
    return suite
