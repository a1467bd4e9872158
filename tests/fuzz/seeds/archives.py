"""Archives that are read in place: tars, zips, shards of WebDataset and Parquet."""

import io
import json
import tarfile
import zipfile
from collections.abc import Mapping

from PIL import Image

from tests.fuzz.seeds.pictures import encoded, picture
from tests.fuzz.seeds.trees import Real, Tree

Files = Mapping[str, bytes]


def tar_of(files: Files, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    """Return a tar of files by names."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=kind) as archive:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            info.mtime = 1.5  # pax has a record for it
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def zip_of(files: Files, method: int, *, streamed: bool = False) -> bytes:
    """Return a zip of files by names; a streamed one has zip64 fields and sizes after each file."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in files.items():
            if not streamed:
                archive.writestr(zipfile.ZipInfo(name), content, method)
                continue
            with archive.open(zipfile.ZipInfo(name), "w", force_zip64=True) as member:
                member.write(content)
    return stream.getvalue()


def _images() -> Files:
    image = encoded(Image.fromarray(picture(24, 24)), "PNG")
    return {f"{label}/{label}_{number}.png": image for label in ("ant", "bee") for number in (0, 1)}


def tars(_: Real) -> list[Tree]:
    """Return tars of class folders in each format, and a tar of tars."""
    files = _images()
    classes = {
        f"{label}.tar": tar_of({name: data for name, data in files.items() if label in name})
        for label in ("ant", "bee")
    }
    long = {f"{100 * 'x'}/{name}": data for name, data in files.items()}
    made = [tar_of(files), tar_of(long, tarfile.GNU_FORMAT), tar_of(long, tarfile.PAX_FORMAT)]
    return [{"raw.tar": data} for data in (*made, tar_of(classes))]


def zips(_: Real) -> list[Tree]:
    """Return zips of class folders: stored, deflated, streamed, and one with an encrypted file."""
    files = _images()
    stored, deflated = zip_of(files, zipfile.ZIP_STORED), zip_of(files, zipfile.ZIP_DEFLATED)
    encrypted = deflated.replace(b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1", 1)
    streamed = zip_of(files, zipfile.ZIP_DEFLATED, streamed=True)
    return [{"raw.zip": data} for data in (stored, deflated, streamed, encrypted)]


def webdataset(_: Real) -> list[Tree]:
    """Return shards with labels in .cls and .json members."""
    image = encoded(Image.fromarray(picture(24, 24)), "PNG")
    cls: dict[str, bytes] = {}
    documents: dict[str, bytes] = {}
    for number in range(3):
        cls |= {f"{number}.png": image, f"{number}.cls": b"%d" % number}
        label = json.dumps({"key": f"{number}", "label": number}).encode()
        documents |= {f"a/{number}.png": image, f"a/{number}.json": label}
    return [{"raw.tar": tar_of(cls)}, {"raw.tar": tar_of(documents, tarfile.PAX_FORMAT)}]


def parquet(_: Real) -> list[Tree]:
    """Return shards of the Hugging Face hub, with and without the names of the classes."""
    import pyarrow
    from pyarrow import parquet

    image = encoded(Image.fromarray(picture(24, 24)), "PNG")
    trees = []
    for names in (["ant", "bee"], None):
        column = [{"bytes": image, "path": f"{number}.png"} for number in range(4)]
        table = pyarrow.table({"image": column, "label": [0, 1, 1, 0]})
        if names:
            facts = {"info": {"features": {"label": {"names": names}}}}
            table = table.replace_schema_metadata({"huggingface": json.dumps(facts)})
        stream = io.BytesIO()
        parquet.write_table(table, stream, row_group_size=2)
        trees.append({"raw.parquet": stream.getvalue()})
    return trees
