"""Read one listed sample, wherever its file is."""

import contextlib
from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from eventdata.errors import InputError, MismatchError, reading
from eventdata.files.archives.index import PARQUET
from eventdata.files.fetch import local_copy
from eventdata.files.inputs import file_numbers
from eventdata.jobs.worker import out_of_memory, working_on
from eventdata.raw.source import Sample, Samples, Source


def read_sample(source: Source, samples: Samples, index: int, out: NDArray[Any]) -> int:
    """Read one listed sample into out (K, H, W, P); return its number of events.

    Raises as `local_sample`.
    """
    with local_sample(samples, index) as sample:
        return source.read(sample, out)


@contextlib.contextmanager
def local_sample(samples: Samples, index: int) -> Iterator[Sample]:
    """Yield a listed sample with its file on this machine.

    Raises:
        InputError: the sample can't be used.
        MismatchError: its file has changed since it was listed.
    """
    if index in samples.problems:
        raise InputError(samples.problems[index])
    row, place = samples.row(index), samples.place(index)
    what = row.path or row.name
    working_on(what)
    with reading(what), local_copy(row.path, place) as path:
        try:
            yield row._replace(path=path)
        except MemoryError:
            raise out_of_memory(what) from None
        finally:
            # After reading, so that the store records the size and time of what was read.
            found, listed = file_numbers([path])[0], samples.file_numbers(index)
            if place is not None and place.kind == PARQUET:  # its bytes are not listed
                found = listed[0], found[1]
            if found != listed:
                raise MismatchError(
                    f"{what}: changed while it was read; wait until nothing writes to the input, "
                    "then run the same command again"
                )
