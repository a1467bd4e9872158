"""The documentation site: it builds without a warning, works offline, and its code runs."""

import base64
import importlib.util
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import eventdata
from eventdata.cli import main
from tests.drawn import Drawn

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
NOTEBOOK = DOCS / "tutorials/raw-to-batches.ipynb"
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PUBLIC = [f"eventdata.{name}" for name in eventdata.__all__]


def needs(*modules: str) -> None:
    """Skip the test unless these modules are installed."""
    for module in modules:
        pytest.importorskip(module, reason=f"needs {module}, of the extra docs or examples")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    needs("material", "mkdocstrings_handlers.python")
    folder = tmp_path_factory.mktemp("site") / "site"
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.md")}
    documents |= {path.relative_to(DOCS).with_suffix("") for path in DOCS.rglob("*.ipynb")}
    documents |= {Path(path.stem) for path in ROOT.glob("*.md")} - {Path("README")}
    assert not [
        name for name in {*documents, Path("index")} if not (site / f"{name}.html").is_file()
    ]


def test_the_pages_request_nothing_from_the_network(site: Path) -> None:
    """Check scripts, styles, fonts, images and frames of each page, and what its styles load."""
    loads = re.compile(
        r"<(?:script|img|iframe|source|video|audio|embed)\b[^>]*?\ssrc=[\"']?([^\"' >]+)"
        r"|<link\b(?![^>]*rel=[\"']?(?:canonical|prev|next))[^>]*?\shref=[\"']?([^\"' >]+)"
    )
    # The links of 404.html are those of a server's root.
    pages = [page for page in site.rglob("*.html") if page.name != "404.html"]
    assert len(pages) > 15
    found = 0
    for page in pages:
        for match in loads.finditer(page.read_text()):
            target = match[1] or match[2]
            found += 1
            assert not re.match(r"(?:https?:)?//", target), f"{page.name}: {target}"
            if not target.startswith("data:"):
                assert (page.parent / target.partition("?")[0]).is_file(), f"{page.name}: {target}"
    assert found > 100
    for style in site.rglob("*.css"):
        remote = re.findall(
            r"(?:url\(|@import)\s*[\"']?((?:https?:)?//[^\"')]+)", style.read_text()
        )
        assert not remote, style


def test_links_within_the_site_lead_somewhere(site: Path) -> None:
    """Check files and headings, also where mkdocstrings has made them."""
    for page in site.rglob("*.html"):
        if page.name == "404.html":  # its links are those of a server's root
            continue
        for target in re.findall(r"<a\b[^>]*?\shref=\"([^\"]*)\"", page.read_text()):
            if re.match(r"\w+:", target):
                continue
            place, _, heading = target.partition("#")
            file = page.parent / place if place else page
            file = file / "index.html" if file.is_dir() else file
            assert file.is_file(), f"{page.name}: {target}"
            if heading:
                assert re.search(rf"\bid=\"{re.escape(heading)}\"", file.read_text()), target


@pytest.mark.parametrize(
    "name", [*PUBLIC, "eventdata.lightning.EventDataModule", "train.load_model"]
)
def test_public_names_are_in_the_reference(site: Path, name: str) -> None:
    pages = [site / "api.html", site / "api-train.html"]
    assert any(f'id="{name}"' in page.read_text() for page in pages)


def test_links_of_documents_become_links_of_the_site() -> None:
    needs("mkdocs")
    place = ROOT / "tools/site.py"
    hooks = runpy.run_path(str(place))
    link = hooks["LINK"]
    found = {
        ("index.md", "[a](docs/training.md#recipes)"): "[a](training.md#recipes)",
        ("index.md", "![a](docs/flower.png)"): "![a](flower.png)",
        ("index.md", "[a](LICENSE)"): f"[a]({hooks['REPOSITORY']}/LICENSE)",
        ("scaling.md", "[a](../README.md)"): "[a](index.md)",
        ("tutorials/your-network.md", "[a](../../datasets.md#text)"): "[a](../datasets.md#text)",
        ("tutorials/your-network.md", "[a](raw-to-batches.ipynb)"): "[a](raw-to-batches.md)",
        ("index.md", "[a](https://zarr.dev)"): "[a](https://zarr.dev)",
        ("index.md", "`batch[0](model)`"): "`batch[0](model)`",
    }
    for (page, text), expected in found.items():
        assert (
            link.sub(lambda match, page=page: hooks["site_link"](match[0], Path(page)), text)
            == expected
        )


def test_the_notebook_runs_and_prints_what_it_shows(tmp_path: Path) -> None:
    needs("nbclient", "ipykernel")
    import nbclient
    import nbformat

    shown = nbformat.read(NOTEBOOK, 4)
    run = nbformat.read(NOTEBOOK, 4)
    client = nbclient.NotebookClient(
        run, timeout=200, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()
    printed = 0
    for ours, theirs in zip(shown.cells, run.cells, strict=True):
        assert texts(ours) == texts(theirs)
        printed += bool(texts(ours))
    assert printed > 5


def texts(cell) -> str:
    """Return what a cell has printed, and the pixels of its pictures."""
    found = []
    for output in cell.get("outputs", []):
        data = output.get("data", {})
        if "image/png" in data:
            found.append(str(pixels(data["image/png"])))
        elif output.get("name") != "stderr":
            found.append(output.get("text") or data["text/plain"])
    return "".join(found)


def pixels(png: str) -> bytes:
    with Image.open(BytesIO(base64.b64decode(png))) as image:
        return image.tobytes()


def blocks(*pages: str) -> Iterator[tuple[str, str]]:
    """Yield kind and text of the blocks of code of pages."""
    for page in pages:
        yield from BLOCK.findall((DOCS / page).read_text())


def run_blocks(pieces: Iterator[tuple[str, str]]) -> dict[str, object]:
    """Run blocks of Python and commands of eventdata, one after the other; return the names."""
    names: dict[str, object] = {"__name__": "page"}
    for kind, code in pieces:
        if kind == "python":
            exec(compile(code, "page", "exec"), names)
        elif kind == "sh":
            for line in code.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                if words and words[0] == "eventdata":
                    done = CliRunner().invoke(main, words[1:])
                    assert done.exit_code == 0, f"{line}\n{done.output}"
    return names


@pytest.mark.filterwarnings("ignore")  # of Lightning, matplotlib and torch
def test_the_tutorials_run(tmp_path: Path, monkeypatch) -> None:
    """Run recordings, training and an own network in one folder, as a reader would."""
    needs("lightning", "matplotlib", "torchmetrics", "safetensors", "tomli_w")
    monkeypatch.chdir(tmp_path)
    names = run_blocks(blocks("tutorials/your-recordings.md", "tutorials/training-and-report.md"))
    assert len(names["train"].__all__) == 2  # the package, by its name in the last block
    assert (tmp_path / "report.html").is_file()
    assert (tmp_path / "predictions.csv").read_text().count("\n") > 30
    names = run_blocks(blocks("tutorials/your-network.md"))
    assert names["right"] >= 7, "of 8; the classes differ in the direction of a bar"


def diff_of(script: str) -> str:
    """Return the change that the page shows for a script."""
    (found,) = [
        code for kind, code in blocks("in-your-script.md") if kind == "diff" and script in code
    ]
    return found


def added(diff: str) -> str:
    """Return the lines that a change adds, without indentation."""
    lines = [line[1:].strip() for line in diff.splitlines() if re.match(r"\+(?!\+\+)", line)]
    return "\n".join(lines)


def applied(diff: str, text: str) -> str:
    """Apply a change to the text of a file; raise ValueError if it does not fit."""
    for hunk in re.split(r"^@@.*@@\n", diff, flags=re.MULTILINE)[1:]:
        lines = hunk.splitlines(keepends=True)
        old = "".join(line[1:] for line in lines if line[0] in " -")
        new = "".join(line[1:] for line in lines if line[0] in " +")
        if text.count(old) != 1:
            raise ValueError(f"appears {text.count(old)} times: {old}")
        text = text.replace(old, new)
    return text


@pytest.mark.filterwarnings("ignore")  # of SpikingJelly and torch.cuda.amp
def test_spikingjellys_script_trains_with_the_change(tmp_path: Path, monkeypatch, capsys) -> None:
    """Change the installed file as the page says, and run it for an epoch on the CPU."""
    needs("loguru", "spikingjelly", "tensorboard")
    place = importlib.util.find_spec("spikingjelly.activation_based.examples.classify_dvsg")
    assert place is not None
    assert place.origin is not None
    script = tmp_path / "classify_dvsg.py"
    script.write_text(applied(diff_of("classify_dvsg.py"), Path(place.origin).read_text()))
    source = Drawn(kind="count", counts=(("train", 8), ("test", 4)), n_classes=11, side=128)
    eventdata.convert(source, "", tmp_path / "gesture.zarr")
    monkeypatch.chdir(tmp_path)
    words = "-T 4 -device cpu -b 4 -epochs 1 -j 0 -channels 4 -opt adam -lr 0.001 -data-dir"
    monkeypatch.setattr(sys, "argv", [str(script), *words.split(), "gesture.zarr"])
    runpy.run_path(str(script), run_name="__main__")
    assert "train_loss" in capsys.readouterr().out
    assert list(tmp_path.glob("logs/*/checkpoint_latest.pth"))


def test_the_authors_loop_reads_the_published_frames(tmp_path: Path) -> None:
    """Run the changed lines and the script's own loaders in two ranks, against its frames."""
    from torch.utils.data import DataLoader
    from torch.utils.data.distributed import DistributedSampler

    store = tmp_path / "es.zarr"
    eventdata.convert(Drawn(counts=(("train", 30), ("val", 8))), "", store)
    code = added(diff_of("example_ES_res18.py")).replace("/data/es.zarr", str(store))
    names: dict[str, object] = {}
    exec(code, names)
    train = names["train_dataset"]
    plain = eventdata.FrameDataset(store, "train")
    seen = []
    for rank in range(2):
        sampler = DistributedSampler(train, num_replicas=2, rank=rank)
        sampler.set_epoch(1)
        loader = DataLoader(train, batch_size=5, shuffle=False, drop_last=True, sampler=sampler)
        for (images, labels), indices in zip(
            loader, torch.tensor(list(sampler)).split(5), strict=True
        ):
            assert images.shape == (5, 2, 4, 16, 16)  # (N, P, T, H, W)
            assert labels.view(5).tolist() == [plain.targets[index] for index in indices]
            for image, index in zip(images.type(torch.FloatTensor), indices, strict=True):
                assert torch.equal(image, plain[int(index)][0].transpose(0, 1).float())
            seen += indices.tolist()
    assert sorted(seen) == list(range(30))
    assert len(names["test_dataset"]) == 8


def test_spikformers_split_and_loop_take_a_store(tmp_path: Path) -> None:
    """Run the changed lines, a split by the labels of the samples, and the script's loaders."""
    from torch.utils.data import DataLoader, Subset

    store = tmp_path / "cifar10dvs.zarr"
    eventdata.convert(Drawn(kind="count", counts=(("all", 30),)), "", store)

    def split_to_train_test_set(share, origin_set, num_classes):
        places = {label: [] for label in range(num_classes)}
        for index, item in enumerate(origin_set):
            places[item[1]].append(index)
        first = [one for own in places.values() for one in own[: int(share * len(own))]]
        last = [one for own in places.values() for one in own[int(share * len(own)) :]]
        return Subset(origin_set, first), Subset(origin_set, last)

    names = {"dataset_dir": store, "split_to_train_test_set": split_to_train_test_set}
    code = added(diff_of("cifar10dvs/train.py"))
    exec(
        code + "\ndataset_train, dataset_test = split_to_train_test_set(0.9, origin_set, 3)", names
    )
    assert (len(names["dataset_train"]), len(names["dataset_test"])) == (27, 3)
    plain = eventdata.FrameDataset(store)
    batches = list(DataLoader(names["dataset_train"], 9, shuffle=False, drop_last=True))
    images = torch.cat([image.float() for image, _ in batches])
    labels = torch.cat([label for _, label in batches])
    assert images.shape == (27, 4, 2, 16, 16)  # (N, T, P, H, W)
    kept = names["dataset_train"].indices
    assert labels.tolist() == [plain.targets[index] for index in kept]
    for image, index in zip(images, kept, strict=True):
        assert torch.equal(image, plain[index][0].float())
    whole = eventdata.FrameLoader(names["dataset_train"], 27)  # a Subset is taken as it is
    assert torch.equal(next(iter(whole))[0].float(), images)


def test_a_change_that_does_not_fit_is_found() -> None:
    with pytest.raises(ValueError, match="appears 0 times"):
        applied(diff_of("classify_dvsg.py"), "import torch\n")


@pytest.mark.filterwarnings("ignore")  # of Norse, accelerate and Lightning
def test_the_recipes_run(tmp_path: Path, monkeypatch) -> None:
    """Run each block of Python under Recipes on a store like N-MNIST."""
    needs("loguru", "snntorch", "norse", "nirtorch", "accelerate", "lightning")

    class Digits(Drawn):
        @property
        def classes(self) -> list[str]:
            return list("0123456789")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tests.drawn.T", 10)
    eventdata.convert(Digits(counts=(("train", 200), ("test", 12)), side=34), "", "nmnist.zarr")
    with zipfile.ZipFile("nmnist.zarr.zip", "w") as archive:
        for path in Path("nmnist.zarr").rglob("*"):
            archive.write(path, path.relative_to("nmnist.zarr"))
    text = (DOCS / "in-your-script.md").read_text().partition("## Recipes")[2]
    pieces = [(kind, code) for kind, code in BLOCK.findall(text) if kind == "python"]
    assert len(pieces) > 10
    run_blocks(iter(pieces))


def test_configuration_names_every_page() -> None:
    """Check the pages of mkdocs.yml without building them."""
    text = (ROOT / "mkdocs.yml").read_text()
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    pages |= {path.name for path in ROOT.glob("*.md")} - {"README.md"}
    assert not [page for page in pages if page not in text]
    assert json.loads(NOTEBOOK.read_text())["nbformat"] == 4
