import pytest
import torch
from torch import tensor

from attngraft import kernels


@pytest.fixture
def x():
    return tensor([[[[1.0, 2.0], [3.0, 6.0]], [[-1.0, 0.0], [1.0, 0.0]]]])  # (1, 2, 2, 2)


def test_channel_pool_by_hand(x):
    mean, peak = kernels.channel_pool(x)
    assert mean.tolist() == [[3.0, 0.0]]
    assert peak.tolist() == [[6.0, 1.0]]
    assert torch.equal(kernels.channel_mean(x), mean)
    assert torch.equal(kernels.channel_max(x), peak)


def test_channel_pool_sees_x_times_the_spatial_gate(x):
    mean, peak = kernels.channel_pool(x, tensor([[[1.0, 0.0], [0.0, 0.5]]]))
    assert mean.tolist() == [[1.0, -0.25]]
    assert peak.tolist() == [[3.0, 0.0]]


def test_channel_moments_by_hand(x):
    mean, variance = kernels.channel_moments(x)
    assert mean.tolist() == [[3.0, 0.0]]
    torch.testing.assert_close(variance, x.flatten(2).var(2))


def test_one_position_has_variance_zero_and_finite_gradients():
    x = torch.randn(2, 3, 1, 1, requires_grad=True)
    _, variance = kernels.channel_moments(x)
    variance.sum().backward()
    assert not variance.any()
    assert not x.grad.any()


def test_channel_norm_by_hand(x):
    torch.testing.assert_close(kernels.channel_norm(x, 0.0), tensor([[50.0, 2.0]]).sqrt())


def test_squares_of_fp16_do_not_overflow():
    x = torch.full((1, 1, 4, 4), 6e4, dtype=torch.float16)
    x[..., 0] = -6e4
    assert kernels.channel_norm(x, 1e-5).isfinite().all()
    assert kernels.channel_moments(x)[1].isfinite().all()


def test_spatial_pool_by_hand(x):
    mean, peak = kernels.spatial_pool(x)
    assert mean.tolist() == [[[0.0, 1.0], [2.0, 3.0]]]
    assert peak.tolist() == [[[1.0, 2.0], [3.0, 6.0]]]


def test_spatial_pool_sees_x_times_the_channel_gate(x):
    mean, peak = kernels.spatial_pool(x, tensor([[0.0, 2.0]]))
    assert mean.tolist() == [[[-1.0, 0.0], [1.0, 0.0]]]
    assert peak.tolist() == [[[0.0, 0.0], [2.0, 0.0]]]


def test_strips_by_hand(x):
    rows, columns = kernels.strip_pool(x)
    assert rows.tolist() == [[[1.5, 4.5], [-0.5, 0.5]]]
    assert columns.tolist() == [[[2.0, 4.0], [0.0, 0.0]]]
    rows, columns = kernels.strip_max(x)
    assert rows.tolist() == [[[2.0, 6.0], [0.0, 1.0]]]
    assert columns.tolist() == [[[3.0, 6.0], [1.0, 0.0]]]


def test_apply_gates_multiplies_every_gate_by_hand(x):
    y = kernels.apply_gates(
        x,
        channel=tensor([[1.0, 2.0]]),
        spatial=tensor([[[1.0, 0.0], [1.0, 1.0]]]),
        rows=tensor([[[1.0, 3.0]]]),
        columns=tensor([[[1.0, 1.0], [5.0, 1.0]]]),
    )
    assert y.tolist() == [[[[1.0, 0.0], [9.0, 18.0]], [[-10.0, 0.0], [30.0, 0.0]]]]


def test_apply_gates_without_gates_is_x(x):
    assert kernels.apply_gates(x) is x


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_apply_gates_keeps_dtype_and_layout(dtype, memory_format):
    x = torch.randn(2, 3, 4, 5).to(dtype).contiguous(memory_format=memory_format)
    y = kernels.apply_gates(x, channel=torch.rand(2, 3), spatial=torch.rand(2, 4, 5), rows=torch.rand(2, 3, 4))
    assert y.dtype == dtype
    assert y.stride() == x.stride()


@pytest.mark.parametrize(
    "primitive",
    [
        kernels.channel_pool,
        kernels.channel_moments,
        lambda x: kernels.channel_norm(x, 1e-5),
        kernels.spatial_pool,
        kernels.strip_pool,
        kernels.strip_max,
    ],
)
def test_gradients_match_finite_differences(primitive):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(primitive, (x,))


@pytest.mark.parametrize("shape", [(2, 3, 7), (2, 3, 2, 3, 4)])
def test_channel_primitives_take_any_rank(shape):
    x = torch.randn(shape)
    flat = x.flatten(2).unsqueeze(3)
    for primitive in (kernels.channel_pool, kernels.channel_moments):
        torch.testing.assert_close(primitive(x), primitive(flat))
    torch.testing.assert_close(kernels.channel_norm(x, 0.0), kernels.channel_norm(flat, 0.0))
    gate = torch.rand(2, 3)
    torch.testing.assert_close(
        kernels.apply_gates(x, channel=gate).flatten(), kernels.apply_gates(flat, channel=gate).flatten()
    )
