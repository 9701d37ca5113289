"""The paper's networks: blocks, networks, names and counts."""

from .counting import Complexity, complexity
from .folding import optimize_for_inference
from .fused import rule_fuses
from .registry import create_model, list_models, parse_name, resolve_shortcut
from .resnet import ResNet

__all__ = [
    "Complexity",
    "ResNet",
    "complexity",
    "create_model",
    "list_models",
    "optimize_for_inference",
    "parse_name",
    "resolve_shortcut",
    "rule_fuses",
]
