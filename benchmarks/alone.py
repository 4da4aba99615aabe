"A piece of work in a process of its own: nothing is warm, a crash stays there, and its memory is its own."
import multiprocessing
import os
import resource
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from pathlib import Path

# The server imports the heavy packages once and runs nothing, so a new process starts at once and clean.
FRESH = multiprocessing.get_context('forkserver')
FRESH.set_forkserver_preload(['benchmarks.rows'])
BESIDE = []  # the pools of the processes beside this one


def alone(
    work: Callable,  # of a module, so that it can be found again
    *args,  # what can be pickled
):  # what it returns; its errors are raised here too
    "Do something in a fresh process"
    with fresh() as pool: return pool.submit(to_the_end, work, *args).result()


def to_the_end(work: Callable, *args):
    "Do something, and end the processes beside it first: one that is left to the end of its parent can wait for it as long as that waits for it"
    try: return work(*args)
    finally:
        while BESIDE: BESIDE.pop().shutdown()


def beside(
    make: Callable[..., Callable[[], float]],  # of a module: makes a turn for `alternate`
    *args,  # what can be pickled and hashed
) -> Callable[[], float]:  # the turn; its process is started by the first call, and ends with the work of `alone` that asked for it
    "A side in a fresh process, where it waits between its turns: what another side does to its own threads and memory stays there"
    pool = fresh()
    BESIDE.append(pool)
    return lambda: pool.submit(take_turn, make, *args).result()


@cache
def kept(make: Callable, *args):
    "What is made at the first turn and used in all"
    return make(*args)


def take_turn(make: Callable, *args) -> float:
    "A turn, in the process of its side"
    return kept(make, *args)()


def fresh() -> ProcessPoolExecutor:  # of one process, started at its first work
    "Room for a fresh process"
    return ProcessPoolExecutor(1, mp_context=FRESH, initializer=as_usual, initargs=(multiprocessing.get_start_method(), dict(os.environ)))


def as_usual(
    start: str,  # the start method of a user's program
    environment: dict[str, str],  # of the process that asks: the server keeps the one it was started with
) -> None:
    "From here on, a loader's workers start as they do elsewhere, and the cache is where the asking process has it"
    os.environ.update(environment)
    multiprocessing.set_start_method(start, force=True)


def peak_memory() -> float:  # MiB
    "The most memory that this process has held at once, pages of mapped files included"
    status = Path('/proc/self/status')
    # `ru_maxrss` would remember the process that this one was started from
    if status.is_file(): return int(status.read_text().split('VmHWM:')[1].split()[0]) / 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == 'darwin' else 2**10)
