"""tinyface: face embeddings on bare CPUs, from scratch.

>>> import tinyface                                       # doctest: +SKIP
>>> model = tinyface.load()                               # doctest: +SKIP
>>> model.embed("photo.jpg").shape                        # doctest: +SKIP
(512,)
>>> tinyface.verify("one.jpg", "other.jpg").same          # doctest: +SKIP
False

Everything here is imported when it is first used, so that ``import tinyface`` costs little.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from tinyface.errors import (
        BackendError,
        GraphError,
        ImageError,
        MissingExtraError,
        ModelError,
        NoFaceError,
        TinyfaceError,
        UsageError,
    )
    from tinyface.faces.locate import align, detect, load_detector
    from tinyface.faces.verify import Verification, cosine, verify
    from tinyface.model import FaceEmbedding, Model, load
    from tinyface.tracing import trace
    from tinyface.vision.detect import Detector, Face

_HOME = {
    "tinyface.errors": (
        "BackendError",
        "GraphError",
        "ImageError",
        "MissingExtraError",
        "ModelError",
        "NoFaceError",
        "TinyfaceError",
        "UsageError",
    ),
    "tinyface.faces.locate": ("align", "detect", "load_detector"),
    "tinyface.faces.verify": ("Verification", "cosine", "verify"),
    "tinyface.model": ("FaceEmbedding", "Model", "load"),
    "tinyface.tracing": ("trace",),
    "tinyface.vision.detect": ("Detector", "Face"),
}
_OF_MODEL = ("embed", "embed_crops", "embed_faces", "run")
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "BackendError",
    "Detector",
    "Face",
    "FaceEmbedding",
    "GraphError",
    "ImageError",
    "MissingExtraError",
    "Model",
    "ModelError",
    "NoFaceError",
    "TinyfaceError",
    "UsageError",
    "Verification",
    "__version__",
    "align",
    "cosine",
    "detect",
    "load",
    "load_detector",
    "trace",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        hint = f"; tinyface.load() gives a Model, with .{name}()" if name in _OF_MODEL else ""
        raise AttributeError(f"module 'tinyface' has no attribute {name!r}{hint}")
    value = getattr(import_module(_WHERE[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
