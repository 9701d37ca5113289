"""The split: by class, the same for everyone, with groups on one side."""

import random
from collections import Counter

import pytest
import torch

from residual.data.folder import load_folder
from residual.data.photos import Photos, split_photos
from residual.data.split import TEST_KEY, set_apart, test_counts, validation_counts
from residual.errors import DataError, UsageError
from test_folders import put

test_counts.__test__ = False


def drawn(seed, groups):
    """Draw paths, classes and groups of up to 300 images."""
    draw = random.Random(seed)
    count = draw.randint(20, 300)
    classes = [draw.choice("aaabbc") for _ in range(count)]
    paths = [f"{name}/{number}.jpg" for number, name in enumerate(classes)]
    return paths, classes, [draw.randrange(groups) for _ in range(count)]


@pytest.mark.parametrize("seed", range(8))
def test_groups_stay_on_one_side_and_shares_are_met(seed):
    paths, classes, groups = drawn(seed, 40)
    wanted = test_counts(classes, 0.2)
    held = set_apart(TEST_KEY, paths, classes, wanted, groups)
    assert not {groups[place] for place in held} & {groups[p] for p in range(len(paths)) if p not in held}
    counts, sizes = Counter(classes[place] for place in held), Counter(classes)
    largest = max(Counter(groups).values())
    for name, size in sizes.items():
        assert 0 < counts[name] < size
        assert abs(counts[name] - wanted[name]) <= largest
    again = set_apart(TEST_KEY, paths, classes, wanted, groups)
    renamed = set_apart(TEST_KEY, paths, classes, wanted, [1000 - group for group in groups])
    assert held == again == renamed


def test_without_groups_the_counts_are_exact():
    paths, classes, _ = drawn(3, 1)
    wanted = test_counts(classes, 0.3)
    held = set_apart(TEST_KEY, paths, classes, wanted)
    assert Counter(classes[place] for place in held) == wanted
    assert set_apart(TEST_KEY, paths, classes, wanted, list(range(len(paths)))) == held
    assert set_apart(b"another", paths, classes, wanted) != held


def test_a_class_of_few_large_groups_is_on_both_sides():
    classes, groups = ["a"] * 10 + ["b"] * 10, [0] * 6 + [1] * 4 + list(range(2, 12))
    held = set_apart(TEST_KEY, [str(n) for n in range(20)], classes, test_counts(classes, 0.1), groups)
    assert {place for place in held if place < 10} == {6, 7, 8, 9}


@pytest.mark.parametrize("count", [1, 3, 10, 57, 140, 200])
def test_validation_images_are_shared_out_by_class(count):
    _, classes, _ = drawn(5, 1)
    sizes, wanted = Counter(classes), validation_counts(classes, count)
    assert sum(wanted.values()) == min(count, len(classes) - len(sizes))
    for name, size in sizes.items():
        assert wanted[name] < size
        assert count > 100 or abs(wanted[name] - count * size / len(classes)) <= 1
        assert wanted[name] > 0 or count < len(sizes)


def photos(labels, groups=None):
    files = [f"{number}.jpg" for number in range(len(labels))]
    numbers = None if groups is None else torch.tensor(groups)
    return Photos(None, files, torch.tensor(labels), ("a", "b"), groups=numbers)


def test_the_validation_set_of_photographs():
    labels = [0] * 90 + [1] * 10
    rest, held = split_photos(photos(labels), 20)
    assert (len(rest), len(held), sum(int(n) >= 90 for n in held)) == (80, 20, 2)
    assert torch.equal(torch.cat([rest, held]).sort().values, torch.arange(100))
    assert torch.equal(held, split_photos(photos(labels), 20)[1])
    together = [n // 5 for n in range(100)]
    rest, held = split_photos(photos(labels, together), 20)
    assert not {together[n] for n in rest} & {together[n] for n in held}
    assert 15 <= len(held) <= 25
    with pytest.raises(UsageError, match="smaller than the training set"):
        split_photos(photos(labels), 100)
    with pytest.raises(DataError, match="one image, or belong together"):
        split_photos(photos(labels, [0] * 100), 20)
    with pytest.raises(DataError, match="one image, or belong"):
        split_photos(photos([0, 1]), 1)


def people(root):
    """Write two classes of images of six people, whose names are in the files."""
    files = [
        f"{c}/{who}-{n}.png" for c in "ab" for who in ("ada", "bob", "cy", "dee", "eve", "fay") for n in "123"
    ]
    return put(root, *files)


def test_a_pattern_keeps_images_together(tmp_path):
    dataset = load_folder(people(tmp_path / "p"), group=r"/(\w+)-")
    sides = [{file.split("/")[1][:3] for file in part.files} for part in (dataset.train, dataset.test)]
    assert not sides[0] & sides[1]
    assert len(sides[1]) in (1, 2)
    assert len(dataset.train.groups.unique()) == len(sides[0])
    assert load_folder(tmp_path / "p").train.groups is None


def test_a_column_keeps_images_together(tmp_path):
    root = people(tmp_path)
    rows = [
        f"{file.relative_to(root).as_posix()},{file.parent.name},{file.name[:3]}"
        for file in root.rglob("*.png")
    ]
    csv = root / "list.csv"
    csv.write_text("path,label,Person\n" + "\n".join(rows) + "\n")
    by_column, by_pattern = load_folder(csv, group="person"), load_folder(csv, group=r"/(\w+)-")
    assert list(by_column.test.files) == list(by_pattern.test.files)
    csv.write_text("path,label,person\n" + "\n".join(row[: row.rindex(",")] + ",x" for row in rows) + "\n")
    with pytest.raises(DataError, match="group 'person' puts all images of a, b on one side"):
        load_folder(csv, group="person")
    with pytest.raises(UsageError, match="none of its columns, path, label, person, and matches no path"):
        load_folder(csv, group="plant")


@pytest.mark.parametrize(
    ("group", "error", "message"),
    [
        ("(", UsageError, "is no regular expression"),
        ("zzz", UsageError, "matches no path in .*such as a/ada-1.png"),
        ("z*", UsageError, "matches no path"),
        ("^.", DataError, "puts all images of a, b on one side"),
        ("png", DataError, "puts all images of a, b on one side"),
    ],
)
def test_groups_that_cannot_be_kept(tmp_path, group, error, message):
    with pytest.raises(error, match=message) as caught:
        load_folder(people(tmp_path), group=group)
    assert "\n" not in str(caught.value)


def test_groups_across_given_sets_are_told(tmp_path):
    root = put(
        tmp_path, *(f"{part}/{c}/{who}.png" for part in ("train", "val") for c in "ab" for who in "xy")
    )
    put(root, "train/a/z.png")
    notes = load_folder(root, group="([xy]).png").findings.notes
    assert "2 groups are in both sets, for example x" in notes
    assert "1 of 9 images belong to no group" in notes
