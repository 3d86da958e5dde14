"""Processes: programs under measurement: pinned, waited for, and ended whatever happens."""
import atexit
import ctypes
import os
import resource
import select
import signal
import subprocess
import time

PATIENCE = 300  # seconds for one program's run
PR_SET_PDEATHSIG = 1

libc = ctypes.CDLL(None)
living = set()


class Failure(Exception):
    """What a program did instead of giving a figure."""


def cpus():
    """The processors for the server and for the load; the same one where there is one only."""
    allowed = sorted(os.sched_getaffinity(0))
    return allowed[0], allowed[min(1, len(allowed) - 1)]


SERVER_CPU, LOAD_CPU = cpus()
MICRO_CPU = LOAD_CPU  # interrupts tend to come to the first one


def descriptor_limit():
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def start(command, cpu, **named):
    def prepare():
        if cpu is not None:
            os.sched_setaffinity(0, {cpu})
        libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # should this program be killed

    try:
        process = subprocess.Popen([str(word) for word in command], preexec_fn=prepare,
                                   start_new_session=True, **named)
    except OSError as error:
        raise Failure(f"{command[0]}: {error.strerror}") from error
    living.add(process)
    return process


def end(process, sent=signal.SIGKILL, patience=10):
    if process.poll() is None:
        process.send_signal(sent)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    living.discard(process)
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream:
            stream.close()


def end_all():
    for process in list(living):
        end(process)


def clean_up_on_signals():
    def leave(number, _frame):
        raise SystemExit(128 + number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, leave)
    atexit.register(end_all)


def output_of(command, cpu, scale=None, patience=PATIENCE):
    """(standard output, standard error) of a program that has to succeed."""
    environment = dict(os.environ)
    if scale:
        environment["COPSE_BENCH_SCALE"] = str(scale)
    process = start(command, cpu, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                    stderr=subprocess.PIPE, text=True, env=environment)
    try:
        said, complained = process.communicate(timeout=patience)
    except subprocess.TimeoutExpired as error:
        raise Failure(f"did not end within {patience} s") from error
    finally:
        end(process)
    if process.returncode != 0:
        words = complained.strip().splitlines()
        raise Failure(f"exit code {process.returncode}: {'; '.join(words[-3:]) or said[:200]}")
    return said, complained


def read_line(process, patience, what):
    """The first line on a process's standard output."""
    end_of_patience = time.monotonic() + patience
    line = b""
    while not line.endswith(b"\n"):
        left = end_of_patience - time.monotonic()
        if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
            raise Failure(f"{what} within {patience} s")
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            raise Failure(f"{what}; it ended")
        line += byte
    return line.decode().strip()
