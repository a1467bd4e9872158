"""Reading whole files of a store: none that is larger than eventdata would write there."""

from eventdata.errors import StoreError
from eventdata.files.local import Files, LocalFiles

MAX_ARRAY_DOCUMENT = 1 << 20  # a zarr.json of an array or a split
MAX_HEADER = 1 << 28  # the store's zarr.json, which has the names of all classes
MAX_SKIPPED = 1 << 30  # all of ES-ImageNet, a reason each


def most_record_bytes(samples: int) -> int:
    """Of a record of what came of so many samples, which may have a reason each."""
    return samples * (1 << 15) + (1 << 20)


def is_larger(files: Files, key: str, most: int) -> bool:
    """Whether a file is larger; only in a folder, where one of any length may take no place."""
    return isinstance(files, LocalFiles) and (files.size(key) or 0) > most


def read_bounded(files: Files, key: str, most: int) -> bytes | None:
    """The bytes under a key, None where there is none; StoreError where they are more than most.

    See `is_larger`. One of no length is not opened: it may be one of /proc behind a link, which
    waits or has no end.
    """
    if is_larger(files, key, most):
        raise StoreError(
            f"{files.where}/{key}: damaged ({files.size(key):,} bytes, it has at most {most:,}); "
            "convert again with --overwrite"
        )
    if isinstance(files, LocalFiles) and files.size(key) == 0 and (files.root / key).is_file():
        return b""
    return files.read(key)
