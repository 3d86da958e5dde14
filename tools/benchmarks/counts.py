"""Counts: what a request takes of a server, in system calls and in instructions of its own."""
import re
import shutil
import signal
import tempfile
import time
from pathlib import Path

from processes import LOAD_CPU, Failure, end, output_of, start
from servers import Connections, Server, load


class Perf:
    """Counts in the kernel, at next to no cost: the server does what it does without it."""
    name = "perf"

    @staticmethod
    def command(pid, file):
        return ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o", file, "-p", pid]

    @staticmethod
    def read(text):
        found = re.search(r"^(\d+),.*raw_syscalls:sys_enter", text, re.MULTILINE)
        return int(found.group(1)) if found else None

    @staticmethod
    def works():
        if not shutil.which("perf"):
            return False
        with tempfile.NamedTemporaryFile("r") as file:
            try:
                output_of(["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-o", file.name,
                           "true"], LOAD_CPU)
            except Failure:
                return False
            return bool(Perf.read(file.read()))


class Strace:
    """Stops the server at every call. So much slower, it meets other queues than it would."""
    name = "strace, which slows the server down and thereby changes a little what it does"

    @staticmethod
    def command(pid, file):
        return ["strace", "-f", "-qq", "-c", "-o", file, "-p", pid]

    @staticmethod
    def read(text):
        found = re.search(r"^ *100\.00 +[\d.]+ +\d+ +(\d+) .*total$", text, re.MULTILINE)
        return int(found.group(1)) if found else None

    @staticmethod
    def works():
        return bool(shutil.which("strace"))


def system_call_counter():
    return next((each for each in (Perf, Strace) if each.works()), None)


def system_calls_per_request(counter, make_server, load_program, requests, **options):
    """Counted only while requests are made: connections cost calls, too."""
    with make_server() as server, tempfile.NamedTemporaryFile("r") as file, \
            Connections(load_program, server, requests=requests, **options) as connections:
        process = start(counter.command(server.pid, file.name), LOAD_CPU)
        try:
            time.sleep(0.4)  # until it has attached
            made = connections.put_under_load()["requests"]
        finally:
            end(process, signal.SIGINT)
        count = counter.read(file.read())
        if count is None:
            raise Failure(f"{counter.command(0, '')[0]} gave no count of system calls")
        return count / made


def count_instructions(command, load_program, requests, options):
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "log")
        valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no",
                    "--cachegrind-out-file=/dev/null", f"--log-file={log}"]
        with Server(command, valgrind) as server:
            load(load_program, server, requests=requests, **options)
            server.process.send_signal(signal.SIGTERM)
            server.process.wait(30)
            server.expected_to_end = True
        found = re.search(r"I +refs: +([\d,]+)", log.read_text(errors="replace"))
        if not found:
            raise Failure("valgrind gave no count of instructions")
        return int(found.group(1).replace(",", ""))


def instructions_per_request(command, load_program, requests, **options):
    """The difference of two runs: what starting and the connections take is the same in both."""
    once, twice = (count_instructions(command, load_program, each, options)
                   for each in (requests, 2 * requests))
    return (twice - once) / requests
