"""The page `docs/imagenette.md`: plain and residual networks on photographs, from result files alone."""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..evaluation.metrics import wilson_interval
from ..runtime.device import short_name
from ..runtime.environment import short_commit
from .depth import MEASURES, Difference, claim, difference
from .page import steps_taken
from .plan import IMAGENETTE

Result = dict[str, Any]
Group = dict[str, list[Result]]  # the runs of each network, trained alike on the same images

FAMILIES = {"plain": ("plain18", "plain34"), "residual": ("resnet18", "resnet34")}
PAPER_ERRORS = {"plain18": 27.94, "plain34": 28.54, "resnet18": 27.88, "resnet34": 25.03}  # Table 2
# others' accuracy in percent: network, epochs, pixels, accuracy, source
PUBLISHED = (
    ("ResNet-18", "5", 128, 75.7, "the fastai book (Howard and Gugger, 2020)"),
    ("the best of any kind", "5", 128, 87.43, "Imagenette's leaderboard; a much larger network"),
    ("the best of any kind", "20", 128, 91.57, "Imagenette's leaderboard; a much larger network"),
    ("ResNet-18", "100", 224, 93.61, "frgfm/Holocron"),
)


def imagenette_page(results: Sequence[Result]) -> str:
    """Return the page, in Markdown."""
    groups = _groups(results)
    lines = [
        "# Imagenette: the paper's claim on photographs",
        "",
        "Made by `residual reproduce pages` from `results/imagenette/*.json`, which are the runs of",
        "`residual reproduce imagenette --data-dir FOLDER`. The paper's claim, here on ten classes of",
        "ImageNet: of plain networks the deeper one has the higher error, in training too; of residual ones",
        "it has not. On ImageNet the errors in its Table 2 are, in percent:",
        f"{', '.join(f'{name} {error:.2f}' for name, error in PAPER_ERRORS.items())}.",
        "",
        "All networks are trained from scratch by one recipe, `imagenette`, with the optimizer of `fast` and",
        "values chosen by hand, tried once with resnet18 on a tenth of the training images set apart",
        "([log.md](log.md)). The test set is the validation set that is given with Imagenette: it chooses",
        "only the temperature of the probabilities, which changes no error, and errors are those of the last",
        "step, from a single crop. Seeds are 0, 1, 2, ... and every result file is shown.",
        "",
        *_images(results),
        "",
        "## The networks side by side",
        "",
        *_table(groups),
        "",
        "Errors are in percent, the mean over the seeds; the interval is that of 95 % (Wilson) for so many",
        "test images, the spread the standard deviation over the seeds. The training error is measured",
        "during the last window of steps, on the augmented crops. Minutes are of training alone, without",
        "evaluations; CPU minutes count every core.",
        "",
        "## Does the claim hold?",
        "",
        *_claims(groups),
        *_figure(results),
        "## Beside others' figures",
        "",
        *_beside(groups),
        "",
        "## Every run",
        "",
        *_runs(results),
    ]
    return "\n".join(lines) + "\n"


def in_figure(results: Sequence[Result]) -> dict[str, list[Result]]:
    """Choose the runs of the figure: of all networks trained alike those of seed 0, the shortest first."""
    chosen = {}
    for (recipe, *_), group in _groups([run for run in results if run["seed"] == 0]).items():
        if set(group) >= set(IMAGENETTE):
            runs = [group[name][0] for name in IMAGENETTE]
            same_length = f"{_epochs(runs[0])} epochs"
            chosen[f"{same_length}, {recipe}" if same_length in chosen else same_length] = runs
    return chosen


def _groups(results: Sequence[Result]) -> dict[tuple[str, str, str], Group]:
    """Gather the runs by recipe, steps and images, the shortest first."""
    groups: dict[tuple[str, str, str], Group] = defaultdict(lambda: defaultdict(list))
    for run in sorted(results, key=lambda run: (run["iterations"], run["network"], run["seed"])):
        groups[run["recipe"], steps_taken(run), run["images_sha256"]][run["network"]].append(run)
    return dict(groups)


def _epochs(run: Result) -> str:
    return f"{round(run['iterations'] * run['batch_size'] / run['training_images'], 1):g}"


def _images(results: Sequence[Result]) -> Iterable[str]:
    """Say what images the runs had, and how they differ from the published ones."""
    kinds = {
        (run["images_sha256"], run["training_images"], run["images"], *(run["image_size"] or ()))
        for run in results
    }
    for sha256, training, test, *size in sorted(kinds):
        yield f"Images: {training:,} for training and {test:,} for the test, {_shape(size)} The SHA-256 of"
        yield f"their paths, sizes and labels begins with {sha256[:10]}."


def _shape(size: Sequence[int]) -> str:
    if not size:
        return "of different sizes, as published: the sides keep their ratio."
    shape = f"{size[0]}x{size[1]} pixels each"
    if size[0] == size[1]:
        return f"squashed to {shape};\nthose of others' figures below keep the ratio of their sides."
    return f"{shape}."


def _table(groups: Mapping[tuple[str, str, str], Group]) -> Iterable[str]:
    heads = ("recipe", "epochs", "network", "seeds", "test error", "interval", "spread", "training error")
    yield f"| {' | '.join(heads)} | minutes | CPU minutes | hardware |"
    yield "|" + "---|" * 11
    for (recipe, *_), group in groups.items():
        for network in sorted(group):
            runs = group[network]
            errors = [run["error"] for run in runs]
            spread = f"{statistics.stdev(errors):.2f}" if len(runs) > 1 else ""
            training = statistics.mean(run["training_error"] for run in runs)
            cells = (recipe, _epochs(runs[0]), network, len(runs), f"**{statistics.mean(errors):.2f}**")
            times = (_minutes(runs, "seconds"), _minutes(runs, "cpu_seconds"))
            measured = (_interval(runs), spread, f"{training:.2f}", *times, _hardware(runs))
            yield f"| {' | '.join(map(str, (*cells, *measured)))} |"


def _interval(runs: Sequence[Result]) -> str:
    images = min(run["images"] for run in runs)
    mean = statistics.mean(run["error"] for run in runs)
    low, high = wilson_interval(round(mean * images / 100), images)
    return f"{low:.2f} to {high:.2f}"


def _minutes(runs: Sequence[Result], key: str) -> str:
    """Return mean minutes, with a mark if a run was disturbed by other work."""
    mark = " \\*" if key == "seconds" and any(run.get("disturbed") for run in runs) else ""
    return f"{statistics.mean(run[key] for run in runs) / 60:.1f}{mark}"


def _hardware(runs: Sequence[Result]) -> str:
    return ", ".join(sorted({short_name(run["hardware"]) for run in runs}))


def _claims(groups: Mapping[tuple[str, str, str], Group]) -> Iterable[str]:
    """Answer for each group that has all networks; show the differences of each that has a pair of depths."""
    rows = []
    for (recipe, *_), group in groups.items():
        pairs = {family: names for family, names in FAMILIES.items() if set(names) <= set(group)}
        name = f"`{recipe}`, {_epochs(next(iter(group.values()))[0])} epochs"
        for measure in MEASURES:
            found = {
                family: difference(group[shallow], group[deep], measure)
                for family, (shallow, deep) in pairs.items()
            }
            if len(found) == len(FAMILIES):
                yield f"- {name}: by {measure} error the claim **{claim(**found)}**."
            rows += [f"| {name} | {measure} | {family} | {_row(one)} |" for family, one in found.items()]
    if not rows:
        yield "Not known yet: no two depths were trained alike."
        yield ""
        return
    yield ""
    yield "| runs | error | networks | 18 layers | 34 layers | difference | with 34 layers |"
    yield "|---|---|---|---|---|---|---|"
    yield from rows
    yield ""
    yield "The margin is that of 95 % for the difference of two errors, each a share of its images. The"
    yield "spread over seeds is in it where there are several, and unknown where there is one. Both networks"
    yield "have the same test images, which makes the margin rather too wide."
    yield ""


def _row(found: Difference) -> str:
    words = {"open": "within the margin"}.get(found.finding, found.finding)
    return f"{found.shallow:.2f} | {found.deep:.2f} | {found.value:+.2f} +- {found.margin:.2f} | {words}"


def _figure(results: Sequence[Result]) -> Iterable[str]:
    if in_figure(results):
        yield "As in Figure 4, seed 0:"
        yield ""
        yield "![Error against iterations](imagenette.png)"
        yield ""


def _beside(groups: Mapping[tuple[str, str, str], Group]) -> Iterable[str]:
    """Show our residual networks, then what others published."""
    yield "| network | epochs | pixels | accuracy, % | error, % | source |"
    yield "|---|---|---|---|---|---|"
    for (recipe, *_), group in groups.items():
        for network in FAMILIES["residual"]:
            if network in group:
                runs = group[network]
                error = statistics.mean(run["error"] for run in runs)
                pixels = runs[0]["recipe_in_full"]["image_size"]
                cells = f"{100 - error:.2f} | {error:.2f} | this project's `{recipe}`"
                yield f"| {network} | {_epochs(runs[0])} | {pixels} | {cells} |"
    for name, epochs, pixels, accuracy, source in PUBLISHED:
        yield f"| {name} | {epochs} | {pixels} | {accuracy:g} | {100 - accuracy:.2f} | {source} |"


def _runs(results: Sequence[Result]) -> Iterable[str]:
    heads = ("network", "recipe", "seed", "steps", "test error", "training error", "minutes", "images/s")
    yield f"| {' | '.join(heads)} | hardware | commit | images |"
    yield "|" + "---|" * 11
    for run in results:
        yield (
            f"| {run['network']} | {run['recipe']} | {run['seed']} | {steps_taken(run)} | "
            f"{run['error']:.2f} | {run['training_error']:.2f} | {_minutes([run], 'seconds')} | "
            f"{run['images_per_second']:,.0f} | {short_name(run['hardware'])} | "
            f"{short_commit(run['commit'])} | {run['images_sha256'][:10]} |"
        )
    if any(run.get("disturbed") for run in results):
        yield ""
        yield "\\* The machine did other work meanwhile: not a measure of speed; minutes include pauses."
