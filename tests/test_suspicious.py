"""Labels that look wrong: planted among logits they come first, whatever bias the network has."""

from pathlib import Path

import numpy as np
import pytest
import torch

import residual
from residual.data.photos import Photos
from residual.evaluation.predictions import Recorder
from residual.report.suspicious import judge_labels, leave_one_out, suspect


def planted(images=1000, classes=5, flipped=0.05, seed=0, bias=0.0):
    """Logits of a good network, and labels of which a share is flipped to another class."""
    random = torch.Generator().manual_seed(seed)
    true = torch.randint(classes, (images,), generator=random)
    logits = torch.randn(images, classes, generator=random)
    logits[torch.arange(images), true] += 4
    logits[:, 0] += bias
    chosen = torch.randperm(images, generator=random)[: round(flipped * images)]
    labels = true.clone()
    labels[chosen] = (true[chosen] + torch.randint(1, classes, (len(chosen),), generator=random)) % classes
    return logits, labels, true, chosen


@pytest.mark.parametrize("bias", [0.0, 2.0])
def test_planted_labels_come_first_and_their_true_class_is_named(bias):
    logits, labels, true, chosen = planted(bias=bias)
    found = suspect(logits, labels, 5)
    first = set(found.order[: len(chosen)].tolist())
    assert len(first & set(chosen.tolist())) >= 0.85 * len(chosen)
    assert (found.likely[chosen] == true[chosen]).float().mean() >= 0.9
    flags = found.flagged.nonzero()[:, 0].tolist()
    assert len(set(flags) & set(chosen.tolist())) >= 0.4 * len(chosen)
    assert len(set(flags) - set(chosen.tolist())) <= 0.02 * len(labels)


def test_labels_learnt_by_heart_are_found_all_the_same():
    """A network that memorised its labels gives each image features of its own, besides those that matter."""
    logits, labels, _, chosen = planted(images=300)
    memory = torch.zeros(300, 5).scatter_(1, labels[:, None], 1.0)
    confidence = (logits + 20 * memory).softmax(1).gather(1, labels[:, None])
    assert confidence.min() > 0.9, "its own confidence tells nothing"
    own = torch.eye(300)
    found = suspect(torch.cat([logits, own], 1), labels, 5)
    assert len(set(found.order[:30].tolist()) & set(chosen.tolist())) >= 0.8 * len(chosen)


def test_leaving_each_image_out_is_ridge_regression_without_it():
    random = torch.Generator().manual_seed(0)
    features, labels = torch.randn(40, 6, generator=random), torch.arange(40) % 3
    features = features + torch.eye(3, 6)[labels]
    scores = leave_one_out(features, labels, 3)
    scaled = ((features - features.mean(0)) / features.std(0, correction=0)).double().numpy()
    targets = torch.eye(3)[labels].double().numpy()
    for image in (0, 7, 39):
        rest = [index for index in range(40) if index != image]
        mean, prior = scaled[rest].mean(0), targets[rest].mean(0)
        centred = scaled[rest] - mean
        weights = np.linalg.solve(centred.T @ centred + 40 * np.eye(6), centred.T @ (targets[rest] - prior))
        assert np.allclose(scores[image], (scaled[image] - mean) @ weights + prior, atol=1e-4)


def test_without_wrong_labels_hardly_any_is_flagged():
    logits, labels, _, _ = planted(flipped=0.0)
    assert suspect(logits, labels, 5).flagged.float().mean() < 0.02


def test_thresholds_are_those_of_confident_learning():
    """Worked by hand: the mean probability of a class among its own images is 0.7 for 0 and 0.6 for 1."""
    shares = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.6, 0.4]]).double()
    found = judge_labels(shares, torch.tensor([0, 0, 1, 1]))
    assert found.flagged.tolist() == [False, False, False, False], "0.6 is below class 0's 0.7"
    more = torch.cat([shares, torch.tensor([[0.75, 0.25]]).double()])
    found = judge_labels(more, torch.tensor([0, 0, 1, 1, 1]))
    assert found.flagged.tolist() == [False] * 4 + [True]
    assert found.margin.tolist() == pytest.approx([0.8, 0.0, 0.6, -0.2, -0.5])


def test_a_class_without_images_accuses_no_label():
    scores = torch.tensor([[0.1, 0.9], [0.4, 0.6]])
    assert not judge_labels(scores, torch.tensor([0, 0])).flagged.any(), "nothing is usual for class 1"
    assert not suspect(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64), 2).flagged.any()


@pytest.mark.parametrize(("name", "features"), [("resnet8", 64), ("resnet18", 256), ("resnet50", 1024)])
def test_features_are_those_of_the_third_stage(name, features):
    """The second of a network for small images has 32, too few to tell a wrong label by."""
    network = residual.create_model(name, num_classes=2).eval()
    recorder = Recorder(Photos(Path(), ("a.png", "b.png"), torch.tensor([0, 1]), ("one", "other")))
    with recorder.watching(network):
        recorder.add([1, 0], network(torch.zeros(2, 3, 64, 64)))
    found = recorder.predictions().features
    assert found is not None
    assert found.shape == (2, features)
