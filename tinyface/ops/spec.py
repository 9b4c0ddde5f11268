"""What an operator is: the base class, the bounds of its attributes, the registry.

An operator is declared once, as a subclass of :class:`Op`, which makes it a dataclass that cannot
be changed: its fields are its attributes (each with bounds), ``infer`` gives the shapes, ``macs``,
``operations`` and ``scratch`` the cost, and ``run`` *is* the operator: the NumPy definition that
every faster kernel is checked against.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, Field, FrozenInstanceError, dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from numpy.typing import NDArray

from tinyface import limits
from tinyface.errors import AttributeBoundsError, GraphError
from tinyface.types import TensorType

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: Any) -> Any:
        return lambda cls: cls


Array = NDArray[Any]
MaybeType = TensorType | None  # None: an optional input that is absent
Types = tuple[TensorType, ...]


def attr(
    default: Any,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: tuple[str, ...] | None = None,
    length: int | None = None,
) -> Any:
    """Declare an attribute with its bounds (both included).

    A tuple has as many elements as its default, or any number up to ``length``; the bounds
    and the type of the default's first element (an integer if it has none) hold for each.
    """
    bounds = {"low": low, "high": high, "choices": choices, "length": length}
    return field(default=default, metadata=bounds)


@dataclass_transform(frozen_default=True)
class Op:
    """Base of all operators. Its subclasses are frozen dataclasses.

    Their methods are written here, once: those that ``dataclass`` would compile for each of
    forty classes took a tenth of the time from ``tinyface embed`` to its answer.

    Class attributes:
        kind: the name in model files, tables and on the command line.
        onnx: names of the ONNX operators that map to this one.
        arity: least and most number of inputs (weights are inputs, too).
        view: True where the output is the input's bytes under another shape: no traffic.
    """

    kind: ClassVar[str] = ""
    onnx: ClassVar[tuple[str, ...]] = ()
    arity: ClassVar[tuple[int, int]] = (1, 1)
    view: ClassVar[bool] = False
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]

    def __init_subclass__(cls) -> None:
        dataclass(init=False, repr=False, eq=False)(cls)

    def __init__(self, *ordered: Any, **named: Any) -> None:
        """Attributes by position or by name; lists become tuples.

        Raises:
            AttributeBoundsError: an attribute of the wrong type or outside its bounds.
            TypeError: an attribute that the operator lacks, or given twice.
        """
        declared = fields(self)
        given = dict(zip((f.name for f in declared), ordered, strict=False))
        wrong = [name for name in named if name in given or name not in self.__dataclass_fields__]
        if wrong or len(ordered) > len(declared):
            what = f"the attribute {wrong[0]!r} is unknown or given twice" if wrong else "too many"
            raise TypeError(f"{type(self).__name__}({', '.join(f.name for f in declared)}): {what}")
        given |= named
        for f in declared:
            value = given.get(f.name, f.default)
            value = tuple(value) if isinstance(value, list) else value
            _check_attribute(self.kind, f.name, value, f.default, f.metadata)
            self.__dict__[f.name] = value
        self.__post_init__()

    def __post_init__(self) -> None:
        """What an operator asks of its attributes together. Raises GraphError."""

    def __setattr__(self, name: str, value: Any) -> None:
        raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be set")

    def __delattr__(self, name: str) -> None:
        raise FrozenInstanceError(f"{type(self).__name__}.{name} cannot be deleted")

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and self.__dict__ == other.__dict__

    def __hash__(self) -> int:
        return hash((type(self), *self.__dict__.values()))

    def __repr__(self) -> str:
        values = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({values})"

    def infer(self, *inputs: MaybeType) -> Types:
        """Output types from input types. Raises GraphError where they do not fit."""
        raise NotImplementedError

    def macs(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Multiply-accumulates of matrix products (convolution, linear); 0 for all others.

        This is the papers' "pure" count; batch norm and activations are not part of it.
        """
        return 0

    def operations(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """What the limits bound: about so many multiply-accumulates would take as long.

        Every element in and out, and what is done for windows and products, to whole vectors
        (:func:`vectors`): a network that is all windows, or has one channel only, takes as much
        time by this count as one of large products, not a hundred times as much.
        """
        return self.macs(inputs, outputs) + elements(inputs, outputs)

    def scratch(self, inputs: tuple[MaybeType, ...], outputs: Types) -> int:
        """Bytes that the NumPy kernel moves on top of its operands.

        Every temporary, and every later sweep over the output (an epilogue), written once
        and read once. Chunks of fixed size that NumPy itself buffers are not counted.
        """
        return 0

    def run(self, *inputs: Any) -> Any:
        """Compute; arrays in, an array (or a tuple of several) out, in the input's dtype."""
        raise NotImplementedError

    def to_json(self) -> dict[str, Any]:
        """``{"kind": …}`` and the attributes that differ from their defaults."""
        doc: dict[str, Any] = {"kind": self.kind}
        for f in fields(self):
            value = getattr(self, f.name)
            if value != f.default:
                doc[f.name] = value.to_json() if isinstance(value, Op) else value
        return doc

    def __str__(self) -> str:
        """``conv2d(stride=(2, 2), act=prelu)``: what differs from the defaults."""
        parts = [
            f"{f.name}={getattr(self, f.name)}"
            for f in fields(self)
            if getattr(self, f.name) != f.default
        ]
        return f"{self.kind}({', '.join(parts)})" if parts else self.kind


OPS: dict[str, type[Op]] = {}
OpType = TypeVar("OpType", bound=type[Op])


def register(cls: OpType) -> OpType:
    """Class decorator: enter an operator under its ``kind``."""
    if not cls.kind or cls.kind in OPS:
        raise ValueError(f"{cls.__name__}: kind {cls.kind!r} is empty or taken")
    OPS[cls.kind] = cls
    return cls


def from_json(doc: object, *, depth: int = 0) -> Op:
    """The operator that :meth:`Op.to_json` wrote.

    Raises:
        GraphError: not an object, an unknown kind, an unknown attribute.
        AttributeBoundsError: an attribute of the wrong type or outside its bounds.
    """
    if not isinstance(doc, Mapping) or not isinstance(doc.get("kind"), str):
        raise GraphError("an operator must be an object with a 'kind'")
    cls = OPS.get(doc["kind"])
    if cls is None:
        raise GraphError(
            f"unknown operator {doc['kind']!r}: this file needs a newer tinyface, or is not ours"
        )
    values = {key: value for key, value in doc.items() if key != "kind"}
    unknown = sorted(values.keys() - {f.name for f in fields(cls)})
    if unknown:
        raise GraphError(f"{cls.kind} has no attribute {unknown[0]!r}")
    for key, value in values.items():
        if isinstance(value, Mapping):
            if depth:
                raise GraphError(f"{cls.kind}: operators are nested too deeply")
            values[key] = from_json(value, depth=depth + 1)
    return cls(**values)


def _check_attribute(
    kind: str, name: str, value: Any, default: Any, bounds: Mapping[str, Any]
) -> None:
    def refuse(why: str) -> AttributeBoundsError:
        return AttributeBoundsError(f"{kind}.{name} = {value!r}: {why}")

    if default is MISSING:
        raise TypeError(f"{kind}.{name} needs a default")
    if default is None:  # an optional nested operator
        if not (value is None or isinstance(value, Op)):
            raise refuse("must be an operator or absent")
        return
    if isinstance(default, tuple):
        length = bounds.get("length")
        if not isinstance(value, tuple):
            raise refuse("must be a list of numbers")
        if length is None and len(value) != len(default):
            raise refuse(f"must have {len(default)} elements")
        if len(value) > (length or limits.MAX_RANK):
            raise refuse(f"has more than {length or limits.MAX_RANK} elements")
        wanted = type(default[0]) if default else int
        for element in value:
            _check_number(refuse, element, wanted, bounds)
    elif isinstance(default, bool):
        if not isinstance(value, bool):
            raise refuse("must be true or false")
    elif isinstance(default, str):
        choices = bounds.get("choices") or ()
        if value not in choices:
            raise refuse(f"must be one of {', '.join(choices)}")
    else:
        _check_number(refuse, value, type(default), bounds)


def _check_number(refuse: Any, value: Any, wanted: type, bounds: Mapping[str, Any]) -> None:
    allowed = (int, float) if wanted is float else (int,)
    if isinstance(value, bool) or not isinstance(value, allowed):
        raise refuse(f"must be {'a number' if wanted is float else 'an integer'}")
    widest = limits.MAX_FLOAT if wanted is float else limits.MAX_INDEX
    low, high = bounds.get("low"), bounds.get("high")
    low, high = (-widest if low is None else low), (widest if high is None else high)
    if not low <= value <= high:  # refuses NaN, too
        raise refuse(f"must lie between {low} and {high}")


def elements(inputs: tuple[MaybeType, ...], outputs: Types) -> int:
    """Of all operands together."""
    return sum(t.size for t in (*inputs, *outputs) if t is not None)


LANES = 16  # floats in the widest vectors


def vectors(count: int) -> int:
    """``count`` channels, rounded up to whole vectors: an engine computes these at once."""
    return -(-count // LANES) * LANES


def need(kind: str, x: MaybeType) -> TensorType:
    """``x`` itself if it is there, else GraphError."""
    if x is None:
        raise GraphError(f"{kind}: a required input is missing")
    return x


def need_rank(kind: str, x: MaybeType, *ranks: int) -> TensorType:
    """``x`` itself if it is there and has one of the ranks, else GraphError."""
    x = need(kind, x)
    if x.rank not in ranks:
        wanted = " or ".join(map(str, ranks))
        raise GraphError(f"{kind}: needs an input of rank {wanted}, got shape {x}")
    return x


def need_axis(kind: str, x: TensorType, axis: int) -> int:
    """``axis`` counted from the front (-1 is the last), or GraphError if ``x`` lacks it."""
    if not -x.rank <= axis < x.rank:
        raise GraphError(f"{kind}: axis {axis} does not exist in shape {x}")
    return axis % x.rank


def need_shape(kind: str, what: str, x: MaybeType, *shapes: tuple[int, ...]) -> None:
    """GraphError unless ``x`` is absent or has one of the shapes."""
    if x is not None and x.shape not in shapes:
        wanted = " or ".join(str(TensorType(s)) for s in shapes)
        raise GraphError(f"{kind}: {what} must have shape {wanted}, got {x}")


def channels_first(v: Array, rank: int) -> Array:
    """A vector of C values shaped to broadcast over (n, C, …): (C,) -> (C, 1, 1) for rank 4."""
    return v.reshape((-1,) + (1,) * (rank - 2)) if rank > 2 else v


__all__ = [
    "OPS",
    "Array",
    "MaybeType",
    "Op",
    "Types",
    "attr",
    "channels_first",
    "elements",
    "from_json",
    "need",
    "need_axis",
    "need_rank",
    "need_shape",
    "register",
    "vectors",
]
