"""The paper's networks: blocks, networks, names and counts."""

from .counting import Complexity, complexity
from .registry import create_model, list_models, parse_name, resolve_shortcut
from .resnet import ResNet

__all__ = [
    "Complexity",
    "ResNet",
    "complexity",
    "create_model",
    "list_models",
    "parse_name",
    "resolve_shortcut",
]
