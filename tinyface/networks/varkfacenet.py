"""VarKFaceNet: variable depthwise kernels, re-parameterised. A reconstruction.

Of the network only the abstract is known: depthwise kernels that grow with the channels,
several branches in training that are folded into one path, a channel shuffle in the fused
branch, 0.7 M parameters, 0.24 GFLOPs. The widths, depths and kernels here are chosen to meet
those figures (0.7057 M parameters; 119.5 M MACs = 0.239 GFLOPs, one MAC being two FLOPs).
"""

from __future__ import annotations

from tinyface.builder import Builder, Size
from tinyface.graph import Graph
from tinyface.networks import blocks
from tinyface.networks.blocks import Act, Keys, conv_bn, depthwise_bn, named, prelu
from tinyface.ops import Add, ChannelShuffle

STAGES = ((80, 5, 3), (128, 5, 5), (192, 2, 7))  # channels, units, depthwise kernel


def varkfacenet(
    *,
    deploy: bool = False,
    stem: int = 48,
    stages: tuple[tuple[int, int, int], ...] = STAGES,
    last: int = 512,
    embedding: int = 128,
    size: Size = 112,
    name: str = "varkfacenet-train",
) -> Graph:
    """VarKFaceNet: (1, 3, size, size) -> ``embedding`` (1, embedding).

    Args:
        deploy: what is left after folding and merging (:mod:`tinyface.passes`): every
            convolution with its batch norm is a convolution with bias, and every set of
            branches is one of them. 0.7057 M parameters; the training form has 0.7476 M.
        stages: (channels, units, depthwise kernel) of the stages at 28, 14, 7 pixels a side.
    """
    b = Builder(name)
    net = _Layers(b, deploy)
    x = net.conv(blocks.image(b, size), stem, 3, "stem", stride=2, act=prelu)
    index = 0
    for out, n, kernel in stages:
        for i in range(n + 1):
            key = f"blocks.{index}"
            x = net.unit(x, kernel, key) if i else net.down(x, out, kernel, key)
            index += 1
    x = net.conv(x, last, 1, "conv_last", act=prelu)
    side = b.shape(x)[2:]
    x = net.conv(x, last, (side[0], side[1]), "gdc", pad=0, groups=last)
    x = blocks.flatten(b, x, "flat")
    x = b.linear(x, embedding, key="fc", bias=False)
    return b.build(embedding=b.batch_norm(x, key="bn"))


class _Layers:
    """The blocks on one builder, in the training or in the deployed form."""

    def __init__(self, b: Builder, deploy: bool) -> None:
        self.b, self.deploy = b, deploy

    def conv(
        self, x: str, out: int, kernel: Size, key: str, *,
        stride: int = 1, pad: int | None = None, groups: int = 1, act: Act | None = None,
    ) -> str:  # fmt: skip
        """Convolution and batch norm, or a convolution with bias; activation."""
        keys = named(key, "act")
        if not self.deploy:
            return conv_bn(
                self.b, x, out, kernel, keys, stride=stride, pad=pad, groups=groups, act=act
            )
        x = self.b.conv(
            x, out, kernel, key=keys.conv, stride=stride, groups=groups, bias=True,
            pad=blocks.half(kernel) if pad is None else pad,
        )  # fmt: skip
        return act(self.b, x, keys.act) if act else x

    def branches(self, x: str, kernel: int, stride: int, key: str) -> str:
        """A large and a small depthwise convolution and, at stride 1, the map itself, added.

        Each has its own batch norm. Deployed: one convolution with bias.
        """
        b = self.b
        if self.deploy:
            return self.conv(x, b.channels(x), kernel, key, stride=stride, groups=b.channels(x))
        small = 3 if kernel > 3 else 1
        y = depthwise_bn(b, x, kernel, Keys(f"{key}.large", f"{key}.large_bn"), stride=stride)
        z = depthwise_bn(b, x, small, Keys(f"{key}.small", f"{key}.small_bn"), stride=stride)
        y = b.apply(Add(), y, z, name=f"{key}.sum")
        if stride == 1:
            y = b.apply(Add(), y, b.batch_norm(x, key=f"{key}.id_bn"), name=f"{key}.sum_id")
        return y

    def down(self, x: str, out: int, kernel: int, key: str) -> str:
        """Halve the sides: branches at stride 2, then pointwise to the stage's channels."""
        x = prelu(self.b, self.branches(x, kernel, 2, f"{key}.dw"), f"{key}.act")
        return self.conv(x, out, 1, f"{key}.pw", act=prelu)

    def unit(self, x: str, kernel: int, key: str) -> str:
        """Expand in two groups, branches, shuffle, project in two groups; add the input."""
        b, c = self.b, self.b.channels(x)
        y = self.conv(x, 2 * c, 1, f"{key}.pw1", groups=2, act=prelu)
        y = prelu(b, self.branches(y, kernel, 1, f"{key}.dw"), f"{key}.act")
        y = b.apply(ChannelShuffle(groups=2), y, name=f"{key}.shuffle")
        y = self.conv(y, c, 1, f"{key}.pw2", groups=2)
        return b.apply(Add(), y, x, name=key)
