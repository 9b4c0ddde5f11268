"""The FDFaceNet paper's tables: what it prints, what the networks give, which rule fits.

The paper compares networks by parameters, MACs and "feature-map output" F, but does not define
how it counts. These definitions reproduce its figures:

- **MACs, pure**: of convolutions and fully connected layers. **MACs, paper**: pure + 2 for every
  output element of a batch norm + 1 for every output element of an activation. **paper+pool**:
  + 1 for every input element of a pooling.
- **F = 2 x 4 bytes x output elements of every leaf module**, in MB of 10^6 bytes, batch 1 (each
  map is written once and read once). **U** (unfused) counts convolutions, fully connected
  layers, batch norms, activations, poolings and the flattening. **Z** (folded) leaves out batch
  norms, poolings and the flattening, as after folding. **Z+tail** is Z with the flattening and
  the batch norm behind the fully connected layer.

The paper mixes U and Z in one table: FDFaceNet, NFN, MobileFaceNet and ShuffleFaceNet are printed
under U, FDFN*, DWFN* and all plain CNNs under Z. Rows printed under different rules must not be
compared; like for like, DWFN* x1.25 : NFN : FDFaceNet is 26.6 : 14.6 : 4.9 MB (Z).

A printed figure *fits* a value that rounds or truncates to its digits (the paper does both), and
is *near* one within 0.5 %. Everything else is a misfit, and shown as one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

from tinyface.graph import Graph, Node
from tinyface.networks import REGISTRY
from tinyface.ops import (
    FUSABLE,
    BatchNorm,
    Conv2d,
    Flatten,
    GlobalAveragePool,
    Linear,
)
from tinyface.ops.pool import Pool

NEAR = Decimal("0.005")
STATISTICS = (".running_mean", ".running_var")


@dataclass(frozen=True)
class Counts:
    """A network's figures; MACs and F by every rule of this module.

    params: trainable ones, that is without the statistics of batch norms.
    fmap_*: bytes. fmap_conv: outputs of convolutions once (the paper's own Table 2), which fits
        none of its figures.
    """

    params: int
    macs: int
    macs_paper: int
    macs_pooled: int
    fmap_unfused: int
    fmap_folded: int
    fmap_tail: int
    fmap_conv: int


def counts(graph: Graph) -> Counts:
    """Count a network as built, batch norms not folded.

    Inputs of another batch size scale everything but the parameters.
    """
    conv = _outputs(graph, Conv2d)
    leaves = conv + _outputs(graph, Linear) + _outputs(graph, *FUSABLE)
    norm, tail = _outputs(graph, BatchNorm), _tail_norm(graph)
    flat, pooled = _outputs(graph, Flatten), _outputs(graph, Pool, GlobalAveragePool)
    pure = graph.cost.macs
    paper = pure + 2 * norm + _outputs(graph, *FUSABLE)
    pool_inputs = sum(
        graph.types[node.inputs[0]].size
        for node in graph.nodes
        if isinstance(node.op, (Pool, GlobalAveragePool))
    )
    return Counts(
        params=sum(graph.types[k].size for k in graph.params if not k.endswith(STATISTICS)),
        macs=pure,
        macs_paper=paper,
        macs_pooled=paper + pool_inputs,
        fmap_unfused=8 * (leaves + norm + pooled + flat),
        fmap_folded=8 * leaves,
        fmap_tail=8 * (leaves + flat + tail),
        fmap_conv=4 * conv,
    )


def _outputs(graph: Graph, *kinds: type) -> int:
    """Elements that operators of these kinds put out."""
    return sum(_size(graph, node) for node in graph.nodes if isinstance(node.op, kinds))


def _size(graph: Graph, node: Node) -> int:
    return sum(graph.types[name].size for name in node.outputs)


def _tail_norm(graph: Graph) -> int:
    """Elements of batch norms on matrices: the one behind the fully connected layer."""
    return sum(
        _size(graph, node)
        for node in graph.nodes
        if isinstance(node.op, BatchNorm) and graph.types[node.outputs[0]].rank == 2
    )


@dataclass(frozen=True)
class Figure:
    """A printed figure against what the rules give.

    printed: as in the paper, "" where it prints none.
    computed: value by rule, in the unit of the printed figure.
    """

    printed: str
    computed: dict[str, float]

    @property
    def fits(self) -> tuple[str, ...]:
        """Rules whose value rounds or truncates to the printed digits."""
        if not self.printed:
            return ()
        printed = Decimal(self.printed)
        return tuple(
            rule
            for rule, value in self.computed.items()
            if printed in (_digits(value, printed, how) for how in (ROUND_HALF_UP, ROUND_DOWN))
        )

    @property
    def near(self) -> tuple[str, ...]:
        """Rules within 0.5 % that do not fit."""
        if not self.printed:
            return ()
        printed = Decimal(self.printed)
        return tuple(
            rule
            for rule, value in self.computed.items()
            if rule not in self.fits and abs(Decimal(value) / printed - 1) <= NEAR
        )

    @property
    def misfit(self) -> bool:
        """Printed and computed, but neither fitted nor approached by any rule."""
        return bool(self.printed and self.computed) and not self.fits and not self.near


def _digits(value: float, like: Decimal, how: str) -> Decimal:
    return Decimal(value).quantize(like, rounding=how)


@dataclass(frozen=True)
class Row:
    """A network of the paper's tables.

    table: where it stands, as far as is known.
    network: its name in the registry, "" if it cannot be built from what is printed.
    """

    table: str
    title: str
    network: str
    params: Figure
    macs: Figure
    fmap: Figure
    note: str = ""

    @property
    def misfits(self) -> tuple[str, ...]:
        """Names of the columns in which the printed figure is a misfit."""
        columns = {"params": self.params, "macs": self.macs, "fmap": self.fmap}
        return tuple(name for name, figure in columns.items() if figure.misfit)


PLAIN, CIFAR = "3, 4", "5"
FACES, OTHERS = "9, 10, 11", "6, 12"

# (table, title in the paper, name in the registry, note)
NETWORKS: tuple[tuple[str, str, str, str], ...] = (
    (PLAIN, "CNN-8", "cnn-8", "Table 3 prints 2.6 M MACs for 2.6 G"),
    (PLAIN, "CNN-8-DS", "cnn-8-ds", ""),
    (PLAIN, "CNN-14-DS x0.5", "cnn-14-ds-x0.5", ""),
    (PLAIN, "CNN-14-DS x0.75", "cnn-14-ds-x0.75", ""),
    (PLAIN, "CNN-14-DS x1", "cnn-14-ds-x1", ""),
    (PLAIN, "CNN-14-DS x1.25", "cnn-14-ds-x1.25", ""),
    (PLAIN, "CNN-8-FD x0.5", "cnn-8-fd-x0.5", ""),
    (PLAIN, "CNN-8-FD x0.75", "cnn-8-fd-x0.75", ""),
    (PLAIN, "CNN-8-FD x1", "cnn-8-fd-x1", ""),
    (PLAIN, "CNN-8-FD x1.25", "cnn-8-fd-x1.25", ""),
    (
        PLAIN, "CNN-8-FD-Pooling x0.5", "cnn-8-fd-pooling-x0.5",
        "no rule that counts the full-size maps gives the printed F; nearest is F of CNN-8-FD "
        "plus 4 bytes per pooling output, 10.82",
    ),
    (
        PLAIN, "CNN-8-FD-Pooling x0.75", "cnn-8-fd-pooling-x0.75",
        "as x0.5; nearest is 16.22",
    ),
    (CIFAR, "CNN-8 (32x32)", "cnn-8-cifar", ""),
    (CIFAR, "CNN-8-DS (32x32)", "cnn-8-ds-cifar", ""),
    (CIFAR, "CNN-14-DS (32x32)", "cnn-14-ds-cifar", ""),
    (CIFAR, "CNN-8-FD (32x32)", "cnn-8-fd-cifar", ""),
    (FACES, "FDFaceNet (FDFN)", "fdfacenet", ""),
    (FACES, "FDFN*", "fdfn-star", ""),
    (FACES, "NFN", "nfn", ""),
    (FACES, "NFN*", "nfn-star", ""),
    (FACES, "DWFN* x1.25", "dwfn-star-x1.25", ""),
    (
        FACES, "DWFN", "dwfn",
        'the text says "less than 0.6 M" parameters; without batch norms and slopes it has 0.604 M',
    ),
    (FACES, "MobileFaceNet", "mobilefacenet", ""),
    (FACES, "ShuffleFaceNet x1.0", "shufflefacenet-x1.0", ""),
    (
        FACES, "LightFaceNet", "lightfacenet",
        "reconstruction: the layers were chosen to fit, so the fit is no evidence",
    ),
    (
        FACES, "ProxylessFaceNAS", "proxylessfacenas-cpu-1432",
        "no head or width of the public backbone gives the printed figures",
    ),
    (OTHERS, "VGG16", "vgg16", ""),
    (OTHERS, "ResNet-18", "resnet18", ""),
    (OTHERS, "ResNet-50", "resnet50", ""),
    (OTHERS, "3-Retina-MBV1 x0.25", "retinaface-mnet0.25", "the printed MACs mean 320x320"),
)  # fmt: skip

# title, printed MACs: widths and input sizes are not given, so these cannot be built
UNKNOWN = (
    ("4-SSD-MBV2", "113"),
    ("4-SSD-ShuffleV2 x0.75", "132"),
    ("3-Retina-ShuffleV2 x0.75", "264"),
)


def rows() -> Iterator[Row]:
    """All rows of Tables 3-6 and 9-12, networks of one table together.

    Which of Tables 9, 10, 11 and of 6, 12 a network stands in is not recorded; a network that
    stands in several has the same figures there.
    """
    for table, title, network, note in NETWORKS:
        entry = REGISTRY[network]
        c = counts(entry.build())
        yield Row(
            table,
            title,
            network,
            Figure(entry.figures.get("params_M", ""), {"trainable": c.params / 1e6}),
            Figure(
                entry.figures.get("macs_M", ""),
                {
                    "pure": c.macs / 1e6,
                    "paper": c.macs_paper / 1e6,
                    "paper+pool": c.macs_pooled / 1e6,
                },
            ),
            Figure(
                entry.figures.get("fmap_MB", ""),
                {
                    "U": c.fmap_unfused / 1e6,
                    "Z": c.fmap_folded / 1e6,
                    "Z+tail": c.fmap_tail / 1e6,
                },
            ),
            note,
        )
    for title, macs in UNKNOWN:
        note = "widths and input size are not given: cannot be built"
        yield Row(OTHERS, title, "", Figure("", {}), Figure(macs, {}), Figure("", {}), note)
