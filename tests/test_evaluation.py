"""Evaluation counts exactly N pictures and its figures are right."""

import pytest
import torch

import residual
from residual.data.load import load_dataset
from residual.data.normalization import Normalization
from residual.errors import CheckpointError
from residual.evaluation.classification import BATCH_SIZE, evaluate_split, score


def test_figures_of_known_scores():
    scores = torch.tensor(
        [[9.0, 1, 0, 0, 0, 0, 0], [0, 9, 1, 0, 0, 0, 0], [9, 1, 2, 3, 4, 5, -9], [1, 2, 9, 0, 0, 0, 0]]
    )
    found = score(scores, torch.tensor([0, 2, 6, 2]))
    assert (found.images, found.error, found.top5_error) == (4, 50.0, 25.0)
    assert found.per_class_error == [0, None, 50, None, None, None, 100]  # no image, no error
    assert found.confusion[2] == [0, 1, 1, 0, 0, 0, 0]
    assert found.confusion[6][0] == 1
    assert sum(map(sum, found.confusion)) == 4
    by_hand = -torch.log_softmax(scores.double(), 1)[range(4), [0, 2, 6, 2]].mean()
    assert found.loss == pytest.approx(float(by_hand))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_an_error_and_not_a_figure(bad):
    logits = torch.eye(3)
    logits[1, 0] = bad
    with pytest.raises(CheckpointError, match="1 of 3 images are not finite"):
        score(logits, torch.tensor([0, 1, 2]))


def test_fewer_than_five_classes():
    assert score(torch.eye(3), torch.tensor([0, 1, 0])).top5_error == 0


def test_every_picture_counts_once_whatever_the_batch():
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
    found = evaluate_split(spy, test, Normalization(torch.zeros(3), torch.ones(3)), torch.device("cpu"))
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
