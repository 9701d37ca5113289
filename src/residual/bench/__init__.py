"""Speed as ratios within one run: ours beside a baseline and what the machine can do at most."""

SUITE_NAMES = ("train", "fitted", "data", "infer", "jobs")
