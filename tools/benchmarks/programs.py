"""Programs: where the build put them, and which peers there are."""
import json
import sys
from pathlib import Path

RAW = {"raw epoll, level-triggered": "lt", "raw epoll, edge-triggered": "et"}
RAW_SPINNING = "raw epoll, never sleeping"
LIMITS = {"limit, switch called": "call", "limit, switch inlined": "inline"}


class Programs:
    def __init__(self, build):
        self.tools = Path(build) / "tools"
        self.benchmarks = self.tools / "benchmarks"
        self.micro = self.benchmarks / "copse-bench-micro"
        self.load = self.benchmarks / "copse-bench-load"
        self.distance = self.benchmarks / "copse-bench-distance"
        self.raw = self.benchmarks / "copse-bench-raw-epoll"
        self.echo = self.tools / "copse-echo"
        self.hello = self.tools / "copse-hello"
        for program in (self.micro, self.load, self.raw, self.echo):
            if not program.exists():
                sys.exit(f"bench: {program} is missing; ./tools/bench builds it")
        file = self.benchmarks / "peers" / "peers.json"
        self.peers = json.loads(file.read_text(encoding="utf-8"))

    def limits(self):
        """Name and program of the limit's two kinds; none but on x86-64."""
        found = {name: self.benchmarks / f"copse-bench-limit-{kind}"
                 for name, kind in LIMITS.items()}
        return {name: program for name, program in found.items() if program.exists()}

    def raw_servers(self, answers="echo"):
        return {name: [self.raw, answers, mode] for name, mode in RAW.items()}

    def raw_spinning(self):
        return [self.raw, "echo", "spin"]

    def peer(self, name):
        return next((each for each in self.peers if each["name"] == name), {})
