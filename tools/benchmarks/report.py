"""Reports: the table on the terminal, and the same as JSON with every sample."""
import datetime
import json
import os
import platform
import re
import shlex
import subprocess
import sys
from pathlib import Path

from measure import COPSE


def number(figure):
    """Three digits that matter, and all of those before the point."""
    if figure is None:
        return "-"
    size = abs(figure)
    if size >= 100:
        return f"{figure:,.0f}"
    return f"{figure:.1f}" if size >= 10 else f"{figure:.2f}"


def machine(build):
    """Where this was measured, and how."""
    words = [each for each in sys.argv[1:] if each not in ("--build", str(build))]
    return {"date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(["tools/bench", *words]),
            "processor": processor(), "processors": os.cpu_count(),
            "kernel": f"{platform.system()} {platform.release()}",
            "compiler": compiler(build), "load": round(os.getloadavg()[0], 2)}


def processor():
    found = re.search(r"^model name\s*: (.*)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"),
                      re.MULTILINE)
    return found.group(1) if found else platform.machine()


def compiler(build):
    cache = Path(build, "CMakeCache.txt").read_text(encoding="utf-8")
    found = re.search(r"^CMAKE_CXX_COMPILER:[A-Z]+=(.*)$", cache, re.MULTILINE)
    said = subprocess.run([found.group(1), "--version"], capture_output=True, text=True, check=True)
    return said.stdout.splitlines()[0]


def verdict(measure):
    if not measure.bar:
        return ""
    met = measure.bar.met(measure)
    if met is None:
        return "not judged"
    value = measure.bar.value(measure)
    shown = f" ({value:.2f} x)" if measure.bar.times else ""
    return ("met" if met else "MISSED") + shown


def print_row(measure, subject, samples):
    name = f"  {subject}"
    if not samples:
        print(f"{name:<34} NO NUMBER")
        return
    low, high = samples.quartiles
    ratio = measure.ratio(subject)
    bar = str(measure.bar) if measure.bar and subject == COPSE else ""
    print(f"{name:<34}{number(samples.min):>11}{number(samples.median):>11}"
          f"  {number(low) + ' .. ' + number(high):<22}"
          f"{f'{ratio:.2f} x' if ratio else '':>9}  {bar:<22}"
          f"{verdict(measure) if bar else ''}".rstrip())


def print_suite(suite, where):
    print(f"\n{suite.title}\n{'=' * len(suite.title)}\n")
    for key, text in where.items():
        print(f"{key:<12}{text}")
    print(f"\n{'':<34}{'min':>11}{'median':>11}  {'middle half':<22}{'of limit':>9}  bar")
    for measure in suite.measures.values():
        unit = f", {measure.unit}" if measure.unit else ""
        print(f"\n{measure.title}{unit}")
        for subject, samples in in_order(measure):
            print_row(measure, subject, samples)
    print()
    for note in suite.notes:
        print(f"Note: {note}.")
    for failure in suite.failures:
        print(f"FAILED: {failure}")
    print(summary(suite))


def in_order(measure):
    """copse, the others from the best to the worst, and those without a number."""
    def place(row):
        subject, samples = row
        if not samples:
            return 2, 0
        sign = -1 if measure.higher_is_better else 1
        return subject != COPSE, sign * samples.median

    return sorted(measure.subjects.items(), key=place)


def summary(suite):
    verdicts = [each.bar.met(each) for each in suite.measures.values() if each.bar]
    words = []
    if verdicts:
        words.append(f"{verdicts.count(True)} of {len(verdicts)} bars met")
        if None in verdicts:
            words.append(f"{verdicts.count(None)} not judged")
    words.append(f"{len(suite.failures)} failures")
    return f"{suite.name}: {', '.join(words)}"


def write_json(file, suite, where):
    data = {"suite": suite.name, "title": suite.title, "machine": where, "notes": suite.notes,
            "failures": suite.failures,
            "measures": {key: each.as_json() for key, each in suite.measures.items()}}
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    Path(file).write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
