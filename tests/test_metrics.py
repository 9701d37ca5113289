"""Confidence interval, macro error and calibration error, against known values and other formulas."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from residual.evaluation.classification import Accumulator
from residual.evaluation.metrics import Calibration, wilson_interval


def score(logits, labels, batch=1000):
    """Evaluate logits, batch by batch."""
    figures = Accumulator()
    for start in range(0, len(labels), batch):
        figures.add(logits[start : start + batch], labels[start : start + batch])
    return figures.result()


@pytest.mark.parametrize(
    ("wrong", "images", "low", "high"),
    [(50, 100, 40.38, 59.62), (0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (1, 20, 0.89, 23.61)],
)
def test_known_intervals(wrong, images, low, high):
    assert wilson_interval(wrong, images) == pytest.approx((low, high), abs=0.005)


@settings(deadline=None)
@given(st.integers(1, 10**6), st.integers(0, 100))
def test_the_ends_of_an_interval_are_just_rejected(images, share):
    """That defines it: a true rate at an end is 1.96 standard deviations from the observed one."""
    wrong = share * images // 100
    low, high = (end / 100 for end in wilson_interval(wrong, images))
    assert 0 <= low <= wrong / images <= high <= 1
    for end in (low, high):
        if 1e-12 < end < 1 - 1e-12:
            z = abs(wrong / images - end) / np.sqrt(end * (1 - end) / images)
            assert z == pytest.approx(1.96, abs=0.001)


def calibration_error(confidence, right):
    """The textbook's formula: bins as intervals, each with its share of the images."""
    total = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    return 100 * total


@pytest.mark.parametrize("batch", [1, 64, 1000])
def test_calibration_error(batch):
    torch.manual_seed(0)
    logits, labels = 3 * torch.randn(500, 7), torch.randint(7, (500,))
    labels[::2] = logits[::2].argmax(1)
    probabilities = logits.double().softmax(1).numpy()
    right = probabilities.argmax(1) == labels.numpy()
    expected = calibration_error(probabilities.max(1), right)
    assert 10 < expected < 90
    assert score(logits, labels, batch).calibration_error == pytest.approx(expected, abs=1e-9)


def test_known_calibration_errors():
    zeros = torch.zeros(10, 2)  # always class 0, with a confidence of one half
    assert score(zeros, torch.arange(10) % 2).calibration_error == pytest.approx(0)
    assert score(zeros, torch.zeros(10).long()).calibration_error == pytest.approx(50)
    sure = torch.eye(2)[torch.arange(10) % 2] * 100
    assert score(sure, torch.arange(10) % 2).calibration_error == pytest.approx(0)
    assert score(sure, (torch.arange(10) + 1) % 2).calibration_error == pytest.approx(100)


def test_over_and_under_confidence_do_not_cancel_between_bins():
    calibration = Calibration()
    calibration.add(torch.tensor([0.9, 0.5], dtype=torch.float64), torch.tensor([False, True]))
    assert calibration.error(2) == pytest.approx(100 * (0.9 + 0.5) / 2)


def test_macro_error_weights_classes_alike_and_leaves_out_those_without_images():
    logits = torch.eye(4)[[0] * 8 + [1, 0]]  # eight of class 0 right, one of two of class 1 wrong
    found = score(logits, torch.tensor([0] * 8 + [1, 1]))
    assert (found.error, found.macro_error) == (10.0, 25.0)
    assert found.per_class_error == [0, 50, None, None]


def test_logarithms_of_probabilities_give_the_figures_of_their_logits():
    torch.manual_seed(0)
    logits, labels = 5 * torch.randn(200, 6), torch.randint(6, (200,))
    one, other = score(logits, labels), score(logits.double().log_softmax(1), labels)
    assert one.confusion == other.confusion
    assert one.loss == pytest.approx(other.loss)
    assert one.calibration_error == pytest.approx(other.calibration_error)


def test_figures_are_plain_values():
    values = score(torch.eye(3), torch.tensor([0, 1, 1])).as_dict()
    assert list(values) == [
        *("images", "error", "error_interval", "top5_error", "macro_error", "calibration_error", "loss"),
        *("per_class_error", "confusion", "skipped", "notes"),
    ]
    assert len(values["error_interval"]) == 2
