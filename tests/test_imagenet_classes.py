"""The classes of ILSVRC 2012: ids, order and names."""

import pytest

from conftest import REFERENCE
from residual.data.imagenet_classes import FILE, NAMES, SYNSETS


def test_there_are_a_thousand_in_order():
    assert len(SYNSETS) == len(NAMES) == 1000
    assert list(SYNSETS) == sorted(set(SYNSETS))
    assert all(name.strip() == name and name for name in NAMES)


@pytest.mark.parametrize(
    ("number", "synset", "name"),
    [
        (0, "n01440764", "tench"),
        (134, "n02012849", "crane"),
        (207, "n02099601", "golden retriever"),
        (281, "n02123045", "tabby"),
        (388, "n02510455", "giant panda"),
        (517, "n03126707", "crane"),
        (638, "n03710637", "maillot"),
        (639, "n03710721", "maillot"),
        (999, "n15075141", "toilet tissue"),
    ],
)
def test_well_known_classes(number, synset, name):
    assert (SYNSETS[number], NAMES[number].split(", ")[0]) == (synset, name)


def test_the_folders_of_real_photographs_are_among_them():
    folders = [path.name for path in (REFERENCE / "imagenet-samples").glob("n*")]
    if not folders:
        pytest.skip("needs imagenet-samples: set RESIDUAL_REFERENCE")
    assert set(folders) <= set(SYNSETS)


def test_the_names_come_with_their_licence():
    assert "WordNet 3.0 Copyright 2006 by Princeton University" in FILE.read_text(encoding="utf-8")
