"""Deep residual learning (He et al., 2015): the paper's networks, recipes, tests and figures.

`import residual` is quick: what a name needs is loaded when the name is first used, torch included. Denormal
numbers are flushed from then on, or from the import on where torch is loaded already: see `flush_denormals`.
"""

import importlib
import sys
from typing import TYPE_CHECKING, Any

from ._version import __version__

if TYPE_CHECKING:
    from .data.dataset import Dataset, Split
    from .data.folder import load_folder, load_photos
    from .data.load import load_dataset
    from .data.photos import PhotoDataset, Photos
    from .data.shards.foreign import index_shards
    from .data.shards.write import write_shards
    from .errors import ResidualError
    from .evaluation.classification import Evaluation
    from .evaluation.compare import Comparison, compare
    from .evaluation.evaluate import evaluate
    from .exporters.export import Exported, export
    from .inference.classifier import Classifier, Prediction
    from .inference.explain import Explanation, explain
    from .models.complexity import complexity
    from .models.fold import optimize_for_inference
    from .models.names import list_models
    from .recipes.catalog import get_recipe
    from .recipes.schema import Recipe
    from .training.experiment import Result, resume, train
    from .zoo.convert.importing import import_checkpoint
    from .zoo.model_folder import ModelConfig, load_model
    from .zoo.pretrained import create_model, list_pretrained
    from .zoo.push import push

_WHERE = {
    **dict.fromkeys(("Dataset", "Split"), "data.dataset"),
    "load_dataset": "data.load",
    **dict.fromkeys(("load_folder", "load_photos"), "data.folder"),
    **dict.fromkeys(("PhotoDataset", "Photos"), "data.photos"),
    "index_shards": "data.shards.foreign",
    "write_shards": "data.shards.write",
    "ResidualError": "errors",
    "Evaluation": "evaluation.classification",
    **dict.fromkeys(("Comparison", "compare"), "evaluation.compare"),
    "evaluate": "evaluation.evaluate",
    **dict.fromkeys(("Exported", "export"), "exporters.export"),
    **dict.fromkeys(("Classifier", "Prediction"), "inference.classifier"),
    **dict.fromkeys(("Explanation", "explain"), "inference.explain"),
    **dict.fromkeys(("Result", "resume", "train"), "training.experiment"),
    "import_checkpoint": "zoo.convert.importing",
    **dict.fromkeys(("ModelConfig", "load_model"), "zoo.model_folder"),
    "complexity": "models.complexity",
    "optimize_for_inference": "models.fold",
    "list_models": "models.names",
    **dict.fromkeys(("create_model", "list_pretrained"), "zoo.pretrained"),
    "push": "zoo.push",
    "Recipe": "recipes.schema",
    "get_recipe": "recipes.catalog",
}

__all__ = [
    "Classifier",
    "Comparison",
    "Dataset",
    "Evaluation",
    "Explanation",
    "Exported",
    "ModelConfig",
    "PhotoDataset",
    "Photos",
    "Prediction",
    "Recipe",
    "ResidualError",
    "Result",
    "Split",
    "__version__",
    "compare",
    "complexity",
    "create_model",
    "evaluate",
    "explain",
    "export",
    "get_recipe",
    "import_checkpoint",
    "index_shards",
    "list_models",
    "list_pretrained",
    "load_dataset",
    "load_folder",
    "load_model",
    "load_photos",
    "optimize_for_inference",
    "push",
    "resume",
    "train",
    "write_shards",
]


def __getattr__(name: str) -> Any:
    """Load a public name from its module at its first use."""
    if name not in _WHERE:
        raise AttributeError(f"module 'residual' has no attribute '{name}'")
    importlib.import_module(".runtime.device", __name__)  # first of all, for its flag: see `flush_denormals`
    value = getattr(importlib.import_module(f".{_WHERE[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


if "torch" in sys.modules:
    importlib.import_module(".runtime.device", __name__)
