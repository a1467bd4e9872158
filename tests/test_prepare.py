"""Archives of the published kinds become verified stores, and hostile archives are refused."""

import io
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path

import pytest
from click.testing import CliRunner

import eventdata
from eventdata.errors import InputError
from tests.makers import make_clips, make_es_imagenet, make_images, tree_digest
from tools.archives import Limits, group_parts, rar_program, unpack
from tools.prepare import main

LIMITS = Limits(file_bytes=2**24, total_bytes=2**28)


def prepare(*words: object, env: dict[str, str] | None = None) -> str:
    """Return what the program prints; raise AssertionError with that if it fails."""
    done = CliRunner().invoke(main, list(map(str, words)), env=env)
    assert done.exit_code == 0, done.output
    return done.output


def make_zip(path: Path, root: Path, top: str) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(root.rglob("*")):
            archive.write(file, Path(top) / file.relative_to(root))
    return path


def make_tar(path: Path, root: Path, top: str = ".", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        archive.add(root, top)
    return path


def cut(path: Path, parts: int, name: str) -> list[Path]:
    """Cut a file into parts, as ``split`` does."""
    data = path.read_bytes()
    size = -(-len(data) // parts)
    made = [path.with_name(name.format(number)) for number in range(parts)]
    for number, part in enumerate(made):
        part.write_bytes(data[number * size : (number + 1) * size])
    path.unlink()
    return made


def files(root: Path) -> dict[str, str]:
    """Return digests of the unpacked files."""
    return {name: sha for name, sha in tree_digest(root).items() if not name.endswith(".json")}


def vint(value: int) -> bytes:
    """Return a RAR number of variable length: seven bits per byte, the lowest first."""
    low = value & 0x7F
    return bytes([low]) if value == low else bytes([low | 0x80]) + vint(value >> 7)


def rar_block(content: bytes) -> bytes:
    body = vint(len(content)) + content
    return struct.pack("<I", zlib.crc32(body)) + body


def make_rar(path: Path, root: Path, top: str, volumes: int = 1) -> list[Path]:
    """Write RAR 5 without compression, in volumes of whole files (rarlab.com/technote.htm)."""
    found = sorted(file for file in root.rglob("*") if file.is_file())
    made = []
    for number in range(volumes):
        several = vint(1 | (2 if number else 0)) + (vint(number) if number else b"")
        content = b"Rar!\x1a\x07\x01\x00"
        content += rar_block(vint(1) + vint(0) + (several if volumes > 1 else vint(0)))
        for file in found[number::volumes]:
            data, name = file.read_bytes(), f"{top}/{file.relative_to(root).as_posix()}".encode()
            header = (
                vint(2) + vint(2) + vint(len(data)) + vint(4) + vint(len(data)) + vint(0o100644)
            )
            header += struct.pack("<I", zlib.crc32(data)) + vint(0) + vint(1)
            content += rar_block(header + vint(len(name)) + name) + data
        content += rar_block(vint(5) + vint(0) + vint(1 if number < volumes - 1 else 0))
        made.append(
            path.with_name(f"{path.name}.part{number + 1:02d}.rar" if volumes > 1 else path.name)
        )
        made[-1].write_bytes(content)
    return made


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return make_es_imagenet(tmp_path / "made", train=5, val=3)


def test_every_form_of_archive_is_unpacked(raw, tmp_path):
    """Archives, whole or in parts, give the same files; a second run rewrites only damage."""
    whole = tree_digest(raw)
    forms = {
        "zip": [make_zip(tmp_path / "a.zip", raw, ".")],
        "tar": [make_tar(tmp_path / "a.tar", raw)],
        "tgz": [make_tar(tmp_path / "a.tar.gz", raw, mode="w:gz")],
        "zip parts": cut(make_zip(tmp_path / "b.zip", raw, "."), 4, "b.zip.{:03d}"),
        "tar parts": cut(make_tar(tmp_path / "b.tar", raw), 3, "b.tar.part-a{}"),
    }
    for number, letter in enumerate("abc"):
        part = tmp_path / f"b.tar.part-a{number}"
        forms["tar parts"][number] = part.rename(part.with_name(f"b.tar.part-a{letter}"))
    for form, parts in forms.items():
        shuffled = [*parts[1:], parts[0]]
        assert group_parts(shuffled) == [parts], form
        folder = tmp_path / "unpacked" / form
        assert unpack(parts, folder, LIMITS) == len(whole)
        assert tree_digest(folder) == whole
        before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
        lost = next(folder.rglob("*.npz"))
        lost.write_bytes(b"torn")
        unpack(parts, folder, LIMITS)
        assert tree_digest(folder) == whole
        kept = {path: path.stat().st_mtime_ns for path in folder.rglob("*.npz")} | {lost: 0}
        assert kept == {path: before[path] for path in kept} | {lost: 0}


def test_a_missing_part_is_reported(tmp_path):
    for names in (
        ["a.zip.001", "a.zip.003"],
        ["a.zip.002"],
        ["a.part-aa", "a.part-ac"],
        ["a.part02.rar"],
    ):
        with pytest.raises(InputError, match="are not all"):
            group_parts([tmp_path / name for name in names])


def tar_of(path: Path, **attributes: object) -> Path:
    info = tarfile.TarInfo("x.npz")
    data = b"12345"
    info.size = len(data)
    for key, value in attributes.items():
        setattr(info, key, value)
    with tarfile.open(path, "w") as archive:
        archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return path


def zip_of(path: Path, name: str, mode: int = 0o644, method: int = zipfile.ZIP_STORED) -> Path:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = method
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(info, b"/etc/passwd" if stat.S_ISLNK(mode) else bytes(10_000))
    return path


@pytest.mark.parametrize("name", ["../x.npz", "/tmp/x.npz", "a/../../x.npz", "a\\x.npz", ""])
def test_names_that_leave_the_folder_are_refused(tmp_path, name):
    for number, archive in enumerate(
        (tar_of(tmp_path / "a.tar", name=name), zip_of(tmp_path / "a.zip", name or "../y"))
    ):
        folder = tmp_path / f"deep/{number}"
        with pytest.raises(InputError, match="leaves the folder"):
            unpack([archive], folder, LIMITS)
        assert not files(tmp_path / "deep")


def test_links_and_devices_are_refused(tmp_path):
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        archive = tar_of(tmp_path / "a.tar", type=kind, linkname="/etc/passwd", size=0)
        with pytest.raises(InputError, match="link or device"):
            unpack([archive], tmp_path / "out", LIMITS)
    archive = zip_of(tmp_path / "a.zip", "x", stat.S_IFLNK | 0o777)
    with pytest.raises(InputError, match="is a link"):
        unpack([archive], tmp_path / "out", LIMITS)
    assert not list((tmp_path / "out").iterdir())


def test_bombs_are_refused(tmp_path):
    """The declared sizes are limited, and no member may hold more than it declares."""
    archive = zip_of(tmp_path / "a.zip", "x.npz", method=zipfile.ZIP_DEFLATED)
    for limits, says in (
        (Limits(file_bytes=9_999, total_bytes=10**6), "declares 10,000 bytes"),
        (Limits(file_bytes=10**6, total_bytes=9_999), "more than 9,999 bytes in all"),
    ):
        with pytest.raises(InputError, match=says):
            unpack([archive], tmp_path / "out", limits)
    data = bytearray(archive.read_bytes())
    directory = data.index(b"PK\x01\x02")
    data[22:26] = data[directory + 24 : directory + 28] = struct.pack("<I", 10)  # a false size
    archive.write_bytes(data)
    with pytest.raises(InputError):
        unpack([archive], tmp_path / "out", LIMITS)
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.6, 0.9])
def test_truncated_archives_are_refused(raw, tmp_path, name, part):
    archive = tmp_path / name
    if name.endswith("zip"):
        make_zip(archive, raw, ".")
    else:
        make_tar(archive, raw, mode="w:gz" if name.endswith("gz") else "w")
    data = archive.read_bytes()
    # Cut at whole blocks, without the blocks of zeros that end a tar.
    archive.write_bytes(data[: int(part * len(data.rstrip(b"\0"))) // 512 * 512])
    with pytest.raises(InputError, match=f"{name}: .*"):
        unpack([archive], tmp_path / "out", LIMITS)


@pytest.mark.parametrize("size", [1024, 1124, 2048, 2560])
def test_a_tar_cut_between_members_is_refused(tmp_path, size):
    """tarfile accepts every cut except the last as the end of the archive."""
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as made:
        for number in range(3):
            info = tarfile.TarInfo(str(number))
            info.size = 512
            made.addfile(info, io.BytesIO(b"x" * 512))
    archive.write_bytes(archive.read_bytes()[:size])
    with pytest.raises(InputError, match="cut short|unexpected end"):
        unpack([archive], tmp_path / "out", LIMITS)


def test_a_published_archive_becomes_a_verified_store(shared, tmp_path):
    """Real raw files, zipped and cut into parts, are converted after an interruption."""
    parts = cut(
        make_zip(tmp_path / "ES.zip", shared / "es_imagenet", "ES-imagenet-0.18"),
        3,
        "ES.zip.{:03d}",
    )
    words = ["published", *parts, "--out", tmp_path / "es.zarr", "--work", tmp_path / "work"]
    hidden = parts[2].rename(tmp_path / "hidden")
    with pytest.raises(AssertionError, match="can't be unpacked|damaged"):
        prepare("es-imagenet", *[word for word in words if word != parts[2]])
    hidden.rename(parts[2])
    printed = prepare("es-imagenet", *words, "--workers", 1)
    assert "unpack: ES.zip.000 and 2 more parts: 131 files" in printed
    assert "verify: sound; 128 samples, 128 compared" in printed
    printed = prepare("es-imagenet", *words, "--workers", 1)
    assert "unpacked before" in printed
    assert "already complete" in printed
    eventdata.convert("es-imagenet", shared / "es_imagenet", tmp_path / "direct.zarr")
    frames = "train/frames/c/0/0/0/0/0"
    made = (tmp_path / "es.zarr" / frames).read_bytes()
    assert made == (tmp_path / "direct.zarr" / frames).read_bytes()


def test_imagenet_tars_become_a_verified_store(tmp_path):
    """The official layout is a tar of one tar per class, a flat tar, and a list of val's labels."""
    made, official = make_images(tmp_path / "made", train=6, val=0), tmp_path / "official"
    inner = tmp_path / "inner"
    inner.mkdir()
    official.mkdir()
    for folder in (made / "train").iterdir():
        make_tar(inner / f"{folder.name}.tar", folder)
    make_tar(official / "ILSVRC2012_img_train.tar", inner)
    flat = tmp_path / "flat"
    flat.mkdir()
    lines = []
    for number, path in enumerate(sorted(made.rglob("*.JPEG"))[:4], 1):
        name = f"ILSVRC2012_val_{number:08d}.JPEG"
        shutil.copy(path, flat / name)
        lines.append(f"{name} {int(path.parent.name == 'n02119789')}")
    make_tar(official / "ILSVRC2012_img_val.tar", flat)
    (tmp_path / "val.txt").write_text("\n".join(lines))
    words = [
        "images",
        official,
        "--out",
        tmp_path / "es.zarr",
        "--work",
        tmp_path / "work",
        "--workers",
        1,
    ]
    printed = prepare(
        "es-imagenet", *words, "--val-labels", tmp_path / "val.txt", "--on-error", "skip"
    )
    assert "train 6, val 4" in printed
    assert "verify: sound; 10 samples" in printed
    store = eventdata.open_store(tmp_path / "es.zarr")
    assert store.header.classes == ["n01440764", "n02119789"]
    assert [name.split("/")[0] for name in store.split("train").sample_names] == [
        store.header.classes[label] for label in store.split("train").labels
    ]
    assert store.split("val").sample_names[0] == "ILSVRC2012_val_00000001.JPEG"


def test_one_split_may_be_a_tar_and_the_other_a_folder(tmp_path):
    """Both splits are converted, also if a kill has truncated the list of unpacked archives."""
    official = make_images(tmp_path / "official", train=6, val=4)
    inner = tmp_path / "inner"
    inner.mkdir()
    for folder in (official / "train").iterdir():
        make_tar(inner / f"{folder.name}.tar", folder)
    make_tar(official / "ILSVRC2012_img_train.tar", inner)
    shutil.rmtree(official / "train")
    (tmp_path / "work" / "train").mkdir(parents=True)
    (tmp_path / "work" / "train" / ".unpacked.json").write_text('{"ILSVRC2012_img_tr')
    words = [
        "images",
        official,
        "--out",
        tmp_path / "es.zarr",
        "--work",
        tmp_path / "work",
        "--workers",
        1,
    ]
    printed = prepare("es-imagenet", *words, "--on-error", "skip")
    assert "train 6, val 4" in printed
    assert "verify: sound; 10 samples" in printed


def test_a_fold_without_lists_is_refused(tmp_path):
    make_clips(tmp_path / "clips", clips=1)
    with pytest.raises(AssertionError, match="--fold needs the official lists"):
        prepare("es-ucf101", tmp_path / "clips", "--fold", 2, "--out", tmp_path / "out.zarr")


def test_ucf101_archives_become_a_verified_store(shared, tmp_path):
    """Clips and lists come in archives as published, but as zip instead of rar."""
    clips = make_zip(tmp_path / "UCF101.zip", make_clips(tmp_path / "made", frames=4), "UCF-101")
    lists = make_zip(
        tmp_path / "lists.zip", shared / "ucf101" / "ucfTrainTestlist", "ucfTrainTestlist"
    )
    out = tmp_path / "ucf.zarr"
    printed = prepare(
        "es-ucf101", clips, "--splits", lists, "--out", out, "--work", tmp_path / "work"
    )
    assert "verify: sound" in printed
    store = eventdata.open_store(out)
    assert len(store.header.classes) == 101
    assert sum(map(len, store.splits.values())) == 5


@pytest.mark.skipif(not rar_program(volumes=True), reason="no 7-Zip that reads rar here")
def test_rar_volumes_are_unpacked(raw, tmp_path):
    """ES-ImageNet is published in rar volumes."""
    volumes = make_rar(tmp_path / "ES-imagenet-0.18", raw, "ES-imagenet-0.18", volumes=3)
    assert volumes[0].name == "ES-imagenet-0.18.part01.rar"
    assert unpack(volumes, tmp_path / "out", LIMITS) == 10
    assert tree_digest(tmp_path / "out" / "ES-imagenet-0.18") == tree_digest(raw)
    for path, content in zip(sorted(tmp_path.glob("out/**/*.npz")), (b"torn", b""), strict=False):
        path.write_bytes(content)
    unpack(volumes, tmp_path / "out", LIMITS)
    assert tree_digest(tmp_path / "out" / "ES-imagenet-0.18") == tree_digest(raw)
    volumes[1].write_bytes(volumes[1].read_bytes()[:-2000])
    with pytest.raises(InputError, match="fails on it"):
        unpack(volumes, tmp_path / "other", LIMITS)


@pytest.mark.skipif(not rar_program(volumes=False), reason="neither 7-Zip nor bsdtar here")
def test_a_rar_of_clips_is_unpacked(tmp_path):
    """UCF101 is published as one rar; names that leave the folder are refused."""
    clips = make_clips(tmp_path / "made", clips=2)
    (archive,) = make_rar(tmp_path / "evil.rar", clips, "../../evil")
    with pytest.raises(InputError, match="leaves the folder"):
        unpack([archive], tmp_path / "a" / "out", LIMITS)
    assert not (tmp_path / "evil").exists()
    (archive,) = make_rar(tmp_path / "UCF101.rar", clips, "UCF-101")
    assert unpack([archive], tmp_path / "out", LIMITS) == 12
    assert tree_digest(tmp_path / "out" / "UCF-101") == tree_digest(clips)


def test_rar_without_a_program_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "UCF101.rar").touch()
    with pytest.raises(InputError, match="rar needs 7-Zip .* or bsdtar"):
        unpack([tmp_path / "UCF101.rar"], tmp_path / "out", LIMITS)
