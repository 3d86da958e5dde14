"""Jobs: single runs of single programs, interleaved, so that a busy minute meets all alike."""
import math
import random
import sys
import time
from dataclasses import dataclass, field

from distance import PLACES
from measure import Measure
from processes import Failure

MORE = 4  # times as many rounds at most, until everybody was measured in one place


@dataclass
class Job:
    """run() returns a figure for each key of `measures`."""
    subject: str
    what: str
    measures: tuple
    run: callable
    rounds: int = None  # fewer than the suite's: a count varies less than a time does
    apart: bool = False  # runs on two processors: how far apart they are matters


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
    place: callable = None  # tells where the processors are

    def measure(self, key, *args, **named):
        self.measures[key] = Measure(*args, **named)

    def add_job(self, subject, what, measures, run, rounds=None, apart=False):
        for key in measures:
            self.measures[key].expect(subject)
        self.jobs.append(Job(subject, what, tuple(measures), run, rounds, apart))

    def skip(self, what):
        """Something that cannot be measured here; said at once, and again in every report."""
        self.notes.append(f"skipped: {what}")
        print(f"bench: SKIPPED: {what}", file=sys.stderr, flush=True)

    def fail(self, what):
        self.failures.append(what)
        print(f"\nbench: FAILED: {what}", file=sys.stderr, flush=True)

    def run(self, rounds):
        started = time.monotonic()
        number = 0
        while number < rounds or (number < MORE * rounds and not self.enough(rounds)):
            order = [job for job in self.jobs
                     if number < (job.rounds or rounds) or (job.apart and number >= rounds)]
            random.shuffle(order)
            for at, job in enumerate(order):
                show_progress(f"{self.name}: round {number + 1} of {rounds}, {at + 1} of "
                              f"{len(order)}: {job.subject}, {job.what}")
                self.run_job(job, number)
            number += 1
        show_progress("")
        self.settle(rounds)
        for key, whole, part in self.differences:
            self.subtract(key, whole, part)
        self.check_complete()
        self.notes.append(f"{number} rounds in {time.monotonic() - started:.0f} s")

    def run_job(self, job, number):
        try:
            figures, place = self.run_in_one_place(job)
        except Failure as failure:
            self.fail(f"{job.subject}, {job.what}: {failure}")
            return
        for key in job.measures:
            figure = figures.get(key)
            if figure is None or not math.isfinite(figure):
                self.fail(f"{job.subject}, {job.what}: no figure for {key}")
            else:
                self.measures[key].add(job.subject, number, figure, place)

    def run_in_one_place(self, job):
        """The figures, and where the processors were before and after; None: they have moved."""
        if not (self.place and job.apart):
            return job.run(), None
        before = self.place()
        figures = job.run()
        return figures, before if self.place() == before else "moved"

    def samples_apart(self):
        return [self.measures[key].subjects[job.subject]
                for job in self.jobs if job.apart for key in job.measures]

    def enough(self, rounds):
        """Whether all have been measured in one place so often that it can be shown alone."""
        return self.best_place(rounds // 2 + 1) is not None

    def best_place(self, least):
        samples = self.samples_apart()
        counts = {place: min((len(each.taken_at(place)) for each in samples), default=least)
                  for place in PLACES}
        best = max(PLACES, key=lambda place: counts[place])
        return best if counts[best] >= least else None

    def settle(self, rounds):
        """Shows what was measured in one place; what can be, if everybody was seldom in the same."""
        if not (self.place and self.samples_apart()):
            return
        best = self.best_place(1)
        if best is None:
            self.notes.append("WARNING: the processors were moved all the time; times from near "
                              "and far are mixed")
            return
        for each in self.samples_apart():
            each.shown = best
        self.notes.append(f"times are of the runs during which the two processors were {best} each "
                          "other" if best == "near" else "times are of the runs during which the "
                          "two processors were far from each other")
        if self.best_place(rounds // 2 + 1) is None:
            self.notes.append("WARNING: for some these were fewer than half of the rounds")

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
