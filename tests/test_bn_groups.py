"""BN on parts of a batch: the same step as that of devices which each see a part."""

import copy

import pytest
import torch
from torch.nn import functional as F

import residual
from conftest import comparable
from residual.data.sampler import bounds
from residual.errors import UsageError
from residual.training.guard import Guard
from residual.training.optim import make_optimizer
from residual.training.step import train_step


def network_and_batch(images=10):
    torch.manual_seed(0)
    network = residual.create_model("resnet8", num_classes=5).train()
    return network, (torch.randn(images, 3, 16, 16), torch.arange(images) % 5)


def take_step(network, batch, groups):
    optimizer = make_optimizer(network, residual.get_recipe("paper", "resnet8").optimizer)
    guard = Guard(optimizer, torch.device("cpu"))
    return train_step(network, optimizer, guard, batch, 0, groups=groups)


@pytest.mark.parametrize("groups", [2, 3])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_groups_are_as_many_devices(groups, layout):
    """Each device has a copy of the network; gradients are added up, running statistics averaged."""
    network, (images, labels) = network_and_batch()
    images = images.to(memory_format=layout)
    devices = [copy.deepcopy(network) for _ in range(groups)]
    loss, logits = take_step(network, (images, labels), groups)

    expected, found = 0.0, []
    for device, (start, stop) in zip(devices, bounds(10, groups), strict=True):
        found.append(device(images[start:stop]))
        part = F.cross_entropy(found[-1], labels[start:stop], reduction="sum") / 10
        part.backward()
        expected += float(part.detach())
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    torch.testing.assert_close(logits, torch.cat(found), rtol=1e-6, atol=1e-6)
    for name, parameter in network.named_parameters():
        summed = sum(device.get_parameter(name).grad for device in devices)
        torch.testing.assert_close(parameter.grad, summed, rtol=1e-5, atol=1e-6)
    for name, buffer in network.named_buffers():
        if "running" in name:
            mean = torch.stack([device.get_buffer(name) for device in devices]).mean(0)
            torch.testing.assert_close(buffer, mean, rtol=1e-5, atol=1e-7)
    assert {module.momentum for module in network.modules() if hasattr(module, "momentum")} == {0.1}


def test_groups_change_what_bn_sees():
    (whole, batch), (parts, _) = network_and_batch(), network_and_batch()
    assert not torch.allclose(take_step(whole, batch, 1)[1], take_step(parts, batch, 2)[1], atol=1e-3)


def test_momentum_is_given_back_after_an_error():
    network, (images, labels) = network_and_batch()
    with pytest.raises(UsageError):
        take_step(network, (images[:, :2], labels), 2)
    assert network.bn1.momentum == 0.1


def test_a_run_in_groups_resumes_exactly(tmp_path, stop_at):
    changes = {"iterations": 6, "batch_size": 16, "bn_groups": 3, "checkpoint_every": 2, "curve": "none"}
    recipe = residual.get_recipe("demo", "resnet8").replace(changes)
    residual.train(recipe, output=tmp_path / "whole", quiet=True)

    def stop(_):
        raise KeyboardInterrupt

    restore = stop_at(4, stop)
    with pytest.raises(KeyboardInterrupt):
        residual.train(recipe, output=tmp_path / "cut", quiet=True)
    restore()
    residual.resume(tmp_path / "cut", quiet=True)
    assert comparable(tmp_path / "cut") == comparable(tmp_path / "whole")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"bn_groups": 129}, "bn_groups must be at most the batch_size of 128"),
        ({"bn_groups": 2, "compile": True}, "compile and bn_groups cannot be combined"),
    ],
)
def test_what_does_not_go_with_groups_is_refused(changes, message):
    with pytest.raises(UsageError, match=message):
        residual.get_recipe("paper", "resnet20").replace(changes)
