"""Muon: orthogonalization, its step size on convolutions, what it leaves to SGD."""

import math

import pytest
import torch
from torch import nn

from residual import create_model
from residual.recipes.schema import Optimizer
from residual.training import muon
from residual.training.guard import Guard
from residual.training.muon import Muon, orthogonalize
from residual.training.optim import make_optimizer


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network_with_gradients(seed=0):
    torch.manual_seed(1)
    network = create_model("resnet14", shortcut="B")
    give_gradients(network, seed)
    return network


def give_gradients(network, seed):
    for number, parameter in enumerate(network.parameters()):
        parameter.grad = torch.randn(parameter.shape, generator=seeded(1000 * seed + number))


def convolutions(network):
    return [module.weight for module in network.modules() if isinstance(module, nn.Conv2d)]


@pytest.mark.parametrize("shape", [(3, 16, 144), (2, 64, 16), (1, 8, 8), (4, 16, 27)])
def test_singular_values_come_near_1_and_the_vectors_stay(shape):
    matrices = torch.randn(shape, generator=seeded())
    left, _, right = torch.linalg.svd(matrices, full_matrices=False)
    found = left.mT @ orthogonalize(matrices) @ right.mT
    values = found.diagonal(dim1=1, dim2=2)
    assert values.min() > 0.3, "a square matrix has singular values near 0, which grow but do not reach 1"
    assert values.max() < 1.3
    torch.testing.assert_close(found, torch.diag_embed(values), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shape", [(2, 12, 100), (1, 12, 12), (1, 100, 12)])
def test_large_matrices_are_orthogonalized_alike_in_fewer_products(shape, monkeypatch):
    matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    matrices[0, 0] *= 1e-4  # ill-conditioned
    expected = orthogonalize(matrices)
    monkeypatch.setattr(muon, "LARGE", 1)
    torch.testing.assert_close(orthogonalize(matrices), expected, rtol=0, atol=1e-5)


def test_every_convolution_turns_by_the_angle_and_keeps_its_length():
    network = network_with_gradients()
    before = [weight.detach().clone() for weight in convolutions(network)]
    make_optimizer(network, Optimizer(learning_rate=0.2, muon=0.05)).step()
    for old, new in zip(before, convolutions(network), strict=True):
        assert float(new.detach().norm()) == pytest.approx(float(old.norm()), rel=1e-5)
        # the update need not be orthogonal to the weights, so the angle is a little more or less
        cosine = float((old * new.detach()).sum() / old.norm() / new.detach().norm())
        assert math.acos(cosine) == pytest.approx(0.05, rel=0.1)


@pytest.mark.parametrize("nesterov", [True, False])
def test_the_direction_is_that_of_torchs_own_muon(nesterov):
    weight = nn.Parameter(torch.randn((16, 8, 3, 3), generator=seeded(1)))
    matrix = nn.Parameter(torch.zeros(16, 72))
    ours = Muon([{"params": [weight]}], angle=0.5, lr=0.1, momentum=0.9, nesterov=nesterov, fused=True)
    theirs = torch.optim.Muon([matrix], lr=1.0, momentum=0.9, nesterov=nesterov, weight_decay=0.0)
    for step in range(3):
        gradient = torch.randn(weight.shape, generator=seeded(10 + step))
        weight.grad, matrix.grad = gradient.clone(), gradient.flatten(1).clone()
        old, origin = weight.detach().flatten(1).clone(), matrix.detach().clone()
        ours.step()
        theirs.step()
        direction = (matrix.detach() - origin) / (matrix.detach() - origin).norm()
        turned = old + 0.5 * old.norm() * direction
        new = weight.detach().flatten(1)
        assert float((turned * new).sum() / turned.norm() / new.norm()) > 0.9995  # theirs is in bfloat16


def test_half_the_rate_is_half_the_angle():
    turns = []
    for rate in (0.2, 0.1):
        network = network_with_gradients()
        optimizer = make_optimizer(network, Optimizer(learning_rate=0.2, muon=0.02))
        for group in optimizer.param_groups:
            group["lr"] = rate
        before = network.conv1.weight.detach().clone()
        optimizer.step()
        turns.append(float((network.conv1.weight.detach() - before).norm()))
    assert turns[1] == pytest.approx(turns[0] / 2, rel=0.01)


@pytest.mark.parametrize("decay_all", [True, False])
def test_all_but_convolutions_is_left_to_sgd(decay_all):
    settings = {"learning_rate": 0.1, "nesterov": True, "decay_all": decay_all, "weight_decay": 0.01}
    networks = [network_with_gradients(), network_with_gradients()]
    kinds = [make_optimizer(networks[0], Optimizer(**settings))]
    kinds.append(make_optimizer(networks[1], Optimizer(**settings, muon=0.05)))
    for seed in (7, 8, 9):
        for network, optimizer in zip(networks, kinds, strict=True):
            give_gradients(network, seed)
            optimizer.step()
    for (name, one), other in zip(networks[0].named_parameters(), networks[1].parameters(), strict=True):
        assert torch.equal(one, other) == (one.dim() != 4), name


def test_shapes_that_are_computed_at_once_come_out_as_one_by_one():
    together = network_with_gradients()
    apart = network_with_gradients()
    make_optimizer(together, Optimizer(muon=0.05, nesterov=True)).step()
    for weight in convolutions(apart):
        Muon([{"params": [weight]}], angle=0.05, lr=0.1, momentum=0.9, nesterov=True, fused=True).step()
    for one, other in zip(convolutions(together), convolutions(apart), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_a_bad_loss_leaves_convolutions_alone():
    network = network_with_gradients()
    optimizer = make_optimizer(network, Optimizer(muon=0.05))
    guard = Guard(optimizer, torch.device("cpu"))
    guard.deferred = True  # as on CUDA, where the host does not wait for the loss
    guard.watch(torch.tensor(torch.nan), 3)
    before = [weight.detach().clone() for weight in convolutions(network)]
    for weight in convolutions(network):
        weight.grad.fill_(torch.nan)
    optimizer.step()
    for old, new in zip(before, convolutions(network), strict=True):
        assert torch.equal(old, new)


def test_its_state_goes_on_exactly(tmp_path):
    settings = Optimizer(muon=0.05, nesterov=True)
    whole = network_with_gradients()
    optimizer = make_optimizer(whole, settings)
    optimizer.step()
    torch.save((whole.state_dict(), optimizer.state_dict()), tmp_path / "state.pt")
    part = create_model("resnet14", shortcut="B")
    second = make_optimizer(part, settings)
    weights, state = torch.load(tmp_path / "state.pt")
    part.load_state_dict(weights)
    second.load_state_dict(state)
    for network, one in ((whole, optimizer), (part, second)):
        give_gradients(network, 99)
        one.step()
    for one, other in zip(whole.parameters(), part.parameters(), strict=True):
        assert torch.equal(one, other)


def test_no_gradient_turns_nothing():
    network = network_with_gradients()
    before = [weight.detach().clone() for weight in convolutions(network)]
    optimizer = make_optimizer(network, Optimizer(muon=0.05))
    for parameter in network.parameters():
        parameter.grad.zero_()
    optimizer.step()
    for old, new in zip(before, convolutions(network), strict=True):
        torch.testing.assert_close(old, new.detach(), rtol=1e-6, atol=0)


def test_the_memory_layout_makes_no_difference():
    networks = [network_with_gradients(), network_with_gradients().to(memory_format=torch.channels_last)]
    optimizers = [make_optimizer(network, Optimizer(muon=0.05, nesterov=True)) for network in networks]
    for seed in (3, 4):
        for network, optimizer in zip(networks, optimizers, strict=True):
            give_gradients(network, seed)
            optimizer.step()
    for one, other in zip(*map(convolutions, networks), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
