"""Bad input on the command line: one line on standard error, the right exit code, nothing left half-done."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import residual
from conftest import config_of_format_1
from residual.errors import ResidualError
from residual.models.build import build_model

SMALL = {"iterations": 6, "batch_size": 16, "log_every": 3, "evaluate_every": 6, "checkpoint_every": 3}
TRAIN = ("train", "resnet8", "--data", "digits", "--iterations", 6)
MEAN = ("--mean", 0.5, 0.5, 0.5)
STD = ("--std", 0.25, 0.25, 0.25)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Train resnet8 for a few steps; give the run folder, which no test may change."""
    recipe = residual.get_recipe("demo", "resnet8").replace(SMALL)
    return residual.train(recipe, output=tmp_path_factory.mktemp("finished") / "run", device="cpu").path


@pytest.fixture
def here(tmp_path, monkeypatch):
    """Work in an empty folder."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def model(finished, here):
    """Copy the model folder, to be damaged."""
    return Path(shutil.copytree(finished / "model", here / "model"))


@pytest.fixture
def run(finished, here):
    """Copy the run folder, to be damaged."""
    return Path(shutil.copytree(finished, here / "run"))


@pytest.fixture
def unfinished(run):
    """Copy the run folder as it is before training has ended."""
    shutil.rmtree(run / "model")
    (run / "result.json").unlink()
    (run / "curves.png").unlink()
    return run


def tree(root: Path) -> dict[str, bytes | None]:
    """Return every file and folder below, with the files' bytes."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


@pytest.fixture
def refused(cli, here):
    """Run a command that must fail with a code and one line that holds certain words, and change nothing."""

    def call(code, arguments, *words):
        before = tree(here)
        found, out, err = cli(*arguments)
        assert err.startswith("residual: "), err
        assert (found, out, err.count("\n")) == (code, "", 1), err
        for word in words:
            assert str(word) in err
        assert tree(here) == before
        return err

    return call


def weights(network: str = "resnet8") -> dict[str, torch.Tensor]:
    return build_model(network).state_dict()


def akamaster_like(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {f"module.{key.replace('fc.', 'linear.')}": value for key, value in state.items()}


def import_of(file: object, *options: object, model: str = "resnet8", output: object = "out") -> list[object]:
    return ["import", file, "--model", model, "--output", output, *options]


# networks and shortcuts


@pytest.mark.parametrize(
    ("network", "words"),
    [
        ("resnet21", ["resnet20", "resnet26"]),
        ("plain21", ["plain20", "plain26"]),
        ("resnet48_bottleneck", ["resnet47_bottleneck", "resnet56_bottleneck"]),
        ("plain50", ["for ImageNet resnet18", "plain44, plain56"]),
        ("resnet2", ["resnet8"]),
        ("plain47_bottleneck", ["unknown network"]),
        ("ResNet20", ["unknown network", "nearest: resnet20"]),
        ("resnet-20", ["unknown network"]),
        ("resnet999999", ["unknown network"]),
        ("", ["unknown network"]),
    ],
)
@pytest.mark.parametrize("command", ["train", "info"])
def test_a_network_that_is_none(refused, command, network, words):
    refused(2, [command, network], f"'{network}'", *words)


@pytest.mark.parametrize("command", [TRAIN[:1], ("info",)])
def test_shortcuts_that_do_not_fit(refused, command):
    refused(2, [*command, "plain20", "--shortcut", "A"], "'plain20' is a plain network")
    refused(2, [*command, "resnet20", "--shortcut", "D"], "unknown shortcut option 'D'", "A, B, C")


# recipe values


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("optimizer.learning_rate=-1", ["optimizer.learning_rate must be", "above 0", "not -1"]),
        ("optimizer.learning_rate=0", ["above 0"]),
        ("optimizer.learning_rate=nan", ["finite"]),
        ("optimizer.learning_rate=inf", ["finite"]),
        ("optimizer.learning_rate=fast", ["must be a number, not 'fast'"]),
        ("optimizer.momentum=1.5", ["at most 1"]),
        ("batch_size=0", ["batch_size must be", "at least 1"]),
        ("batch_size=-4", ["batch_size must be"]),
        ("batch_size=1.5", ["a whole number"]),
        ("batch_size=1438", ["at most the training set's 1437, not 1438"]),
        ("validation=1437", ["validation must be smaller than the training set of 1437"]),
        ("validation=99999", ["not 99999"]),
        ("validation=1400", ["batch_size must be at most the training set's 37"]),
        ("validation=-1", ["validation must be"]),
        ("precision=float16", ["precision must be one of auto, float32, bfloat16"]),
        ("channels_last=maybe", ["true or false"]),
        ("schedule.drops=half", ["a list of numbers"]),
        ("network=resnet21", ["resnet20, resnet26"]),
        (
            "learning_rate=0.1",
            ["unknown recipe key 'learning_rate'", "optimizer.learning_rate"],
        ),
        ("nonsense=1", ["unknown recipe key 'nonsense'", "batch_size", "schedule.drops", "augment.padding"]),
        ("=1", ["unknown recipe key ''"]),
        ("name=\udcff", ["name must be text in UTF-8, not '\\udcff'"]),
        ("batch_size", ["'batch_size' is not KEY=VALUE"]),
        ("", ["'' is not KEY=VALUE"]),
    ],
)
def test_a_recipe_value_that_does_not_fit(refused, change, words):
    refused(2, [*TRAIN, "--set", change], *words)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--iterations", "0", ["iterations must be"]),
        ("--iterations", "many", ["--iterations"]),
        ("--seed", "-1", ["seed must be"]),
        ("--holdout", "2000", ["validation must be smaller"]),
        ("--curve", "train", ["curve must be one of none, test"]),
        ("--device", "tpu", ["no device 'tpu' here", "cpu"]),
        ("--device", "cuda:63", ["no device 'cuda:63' here"]),
        ("--data", "mnist", ["unknown data set 'mnist'", "cifar10, cifar100, digits", "folder"]),
        ("--recipe", "nosuch", ["no recipe 'nosuch'", "paper, fast, faster, strong, best, demo"]),
        ("--recipe", "missing.json", ["cannot read the recipe missing.json"]),
        ("--recipe", "missing.toml", ["cannot read the recipe missing.toml"]),
    ],
)
def test_an_option_that_does_not_fit(refused, option, value, words):
    refused(2, [*TRAIN, option, value], *words)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("r.json", '{"seed": 1', ["cannot read the recipe r.json"]),
        ("r.json", "[1]", ["cannot read the recipe r.json"]),
        ("r.toml", "seed =", ["cannot read the recipe r.toml"]),
        ("r.json", '{"sead": 1}', ["unknown recipe key 'sead'; did you mean 'seed'"]),
        ("r.toml", "[optimizer]\nlr = 1", ["unknown recipe key 'optimizer.lr'", "learning_rate"]),
        ("r.toml", "[optimiser]\nmomentum = 1", ["unknown recipe key 'optimiser'", "optimizer"]),
        ("r.json", '{"optimizer": 5}', ["optimizer"]),
        ("r.json", '{"batch_size": "lots"}', ["batch_size must be a whole number"]),
        ("r.json", '{"optimizer": {"learning_rate": NaN}}', ["optimizer.learning_rate"]),
        ("r.json", "[" * 100_000, ["cannot read the recipe r.json"]),
        ("r.json", '{"name": ' + "[" * 300 + "]" * 300 + "}", ["name must be text in UTF-8, not [[[", "..."]),
        ("r.toml", "name = " + "[" * 20_000, ["cannot read the recipe r.toml"]),
        ("r.json", r'{"name": "\udcff"}', ["name must be text in UTF-8"]),
    ],
)
@pytest.mark.parametrize("command", [("train", "resnet8", "--recipe"), ("recipes",)])
def test_a_recipe_file_that_does_not_fit(refused, here, name, text, words, command):
    (here / name).write_text(text)
    refused(2, [*command, name], *words)


# data


@pytest.mark.parametrize("data", ["cifar10", "cifar100"])
def test_no_data_and_no_network(cli, here, data):
    root = here / "data"
    code, out, err = cli("train", "resnet8", "--data", data, "--data-dir", root)
    assert (code, out, err.count("\n")) == (3, "", 1)
    folder = {"cifar10": "cifar-10-batches-bin", "cifar100": "cifar-100-binary"}[data]
    assert err.startswith(f"residual: no {data} in {root}: ")
    assert "-binary.tar.gz or the folder " + folder in err
    assert "--data-dir or RESIDUAL_DATA" in err
    assert [path for path in here.rglob("*") if path != root] == []


def test_a_data_dir_that_is_a_file(refused, here):
    (here / "file").write_text("")
    refused(3, ["train", "resnet8", "--data-dir", here / "file"], "no cifar10 in", here / "file")


def test_a_mirror_that_is_no_address(refused, here, monkeypatch):
    monkeypatch.setenv("RESIDUAL_MIRROR", "nonsense")
    (here / "data").mkdir()
    refused(3, ["data", "fetch", "cifar10", "--data-dir", here / "data"], "nonsense")


@pytest.mark.parametrize("command", [("data", "describe"), ("data", "fetch"), ("data", "verify")])
def test_an_unknown_data_set(refused, command):
    refused(2, [*command, "mnist"], "'mnist'", "cifar10, cifar100")


# the run folder


def test_an_output_that_exists(refused, here, run):
    refused(5, [*TRAIN, "--output", "run"], "run exists already", "never overwritten")
    (here / "empty").mkdir()
    refused(5, [*TRAIN, "--output", "empty"], "empty exists already")
    (here / "file").write_text("")
    refused(5, [*TRAIN, "--output", "file"], "file exists already")
    refused(5, [*TRAIN, "--output", "."], "exists already")


def test_an_output_under_a_file(refused, here):
    (here / "file").write_text("in the way")
    refused(5, [*TRAIN, "--output", "file/run"], "cannot make the run folder file/run")


def test_the_default_output_under_a_file(refused, here):
    (here / "runs").write_text("in the way")
    refused(5, TRAIN, "cannot make the run folder runs")


@pytest.mark.parametrize("command", [("train", "--resume"), ("plot",)])
def test_a_folder_that_is_no_run(refused, here, command):
    (here / "empty").mkdir()
    refused(5, [*command, "empty"], "empty is not a run folder")
    refused(5, [*command, "missing"], "missing is not a run folder")
    (here / "file").write_text("")
    refused(5, [*command, "file"], "file is not a run folder")


def test_a_run_goes_on_only_as_it_began(refused, unfinished):
    resume = ["train", "--resume", "run"]
    refused(5, [*resume, "--seed", 9], "seed: 0 -> 9")
    refused(5, [*resume, "--set", "optimizer.momentum=0.5"], "optimizer.momentum: 0.9 -> 0.5")
    refused(5, ["train", "resnet14", "--resume", "run"], "network: resnet8 -> resnet14")
    refused(5, [*resume, "--recipe", "paper"], "iterations: 6 -> 64000")
    refused(2, [*resume, "--output", "elsewhere"], "leave --output out")
    refused(2, [*resume, "--set", "nonsense=1"], "unknown recipe key 'nonsense'")


def test_a_run_of_a_residual_net_does_not_go_on_as_a_plain_one(refused, unfinished):
    refused(5, ["train", "plain8", "--resume", "run"], "network: resnet8 -> plain8")


def test_a_run_whose_checkpoint_is_damaged(refused, unfinished):
    path, older = sorted((unfinished / "checkpoints").glob("last-*.pt"), reverse=True)
    older.write_bytes(b"")
    content = path.read_bytes()
    for damaged in (content[:-1], b"", content[:999] + bytes([content[999] ^ 1]) + content[1000:]):
        path.write_bytes(damaged)
        refused(4, ["train", "--resume", "run"], path.name, older.name, "truncated or corrupted")
    path.write_bytes(content)
    checksum = path.with_name(path.name + ".sha256")
    checksum.unlink()
    refused(4, ["train", "--resume", "run"], checksum.name)


@pytest.mark.parametrize("text", ["", '{"network": "resnet', "[]", '{"networkk": "resnet8"}'])
def test_a_run_whose_recipe_is_damaged(refused, unfinished, text):
    (unfinished / "recipe.json").write_text(text)
    refused(2, ["train", "--resume", "run"], "recipe")


@pytest.mark.parametrize("text", ["", '{"error": 1'])
def test_a_run_whose_result_is_damaged(refused, run, text):
    (run / "result.json").write_text(text)
    refused(5, ["train", "--resume", "run"], "result.json")


RUN_FILES = ("environment.json", "result.json", "metrics.jsonl")
NO_OBJECTS = ("{}", "[]", "5", "null", '{"step": 1}', "[" * 100_000, "\xff", '{"error": "low"}')


@pytest.mark.parametrize("text", NO_OBJECTS)
@pytest.mark.parametrize("name", RUN_FILES)
def test_a_run_whose_files_hold_something_else(refused, run, name, text):
    if name != "result.json":  # it ends a run: nothing else is read
        (run / "result.json").unlink()
    (run / name).write_text(text + "\n", encoding="latin-1")
    refused(5, ["train", "--resume", "run"], f"run/{name}", "corrupted" if text != "\xff" else "")


@pytest.mark.parametrize("key", ["step", "kind", "error"])
def test_a_metrics_record_that_lacks_a_key(refused, run, key):
    path = run / "metrics.jsonl"
    lines = path.read_text().splitlines()
    lines[1] = json.dumps({k: v for k, v in json.loads(lines[1]).items() if k != key})
    path.write_text("\n".join(lines) + "\n")
    refused(5, ["plot", "run"], "line 2 of run/metrics.jsonl", f"lacks '{key}'", "delete that line")


@pytest.mark.parametrize(
    ("part", "key"), [(None, "hardware"), ("hardware", "threads"), ("versions", "torch")]
)
def test_an_environment_that_lacks_a_key(refused, unfinished, part, key):
    path = unfinished / "environment.json"
    values = json.loads(path.read_text())
    del (values[part] if part else values)[key]
    path.write_text(json.dumps(values))
    refused(5, ["train", "--resume", "run"], path.name, f"lacks '{key}'")


@pytest.mark.parametrize("threads", [0, -1, 10**9, True, "two"])
def test_a_number_of_threads_that_is_none(refused, unfinished, threads):
    path = unfinished / "environment.json"
    values = json.loads(path.read_text())
    values["hardware"]["threads"] = threads
    path.write_text(json.dumps(values))
    refused(5, ["train", "--resume", "run"], path.name, "threads")


# names that no file system takes


LONG = "x" * 300


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (5, [*TRAIN, "--output", "NAME"]),
        (2, [*TRAIN, "--recipe", "NAME"]),
        (2, [*TRAIN, "--recipe", "NAME.json"]),
        (5, ["train", "--resume", "NAME"]),
        (5, ["plot", "NAME"]),
        (2, ["evaluate", "NAME"]),
        (3, ["data", "fetch", "cifar10", "--data-dir", "NAME"]),
        (3, ["data", "verify", "cifar10", "--data-dir", "NAME"]),
        (4, import_of("NAME")),
        (2, import_of("file.pt", output="NAME")),
    ],
)
def test_a_name_that_is_too_long(refused, here, code, arguments):
    if "file.pt" in arguments:
        torch.save(akamaster_like(weights()), here / "file.pt")
    refused(code, [str(argument).replace("NAME", LONG) for argument in arguments])


@pytest.mark.parametrize(
    "call",
    [
        lambda bad: residual.train(residual.get_recipe("demo", "resnet8").replace(SMALL), output=bad),
        lambda bad: residual.train(residual.get_recipe("demo", "resnet8"), data_dir=bad),
        lambda bad: residual.resume(bad),
        lambda bad: residual.evaluate(bad),
        lambda bad: residual.load_model(bad),
        lambda bad: residual.get_recipe(f"{bad}.json", "resnet8"),
        lambda bad: residual.load_dataset("cifar10", bad),
        lambda bad: residual.import_checkpoint(bad, model="resnet8", output="out"),
        lambda bad: residual.import_checkpoint("file.pt", model="resnet8", output=bad),
    ],
)
def test_a_name_with_a_nul(here, call):
    torch.save(akamaster_like(weights()), here / "file.pt")
    with pytest.raises(ResidualError, match=r"with.+NUL"):
        call("with\0NUL")
    assert [path.name for path in here.iterdir()] == ["file.pt"]


def test_a_data_folder_whose_name_is_too_long(refused):
    refused(3, ["train", "resnet8", "--data-dir", LONG], "no cifar10 in xxx")


def test_plotting_what_cannot_be_plotted(refused, here, finished, unfinished):
    refused(2, ["plot", finished, "run"], "need --output FILE.png")
    refused(5, ["plot", finished, "--output", "missing/curves.png"], "cannot write missing/curves.png")
    (unfinished / "metrics.jsonl").unlink()
    refused(5, ["plot", "run"], "run has no metrics yet")


def test_values_that_do_not_go_together(refused):
    refused(2, [*TRAIN, "--set", "optimizer.nesterov=true", "--set", "optimizer.momentum=0"], "must not be 0")


@pytest.mark.parametrize(
    ("option", "value", "word"),
    [
        ("--recipe", "demo", "choose paper, fast, faster, strong, best"),
        ("--jobs", "0", "--jobs"),
        ("--jobs", "-1", "--jobs"),
        ("--seeds", "0", "--seeds"),
        ("--budget", "nanm", "not 'nanm'"),
        ("--models", "resnet21", "resnet20"),
    ],
)
def test_reproducing_what_cannot_be(refused, option, value, word):
    refused(2, ["reproduce", "headlines", option, value], word)


# model folders


def test_a_folder_that_is_no_model(refused, here):
    (here / "empty").mkdir()
    refused(2, ["evaluate", "empty"], "empty is neither a run folder nor a model folder")
    refused(
        2,
        ["evaluate", "missing"],
        "missing is not a run folder, a model folder",
        "pretrained models: resnet20",
    )
    (here / "file").write_text("")
    refused(2, ["evaluate", "file"], "file is neither a run folder nor a model folder")


def test_a_run_that_is_not_finished(refused, unfinished):
    refused(2, ["evaluate", "run"], "the run run is not finished", "residual train --resume run")


def test_a_run_that_was_stopped_while_its_model_was_written(refused, unfinished):
    (unfinished / "model").mkdir()
    refused(2, ["evaluate", "run"], "the run run is not finished", "residual train --resume run")


def test_options_of_evaluate(refused, model):
    refused(2, ["evaluate", model, "--data", "mnist"], "unknown data set 'mnist'")
    refused(2, ["evaluate", model, "--device", "tpu"], "no device 'tpu' here")
    refused(3, ["evaluate", model, "--data", "cifar10", "--data-dir", model], f"no cifar10 in {model}")


def test_data_of_another_number_of_classes(refused, model, fake_cifar100, here):
    fake_cifar100.put_folder(here)
    arguments = ["evaluate", model, "--data", "cifar100", "--data-dir", here]
    refused(4, arguments, "cifar100 has 100 classes (", "the model 10 (0, 1, 2, ...)")


@pytest.mark.parametrize("part", [0, 7, 500, -1])
def test_weights_that_are_cut(refused, model, part):
    path = model / "model.safetensors"
    path.write_bytes(path.read_bytes()[:part])
    refused(4, ["evaluate", model], path, "truncated or corrupted")


def test_weights_that_are_missing(refused, model):
    (model / "model.safetensors").unlink()
    refused(4, ["evaluate", model], model / "model.safetensors", "missing")


def test_weights_of_another_network(refused, model):
    path = model / "model.safetensors"
    save_file(build_model("resnet14").state_dict(), path)
    refused(4, ["evaluate", model], path, "another network: unexpected: layer1.1.bn1.bias", "and 26 more")
    save_file(build_model("resnet8", num_classes=100).state_dict(), path)
    refused(4, ["evaluate", model], "of another shape", "fc.weight [100, 64] instead of [10, 64]")
    state = build_model("resnet8").state_dict()
    del state["bn1.weight"], state["fc.bias"]
    state["extra.weight"] = torch.zeros(1)
    state["conv1.weight"] = torch.zeros(16, 1, 3, 3)
    save_file(state, path)
    words = ["missing: bn1.weight, fc.bias", "unexpected: extra.weight"]
    words.append("of another shape: conv1.weight [16, 1, 3, 3] instead of [16, 3, 3, 3]")
    refused(4, ["evaluate", model], *words)


@pytest.mark.parametrize("text", ["", "{", "[]", "5", "{}", "\xff", '{"network": "resnet8"}'])
def test_a_config_that_is_cut(refused, model, text):
    (model / "config.json").write_text(text, encoding="latin-1")
    refused(4, ["evaluate", model], model / "config.json", "truncated or corrupted")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("network", "resnet21"),
        ("network", 5),
        ("network", None),
        ("shortcut", "D"),
        ("shortcut", ["A"]),
        ("class_names", []),
        ("class_names", None),
        ("class_names", 10),
        ("normalization", None),
        ("normalization", {}),
        ("normalization", {"mean": "grey", "std": [1, 1, 1]}),
        ("normalization", {"mean": [1, 2], "std": [1, 1, 1]}),
        ("normalization", {"mean": [[0.0, 0.0, 0.0]] * 7, "std": [1.0, 1.0, 1.0]}),
        ("normalization", {"mean": [1, 2, 3], "std": [1, 1]}),
        ("input_size", 5),
        ("input_size", None),
    ],
)
def test_a_config_that_is_altered(refused, model, key, value):
    path = model / "config.json"
    config = json.loads(path.read_text())
    if key in ("normalization", "input_size"):
        config = config_of_format_1(config)
    path.write_text(json.dumps({**config, key: value}))
    refused(4, ["evaluate", model], path)


def test_a_config_of_another_network(refused, model):
    path = model / "config.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "network": "resnet14"}))
    refused(4, ["evaluate", model], "another network: missing: layer1.1.bn1.bias")
    path.write_text(json.dumps({**values, "class_names": values["class_names"][:9]}))
    refused(4, ["evaluate", model], "fc.bias [10] instead of [9]")


# checkpoints of other projects


class Dangerous:
    """Unpickled, it makes a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("kind", ["pickle", "protocol 2", "torch", "torch, legacy", "inside", "zip by hand"])
def test_a_pickle_that_would_run_code_is_not_run(refused, here, tmp_path, kind):
    trace = tmp_path / "trace"
    path, evil = here / "evil.pt", Dangerous(trace)
    if kind in ("pickle", "protocol 2"):
        path.write_bytes(pickle.dumps(evil, protocol=2 if kind == "protocol 2" else None))
    elif kind == "zip by hand":
        torch.save(weights(), path)
        with zipfile.ZipFile(path) as old:
            entries = {name: old.read(name) for name in old.namelist()}
        with zipfile.ZipFile(path, "w") as new:
            for name, content in entries.items():
                new.writestr(name, pickle.dumps(evil, 2) if name.endswith("data.pkl") else content)
    else:
        values = {"state_dict": weights(), "extra": evil} if kind == "inside" else evil
        torch.save(values, path, _use_new_zipfile_serialization=kind != "torch, legacy")
    refused(4, import_of("evil.pt", *MEAN, *STD), "evil.pt", "would run code")
    assert not trace.exists()
    pickle.loads(pickle.dumps(evil))  # it does run where it is not refused
    assert trace.exists()


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_file_that_is_cut(refused, here, form):
    path = here / ("file.safetensors" if form == "safetensors" else "file.pt")
    if form == "safetensors":
        save_file(weights(), path)
    else:
        torch.save(weights(), path, _use_new_zipfile_serialization=form == "zip")
    content = path.read_bytes()
    sizes = [0, 1, 2, 9, 15, 40, 100, 1_000, 3_000, len(content) // 2, len(content) - 100, len(content) - 1]
    for size in sizes:
        path.write_bytes(content[:size])
        refused(4, import_of(path.name, *MEAN, *STD), path.name, "truncated or corrupted")


@pytest.mark.parametrize(
    "values", [5, [1, 2], None, {}, {"epoch": 3}, {"state_dict": {}}, {0: torch.zeros(3)}, torch.zeros(3)]
)
def test_a_file_without_weights(refused, here, values):
    torch.save(values, here / "file.pt")
    refused(4, import_of("file.pt", *MEAN, *STD), "file.pt")


@pytest.mark.parametrize("content", [b"hello\n", b"{}", b"\x80\x02", b"PK\x03\x04", bytes(1000)])
@pytest.mark.parametrize("name", ["file.th", "file.safetensors"])
def test_a_file_that_is_something_else(refused, here, name, content):
    (here / name).write_bytes(content)
    refused(4, import_of(name, *MEAN, *STD), name)


def test_a_file_that_is_not_there(refused, here):
    refused(4, import_of("missing.pt", *MEAN, *STD), "cannot read missing.pt")
    refused(4, import_of("missing.safetensors", *MEAN, *STD), "cannot read missing.safetensors")
    (here / "folder.pt").mkdir()
    refused(4, import_of("folder.pt", *MEAN, *STD), "cannot read folder.pt")


def test_weights_of_another_network_are_not_imported(refused, here):
    torch.save(weights("resnet14"), here / "file.pt")
    refused(4, import_of("file.pt", *MEAN, *STD), "file.pt holds another network: unexpected: layer1.1")
    arguments = import_of("file.pt", *MEAN, *STD, model="resnet20")
    refused(4, arguments, "file.pt holds another network: missing: layer1.2")
    torch.save({"a.weight": torch.zeros(2)}, here / "file.pt")
    refused(4, import_of("file.pt", *MEAN, *STD), "missing: bn1.bias", "unexpected: a.weight")


@pytest.mark.parametrize(
    "name", ["conv1.weight", "layer1.0.conv1.weight", "layer2.0.conv2.weight", "fc.bias"]
)
@pytest.mark.parametrize("factor", [0.5, 2])
def test_weights_of_another_width_are_not_rearranged_into_ours(refused, here, name, factor):
    """The comparison must come before channels are reordered, which could hide a wrong shape."""
    state = weights()
    for axis in range(min(2, state[name].dim())):
        changed = dict(state)
        shape = list(state[name].shape)
        shape[axis] = int(shape[axis] * factor)
        changed[name] = torch.zeros(shape)
        torch.save(akamaster_like(changed), here / "file.pt")
        refused(4, import_of("file.pt"), "file.pt holds another network", "of another shape")


@pytest.mark.parametrize("name", ["linear.weight", "linear.bias"])
def test_classifiers_without_a_shape_are_refused(refused, here, name):
    torch.save({**akamaster_like(weights()), f"module.{name}": torch.tensor(1.0)}, here / "file.pt")
    refused(4, import_of("file.pt", *MEAN, *STD), "file.pt")


def test_the_real_checkpoints_are_of_their_networks_only(refused, akamaster):
    path = akamaster / "resnet20-12fca82f.th"
    refused(4, import_of(path, model="resnet32"), path, "another network: missing: layer1.3")
    refused(4, import_of(path, model="resnet47_bottleneck"), path, "another network")


def test_a_real_checkpoint_that_is_cut(refused, akamaster, here):
    content = (akamaster / "resnet20-12fca82f.th").read_bytes()
    for size in (0, 3, 50, 500, 5_000, 9_999, 50_000, len(content) - 10_000, len(content) - 1):
        (here / "cut.th").write_bytes(content[:size])
        refused(4, import_of("cut.th", model="resnet20"), "cut.th is truncated or corrupted")


@pytest.mark.parametrize("options", [(), MEAN, STD])
def test_an_unknown_project_needs_its_normalisation(refused, here, options):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *options), "give its normalisation with --mean and --std")


@pytest.mark.parametrize(
    "options",
    [
        (*MEAN, "--std", -0.25, 0.25, 0.25),
        (*MEAN, "--std", 0.25, 0.25, 0),
        (*MEAN, "--std", 0.25, "nan", 0.25),
        (*MEAN, "--std", "nan", 0.25, 0.25),
        (*MEAN, "--std", 0.25, "inf", 0.25),
        ("--mean", "nan", 0.5, 0.5, *STD),
        ("--mean", 0.5, 0.5, "inf", *STD),
    ],
)
def test_a_normalisation_that_is_none(refused, here, options):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *options), "--std")


def test_a_normalisation_of_too_few_numbers(refused, here):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *MEAN, "--std", 0.25), "--std")
    refused(2, import_of("file.pt", *MEAN, "--std", 0.25, "wide", 0.25), "--std")


def test_an_import_overwrites_nothing(refused, here, model):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *MEAN, *STD, output="model"), "model exists already")
    refused(2, import_of("file.pt", *MEAN, *STD, output="file.pt"), "file.pt exists already")


def test_an_import_under_a_file(refused, here):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *MEAN, *STD, output="file.pt/model"), "file.pt/model")
    refused(2, import_of("file.pt", *MEAN, *STD, output="file.pt/deep/model"), "file.pt/deep/model")


def test_an_import_as_a_network_that_is_none(refused, here):
    torch.save(weights(), here / "file.pt")
    refused(2, import_of("file.pt", *MEAN, *STD, model="resnet9"), "no network 'resnet9'")


# the command line itself


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["frobnicate"], "frobnicate"),
        (["data", "frobnicate"], "frobnicate"),
        ([*TRAIN, "--frobnicate"], "--frobnicate"),
        ([*TRAIN, "extra"], "extra"),
        (["--frobnicate"], "--frobnicate"),
        ([*TRAIN, "--seed"], "--seed"),
        ([*TRAIN, "--seed", "x"], "--seed"),
        (["evaluate"], "issing argument"),
        (["info"], "issing argument"),
        (["plot"], "issing argument"),
        (["data", "fetch"], "issing argument"),
        (["import", "file.pt"], "--output"),
        (["import", "file.pt", "--model", "resnet8"], "--output"),
        (["train"], "which network?"),
        (["data"], "issing command"),
    ],
)
def test_arguments_that_are_unknown_or_missing(refused, arguments, word):
    refused(2, arguments, word)


def test_without_a_command_there_is_help(cli):
    code, out, err = cli()
    assert (code, err) == (0, "")
    assert out.startswith("Usage: ")
    for command in ("train", "evaluate", "import", "data"):
        assert f"\n  {command} " in out


def test_the_fixtures_themselves_are_good(cli, finished, here):
    """Everything above starts from a run and from weights that are taken as they are."""
    code, out, err = cli("evaluate", finished, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["images"] == 360
    torch.save(akamaster_like(weights()), here / "file.pt")
    assert cli(*import_of("file.pt"))[0] == 0
    assert load_file(here / "out" / "model.safetensors").keys() == {
        key for key in weights() if "num_batches" not in key
    }
