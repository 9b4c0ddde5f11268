"""Read the pickled part of a PyTorch checkpoint without executing it.

A pickle is a program for a small stack machine, and its ``GLOBAL`` and ``REDUCE`` opcodes may
call any Python function. This module is such a machine that knows only the opcodes of plain
containers and a few *names* (``torch_objects.REBUILD``, storage classes, element types), each
of which stands for inert data: no name is ever imported, no callable from the file ever called.
Everything else is refused with its dotted name and its byte position.

Opcodes are decoded by :func:`pickletools.genops`, which only disassembles.

The format is that of PyTorch's ``torch/serialization.py``: persistent ids name storages, and
``torch._utils._rebuild_tensor*`` says which part of a storage a tensor views.
"""

from __future__ import annotations

import io
import pickletools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Final

from tinyface import limits
from tinyface.errors import CheckpointError
from tinyface.formats.torch_objects import (
    OTHER_DTYPES,
    REBUILD,
    SCALARS,
    Name,
    StorageRef,
    is_type_name,
)


class _Mark:
    pass


_MARK: Final = _Mark()
_PUSH_ARGUMENT: Final = frozenset({
    "BININT", "BININT1", "BININT2", "BINFLOAT", "LONG1", "BINUNICODE", "SHORT_BINUNICODE",
    "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES",
})  # fmt: skip
_PUSH_NEW: Final[dict[str, Callable[[], Any]]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_DICT": dict,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}
_TUPLES: Final = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class PickleReader:
    """One stack machine for one pickle; see :func:`read_pickle`."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.position = 0
        self.work = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.persistent: Callable[[PickleReader, Any], StorageRef] | None = None

    def refuse(self, problem: str) -> CheckpointError:
        return CheckpointError(f"{self.source}, byte {self.position}: {problem}")

    def refuse_name(self, dotted: str) -> CheckpointError:
        return self.refuse(
            f"the pickle asks for {dotted[:200]!r}, which is not a tensor or a plain container; "
            "nothing was executed. Where it was trained, save only the weights: "
            "torch.save(model.state_dict(), FILE)"
        )

    def spend(self, amount: int) -> None:
        """Bound the total work: a few bytes of pickle may ask for a large copy again and again."""
        self.work += amount
        if self.work > limits.MAX_PICKLE_OPS:
            raise self.refuse(
                f"the pickle takes more than {limits.MAX_PICKLE_OPS} steps: "
                "this is no checkpoint of a face network"
            )

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.refuse("malformed pickle: the stack is empty")
        return self.stack.pop()

    def discard(self) -> None:
        self.pop()

    def pop_to_mark(self) -> list[Any]:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
                items = self.stack[index + 1 :]
                del self.stack[index:]
                self.spend(len(items))
                return items
        raise self.refuse("malformed pickle: a mark is missing")

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _PUSH_ARGUMENT:
            self.stack.append(argument)
        elif opcode in _PUSH_NEW:
            self.stack.append(_PUSH_NEW[opcode]())
        elif opcode == "TUPLE":
            self.stack.append(tuple(self.pop_to_mark()))
        elif opcode in _TUPLES:
            items = [self.pop() for _ in range(_TUPLES[opcode])]
            self.stack.append(tuple(reversed(items)))
        elif opcode in _ACTIONS:
            _ACTIONS[opcode](self, argument)
        else:
            raise self.refuse(
                f"the pickle opcode {opcode} has no place in a checkpoint of tensors "
                "(it can build or run arbitrary objects); nothing was executed"
            )

    # -- containers

    def append(self, items: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if type(target) is not list:
            raise self.refuse("malformed pickle: appending to something that is not a list")
        target.extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(items) % 2:
            raise self.refuse("malformed pickle: storing items in something that is not a dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # scalars only: hashing a deeply nested tuple would overflow the C stack
            if type(key) not in SCALARS:
                raise self.refuse(f"a dict key of type {type(key).__name__}")
            target[key] = value

    # -- memo

    def put(self, index: int) -> None:
        if not self.stack or self.stack[-1] is _MARK:
            raise self.refuse("malformed pickle: nothing to remember")
        self.memo[index] = self.stack[-1]

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise self.refuse(f"malformed pickle: item {index} was never stored")
        self.stack.append(self.memo[index])

    # -- names and what they build

    def push_name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise self.refuse("malformed pickle: a name that is not text")
        dotted = f"{module}.{name}"
        if dotted not in REBUILD and not is_type_name(module, name):
            if module == "torch" and (name.endswith("Storage") or name.startswith(OTHER_DTYPES)):
                raise self.refuse(
                    f"tensors of the type {dotted[:200]!r} are not read; convert them first: "
                    "torch.save({k: v.float() for k, v in state.items()}, FILE)"
                )
            raise self.refuse_name(dotted)
        self.stack.append(Name(dotted))

    def reduce(self) -> None:
        arguments, function = self.pop(), self.pop()
        if not isinstance(function, Name) or type(arguments) is not tuple:
            raise self.refuse("malformed pickle: a call of something that is not a known name")
        build = REBUILD.get(function.dotted)
        if build is None:
            raise self.refuse_name(f"{function.dotted}(...)")
        try:
            self.stack.append(build(self, *arguments))
        except TypeError:
            raise self.refuse(f"{function.dotted} is given arguments it does not take") from None

    def build_state(self) -> None:
        """``_metadata`` that modules hang on their state dict: dropped, it says nothing here."""
        state = self.pop()
        target = self.stack[-1] if self.stack else None
        if type(target) is not OrderedDict or not isinstance(state, dict):
            raise self.refuse(
                f"the pickle sets the state of a {type(target).__name__}; only an OrderedDict "
                "may have one here; nothing was executed"
            )

    def persistent_id(self) -> None:
        if self.persistent is None:
            raise self.refuse("malformed pickle: a storage is named where none belongs")
        self.stack.append(self.persistent(self, self.pop()))


_ACTIONS: Final[dict[str, Callable[[PickleReader, Any], None]]] = {
    "APPEND": lambda r, _: r.append([r.pop()]),
    "APPENDS": lambda r, _: r.append(r.pop_to_mark()),
    "SETITEM": lambda r, _: r.set_items([r.pop(), r.pop()][::-1]),
    "SETITEMS": lambda r, _: r.set_items(r.pop_to_mark()),
    "POP": lambda r, _: r.discard(),
    "BINPUT": lambda r, index: r.put(index),
    "LONG_BINPUT": lambda r, index: r.put(index),
    "MEMOIZE": lambda r, _: r.put(len(r.memo)),
    "BINGET": lambda r, index: r.get(index),
    "LONG_BINGET": lambda r, index: r.get(index),
    "GLOBAL": lambda r, names: r.push_name(*names.split(" ", 1)),
    "STACK_GLOBAL": lambda r, _: r.push_name(*[r.pop(), r.pop()][::-1]),
    "REDUCE": lambda r, _: r.reduce(),
    "BUILD": lambda r, _: r.build_state(),
    "BINPERSID": lambda r, _: r.persistent_id(),
    "FRAME": lambda r, _: None,
}


def read_pickle(
    stream: io.BytesIO,
    source: str,
    persistent: Callable[[PickleReader, Any], StorageRef] | None = None,
) -> Any:
    """Read one pickle from the stream's position and leave the stream behind it.

    Args:
        stream: the bytes, already bounded by ``limits.MAX_PICKLE_BYTES``.
        source: the file's name, for messages.
        persistent: turns a persistent id into a :class:`StorageRef`; none: ids are refused.

    Returns:
        dicts, lists, tuples, numbers, strings, None, :class:`TensorRef`, :class:`Name`.

    Raises:
        CheckpointError: anything but that in the file, or a malformed or endless pickle.
    """
    reader = PickleReader(source)
    reader.persistent = persistent
    reader.position = stream.tell()
    try:
        for opcode, argument, position in pickletools.genops(stream):
            reader.position = position or 0
            reader.spend(1)
            if opcode.name == "PROTO":
                if argument not in (2, 3, 4, 5):
                    raise reader.refuse(f"pickle protocol {argument} (2 to 5 are read)")
            elif opcode.name == "STOP":
                return reader.pop()
            else:
                reader.step(opcode.name, argument)
    except (ValueError, OverflowError):  # genops: truncated, undecodable or unknown opcode
        raise reader.refuse("malformed or truncated pickle") from None
    raise reader.refuse("malformed or truncated pickle")
