"""The two public teachers as PyTorch modules: 3x112x112 RGB in 0..255 -> 128-d embedding.

One is a PyTorch state dict (MobileFaceNet with ReLU6), the other a pair of ncnn files (a text
graph, `.param`, and its numbers, `.bin`); `NcnnGraph` reads the few layer types such a network
has. Both are distilled together: `Ensemble` gives a target whose cosine is the mean of the
teachers' cosines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from training.augment import middle

TEACHERS = ("relu6", "zq")
TARGET_WIDTH = 512
PROJECTION_SEED = 20240601


class _Depthwise(nn.Module):
    """3x3 depthwise, BN, ReLU, 1x1, BN, ReLU: the second layer of the ReLU6 teacher."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, 1, 1, groups=width, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.pointwise = nn.Conv2d(width, width, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn2(self.pointwise(F.relu(self.bn1(self.depthwise(x))))))


def _conv_bn_relu6(inp: int, out: int, kernel: int, stride: int, groups: int) -> nn.Sequential:
    conv = nn.Conv2d(inp, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(out), nn.ReLU6())


class _Bottleneck(nn.Module):
    def __init__(self, inp: int, out: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inp * expansion
        self.conv = nn.Sequential(
            _conv_bn_relu6(inp, wide, 1, 1, 1),
            _conv_bn_relu6(wide, wide, 3, stride, wide),
            nn.Conv2d(wide, out, 1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.residual = stride == 1 and inp == out

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv(x) if self.residual else self.conv(x)


class _GlobalDepthwise(nn.Module):
    def __init__(self, width: int, side: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, side, groups=width, bias=False)
        self.bn = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.depthwise(x))


class Relu6MobileFaceNet(nn.Module):
    """MobileFaceNet with ReLU6; input normalised by ImageNet's mean and deviation."""

    ROWS = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = _conv_bn_relu6(3, 64, 3, 2, 1)
        self.dw_conv = _Depthwise(64)
        blocks, width = [], 64
        for expansion, out, repeats, stride in self.ROWS:
            for i in range(repeats):
                blocks.append(_Bottleneck(width, out, stride if i == 0 else 1, expansion))
                width = out
        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv_bn_relu6(128, 512, 1, 1, 1)
        self.gdconv = _GlobalDepthwise(512, 7)
        self.conv3 = nn.Conv2d(512, 128, 1)
        self.bn = nn.BatchNorm2d(128)
        mean = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
        std = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
        self.register_buffer("mean", mean * 255, persistent=False)
        self.register_buffer("std", std * 255, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(self.dw_conv(self.conv1((x - self.mean) / self.std)))
        return self.bn(self.conv3(self.gdconv(self.conv2(x)))).flatten(1)


def _options(words: list[str]) -> dict[int, float]:
    return {int(k): float(v) for k, v in (word.split("=") for word in words)}


class _Numbers:
    """The .bin file, read front to back. A weight blob has a 4-byte tag first, 0 for float32."""

    def __init__(self, path: Path) -> None:
        self.words = np.fromfile(path, "<f4")
        self.at = 0

    def take(self, *shape: int) -> Tensor:
        n = int(np.prod(shape))
        if self.at + n > len(self.words):
            raise ValueError(
                "the .bin file ends before the .param file's layers do; use the pair "
                "that belongs together"
            )
        self.at += n
        return torch.from_numpy(self.words[self.at - n : self.at].reshape(shape).copy())

    def weights(self, *shape: int) -> Tensor:
        if self.take(1).view(torch.int32).item() != 0:
            raise ValueError("weights are stored quantised; only float32 ncnn files are read")
        return self.take(*shape)


class NcnnGraph(nn.Module):
    """A network from ncnn's `.param` and `.bin`, run node by node.

    Layer types: Input, BinaryOp (add, subtract, multiply), Split, Convolution,
    ConvolutionDepthWise, BatchNorm, PReLU, InnerProduct. Float32 only.

    Raises:
        ValueError: another layer type, quantised weights, or files that do not fit together.
    """

    def __init__(self, param: Path, numbers: Path) -> None:
        super().__init__()
        self.steps: list[tuple[str, list[str], list[str], dict[int, float]]] = []
        self.layers = nn.ModuleDict()
        data = _Numbers(numbers)
        lines = param.read_text().splitlines()
        if lines[0].strip() != "7767517":
            raise ValueError(f"{param}: not an ncnn .param file (first line is not 7767517)")
        for line in lines[2:]:
            kind, _, n_in, n_out, *rest = line.split()
            i, o = int(n_in), int(n_out)
            options = _options(rest[i + o :])
            key = str(len(self.steps))
            self.steps.append((kind, rest[:i], rest[i : i + o], options))
            layer = self._layer(kind, options, data)
            if layer is not None:
                self.layers[key] = layer
        # The last two words of the public file belong to no layer; more would be a misread.
        if len(data.words) - data.at > 2:
            raise ValueError(f"{numbers}: {len(data.words) - data.at} numbers left over")

    @staticmethod
    def _layer(kind: str, opt: dict[int, float], data: _Numbers) -> nn.Module | None:
        if kind in ("Convolution", "ConvolutionDepthWise"):
            out, k, groups = int(opt[0]), int(opt[1]), int(opt.get(7, 1))
            bias = bool(opt.get(5, 0))
            inp = int(opt[6]) * groups // (out * k * k)
            conv = nn.Conv2d(
                inp, out, k, int(opt.get(3, 1)), int(opt.get(4, 0)), groups=groups, bias=bias
            )
            conv.weight.data = data.weights(*conv.weight.shape)
            if bias:
                conv.bias.data = data.take(out)
            return conv
        if kind == "BatchNorm":  # slope, mean, variance, bias; eps defaults to 0
            c = int(opt[0])
            bn = nn.BatchNorm2d(c, eps=max(opt.get(1, 0.0), 1e-12))  # 0 is refused
            bn.weight.data, mean, var, bn.bias.data = (data.take(c) for _ in range(4))
            bn.running_mean, bn.running_var = mean, var
            return bn
        if kind == "PReLU":
            act = nn.PReLU(int(opt[0]))
            act.weight.data = data.take(int(opt[0]))
            return act
        if kind == "InnerProduct":
            out, size = int(opt[0]), int(opt[2])
            fc = nn.Conv2d(size // out, out, 1, bias=bool(opt.get(1, 0)))
            fc.weight.data = data.weights(out, size // out, 1, 1)
            if fc.bias is not None:
                fc.bias.data = data.take(out)
            return fc
        if kind in ("Input", "BinaryOp", "Split"):
            return None
        raise ValueError(f"ncnn layer type {kind} is not read here")

    def forward(self, x: Tensor) -> Tensor:
        blobs: dict[str, Tensor] = {}
        for i, (kind, ins, outs, opt) in enumerate(self.steps):
            if kind == "Input":
                y = x
            elif kind == "BinaryOp":
                other = opt[2] if opt.get(1) else blobs[ins[1]]
                y = _binary(int(opt[0]), blobs[ins[0]], other)
            elif kind == "Split":
                y = blobs[ins[0]]
            else:
                y = self.layers[str(i)](blobs[ins[0]])
            for name in outs:
                blobs[name] = y
        return y.flatten(1)


def _binary(op: int, a: Tensor, b: Tensor | float) -> Tensor:
    if op == 0:
        return a + b
    if op == 1:
        return a - b
    if op == 2:
        return a * b
    raise ValueError(f"ncnn BinaryOp {op} is not read here")


def load_teacher(folder: Path, name: str) -> nn.Module:
    """The teacher `name` (one of `TEACHERS`) from `folder`, in evaluation mode."""
    if name == "zq":
        return NcnnGraph(
            folder / "mobilefacenet-v1.ncnn.param", folder / "mobilefacenet-v1.ncnn.bin"
        ).eval()
    model = Relu6MobileFaceNet()
    model.load_state_dict(
        torch.load(folder / "mobilefacenet.pt", map_location="cpu", weights_only=True)
    )
    return model.eval()


def best_device() -> str:
    """A GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def fast(model: nn.Module, threads: int) -> Callable[[Tensor], Tensor]:
    """`model` as a function; by OpenVINO where that is installed (twice as fast on a CPU).

    In bfloat16 where the processor multiplies it: on a core with AMX 690 to 860 pictures a second
    in place of 260. Its embeddings have a cosine of .9997 to float32's, where two looks at one
    face have .92 to .97.
    """
    try:
        import openvino
    except ImportError:
        return model
    graph = openvino.convert_model(model, example_input=torch.zeros(2, 3, 112, 112))
    core = openvino.Core()
    quick = "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    kind = "bf16" if quick else "f32"
    options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind}
    compiled = core.compile_model(graph, "CPU", options)
    return lambda x: torch.from_numpy(compiled(x.numpy())[0].copy())


@cache
def projection(width: int, device: torch.device | str = "cpu") -> Tensor:
    """`width` x 512 matrix with orthonormal rows, the same on every machine (NumPy, seeded)."""
    noise = np.random.default_rng(PROJECTION_SEED).standard_normal((TARGET_WIDTH, width))
    q, r = np.linalg.qr(noise)
    return torch.from_numpy((q * np.sign(np.diag(r))).T.astype(np.float32)).to(device)


def targets(embeddings: list[Tensor]) -> Tensor:
    """Teachers' embeddings [(n, d), ...] -> unit targets (n, 512).

    Each is normalised, they stand side by side and are rotated into 512 dimensions, so that the
    cosine of two targets is the mean of the teachers' cosines.
    """
    joined = torch.cat([F.normalize(e.float(), dim=1) for e in embeddings], 1)
    return F.normalize(joined, dim=1) @ projection(joined.shape[1], joined.device)


@torch.inference_mode()
def embed(
    model: Callable[[Tensor], Tensor],
    crops: NDArray[np.uint8],
    seen: Callable[[Tensor, int], Tensor] = lambda x, row: middle(x),
    start: int = 0,
    batch: int = 4,
    device: str = "cpu",
) -> Iterator[Tensor]:
    """Embeddings of uint8 crops (n, s, s, 3) from row `start` on, `batch` at a time; `seen` makes
    of a part and the row it begins with what the teacher looks at.

    Maps of four pictures stay in a core's cache: 150 pictures a second on a Zen 3 core, 118 when
    32 go together.
    """
    for row in range(start, len(crops), batch):
        part = torch.from_numpy(np.array(crops[row : row + batch])).to(device)
        yield model(seen(part.permute(0, 3, 1, 2).float(), row).contiguous()).cpu()
