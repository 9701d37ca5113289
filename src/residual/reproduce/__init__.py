"""The paper's CIFAR-10 table and figures: which runs they need, one result file a run, pictures and pages."""

from .plan import TARGETS, Budget, plan, reproduce
from .results import load_results

__all__ = ["TARGETS", "Budget", "load_results", "plan", "reproduce"]
