"""Classes of different sizes: drawn equally often, or weighted in the loss."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from residual.data.photo_batches import epoch_order
from residual.data.sampler import Members, class_weights
from residual.recipes.catalog import get_recipe
from residual.training.engine import Engine
from residual.training.guard import Guard
from residual.training.prepare import prepare
from residual.training.step import train_step
from residual.training.training_data import Reading
from test_folders import put

LABELS = torch.tensor([0] * 60 + [1] * 25 + [2] * 3 + [4] * 12)


def test_classes_come_equally_often():
    members = Members.of(LABELS)
    orders = [epoch_order(7, epoch, 100, 1, members) for epoch in range(40)]
    counts = torch.stack([torch.bincount(LABELS[order], minlength=5) for order in orders])
    assert counts[:, [0, 1, 2, 4]].tolist() == [[25] * 4] * 40
    images = torch.stack([torch.bincount(order, minlength=100) for order in orders])
    assert images[:, :60].max() == 1  # none of the largest class comes twice while others wait
    assert (images[:, 60:85] == 1).all()
    assert set(images[:, 85:88].flatten().tolist()) == {8, 9}
    assert (images.sum(0) > 0).all()
    assert torch.equal(orders[3], epoch_order(7, 3, 100, 1, Members.of(LABELS)))
    assert not torch.equal(orders[3], epoch_order(8, 3, 100, 1, members))
    uneven = torch.bincount(LABELS[members.order(0, 0, 102)], minlength=5)[[0, 1, 2, 4]]
    assert sorted(uneven.tolist()) == [25, 25, 26, 26]


def test_fewer_images_than_classes_in_an_epoch():
    members = Members.of(torch.arange(5))
    assert sorted(members.order(0, 0, 5).tolist()) == [0, 1, 2, 3, 4]
    assert len(set(members.order(0, 1, 3).tolist())) == 3


def test_weights_are_inverse_to_the_images():
    weights = class_weights(LABELS, 5)
    assert weights[LABELS].mean() == pytest.approx(1)
    assert (weights[2] / weights[0]).item() == pytest.approx(20)
    assert weights[3] == 0  # of a class without images


class Fixed(nn.Module):
    """Logits that do not depend on the images."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits + 0 * images.mean()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("soft", [False, True])
def test_the_weighted_loss(smoothing, soft):
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3, dtype=torch.float64), torch.tensor([0, 1, 2, 2, 0, 1])
    weights = torch.tensor([0.5, 1.0, 1.5], dtype=torch.float64)
    shares = F.one_hot(labels, 3).double()
    targets = shares.lerp(shares.roll(1, 0), 0.3) if soft else shares
    expected = 0.0
    for row, target in zip(logits.float().double(), targets, strict=True):
        smooth = target * (1 - smoothing) + smoothing / 3
        expected += float(target @ weights) * float(-(smooth * row.log_softmax(0)).sum()) / 6
    network = Fixed(logits)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, fused=True)
    guard = Guard(optimizer, torch.device("cpu"))
    batch = (torch.zeros(6, 3, 4, 4), targets.float() if soft else labels)
    loss, _ = train_step(network, optimizer, guard, batch, 0, "float32", smoothing, weights.float())
    assert float(loss) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("balance", ["none", "sampler", "weights"])
def test_a_run_is_balanced_as_its_recipe_says(tmp_path, balance):
    files = [f"{name}/{n}.png" for name, size in (("big", 30), ("small", 5)) for n in range(size)]
    root = put(tmp_path, *files, size=40)
    changes = {"image_size": 32, "batch_size": 28, "schedule.shape": "cosine", "validation": 0}
    recipe = get_recipe("imagenet-paper", "resnet20").replace({**changes, "balance": balance})
    prepared = prepare(recipe, data_dir=root, device="cpu", reading=Reading(workers=0))
    batches, notes = prepared.data.batches, prepared.data.dataset.findings.notes
    assert notes[0].startswith("of big there are 24 training images, of small only 4: --balance")
    counts = torch.bincount(batches[0][1]).tolist()
    assert counts == ([14, 14] if balance == "sampler" else [24, 4])
    if balance == "weights":
        assert batches.class_weights.tolist() == pytest.approx([28 / 48, 28 / 8])
    else:
        assert batches.class_weights is None
    engine = Engine(recipe.replace({"precision": "float32"}), prepared.network, batches)
    engine.take_step()
    engine.wait()
