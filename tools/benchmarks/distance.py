"""Distance: whether the processors of server and load are near each other just now.

A virtual machine's processors are moved while it runs, and what goes from one to the other costs
two or three times as much when they no longer share a cache. Figures from here and from there are
not of one machine: they are told apart, and only those of one place are compared.
"""
from processes import LOAD_CPU, SERVER_CPU, Failure, output_of

NEAR = 350  # ns for a cache line to go and come back; within a cache about 100, beyond about 500
PLACES = ("near", "far")


def place(program):
    said, _ = output_of([program, SERVER_CPU, LOAD_CPU], None)
    try:
        return PLACES[float(said) > NEAR]
    except ValueError as error:
        raise Failure(f"said {said!r} and not a distance") from error
