"""What is drawn by matplotlib: the extra, its file forms, a figure that needs no screen."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from tinyface.errors import MissingExtraError, UsageError
from tinyface.files import atomic_write

SUFFIXES: Final = (".png", ".svg", ".pdf")


def check(path: str | None) -> None:
    """Refuse what cannot be drawn before any work is done for it. None: nothing is to be drawn.

    Raises:
        MissingExtraError: matplotlib is not installed.
        UsageError: a file of unknown form.
    """
    if path is None:
        return
    if Path(path).suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path}: name a file that ends with {', '.join(SUFFIXES)}")
    figure(1, 1)


def figure(width: float, height: float, dpi: int = 100) -> Any:
    """An empty matplotlib figure of so many inches.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise MissingExtraError("matplotlib>=3.7", "plot", "a plot") from None
    return Figure(figsize=(width, height), dpi=dpi, layout="constrained")


def plain_ticks(axes: Any) -> None:
    """1, 2, 5, 10, 20 on logarithmic axes, where matplotlib would write powers of ten and, on a
    short axis, products like 6 x 10^1 in a larger font."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())


def save(drawn: Any, path: str) -> None:
    """Write a figure in the form that the file's name asks for, whole or not at all."""
    with atomic_write(path) as file:
        drawn.savefig(file, format=Path(path).suffix.lower()[1:])
