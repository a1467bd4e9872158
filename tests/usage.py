"""Memory, open files and threads of processes, from Linux's /proc, and how they grow."""

import gc
import multiprocessing
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tools.bench.report import resident

WARM_UP = 0.2  # share of the measurements in which anything may still grow
MOST_POINTS = 500  # a slope takes the square of them


def usage() -> dict[str, float]:
    """Return the resources of this process and its children now.

    resident: bytes of this process; children: bytes of its children, where a page that several
    processes share counts in parts; files, threads: of all of them; objects: those of this process
    that the garbage collector looks at, without this result.
    """
    gc.collect()
    everyone = family()
    return {
        "seconds": time.monotonic(),
        "resident": resident("VmRSS"),
        "children": sum(map(proportional, everyone[1:])),
        "files": sum(map(open_files, everyone)),
        "threads": sum(map(threads, everyone)),
        "objects": len(gc.get_objects()),
    }


def family() -> list[int]:
    """Return this process and its children, by their numbers."""
    return [os.getpid(), *(child.pid or 0 for child in multiprocessing.active_children())]


def proportional(process: int) -> int:
    """Return a process's bytes; one of several that share a page has its part of it."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:  # the process has just ended
        return 0
    found = re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def private(process: int) -> int:
    """Return a process's resident bytes without those that it may share with others.

    It takes microseconds, where `proportional` takes milliseconds.
    """
    try:
        pages = Path(f"/proc/{process}/statm").read_text().split()
    except OSError:  # the process has just ended
        return 0
    return (int(pages[1]) - int(pages[2])) * os.sysconf("SC_PAGE_SIZE")


def open_files(process: int) -> int:
    """Return the number of a process's file descriptors."""
    return _count(f"/proc/{process}/fd")


def threads(process: int) -> int:
    """Return the number of a process's threads."""
    return _count(f"/proc/{process}/task")


def _count(folder: str) -> int:
    try:
        return len(os.listdir(folder))  # noqa: PTH208 counted only
    except OSError:  # the process has just ended
        return 0


def growth(values: Sequence[float]) -> float:
    """Return by how much measurements rise after a warm-up, as a straight line through them.

    Its slope is the median of the slopes between all pairs (Theil and Sen), so that no single
    measurement decides.
    """
    after: NDArray[np.float64] = np.asarray(values, float)[int(WARM_UP * len(values)) :]
    places = np.unique(np.linspace(0, len(after) - 1, MOST_POINTS).astype(int))
    first, second = np.triu_indices(len(places), 1)
    rise = after[places[second]] - after[places[first]]
    return float(np.median(rise / (places[second] - places[first]))) * (len(after) - 1)
