"""Recipes, checkpoints of each kind, and the folder of a finished run."""

import io
import json
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

from eventdata.settings import table_of
from tests.fuzz.seeds.trees import Real, Tree, write_tree

RECIPE = b"""
pipeline = "pipe-d"
name = "small"
[network]
name = "event-resnet18"
width = 8
[run]
seed = 1
held_out = 0.2
precision = "32-true"
[machine]
devices = 1
threads = 2
[defaults]
batch_size = 8
augment = { crop = 0.1, flip = 0.5 }
neuron = { decay = 0.6 }
[stages.pretrain]
data = "images"
neuron = { kind = "ann" }
epochs = 2
learning_rate = 0.05
[stages.lif]
weights = "pretrain"
neuron = { kind = "lif", threshold = 1.3 }
schedule = "step"
milestones = [1, 2]
freeze = ["stem"]
freeze_epochs = 1
steps = 4
[scratch]
epochs = 8
"""


def recipes(_: Real) -> list[Tree]:
    """Return a recipe with every kind of setting, and the recipes of the package."""
    from train.recipe import RECIPES

    return [{"recipe.toml": RECIPE}] + [
        {"recipe.toml": path.read_bytes()} for path in sorted(RECIPES.glob("*.toml"))
    ]


def small_state() -> dict[str, Any]:
    """Return tensors of several types and shapes."""
    import torch

    return {
        "stem.conv.weight": torch.arange(54.0).reshape(2, 3, 3, 3),
        "stages.0.0.first.norm.num_batches_tracked": torch.tensor(3),
        "fc.weight": torch.ones(4, 2, dtype=torch.float16),
        "fc.bias": torch.zeros(4),
    }


def checkpoints(_: Real) -> list[Tree]:
    """Return safetensors with facts, torch files of both kinds, and a Lightning checkpoint."""
    import torch
    from safetensors.torch import save

    state = small_state()
    from train.recipe import load

    facts = {"classes": ["a", "b", "c", "d"], "seconds": 1.5, "epoch": 2, "kind": "ann"}
    sample = {"representation": "binary", "steps": 4, "channels": 2, "height": 9, "width": 9}
    stated = {
        "network": {"name": "event-resnet18", "width": 2, "stem": "small"},
        "recipe": "small",
        "pipeline": "pipe-d",
        "stage": "lif",
        "settings": table_of(load("pipe-d-images").stages["lif"]),
        "framing": {"dataset": "drawn", "sample": sample, "parameters": {"frames": 4}},
    }

    def torch_file(content: Any, **settings: Any) -> bytes:
        stream = io.BytesIO()
        torch.save(content, stream, **settings)
        return stream.getvalue()

    return [
        {"a.safetensors": save(state, {"train": json.dumps(facts)})},
        {"a.safetensors": save(state, {"train": json.dumps(facts | stated)})},
        {"a.pt": torch_file(state)},
        {"b.pth": torch_file({"model": state, "args": Namespace(lr=0.1, tags=["a"])})},
        {"a.pth": torch_file(state, _use_new_zipfile_serialization=False)},
        {"a.ckpt": torch_file({"state_dict": state, "epoch": 3, "callbacks": {"Record": {}}})},
    ]


def runs(_: Real) -> list[Tree]:
    """Return the folder of a finished run without its weights."""
    from train.recipe import load

    with tempfile.TemporaryDirectory() as folder:
        write_tree(Path(folder), {"small.toml": RECIPE})
        recipe = load(f"{folder}/small.toml")
    stage = {"name": "lif", "train_seconds": 4.0, "best_epoch": 1, "best_top1": 0.5, "epochs": 2}
    result = {
        "recipe": "small",
        "label": "small",
        "store": "0" * 64,
        "seed": 1,
        "protocol": "correct",
        "machine": {"system": "Linux", "torch": "2.4", "threads": 2, "gpus": []},
        "stages": [{**stage, "name": "pretrain"}, stage],
        "train_seconds": 8.0,
        "test": {"top1": 0.4, "top5": 0.9, "loss": 1.0, "samples": 4},
    }
    rows = "epoch,step,train_seconds,evaluation_seconds,top1,top5,loss\n"
    rows += "0,0,0.0,0.1,0.25,1.0,1.4\n1,3,2.0,0.2,0.5,1.0,1.2\n2,6,4.0,0.3,0.5,,1.1\n"
    return [
        {
            "config.toml": recipe.document().encode(),
            "result.json": json.dumps(result).encode(),
            "lif/epochs.csv": rows.encode(),
            "lif/operations.json": json.dumps({"synaptic": 1e6}).encode(),
        }
    ]
