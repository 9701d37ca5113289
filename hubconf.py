"""The networks for torch.hub, from a clone: torch.hub.load(CLONE, "resnet20", source="local")."""

import sys as _sys
from collections.abc import Callable as _Callable
from pathlib import Path as _Path
from typing import Any as _Any

_sys.path.insert(0, str(_Path(__file__).resolve().parent / "src"))  # no installation is needed

import residual as _residual

dependencies = ["torch", "numpy", "PIL", "pydantic", "safetensors", "filelock", "rich"]


def _entry(name: str) -> "_Callable[..., _residual.models.network.Network]":
    known = name in _residual.list_pretrained()

    def entry(pretrained: bool = False, **options: _Any) -> "_residual.models.network.Network":
        return _residual.create_model(name, pretrained=pretrained, **options)

    entry.__name__ = entry.__qualname__ = name
    entry.__doc__ = f"""{name} of "Deep Residual Learning for Image Recognition" (He et al., 2015).

    Args:
        pretrained: load weights trained on CIFAR-10, which are part of the clone
            ({"there are some" if known else "there are none"} for this network).
        options: num_classes, shortcut, variant, in_channels, weights: see residual.create_model.

    Returns:
        The network, a torch.nn.Module. With weights it is in evaluation mode, and its `config` has class
        names and preprocessing.
    """
    return entry


for _name in _residual.list_models():
    globals()[_name] = _entry(_name)
