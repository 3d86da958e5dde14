"""Samples: what was measured of one subject, and what they amount to."""
import statistics


class Samples:
    """Figures of one subject, each with the round in which it was taken, and where the processors
    were. Once `shown` names a place, only what was taken there counts."""

    def __init__(self):
        self.rounds = {}
        self.places = {}
        self.shown = None

    def add(self, number, figure, place=None):
        self.rounds[number] = figure
        self.places[number] = place

    def taken_at(self, place):
        return [self.rounds[number] for number, at in self.places.items() if at == place]

    @property
    def figures(self):
        return self.taken_at(self.shown) if self.shown else list(self.rounds.values())

    @property
    def min(self):
        return min(self.figures)

    @property
    def max(self):
        return max(self.figures)

    @property
    def median(self):
        return statistics.median(self.figures)

    @property
    def quartiles(self):
        """The two figures between which the middle half lies."""
        if len(self.figures) < 2:
            return self.min, self.max
        low, _, high = statistics.quantiles(self.figures, n=4, method="inclusive")
        return low, high

    def __bool__(self):
        return bool(self.figures)

    def __sub__(self, other):
        """Round by round, so that both figures come from the same minute."""
        difference = Samples()
        for number in self.rounds.keys() & other.rounds.keys():
            difference.add(number, self.rounds[number] - other.rounds[number])
        return difference

    def as_json(self):
        low, high = self.quartiles
        return {"min": self.min, "lower_quartile": low, "median": self.median,
                "upper_quartile": high, "max": self.max, "samples": self.figures,
                "all_samples": [{"place": self.places[number], "figure": figure}
                                for number, figure in self.rounds.items()]}
