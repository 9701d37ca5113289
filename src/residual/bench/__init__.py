"""Speed as ratios within one run: ours beside the program that people write and the ceilings."""

from .suite import SUITES, run_suites, summary

__all__ = ["SUITES", "run_suites", "summary"]
