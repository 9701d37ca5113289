"""The network, its config and what is said of both, from what a source told and the caller."""

import math
from dataclasses import dataclass, replace

from ...data.cifar import RELEASES
from ...data.normalization import Normalization
from ...data.preprocessing import Preprocessing
from ...errors import CheckpointError, UsageError
from ...models.build import build_model
from ...models.names import default_size, parse_name, resolve_variant
from ...models.network import Network
from ..model_folder import ModelConfig, load_weights
from . import akamaster
from .layout import head_of, network_of, shortcut_of, stem_of
from .source import IMAGENET, Converted, Options, State, imagenet_names, placeholders

ZEROS = ("both", "last")


@dataclass(frozen=True)
class Plan:
    """The network that weights are for; `zeros` is where option A has them in these weights."""

    file: str
    source: Converted
    name: str
    shortcut: str | None
    variant: str | None
    zeros: str | None


def make_plan(file: str, source: Converted, options: Options) -> Plan:
    """Decide which network the weights are for: as the caller says, as the source tells, or by their keys.

    Raises:
        CheckpointError, UsageError: no network is found, or an option does not fit it.
    """
    name = options.model or source.network or _guess(file, source)
    shortcut = shortcut_of(name, source.state)
    has_variants = resolve_variant(name, None) is not None
    variant = resolve_variant(name, options.variant or (source.variant if has_variants else None))
    if options.zeros is not None and (shortcut != "A" or options.zeros not in ZEROS):
        raise UsageError("--zeros must be both or last, and applies to networks with shortcut option A only")
    assumed = "both" if source.source == akamaster.NAME else "last"
    zeros = (options.zeros or assumed) if shortcut == "A" else None
    return Plan(file, source, name, shortcut, variant, zeros)


def _guess(file: str, source: Converted) -> str:
    """Return the network whose blocks the weights have.

    Raises:
        CheckpointError: there is none.
        UsageError: a plain network has the same ones.
    """
    name = network_of(source.state)
    if name is None:
        some = ", ".join(sorted(source.state)[:4])
        raise CheckpointError(f"{file} holds another network: none of the paper's has its keys ({some}, ...)")
    if shortcut_of(name, source.state) == "A" and source.source != akamaster.NAME:
        plain = name.replace("resnet", "plain")
        raise UsageError(f"{name} with option A and {plain} have the same keys: say which with --model")
    return name


def build_network(plan: Plan, num_classes: int | None) -> Network:
    """Build the network and put the weights into it; without a classifier, a fresh one of `num_classes`.

    Raises:
        CheckpointError: keys or shapes differ, or a value is not finite.
    """
    state, head, stem = plan.source.state, head_of(plan.source.state), stem_of(plan.source.state)
    network = build_model(
        plan.name,
        num_classes=num_classes if head is None else head.numel(),
        shortcut=plan.shortcut,
        variant=plan.variant,
        in_channels=stem.shape[1] if parse_name(plan.name).imagenet and stem is not None else 3,
    )
    if head is None and num_classes is not None:
        fresh = {k: v for k, v in network.state_dict().items() if k.startswith(network.classifier_name)}
        state = {**fresh, **state}
    try:
        load_weights(network, state, plan.file)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_hint(plan.name, state)}") from error
    wrong = [key for key, value in network.state_dict().items() if not value.isfinite().all()]
    if wrong:
        raise CheckpointError(
            f"{plan.file} holds values that are not finite, the first in {wrong[0]}: not imported"
        )
    return network


def _hint(name: str, state: State) -> str:
    """Say of weights that do not fit what they are, or what they lack."""
    other = network_of(state)
    if other is not None and other != name.replace("plain", "resnet"):
        return f"; its blocks are those of {other}"
    if other is not None and head_of(state) is None:
        return "; it has no classifier: create_model(..., weights=FILE, num_classes=N) adds one"
    return ""


def make_config(plan: Plan, network: Network, options: Options) -> ModelConfig:
    """Put together what is known beside the weights.

    Raises:
        CheckpointError: the source names another number of classes.
        UsageError: the normalisation is not known, or not valid.
    """
    classes = network.get_classifier().out_features
    names, data = _classes(plan, classes)
    preprocessing = plan.source.preprocessing
    if preprocessing is None or options.mean is not None or options.std is not None:
        side = default_size(plan.name)
        normalization = _normalization(options)
        preprocessing = (
            replace(preprocessing, normalization=normalization)
            if preprocessing
            else Preprocessing((side, side), normalization)
        )
    return ModelConfig(
        network=plan.name,
        shortcut=plan.shortcut,
        class_names=names,
        preprocessing=preprocessing,
        data=data,
        recipe=plan.source.source,
        variant=plan.variant,
        in_channels=network.state_dict()[f"{network.stem_name}.weight"].shape[1],
    )


def _classes(plan: Plan, count: int) -> tuple[tuple[str, ...], str]:
    """Return the names of the classes and of the data set that has them."""
    names = plan.source.class_names
    if names is not None and len(names) != count and head_of(plan.source.state) is not None:
        raise CheckpointError(
            f"{plan.file} has {count} outputs, but its config.json names {len(names)} classes"
        )
    if not parse_name(plan.name).imagenet:
        release = next((r for r in RELEASES.values() if r.num_classes == count), None)
        if release is not None and release.class_names:
            return release.class_names, release.name
        return tuple(f"class {label}" for label in range(count)), release.name if release else "unknown"
    known = imagenet_names(names, count)
    if known is not None:
        return known, IMAGENET
    if names is None or placeholders(names) or len(names) != count:
        names = tuple(f"class {label}" for label in range(count))
    return names, "unknown"


def _normalization(options: Options) -> Normalization:
    mean, std = options.mean, options.std
    if mean is None or std is None:
        raise UsageError(
            "the project is not recognised by the keys: give its normalisation with --mean and --std"
        )
    finite = all(map(math.isfinite, (*mean, *std)))
    if len(mean) != 3 or len(std) != 3 or not finite or min(std) <= 0:
        raise UsageError(
            "--mean and --std must be three numbers each (R, G, B on the 0..1 scale), std above 0"
        )
    if max(*mean, *std) > 1 or min(mean) < 0:
        raise UsageError("--mean and --std must be on the 0..1 scale: divide values for 0..255 by 255")
    return Normalization.of_channels(mean, std)


def notes(plan: Plan, config: ModelConfig, options: Options) -> tuple[str, ...]:
    """Say what was recognised and assumed, a line each."""
    lines = []
    if plan.variant is not None:
        lines.append(_variant_line(plan, options))
    if plan.zeros is not None and options.zeros is None:
        where = "on both sides, as akamaster's" if plan.zeros == "both" else "after the other channels"
        other = "last" if plan.zeros == "both" else "both"
        lines.append(
            f"option A's zeros: assumed {where}, since the keys do not show it; if not, give --zeros {other}"
        )
    lines.append(_preprocessing_line(config.preprocessing))
    names = config.class_names
    known = f", those of {config.data}" if config.data != "unknown" else ""
    lines.append(f"classes: {len(names):,}{known} ({names[0]}; ...)")
    return (*lines, *plan.source.notes)


def _variant_line(plan: Plan, options: Options) -> str:
    if options.variant is not None:
        return f"variant: {plan.variant}, as given"
    if plan.source.variant is not None:
        return f"variant: {plan.variant}, as {plan.source.source} has it"
    return "variant: v1.5 assumed, since weights do not tell; if the first 1x1 has the stride: --variant v1"


def _preprocessing_line(preprocessing: Preprocessing) -> str:
    height, width = preprocessing.image_size
    if preprocessing.fit == "squish":
        how = f"resized to {height}x{width} pixels, {preprocessing.interpolation}"
    elif preprocessing.resize is not None:
        how = (
            f"shorter side to {preprocessing.resize} pixels, {preprocessing.interpolation}, "
            f"center crop of {height}x{width}"
        )
    else:
        how = f"{height}x{width} pixels"
    normalization = preprocessing.normalization
    mean, std = (
        ", ".join(f"{value / 255:.4g}" for value in values)
        for values in (normalization.mean, normalization.std)
    )
    return f"images: {how}; mean {mean}; std {std} (R, G, B on the 0..1 scale)"
