"""Layers of ncnn for tests/test_ncnn.py: lines that read y (8 channels, 9x11) and make "out", and
their weights."""

from __future__ import annotations

import numpy as np
from attacks import ncnn as attack

RNG = np.random.default_rng(5)
PRE = (
    "BinaryOp centre 1 1 in c 0=1 1=1 2=127.5",
    "BinaryOp norm 1 1 c x 0=2 1=1 2=0.02",
    "Convolution pre 1 1 x y 0=8 1=1 5=1 6=24",
)
PRE_WEIGHTS = attack.tagged(RNG.standard_normal(24)) + attack.plain([RNG.standard_normal(8)])


def vectors(*sizes: int) -> bytes:
    return attack.plain([RNG.random(size) + 0.5 for size in sizes])


def conv(size: int, bias: int = 0, half: bool = False) -> bytes:
    weights = attack.tagged(RNG.standard_normal(size) * 0.3, half)
    return weights + (attack.plain([RNG.standard_normal(bias)]) if bias else b"")


Cases = dict[str, tuple[tuple[str, ...], bytes]]

USUAL: Cases = {
    "conv 3x3": (("Convolution l 1 1 y out 0=6 1=3 3=2 4=1 5=1 6=432",), conv(432, 6)),
    "conv fp16": (("Convolution l 1 1 y out 0=6 1=3 3=2 4=1 5=1 6=432",), conv(432, 6, True)),
    "conv fp16 of odd size": (
        (
            "Convolution l 1 1 y o 0=1 1=3 11=1 6=24",
            "ConvolutionDepthWise m 1 1 o out 0=1 1=1 6=1 7=1 5=1",
        ),
        conv(24, 0, True) + conv(1, 1, True),
    ),
    "conv asymmetric": (
        ("Convolution l 1 1 y out 0=4 1=3 11=5 2=2 12=1 3=1 13=2 4=0 14=1 15=3 16=2 6=480",),
        conv(480),
    ),
    "conv dilated": (("Convolution l 1 1 y out 0=4 1=3 2=2 6=288",), conv(288)),
    "conv same upper": (("Convolution l 1 1 y out 0=4 1=3 3=2 4=-233 6=288",), conv(288)),
    "conv same lower": (("Convolution l 1 1 y out 0=4 1=3 3=2 4=-234 6=288",), conv(288)),
    "conv relu": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=1",), conv(32)),
    "conv leaky": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=2 -23310=1,0.1",), conv(32)),
    "conv clip": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=3 -23310=2,-0.5,0.5",), conv(32)),
    "conv sigmoid": (("Convolution l 1 1 y out 0=4 1=1 6=32 9=4",), conv(32)),
    "conv hard-swish": (
        ("Convolution l 1 1 y out 0=4 1=1 6=32 9=6 -23310=2,0.1666667,0.5",),
        conv(32),
    ),
    "depthwise": (("ConvolutionDepthWise l 1 1 y out 0=8 1=3 4=1 6=72 7=8",), conv(72)),
    "grouped": (("ConvolutionDepthWise l 1 1 y out 0=4 1=3 6=144 7=2 5=1",), conv(144, 4)),
    "inner product": (("InnerProduct l 1 1 y out 0=5 1=1 2=3960",), conv(3960, 5)),
    "inner product relu": (("InnerProduct l 1 1 y out 0=5 2=3960 9=1",), conv(3960)),
    "batch norm": (("BatchNorm l 1 1 y out 0=8 1=0.001",), vectors(8, 8, 8, 8)),
    "scale": (("Scale l 1 1 y out 0=8 1=1",), vectors(8, 8)),
    "scale of two": (
        ("Split s 1 2 y a b", "Pooling g 1 1 b g 0=1 4=1", "Scale l 2 1 a g out 0=-233"),
        b"",
    ),
    "bias": (("Bias l 1 1 y out 0=8",), vectors(8)),
    "prelu": (("PReLU l 1 1 y out 0=8",), vectors(8)),
    "prelu of one slope": (("PReLU l 1 1 y out 0=1",), vectors(1)),
    "normalize": (("Normalize l 1 1 y out 0=0 1=0 2=1e-10 3=8 4=1 9=1",), vectors(8)),
    "relu": (("ReLU l 1 1 y out",), b""),
    "leaky relu": (("ReLU l 1 1 y out 0=0.2",), b""),
    "clip": (("Clip l 1 1 y out 0=-1.0 1=2.0",), b""),
    "sigmoid": (("Sigmoid l 1 1 y out",), b""),
    "swish": (("Swish l 1 1 y out",), b""),
    "tanh": (("TanH l 1 1 y out",), b""),
    "gelu": (("GELU l 1 1 y out 0=0",), b""),
    "gelu by tanh": (("GELU l 1 1 y out 0=1",), b""),
    "hard sigmoid": (("HardSigmoid l 1 1 y out 0=0.2 1=0.5",), b""),
    "hard swish": (("HardSwish l 1 1 y out 0=0.166667 1=0.5",), b""),
    "hard swish of another shift": (("HardSwish l 1 1 y out 0=0.16666667 1=0.4",), b""),
    "hard swish of Keras": (("HardSwish l 1 1 y out 0=0.2 1=0.5",), b""),
    "softmax over channels": (("Softmax l 1 1 y out 0=0 1=1",), b""),
    "softmax over columns": (("Softmax l 1 1 y out 0=-1 1=1",), b""),
    "dropout": (("Dropout l 1 1 y out",), b""),
    "dropout that scales": (("Dropout l 1 1 y out 0=0.5",), b""),
    "noop": (("Noop n 1 1 y z", "Sigmoid l 1 1 z out"), b""),
    "rsub": (("BinaryOp l 1 1 y out 0=7 1=1 2=3.0",), b""),
    "rdiv": (("BinaryOp l 1 1 y out 0=8 1=1 2=3.0",), b""),
    "max with a number": (("BinaryOp l 1 1 y out 0=4 1=1 2=0.5",), b""),
    "max pool full": (("Pooling l 1 1 y out 0=0 1=2 2=2",), b""),
    "max pool 3x3 full": (("Pooling l 1 1 y out 0=0 1=3 2=2 3=1",), b""),
    "max pool valid": (("Pooling l 1 1 y out 0=0 1=3 2=2 5=1",), b""),
    "mean pool same": (("Pooling l 1 1 y out 0=1 1=3 2=2 5=2",), b""),
    "mean pool same lower": (("Pooling l 1 1 y out 0=1 1=3 2=2 5=3",), b""),
    "max pool same": (("Pooling l 1 1 y out 0=0 1=3 2=2 5=2",), b""),
    "mean pool full": (("Pooling l 1 1 y out 0=1 1=3 2=2 3=1",), b""),
    "mean pool counting pads": (("Pooling l 1 1 y out 0=1 1=3 2=2 3=1 5=1 6=1",), b""),
    "mean pool 2x3": (("Pooling l 1 1 y out 0=1 1=3 11=2 2=1 12=2",), b""),
    "global mean": (("Pooling l 1 1 y out 0=1 4=1",), b""),
    "global max": (("Pooling l 1 1 y out 0=0 4=1",), b""),
    "adaptive mean": (("Pooling l 1 1 y out 0=1 7=1 8=1",), b""),
    "gate": (
        (
            "Split s 1 2 y a b",
            "Pooling g 1 1 b g 0=1 4=1",
            "Convolution p 1 1 g h 0=8 1=1 6=64 9=4 5=1",
            "BinaryOp l 2 1 a h out 0=2",
        ),
        conv(64, 8),
    ),
    "eltwise": (
        ("Split s 1 3 y a b d", "Sigmoid t 1 1 b e", "Eltwise l 3 1 a e d out 0=1"),
        b"",
    ),
    "eltwise product": (("Split s 1 2 y a b", "Eltwise l 2 1 a b out 0=0"), b""),
    "eltwise maximum": (
        ("Split s 1 2 y a b", "Sigmoid t 1 1 b e", "Eltwise l 2 1 a e out 0=2"),
        b"",
    ),
    "max feature map": (
        ("Slice s 1 2 y a b -23300=2,-233,-233 1=0", "Eltwise l 2 1 a b out 0=2"),
        b"",
    ),
    "uneven slices": (
        ("Slice s 1 2 y a b -23300=2,3,-233", "Concat l 2 1 b a out 0=0"),
        b"",
    ),
    "nearest": (("Interp l 1 1 y out 0=1 1=2.0 2=2.0",), b""),
    "nearest to size": (("Interp l 1 1 y out 0=1 3=5 4=7",), b""),
    "bilinear": (("Interp l 1 1 y out 0=2 1=2.0 2=2.0",), b""),
    "bilinear to size": (("Interp l 1 1 y out 0=2 3=5 4=20",), b""),
    "corners on corners": (("Interp l 1 1 y out 0=2 3=5 4=20 6=1",), b""),
    "weighted sum": (
        (
            "Split s 1 2 y a b",
            "Sigmoid t 1 1 b e",
            "Eltwise l 2 1 a e out 0=1 -23301=2,0.1,1.0",
        ),
        b"",
    ),
    "exp": (("Sigmoid s 1 1 y z", "UnaryOp l 1 1 z out 0=7"), b""),
    "minus": (("UnaryOp l 1 1 y out 0=1",), b""),
    "constant": (
        ("MemoryData m 0 1 k 0=1 1=1 2=8", "BinaryOp l 2 1 y k out 0=0"),
        np.arange(8, dtype=np.float32).tobytes(),
    ),
    "transposed": (
        ("Deconvolution l 1 1 y out 0=4 1=4 11=3 3=2 4=1 5=1 6=384 9=1",),
        conv(384, 4),
    ),
    "transposed with more": (
        ("Deconvolution l 1 1 y out 0=4 1=3 3=3 2=2 4=1 18=2 19=1 6=288",),
        conv(288, 0),
    ),
    "transposed by channels": (
        ("DeconvolutionDepthWise l 1 1 y out 0=8 1=4 3=2 4=1 5=1 6=128 7=8",),
        conv(128, 8),
    ),
    "transposed by groups": (
        ("DeconvolutionDepthWise l 1 1 y out 0=4 1=2 3=2 6=64 7=2",),
        conv(64, 0),
    ),
    "pixel shuffle": (("PixelShuffle l 1 1 y out 0=2",), b""),
    "pixel shuffle back": (("PixelShuffle l 1 1 y out 0=2 1=1",), b""),
    "padding": (("Padding l 1 1 y out 0=1 1=2 2=3 3=0 4=0 5=0.5",), b""),
    "shuffle": (("ShuffleChannel l 1 1 y out 0=2",), b""),
    "shuffle back": (("ShuffleChannel l 1 1 y out 0=2 1=1",), b""),
    "flatten": (("Flatten l 1 1 y out",), b""),
    "reshape to a vector": (("Reshape l 1 1 y out 0=-1",), b""),
    "reshape to a matrix": (("Reshape l 1 1 y out 0=11 1=-1",), b""),
    "reshape to a map": (("Reshape l 1 1 y out 0=0 1=-1 2=4",), b""),
    "detector head": (("Permute p 1 1 y z 0=3", "Reshape l 1 1 z out 0=4 1=-1"), b""),
    "mean over the map": (("Reduction l 1 1 y out 0=3 1=0 -23303=2,1,2 4=1 5=1",), b""),
}
