"""The card of a model folder: what the network is, what was measured, how to use it."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .model_folder import ModelConfig


def model_card(config: "ModelConfig", facts: Mapping[str, Any]) -> str:
    """Write the folder's README: what the network is, what was measured, how to use it."""
    rows = "\n".join(f"| {name} | {value} |" for name, value in facts.items())
    labels = ", ".join(config.class_names[:10]) + (", ..." if len(config.class_names) > 10 else "")
    shortcuts = f"option {config.shortcut}" if config.shortcut else "none"
    variant = f" Variant: {config.variant}." if config.variant else ""
    return f"""---
library_name: residual
pipeline_tag: image-classification
datasets: [{config.data}]
---
# {config.network}

A network of "Deep Residual Learning for Image Recognition" (He et al., 2015) for images of
{config.input_size[1]}x{config.input_size[2]} pixels. Shortcuts: {shortcuts}.{variant}
Trained on: {config.data}. Recipe: {config.recipe}.

| | |
|---|---|
{rows}

Classes: {labels}.

    residual evaluate FOLDER

    import residual
    model = residual.load_model("FOLDER")  # preprocessing and class names in model.config
"""
