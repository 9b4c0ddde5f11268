"""More layers of ncnn, as tests/ncnn_cases.py has them: formulas, norms, products, moves."""

from __future__ import annotations

import numpy as np
from attacks import ncnn as attack
from ncnn_cases import RNG, Cases, conv, vectors

MORE: Cases = (
    {
        "minimum with a number": (("BinaryOp l 1 1 y out 0=5 1=1 2=0.5",), b""),
        "square": (("UnaryOp a 1 1 y z 0=0", "BinaryOp l 1 1 z out 0=6 1=1 2=2.0"), b""),
        "power of two": (("BinaryOp l 1 1 y out 0=9 1=1 2=2.0",), b""),
        "broken power": (("UnaryOp a 1 1 y z 0=0", "BinaryOp l 1 1 z out 0=6 1=1 2=1.7"), b""),
        "minimum": (("Split s 1 2 y a b", "Sigmoid t 1 1 b e", "BinaryOp l 2 1 a e out 0=5"), b""),
        "row of the last axis": (
            ("MemoryData m 0 1 k 0=11", "BinaryOp l 2 1 y k out 0=2"),
            np.arange(11, dtype=np.float32).tobytes(),
        ),
        "row of the first axis": (
            ("MemoryData m 0 1 k 0=8", "BinaryOp l 2 1 y k out 0=2"),
            np.arange(8, dtype=np.float32).tobytes(),
        ),
        "matrix and map": (
            ("MemoryData m 0 1 k 0=9 1=8", "BinaryOp l 2 1 y k out 0=1"),
            np.arange(72, dtype=np.float32).tobytes(),
        ),
        "row and matrix": (
            (
                "Reshape r 1 1 y z 0=11 1=72",
                "MemoryData m 0 1 k 0=11",
                "BinaryOp l 2 1 z k out 0=0",
            ),
            np.arange(11, dtype=np.float32).tobytes(),
        ),
        "absolute": (("AbsVal l 1 1 y out",), b""),
        "exp of a line": (("Exp l 1 1 y out 0=-1 1=0.3 2=0.5",), b""),
        "exp to a base": (("Exp l 1 1 y out 0=3 1=0.3 2=0.5",), b""),
        "log of a line": (("Sigmoid s 1 1 y z", "Log l 1 1 z out 0=-1 1=2.0 2=0.5"), b""),
        "log to a base": (("Sigmoid s 1 1 y z", "Log l 1 1 z out 0=10 1=2.0 2=0.5"), b""),
        "power of a line": (("Power l 1 1 y out 0=2 1=0.5 2=1.0",), b""),
        "a line": (("Power l 1 1 y out 0=1 1=0.5 2=1.0",), b""),
        "elu": (("ELU l 1 1 y out 0=0.7",), b""),
        "selu": (("SELU l 1 1 y out",), b""),
        "celu": (("CELU l 1 1 y out 0=1.5",), b""),
        "mish": (("Mish l 1 1 y out",), b""),
        "softplus": (("Softplus l 1 1 y out",), b""),
        "bnll": (("BNLL l 1 1 y out",), b""),
        "erf": (("Erf l 1 1 y out",), b""),
        "glu": (("GLU l 1 1 y out 0=0",), b""),
        "group norm": (("GroupNorm l 1 1 y out 0=2 1=8 2=0.001 3=1",), vectors(8, 8)),
        "group norm alone": (("GroupNorm l 1 1 y out 0=4 1=8 2=0.001 3=0",), b""),
        "instance norm": (("InstanceNorm l 1 1 y out 0=8 1=0.001",), vectors(8, 8)),
        "instance norm alone": (("InstanceNorm l 1 1 y out 0=8 1=0.001 2=0",), b""),
        "layer norm": (("LayerNorm l 1 1 y out 0=11 1=0.001 2=1",), vectors(11, 11)),
        "layer norm alone": (("LayerNorm l 1 1 y out 0=11 1=0.001 2=0",), b""),
        "layer norm of maps": (("LayerNorm l 1 1 y out 0=99 1=0.001 2=1",), vectors(99, 99)),
        "rms norm": (("RMSNorm l 1 1 y out 0=11 1=0.001 2=1",), vectors(11)),
        "less its mean": (("MVN l 1 1 y out 0=0 1=0",), b""),
        "mean and deviation": (("MVN l 1 1 y out 0=1 1=1 2=0.01",), b""),
        "lrn": (("LRN l 1 1 y out 0=0 1=5 2=0.3 3=0.75 4=2.0",), b""),
        "matrix product": (
            (
                "Split s 1 2 y a b",
                "Reshape r 1 1 b k 0=9 1=11 2=8",
                "MatMul l 2 1 a k out",
            ),
            b"",
        ),
        "product with the other turned": (
            ("Split s 1 2 y a b", "Sigmoid t 1 1 b e", "MatMul l 2 1 a e out 0=1"),
            b"",
        ),
        "stack times a matrix": (
            ("MemoryData m 0 1 k 0=5 1=11", "MatMul l 2 1 y k out"),
            np.arange(55, dtype=np.float32).tobytes(),
        ),
        "matrix times a column": (
            ("MemoryData m 0 1 k 0=11", "MatMul l 2 1 y k out"),
            np.arange(11, dtype=np.float32).tobytes(),
        ),
        "linear of a matrix": (
            (
                "Reshape r 1 1 y z 0=11 1=72",
                "Gemm l 1 1 z out 10=4 2=0 3=1 4=0 5=1 6=1 7=72 8=5 9=11",
            ),
            conv(55) + attack.tagged(RNG.standard_normal(5)),
        ),
        "linear of a turned matrix": (
            (
                "Reshape r 1 1 y z 0=72 1=11",
                "Gemm l 1 1 z out 0=0.5 1=2.0 10=-1 2=1 3=0 4=0 5=1 6=1 7=72 8=5 9=11 14=1",
            ),
            conv(55),
        ),
        "inner product of a matrix": (
            ("Reshape r 1 1 y z 0=11 1=72", "InnerProduct l 1 1 z out 0=5 1=1 2=55"),
            conv(55, 5),
        ),
        "attention": (
            (
                "Split s 1 3 y a b d",
                "Sigmoid t 1 1 b e",
                "SDPA l 3 1 a e d out 5=0",
            ),
            b"",
        ),
        "attention with a mask": (
            (
                "Split s 1 3 y a b d",
                "Sigmoid t 1 1 b e",
                "MemoryData m 0 1 k 0=9 1=9",
                "SDPA l 4 1 a e d k out 5=1 6=0.2",
            ),
            np.linspace(-2, 2, 81, dtype=np.float32).tobytes(),
        ),
        "attention of several heads": (
            (
                "Reshape r 1 1 y z 0=12 1=66",
                "MultiHeadAttention l 1 1 z out 0=12 1=3 2=144",
            ),
            b"".join(conv(144, 12) for _ in range(4)),
        ),
        "padding with the edge": (("Padding l 1 1 y out 0=1 1=2 2=3 3=1 4=1",), b""),
        "padding with the mirror image": (("Padding l 1 1 y out 0=1 1=2 2=3 3=1 4=2",), b""),
        "crop": (("Crop l 1 1 y out -23309=2,1,2 -23310=2,-1,7 -23311=2,1,2",), b""),
        "crop to the end": (("Crop l 1 1 y out -23309=1,3 -23310=1,-233 -23311=1,0",), b""),
        "crop by offsets": (("Crop l 1 1 y out 0=2 1=1 2=3 3=5 4=6 5=4",), b""),
        "crop by both ends": (("Crop l 1 1 y out 0=2 1=1 2=3 3=-233 4=-233 5=-233 6=1 7=2",), b""),
        "parts from places on": (
            ("Slice s 1 3 y a b d -23302=2,3,-3 1=0", "Concat l 3 1 d a b out 0=0"),
            b"",
        ),
        "flip": (("Flip l 1 1 y out -23300=2,1,2",), b""),
        "tiles": (("Tile l 1 1 y out 0=0 1=2",), b""),
        "tiles of the last axes": (("Tile l 1 1 y out -23302=2,2,3",), b""),
        "reorg": (
            ("Crop c 1 1 y z -23309=2,0,0 -23310=2,8,10 -23311=2,1,2", "Reorg l 1 1 z out 0=2"),
            b"",
        ),
        "reorg the other way": (
            ("Crop c 1 1 y z -23309=2,0,0 -23310=2,8,10 -23311=2,1,2", "Reorg l 1 1 z out 0=2 1=1"),
            b"",
        ),
        "squeeze": (
            ("Reduction r 1 1 y z 0=3 1=0 -23303=1,1 4=1 5=1", "Squeeze l 1 1 z out 1=1"),
            b"",
        ),
        "squeeze named axes": (
            ("Reduction r 1 1 y z 0=3 1=0 -23303=1,1 4=1 5=1", "Squeeze l 1 1 z out -23303=1,1"),
            b"",
        ),
        "one axis more": (
            ("Reshape r 1 1 y z 0=11 1=72", "ExpandDims l 1 1 z out -23303=1,1"),
            b"",
        ),
        "adaptive mean to 4 x 3": (("Pooling l 1 1 y out 0=1 7=1 8=3 18=4",), b""),
        "adaptive maximum to 4 x 3": (("Pooling l 1 1 y out 0=0 7=1 8=3 18=4",), b""),
        "adaptive mean to its own height": (("Pooling l 1 1 y out 0=1 7=1 8=2 18=-233",), b""),
        "reshape to what another has": (
            (
                "Split s 1 2 y a b",
                "Reshape r 1 1 a z 0=-1",
                'Reshape l 2 1 z b out 6="*(1w,1h),1c"',
            ),
            b"",
        ),
        "reshape to sides of its own": (('Reshape l 1 1 y out 6="0w,-1"',), b""),
        "bilinear to what another has": (
            ("Split s 1 2 y a b", 'Interp l 2 1 a b out 0=2 9="*(1w,2),+(1h,3)"'),
            b"",
        ),
        "a row convolved": (
            (
                "Reshape r 1 1 y z 0=99 1=8",
                "Convolution1D l 1 1 z out 0=4 1=3 3=2 4=1 5=1 6=96 9=1",
            ),
            conv(96, 4),
        ),
        "a row convolved by channels": (
            (
                "Reshape r 1 1 y z 0=99 1=8",
                "ConvolutionDepthWise1D l 1 1 z out 0=8 1=3 4=1 15=2 6=24 7=8",
            ),
            conv(24),
        ),
        "a row pooled": (
            ("Reshape r 1 1 y z 0=99 1=8", "Pooling1D l 1 1 z out 0=1 1=3 2=2 3=1 5=1"),
            b"",
        ),
        "a row pooled as a whole": (
            ("Reshape r 1 1 y z 0=99 1=8", "Pooling1D l 1 1 z out 0=1 4=1"),
            b"",
        ),
        "packing": (("Packing p 1 1 y z 0=1", "Sigmoid l 1 1 z out"), b""),
        "cast": (("Cast p 1 1 y z 0=1 1=1", "DeepCopy d 1 1 z k", "Sigmoid l 1 1 k out"), b""),
    }
    | {f"permute {i}": ((f"Permute l 1 1 y out 0={i}",), b"") for i in range(6)}
    | {
        f"permute {i} of four axes": (
            ("Reshape r 1 1 y z 0=11 1=9 11=2 2=4", f"Permute l 1 1 z out 0={i}"),
            b"",
        )
        for i in range(24)
    }
    | {
        f"normalize, eps {i}": (
            ("BinaryOp s 1 1 y z 0=2 1=1 2=0.001", f"Normalize l 1 1 z out 2=1e-4 3=8 4=1 9={i}"),
            vectors(8),
        )
        for i in range(3)
    }
    | {
        f"reduction {i}": (
            (
                "UnaryOp a 1 1 y z 0=0",
                f"Reduction l 1 1 z out 0={i} 1=0 2=1.5 -23303=1,2 4={i % 2} 5=1",
            ),
            b"",
        )
        for i in (0, 1, 2, 3, 4, 5, 7, 8, 9, 10)
    }
    | {
        f"reduction {i} over all": (
            ("UnaryOp a 1 1 y z 0=0", f"Reduction l 1 1 z out 0={i} 1=1 5=1"),
            b"",
        )
        for i in (3, 5)
    }
    | {
        f"unary {i}": (("UnaryOp a 1 1 y z 0=0", f"UnaryOp l 1 1 z out 0={i}"), b"")
        for i in (0, 1, 4, 5, 6, 7, 8, 15, 16, 17)
    }
)
