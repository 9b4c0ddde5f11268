"""What the pickle of a PyTorch checkpoint may name, and the inert data that it becomes.

:data:`REBUILD` is the whole list of callables. A tensor becomes a :class:`TensorRef`: where its
bytes are, not the bytes. Every number is checked here, in Python integers, which do not overflow.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.arrays import ITEMSIZE

# torch storage class -> element type
STORAGES: Final = {
    "DoubleStorage": "float64",
    "FloatStorage": "float32",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "UntypedStorage": "uint8",
}
_DTYPE_NAMES: Final = {
    "float": "float32", "double": "float64", "half": "float16",
    "long": "int64", "int": "int32", "short": "int16",
}  # fmt: skip
SCALARS: Final = (str, int, float, bool, type(None))  # what a dict key may be
OTHER_DTYPES: Final = ("float", "complex", "bits", "quint", "qint")


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A run of ``numel`` elements of one type, ``start`` elements into the record ``key``."""

    key: str
    dtype: str
    numel: int
    start: int = 0


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A strided view of a storage; offset and strides in elements, bounds already checked."""

    storage: StorageRef
    dtype: str
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = ITEMSIZE[self.dtype]
        for side in self.shape:
            size *= side
        return size


@dataclass(frozen=True, slots=True)
class Name:
    """A dotted name met in the file. It is compared with lists, never looked up."""

    dotted: str


class Reader(Protocol):
    """What the builders below need of the machine that calls them."""

    def refuse(self, problem: str) -> CheckpointError:
        """An error that names the file and the position."""

    def spend(self, amount: int) -> None:
        """Count work; raises when there is too much."""


def _tensor(
    reader: Reader, storage: Any, offset: Any, shape: Any, strides: Any, *_: Any
) -> TensorRef:
    """``torch._utils._rebuild_tensor`` and ``_v2``; the rest is about gradients."""
    if not isinstance(storage, StorageRef):
        raise reader.refuse("a tensor without a storage")
    return _view(reader, storage, storage.dtype, offset, shape, strides)


def _tensor_v3(
    reader: Reader, storage: Any, offset: Any, shape: Any, strides: Any,
    _requires_grad: Any, _hooks: Any, dtype: Any, *_: Any,
) -> TensorRef:  # fmt: skip
    """``_rebuild_tensor_v3``: a typed view of untyped bytes (the unsigned integers)."""
    name = dtype.dotted.removeprefix("torch.") if isinstance(dtype, Name) else ""
    name = _DTYPE_NAMES.get(name, name)
    if not isinstance(storage, StorageRef) or name not in ITEMSIZE:
        raise reader.refuse(f"a tensor of element type {name[:40]!r}, which NumPy does not have")
    size = ITEMSIZE[name]
    if storage.dtype != "uint8" or storage.start % size:
        raise reader.refuse("a typed view of a storage that is not untyped bytes")
    typed = StorageRef(storage.key, name, storage.numel // size, storage.start // size)
    return _view(reader, typed, name, offset, shape, strides)


def _view(
    reader: Reader, storage: StorageRef, dtype: str, offset: Any, shape: Any, strides: Any
) -> TensorRef:
    """Check that every element of the view lies inside the storage. Python ints: no overflow."""
    if type(shape) is not tuple or type(strides) is not tuple or len(shape) != len(strides):
        raise reader.refuse("a tensor whose shape and strides do not belong together")
    if len(shape) > limits.MAX_RANK:
        raise reader.refuse(f"a tensor of {len(shape)} dimensions (at most {limits.MAX_RANK})")
    if any(type(v) is not int or v < 0 for v in (offset, *shape, *strides)):
        raise reader.refuse("a tensor with a negative or non-integer offset, shape or stride")
    last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if 0 not in shape and last >= storage.numel:
        raise reader.refuse(
            f"a tensor reaches element {last} of storage {storage.key[:80]!r}, "
            f"which has {storage.numel}: the file is damaged"
        )
    # a step that is never taken may be of any size, which NumPy does not bear
    steps = tuple(s if n > 1 and 0 not in shape else 0 for n, s in zip(shape, strides, strict=True))
    tensor = TensorRef(storage, dtype, offset, shape, steps)
    if max(shape, default=0) > limits.MAX_DIM or tensor.nbytes > limits.MAX_TENSOR_BYTES:
        raise reader.refuse(f"a tensor of shape {shape}: over the limit")
    return tensor


def _parameter(reader: Reader, data: Any, *_: Any) -> TensorRef:
    if not isinstance(data, TensorRef):
        raise reader.refuse("a parameter that is not a tensor")
    return data


def _mapping(reader: Reader, items: Any = ()) -> OrderedDict[Any, Any]:
    """``OrderedDict()``, ``OrderedDict([[key, value], ...])`` of Python 2, ``Counter({...})``."""
    pairs = list(items.items()) if isinstance(items, dict) else items
    if not isinstance(pairs, (list, tuple)):
        raise reader.refuse("a mapping made from something that is not a list of pairs")
    reader.spend(len(pairs))
    result: OrderedDict[Any, Any] = OrderedDict()
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2 or type(pair[0]) not in SCALARS:
            raise reader.refuse("a mapping made from something that is not a list of pairs")
        result[pair[0]] = pair[1]
    return result


def _size(reader: Reader, sides: Any = ()) -> tuple[Any, ...]:
    if not isinstance(sides, (list, tuple)):
        raise reader.refuse("a torch.Size that is not a tuple")
    reader.spend(len(sides))
    return tuple(sides)


def _device(_: Reader, *__: Any) -> None:
    return None


REBUILD: Final[dict[str, Callable[..., Any]]] = {
    "collections.OrderedDict": _mapping,
    "collections.Counter": _mapping,
    "torch.Size": _size,
    "torch.device": _device,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
}


def is_type_name(module: str, name: str) -> bool:
    """A storage class or an element type: a word that says how to read bytes."""
    if module in ("torch", "torch.cuda", "torch.storage") and name in STORAGES:
        return True
    return module == "torch" and (name in ITEMSIZE or name in _DTYPE_NAMES)
