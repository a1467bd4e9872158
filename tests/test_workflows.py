"""The workflows of GitHub: valid, pinned, with least permissions, and calling what exists."""

import os
import re
from pathlib import Path

import pytest

yaml = pytest.importorskip("yaml", reason="needs PyYAML, of the extra docs")

ROOT = Path(__file__).parent.parent
WORKFLOWS = {
    path.name: yaml.safe_load(path.read_text())
    for path in sorted(ROOT.glob(".github/workflows/*.yml"))
}
STEPS = [
    step
    for workflow in WORKFLOWS.values()
    for job in workflow["jobs"].values()
    for step in job["steps"]
]


def test_the_workflows_run_these_commands() -> None:
    commands = {step["run"] for step in STEPS if "run" in step}
    assert commands == {".ci/run", "make docs", "make package", "make test-oldest"}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {command.split()[1] for command in commands if command.startswith("make")} <= targets
    assert os.access(ROOT / ".ci/run", os.X_OK)


def test_actions_are_pinned_to_commits() -> None:
    used = [step["uses"] for step in STEPS if "uses" in step]
    assert len(used) > 4
    assert not [name for name in used if not re.fullmatch(r"[\w/-]+@[0-9a-f]{40}", name)]
    for path in ROOT.glob(".github/workflows/*.yml"):
        lines = [line for line in path.read_text().splitlines() if "uses:" in line]
        assert not [line for line in lines if not re.search(r"# v\d+\.\d+\.\d+$", line)]


@pytest.mark.parametrize("name", WORKFLOWS)
def test_workflows_only_read(name: str) -> None:
    workflow = WORKFLOWS[name]
    assert workflow["permissions"] == {"contents": "read"}
    assert {"push", "pull_request"} == set(workflow[True])  # YAML 1.1 reads `on` as true
    for job in workflow["jobs"].values():
        assert "permissions" not in job
        assert job["runs-on"] == "ubuntu-24.04"
        assert job["timeout-minutes"] <= 60
