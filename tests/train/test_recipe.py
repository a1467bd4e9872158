"""Recipes: how they are read, and the errors of wrong ones."""

import errno
import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdata.errors import InputError, OptionError
from train.recipe import default_recipe, load, load_method, recipe_names
from train.settings import reference_page
from train.toml import parse_toml, to_toml

SMALL = """
pipeline = "pipe-d"
[network]
name = "vgg"
[defaults]
epochs = 3
neuron = { decay = 0.25 }
[stages.first]
neuron = { kind = "ann" }
[stages.second]
weights = "first"
freeze = ["stem"]
freeze_epochs = 1
[scratch]
epochs = 9
"""


def recipe(folder: Path, text=SMALL, name="mine.toml") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def test_stages_inherit_and_override(tmp_path):
    mine = load(recipe(tmp_path))
    assert list(mine.stages) == ["first", "second"]
    assert [stage.epochs for stage in mine.stages.values()] == [3, 3]
    assert mine.stages["first"].neuron.kind == "ann"
    assert mine.stages["second"].neuron.kind == "lif"
    assert {stage.neuron.decay for stage in mine.stages.values()} == {0.25}
    assert mine.name == "mine"


def test_the_baseline_is_the_last_stage_with_fresh_weights(tmp_path):
    baseline = load(recipe(tmp_path), scratch=True)
    second = load(recipe(tmp_path)).stages["second"]
    assert list(baseline.stages) == ["scratch"]
    want = replace(second, weights="fresh", freeze=(), freeze_epochs=0, epochs=9)
    assert baseline.stages["scratch"] == want


def test_settings_from_the_command_line(tmp_path):
    changes = [
        "second.epochs=7",
        "all.batch_size=8",
        "second.augment.flip=0.5",
        "network.width=4",
        "run.seed=3",
        "second.schedule=cosine",
        'second.freeze=["fc"]',
    ]
    mine = load(recipe(tmp_path), changes=changes)
    first, second = mine.stages.values()
    assert (first.epochs, second.epochs, first.batch_size, second.batch_size) == (3, 7, 8, 8)
    assert (first.augment.flip, second.augment.flip) == (0, 0.5)
    assert mine.network == {"name": "vgg", "width": 4}
    assert mine.run.seed == 3
    assert (second.schedule, second.freeze) == ("cosine", ("fc",))


@pytest.mark.parametrize("stage", ["pretrain", "lif"])
def test_a_change_to_a_stage_leaves_other_stages_as_they_are(stage):
    plain = load("pipe-d-images").stages
    mine = load("pipe-d-images", changes=[f"{stage}.augment.flip=0"]).stages
    assert {key for key in plain if mine[key] != plain[key]} == {stage}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("second.epoch=1", "second has no key 'epoch'; did you mean 'epochs'"),
        ("secnd.epochs=1", "no key 'secnd'; did you mean 'second'"),
        ("second.neuron.dekay=1", r"second\.neuron has no key 'dekay'; did you mean 'decay'"),
        ("second.epochs=1.5", r"second\.epochs is 1\.5, not a whole number"),
        ("second.epochs=true", r"second\.epochs is True, not a whole number"),
        ("second.epochs=-1", "epochs is -1: choose 0 to 100000"),
        ("first.epochs=0", "first.epochs is 0, but its weights are fresh; set weights or epochs"),
        ("second.epochs=0 second.neuron.activation=sharpened_relu", "epochs is 0, but the activ"),
        ("second.learning_rate=fast", "learning_rate is 'fast', not a number"),
        ("second.learning_rate=nan", "learning_rate is nan, not a number"),
        ("second.optimizer=adam", "optimizer is 'adam': choose sgd, adamw"),
        ("second.milestones=3", "milestones is 3, not a list of whole numbers"),
        ("second.augment.flip=2", "flip is 2.0: choose 0 to 1"),
        ("second.augment=3", "augment is 3, not a table"),
        ("second.learning_rate=1e308", r"learning_rate is 1e\+308: choose 0 to 1000"),
        ("second.weight_decay=1e308", r"weight_decay is 1e\+308: choose 0 to 1000"),
        (f"second.epochs={10**400}", "epochs is 10*: choose 0 to 100000"),
        (f"second.warmup={10**400}", "warmup is 10*, not a number"),
        ("second.steps=10001", "steps is 10001: choose 1 to 10000"),
        ("second.augment.mixup=1e308", r"mixup is 1e\+308: choose 0 to 100"),
        (f"second.augment.time_shift={10**20}", "time_shift is 10*: choose 0 to 10000"),
        ("second.augment.strength=1e308", r"strength is 1e\+308: choose 0 to 100"),
        ("all.optimizer=adamw all.momentum=1", "momentum is 1, but adamw uses it as a beta"),
        ("second.epochs.more=3", "epochs is a value, not a table"),
        ("second.accumulate=7", "batch_size is 64, which accumulate=7 does not divide"),
        ("second.schedule=step", "step without milestones"),
        ("second.milestones=[2]", "milestones and gamma need schedule=step, but"),
        ("second.schedule=cosine second.gamma=0.5", "need schedule=step, but schedule is cosi"),
        ("second.freeze_epochs=0", "freeze and freeze_epochs need each other"),
        ("second.freeze=[]", "freeze and freeze_epochs need each other"),
        ("first.take=encoder", "take is encoder, but weights are fresh"),
        ("first.data=images first.collapse=1", "first.collapse is 1, but the stage learns from"),
        ("first.data=images all.augment.time_shift=2", "first.augment.time_shift is 2, but"),
        ("first.data=images all.augment.event_drop=0.1", "first.augment.event_drop is 0.1, but"),
        ("first.data=images all.augment.polarity_swap=1", "first.augment.polarity_swap is 1"),
        ("first.data=images all.align=true", "first.align is True, but the stage learns from"),
        ("second.neuron.kind=snn", "kind is 'snn'"),
        ("second.neuron.decay=2", "decay is 2.0: choose more than 0 and less than 1"),
        ("second.weights=third", "second.weights is 'third', neither fresh, first nor a file"),
        ("first.weights=second", "first.weights is 'second', neither fresh nor a file"),
        ("second.weights=checkpoint", "--set second.weights=FILE"),
        (
            "second.teacher=third",
            r"second\.teacher is 'third', neither an earlier stage \(first\) nor a file",
        ),
        (
            "first.teacher=first",
            r"first\.teacher is 'first', neither an earlier stage \(there is none",
        ),
        ("second.temperature=4", "teacher_weight and temperature need teacher; name an earlier"),
        ("second.teacher=first first.downscale=2", "second.downscale is 1, but its teacher first"),
        ("second.teacher=first second.steps=4", "second.steps is 4, but its teacher first has"),
        ("second.teacher=first second.align=true", "second.align is True, but its teacher first"),
        ("second.epoch_share=0", "epoch_share is 0.0: choose more than 0 and at most 1"),
        ("run.sed=1", "run has no key 'sed'; did you mean 'seed'"),
        ("run.held_out=0.9", "held_out is 0.9: choose 0.01 to 0.5"),
        ("machine.devices=-1", "devices is -1: choose at least 0"),
        ("epochs=1", "write stage.key=value"),
        ("second.epochs", "write stage.key=value"),
    ],
)
def test_a_wrong_setting_raises_a_one_line_error(tmp_path, change, says):
    with pytest.raises(OptionError, match=says) as error:
        load(recipe(tmp_path), changes=change.split(" "))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (SMALL.replace("pipeline", "pipelin", 1), "no key 'pipelin'; did you mean 'pipeline'"),
        (SMALL.replace("pipe-d", "pipe-x"), "pipeline is 'pipe-x': choose pipe-s, pipe-d"),
        (SMALL.replace("[network]", "[", 1), "is not TOML"),
        (SMALL.replace("pipe-d", "pipe-s") + "collapse = 1", "scratch.collapse is 1, but the"),
        (SMALL + "take = 'encoder'", "scratch: take is encoder, but weights are fresh"),
        (SMALL.replace("epochs = 9", "epoch = 9"), "scratch has no key 'epoch'"),
        ("pipeline = 'pipe-d'", "needs pipeline, network.name"),
        (SMALL.replace("first]", "'a/b']").replace('"first', '"a/b'), "'a/b' can't be the name"),
        (SMALL.replace('weights = "first"\n', ""), "the last stage does not build on first"),
        ("stages = 3", r"stages is 3, but must be a table"),
        ("stages = { a = 3 }", r"stages: a is 3, but must be a table"),
        ("network = 'vgg'", r"network is 'vgg', but must be a table"),
        (SMALL.replace('"vgg"', "[1]"), r"network.name is \[1\], not a name"),
    ],
)
def test_a_wrong_recipe_raises_an_error(tmp_path, text, says):
    with pytest.raises(OptionError, match=says):
        load(recipe(tmp_path, text))


def test_a_stage_that_no_stage_builds_on_after_a_change_is_skipped(tmp_path):
    weights = recipe(tmp_path, "", "weights.safetensors")
    mine = load(recipe(tmp_path), changes=[f"second.weights={weights}"])
    assert list(mine.stages) == ["second"]
    assert list(load(recipe(tmp_path), changes=["second.weights=fresh"]).stages) == ["second"]


TAUGHT = (
    SMALL.replace("[stages.second]", "[stages.few]\nweights = 'first'\nteacher = 'first'\n")
    .replace('weights = "first"\nfreeze', "[stages.second]\nweights = 'few'\nfreeze")
    .replace("freeze_epochs = 1", "freeze_epochs = 1\nteacher = 'first'\nsteps = 3")
    .replace("weights = 'first'", "weights = 'first'\nsteps = 3")
    .replace('neuron = { kind = "ann" }', 'neuron = { kind = "ann" }\nsteps = 3\ncollapse = 1')
)


@pytest.mark.parametrize(
    ("change", "stages"),
    [
        ("few.weights", {"few-teacher": "", "few": "few-teacher", "second": "few-teacher"}),
        ("second.weights", {"second-teacher": "", "second": "second-teacher"}),
        ("second.teacher", {"first": "", "few": "first", "second-teacher": "", "second": "s-t"}),
        ("first.weights", {"first": "", "few": "first", "second": "first"}),
    ],
)
def test_a_file_teaches_in_place_of_a_stage(tmp_path, monkeypatch, change, stages):
    """As weights of a stage it takes the place of the stages before it, its teacher included."""
    stages = {name: teacher.replace("s-t", "second-teacher") for name, teacher in stages.items()}
    for weights in (recipe(tmp_path, "", "w.safetensors"), "timm:resnet18"):
        mine = load(recipe(tmp_path, TAUGHT), changes=[f"{change}={weights}"])
        assert {name: stage.teacher for name, stage in mine.stages.items()} == stages
        for name, stage in mine.stages.items():
            if name.endswith("-teacher"):
                assert (stage.weights, stage.epochs, stage.recalibrate) == (weights, 0, 50)
                assert (stage.neuron.kind, stage.neuron.decay) == ("ann", 0.25)
                assert (stage.steps, stage.collapse) == (3, 1)
        assert load(recipe(tmp_path, mine.document(), "written.toml")) == mine
    monkeypatch.chdir(tmp_path)
    (tmp_path / "first").touch()  # a stage, not this file
    assert list(load(recipe(tmp_path, TAUGHT)).stages) == ["first", "few", "second"]


def test_a_teacher_of_a_stage_with_fresh_weights_stays(tmp_path):
    mine = load(recipe(tmp_path, TAUGHT), changes=["second.weights=fresh"])
    assert {name: stage.teacher for name, stage in mine.stages.items()} == {
        "first": "",
        "second": "first",
    }


@pytest.mark.parametrize("name", recipe_names())
def test_a_baseline_sees_all_samples_in_each_epoch(name):
    """The last stage may be short; its share of an epoch is no setting of its baseline."""
    (baseline,) = load(name, scratch=True).stages.values()
    assert baseline.epoch_share == 1


def test_a_recipe_on_a_base(tmp_path):
    mine = load(recipe(tmp_path, 'base = "ucf101-crnn"\n[stages.lif]\nepochs = 7\nstem = "mean"'))
    base = load("ucf101-crnn")
    lif = replace(base.stages["lif"], epochs=7, stem="mean")
    assert mine == replace(base, name="mine", stages=base.stages | {"lif": lif})
    assert "base" not in mine.document()
    assert load("pipe-d-grey") == replace(load("pipe-d-images"), name="pipe-d-grey")


@pytest.mark.parametrize(
    ("base", "says"),
    [
        ("'pipe-x'", "base is 'pipe-x': choose .*digits, .*pipe-d-check"),
        ("'./b.toml'", "base is './b.toml': choose .*digits"),
        ("['digits']", r"base is \['digits'\]: choose"),
        ("'pipe-d-grey'", "base is 'pipe-d-grey', which has a base itself"),
    ],
)
def test_a_wrong_base_raises_an_error(tmp_path, base, says):
    with pytest.raises(OptionError, match=says):
        load(recipe(tmp_path, f"base = {base}"))


def test_a_recipe_cannot_be_its_own_base(tmp_path, monkeypatch):
    recipe(tmp_path, "base = 'mine'\n" + SMALL)
    monkeypatch.setattr("train.recipe.RECIPES", tmp_path)
    with pytest.raises(OptionError, match="base is 'mine', which has a base itself"):
        load("mine")


def test_labels_name_the_method_and_the_recipe(tmp_path):
    assert load(recipe(tmp_path)).label == "pipe-d mine"
    assert load(recipe(tmp_path), scratch=True).label == "scratch mine"
    assert load("pipe-d-images").label == "pipe-d-images"
    assert load(recipe(tmp_path), changes=["run.label=ours"]).label == "ours"


def test_missing_recipes_raise_errors(tmp_path):
    with pytest.raises(OptionError, match="no recipe is named 'pipe-x': choose .*digits"):
        load("pipe-x")
    with pytest.raises(InputError, match=r"missing.toml: can't be read \(No such file"):
        load(str(tmp_path / "missing.toml"))


def test_an_unreadable_recipe_raises_an_error(tmp_path, monkeypatch):
    path = recipe(tmp_path)

    def fail(*_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("train.recipe.read_plain", fail)
    with pytest.raises(InputError, match=r"mine.toml: can't be read \(Input/output error\)"):
        load(path)


def test_methods():
    assert load_method("pipe-s", "pipe-s-small").name == "pipe-s-small"
    assert list(load_method("scratch", "pipe-s").stages) == ["scratch"]
    with pytest.raises(OptionError, match="pipe-d-images is for pipe-d, not pipe-s"):
        load_method("pipe-s", "pipe-d-images")


@pytest.mark.parametrize(
    ("method", "on_images", "with_images", "name"),
    [
        ("pipe-s", True, False, "pipe-s"),
        ("pipe-d", False, True, "pipe-d-images"),
        ("pipe-d", False, False, "pipe-d-events"),
        ("scratch", False, False, "pipe-d-events"),
        ("scratch", False, True, "pipe-d-images"),
        ("scratch", True, False, "pipe-s"),
    ],
)
def test_every_method_has_a_default_recipe(method, on_images, with_images, name):
    assert default_recipe(method, on_images=on_images, with_images=with_images) == name
    assert load_method(method, name).pipeline == name[:6]


@pytest.mark.parametrize("scratch", [False, True])
@pytest.mark.parametrize("name", recipe_names())
def test_every_recipe_reads_back_as_written(tmp_path, name, scratch):
    checkpoint = Path(recipe(tmp_path, "", "weights.safetensors"))
    stages = load(name, scratch=scratch, check_weights=False).stages
    starts = [key for key, stage in stages.items() if stage.weights == "checkpoint"]
    mine = load(name, scratch=scratch, changes=[f"{key}.weights={checkpoint}" for key in starts])
    assert load(recipe(tmp_path, mine.document(), "written.toml")) == mine


def test_the_published_pipe_s():
    ann, lif = load("pipe-s-published").stages.values()
    assert (ann.epochs, ann.learning_rate, ann.momentum, ann.weight_decay) == (100, 0.1, 0.9, 0)
    assert (ann.neuron.kind, ann.neuron.activation) == ("ann", "sharpened_relu")
    assert (lif.steps, lif.milestones, lif.gamma) == (6, (2, 4, 6, 8), 0.3)
    assert (lif.neuron.kind, lif.neuron.decay, lif.neuron.learn_decay) == ("lif", 0.25, False)


plain = st.one_of(
    st.text(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(allow_nan=False)
)
values = st.recursive(
    plain, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12
)


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(st.text(), values))
def test_toml_reads_back_as_written(table):
    assert parse_toml(to_toml(table)) == table


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("network.width=1979-05-27", "network.width is 1979-05-27; give text, a number"),
        ("network.widths=[{a = 07:32:00}]", "network.widths.a is 07:32:00; give text"),
        ("run.label=\udcff", r"run.label is '.udcff', which is not Unicode"),
        ("network.\udcff=1", r"name of a setting is '.udcff', which is not Unicode"),
    ],
)
def test_settings_that_toml_cannot_hold_raise_errors(tmp_path, change, says):
    with pytest.raises(OptionError, match=says):
        load(recipe(tmp_path), changes=[change]).document()


def test_the_reference_page_is_up_to_date():
    """`python -m train.settings > docs/training-keys.md` writes it."""
    page = Path(__file__).parents[2] / "docs/training-keys.md"
    assert page.read_text(encoding="utf-8") == reference_page() + "\n"
