"""Deep residual learning (He et al., 2015): the paper's networks, recipes, tests and figures."""

from . import device as _device
from ._version import __version__
from .data import load_dataset
from .errors import ResidualError
from .evaluation import Evaluation
from .experiment import Result, evaluate, resume, train
from .importing import import_checkpoint
from .model_folder import ModelConfig, load_model
from .models import complexity, list_models, optimize_for_inference
from .pretrained import create_model, list_pretrained
from .recipe import Recipe
from .recipes import get_recipe

# Before the first parallel operation, or the threads that it starts keep denormals: see the function.
_device.flush_denormals()

__all__ = [
    "Evaluation",
    "ModelConfig",
    "Recipe",
    "ResidualError",
    "Result",
    "__version__",
    "complexity",
    "create_model",
    "evaluate",
    "get_recipe",
    "import_checkpoint",
    "list_models",
    "list_pretrained",
    "load_dataset",
    "load_model",
    "optimize_for_inference",
    "resume",
    "train",
]
