"""Evaluation counts exactly N images, keeps no logits, and its figures are right."""

import gc

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import residual
from residual.data.dataset import Dataset, Split
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import CheckpointError, DataError, UsageError
from residual.evaluation import classification
from residual.evaluation.classification import BATCH_SIZE, Accumulator, Evaluation, evaluate_split

CPU = torch.device("cpu")
AS_IS = Normalization(torch.zeros(3), torch.ones(3))


def score(logits: Tensor, labels: Tensor, batch: int = 1000) -> Evaluation:
    """Evaluate logits, batch by batch."""
    figures = Accumulator()
    for start in range(0, len(labels), batch):
        figures.add(logits[start : start + batch], labels[start : start + batch])
    return figures.result()


def test_figures_of_known_logits():
    logits = torch.tensor(
        [[9.0, 1, 0, 0, 0, 0, 0], [0, 9, 1, 0, 0, 0, 0], [9, 1, 2, 3, 4, 5, -9], [1, 2, 9, 0, 0, 0, 0]]
    )
    found = score(logits, torch.tensor([0, 2, 6, 2]))
    assert (found.images, found.error, found.top5_error) == (4, 50.0, 25.0)
    assert found.per_class_error == [0, None, 50, None, None, None, 100]  # no image, no error
    assert found.confusion[2] == [0, 1, 1, 0, 0, 0, 0]
    assert found.confusion[6][0] == 1
    assert sum(map(sum, found.confusion)) == 4
    by_hand = -torch.log_softmax(logits.double(), 1)[range(4), [0, 2, 6, 2]].mean()
    assert found.loss == pytest.approx(float(by_hand))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_not_a_figure(bad):
    logits = torch.eye(3)
    logits[1, 0] = bad
    for batch in (1, 2, 3):
        with pytest.raises(CheckpointError, match="1 of 3 images are not finite"):
            score(logits, torch.tensor([0, 1, 2]), batch)


@pytest.mark.parametrize("batch", [1, 7, 100, 333, 1000])
def test_the_figures_do_not_depend_on_the_batch(batch):
    torch.manual_seed(0)
    logits, labels = 30 * torch.randn(1000, 12), torch.randint(12, (1000,))
    logits[::9] = logits[::9].round(decimals=-1)  # ties
    found = score(logits, labels, batch)
    best = logits.topk(5, dim=1).indices  # all at once
    wrong = int((best[:, 0] != labels).sum())
    assert (found.images, found.error) == (1000, 100 * wrong / 1000)
    assert found.top5_error == 100 * int((best != labels[:, None]).all(1).sum()) / 1000
    pairs = torch.bincount(12 * labels + best[:, 0], minlength=144)
    assert found.confusion == pairs.reshape(12, 12).tolist()
    assert found.loss == pytest.approx(float(F.cross_entropy(logits.double(), labels)), rel=1e-12)


def test_no_images_are_an_error_and_not_a_figure():
    with pytest.raises(DataError, match="no images"):
        Accumulator().result()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_logits_of_earlier_batches_are_not_kept(monkeypatch, dtype):
    """So that the memory does not grow with the images: 50,000 images of 1,000 classes fit."""
    classes = 17
    alive = []

    class Spy(torch.nn.Module):
        def forward(self, x):
            held = [t for t in gc.get_objects() if type(t) is Tensor and t.shape[1:] == (classes,)]
            alive.append(sum(t.numel() for t in held))
            return torch.zeros(len(x), classes, dtype=dtype)

    monkeypatch.setattr(classification, "BATCH_SIZE", 20)
    found = evaluate_split(Spy(), load_dataset("digits").test, AS_IS, CPU)
    assert len(alive) == found.images / 20 == 18
    assert max(alive) <= classes**2 + 20 * classes, "the confusion matrix, and at most one batch of logits"


def test_fewer_than_five_classes():
    assert score(torch.eye(3), torch.tensor([0, 1, 0])).top5_error == 0


def test_every_image_counts_once_whatever_the_batch():
    class Spy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.seen = []

        def forward(self, x):
            assert not self.training
            self.seen.append(x[:, 0, 16, 16])
            return torch.zeros(len(x), 10)

    test = load_dataset("digits").test
    assert len(test) % BATCH_SIZE
    spy = Spy().train()
    found = evaluate_split(spy, test, AS_IS, CPU)
    assert found.images == len(test) == sum(map(sum, found.confusion))
    assert torch.equal(torch.cat(spy.seen), test.images[:, 16, 16, 0].float())
    assert spy.training, "the mode is put back"


def test_a_folded_network_is_evaluated_as_it_is(tmp_path):
    recipe = residual.get_recipe("demo", "resnet8").replace(
        {"iterations": 2, "batch_size": 8, "curve": "none"}
    )
    network = residual.load_model(residual.train(recipe, output=tmp_path / "run").path)
    folded = residual.optimize_for_inference(network)
    assert residual.evaluate(folded).confusion == residual.evaluate(network).confusion


@pytest.fixture
def network(tmp_path):
    """A network from a model folder, for digits."""
    recipe = residual.get_recipe("demo", "resnet8").replace({"iterations": 2, "batch_size": 8})
    return residual.load_model(
        residual.train(recipe.replace({"curve": "none"}), output=tmp_path / "run").path
    )


def test_a_data_set_in_memory_is_evaluated_on(network):
    digits = load_dataset("digits")
    part = Split(digits.test.images[:100], digits.test.labels[:100])
    mine = Dataset("mine", digits.train, part, digits.class_names)
    found = residual.evaluate(network, dataset=mine)
    assert found == evaluate_split(network, part, network.config.normalization, CPU)
    assert found.images == 100
    with pytest.raises(UsageError, match="one of them"):
        residual.evaluate(network, data="digits", dataset=mine)


def test_a_data_set_in_memory_of_other_classes_or_sizes_is_refused(network):
    digits = load_dataset("digits")
    other = Dataset("mine", digits.train, digits.test, tuple("abcdefghij"))
    with pytest.raises(CheckpointError, match=r"mine has 10 classes \(a, b, c, \.\.\.\), the model 10"):
        residual.evaluate(network, dataset=other)
    small = Split(digits.test.images[:8, :16, :16], digits.test.labels[:8])
    with pytest.raises(CheckpointError, match="mine has images of 16x16 pixels, the model takes 32x32"):
        residual.evaluate(network, dataset=Dataset("mine", small, small, digits.class_names))
