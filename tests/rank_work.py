"""What each of two ranks computes for tests/test_ranks.py; started by it with a launcher's environment."""

import copy
import sys
from pathlib import Path

import torch

import residual
from residual.data.dataset import Split
from residual.data.normalization import Normalization
from residual.data.preprocessing import Preprocessing
from residual.data.sampler import bounds
from residual.evaluation.classification import evaluate_split
from residual.runtime import ranks
from residual.training.guard import Guard
from residual.training.metrics import Window
from residual.training.optim import make_optimizer
from residual.training.parallel import Parallel
from residual.training.step import train_step
from residual.training.sync_bn import synchronise

CPU = torch.device("cpu")
IMAGES = 33  # two ranks take 16 and 17


def fresh(dtype: torch.dtype) -> torch.nn.Module:
    torch.manual_seed(0)
    return residual.create_model("resnet20", num_classes=10).train().to(dtype)


def batch(step: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(IMAGES, 3, 32, 32, generator=generator, dtype=torch.float64) * 2 + 1
    return images.to(dtype), torch.randint(0, 10, (IMAGES,), generator=generator)


def steps(network: torch.nn.Module, count: int, dtype: torch.dtype, groups: int = 1) -> dict[str, object]:
    """Take steps on this rank's shares of the batches; the gradients are those of the last step."""
    optimizer = make_optimizer(network, residual.get_recipe("paper", "resnet20").optimizer)
    guard, called, rank = Guard(optimizer, CPU), network, ranks.own()
    if ranks.count() > 1:
        called = Parallel(network, CPU)
    for step in range(count):
        images, labels = batch(step, dtype)
        own = slice(*bounds(IMAGES, rank[1])[rank[0]])
        part = (images[own], labels[own])
        share = len(part[0]) / IMAGES
        loss, _ = train_step(called, optimizer, guard, part, step, groups=groups, share=share)
    gradients = {name: p.grad for name, p in network.named_parameters()}
    return {"loss": loss, "gradients": gradients, "state": copy.deepcopy(network.state_dict())}


def odd_test_set() -> tuple[torch.nn.Module, Split, Preprocessing]:
    """Return a small network and 10,001 images, whose last batch has a single one."""
    torch.manual_seed(1)
    network = residual.create_model("resnet8", num_classes=10).eval()
    generator = torch.Generator().manual_seed(2)
    images = torch.randint(0, 256, (10_001, 8, 8, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 10, (10_001,), generator=generator)
    normalization = Normalization(torch.full((3,), 128.0), torch.full((3,), 64.0))
    return network, Split(images, labels), Preprocessing((8, 8), normalization)


def bad_loss() -> tuple[str, bool]:
    """Take a step with an image of NaN on the last rank; return the error, and whether weights stayed."""
    network, (images, labels) = fresh(torch.float32), batch(0, torch.float32)
    images[-1] = torch.nan
    before = copy.deepcopy(dict(network.named_parameters()))
    optimizer = make_optimizer(network, residual.get_recipe("paper", "resnet20").optimizer)
    own = slice(*bounds(IMAGES, ranks.count())[ranks.own()[0]])
    part, share = (images[own], labels[own]), len(images[own]) / IMAGES
    try:
        train_step(Parallel(network, CPU), optimizer, Guard(optimizer, CPU), part, 7, share=share)
    except residual.ResidualError as error:
        return str(error), all(torch.equal(p, before[name]) for name, p in network.named_parameters())
    return "", False


def work() -> dict[str, object]:
    synced = fresh(torch.float64)
    synchronise(synced)
    network, split, preprocessing = odd_test_set()
    window = Window(CPU)
    window.add(torch.tensor(float(ranks.own()[0])), torch.eye(10)[:3], torch.tensor([0, 1, 5]))
    few = Split(split.images[:3], split.labels[:3])  # one batch: a rank has nothing to do
    return {
        "one step": steps(fresh(torch.float32), 1, torch.float32),
        "ten steps": steps(fresh(torch.float64), 10, torch.float64),
        "accumulated": steps(fresh(torch.float64), 2, torch.float64, groups=2),
        "synced": steps(synced, 3, torch.float64),
        "evaluation": evaluate_split(network, split, preprocessing, CPU, part=ranks.own()).as_dict(),
        "few": evaluate_split(network, few, preprocessing, CPU, part=ranks.own()).as_dict(),
        "bad loss": bad_loss(),
        "window": window.state(),
        "means": window.read(),
        "stops": ranks.any_rank_stops(15 if ranks.own()[0] == 1 else None),
        "first": ranks.from_first(lambda: ranks.own()),
    }


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    with ranks.joined():
        torch.save(work(), folder / f"rank{ranks.own()[0]}.pt")
