"""The page `docs/paper.md`: the paper section by section, the command that repeats it, and what came out."""

import statistics
from collections.abc import Iterable, Mapping, Sequence

from ..models.complexity import PAPER_MULTIPLY_ADDS
from .depth import MEASURES, claim, difference
from .page import steps_taken, trained_alike
from .paper_facts import TABLE_2, Result, cost, full_runs, imagenette_runs
from .published import PAPER_ERRORS, PAPER_SPREADS

HEAD = """\
# The paper, section by section

K. He, X. Zhang, S. Ren and J. Sun: *Deep Residual Learning for Image Recognition*, 2015
([arXiv 1512.03385](https://arxiv.org/abs/1512.03385)). For each section: its point, the command that
repeats it, and what came out here beside the paper's figures. Errors are in percent. The page is made by
`residual reproduce pages` from `results/cifar10/*.json`, `results/imagenette/*.json` and the networks
themselves; every run is in [Results](results.md) and [Imagenette](imagenette.md). Where this project
differs from the paper: [Deviations](deviations.md)."""

SECTION_1 = """\
## 1: deeper plain networks train worse

Figure 1: a plain network of 56 layers has a higher training error than one of 20, so that overfitting
does not explain its higher test error. Networks of the paper's section 4.2, CIFAR-10, seed 0; a recipe
that is cut short or shortened is named."""

SECTION_3 = """\
## 3.1 and 3.2: residual blocks and shortcuts

A block computes F(x) + x, so that it can become the identity by making F zero. An identity shortcut has
no parameters: a plain and a residual network of the same depth differ in nothing else. Where the
dimensions change, the shortcut pads with zeros (option A) or projects (B); C projects everywhere."""

SECTION_33 = """\
## 3.3: architectures

Table 1 and Figure 3. The paper's multiply-adds beside those counted here, in 10^9 for one image of
224x224 pixels. The paper's bottlenecks have their stride in the first 1x1 convolution (variant v1,
counted here); the default is v1.5."""

SECTION_34 = """\
## 3.4: implementation

The recipe for ImageNet is `imagenet-paper`: batches of 256, a rate of 0.1 that falls at a plateau of the
validation error, at most 600,000 iterations, the shorter side from [256, 480], crops of 224, flips, PCA
colour. It has not been run in full: no machine was at hand for it."""

SECTION_41 = """\
## 4.1: ImageNet classification

Tables 2 to 5 and Figure 4. Without shortcuts 34 layers are worse than 18, with shortcuts better; and
residual networks go on improving up to 152 layers. ImageNet itself was not trained on. The comparison of
18 and 34 layers is repeated on Imagenette, ten of its classes, in five epochs."""

SECTION_42 = """\
## 4.2: CIFAR-10

Table 6: residual networks get better up to 110 layers, by the recipe `paper` (64,000 iterations); `fast`
takes a sixth of the epochs, `strong` a quarter. By `paper`, the networks of 110 layers and more start at a
rate of 0.01 until the training error is below 80 %."""

SECTION_43 = """\
## 4.3 and appendices: detection and localisation

Not repeated: there is no detector here. The networks give the maps C2 to C5 that one takes:

```python
import torch
import residual

network = residual.create_model("resnet50").eval()
with torch.no_grad():
    maps = network.feature_maps(torch.zeros(1, 3, 224, 224))
print({name: tuple(found.shape) for name, found in maps.items()})
```

```text
{'C2': (1, 256, 56, 56), 'C3': (1, 512, 28, 28), 'C4': (1, 1024, 14, 14), 'C5': (1, 2048, 7, 7)}
```"""


FIGURE_6 = (
    "residual reproduce figure6 --recipe strong --set stop_after=0 --set evaluate_every=240",
    "residual reproduce figure6 --recipe fast --set iterations=1056",
)


def paper_page(runs: Sequence[Result], photographs: Sequence[Result]) -> str:
    """Return the page, in Markdown, from result files on CIFAR-10 and on Imagenette."""
    alike = trained_alike(runs)
    sections = (
        [HEAD],
        [SECTION_1, _bash(*FIGURE_6), *_depths(alike)],
        [SECTION_3, _bash("residual info resnet20 --shortcut B"), *_shortcuts()],
        [SECTION_33, _bash("residual reproduce table1", "residual reproduce figure3"), *_architectures()],
        [SECTION_34, _bash("residual recipes imagenet-paper --model resnet34")],
        [SECTION_41, *_imagenet(photographs)],
        [SECTION_42, _bash("residual reproduce table6 --recipe strong"), *_cifar(runs), *_responses(alike)],
        [SECTION_43],
    )
    return "\n\n".join(part for section in sections for part in section) + "\n"


def _bash(*commands: str) -> str:
    return "\n".join(("```bash", *commands, "```"))


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table of figures, which are aligned to the right, and of names."""
    names = ("network", "networks", "recipe")
    lines = [heads, ["---" if head in names else "--:" for head in heads], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _depths(alike: Mapping[str, Sequence[Result]]) -> Iterable[str]:
    """Show the errors of the networks of Figure 6, and the figure of the recipe that goes to its end."""
    rows = [
        (
            f"`{run['network']}`",
            f"`{run['recipe']}`",
            steps_taken(run),
            _two(run["training_error"]),
            _two(run["error"]),
        )
        for runs in alike.values()
        for run in runs
    ]
    if not rows:
        yield "Not run yet."
        return
    yield _table(("network", "recipe", "steps", "training error", "test error"), rows)
    for recipe in _to_the_end(alike):
        yield f"![Error against iterations, plain networks left, residual right](figure6-{recipe}.png)"


def _to_the_end(alike: Mapping[str, Sequence[Result]]) -> Iterable[str]:
    """Name the recipes whose runs were not cut short."""
    for recipe, runs in alike.items():
        if runs[0]["iterations"] == runs[0]["schedule_iterations"]:
            yield recipe


def _shortcuts() -> Iterable[str]:
    rows = []
    for plain, residual in (("plain20", "resnet20"), ("plain34", "resnet34")):
        counts = [cost(plain), *(cost(residual, option) for option in "ABC")]
        rows.append((f"`{residual}`", *(f"{count.parameters:,}" for count in counts)))
    yield "Parameters, counted on the networks:"
    yield _table(("network", "plain", "A", "B", "C"), rows)


def _architectures() -> Iterable[str]:
    rows = []
    for network, paper in PAPER_MULTIPLY_ADDS.items():
        count = cost(network, variant="v1" if cost(network).variant else None)
        rows.append(
            (
                f"`{network}`",
                f"{paper}",
                f"{count.multiply_adds / 1e9:.2f}",
                f"{count.parameters / 1e6:.1f} M",
            )
        )
    yield _table(("network", "in the paper", "here", "parameters"), rows)
    yield "Figure 3, drawn from the networks: [VGG-19, plain and residual of 34 layers](figure3.png)."


def _imagenet(runs: Sequence[Result]) -> Iterable[str]:
    """Set the differences between 18 and 34 layers on Imagenette beside those of Table 2."""
    yield _bash("residual reproduce imagenette --data-dir FOLDER").replace("```bash", NOT_RUN + "\n```bash")
    rows, claims = [], []
    for measure in MEASURES:
        found = {}
        for family in ("plain", "resnet"):
            shallow, deep = (imagenette_runs(runs, f"{family}{depth}") for depth in (18, 34))
            if shallow and deep:
                found[family] = one = difference(shallow, deep, measure)
                change = f"{one.value:+.2f} +- {one.margin:.2f}"
                rows.append((f"{family}, {measure} error", _two(one.shallow), _two(one.deep), change))
        if len(found) == 2:
            claims.append(f"by {measure} error the claim **{claim(found['plain'], found['resnet'])}**")
    for family in ("plain", "resnet"):
        first, second = TABLE_2[family]
        rows.append((f"{family}, the paper, ImageNet", _two(first), _two(second), f"{second - first:+.2f}"))
    yield _table(("networks", "18 layers", "34 layers", "difference"), rows)
    if claims:
        yield f"On Imagenette, {' and '.join(claims)}: [Imagenette](imagenette.md) has the runs."
    yield "The protocols of the section are there for any photographs: one crop, ten crops, several scales."
    yield _bash(
        "residual train resnet18 --data photos --output runs/photos",
        "residual evaluate runs/photos --data photos --protocol ten-crop",
        "residual evaluate runs/photos --data photos --protocol multi-scale",
    )


NOT_RUN = "<!-- not run: needs Imagenette's images -->"


def _cifar(runs: Sequence[Result]) -> Iterable[str]:
    rows = []
    for network, paper in PAPER_ERRORS.items():
        found = full_runs(runs, network)
        for recipe, ours in found.items():
            errors = [run["error"] for run in ours]
            rows.append(
                (
                    f"`{network}`",
                    _paper(network, paper),
                    f"**{statistics.mean(errors):.2f}**",
                    f"`{recipe}`",
                    str(len(ours)),
                )
            )
        if not found:
            rows.append((f"`{network}`", _paper(network, paper), "not run in full", "", ""))
    yield _table(("network", "in the paper", "here", "recipe", "seeds"), rows)


def _responses(alike: Mapping[str, Sequence[Result]]) -> Iterable[str]:
    """Show the mean of the layer responses (Figure 7)."""
    rows = [
        (
            f"`{run['network']}`",
            f"`{run['recipe']}`",
            steps_taken(run),
            f"{statistics.mean(run['responses']):.2f}",
        )
        for runs in alike.values()
        for run in runs
    ]
    if rows:
        yield (
            "Figure 7, the standard deviation of the layer responses: the paper finds it smaller in\n"
            "residual networks, and smaller still in deeper ones. Here, the mean over all layers:"
        )
        yield _table(("network", "recipe", "steps", "mean standard deviation"), rows)
    for recipe in _to_the_end(alike):
        yield f"![Standard deviation of the layer responses, by layer and by size](figure7-{recipe}.png)"


def _two(error: float) -> str:
    return f"{error:.2f}"


def _paper(network: str, error: float) -> str:
    return PAPER_SPREADS.get(network, _two(error))
