"""`compare`: the test and the interval against independent ones, and the same images for both models."""

import json
from math import comb, log, sqrt

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

import residual
from odd_files import picture
from residual.errors import CheckpointError, UsageError
from residual.evaluation.compare import Comparison
from residual.evaluation.metrics import Z95
from residual.evaluation.paired import difference_interval, mcnemar
from residual.training.run_folder import Run
from small_models import NAMES, small_model

COUNTS = st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(1, 200)).filter(
    lambda counts: counts[0] + counts[1] <= counts[2]
)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (5, 5), (3, 9), (12, 1), (30, 60)])
def test_mcnemar_is_twice_the_smaller_tail(first, second):
    count = first + second
    tail = sum(comb(count, k) for k in range(min(first, second) + 1)) / 2**count
    assert mcnemar(first, second) == pytest.approx(min(1, 2 * tail), rel=1e-9)


def likeliest(first, second, images, difference):
    """The rate of "only the second is wrong" that makes the counts likeliest, given the difference."""

    def surprise(rate):
        shares = (
            (first, rate + difference),
            (second, rate),
            (images - first - second, 1 - 2 * rate - difference),
        )
        return -sum(count * log(max(share, 1e-300)) for count, share in shares if count)

    low, high = max(0.0, -difference), (1 - difference) / 2
    return minimize_scalar(surprise, bounds=(low, high), method="bounded", options={"xatol": 1e-12}).x


@pytest.mark.parametrize(
    "counts", [(5, 2, 40), (10, 40, 1000), (1, 9, 50), (0, 3, 100), (20, 18, 200), (375, 275, 10_000)]
)
def test_at_the_limits_the_score_is_that_of_95_percent(counts):
    first, second, images = counts
    for difference, sign in zip(difference_interval(*counts), (1, -1), strict=True):
        rate = likeliest(*counts, difference)
        spread = sqrt(images * (2 * rate + difference - difference**2))
        assert (first - second - images * difference) / spread == pytest.approx(sign * Z95, rel=1e-3)


def test_the_interval_of_many_images_is_that_of_the_normal_distribution():
    first, second, images = 3000, 2800, 100_000
    spread = Z95 * sqrt(first + second - (first - second) ** 2 / images) / images
    center = (first - second) / images
    assert difference_interval(first, second, images) == pytest.approx(
        (center - spread, center + spread), rel=2e-3
    )


def test_the_interval_covers_the_true_difference_in_95_of_100_samples():
    random, known = np.random.default_rng(0), {}
    shares = np.array([0.12, 0.05, 0.83])
    hits = 0
    for first, second, _ in random.multinomial(80, shares, 2000).tolist():
        low, high = known.setdefault((first, second), difference_interval(first, second, 80))
        hits += low <= 0.07 <= high
    assert 0.935 <= hits / 2000 <= 0.97


@given(COUNTS)
@settings(max_examples=50, deadline=None)
def test_swapping_the_models_negates_the_difference(counts):
    first, second, images = counts
    low, high = difference_interval(first, second, images)
    other_low, other_high = difference_interval(second, first, images)
    assert (low, high) == pytest.approx((-other_high, -other_low), abs=1e-12)
    assert mcnemar(first, second) == pytest.approx(mcnemar(second, first), rel=1e-12)
    assert -1 <= low <= (first - second) / images <= high <= 1
    assert low < high


def comparison(first, second, images=1000):
    low, high = difference_interval(first, second, images)
    return Comparison(
        models=("A", "B"),
        images=images,
        errors=(0, 0),
        error_intervals=((0, 0), (0, 0)),
        difference=100 * (first - second) / images,
        difference_interval=(100 * low, 100 * high),
        only_first_wrong=first,
        only_second_wrong=second,
        both_wrong=0,
        p_value=mcnemar(first, second),
    )


def test_the_conclusion_is_a_sentence():
    assert comparison(10, 40).conclusion == (
        "A is better than B: its error is 3.00 percentage points lower "
        "(95 % interval 1.68 to 4.50; p < 0.0001)"
    )
    assert comparison(40, 10).conclusion.startswith("B is better than A: its error is 3.00 percentage points")
    assert comparison(40, 10).conclusion[21:] == comparison(10, 40).conclusion[21:]
    assert comparison(10, 12).conclusion.startswith(
        "these 1,000 images cannot tell A and B apart: a difference of -0.20 percentage "
        "points (95 % interval -1."
    )


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two models with different weights, sizes and fits; the second has its classes in another order."""
    root = tmp_path_factory.mktemp("compare")
    first = small_model(root / "first", (32, 32))
    return first, small_model(root / "second", (40, 24), "squish", seed=1, names=tuple(reversed(NAMES)))


@pytest.fixture(scope="module")
def photos(tmp_path_factory, models):
    """Pictures in folders by class, labelled so that the first model is right on three in four."""
    root = tmp_path_factory.mktemp("compare") / "photos"
    classify = residual.Classifier(models[0])
    images = [picture(40 + seed, 60, seed) for seed in range(60)]
    for seed, (image, best) in enumerate(zip(images, classify(images), strict=True)):
        name = best[0].class_name if seed % 4 else NAMES[seed % len(NAMES)]
        (root / name).mkdir(parents=True, exist_ok=True)
        image.save(root / name / f"{seed}.png")
    return root


def test_each_model_is_right_where_its_own_classifier_is(models, photos, cli):
    files = sorted(photos.glob("*/*.png"))
    right = [
        [found[0].class_name == file.parent.name for file, found in zip(files, classify(files), strict=True)]
        for classify in map(residual.Classifier, models)
    ]
    found = residual.compare(*models, data=photos, quiet=True)
    assert found.images == 60
    assert found.errors == pytest.approx([100 * (60 - sum(hits)) / 60 for hits in right])
    assert found.only_first_wrong == sum(b and not a for a, b in zip(*right, strict=True))
    assert found.only_second_wrong == sum(a and not b for a, b in zip(*right, strict=True))
    assert found.both_wrong == sum(not a and not b for a, b in zip(*right, strict=True))
    evaluated = [residual.evaluate(model, data=photos, quiet=True) for model in models]
    assert found.errors == pytest.approx([each.error for each in evaluated])
    assert list(found.error_intervals) == [each.error_interval for each in evaluated]
    swapped = residual.compare(*reversed(models), data=photos, quiet=True)
    assert (swapped.difference, swapped.p_value) == pytest.approx((-found.difference, found.p_value))
    assert found.differ
    assert found.conclusion.startswith(f"{models[0]} is better than {models[1]}: ")
    assert swapped.conclusion == found.conclusion
    code, out, err = cli("compare", *models, "--data", photos)
    assert code == 0, err
    assert out.splitlines()[-1] == found.conclusion
    code, out, _ = cli("compare", *models, "--data", photos, "--json")
    assert json.loads(out) == json.loads(json.dumps(found.as_dict()))


def test_a_run_on_the_same_images_is_compared_on_its_own_test_set(photos, cli, tmp_path):
    dataset = residual.load_folder(photos)
    facts = {
        **{"date": "2026-01-02", "command": "", "commit": None, "versions": {"torch": "2.9"}},
        **{"hardware": {"device": "cpu", "threads": 1}, "data_dir": str(photos.resolve())},
        "images_sha256": dataset.fingerprint,
    }
    recipe = residual.get_recipe("scratch", "resnet8")
    runs = [Run.create(tmp_path / name, recipe, facts).path for name in "ab"]
    for seed, run in enumerate(runs):
        small_model(run / "model", seed=seed)
    code, out, err = cli("compare", *runs, "--data", photos, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["images"] == len(dataset.test) < 60
    run = Run.create(tmp_path / "c", recipe, {**facts, "reading": {"group": r"(.)\.png"}}).path
    small_model(run / "model", seed=2)
    code, _, err = cli("compare", runs[0], run, "--data", photos)
    assert code == 0
    assert "different test sets" in err


def test_images_that_cannot_be_decoded_stop_it_or_count_for_neither(models, photos, cli):
    bad = photos / NAMES[0] / "bad.png"
    bad.write_bytes(b"no image")
    try:
        assert cli("compare", *models, "--data", photos)[0] == 3
        found = residual.compare(*models, data=photos, on_bad_image="skip", quiet=True)
    finally:
        bad.unlink()
    assert found.images == 60
    assert found.skipped == (f"{NAMES[0]}/bad.png",)


def test_images_in_memory(models, tmp_path):
    other = small_model(tmp_path / "other", seed=2)
    images = torch.stack([torch.from_numpy(np.array(picture(32, 32, seed))) for seed in range(40)])
    labels = [NAMES.index(best[0].class_name) for best in residual.Classifier(other)(images)]
    split = residual.Split(images, torch.tensor(labels))
    dataset = residual.Dataset("mine", split, split, NAMES)
    found = residual.compare(models[0], other, dataset=dataset, quiet=True)
    assert found.errors[1] == 0
    assert found.only_second_wrong == found.both_wrong == 0
    assert found.only_first_wrong > 10
    assert found.errors[0] == residual.evaluate(models[0], dataset=dataset, quiet=True).error
    same = residual.compare(
        residual.load_model(other), residual.load_model(other), dataset=dataset, quiet=True
    )
    assert (same.p_value, same.difference) == (1.0, 0.0)
    assert "cannot tell the first resnet8 and the second resnet8 apart" in same.conclusion
    with pytest.raises(CheckpointError, match="mine has 7 classes"):
        residual.compare(other, models[1], dataset=dataset, quiet=True)


def test_models_that_cannot_be_compared(models, photos, cli, tmp_path):
    for arguments, wanted, words in (
        ((models[0], "nope"), 2, "not a run folder"),
        ((models[0], "resnet20"), 2, "say with --data what to compare on"),
        ((models[0], "resnet20", "--data", photos), 4, "cannot be matched"),
        ((*models, "--data", photos, "--on-bad-image", "what"), 2, "stop or skip"),
    ):
        code, out, err = cli("compare", *arguments)
        assert (code, out) == (wanted, "")
        assert words in err
    with pytest.raises(UsageError, match="give one of them"):
        residual.compare(*models, data=photos, dataset=residual.load_photos(photos))
