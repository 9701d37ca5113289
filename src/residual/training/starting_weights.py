"""The weights that a run starts from, by the recipe's key `weights`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..data.normalization import Normalization
from ..errors import CheckpointError, RunError, UsageError
from ..evaluation.matching import unique_names
from ..models.network import Network, adapt_channels
from ..recipes.schema import Recipe
from ..runtime.extras import how_to_install
from ..runtime.progress import Reporter
from ..zoo.convert.importing import load_foreign
from ..zoo.convert.source import Options
from ..zoo.hub import fetch, is_hub_name

AUTO = "auto"
# the weights of torchvision's first recipes, which timm keeps on the hub, of the networks that have them
IMAGENET_WEIGHTS = {
    name: f"hf-hub:timm/{name}.tv_in1k"
    for name in ("resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "vgg19", "vgg19_bn")
}
HUB_SECONDS = 4.0  # to wait for the hub's answer: without it a run starts from scratch


@dataclass(frozen=True, eq=False)
class Start:
    """What comes with the weights that a run starts from; `note` says which were taken over."""

    normalization: Normalization
    note: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return plain values, for `environment.json`."""
        return {"normalization": self.normalization.as_dict(), "note": self.note}

    @classmethod
    def of_run(cls, recorded: Any) -> "Start":
        """Read back what `as_dict` gave.

        Raises:
            RunError: the record is damaged or missing.
        """
        try:
            return cls(Normalization.from_dict(recorded["normalization"]), str(recorded["note"]))
        except (KeyError, TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise RunError(f"'start' in environment.json is missing or corrupted: {error!r:.200}") from error


def find_imagenet_weights(recipe: Recipe) -> tuple[str | None, str]:
    """Find ImageNet weights of a recipe's network on the hub, or in its cache.

    Returns:
        Their name, or None, and why.
    """
    name = IMAGENET_WEIGHTS.get(recipe.network)
    if name is None:
        return None, f"there are no ImageNet weights of {recipe.network} to fetch"
    usual = Recipe(network=recipe.network)
    if (recipe.shortcut, recipe.variant) != (usual.shortcut, usual.variant):
        changed = f"shortcuts {recipe.shortcut}" if recipe.shortcut != usual.shortcut else recipe.variant
        return None, f"there are no ImageNet weights of {recipe.network} with {changed} to fetch"
    try:
        fetch(name, HUB_SECONDS)
        load_source(recipe.replace({"weights": name}))
    except UsageError:
        return None, f"fetching ImageNet weights needs huggingface_hub: {how_to_install('hub')}"
    except CheckpointError as error:
        return None, str(error)
    return name, f"ImageNet weights {name}"


def load_source(recipe: Recipe) -> Network:
    """Load the network that has the recipe's weights; its `config` has class names and preprocessing.

    Raises:
        CheckpointError: the weights cannot be read or are of another network.
        UsageError: they are on the hub and huggingface_hub is not installed, or that is no name of the hub.
    """
    weights = str(recipe.weights)
    try:
        source = load_foreign(weights, Options(recipe.network), 1).network
    except UsageError as error:
        if is_hub_name(weights):
            raise
        import_it = " ('residual import' takes such options)" if "--" in str(error) else ""
        raise CheckpointError(f"cannot start from {weights}: {error}{import_it}") from error
    config = source.config
    for option in ("shortcut", "variant"):
        theirs, own = getattr(config, option), getattr(recipe, option)
        if theirs != own:
            raise CheckpointError(
                f"{weights} holds {recipe.network} with {option} {theirs}, not {own}: "
                f"give --{option} {theirs}"
            )
    return source


def start_from_weights(network: Network, source: Network, class_names: tuple[str, ...]) -> Start:
    """Put a source's weights into a fresh network of the same kind, and tell what was taken over.

    Of the last layer, the rows of classes whose names the source has are copied; other rows stay fresh.
    """
    state, fresh = source.state_dict(), network.state_dict()
    stem = f"{network.stem_name}.weight"
    state[stem] = adapt_channels(state[stem], network.in_channels)
    theirs = unique_names(source.config.class_names)
    rows = [(row, theirs[name]) for row, name in enumerate(class_names) if name in theirs]
    for key in (f"{network.classifier_name}.{part}" for part in ("weight", "bias")):
        values = fresh[key].clone()
        for row, former in rows:
            values[row] = state[key][former]
        state[key] = values
    network.load_state_dict(state)
    part = f"all but {len(class_names) - len(rows):,} of the last layer's {len(class_names):,} classes"
    what = "all of them" if len(rows) == len(class_names) else part if rows else "all but the last layer"
    return Start(source.config.normalization.of_any_size(), what)


def with_weights(recipe: Recipe, continued: str | Path | None, reporter: Reporter) -> Recipe:
    """Return the recipe with the weights that are meant by "auto", or by the run to go on from."""
    if continued is not None:
        return recipe.replace({"weights": str(continued)})
    if recipe.weights != AUTO:
        return recipe
    weights, reason = find_imagenet_weights(recipe)
    reporter.say(reason if weights else f"from scratch: {reason}")
    return recipe.replace({"weights": weights})
