"""Several processes that train one run: the same as one process with as many BN groups."""

from pathlib import Path

import pytest
import torch

from launched import finish, start_ranks
from rank_work import CPU, fresh, odd_test_set, steps
from residual.data.loader import TrainBatches
from residual.data.photo_batches import PhotoBatches
from residual.errors import UsageError
from residual.evaluation.classification import evaluate_split
from residual.recipes.augment import PadCrop, ResizedCrop, ScaleCrop
from residual.training.metrics import Window
from test_batches import NOTHING, random_split
from test_photo_batches import MODERN, PLAIN, photos  # noqa: F401, a fixture


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """What two ranks computed, once for all tests of this file."""
    folder = tmp_path_factory.mktemp("ranks")
    for code, output, errors in finish(
        start_ranks([str(Path(__file__).parent / "rank_work.py"), str(folder)])
    ):
        assert code == 0, output + errors
    return [torch.load(folder / f"rank{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_close(found, expected, tolerance):
    """Compare named tensors, each by its largest value; BN counts groups, which no formula uses."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name.endswith("num_batches_tracked"):
            continue
        largest = value.abs().max().clamp(min=1e-12)
        assert float((found[name] - value).abs().max() / largest) <= tolerance, name


def test_one_step_of_two_ranks_is_that_of_one_process_with_two_groups(found):
    expected = steps(fresh(torch.float32), 1, torch.float32, groups=2)
    for rank in found:
        assert float(rank["one step"]["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-5)
        assert_close(rank["one step"]["gradients"], expected["gradients"], 1e-5)


def test_ten_steps_part_by_rounding_alone(found):
    expected = steps(fresh(torch.float64), 10, torch.float64, groups=2)
    for rank in found:
        assert_close(rank["ten steps"]["state"], expected["state"], 1e-8)


def test_all_ranks_hold_the_same_state_to_the_bit(found):
    for kind in ("one step", "ten steps", "synced"):
        first, second = (rank[kind]["state"] for rank in found)
        assert all(torch.equal(first[name], second[name]) for name in first), kind


def test_ranks_can_accumulate_gradients(found):
    """Two groups on each of two ranks; of 33 images the groups of one process are 8, 8, 8, 9 too."""
    expected = steps(fresh(torch.float64), 2, torch.float64, groups=4)
    assert_close(found[0]["accumulated"]["state"], expected["state"], 1e-8)


def test_synchronised_bn_sees_the_whole_batch(found):
    expected = steps(fresh(torch.float64), 3, torch.float64)
    assert_close(found[0]["synced"]["state"], expected["state"], 1e-8)
    apart = steps(fresh(torch.float64), 3, torch.float64, groups=2)
    with pytest.raises(AssertionError):
        assert_close(apart["state"], expected["state"], 1e-4)


def test_every_image_of_an_odd_test_set_counts_once(found):
    network, split, preprocessing = odd_test_set()
    expected = evaluate_split(network, split, preprocessing, CPU).as_dict()
    for rank in found:
        loss = rank["evaluation"].pop("loss")
        assert loss == pytest.approx(expected["loss"], rel=1e-12)
        assert rank["evaluation"].pop("calibration_error") == pytest.approx(expected["calibration_error"])
        rest = {key: value for key, value in expected.items() if key in rank["evaluation"]}
        assert rank["evaluation"] == rest
        assert rank["evaluation"]["images"] == 10_001
        assert rank["few"]["images"] == 3


def test_a_bad_loss_of_one_rank_stops_all_before_the_update(found):
    for rank in found:
        message, unchanged = rank["bad loss"]
        assert "the loss of step 7 is not finite" in message
        assert unchanged


def test_ranks_agree(found):
    for number, rank in enumerate(found):
        assert rank["stops"] == 15
        assert rank["first"] == (0, 2)
        assert rank["means"] == (0.5, pytest.approx(100 / 3))
        assert torch.equal(rank["window"][:, 0], torch.tensor([0.0, 3.0], dtype=torch.float64)), number


def test_a_window_goes_on_with_another_number_of_ranks(found):
    alone = Window(CPU)
    alone.restore(found[0]["window"])
    assert alone.peek() == found[0]["means"]
    with pytest.raises(ValueError, match="shape"):
        alone.restore(torch.zeros(2))


@pytest.mark.parametrize("ranks", [2, 3, 5])
def test_the_shares_of_a_batch_in_memory_are_the_batch(ranks):
    split = random_split(20, 8)

    def batches(part):
        return TrainBatches(split, NOTHING, 7, PadCrop(padding=2), 3, part)

    whole, parts = batches((0, 1)), [batches((rank, ranks)) for rank in range(ranks)]
    for step in (0, 2, 5):
        images, labels = zip(*(part[step] for part in parts), strict=True)
        assert torch.equal(torch.cat(images), whole[step][0])
        assert torch.equal(torch.cat(labels), whole[step][1])
    with pytest.raises(UsageError, match="8 processes cannot share a batch of 7"):
        batches((0, 8))


@pytest.mark.parametrize("ranks", [2, 3])
@pytest.mark.parametrize("augment", [ScaleCrop(), MODERN, ResizedCrop(cutmix=1.0)])
def test_the_shares_of_a_batch_of_photographs_are_the_batch(photos, ranks, augment):  # noqa: F811
    def batches(part):
        return PhotoBatches(photos, PLAIN, 16, 7, augment, 0, CPU, part=part)

    whole, parts = batches((0, 1)), [batches((rank, ranks)) for rank in range(ranks)]
    for step in (0, 1, 3):
        images, labels = zip(*(part[step] for part in parts), strict=True)
        assert torch.equal(torch.cat(images), whole[step][0])
        assert torch.equal(torch.cat(labels), whole[step][1])
