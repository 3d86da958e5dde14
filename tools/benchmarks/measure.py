"""Measures: a question with one unit, the subjects it is put to, and the bar for copse."""
from dataclasses import dataclass, field

from samples import Samples

COPSE = "copse"


@dataclass
class Bar:
    """A bound on copse's median: a figure, or so many times the best of other subjects' medians."""
    bound: float
    unit: str = ""
    at_most: bool = True
    times: tuple = ()  # subjects; empty: the bound is absolute

    def value(self, measure):
        """What is held against the bound; None when something for it is missing."""
        if not measure.has(COPSE):
            return None
        median = measure.subjects[COPSE].median
        if not self.times:
            return median
        best = measure.best(self.times)
        return median / best if best else None

    def met(self, measure):
        value = self.value(measure)
        if value is None:
            return None
        return value <= self.bound if self.at_most else value >= self.bound

    def __str__(self):
        sign = "<=" if self.at_most else ">="
        if self.times:
            of = "nginx" if self.times == ("nginx",) else "best raw"
            return f"{sign} {self.bound:g} x {of}"
        return f"{sign} {self.bound:,g} {self.unit}".rstrip()


@dataclass
class Measure:
    title: str
    unit: str
    higher_is_better: bool = False
    bar: Bar = None
    limits: tuple = ()  # the subjects for which nobody can do better
    note: str = ""
    subjects: dict = field(default_factory=dict)

    def expect(self, subject):
        self.subjects.setdefault(subject, Samples())

    def add(self, subject, number, figure, place=None):
        self.expect(subject)
        self.subjects[subject].add(number, figure, place)

    def has(self, subject):
        return bool(self.subjects.get(subject))

    def best(self, subjects):
        medians = [self.subjects[each].median for each in subjects if self.has(each)]
        if not medians:
            return None
        return max(medians) if self.higher_is_better else min(medians)

    def ratio(self, subject):
        """How many times the limit's figure this one's is; None where there is no limit."""
        best = self.best(self.limits)
        if not best or subject in self.limits or not self.has(subject):
            return None
        return self.subjects[subject].median / best

    def as_json(self):
        row = {"title": self.title, "unit": self.unit, "higher_is_better": self.higher_is_better,
               "limits": list(self.limits), "note": self.note,
               "subjects": {name: each.as_json() if each else None
                            for name, each in self.subjects.items()}}
        if self.bar:
            row["bar"] = {"text": str(self.bar), "value": self.bar.value(self),
                          "met": self.bar.met(self)}
        return row
