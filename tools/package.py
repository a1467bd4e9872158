"""Build the wheel and the source archive, and check each in a clean environment.

    make package        (or: python tools/package.py OUT)

Both archives are left in OUT. Each is installed into a new environment, where `tools/smoke.py` runs
from outside the repository. This downloads all dependencies.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main(out: Path) -> None:
    """Build into a folder, install and check."""
    shutil.rmtree(out, ignore_errors=True)
    run(sys.executable, "-m", "build", "--outdir", out, ROOT)
    for archive in sorted(out.resolve().iterdir()):
        with tempfile.TemporaryDirectory() as folder:
            check(archive, Path(folder))
        print(f"{archive.name} installs and works", flush=True)


def check(archive: Path, folder: Path) -> None:
    """Install an archive into a new environment and run the smoke test there."""
    run(sys.executable, "-m", "venv", folder / "venv")
    python = folder / "venv/bin/python"
    constraints = ("-c", ROOT / "constraints.txt")
    run(python, "-m", "pip", "install", "--quiet", *constraints, f"{archive}[train]")
    run(python, "-P", shutil.copy(ROOT / "tools/smoke.py", folder), folder / "data", cwd=folder)


def run(*words: object, cwd: Path | None = None) -> None:
    """Run a program; raise CalledProcessError if it fails."""
    subprocess.run(list(map(str, words)), check=True, cwd=cwd)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
