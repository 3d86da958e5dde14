"""Jobs: single runs of single programs, interleaved, so that a busy minute meets all alike."""
import math
import random
import sys
import time
from dataclasses import dataclass, field

from measure import Measure
from processes import Failure


@dataclass
class Job:
    """run() returns a figure for each key of `measures`."""
    subject: str
    what: str
    measures: tuple
    run: callable
    rounds: int = None  # fewer than the suite's: a count varies less than a time does


@dataclass
class Chart:
    """Figures against a number, a line for each subject. `lines` has, by what is said besides the
    subject's name, the measures' keys by the number."""
    title: str
    across: str
    lines: dict


@dataclass
class Suite:
    name: str
    title: str
    measures: dict = field(default_factory=dict)
    jobs: list = field(default_factory=list)
    charts: list = field(default_factory=list)
    differences: list = field(default_factory=list)  # (key, key to subtract from, key to subtract)
    notes: list = field(default_factory=list)
    failures: list = field(default_factory=list)

    def measure(self, key, *args, **named):
        self.measures[key] = Measure(*args, **named)

    def add_job(self, subject, what, measures, run, rounds=None):
        for key in measures:
            self.measures[key].expect(subject)
        self.jobs.append(Job(subject, what, tuple(measures), run, rounds))

    def skip(self, what):
        """Something that cannot be measured here; said at once, and again in every report."""
        self.notes.append(f"skipped: {what}")
        print(f"bench: SKIPPED: {what}", file=sys.stderr, flush=True)

    def fail(self, what):
        self.failures.append(what)
        print(f"\nbench: FAILED: {what}", file=sys.stderr, flush=True)

    def run(self, rounds):
        started = time.monotonic()
        for number in range(rounds):
            order = [job for job in self.jobs if number < (job.rounds or rounds)]
            random.shuffle(order)
            for place, job in enumerate(order):
                show_progress(f"{self.name}: round {number + 1} of {rounds}, {place + 1} of "
                              f"{len(order)}: {job.subject}, {job.what}")
                self.run_job(job, number)
        show_progress("")
        for key, whole, part in self.differences:
            self.subtract(key, whole, part)
        self.check_complete()
        self.notes.append(f"{rounds} rounds in {time.monotonic() - started:.0f} s")

    def run_job(self, job, number):
        try:
            figures = job.run()
        except Failure as failure:
            self.fail(f"{job.subject}, {job.what}: {failure}")
            return
        for key in job.measures:
            figure = figures.get(key)
            if figure is None or not math.isfinite(figure):
                self.fail(f"{job.subject}, {job.what}: no figure for {key}")
            else:
                self.measures[key].add(job.subject, number, figure)

    def subtract(self, key, whole, part):
        whole, part = self.measures[whole], self.measures[part]
        for subject in whole.subjects.keys() & part.subjects.keys():
            self.measures[key].subjects[subject] = whole.subjects[subject] - part.subjects[subject]

    def check_complete(self):
        for measure in self.measures.values():
            if not measure.subjects:
                self.fail(f"{measure.title} ({measure.unit}): measured of nobody")
            for subject, samples in measure.subjects.items():
                if not samples:
                    self.fail(f"{measure.title} ({measure.unit}): no number for {subject}")


def show_progress(text):
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:100]}", end="", file=sys.stderr, flush=True)
