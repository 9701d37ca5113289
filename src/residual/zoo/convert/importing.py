"""Import of other projects' weights: recognised, renamed, compared key by key, and kept as a model folder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ...errors import UsageError
from ...models.names import parse_name
from ...models.network import Network
from ...runtime.files import found
from ..hub import fetch, is_hub_name
from ..model_card import model_card
from ..model_folder import ModelConfig, load_model, load_weights, save_model
from .akamaster import zeros_last
from .plan import build_network, make_config, make_plan, notes
from .read import CONFIG, read, read_config
from .recognise import recognise
from .source import Options, WeightsFile


@dataclass(frozen=True)
class Imported:
    """A network in evaluation mode, its config, and what was recognised and assumed, a line each."""

    network: Network
    config: ModelConfig
    notes: tuple[str, ...]


def import_checkpoint(
    file: str | Path,
    *,
    output: str | Path,
    model: str | None = None,
    variant: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    zeros: str | None = None,
) -> ModelConfig:
    """Convert another project's checkpoint to a model folder.

    Args:
        file: a `torch.save` file, a `.safetensors` file, a folder in the layout of the Hugging Face Hub or
            "hf-hub:USER/NAME". Sources: torchvision, timm, transformers, akamaster's and chenyaofo's CIFAR
            networks, the authors' Caffe models under Caffe's layer names.
        output: the model folder, which must not exist.
        model: the network's name here; by default it is read off the weights.
        variant: "v1" or "v1.5" for `resnet50`, `101` and `152`; by default what the source tells, else
            "v1.5", since weights alone do not tell.
        mean, std: normalisation of the channels on the 0..1 scale; required unless the source is recognised.
        zeros: where the project's option A pads zero channels, which cannot be detected from the weights:
            "last" (after the others) or "both" (on both sides). The default is "both" for akamaster's, else
            "last".

    Raises:
        CheckpointError: the file is truncated, would run code, or holds another network or values that
            are not finite; or the hub has no such model.
        UsageError: the normalisation or the network's name is required and not given, an option is not
            valid, or the output exists.
    """
    refuse_existing(Path(output))
    imported = load_foreign(file, Options(model, variant, mean, std, zeros))
    save_imported(imported, file, Path(output))
    return imported.config


def refuse_existing(output: Path) -> None:
    """Refuse an output that exists.

    Raises:
        UsageError: it does.
    """
    if found(output.exists):
        raise UsageError(f"{output} exists already: a model is never overwritten")


def save_imported(imported: Imported, file: str | Path, output: Path) -> None:
    """Write an imported network as a model folder.

    Raises:
        UsageError: it cannot be written.
    """
    origin = file if is_hub_name(file) else Path(file).name
    card = model_card(imported.config, {"imported from": f"`{origin}`"})
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        save_model(output, imported.network, imported.config, card)
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        raise UsageError(f"cannot write {output}: {error}") from error


def load_foreign(file: str | Path, options: Options, num_classes: int | None = None) -> Imported:
    """Load a network from a file of another project or a model folder of this one; see `import_checkpoint`.

    Args:
        file: also a model or run folder of this package, here or on the hub.
        options: what is known of it.
        num_classes: the classes of a fresh classifier for weights without one; None refuses them.

    Raises:
        CheckpointError, UsageError: as `import_checkpoint`.
    """
    if options.model is not None:
        parse_name(options.model)
    path = fetch(str(file)) if is_hub_name(file) else Path(file)
    if _is_ours(path):
        return _load_ours(path, options)
    return convert(read(path, str(file)), options, num_classes)


def convert(file: WeightsFile, options: Options, num_classes: int | None = None) -> Imported:
    """Make a network of another project's weights; see `load_foreign`.

    Raises:
        CheckpointError, UsageError: as `import_checkpoint`.
    """
    source = recognise(file)
    plan = make_plan(file.origin, source, options)
    network = build_network(plan, num_classes)
    if plan.zeros == "both":  # after the comparison, for reordering could hide a wrong shape
        load_weights(network, zeros_last(source.state, parse_name(plan.name).bottleneck), file.origin)
    network.config = make_config(plan, network, options)
    return Imported(network.eval(), network.config, notes(plan, network.config, options))


def _is_ours(path: Path) -> bool:
    """Tell a model or run folder of this package from others in Hub layout."""
    if found((path / "recipe.json").is_file):
        return True
    config = read_config(path / CONFIG) if found(path.is_dir) else None
    return config is not None and "network" in config


def _load_ours(path: Path, options: Options) -> Imported:
    network = load_model(path)
    if options.model not in (None, network.config.network):
        raise UsageError(f"{path} holds {network.config.network}, not {options.model}")
    if replace(options, model=None) != Options():
        raise UsageError(f"{path} is a model folder of residual: its variant and normalisation are known")
    return Imported(network, network.config, ())
