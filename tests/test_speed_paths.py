"""The fast paths compute the same function as the plain ones: fused BN, recomputation, folding."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import residual
from residual.models import fused
from residual.recipes.schema import Optimizer
from residual.runtime.device import autocast
from residual.training.guard import Guard
from residual.training.optim import make_optimizer
from residual.training.step import train_step

CPU = torch.device("cpu")
NAMES = ["resnet8", "plain8", "resnet11_bottleneck"]


def batch(seed, size=16):
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(size, 3, 32, 32, generator=generator).to(memory_format=torch.channels_last)
    return images, torch.randint(10, (size,), generator=generator)


def trained(name, steps=20, *, fusing=True, monkeypatch=None, **options):
    """Train a network for some steps; return it and its losses."""
    if not fusing:
        monkeypatch.setattr(fused, "_fusible", lambda *_: False)
    torch.manual_seed(0)
    network = residual.create_model(name, **options).to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(network, Optimizer(learning_rate=0.01))
    guard = Guard(optimizer, CPU)
    losses = [float(train_step(network, optimizer, guard, batch(k), k)[0]) for k in range(steps)]
    if not fusing:
        monkeypatch.undo()
    return network, torch.tensor(losses)


def assert_same_state(one, other, **tolerance):
    for (key, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, msg=lambda text, key=key: f"{key}: {text}", **tolerance)


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("name", NAMES)
def test_twenty_steps_of_the_fused_path_equal_the_plain_ones(name, shortcut, monkeypatch):
    options = {} if name.startswith("plain") else {"shortcut": shortcut}
    calls = []
    real = fused._BatchNormReLU.apply
    monkeypatch.setattr(fused._BatchNormReLU, "apply", lambda *a: calls.append(1) or real(*a))
    fast, fast_losses = trained(name, **options)
    assert calls, "the fused path did not run"
    calls.clear()
    plain, plain_losses = trained(name, fusing=False, monkeypatch=monkeypatch, **options)
    assert not calls
    torch.testing.assert_close(fast_losses, plain_losses, rtol=1e-4, atol=1e-4)
    assert_same_state(fast, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("with_shortcut", [True, False])
def test_the_fused_gradient_is_the_analytic_one(with_shortcut):
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    shortcut = torch.randn(3, 4, 5, 5).to(memory_format=torch.channels_last).requires_grad_()
    bn = nn.BatchNorm2d(4)
    nn.init.uniform_(bn.weight, 0.5, 2)
    upstream = torch.randn(3, 4, 5, 5)

    def gradients(y):
        wanted = (x, bn.weight, bn.bias, *((shortcut,) if with_shortcut else ()))
        return torch.autograd.grad((y * upstream).sum(), wanted)

    mean, var = x.mean((0, 2, 3), keepdim=True), x.var((0, 2, 3), unbiased=False, keepdim=True)
    by_hand = (x - mean) / (var + bn.eps).sqrt() * bn.weight[:, None, None] + bn.bias[:, None, None]
    by_hand = F.relu(by_hand + shortcut if with_shortcut else by_hand)
    ours = fused.bn_relu(bn, x, shortcut if with_shortcut else None)
    assert type(ours.grad_fn).__name__ == "_BatchNormReLUBackward"
    torch.testing.assert_close(ours, by_hand, rtol=1e-5, atol=1e-5)
    for found, expected in zip(gradients(ours), gradients(by_hand), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(bn.running_mean, 0.1 * mean.flatten(), rtol=1e-5, atol=1e-6)
    assert bn.num_batches_tracked == 1


def test_a_gradient_that_others_share_is_left_alone():
    """An addition gives both its inputs the same gradient tensor: no path may write into it."""
    torch.manual_seed(0)
    bn = nn.BatchNorm2d(4)
    x = torch.randn(2, 4, 6, 6).to(memory_format=torch.channels_last).requires_grad_()
    other = torch.zeros_like(x).requires_grad_()
    upstream = torch.ones_like(x)
    (fused.bn_relu(bn, x) + other).backward(upstream)
    assert bool((other.grad == 1).all())
    assert bool((upstream == 1).all())


@pytest.mark.parametrize("way", ["channels_last", "NCHW", "bfloat16"])
@pytest.mark.parametrize(
    ("name", "shortcut"), [("resnet20", "B"), ("plain20", None), ("resnet29_bottleneck", "A")]
)
def test_checkpointing_changes_neither_gradients_nor_statistics(name, shortcut, way):
    networks = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = residual.create_model(name, shortcut=shortcut, checkpoint_activations=checkpointing).train()
        layout = torch.contiguous_format if way == "NCHW" else torch.channels_last
        network.to(memory_format=layout)
        images, labels = batch(1, size=8)
        with autocast(CPU, "bfloat16" if way == "bfloat16" else "float32"):
            logits = network(images.contiguous(memory_format=layout))
        F.cross_entropy(logits.float(), labels).backward()
        networks.append(network)
    assert_same_state(*networks, rtol=0, atol=0)
    assert networks[1].bn1.num_batches_tracked == networks[1].layer1[0].bn1.num_batches_tracked == 1
    for a, b in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(a.grad, b.grad)


def test_checkpointing_keeps_fewer_activations():
    def kept(checkpointing):
        network = residual.create_model("resnet56", checkpoint_activations=checkpointing).train()
        sizes = []

        def pack(tensor):
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network(batch(0, size=2)[0])
        return sum(sizes)

    assert kept(True) < kept(False) / 4


@pytest.mark.parametrize("shortcut", ["A", "B", "C"])
@pytest.mark.parametrize("name", NAMES)
@torch.no_grad()
def test_folding_keeps_the_function_and_the_original(name, shortcut):
    torch.manual_seed(0)
    network = residual.create_model(name, shortcut=None if name.startswith("plain") else shortcut)
    for key, value in network.state_dict().items():
        if value.dim() == 1 and "fc" not in key:
            value.copy_(torch.rand(value.shape) + 0.5)
    network.train()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    folded = residual.optimize_for_inference(network)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert network.training
    assert all(torch.equal(before[key], value) for key, value in network.state_dict().items())
    images = batch(2)[0]
    torch.testing.assert_close(folded(images), network.eval()(images), rtol=1e-4, atol=1e-4)


class OtherNames(nn.Module):
    """A block with other names, and with a `conv1` and a `bn1` that are no pair."""

    conv_bn = (("reduce", "norm"),)

    def __init__(self):
        super().__init__()
        self.reduce, self.norm = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)
        self.conv1, self.act, self.bn1 = nn.Conv2d(4, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.bn1(self.act(self.conv1(self.norm(self.reduce(x)))))


@torch.no_grad()
def test_folding_goes_by_the_pairs_that_a_block_declares():
    torch.manual_seed(0)
    block = OtherNames()
    for bn in (block.norm, block.bn1):
        bn.running_mean.uniform_(-1, 1)
        bn.running_var.uniform_(0.5, 2)
    folded = residual.optimize_for_inference(block)
    assert isinstance(folded.norm, nn.Identity)
    assert isinstance(folded.bn1, nn.BatchNorm2d), "not behind a convolution, so not declared"
    x = torch.randn(2, 3, 5, 5)
    torch.testing.assert_close(folded(x), block.eval()(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_every_bn_layer_is_declared(name):
    network = residual.create_model(name)
    declared = {
        id(module.get_submodule(bn))
        for module in network.modules()
        for _, bn in getattr(module, "conv_bn", ())
    }
    assert declared == {id(module) for module in network.modules() if isinstance(module, nn.BatchNorm2d)}
