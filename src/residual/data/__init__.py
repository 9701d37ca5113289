"""Data sets of small pictures, held in memory, and the batches drawn from them."""

from .batches import TrainBatches
from .dataset import Dataset, Split, hold_out
from .load import DATASETS, load_dataset
from .normalization import Normalization

__all__ = ["DATASETS", "Dataset", "Normalization", "Split", "TrainBatches", "hold_out", "load_dataset"]
