"""The wheel: it has all files of both packages and works without the repository.

`make package` is the long form, in clean environments with all dependencies downloaded.
"""

import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture(scope="module")
def archives(tmp_path_factory) -> Path:
    """Build both archives with the installed hatchling."""
    pytest.importorskip("build", reason="needs build, of the extra test")
    pytest.importorskip("hatchling", reason="needs hatchling, of the extra test")
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, timeout=200)
    return folder


def names_in(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return set(wheel.namelist())
    with tarfile.open(archive) as source:
        return {name.partition("/")[2] for name in source.getnames()}


def test_the_archives_have_every_file(archives: Path) -> None:
    files = {
        path.relative_to(ROOT).as_posix()
        for package in ("eventdata", "train")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and not path.suffix.startswith(".nb")
    }
    assert {"eventdata/page.html", "eventdata/py.typed", "train/recipes/digits.toml"} <= files
    (wheel,) = archives.glob("*.whl")
    inside = names_in(wheel)
    assert files == {name for name in inside if ".dist-info/" not in name}
    assert any(name.endswith("licenses/LICENSE") for name in inside)
    (source,) = archives.glob("*.tar.gz")
    more = {"LICENSE", "README.md", "Makefile", "mkdocs.yml", "docs/api.md", "tools/smoke.py"}
    assert files | more <= names_in(source)


@pytest.mark.timeout(400)
def test_the_wheel_passes_the_smoke_test(archives: Path, tmp_path: Path) -> None:
    """Install it into an environment that borrows only the dependencies of this one."""
    pytest.importorskip("lightning", reason="needs lightning, of the extra train")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    python = tmp_path / "venv/bin/python"
    (wheel,) = archives.glob("*.whl")
    install = ["-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", wheel]
    subprocess.run([sys.executable, *install], check=True, capture_output=True)
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (packages / "borrowed.pth").write_text(sysconfig.get_path("purelib"))
    script = tmp_path / "smoke.py"
    script.write_bytes((ROOT / "tools/smoke.py").read_bytes())
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-P", script, tmp_path / "data"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the installed package works" in done.stdout


def test_declared_versions_of_python_are_those_of_the_workflow() -> None:
    yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the extra docs")
    workflow = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())
    prefix = "Programming Language :: Python :: 3."
    declared = [
        "3." + name.removeprefix(prefix)
        for name in PROJECT["classifiers"]
        if name.startswith(prefix)
    ]
    assert declared
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"] == declared
    assert PROJECT["requires-python"] == f">={declared[0]}"
