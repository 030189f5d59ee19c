"""Synchronised batch norm, which in one process is torch's own; over several: test_torch_processes.py."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.testing import assert_close

from gsto_torch.batch_norm import BiasedBatchNorm2d, SyncedBatchNorm2d, statistics_left_alone, synchronize
from gsto_torch.processes import Processes

SIZE = st.integers(1, 9)


def norm_of(channels: int, unbiased: bool, dtype: torch.dtype = torch.float64) -> nn.BatchNorm2d:
    kind: type[nn.BatchNorm2d] = nn.BatchNorm2d if unbiased else BiasedBatchNorm2d
    norm = kind(channels, eps=1e-3, momentum=0.3).to(dtype)
    for tensor in (norm.weight, norm.bias):
        nn.init.normal_(tensor)
    return norm


def synchronized(norm: nn.BatchNorm2d) -> nn.BatchNorm2d:
    model = nn.Sequential(copy.deepcopy(norm))
    synchronize(model, Processes())
    assert isinstance(model[0], SyncedBatchNorm2d)
    return model[0]


def results(norm: nn.BatchNorm2d, x: Tensor) -> dict[str, Tensor]:
    """Of one pass: the output, the gradients and the statistics."""
    x = x.clone().requires_grad_()
    y = norm(x)
    torch.manual_seed(1)
    norm.zero_grad()
    (y * torch.randn(y.shape).to(y)).sum().backward()
    assert x.grad is not None and norm.weight.grad is not None and norm.bias.grad is not None
    return {
        "output": y.detach(), "input": x.grad, "weight": norm.weight.grad, "bias": norm.bias.grad,
        **{name: buffer.clone() for name, buffer in norm.named_buffers() if "running" in name},
    }  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 4), SIZE, SIZE, st.integers(1, 4), st.booleans(), st.booleans(), st.integers(0, 999))
def test_in_one_process_it_is_torchs(
    images: int, height: int, width: int, channels: int, unbiased: bool, training: bool, seed: int
) -> None:
    torch.manual_seed(seed)
    plain = norm_of(channels, unbiased).train(training)
    synced = synchronized(plain).train(training)
    for _ in range(2):
        # Far from nought: a variance that is a difference of squares has four digits left.
        x = torch.randn((images, channels, height, width), dtype=torch.float64) + 1e6
        found, wanted = results(synced, x), results(plain, x)
        for name, tensor in wanted.items():
            assert_close(found[name], tensor, rtol=1e-7, atol=1e-7, msg=name)


@pytest.mark.parametrize("low", [torch.bfloat16, torch.float16])
def test_narrow_values_are_widened_and_kept_narrow(low: torch.dtype) -> None:
    plain = norm_of(3, unbiased=True, dtype=torch.float32)
    synced = synchronized(plain)
    x = (5 + torch.randn((2, 3, 5, 6))).to(low)
    found, exact = results(synced, x), results(plain, x.float())
    assert found["output"].dtype == found["input"].dtype == low
    unit = torch.finfo(low).eps / 2
    for name, tensor in exact.items():
        # The gradient that comes in is rounded too.
        assert_close(found[name].float(), tensor, rtol=20 * unit, atol=20 * unit)
    kept: list[Tensor] = []

    def keep(saved: Tensor) -> Tensor:
        kept.append(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda saved: saved):
        synced(x.requires_grad_())
    assert {tensor.dtype for tensor in kept if tensor.dim() == 4} == {low}


def test_it_stays_the_module_that_it_was() -> None:
    norm = norm_of(2, unbiased=True)
    seen: list[torch.Size] = []
    norm.register_forward_hook(lambda module, operands, result: seen.append(result.shape))
    before = {name: tensor for name, tensor in norm.state_dict(keep_vars=True).items()}
    model = nn.Sequential(norm)
    synchronize(model, Processes())
    assert model[0] is norm
    assert isinstance(norm, nn.BatchNorm2d)
    after = norm.state_dict(keep_vars=True)
    assert all(after[name] is tensor for name, tensor in before.items())
    model(torch.randn((2, 2, 3, 3), dtype=torch.float64))
    assert seen == [(2, 2, 3, 3)]
    twin = copy.deepcopy(model)
    assert isinstance(twin[0], SyncedBatchNorm2d)


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("synced", [True, False])
def test_statistics_are_left_alone_on_request(unbiased: bool, synced: bool) -> None:
    norm = norm_of(2, unbiased)
    norm = synchronized(norm) if synced else norm
    x = torch.randn((2, 2, 3, 3), dtype=torch.float64)
    wanted = copy.deepcopy(norm)(x)
    buffers = dict(norm.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    with pytest.raises(KeyError), statistics_left_alone([norm]):
        assert torch.equal(norm(x), wanted)
        raise KeyError
    for name, buffer in norm.named_buffers():
        assert buffer is buffers[name]
        assert torch.equal(buffer, before[name])
