"""The card of a model folder, its README.md: what the network is, what was measured, how to use it.

Its front matter is YAML that the Hugging Face Hub reads, which shows the figures of `model-index`.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..data.preprocessing import Preprocessing
    from .model_folder import ModelConfig

ADDRESS = "MODEL_FOLDER"  # what the examples call the model, until `push` knows its name on the hub
# data sets by our names: number of classes, name for people, and the data set's name on the hub
KNOWN = {
    "cifar10": (10, "CIFAR-10", "uoft-cs/cifar10"),
    "cifar100": (100, "CIFAR-100", "uoft-cs/cifar100"),
    "imagenet-1k": (1000, "ImageNet (ILSVRC 2012)", "ILSVRC/imagenet-1k"),
}
PAPER = "He et al., 2015, https://arxiv.org/abs/1512.03385"
OTHER = "imagefolder"  # what the hub's cards call images that are no data set there
MOST_CLASSES = 100  # that are named
PLAIN = re.compile(r"[A-Za-z]([\w ./-]*\w)?", re.ASCII)  # text that needs no quotes in YAML, but for the next
WORDS = ("true", "false", "null", "yes", "no", "on", "off", "y", "n")


@dataclass(frozen=True)
class Measured:
    """Figures of a model on a test set of so many images, in percent; None where they were not measured."""

    error: float
    images: int
    interval: tuple[float, float] | None = None
    top5_error: float | None = None
    macro_error: float | None = None
    calibration_error: float | None = None

    @classmethod
    def of(cls, figures: Mapping[str, Any]) -> "Measured":
        """Take them from what a run's `result.json` or a pretrained model's `measured.json` holds.

        Raises:
            KeyError, TypeError, ValueError: it holds something else.
        """
        low_high = figures.get("error_interval")
        more = {key: figures.get(key) for key in ("top5_error", "macro_error", "calibration_error")}
        return cls(
            float(figures["error"]),
            int(figures["images"]),
            None if low_high is None else (float(low_high[0]), float(low_high[1])),
            **{key: None if value is None else float(value) for key, value in more.items()},
        )


def model_card(
    config: "ModelConfig",
    facts: Mapping[str, Any],
    *,
    measured: Measured | None = None,
    licence: str | None = None,
    base: str | None = None,
    own_network: bool = False,
) -> str:
    """Write the card of a model.

    Args:
        config: the model's.
        facts: rows of its table, as Markdown.
        measured: its figures on the test set of the data that it was trained on.
        licence: an identifier as the hub has them, such as "mit".
        base: the model on the hub that training started from, "USER/NAME".
        own_network: the network is not one of this package, which therefore cannot load the folder.
    """
    front = "\n".join(_yaml(_front_matter(config, measured, licence, base, own_network)))
    rows = "\n".join(f"| {_cell(name)} | {_cell(value)} |" for name, value in facts.items())
    table = f"\n| | |\n|---|---|\n{rows}\n" if rows else ""
    use = _USE_OWN if own_network else _USE
    return f"""---
{front}
---
# {_text(config.network)}

{_description(config, own_network)}
{table}
{use}
## Limits

{_limits(config)}
## Classes

{_classes(config.class_names)}
"""


def _front_matter(
    config: "ModelConfig", measured: Measured | None, licence: str | None, base: str | None, own: bool
) -> dict[str, Any]:
    """Return what the hub reads; https://huggingface.co/docs/hub/model-cards has the keys."""
    known = _known(config)
    values: dict[str, Any] = {} if own else {"library_name": "residual"}
    values["pipeline_tag"] = "image-classification"
    if licence is not None:
        values["license"] = licence
    if base is not None:
        values["base_model"] = base
    values["tags"] = ["image-classification", "pytorch", *([] if own else ["residual", "resnet"])]
    if known is not None:
        values["datasets"] = [known[1]]
    if measured is not None:
        values["metrics"] = ["accuracy"]
        name, kind = known or (config.data or "images", OTHER)
        result = {
            "task": {"type": "image-classification", "name": "Image classification"},
            "dataset": {"name": name, "type": kind, "split": "test"},
            "metrics": _metrics(measured, len(config.class_names)),
        }
        values["model-index"] = [{"name": config.network, "results": [result]}]
    return values


def _known(config: "ModelConfig") -> tuple[str, str] | None:
    """Return a data set's name for people and its name on the hub, unless it is no data set there."""
    classes, *names = KNOWN.get(config.data, (0, "", ""))
    return (names[0], names[1]) if classes == len(config.class_names) else None


def _metrics(measured: Measured, classes: int) -> list[dict[str, Any]]:
    """Return the figures: accuracies as shares, as on the hub, and errors in percent, as in this package."""
    interval = ""
    if measured.interval is not None:
        interval = "; 95 % interval {:.2f} to {:.2f}".format(*measured.interval)
    found: list[tuple[str, str, float | None]] = [
        ("accuracy", "Accuracy", round(1 - measured.error / 100, 6)),
        ("error", f"Error in percent, {measured.images} images{interval}", round(measured.error, 4)),
    ]
    if measured.top5_error is not None and classes > 5:
        found.append(("top_5_accuracy", "Top-5 accuracy", round(1 - measured.top5_error / 100, 6)))
    if measured.macro_error is not None:
        found.append(
            ("balanced_accuracy", "Mean accuracy of the classes", round(1 - measured.macro_error / 100, 6))
        )
    if measured.calibration_error is not None:
        name = "Expected calibration error in percent, without temperature"
        found.append(("expected_calibration_error", name, round(measured.calibration_error, 4)))
    return [{"type": kind, "name": name, "value": value} for kind, name, value in found]


def _description(config: "ModelConfig", own: bool) -> str:
    height, width = config.preprocessing.image_size
    what = f"images of {height}x{width} pixels, {len(config.class_names):,} classes"
    known = _known(config)
    data = known[0] if known else _text(config.data)
    trained = f"Trained on {data}. Recipe: {_code(config.recipe)}."
    if own:
        return f"A network that is not part of the package `residual`, trained with it: {what}.\n{trained}"
    shortcuts = f"option {config.shortcut}" if config.shortcut else "none"
    variant = f" Variant: {config.variant}." if config.variant else ""
    return (
        f'A network of "Deep Residual Learning for Image Recognition" ({PAPER}): {what}.\n'
        f"Shortcuts: {shortcuts}.{variant} {trained}"
    )


def _limits(config: "ModelConfig") -> str:
    calibrated = (
        f"Probabilities are the softmax of the logits divided by the temperature {config.temperature:.4g}."
        if config.temperature != 1
        else "Probabilities are the softmax of the logits, without a temperature that calibrates them."
    )
    return (
        "- Every image gets one of the classes below, also one that shows none of them.\n"
        "- Figures hold for images like those of the test set.\n"
        f"- {_preprocessed(config.preprocessing)}\n"
        f"- {calibrated}\n"
    )


def _preprocessed(preprocessing: "Preprocessing") -> str:
    height, width = preprocessing.image_size
    if preprocessing.fit == "crop":
        shorter = f" to a shorter side of {preprocessing.resize}" if preprocessing.resize else ""
        return f"Images are resized{shorter} and cropped in the center to {height}x{width} pixels."
    how = "padded" if preprocessing.fit == "pad" else "squished"
    return f"Images are resized and {how} to {height}x{width} pixels."


def _classes(names: tuple[str, ...]) -> str:
    more = f", and {len(names) - MOST_CLASSES:,} more in `config.json`" if len(names) > MOST_CLASSES else ""
    return ", ".join(_text(name) for name in names[:MOST_CLASSES]) + more


def _text(text: str) -> str:
    """Return any text as Markdown that shows it, in one line."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_\[\]<>|~#&$])", r"\\\1", line)


def _code(text: str) -> str:
    """Return any text as code in Markdown, in one line."""
    plain = text.isprintable() and "`" not in text and text.strip()
    return f"`{text}`" if plain else _text(text)


def _cell(value: Any) -> str:
    """Return Markdown as a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _yaml(values: Mapping[str, Any], pad: str = "") -> Iterator[str]:
    """Write plain values as YAML in block style; keys are words of this file."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield f"{pad}{key}:"
            yield from _yaml(value, pad + "  ")
        elif isinstance(value, list):
            yield f"{pad}{key}:"
            for item in value:
                lines = list(_yaml(item, pad + "  ")) if isinstance(item, Mapping) else [_scalar(item)]
                yield f"{pad}- {lines[0].strip()}"
                yield from lines[1:]
        else:
            yield f"{pad}{key}: {_scalar(value)}"


def _scalar(value: str | float) -> str:
    """Write a number, or a text, in quotes unless it is plain words."""
    if not isinstance(value, str):
        return json.dumps(value)
    if PLAIN.fullmatch(value) and value.lower() not in WORDS:
        return value
    return '"' + "".join(map(_escaped, value)) + '"'


def _escaped(character: str) -> str:
    """Return a character as it stands between double quotes in YAML."""
    if character in '"\\':
        return "\\" + character
    if character.isprintable():
        return character
    return f"\\U{0xFFFD if is_surrogate(character) else ord(character):08x}"


def is_surrogate(character: str) -> bool:
    """Tell half of a pair, which stands for an undecodable byte in a path, and is no character in a file."""
    return "\ud800" <= character <= "\udfff"


_USE = f"""## Use

```bash
residual predict {ADDRESS} photo.jpg
residual serve {ADDRESS}
```

```python
import residual

classify = residual.Classifier("{ADDRESS}")
print(classify("photo.jpg"))  # class names with probabilities
network = residual.load_model("{ADDRESS}")  # a torch.nn.Module; network.config has the classes
```
"""

_USE_OWN = """## Use

Create the network with its own code, then load the weights:

```python
network.load_state_dict(safetensors.torch.load_file("model.safetensors"))
```

`config.json` has the class names and the preprocessing of the images.
"""
