"""Matching of a folder's classes with a model's: by name, by WordNet id, or not at all."""

import pytest
import torch

from residual.data.imagenet_classes import NAMES, SYNSETS
from residual.errors import CheckpointError
from residual.evaluation.matching import match_classes

OWN = ("cat", "dog", "horse", "sea lion, Zalophus")


def match(names, own=OWN, used=None):
    return match_classes("folder", tuple(names), torch.tensor(used or range(len(names))), own)


def test_the_same_classes_need_no_note():
    found = match(OWN)
    assert (found.classes, found.note) == ((0, 1, 2, 3), None)


def test_an_import_without_names_takes_any_names_of_the_right_number():
    own = ("class 0", "class 1")
    assert match(["a", "b"], own).classes == (0, 1)
    with pytest.raises(CheckpointError, match="3 cannot be matched"):
        match(["a", "b", "c"], own)


@pytest.mark.parametrize(
    ("names", "classes", "how"),
    [
        (["horse", "cat"], (2, 0), "name"),
        (["Horse", "cat", "SEA_LION, zalophus"], (2, 0, 3), "name without case"),
        (["dog", "Sea_lion"], (1, 3), "the first of their names"),
    ],
)
def test_some_of_the_classes_by_name(names, classes, how):
    found = match(names)
    assert found.classes == classes
    assert found.note == f"{len(names)} of the model's 4 classes, matched by {how}"
    labels = torch.tensor([1, 0, 1])
    assert found.apply(labels).tolist() == [classes[1], classes[0], classes[1]]


def test_wordnet_ids():
    found = match(["n01440764", "n02102040", "n03888257"], NAMES)
    assert found.classes == (0, 217, 701)
    assert found.note == "3 of the model's 1,000 classes, matched by WordNet id"
    assert match(sorted(SYNSETS), NAMES).classes == tuple(range(1000))
    assert match([NAMES[7], NAMES[3]], SYNSETS).classes == (7, 3), "a model trained on folders named by id"


def test_a_name_of_two_classes_matches_neither():
    """Two of ImageNet's classes are "crane": a bird and a machine."""
    assert match(["tench"], NAMES).classes == (0,)
    with pytest.raises(CheckpointError, match=r"1 cannot be matched \(crane\)"):
        match(["crane", "tench"], NAMES)
    with pytest.raises(CheckpointError, match="2 cannot be matched"):
        match(["Cat", "cat"])


def test_classes_without_images_need_no_match():
    found = match([".cache", "cat", "dog"], used=[1, 2, 2])
    assert found.classes == (-1, 0, 1)
    assert found.note == "2 of the model's 4 classes, matched by name"


def test_other_classes_are_refused_and_a_few_are_named():
    with pytest.raises(CheckpointError) as error:
        match(["cat", "frog", "newt", "owl", "rat"])
    assert str(error.value) == (
        "folder has 5 classes (cat, frog, newt, ...), the model 4 (cat, dog, horse, ...), and 4 cannot be "
        "matched (frog, newt, owl, ...): evaluate it on the classes that it was trained for"
    )
