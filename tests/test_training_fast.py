"""What makes training fast on a CPU computes what PyTorch computes."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")

from training.fused import FusedTail, StridedDepthwise, norm_prelu, use_fused  # noqa: E402
from training.gemm import GemmConv2d, use_gemm  # noqa: E402
from training.networks import NETWORKS, ConvUnit  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(("inp", "side", "stride"), [(256, 4, 1), (192, 4, 1), (256, 7, 2)])
def test_matrix_product_convolutions_give_the_same_gradients(inp, side, stride):
    torch.manual_seed(0)
    plain = torch.nn.Sequential(torch.nn.Conv2d(inp, 20, 3, stride, 1, bias=False)).double()
    other = copy.deepcopy(plain)
    use_gemm(other)
    assert type(other[0]) is GemmConv2d
    x = torch.randn(3, inp, side, side, dtype=torch.float64)
    x = x.contiguous(memory_format=torch.channels_last)
    results = []
    for model in (plain, other):
        own = x.clone().requires_grad_()
        y = model(own)
        (y * torch.arange(y.numel()).view_as(y)).sum().backward()
        results.append((y, own.grad, model[0].weight.grad))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().max() <= 1e-12 * a.abs().max()


@pytest.mark.parametrize("side", [7, 8])
def test_strided_depthwise_equals_pytorch(side):
    plain = torch.nn.Conv2d(6, 6, 3, 2, 1, groups=6, bias=False)
    fast = copy.deepcopy(plain)
    fast.__class__ = StridedDepthwise
    x = torch.randn(2, 6, side, side, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    found, wanted = fast(y), plain(x)
    grad = torch.randn_like(wanted)
    wanted.backward(grad)
    found.backward(grad)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)
    torch.testing.assert_close(y.grad, x.grad)
    torch.testing.assert_close(fast.weight.grad, plain.weight.grad)


def test_norm_prelu_equals_pytorch():
    """The uncompiled function; the compiler has tests of its own."""
    norm, act = torch.nn.BatchNorm2d(5), torch.nn.PReLU(5)
    torch.nn.init.uniform_(norm.weight, 0.5, 2)
    torch.nn.init.uniform_(act.weight, -0.5, 0.5)
    x = torch.randn(4, 5, 6, 6, requires_grad=True)
    y = x.detach().clone().requires_grad_()
    wanted = act(norm(x))
    found, mean, variance = norm_prelu(y, norm.weight, norm.bias, act.weight, norm.eps)
    torch.testing.assert_close(found, wanted)
    torch.testing.assert_close(mean * 0.1, norm.running_mean)
    torch.testing.assert_close(variance * (144 / 143) * 0.1 + 0.9, norm.running_var)
    grad = torch.randn_like(wanted)
    wanted.backward(grad)
    found.backward(grad)
    torch.testing.assert_close(y.grad, x.grad, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(NETWORKS))
def test_fused_networks_answer_as_plain_ones(name):
    """In evaluation nothing is fused: the same answers, under the same names."""
    torch.manual_seed(0)
    plain = NETWORKS[name]().eval()
    fused = copy.deepcopy(plain)
    use_fused(fused, ConvUnit)
    assert any(isinstance(m, FusedTail) for m in fused.modules())
    assert list(fused.state_dict()) == list(plain.state_dict())
    x = torch.randn(1, 3, 112, 112)
    with torch.inference_mode():
        torch.testing.assert_close(fused(x), plain(x), rtol=1e-5, atol=1e-5)
