"""Large outputs out of memory that is used again."""

from __future__ import annotations

import gc

import pytest
import torch

from attngraft import kernels
from attngraft.kernels import buffer_pool
from attngraft.kernels.buffer_pool import SMALLEST, Blocks, empty_like


@pytest.fixture
def blocks(monkeypatch):
    fresh = Blocks()
    monkeypatch.setattr(buffer_pool, "BLOCKS", fresh)
    return fresh


def large(dtype=torch.float32):
    return torch.empty(3, SMALLEST, dtype=dtype)


def test_memory_of_a_tensor_that_is_gone_is_lent_again(blocks):
    first = empty_like(large())
    address = first.data_ptr()
    second = empty_like(large())
    assert second.data_ptr() != address
    del first
    assert empty_like(large()).data_ptr() == address
    assert address % buffer_pool.ALIGNMENT == 0


@pytest.mark.parametrize("keep", ["view", "numpy", "graph"])
def test_memory_is_not_lent_while_anything_sees_it(blocks, keep):
    tensor = empty_like(large()).fill_(1.0)
    address = tensor.data_ptr()
    if keep == "graph":
        tensor.requires_grad_()
        kept = (tensor * tensor).sum()
    else:
        kept = tensor[1:2] if keep == "view" else tensor.numpy()
    del tensor
    gc.collect()
    assert empty_like(large()).data_ptr() != address
    del kept
    gc.collect()
    assert empty_like(large()).data_ptr() == address


def test_small_tensors_are_left_to_pytorch(blocks):
    empty_like(torch.empty(8))
    assert not blocks.by_size


def test_another_dtype_of_the_same_size_uses_the_same_memory(blocks):
    address = empty_like(large(torch.float32)).data_ptr()
    again = empty_like(torch.empty(6, SMALLEST, dtype=torch.bfloat16))
    assert again.data_ptr() == address
    assert again.dtype is torch.bfloat16
    assert again.shape == (6, SMALLEST)


def test_idle_memory_is_bounded_and_can_be_given_back(blocks, monkeypatch):
    monkeypatch.setattr(buffer_pool, "MOST_IDLE", 3 * SMALLEST)
    for count in range(1, 6):
        empty_like(torch.empty(count, SMALLEST, dtype=torch.uint8))
    assert blocks.idle_bytes() <= 3 * SMALLEST + 5 * SMALLEST  # the last one came after the others were counted
    held = empty_like(torch.empty(2, SMALLEST, dtype=torch.uint8))
    kernels.empty_cache()
    assert blocks.idle_bytes() == 0
    assert [len(found) for size, found in blocks.by_size.items() if size == held.nbytes] == [1]


def test_outputs_live_on_after_the_cache_was_emptied():
    x = torch.randn(8, 64, 64, 64)
    gate = torch.rand(8, 64)
    y = kernels.apply_gates(x, channel=gate)
    kernels.empty_cache()
    torch.testing.assert_close(y, x * gate[:, :, None, None])
