"""Reading whole files of a store: none that is larger than eventdata would write there."""

from eventdata.errors import StoreError
from eventdata.store.files import Files, LocalFiles

MAX_ARRAY_DOCUMENT = 1 << 20  # a zarr.json of an array or a split
MAX_HEADER = 1 << 28  # the store's zarr.json, which has the names of all classes
MAX_SKIPPED = 1 << 30  # all of ES-ImageNet, a reason each
MAX_SAMPLE_RECORD = 1 << 15  # of each sample that a record tells of


def read_bounded(files: Files, key: str, most: int) -> bytes | None:
    """The bytes under a key, None where there is none; StoreError where they are more than most.

    In a folder, where a file of any length takes no place on the disk. One of no length is not
    opened: it may be one of /proc behind a link, which waits or has no end.
    """
    if isinstance(files, LocalFiles):
        size = files.size(key)
        if size is not None and size > most:
            raise StoreError(
                f"{files.where}/{key}: damaged ({size:,} bytes, it has at most {most:,}); "
                "convert again with --overwrite"
            )
        if size == 0 and (files.root / key).is_file():
            return b""
    return files.read(key)
