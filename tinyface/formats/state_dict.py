"""Find the state dict in what a training script saved, and tidy the names in it.

Training scripts wrap the weights: ``{"state_dict": ..., "epoch": 3}``, ``{"net": ...}``, and
data-parallel wrappers put ``module.`` before every name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, TypeVar

from tinyface import limits
from tinyface.errors import CheckpointError

T = TypeVar("T")

# in order of preference, where a checkpoint has several
CONTAINERS: Final = (
    "state_dict", "model_state_dict", "net_state_dict", "model_state", "model", "net",
    "network", "backbone", "backbone_state_dict", "state_dict_backbone",
    "embedder", "encoder", "generator", "weights", "params", "ema", "state_dict_ema", "model_ema",
    "module",
)  # fmt: skip
PREFIXES: Final = ("module.", "model.", "net.", "network.", "backbone.", "encoder.", "_orig_mod.")
_MAX_DEPTH: Final = 4
_COUNTER: Final = "num_batches_tracked"  # of BatchNorm; training only


def find_state_dict(
    path: Path, content: Any, kind: type[T]
) -> tuple[tuple[str, ...], dict[str, T]]:
    """The first dict of tensors on the way down through the usual container names.

    Args:
        content: what the file holds; never trusted to be acyclic, so the depth is bounded.
        kind: the type that counts as a tensor.

    Returns:
        the keys that lead to the state dict, and its tensors (entries of other types, such as
        an epoch number, are left out).

    Raises:
        CheckpointError: there is none, or several and no usual name decides.
    """
    found_at: tuple[str, ...] = ()
    for _ in range(_MAX_DEPTH):
        if not isinstance(content, dict):
            break
        inner = [key for key in CONTAINERS if _holds_tensors(content.get(key), kind)]
        own = _tensors(content, kind)
        if not inner and own:
            return found_at, own
        if not inner:
            inner = [k for k, v in content.items() if isinstance(k, str) and _tensors(v, kind)]
            if len(inner) > 1:
                raise CheckpointError(
                    f"{path}: several sets of tensors ({str(inner)[1:-1][:200]}) and no name says "
                    "which is the network; where it was trained, save only its state_dict()"
                )
        if not inner:
            break
        found_at += (inner[0],)
        content = content[inner[0]]
    raise CheckpointError(
        f"{path}: no state dict found in it (tried {', '.join(CONTAINERS[:6])} ...); "
        "where it was trained: torch.save(model.state_dict(), FILE)"
    )


def _tensors(value: Any, kind: type[T]) -> dict[str, T]:
    if not isinstance(value, dict):
        return {}
    return {k: v for k, v in value.items() if isinstance(k, str) and isinstance(v, kind)}


def _holds_tensors(value: Any, kind: type[T]) -> bool:
    """A dict of tensors, or a dict that has one under a usual name."""
    return bool(_tensors(value, kind)) or (
        isinstance(value, dict) and any(_tensors(value.get(key), kind) for key in CONTAINERS)
    )


def tidy_keys(path: Path, state: dict[str, T]) -> tuple[str, dict[str, T]]:
    """Strip the prefixes that *all* names share, and drop BatchNorm's step counters.

    Returns:
        the prefix that was stripped ("" if none) and the tensors in their order.
    """
    if len(state) > limits.MAX_TENSORS:
        raise CheckpointError(
            f"{path}: {len(state)} tensors (at most {limits.MAX_TENSORS}): "
            "this is no checkpoint of a face network"
        )
    for name in state:
        if not name.isprintable() or not 1 <= len(name) <= limits.MAX_NAME_LENGTH:
            raise CheckpointError(
                f"{path}: a tensor is named {name[:80]!r}, of {len(name)} characters; "
                f"1 to {limits.MAX_NAME_LENGTH} printable ones are allowed"
            )
    state = {name: v for name, v in state.items() if name.rpartition(".")[2] != _COUNTER}
    stripped = ""
    while state:
        prefix = next((p for p in PREFIXES if all(n.startswith(p) for n in state)), None)
        if prefix is None or prefix in state:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
        stripped += prefix
    return stripped, state


def strip_majority(state: dict[str, T]) -> tuple[str, dict[str, T]]:
    """Strip the usual prefixes that most names have, so that the others stand out by theirs.

    ``backbone.*`` beside ``head.weight``: what is wrong is the head, not every name. Wrappers lie
    in each other: ``model.backbone.*``.
    """
    taken = ""
    while True:
        for prefix in PREFIXES:
            most = 2 * sum(name.startswith(prefix) for name in state) > len(state)
            stripped = {name.removeprefix(prefix): value for name, value in state.items()}
            if most and len(stripped) == len(state) and "" not in stripped:
                break
        else:
            return taken, state
        taken, state = taken + prefix, stripped
