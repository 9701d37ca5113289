"""The 1,000 classes of ILSVRC 2012 (ImageNet): their WordNet ids and names, in the order of their numbers.

The names are lemmas of WordNet 3.0; its licence is at the top of `imagenet_classes.txt`.
"""

from pathlib import Path

FILE = Path(__file__).with_suffix(".txt")


def _read() -> dict[str, str]:
    lines = FILE.read_text(encoding="utf-8").splitlines()
    return dict(line.split("\t") for line in lines if not line.startswith("#"))


_NAMES = _read()
SYNSETS = tuple(_NAMES)  # for example n01440764
NAMES = tuple(_NAMES.values())  # all lemmas of a synset, for example "tench, Tinca tinca"; two are "crane"
