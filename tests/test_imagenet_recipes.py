"""The recipes for ImageNet: each published setting once, and that a setting has its effect."""

import math

import pytest
import torch
from torch import nn

import residual
from residual import get_recipe
from residual.data.loader import Batches
from residual.recipes.augment import ResizedCrop, ScaleCrop
from residual.training.engine import Engine
from residual.training.guard import Guard
from residual.training.metrics import Window
from residual.training.optim import make_optimizer
from residual.training.schedule import ScheduleState, learning_rate
from residual.training.step import train_step

IMAGES = 1_281_167


# the published settings


def test_the_papers_settings():
    """Section 3.4 of the paper, one line for each sentence."""
    recipe = get_recipe("imagenet-paper", "resnet50")
    assert recipe.augment == ScaleCrop(shortest=256, longest=480, colour=0.1, flip=True)
    assert (recipe.image_size, recipe.normalization) == (224, "measured")
    assert recipe.batch_size == 256
    assert recipe.optimizer.learning_rate == 0.1
    assert (recipe.schedule.shape, recipe.schedule.factor) == ("plateau", 0.1)
    assert recipe.iterations == 600_000
    assert (recipe.optimizer.weight_decay, recipe.optimizer.decay_all) == (1e-4, True)
    assert (recipe.optimizer.momentum, recipe.optimizer.nesterov) == (0.9, False)
    assert recipe.precision == "float32"
    assert (recipe.label_smoothing, recipe.ema.span, recipe.optimizer.muon) == (0, 0, 0)
    assert recipe.validation_images(IMAGES) == 12_812
    assert recipe.evaluation_period == 5_000
    assert recipe.data == "folder"


def test_the_settings_by_epochs_differ_from_the_papers_in_the_schedule_alone():
    recipe, paper = (get_recipe(name, "resnet34") for name in ("imagenet-epochs", "imagenet-paper"))
    assert recipe.iterations == 450_410
    assert recipe.iterations * 256 / IMAGES == pytest.approx(90, abs=1e-4)
    rates = {step: learning_rate(recipe, step, ScheduleState()) for step in range(0, 450_410, 10)}
    drops = [step for step, rate in rates.items() if step and rate != rates[step - 10]]
    assert [step * 256 / IMAGES for step in drops] == pytest.approx([30, 60], abs=0.01)
    assert sorted(set(rates.values())) == pytest.approx([0.001, 0.01, 0.1])
    differing = {key for key, value in recipe.flat().items() if paper.flat()[key] != value}
    assert differing == {"name", "iterations", "validation", "schedule.shape", "schedule.drops"}


def test_torchvisions_settings():
    """The published command and defaults of the weights ResNet50_Weights.IMAGENET1K_V2, one by one."""
    recipe = get_recipe("imagenet-modern", "resnet50")
    augment, optimizer = recipe.augment, recipe.optimizer
    assert isinstance(augment, ResizedCrop)
    assert recipe.batch_size == 8 * 128  # --batch-size 128 on 8 GPUs
    assert optimizer.learning_rate == 0.5  # --lr 0.5
    assert recipe.schedule.shape == "cosine"  # --lr-scheduler cosineannealinglr
    assert recipe.schedule.peak == 5 / 600  # --lr-warmup-epochs 5 --lr-warmup-method linear
    assert recipe.schedule.warmup_learning_rate == 0
    assert recipe.iterations == 600 * (IMAGES // 1024)  # --epochs 600
    assert augment.trivial  # --auto-augment ta_wide
    assert augment.erase == 0.1  # --random-erase 0.1
    assert recipe.label_smoothing == 0.1  # --label-smoothing 0.1
    assert augment.mixup == 0.2  # --mixup-alpha 0.2
    assert augment.cutmix == 1.0  # --cutmix-alpha 1.0
    assert optimizer.weight_decay == 2e-5  # --weight-decay 0.00002
    assert not optimizer.decay_all  # --norm-weight-decay 0.0
    assert recipe.image_size == 176  # --train-crop-size 176
    assert recipe.ema.every == 32  # --model-ema, every 32 steps by default
    assert recipe.test_resize == 232  # --val-resize-size 232
    assert recipe.test_size == 224  # by default
    assert augment.repeats == 4  # --ra-sampler --ra-reps 4
    assert (optimizer.momentum, optimizer.nesterov, optimizer.muon) == (0.9, False, 0)  # --opt sgd
    assert (augment.smallest, augment.flip) == (0.08, True)  # torchvision's training preset
    assert recipe.normalization == "imagenet"
    assert (recipe.precision, recipe.validation, recipe.variant) == ("auto", 0, "v1.5")


def test_the_average_has_the_decay_of_torchvisions():
    """Its command line has 0.99998, and multiplies the rest by world size * batch size * steps / epochs."""
    recipe = get_recipe("imagenet-modern", "resnet50")
    published = 1 - (1 - 0.99998) * 8 * 128 * 32 / 600
    ours = math.exp(-32 / (recipe.ema.span * recipe.iterations))
    assert 1 - ours == pytest.approx(1 - published, rel=1e-3)


def test_only_networks_with_variants_get_the_authors():
    for name in ("imagenet-paper", "imagenet-epochs"):
        assert get_recipe(name, "resnet152").variant == "v1"
        assert get_recipe(name, "resnet34").variant is None
        assert get_recipe(name, "vgg19_bn").variant is None


@pytest.mark.parametrize("iterations", [60, 6000])
def test_a_shorter_run_scales_the_whole_schedule(iterations):
    recipe = get_recipe("imagenet-epochs", "resnet18").replace({"iterations": iterations})
    rates = [learning_rate(recipe, step, ScheduleState()) for step in range(iterations)]
    drops = [step for step in range(1, iterations) if rates[step] != rates[step - 1]]
    assert drops == [iterations // 3, iterations * 2 // 3]
    modern = get_recipe("imagenet-modern", "resnet18").replace({"iterations": iterations})
    rates = [learning_rate(modern, step, ScheduleState()) for step in range(iterations)]
    assert rates.index(max(rates)) <= iterations * 5 / 600
    assert 0 < rates[-1] < 0.001
    paper = get_recipe("imagenet-paper", "resnet18").replace({"iterations": iterations})
    assert paper.evaluation_period == max(50, iterations // 30)


# that settings have their effect


def test_weight_decay_acts_on_matrices_alone():
    network = residual.create_model("resnet8", shortcut="B")
    optimizer = make_optimizer(network, get_recipe("imagenet-modern", "resnet8").optimizer)
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    found = {name: decay[id(parameter)] for name, parameter in network.named_parameters()}
    convolutions = [name for name, module in network.named_modules() if isinstance(module, nn.Conv2d)]
    decayed = {f"{name}.weight" for name in [*convolutions, "fc"]}
    assert {name for name, value in found.items() if value == 2e-5} == decayed
    assert {value for name, value in found.items() if name not in decayed} == {0.0}
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
    optimizer.step()
    for name, parameter in network.named_parameters():
        shrunk = before[name] * (1 - 0.5 * 2e-5) if name in decayed else before[name]
        torch.testing.assert_close(parameter.detach(), shrunk, rtol=1e-6, atol=0)


def linear(logits):
    """Make a network that gives these logits [B, classes] for the images torch.eye(B)[:, :, None, None]."""
    network = nn.Sequential(nn.Flatten(), nn.Linear(*reversed(logits.T.shape), bias=False))
    with torch.no_grad():
        network[1].weight.copy_(logits.T)
    return network


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_of_mixed_and_smoothed_targets_is_that_of_the_formula(smoothing):
    logits = torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0]])
    shares = [[0.7, 0.3, 0.0], [0.25, 0.0, 0.75]]
    network = linear(logits)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=True)
    guard = Guard(optimizer, torch.device("cpu"))
    batch = torch.eye(2)[:, :, None, None], torch.tensor(shares)
    loss, found = train_step(network, optimizer, guard, batch, 0, label_smoothing=smoothing)
    expected, gradient = 0.0, []
    for row, targets in zip(logits.tolist(), shares, strict=True):
        total = sum(math.exp(x) for x in row)
        smoothed = [(1 - smoothing) * target + smoothing / 3 for target in targets]
        expected -= sum(t * math.log(math.exp(x) / total) for t, x in zip(smoothed, row, strict=True)) / 2
        gradient.append([(math.exp(x) / total - t) / 2 for t, x in zip(smoothed, row, strict=True)])
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert torch.equal(found, logits)
    torch.testing.assert_close(logits - network[1].weight.detach().T, torch.tensor(gradient))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_shares_of_one_class_each_are_labels(smoothing):
    labels = torch.tensor([2, 0])
    losses, weights = [], []
    for targets in (labels, nn.functional.one_hot(labels, 3).float()):
        network = linear(torch.tensor([[2.0, 1.0, 0.0], [0.0, 0.5, 3.0]]))
        optimizer = torch.optim.SGD(network.parameters(), lr=1.0, fused=True)
        batch = torch.eye(2)[:, :, None, None], targets
        guard = Guard(optimizer, torch.device("cpu"))
        losses.append(float(train_step(network, optimizer, guard, batch, 0, label_smoothing=smoothing)[0]))
        weights.append(network[1].weight.detach())
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(*weights)


def test_the_error_of_mixed_images_counts_the_class_with_the_largest_share():
    window = Window(torch.device("cpu"))
    scores = torch.tensor([[3.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0], [1.0, 0.0, 0.5]])
    shares = torch.tensor([[0.6, 0.4, 0.0], [0.0, 0.3, 0.7], [0.0, 0.1, 0.9], [0.2, 0.8, 0.0]])
    window.add(torch.tensor(1.5), scores, shares)  # right, wrong, right, wrong
    window.add(torch.tensor(1.5), scores, torch.tensor([0, 1, 2, 1]))  # labels: right, right, right, wrong
    loss, error = window.read()
    assert loss == pytest.approx(1.5)
    assert error == pytest.approx(100 * 3 / 8)


class Mixed(Batches):
    """Pairs of random images, mixed."""

    def __init__(self, classes):
        super().__init__(16, 4)
        self.classes = classes

    @property
    def device(self):
        return torch.device("cpu")

    def __getitem__(self, step):
        generator = torch.Generator().manual_seed(step)
        images = torch.randn(2, 4, 3, 32, 32, generator=generator)
        labels = torch.randint(self.classes, (2, 4), generator=generator)
        shares = nn.functional.one_hot(labels, self.classes).float()
        return 0.7 * images[0] + 0.3 * images[1], 0.7 * shares[0] + 0.3 * shares[1]

    def close(self):
        pass


def test_the_engine_learns_from_mixed_images():
    recipe = get_recipe("imagenet-modern", "resnet8").replace({"iterations": 4, "precision": "float32"})
    torch.manual_seed(0)
    network = residual.create_model("resnet8", num_classes=5)
    before = network.fc.weight.detach().clone()
    engine = Engine(recipe, network, Mixed(5))
    for _ in range(4):
        engine.take_step()
    engine.wait()
    loss, error = engine.window.read()
    assert 0.5 < loss < 10
    assert 0 < error <= 100
    assert not torch.equal(before, network.fc.weight)
    assert engine.evaluated is engine.average
    assert not engine.captured
