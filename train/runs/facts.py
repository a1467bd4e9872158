"""The header of weights: everything that decides the outputs of a trained network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from eventdata.errors import EventDataError, InputError
from eventdata.settings import table_of
from eventdata.store.layout import Header, SampleFormat
from train.recipe import Recipe


def model_facts(
    recipe: Recipe, stage: str, *, classes: list[str], header: Header, sample: SampleFormat
) -> dict[str, Any]:
    """Return the header of weights from which `train.load_model` makes the same network.

    Args:
        recipe, stage: the settings, and the name of the stage that trains the weights.
        classes: class names by output.
        header, sample: of the stage's store.
    """
    # The weights that a stage starts from do not matter any more, and are a path on this machine.
    settings = recipe.stages[stage].without_source()
    return {
        "network": recipe.network,
        "classes": classes,
        "recipe": recipe.name,
        "pipeline": recipe.pipeline,
        "stage": stage,
        "settings": table_of(settings),
        "framing": {
            "dataset": header.dataset,
            "sample": asdict(sample),
            "parameters": header.parameters,
        },
    }


@contextmanager
def reading_header(path: Path) -> Iterator[None]:
    """Raise InputError for an error in what the header of a file states."""
    try:
        yield
    except (EventDataError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path}: its header is damaged ({error}); pass another file of the run"
        ) from None
