"""Labels that look wrong: planted among logits they come first, whatever bias the network has."""

import pytest
import torch

from residual.report.suspicious import suspect


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
    found = suspect(logits, labels)
    first = set(found.order[: len(chosen)].tolist())
    assert len(first & set(chosen.tolist())) >= 0.85 * len(chosen)
    assert (found.likely[chosen] == true[chosen]).float().mean() >= 0.9
    flags = found.flagged.nonzero()[:, 0].tolist()
    assert len(set(flags) & set(chosen.tolist())) >= 0.6 * len(chosen)
    assert len(set(flags) - set(chosen.tolist())) <= 0.02 * len(labels)


def test_without_wrong_labels_hardly_any_is_flagged():
    logits, labels, _, _ = planted(flipped=0.0)
    assert suspect(logits, labels).flagged.float().mean() < 0.02


def test_thresholds_are_those_of_confident_learning():
    """Worked by hand: the mean probability of a class among its own images is 0.7 for 0 and 0.6 for 1."""
    shares = torch.tensor([[0.9, 0.1], [0.5, 0.5], [0.2, 0.8], [0.6, 0.4]]).double()
    found = suspect(shares.log(), torch.tensor([0, 0, 1, 1]))
    assert found.flagged.tolist() == [False, False, False, False], "0.6 is below class 0's 0.7"
    more = torch.cat([shares, torch.tensor([[0.75, 0.25]]).double()])
    found = suspect(more.log(), torch.tensor([0, 0, 1, 1, 1]))
    assert found.flagged.tolist() == [False] * 4 + [True]
    assert found.margin.tolist() == pytest.approx([0.8, 0.0, 0.6, -0.2, -0.5])


def test_a_class_without_images_accuses_no_label():
    logits = torch.tensor([[0.0, 5.0], [0.0, 1.0]])
    assert not suspect(logits, torch.tensor([0, 0])).flagged.any(), "nothing tells what is usual for class 1"
