"""Servers, and the load that is put on them."""
import json
import os
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

from processes import (LOAD_CPU, PATIENCE, SERVER_CPU, Failure, descriptor_limit, end, output_of,
                       read_line, start)

STARTING = 30  # seconds for a server to listen


class Server:
    """A server that chose its port and said so. To be used in a `with` statement."""

    def __init__(self, command, wrapper=()):
        self.command = list(wrapper) + list(command)
        self.expected_to_end = False  # while it is held

    def __enter__(self):
        self.errors = tempfile.TemporaryFile()
        self.process = start(self.command, SERVER_CPU, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=self.errors)
        try:
            line = read_line(self.process, STARTING, "the server did not say where it listens")
            self.port = int(line.rpartition(":")[2])
        except (Failure, ValueError) as failure:
            self.stop()
            raise Failure(f"{failure} {self.complaint()}") from failure
        return self

    def __exit__(self, kind, _value, _trace):
        ended = self.process.poll()
        self.stop()
        if ended is not None and kind is None and not self.expected_to_end:
            raise Failure(f"the server ended with {ended}: {self.complaint()}")

    @property
    def pid(self):
        return self.process.pid

    def stop(self, sent=signal.SIGKILL):
        end(self.process, sent)

    def complaint(self):
        self.errors.seek(0)
        return self.errors.read().decode(errors="replace").strip()[-300:]

    def resident_kib(self):
        statm = Path(f"/proc/{self.pid}/statm").read_text(encoding="ascii")
        return int(statm.split()[1]) * os.sysconf("SC_PAGESIZE") / 1024

    def processor_seconds(self):
        tasks = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text(encoding="ascii").split()[0]) for each in tasks) * 1e-9


class Nginx(Server):
    """nginx does not choose a port, and wants a folder for its files."""

    def __init__(self, command, wrapper=()):
        program, _, template = command
        super().__init__([program], wrapper)
        self.template = Path(template)

    def __enter__(self):
        self.folder = tempfile.TemporaryDirectory(prefix="copse-bench-nginx.")
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        text = self.template.read_text(encoding="utf-8")
        configuration = Path(self.folder.name, "nginx.conf")
        configuration.write_text(text.replace("FOLDER", self.folder.name)
                                 .replace("PORT", str(self.port)), encoding="utf-8")
        self.errors = tempfile.TemporaryFile()
        self.process = start([*self.command, "-e", f"{self.folder.name}/error.log",
                              "-c", configuration], SERVER_CPU, stdin=subprocess.DEVNULL,
                             stdout=subprocess.DEVNULL, stderr=self.errors)
        self.await_listening()
        return self

    def await_listening(self):
        for _ in range(STARTING * 20):
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                time.sleep(0.05)
            if self.process.poll() is not None:
                break
        self.stop()
        raise Failure(f"nginx does not listen: {self.complaint()}")

    def stop(self, sent=signal.SIGKILL):
        super().stop(sent)
        self.folder.cleanup()


def load_command(program, server, options):
    words = [program, "--port", server.port, "--server-pid", server.pid]
    for name, value in options.items():
        words += [f"--{name}", value]
    return words


def found_by_load(said):
    try:
        return json.loads(said)
    except json.JSONDecodeError as error:
        raise Failure(f"the load generator said {said!r}") from error


def load(program, server, **options):
    """What the load generator found; every byte was right, or this is a failure."""
    named = {name.replace("_", "-"): value for name, value in options.items()}
    said, _ = output_of(load_command(program, server, named), LOAD_CPU)
    return found_by_load(said)


class Connections:
    """Connections that have been answered once, and are silent but when told."""

    def __init__(self, program, server, **options):
        per_process = descriptor_limit() - 64
        self.command = load_command(program, server, {
            "processes": -(-options["connections"] // per_process), **options}) + ["--wait"]

    def __enter__(self):
        self.process = start(self.command, LOAD_CPU, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if self.read("the connections were not made") != "ready":
                raise Failure("the load generator is not ready")
        except Failure:
            end(self.process)
            raise
        return self

    def read(self, trouble):
        return read_line(self.process, PATIENCE, trouble)

    def put_under_load(self):
        """Does what the options say; returns with the connections silent, and open still."""
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()
        return found_by_load(self.read("the load came to no end"))

    def __exit__(self, kind, _value, _trace):
        self.process.stdin.close()
        try:
            code = self.process.wait(20)
        except subprocess.TimeoutExpired:
            code = "no end"
        end(self.process)
        if code != 0 and kind is None:
            raise Failure(f"the load generator's exit code: {code}")
