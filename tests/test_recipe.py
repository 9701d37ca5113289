"""Recipes: the paper's values, their schedule, overrides, files, and what is refused."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from residual.errors import UsageError
from residual.recipes.augment import ResizedCrop, ScaleCrop
from residual.recipes.catalog import CIFAR_RECIPES, RECIPES, get_recipe, recipe_label
from residual.recipes.overrides import parse_overrides
from residual.recipes.schema import (
    Optimizer,
    Recipe,
    Schedule,
    differences,
    from_dict,
    load_recipe,
)
from residual.training import schedule
from residual.training.schedule import ScheduleState

NETWORKS = ("resnet20", "plain56", "resnet110", "resnet47_bottleneck")
EVERY = [(name, network) for name in RECIPES for network in NETWORKS]

# a value other than the default for every key: (as text on the command line, as it is read)
CHANGES = {
    "name": ("mine", "mine"),
    "network": ("resnet101", "resnet101"),
    "shortcut": ("C", "C"),
    "variant": ("v1", "v1"),
    "weights": ("hf-hub:someone/net", "hf-hub:someone/net"),
    "data": ("cifar100", "cifar100"),
    "image_size": ("176", 176),
    "test_size": ("225", 225),
    "test_resize": ("232", 232),
    "fit": ("pad", "pad"),
    "normalization": ("imagenet", "imagenet"),
    "seed": ("7", 7),
    "iterations": ("1000", 1000),
    "stop_after": ("500", 500),
    "batch_size": ("64", 64),
    "bn_groups": ("2", 2),
    "sync_bn": ("true", True),
    "validation": ("5000", 5000),
    "early_stop": ("8", 8),
    "time": ("1800", 1800.0),
    "balance": ("weights", "weights"),
    "order": ("blocks", "blocks"),
    "curve": ("test", "test"),
    "log_every": ("11", 11),
    "evaluate_every": ("12", 12),
    "checkpoint_every": ("13", 13),
    "keep_checkpoints": ("4", 4),
    "retries": ("3", 3),
    "label_smoothing": ("0.1", 0.1),
    "precision": ("bfloat16", "bfloat16"),
    "channels_last": ("false", False),
    "capture": ("false", False),
    "compile": ("true", True),
    "deterministic": ("true", True),
    "checkpoint_activations": ("true", True),
    "recompute_batchnorm": ("TRUE", True),
    "optimizer.learning_rate": ("5e-2", 0.05),
    "optimizer.momentum": ("0.8", 0.8),
    "optimizer.weight_decay": ("0.0005", 0.0005),
    "optimizer.nesterov": ("true", True),
    "optimizer.decay_all": ("false", False),
    "optimizer.muon": ("0.05", 0.05),
    "optimizer.body_rate": ("0.01", 0.01),
    "optimizer.frozen": ("9", 9),
    "schedule.shape": ("cosine", "cosine"),
    "schedule.peak": ("0.5", 0.5),
    "schedule.drops": ("[0.25, 0.5, 0.9]", [0.25, 0.5, 0.9]),
    "schedule.factor": ("0.2", 0.2),
    "schedule.patience": ("2", 2),
    "schedule.max_drops": ("0", 0),
    "schedule.warmup_learning_rate": ("0.01", 0.01),
    "schedule.warmup_error": ("70", 70.0),
    "schedule.warmup_window": ("50", 50),
    "ema.span": ("0.04", 0.04),
    "ema.every": ("16", 16),
    "augment.flip": ("false", False),
    "augment.early_size": ("24", 24),
    "augment.early_share": ("0.5", 0.5),
    "augment.kind": ("scale-crop", "scale-crop"),
    "augment.padding": ("2", 2),
    "augment.alternate_flip": ("true", True),
}
CHANGES_OF_KINDS = {
    "scale-crop": {
        "augment.shortest": ("300", 300),
        "augment.longest": ("320", 320),
        "augment.colour": ("0", 0.0),
    },
    "resized-crop": {
        "augment.smallest": ("0.35", 0.35),
        "augment.trivial": ("true", True),
        "augment.erase": ("0.1", 0.1),
        "augment.mixup": ("0.2", 0.2),
        "augment.cutmix": ("1", 1.0),
        "augment.repeats": ("4", 4),
    },
}
EVERY_CHANGE = [
    (kind, key, change)
    for kind, changes in ({"pad-crop": CHANGES} | CHANGES_OF_KINDS).items()
    for key, change in changes.items()
    if key != "augment.kind"  # with which other keys come and go
]


def toml_of(values: dict, section: str = "") -> str:
    """Write nested values as TOML, which has no null: such keys are left out."""
    plain = {key: value for key, value in values.items() if not isinstance(value, dict) and value is not None}
    text = f"[{section}]\n" if section else ""
    text += "".join(f"{key} = {json.dumps(value)}\n" for key, value in plain.items())
    return text + "".join(toml_of(value, key) for key, value in values.items() if isinstance(value, dict))


# round trips


@pytest.mark.parametrize(("name", "network"), EVERY)
def test_round_trips(name, network, tmp_path):
    recipe = get_recipe(name, network)
    assert recipe.network == network
    assert from_dict(recipe.as_dict()) == recipe
    assert from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    for file, text in (("r.json", json.dumps(recipe.as_dict())), ("r.toml", toml_of(recipe.as_dict()))):
        path = tmp_path / file
        path.write_text(text, encoding="utf-8")
        assert load_recipe(path) == recipe
        assert get_recipe(str(path), network) == recipe
    assert recipe.replace({}) == recipe
    assert recipe.replace(recipe.flat()) == recipe


@pytest.mark.parametrize("name", RECIPES)
def test_the_command_line_prints_what_it_reads(name, cli, tmp_path):
    code, out, err = cli("recipes", name, "--model", "resnet32")
    assert (code, err) == (0, "")
    path = tmp_path / "recipe.json"
    path.write_text(out)
    assert load_recipe(path) == get_recipe(name, "resnet32")


def test_the_command_line_lists_the_recipes(cli):
    code, out, err = cli("recipes")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in out.splitlines()] == list(RECIPES)


def test_every_key_has_a_change_here():
    assert list(CHANGES) == list(Recipe().flat())
    assert [key for key, (_, value) in CHANGES.items() if value == Recipe().flat()[key]] == []
    common = set(CHANGES) - {"augment.padding", "augment.alternate_flip"}
    for kind, changes in CHANGES_OF_KINDS.items():
        keys = Recipe().replace({"augment.kind": kind}).flat()
        assert set(keys) - common == set(changes)
        assert [key for key, (_, value) in changes.items() if value == keys[key]] == []


@pytest.mark.parametrize(("kind", "key", "change"), EVERY_CHANGE)
def test_a_key_is_changed_from_text_and_from_a_value(kind, key, change):
    text, value = change
    base = get_recipe("paper", "resnet50").replace({"augment.kind": kind})
    for changed in (base.replace(parse_overrides([f" {key} = {text}"])), base.replace({key: value})):
        assert changed.flat() == {**base.flat(), key: value}
        assert type(changed.flat()[key]) is type(value)
        assert from_dict(changed.as_dict()) == changed
        assert differences(base, changed) == [f"{key}: {base.flat()[key]} -> {value}"]


def test_all_keys_are_changed_at_once(tmp_path):
    apart = ("compile", "sync_bn", "augment.kind")
    together = {key: change for key, change in CHANGES.items() if key not in apart}
    changed = Recipe().replace({key: text for key, (text, _) in together.items()})
    rest = {"compile": False, "sync_bn": False, "augment.kind": "pad-crop"}
    assert changed.flat() == {key: value for key, (_, value) in together.items()} | rest
    with pytest.raises(UsageError, match="choose one"):
        changed.replace({"compile": True})  # it checkpoints activations already
    (tmp_path / "all.toml").write_text(toml_of(changed.as_dict()))
    assert load_recipe(tmp_path / "all.toml") == changed


@given(
    st.floats(1e-9, 1e6),
    st.lists(st.floats(1e-9, 1), max_size=5),
)
def test_numbers_keep_every_bit(rate, drops):
    recipe = Recipe(optimizer=Optimizer(learning_rate=rate), schedule=Schedule(drops=tuple(drops)))
    assert from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    changes = {"optimizer.learning_rate": str(rate), "schedule.drops": str(drops)}
    assert Recipe().replace(changes) == recipe


def test_keys_left_out_of_a_file_keep_their_defaults(tmp_path):
    (tmp_path / "short.toml").write_text("seed = 3\n[optimizer]\nlearning_rate = 1\n")
    expected = Recipe(seed=3, optimizer=Optimizer(learning_rate=1.0))
    assert load_recipe(tmp_path / "short.toml") == expected
    assert isinstance(expected.optimizer.learning_rate, float)


def test_a_files_network_gives_way_to_the_one_asked_for(tmp_path):
    (tmp_path / "b.json").write_text('{"network": "resnet20", "shortcut": "B", "seed": 4}')
    path = str(tmp_path / "b.json")
    assert get_recipe(path, "resnet56") == Recipe(network="resnet56", shortcut="B", seed=4)
    assert get_recipe(path, "plain56") == Recipe(network="plain56", seed=4)
    assert load_recipe(tmp_path / "b.json").network == "resnet20"


# the paper's values


def test_the_papers_recipe():
    recipe = get_recipe("paper", "resnet20")
    assert recipe.flat() == {
        "name": "paper",
        "network": "resnet20",
        "shortcut": "A",
        "variant": None,
        "weights": None,
        "data": "cifar10",
        "image_size": 0,
        "test_size": 0,
        "test_resize": 0,
        "fit": "crop",
        "normalization": "measured",
        "seed": 0,
        "iterations": 64_000,
        "stop_after": 0,
        "batch_size": 128,
        "bn_groups": 1,
        "sync_bn": False,
        "validation": 0,
        "early_stop": 0,
        "time": 0.0,
        "balance": "none",
        "order": "shuffle",
        "curve": "none",
        "log_every": 100,
        "evaluate_every": 400,
        "checkpoint_every": 400,
        "keep_checkpoints": 2,
        "retries": 0,
        "label_smoothing": 0.0,
        "precision": "float32",
        "channels_last": True,
        "capture": True,
        "compile": False,
        "deterministic": False,
        "checkpoint_activations": False,
        "recompute_batchnorm": False,
        "optimizer.learning_rate": 0.1,
        "optimizer.momentum": 0.9,
        "optimizer.weight_decay": 1e-4,
        "optimizer.nesterov": False,
        "optimizer.decay_all": True,
        "optimizer.muon": 0.0,
        "optimizer.body_rate": 1.0,
        "optimizer.frozen": 0,
        "schedule.shape": "steps",
        "schedule.peak": 0.2,
        "schedule.drops": [0.5, 0.75],
        "schedule.factor": 0.1,
        "schedule.patience": 5,
        "schedule.max_drops": 3,
        "schedule.warmup_learning_rate": 0.0,
        "schedule.warmup_error": 80.0,
        "schedule.warmup_window": 100,
        "ema.span": 0.0,
        "ema.every": 32,
        "augment.flip": True,
        "augment.early_size": 0,
        "augment.early_share": 0.6,
        "augment.kind": "pad-crop",
        "augment.padding": 4,
        "augment.alternate_flip": False,
    }
    assert recipe.last_step == 64_000


@pytest.mark.parametrize(
    ("network", "rate"),
    [
        ("plain20", 0.0),
        ("resnet56", 0.0),
        ("resnet104", 0.0),
        ("resnet101_bottleneck", 0.0),
        ("plain110", 0.01),
        ("resnet110", 0.01),
        ("resnet110_bottleneck", 0.01),
        ("resnet1202", 0.01),
    ],
)
def test_only_deep_nets_are_warmed_up(network, rate):
    recipe = get_recipe("paper", network)
    assert recipe.schedule.warmup_learning_rate == rate
    only_this = {"network": "resnet20", "shortcut": "A", "schedule.warmup_learning_rate": 0.0}
    assert recipe.replace(only_this) == get_recipe("paper", "resnet20")


def test_plain_nets_have_no_shortcut_and_the_others_option_a():
    assert [get_recipe("paper", network).shortcut for network in NETWORKS] == ["A", None, "A", "A"]


def test_a_run_may_stop_before_its_schedule_ends():
    recipe = get_recipe("paper", "resnet20")
    assert recipe.replace({"stop_after": 400}).last_step == 400
    assert recipe.replace({"stop_after": 400}).iterations == 64_000
    assert recipe.replace({"stop_after": 70_000}).last_step == 64_000


# learning rate


def learning_rate(recipe: Recipe, step: int, warmup_end: int | None = None) -> float:
    return schedule.learning_rate(recipe, step, ScheduleState(warmup_end))


def drops_of(recipe: Recipe, warmup_end: int | None = None) -> list[tuple[int, float]]:
    """Return the steps at which the rate changes, and the new rates."""
    rates = [learning_rate(recipe, step, warmup_end) for step in range(recipe.iterations)]
    return [(step, rates[step]) for step in range(1, len(rates)) if rates[step] != rates[step - 1]]


def test_the_papers_learning_rate_drops_at_32k_and_48k():
    recipe = get_recipe("paper", "resnet20")
    steps = {0: 0.1, 31_999: 0.1, 32_000: 0.01, 47_999: 0.01, 48_000: 0.001, 63_999: 0.001}
    for step, rate in steps.items():
        assert learning_rate(recipe, step) == pytest.approx(rate, rel=1e-12)
    assert [step for step, _ in drops_of(recipe)] == [32_000, 48_000]


@given(st.integers(4, 3_000))
def test_drops_scale_with_the_iterations(iterations):
    found = [step for step, _ in drops_of(Recipe(iterations=iterations))]
    assert len(found) == 2
    assert abs(found[0] - iterations / 2) <= 0.5
    assert abs(found[1] - iterations * 3 / 4) <= 0.5


def test_stopping_early_leaves_the_drops_where_they_are():
    recipe = Recipe(iterations=1_000, stop_after=600)
    assert [step for step, _ in drops_of(recipe)] == [500, 750]


def test_warm_up_and_drops():
    recipe = get_recipe("paper", "resnet110")
    assert learning_rate(recipe, 0) == learning_rate(recipe, 399, None) == 0.01
    assert learning_rate(recipe, 40_000, None) == 0.01  # it may last, and then it is kept
    assert learning_rate(recipe, 400, 400) == 0.1
    assert learning_rate(recipe, 31_999, 400) == 0.1
    assert learning_rate(recipe, 32_000, 400) == pytest.approx(0.01, rel=1e-12)
    assert learning_rate(recipe, 48_000, 400) == pytest.approx(0.001, rel=1e-12)


def test_where_there_is_no_warm_up_its_end_is_of_no_effect():
    recipe = get_recipe("paper", "resnet20")
    assert learning_rate(recipe, 5, None) == learning_rate(recipe, 5, 3) == 0.1


def test_other_schedules():
    recipe = Recipe(iterations=100, schedule=Schedule(drops=(), factor=0.5))
    assert drops_of(recipe) == []
    recipe = Recipe(iterations=100, schedule=Schedule(drops=(0.1, 0.2, 0.3), factor=0.5))
    assert drops_of(recipe) == [(10, 0.05), (20, 0.025), (30, 0.0125)]


def test_a_recipe_of_before_a_neutral_key_is_the_same_recipe():
    values = get_recipe("paper", "resnet20").as_dict()
    del values["keep_checkpoints"]
    assert from_dict(values) == get_recipe("paper", "resnet20")
    assert recipe_label(get_recipe("paper", "resnet20").replace({"keep_checkpoints": 5})) == "paper"


# what is refused

BAD = [
    ("seed", -1),
    ("seed", 2**31),
    ("seed", "x"),
    ("seed", None),
    ("iterations", 0),
    ("iterations", -5),
    ("iterations", 1.5),
    ("iterations", "1.5"),
    ("iterations", "nan"),
    ("iterations", "1e999"),
    ("iterations", True),
    ("iterations", [1]),
    ("stop_after", -1),
    ("batch_size", 0),
    ("batch_size", ""),
    ("validation", -1),
    ("validation", -0.5),
    ("validation", 1.5),
    ("validation", "2.5"),
    ("validation", "nan"),
    ("validation", math.inf),
    ("validation", True),
    ("variant", "v2"),
    ("image_size", -1),
    ("test_size", 4097),
    ("test_resize", 0.5),
    ("normalization", "none"),
    ("schedule.shape", "poly"),
    ("schedule.patience", 0),
    ("schedule.max_drops", -1),
    ("ema.span", -0.1),
    ("ema.every", 0),
    ("log_every", 0),
    ("evaluate_every", 0),
    ("checkpoint_every", 0),
    ("keep_checkpoints", 0),
    ("name", 5),
    ("name", None),
    ("network", "resnet21"),
    ("network", "plain50"),
    ("network", "vgg16"),
    ("network", 20),
    ("shortcut", "D"),
    ("shortcut", "a"),
    ("shortcut", 1),
    ("data", "imagenet"),
    ("curve", "train"),
    ("precision", "float16"),
    ("channels_last", "yes"),
    ("channels_last", 1),
    ("channels_last", None),
    ("optimizer.learning_rate", 0),
    ("optimizer.learning_rate", -1),
    ("optimizer.learning_rate", "nan"),
    ("optimizer.learning_rate", math.inf),
    ("optimizer.learning_rate", "fast"),
    ("optimizer.learning_rate", True),
    ("optimizer.momentum", 1.01),
    ("optimizer.momentum", -0.1),
    ("optimizer.weight_decay", -1e-9),
    ("schedule.drops", [0.5, 1.5]),
    ("schedule.drops", [0.0]),
    ("schedule.drops", [math.nan]),
    ("schedule.drops", "half"),
    ("schedule.drops", 0.5),
    ("schedule.drops", [[0.5]]),
    ("schedule.drops", None),
    ("schedule.factor", 0),
    ("schedule.factor", 1.1),
    ("schedule.warmup_learning_rate", -0.1),
    ("schedule.warmup_error", 101),
    ("schedule.warmup_window", 0),
    ("augment.padding", -1),
    ("augment.padding", 17),
    ("augment.padding", 1.5),
    ("augment.flip", "maybe"),
    ("augment.kind", "crop"),
    ("augment.kind", 1),
    ("augment.kind", ["pad-crop"]),
    ("augment.kind", None),
]


@pytest.mark.parametrize(("key", "value"), BAD)
def test_a_value_that_does_not_fit_is_refused_and_its_key_named(key, value):
    with pytest.raises(UsageError) as caught:
        Recipe().replace({key: value})
    assert (key in str(caught.value)) or key in ("network", "shortcut", "variant")
    if not isinstance(value, list):
        assert str(value) in str(caught.value)


def test_a_value_is_checked_however_a_recipe_is_made():
    with pytest.raises(UsageError, match="batch_size"):
        Recipe(batch_size=0)
    with pytest.raises(UsageError, match=r"optimizer\.momentum"):
        Optimizer(momentum=2)
    with pytest.raises(UsageError, match=r"schedule\.factor"):
        from_dict({"schedule": {"factor": 2}})
    with pytest.raises(UsageError, match="seed"):
        Recipe(**{**Recipe().as_dict(), "seed": -1})


@pytest.mark.parametrize("value", [5, "fast", None, [0.1]])
def test_a_section_must_be_one(value):
    with pytest.raises(UsageError, match="optimizer"):
        from_dict({"optimizer": value})


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("learning_rate", "optimizer.learning_rate"),
        ("optimizer.learningrate", "optimizer.learning_rate"),
        ("batchsize", "batch_size"),
        ("zzz", None),
        ("", None),
        ("optimizer", None),
        ("optimizer.zzz", None),
        ("a.b.c", None),
    ],
)
def test_an_unknown_key_is_refused_and_the_valid_ones_named(key, nearest):
    with pytest.raises(UsageError) as caught:
        Recipe().replace({key: 1})
    message = str(caught.value)
    assert message.startswith(f"unknown recipe key '{key}'")
    for valid in Recipe().flat():
        assert valid in message
    if nearest is not None:
        assert f"did you mean '{nearest}'?" in message


def test_an_unknown_key_in_a_dictionary_is_refused():
    with pytest.raises(UsageError, match="unknown recipe key 'sed'; did you mean 'seed'"):
        from_dict({"sed": 1})
    with pytest.raises(UsageError, match=r"unknown recipe key 'optimizer\.momentun'.*weight_decay"):
        from_dict({"optimizer": {"momentun": 0.9}})


def test_a_change_must_have_an_equals_sign():
    assert parse_overrides(["a=1", "b = x = y ", "c="]) == {"a": "1", "b": "x = y", "c": ""}
    with pytest.raises(UsageError, match="'seed' is not KEY=VALUE"):
        parse_overrides(["seed"])


@pytest.mark.parametrize(
    ("kind", "key", "owner"),
    [
        ("pad-crop", "mixup", "resized-crop"),
        ("pad-crop", "shortest", "scale-crop"),
        ("scale-crop", "padding", "pad-crop"),
        ("resized-crop", "colour", "scale-crop"),
    ],
)
def test_a_key_of_another_kind_of_augmentation_is_refused_and_that_kind_named(kind, key, owner, tmp_path):
    message = rf"augment\.{key} goes with augment\.kind = {owner}, not with {kind}"
    with pytest.raises(UsageError, match=message):
        Recipe().replace({"augment.kind": kind, f"augment.{key}": 1})
    with pytest.raises(UsageError, match=message):
        Recipe().replace({"augment.kind": kind}).replace({key: 1})
    path = tmp_path / "r.toml"
    path.write_text(f'[augment]\nkind = "{kind}"\n{key} = 1\n')
    with pytest.raises(UsageError, match=message):
        load_recipe(path)


@pytest.mark.parametrize("value", [5, "pad-crop", None, [4], Schedule()])
def test_augment_must_be_a_section_of_one_of_the_kinds(value):
    for make in (lambda: from_dict({"augment": value}), lambda: Recipe(augment=value)):
        with pytest.raises(UsageError, match="augment must hold keys of its own, not "):
            make()


def test_faults_inside_a_kind_of_augmentation_name_the_key():
    crop = {"kind": "resized-crop"}
    for wrong, message in (
        ({"mixup": -1}, r"augment\.mixup must be a finite number at least 0, not -1"),
        ({"trivial": "wide"}, r"augment\.trivial must be true or false, not 'wide'"),
        ({"mixpu": 1}, r"unknown recipe key 'augment\.mixpu'; did you mean 'augment\.mixup'"),
    ):
        with pytest.raises(UsageError, match=message):
            from_dict({"augment": {**crop, **wrong}})
    with pytest.raises(UsageError, match=r"augment\.shortest must be at most augment\.longest, 256, not 480"):
        Recipe(augment=ScaleCrop(shortest=480, longest=256))


def test_a_plain_net_takes_no_shortcut():
    with pytest.raises(UsageError, match="plain network"):
        get_recipe("paper", "plain20").replace({"shortcut": "A"})
    for nothing in ("none", "null", "", None):
        assert get_recipe("paper", "plain20").replace({"shortcut": nothing}).shortcut is None
        assert get_recipe("paper", "resnet20").replace({"shortcut": nothing}).shortcut == "A"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("cut.json", b'{"seed": 1'),
        ("empty.json", b""),
        ("list.json", b"[1, 2]"),
        ("number.json", b"5"),
        ("bytes.json", b"\xff\xfe\x00"),
        ("cut.toml", b"seed = "),
        ("bytes.toml", b"\xff\xfe\x00"),
        ("json.toml", b'{"seed": 1}'),
        ("missing.json", None),
        ("missing.toml", None),
    ],
)
def test_a_file_that_holds_no_recipe_is_named(tmp_path, name, content):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    for network in (None, "resnet20"):
        with pytest.raises(UsageError, match="cannot read the recipe") as caught:
            load_recipe(path, network)
        assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["nosuch", "paper.txt", "", "Paper"])
def test_an_unknown_recipe_is_refused(name):
    with pytest.raises(UsageError, match=f"no recipe '{name}': take paper, fast, faster, strong, best, demo"):
        get_recipe(name, "resnet20")


def test_a_change_to_a_plain_net_drops_the_shortcut():
    changed = get_recipe("paper", "resnet20").replace({"network": "plain20"})
    assert changed == get_recipe("paper", "plain20")
    with pytest.raises(UsageError, match="plain network"):
        get_recipe("paper", "resnet20").replace({"network": "plain20", "shortcut": "A"})


def test_a_change_to_a_network_without_variants_drops_the_variant(tmp_path):
    base = get_recipe("paper", "resnet50").replace({"variant": "v1"})
    assert get_recipe("paper", "resnet50").variant == "v1.5"
    assert base.replace({"network": "resnet101"}).variant == "v1"
    for network in ("resnet34", "vgg19_bn", "resnet47_bottleneck"):
        assert base.replace({"network": network}).variant is None
        with pytest.raises(UsageError, match="has no variants"):
            base.replace({"network": network, "variant": "v1"})
    path = tmp_path / "r.json"
    path.write_text(json.dumps(base.as_dict()))
    assert load_recipe(path, "resnet101").variant == "v1"
    assert load_recipe(path, "resnet18").variant is None


def test_a_change_of_the_kind_of_augmentation_gives_its_defaults(cli, tmp_path):
    base = get_recipe("demo", "resnet20")
    changed = base.replace(parse_overrides(["augment.mixup=0.2", "augment.kind=resized-crop"]))
    assert changed == base.replace({"augment.kind": "resized-crop"}).replace({"augment.mixup": 0.2})
    assert changed.augment == ResizedCrop(mixup=0.2)
    assert changed.replace({"augment.kind": "resized-crop"}) == changed
    assert "augment.padding: 2 -> None" in differences(base, changed)
    assert "augment.mixup: None -> 0.2" in differences(base, changed)
    assert recipe_label(changed).startswith("demo, augment.")


def test_the_validation_set_is_a_count_or_a_share():
    for value, count in ((0.01, 12_812), ("0.5", 640_584), (5000, 5000), ("5000", 5000), (1.0, 1), (0, 0)):
        recipe = Recipe().replace({"validation": value})
        assert recipe.validation_images(1_281_167) == count
        assert type(recipe.validation) is (int if count in (5000, 1, 0) else float)
        assert from_dict(json.loads(json.dumps(recipe.as_dict()))) == recipe
    assert Recipe(validation=0.01).validation_images(20) == 1


# comparing, and not changing


def test_differences_name_old_and_new_values():
    old = get_recipe("paper", "resnet20")
    assert differences(old, old.replace({})) == []
    new = old.replace({"seed": 1, "optimizer.learning_rate": 0.05, "schedule.drops": [0.5]})
    assert differences(old, new) == [
        "seed: 0 -> 1",
        "optimizer.learning_rate: 0.1 -> 0.05",
        "schedule.drops: [0.5, 0.75] -> [0.5]",
    ]


def test_a_recipe_cannot_be_changed():
    recipe = get_recipe("paper", "resnet20")
    for part, name in ((recipe, "seed"), (recipe.optimizer, "momentum"), (recipe.augment, "flip")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(part, name, 1)
    values = recipe.as_dict()
    values["optimizer"]["momentum"] = 0.5
    values["schedule"]["drops"].append(0.9)
    assert recipe == get_recipe("paper", "resnet20")
    recipe.replace({"seed": 9, "optimizer.momentum": 0.1})
    assert recipe == get_recipe("paper", "resnet20")


# formats


def test_a_recipe_of_before_there_were_photographs_is_the_same_recipe():
    new = ("variant", "image_size", "test_size", "test_resize", "normalization", "ema")
    for name in CIFAR_RECIPES:
        values = get_recipe(name, "resnet20").as_dict()
        for key in new:
            del values[key]
        del values["augment"]["kind"], values["schedule"]["patience"], values["schedule"]["max_drops"]
        assert from_dict(values) == get_recipe(name, "resnet20")


def test_a_file_of_the_first_format_is_read_and_a_newer_one_refused(tmp_path):
    path = tmp_path / "r.json"
    path.write_text('{"network": "resnet20", "holdout": 5000}')
    assert load_recipe(path) == Recipe(validation=5000)
    assert Recipe().replace({"holdout": 7}).validation == 7
    path.write_text('{"format": 99}')
    with pytest.raises(UsageError, match="format 99; this version reads up to 2: upgrade"):
        load_recipe(path)


def test_the_schema_describes_every_key(cli):
    code, out, _ = cli("recipes", "--schema")
    assert code == 0
    schema = json.loads(out)
    keys = set()
    for name, value in schema["properties"].items():
        sections = [
            part["$ref"].rpartition("/")[2] for part in [value, *value.get("anyOf", [])] if "$ref" in part
        ]
        keys |= {f"{name}.{key}" for section in sections for key in schema["$defs"][section]["properties"]}
        keys |= set() if sections else {name}
    assert keys == set(CHANGES).union(*CHANGES_OF_KINDS.values())
    assert schema["$defs"]["ResizedCrop"]["properties"]["repeats"]["maximum"] == 16
    assert schema["$defs"]["Optimizer"]["properties"]["learning_rate"]["exclusiveMinimum"] == 0
    assert schema["properties"]["precision"]["enum"] == ["auto", "float32", "bfloat16"]


@pytest.mark.parametrize("values", [{"seed": "x"}, {"sed": 1}, {"format": 99}, {"network": "resnet21"}])
def test_a_recipe_file_that_does_not_fit_is_named(tmp_path, values):
    (tmp_path / "mine.json").write_text(json.dumps(values))
    with pytest.raises(UsageError, match=r"the recipe .*mine\.json does not fit: "):
        load_recipe(tmp_path / "mine.json")
