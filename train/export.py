"""Export a trained network to ONNX, torch.export, NIR or safetensors.

Each file has the facts about the network: classes, framing of the input, settings.

Legend: N samples, T steps, P polarities, C channels, H rows, W columns.
"""

import importlib.util
import io
import json
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from eventdata.errors import OptionError
from eventdata.settings import table_of
from train.model import ModelInfo, load_model
from train.networks.layers import ConvCell, ConvNorm, MeanClassifier, Network
from train.networks.resnet import Block, ResNet
from train.networks.vgg import VGG
from train.neurons.neuron import Neuron
from train.runs.folder import weight_facts, write, writing_run

DT = 1e-4
"""Seconds of a step in NIR: what snnTorch and SpikingJelly assume when they import a graph."""

Facts = Mapping[str, Any]


def export(
    network: str | Path,
    out: str | Path,
    *,
    stage: str | None = None,
    recipe: str | None = None,
    shape: tuple[int, ...] | None = None,
) -> tuple[int, ...]:
    """Write a trained network as a file of another format, chosen by the suffix of `out`.

    Args:
        network: folder of a run, or a file of weights (`train.load_model`).
        out: file to write, `.onnx`, `.pt2`, `.nir` or `.safetensors`.
        stage: stage of the run. Default: the last one.
        recipe: recipe of a file of weights without settings.
        shape: shape of a sample as the network takes it, (T, P, H, W) or (C, H, W), for weights
            that do not state it.

    Returns:
        The shape of a sample as the network takes it; empty if nothing states it.

    Raises:
        OptionError: the suffix is unknown, a package or the shape is missing, or the format can't
            express the network.
        InputError: the weights can't be read, or the file can't be written.
    """
    out = Path(out)
    if out.suffix not in FORMATS:
        raise OptionError(f"{out} has an unknown suffix; choose {', '.join(FORMATS)}")
    if shape is not None and (len(shape) not in (3, 4) or min(shape) < 1):
        raise OptionError(f"shape is {shape}; pass T,P,H,W or C,H,W")
    for package in PACKAGES.get(out.suffix, ()):
        if importlib.util.find_spec(package) is None:
            extra = out.suffix.removeprefix(".")
            raise OptionError(f"{package} is not installed; run: pip install 'eventdata[{extra}]'")
    size = None if shape is None else (shape[-2], shape[-1])
    loaded, info = load_model(network, recipe, stage=stage, size=size)
    stated = loaded.sample_shape
    if None not in (stated, shape) and stated != shape:
        raise OptionError(f"shape is {shape}, but {info.file} states {stated}; omit the shape")
    shape = stated or shape or ()
    if not shape and out.suffix != ".safetensors":
        raise OptionError(
            f"{info.file} does not state the shape of its input; pass --shape T,P,H,W for event "
            "frames or --shape C,H,W for images"
        )
    if shape and stated is None:
        _check_shape(loaded, shape)
    data = FORMATS[out.suffix](loaded, shape, facts_of(info))
    with writing_run(out.parent):
        write(out, data)
    return shape


def _check_shape(network: Network, shape: tuple[int, ...]) -> None:
    """Raise OptionError if a network can't take samples of a shape."""
    try:
        deepcopy(network).to("meta")(torch.empty((2, *shape), device="meta"))
    except (RuntimeError, ValueError, IndexError) as error:
        reason = str(error).partition("\n")[0].partition(". ")[0]
        raise OptionError(f"the network can't take samples of shape {shape}: {reason}") from None


def facts_of(info: ModelInfo) -> dict[str, Any]:
    """Return the facts for the header of an exported file, those in the file of the weights first.

    The key `framing` is missing if nothing states how the input was made.
    """
    recipe = info.recipe
    return weight_facts(info.file) | {
        "network": recipe.network,
        "classes": info.classes,
        "recipe": recipe.name,
        "pipeline": recipe.pipeline,
        "stage": info.stage,
        "settings": table_of(info.settings),
    }


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide warnings of exporters, which concern packages that are not needed."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _traced(network: Network, shape: tuple[int, ...]) -> torch.export.ExportedProgram:
    """Trace a network for batches of any size of samples of this shape."""
    batch = torch.zeros(2, *shape)  # a traced batch of 1 would be a constant
    sizes = {0: torch.export.Dim.DYNAMIC}
    return torch.export.export(network, (batch,), dynamic_shapes=(sizes,))


def to_onnx(network: Network, shape: tuple[int, ...], facts: Facts) -> bytes:
    """Return an ONNX file: `input` (N, ...) -> `logits` (N, classes), float32, steps unrolled.

    Its metadata has each fact as JSON.
    """
    with _quiet():
        program = torch.onnx.export(
            _traced(network, shape),
            input_names=["input"],
            output_names=["logits"],
            dynamo=True,
            verbose=False,
        )
        assert program is not None
        model = program.model_proto
    for key, value in facts.items():
        model.metadata_props.add(key=key, value=json.dumps(value))
    data: bytes = model.SerializeToString()
    return data


def to_pt2(network: Network, shape: tuple[int, ...], facts: Facts) -> bytes:
    """Return a file for `torch.export.load`; its extra file `facts.json` has the facts."""
    file = io.BytesIO()
    with _quiet():
        program = _traced(network, shape)
        torch.export.save(program, file, extra_files={"facts.json": json.dumps(facts)})
    return file.getvalue()


def to_safetensors(network: Network, shape: tuple[int, ...], facts: Facts) -> bytes:
    """Return a safetensors file with the facts in its header, which `load_model` takes."""
    tensors = {key: value.contiguous() for key, value in network.state_dict().items()}
    return save(tensors, {"train": json.dumps(facts)})


def to_nir(network: Network, shape: tuple[int, ...], facts: Facts) -> bytes:
    """Return a NIR file of one step of a network of LIF neurons; norms are in the convolutions.

    Run the graph once per frame, or `steps` times on an image. The mean of its outputs
    (classes, 1, 1) over the steps is the logits. The metadata has each fact as JSON, `dt` and
    `steps`.

    Raises:
        OptionError: NIR can't express the network.
    """
    import nir

    steps = shape[0] if len(shape) == 4 else network.steps
    stated = {**facts, "dt": DT, "steps": steps}
    metadata = {key: json.dumps(value) for key, value in stated.items()}
    file = io.BytesIO()
    nir.write(file, _NirGraph().build(network, shape[-3:], metadata))
    return file.getvalue()


FORMATS: dict[str, Callable[[Network, tuple[int, ...], Facts], bytes]] = {
    ".onnx": to_onnx,
    ".pt2": to_pt2,
    ".nir": to_nir,
    ".safetensors": to_safetensors,
}
PACKAGES = {".onnx": ("onnx", "onnxscript"), ".nir": ("nir",)}
"""Packages that a format needs; they come with the extra of its name."""


@dataclass(frozen=True)
class _Flow:
    """A sum of outputs of nodes."""

    nodes: tuple[str, ...]
    shape: tuple[int, ...]
    """(C, H, W)."""


class _NirGraph:
    """The nodes and edges of a NIR graph. Two edges into a node are a sum."""

    def __init__(self) -> None:
        self.nodes: dict[str, Any] = {}
        self.edges: list[tuple[str, str]] = []

    def build(self, network: Network, shape: tuple[int, ...], metadata: dict[str, str]) -> Any:
        """Return the graph of one step of a network.

        Args:
            network: a network in evaluation mode.
            shape: shape (C, H, W) of its input in a step.
            metadata: texts for the graph's metadata.
        """
        import nir

        if not isinstance(network, ResNet | VGG):
            found = sorted({type(part).__name__ for part in network.modules()} & {"LSTM"})
            raise _refusal("network", f"a {' and '.join([type(network).__name__, *found])}")
        self.nodes["input"] = nir.Input(input_type={"input": np.array(shape)})
        x = _Flow(("input",), shape)
        for name, part in network.named_children():
            x = self._part(name, part, x)
        self._add("output", nir.Output(output_type={"output": np.array(x.shape)}), x, x.shape)
        return nir.NIRGraph(nodes=self.nodes, edges=self.edges, metadata=metadata)

    def _add(self, name: str, node: Any, x: _Flow, shape: tuple[int, ...]) -> _Flow:
        """Add a node that reads x and has an output of this shape."""
        name = name.replace(".", "_")  # importers make Python names of it
        self.nodes[name] = node
        self.edges += [(source, name) for source in x.nodes]
        return _Flow((name,), shape)

    def _part(self, name: str, part: nn.Module, x: _Flow) -> _Flow:
        """Add a part of a network."""
        if isinstance(part, ConvCell):
            x = self._neuron(f"{name}.neuron", part.neuron, self._affine(f"{name}.conv", part, x))
            return x if part.pool is None else self._pool(f"{name}.pool", part.pool, x)
        if isinstance(part, Block):
            return self._block(name, part, x)
        if isinstance(part, MeanClassifier):
            return self._head(name, part, x)
        if isinstance(part, nn.Sequential):
            for key, inner in part.named_children():
                x = self._part(f"{name}.{key}", inner, x)
            return x
        raise _refusal(name, f"a {type(part).__name__}")

    def _block(self, name: str, block: Block, x: _Flow) -> _Flow:
        neuron = block.neuron
        first = self._neuron(
            f"{name}.neuron_1", neuron, self._affine(f"{name}.first", block.first, x)
        )
        second = self._affine(f"{name}.second", block.second, first)
        short = x
        if isinstance(block.shortcut, ConvNorm):
            short = self._affine(f"{name}.shortcut", block.shortcut, x)
        total = _Flow((*second.nodes, *short.nodes), second.shape)
        if block.respond_to_sum:
            total = self._threshold(f"{name}.respond", total, neuron.settings.threshold)
        return self._neuron(f"{name}.neuron_2", neuron, total)

    def _affine(self, name: str, part: ConvNorm, x: _Flow) -> _Flow:
        """Add a convolution with its norm folded in; a norm only is a convolution of 1x1."""
        norm, conv = part.norm, part.conv
        assert norm.running_var is not None
        assert norm.running_mean is not None
        scale = norm.weight.double() / torch.sqrt(norm.running_var.double() + norm.eps)
        shift = norm.bias.double() - norm.running_mean.double() * scale
        if isinstance(conv, nn.Identity):
            return self._conv(name, scale.diag()[..., None, None], shift, x)
        if not isinstance(conv, nn.Conv2d) or isinstance(conv.padding, str):
            raise _refusal(name, f"the layer {conv}")
        if conv.bias is not None:
            shift = shift + conv.bias.double() * scale
        return self._conv(name, conv.weight.double() * scale[:, None, None, None], shift, x, conv)

    def _conv(
        self, name: str, weight: Tensor, bias: Tensor, x: _Flow, like: nn.Conv2d | None = None
    ) -> _Flow:
        """Add a convolution with the geometry of another one; by default stride 1, no padding."""
        import nir

        conv = like or nn.Conv2d(1, 1, 1, device="meta")
        node = nir.Conv2d(
            input_shape=x.shape[1:],
            weight=_array(weight),
            bias=_array(bias),
            stride=conv.stride,
            padding=conv.padding,
            dilation=conv.dilation,
            groups=conv.groups,
        )
        return self._add(name, node, x, tuple(int(side) for side in node.output_type["output"]))

    def _neuron(self, name: str, neuron: Neuron, x: _Flow) -> _Flow:
        """Add LIF neurons: dt/tau = 1 - d, and r = tau/dt makes the input's factor one."""
        import nir

        settings = neuron.settings
        if settings.kind != "lif":
            raise _refusal(name, f"neurons of the kind {settings.kind}, only lif")
        decay = settings.decay
        if neuron.decay is not None:
            decay = float(torch.sigmoid(neuron.decay.detach().double()))
        zero = np.zeros(x.shape, np.float32)
        node = nir.LIF(
            tau=zero + np.float32(DT / (1 - decay)),
            r=zero + np.float32(1 / (1 - decay)),
            v_leak=zero,
            v_threshold=zero + np.float32(settings.threshold),
            v_reset=zero,
        )
        return self._add(name, node, x, x.shape)

    def _threshold(self, name: str, x: _Flow, threshold: float) -> _Flow:
        import nir

        node = nir.Threshold(threshold=np.full(x.shape, threshold, np.float32))
        return self._add(name, node, x, x.shape)

    def _pool(self, name: str, pool: nn.Module, x: _Flow) -> _Flow:
        """Add a max-pool of spikes, which NIR lacks: a sum-pool, and whether its sum is not 0."""
        import nir

        if not isinstance(pool, nn.MaxPool2d) or pool.ceil_mode or pool.dilation != 1:
            raise _refusal(name, f"the pool {pool}")
        kernel, stride, padding = (
            np.array([side, side] if isinstance(side, int) else side)
            for side in (pool.kernel_size, pool.stride, pool.padding)
        )
        rows, columns = (np.array(x.shape[1:]) + 2 * padding - kernel) // stride + 1
        node = nir.SumPool2d(kernel_size=kernel, stride=stride, padding=padding)
        x = self._add(f"{name}.sum", node, x, (x.shape[0], int(rows), int(columns)))
        return self._threshold(f"{name}.any", x, 0.5)

    def _head(self, name: str, head: MeanClassifier, x: _Flow) -> _Flow:
        """Add the classifier: mean over space, then a convolution of 1x1."""
        import nir

        sides, none = np.array(x.shape[1:]), np.array([0, 0])
        node = nir.AvgPool2d(kernel_size=sides, stride=sides, padding=none)
        x = self._add(f"{name}.mean", node, x, (x.shape[0], 1, 1))
        return self._conv(name, head.weight[..., None, None], head.bias, x)


def _array(x: Tensor) -> NDArray[np.float32]:
    array: NDArray[np.float32] = x.detach().float().contiguous().numpy()
    return array


def _refusal(name: str, thing: str) -> OptionError:
    return OptionError(f"{name}: NIR can't express {thing}; export to .onnx or .pt2 instead")
