"""Where trained weights are: in the package, in the user's folder, or at a path.

A model is asked for by name (``fdfacenet``) or by path (``./mine.safetensors``). Names are
looked up in two folders, in this order:

1. the user's: ``TINYFACE_CACHE``, or ``tinyface`` in ``XDG_CACHE_HOME`` (``~/.cache``);
2. the one that came with the package.

So a model that someone imported under a name goes before the one that ships under it.
"""

from __future__ import annotations

import os
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Final

from tinyface.errors import FormatError, TinyfaceError, UsageError
from tinyface.formats.modelfile import Card, read_card
from tinyface.formats.sniff import Kind, sniff

SUFFIX: Final = ".safetensors"
DEFAULTS: Final = {"embed": "fdfacenet", "detect": "detector"}  # task -> preferred name
OVERRIDES: Final = {"embed": "TINYFACE_MODEL", "detect": "TINYFACE_DETECTOR"}

_KIND = {"embed": "recogniser", "detect": "face detector"}
_EXAMPLE = {
    "embed": "tinyface import mobilefacenet.pt --network mobilefacenet-relu6",
    "detect": "tinyface import retinaface_mnet025.pth --network retinaface-mnet0.25",
}


def user_folder() -> Path:
    """The user's folder of models; it need not exist.

    Raises:
        UsageError: it depends on a home folder, and there is none, as in some containers.
    """
    chosen = os.environ.get("TINYFACE_CACHE")
    try:
        if chosen:
            return Path(chosen).expanduser()
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    except RuntimeError:
        what = f"TINYFACE_CACHE is {chosen}, and that user" if chosen else "this user"
        raise UsageError(
            f"{what} has no home folder for models; set TINYFACE_CACHE to a folder of yours"
        ) from None
    return Path(base) / "tinyface"


def made_user_folder() -> Path:
    """The user's folder of models, which is made when it is first needed.

    Raises:
        UsageError: there can be none, or it cannot be made.
    """
    folder = user_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(
            f"{folder}: cannot be made ({error.strerror}); set TINYFACE_CACHE to a folder of yours"
        ) from None
    return folder


def place(name: str) -> Path:
    """The file of a model of that name in the user's folder, which is made if needed.

    Raises:
        UsageError: files of that name are hidden, and would not be found.
    """
    if not name or name.startswith("."):
        raise UsageError(f"{name!r}: a name that is not hidden is needed; choose another (--name)")
    return made_user_folder() / f"{name.replace('/', '-')}{SUFFIX}"


def new_place(name: str) -> Path:
    """The same for a model that must not take another one's place.

    Raises:
        UsageError: weights of that name are installed; says where.
    """
    path = place(name)
    known = installed().get(path.stem)
    if known:
        raise UsageError(
            f"a model named {path.stem} is there already ({known}); choose another name "
            "(--name), or take its place (--force)"
        )
    return path


def packaged_folder() -> Path:
    """``tinyface/weights`` of an installed wheel, ``weights`` of a source checkout."""
    package = Path(__file__).parent
    inside = package / "weights"
    return inside if inside.is_dir() else package.parent / "weights"


def installed() -> dict[str, Path]:
    """All weights that can be asked for by name, in the order of their names."""
    found: dict[str, Path] = {}
    folders = [packaged_folder()]
    with suppress(UsageError):  # without one, what ships is there
        folders.append(user_folder())
    for folder in folders:  # the later one wins
        if folder.is_dir():
            found |= {p.stem: p for p in folder.glob(f"*{SUFFIX}") if not p.name.startswith(".")}
    return dict(sorted(found.items()))


def find(name_or_path: str | os.PathLike[str]) -> Path:
    """The file of a model.

    What is installed under that name; else anything with a directory separator or a suffix is a
    path, and a name that is a file in the current directory is that file.

    Raises:
        UsageError: there is no such model; what there is is listed.
    """
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise UsageError(f"{name_or_path!r}: give a model's name or the path of its file")
    asked = os.fspath(name_or_path)
    path = Path(asked)
    known = installed()
    if asked in known:
        return known[asked]
    if not path.exists():
        _refuse_network(asked)
    if path.name != asked or path.suffix:
        if path.is_file():
            if path.suffix != SUFFIX:
                _need_model(path)
            return path
        problem = "is a folder" if path.is_dir() else "no such model file"
        raise UsageError(f"{asked}: {problem}; name a {SUFFIX} file made by  tinyface import")
    if path.is_file():
        return path
    names = ", ".join(known) or "none"
    raise UsageError(
        f"no weights named {asked!r} are installed (there are: {names}); see  tinyface models"
    )


def _refuse_network(name: str) -> None:
    """Raise for the name of a network without weights, saying how to get some."""
    from tinyface.networks import REGISTRY
    from tinyface.networks.registry import spelling

    if spelling(name) in REGISTRY:
        raise UsageError(
            f"no trained weights of {name} are installed; to make a model of some:  "
            f"tinyface import FILE --network {name}"
        )


def _need_model(path: Path) -> None:
    """Refuse a file that says by its content that it is something else, and say what to do."""
    kind = sniff(path)
    if kind not in (Kind.TINYFACE, Kind.SAFETENSORS):
        advice = (
            "name a model file, or installed weights (tinyface models)"
            if kind in (Kind.EMPTY, Kind.UNKNOWN)
            else f"to make one of trained weights:  tinyface import {path.name}"
        )
        raise FormatError(f"{path} is {kind.value}, not a model file; {advice}")


def chosen(name_or_path: str | os.PathLike[str] | None, task: str) -> Path:
    """The file of the model that was named, else the default one for the task.

    Raises:
        UsageError: as :func:`find` and :func:`default` do.
    """
    return default(task) if name_or_path is None else find(name_or_path)


def default(task: str = "embed") -> Path:
    """The model to use where none was named.

    ``TINYFACE_MODEL`` (or ``TINYFACE_DETECTOR``) decides, else the preferred name, else the
    first installed model made for the task. Never random weights: without trained ones there
    is nothing to embed with.

    Raises:
        UsageError: nothing is installed for the task; the message says how to import weights.
    """
    wish = os.environ.get(OVERRIDES[task])
    if wish:
        try:
            return find(wish)
        except UsageError as error:
            raise UsageError(f"{OVERRIDES[task]} is set: {error}") from None
    known = installed()
    preferred = DEFAULTS[task]
    if preferred in known:
        return known[preferred]
    for path in known.values():
        card = card_at(path)
        if card is not None and card.task == task:
            return path
    raise UsageError(
        f"no trained weights of a {_KIND[task]} are installed, and random ones would be of no "
        f"use; import some, for example:  {_EXAMPLE[task]}"
    )


def card_at(path: Path) -> Card | None:
    """The card of a model file; None where there is none, or none that can be read."""
    try:
        status = path.stat()
        return _card_of(path, status.st_mtime_ns, status.st_size)
    except (TinyfaceError, OSError):
        return None


@lru_cache(maxsize=64)
def _card_of(path: Path, mtime_ns: int, size: int) -> Card:
    return read_card(path)
