"Several ways of doing the same work, measured in turns: A B A B, medians, and the spread of the ratios."
import time
from collections.abc import Callable
from statistics import median

import torch


def alternate(
    sides: dict[str, Callable[[], float]],  # label -> one turn, which gives its figure
    *,
    turns: int,  # of each side
) -> dict[str, list[float]]:  # label -> a figure for each turn
    "Let the sides take turns, so that a machine that gets slower gets slower for all"
    figures = {label: [] for label in sides}
    for _ in range(turns):
        for label, turn in sides.items(): figures[label].append(turn())
    return figures


def seconds(
    work: Callable,  # without arguments
) -> float:  # of one call
    "How long a call takes"
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def timed(
    work: Callable,  # without arguments
) -> Callable[[], float]:  # a turn for `alternate`
    "A turn whose figure is how long the work takes"
    return lambda: seconds(work)


def ratio(
    above: list[float],  # figures of one side
    below: list[float],  # of the other
) -> float:  # of the medians
    "How many times the one is the other"
    return median(above) / median(below)


def spread(
    above: list[float],  # figures of one side
    below: list[float],  # of the other; the shorter list is gone through again
) -> tuple[float, float]:  # the lowest and the highest ratio of two turns beside each other
    "How far the ratio moves from turn to turn"
    n = max(len(above), len(below))
    every = [above[i % len(above)] / below[i % len(below)] for i in range(n)]
    return min(every), max(every)


def meets(
    value: float,  # a ratio
    target: str,  # such as '>= 10' or '<= 1.03'
) -> bool:
    "Whether a target is reached"
    sign, bound = target.split()
    return {'>=': value >= float(bound), '<=': value <= float(bound)}[sign]


class Stopwatch:
    "Times batches once the first ones have warmed everything up"
    def __init__(
        self,
        batches: int,  # to be timed
        *,
        warm: int,  # before them, at least 1
    ):
        self.warm, self.last = warm, warm + batches
        self.seen, self.images, self.seconds = 0, 0, 0.

    def tick(
        self,
        images: int,  # in the batch that has just ended
    ) -> bool:  # whether it was the last one
        "Count a batch"
        self.seen += 1
        if self.seen > self.warm: self.images += images
        if self.seen in (self.warm, self.last):
            if torch.cuda.is_available(): torch.cuda.synchronize()
            self.seconds = time.perf_counter() - self.seconds  # a start at first, then what has passed since
        return self.seen >= self.last

    @property
    def speed(self) -> float:  # images/s
        "Images in a second, loading included"
        return self.images / self.seconds
