"""Speed: beside a baseline and the roofline, as ratios within one run. May import all but reproduce, cli."""

SUITE_NAMES = ("train", "fitted", "data", "infer", "jobs", "models", "steps", "ranks", "decode")
