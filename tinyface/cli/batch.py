"""Pictures named on the command line."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from tinyface import ahead
from tinyface.cli import common
from tinyface.errors import ImageError

if TYPE_CHECKING:
    from tinyface.model import Model

Found = TypeVar("Found")
Thing = TypeVar("Thing")


def shares(pictures: int, backend: str, threads: int | None) -> tuple[int, int | None]:
    """How many pictures to work on at once, and the threads of each (:func:`ahead.shares`); NumPy
    uses all CPUs for one."""
    from tinyface.runtime import choose_backend, default_threads

    if choose_backend(backend) == "numpy":
        return 1, threads
    return ahead.shares(pictures, threads or default_threads())


def load_model(
    pictures: int,
    model: str | None,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str,
) -> tuple[Model, int]:
    """The recogniser that the options ask for, and how many pictures it works on at once."""
    at_once, each = shares(pictures, backend, threads)
    return common.load_model(model, detector, backend, each, weights), at_once


@dataclass
class Batch:
    """Pictures named on the command line, some looked at at once, but taken one after another.

    One that fails is reported on stderr and counted; the others go on.
    """

    sources: list[str] = field(default_factory=list)
    failures: dict[str, str] = field(default_factory=dict)  # source -> why

    @staticmethod
    def gather(arguments: Iterable[str], *, recursive: bool = False) -> Batch:
        """Files as they are, folders as the pictures in them, "-" as standard input."""
        from tinyface.vision.folder import collect_images

        batch = Batch()
        for argument in arguments:
            if argument == "-" or os.path.isfile(argument):
                batch.sources.append(argument)  # as it was written
                continue
            try:
                batch.sources += map(str, collect_images(argument, recursive))
            except ImageError as error:
                batch.failed(argument, str(error))
        return batch

    def failed(self, source: str, message: str) -> None:
        """Report it and count it."""
        if source not in message and source != "-":
            message = f"{source}: {message}"
        self.failures[source] = message
        common.note(message)

    def each(
        self,
        look: Callable[[str], Found],
        take: Callable[[str, Found], None],
        *,
        what: str,
        at_once: int,
    ) -> int:
        """``look`` at every picture, some at once, and ``take`` what was found, one after another
        in their order, with a progress bar; returns the exit status."""
        looked = ahead.in_order(self.sources, look, at_once)
        with closing(looked):
            self._take(_progress(looked, len(self.sources), what), take)
        total = len({*self.sources, *self.failures})
        if self.failures and total > 1:
            common.note(f"{len(self.failures)} of {total} inputs failed")
        return 1 if self.failures else 0

    def _take(
        self,
        looked: Iterable[tuple[str, Callable[[], Found]]],
        take: Callable[[str, Found], None],
    ) -> None:
        for source, answer in looked:
            try:
                take(source, answer())
            except ImageError as error:
                self.failed(source, str(error))
            except MemoryError:
                self.failed(source, f"{source}: too large for this machine; scale it down first")


def _progress(things: Iterable[Thing], total: int, what: str) -> Iterator[Thing]:
    """The things themselves, behind a bar where a person is watching."""
    if total < 2 or not sys.stderr.isatty():
        yield from things
        return
    from rich.console import Console
    from rich.progress import Progress

    # Lines printed meanwhile appear above the bar; data that goes to a pipe must stay out of it.
    bar = Progress(
        *Progress.get_default_columns(),
        console=Console(stderr=True),
        redirect_stdout=sys.stdout.isatty(),
        transient=True,
    )
    with bar:
        yield from bar.track(things, total, description=what)
