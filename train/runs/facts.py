"""The header of weights: everything that decides the outputs of a trained network."""

from dataclasses import asdict
from typing import Any

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
