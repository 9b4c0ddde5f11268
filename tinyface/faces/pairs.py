"""Lists of pairs: LFW's own pairs.txt, or a table; and where the pictures they name are.

LFW's form (G. B. Huang et al., "Labeled Faces in the Wild", UMass Amherst TR 07-49, 2007, and
the README of the collection): a header ``folds pairs``; then, for every fold, ``pairs`` lines
``name i j`` (pictures i and j of one person) and as many ``name1 i name2 j`` (of two people),
with tabs between. The development sets have one number in the header: a single set.

The table is a CSV file with the columns ``a``, ``b`` and ``same`` (1 or 0), and ``fold`` if its
maker wants to say which; pictures are named by paths below the root.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from tinyface import limits
from tinyface.errors import UsageError

FOLDS: Final = 10  # where the list does not say
SUFFIXES: Final = (".jpg", ".jpeg", ".png", ".webp")
_TRUTH: Final = {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}


@dataclass(frozen=True)
class Pair:
    """Two pictures, whether they show the same person, and the fold, 0…

    A picture is ``Name/Name_0001`` (no suffix) from an LFW list, and a path from a table.
    """

    a: str
    b: str
    same: bool
    fold: int


class PairList(list[Pair]):
    """The pairs of a file, and which of the two forms it had."""

    def __init__(self, pairs: Iterable[Pair], form: Literal["lfw", "table"]) -> None:
        super().__init__(pairs)
        self.form = form


def read_pairs(path: str | os.PathLike[str]) -> PairList:
    """Read a list of pairs; its first line decides which of the two forms it has.

    Raises:
        UsageError: there is no such file, it is too large, or it is malformed; the line is named.
    """
    path = Path(path)
    lines = _lines(path)
    if not lines:
        raise UsageError(f"{path}: empty; give LFW's pairs.txt, or a CSV file with a,b,same")
    if ";" in lines[0][1] and "," not in lines[0][1]:
        raise UsageError(f"{path}: separated by ';'; save it with commas between the columns")
    if "," in lines[0][1]:
        try:
            return PairList(_from_table(path, [text for _, text in lines]), "table")
        except csv.Error as error:  # a field of hundreds of lines
            raise UsageError(f"{path}: {error}; an unclosed quote? correct it") from None
    return PairList(_from_lfw(path, lines), "lfw")


def _lines(path: Path) -> list[tuple[int, str]]:
    """Lines that are not blank, with their numbers."""
    try:
        if path.stat().st_size > limits.MAX_PAIRS_BYTES:
            raise UsageError(f"{path}: larger than {limits.MAX_PAIRS_BYTES >> 20} MiB; split it")
        text = path.read_text(encoding="utf-8-sig", errors="surrogateescape")
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror}); check its name") from None
    if "\0" in text:
        raise UsageError(f"{path}: not a text file; give LFW's pairs.txt, or a CSV file")
    return [(i, line) for i, line in enumerate(text.splitlines(), 1) if line.strip()]


# ---------------------------------------------------------------------------------- LFW


def _from_lfw(path: Path, lines: Sequence[tuple[int, str]]) -> list[Pair]:
    header = lines[0][1].split()
    if len(header) not in (1, 2) or not all(_is_count(field) for field in header):
        raise UsageError(
            f"{path}: line 1 is {lines[0][1][:60]!r}; expected are LFW's 'folds pairs' "
            "(10 300), or a table's a,b,same"
        )
    folds, each = (1, int(header[0])) if len(header) == 1 else map(int, header)
    wanted = 2 * folds * each
    if len(lines) - 1 != wanted:
        raise UsageError(
            f"{path}: the header announces {folds} x 2 x {each} = {wanted} pairs, and there are "
            f"{len(lines) - 1}; fetch the file again"
        )
    found = [
        (*_lfw_pair(path, number, line), k // (2 * each))
        for k, (number, line) in enumerate(lines[1:])
    ]
    for fold in range(folds):
        mates = sum(same for _, _, same, _ in found[2 * each * fold : 2 * each * (fold + 1)])
        if mates != each:
            raise UsageError(
                f"{path}: by the header {' '.join(header)} every fold of {2 * each} lines has "
                f"{each} pairs of one person; fold {fold + 1} has {mates}: correct the header, or "
                "the order"
            )
    if folds == 1:
        return _in_folds((a, b, same) for a, b, same, _ in found)
    return [Pair(*fields) for fields in found]


def _lfw_pair(path: Path, number: int, line: str) -> tuple[str, str, bool]:
    fields = [f.strip() for f in line.strip().split("\t")] if "\t" in line else line.split()
    if len(fields) == 3:
        fields.insert(2, fields[0])
        same = True
    else:
        same = False
    if len(fields) != 4 or not (_is_count(fields[1]) and _is_count(fields[3])):
        raise UsageError(
            f"{path}: line {number} is {line[:60]!r}; expected is 'name i j' or 'name1 i name2 j'"
        )
    if any(not name or name in (".", "..") or set(name) & set("/\\") for name in fields[::2]):
        raise UsageError(f"{path}: line {number}: a name must be that of a folder")
    if not same and fields[0] == fields[2]:
        raise UsageError(
            f"{path}: line {number} is {line[:60]!r}, two people with one name; one person's pair "
            "is 'name i j'"
        )
    a, b = (f"{name}/{name}_{int(i):04d}" for name, i in (fields[:2], fields[2:]))
    return a, b, same


def _is_count(field: str) -> bool:
    return field.isascii() and field.isdigit() and int(field[:9]) > 0 and len(field) <= 8


# -------------------------------------------------------------------------------- tables


def _from_table(path: Path, lines: list[str]) -> list[Pair]:
    header = [field.strip() for field in next(csv.reader(lines[:1]))]
    if not {"a", "b", "same"} <= set(header):
        raise UsageError(f"{path}: the first line must name the columns a, b and same")
    found: list[tuple[str, str, bool]] = []
    folds: list[str] = []
    for number, row in enumerate(csv.DictReader(lines[1:], fieldnames=header), 2):
        a, b, same = (str(row[key] or "").strip() for key in ("a", "b", "same"))
        if not a or not b or same.lower() not in _TRUTH or None in row:
            raise UsageError(f"{path}: row {number}: expected are {','.join(header)}, same 1 or 0")
        found.append((a, b, _TRUTH[same.lower()]))
        folds.append(str(row.get("fold") or "").strip())
    if "fold" not in header:
        return _in_folds(found)
    if not all(folds):
        raise UsageError(f"{path}: row {folds.index('') + 2}: no fold; fill the column or drop it")
    order = {name: i for i, name in enumerate(dict.fromkeys(folds))}
    return [Pair(*fields, order[name]) for fields, name in zip(found, folds, strict=True)]


def _in_folds(found: Iterable[tuple[str, str, bool]]) -> list[Pair]:
    """Ten runs of neighbours, each with a tenth of the genuine pairs and of the impostors."""
    pairs = list(found)
    total = {kind: sum(same is kind for *_, same in pairs) for kind in (True, False)}
    seen = {True: 0, False: 0}
    result = []
    for a, b, same in pairs:
        result.append(Pair(a, b, same, seen[same] * FOLDS // total[same]))
        seen[same] += 1
    return result


# ------------------------------------------------------------------------------ pictures


def usual_face(pairs: PairList) -> Literal["largest", "central"]:
    """Which face a list means: LFW's pictures show the person they name in their middle."""
    return "central" if pairs.form == "lfw" else "largest"


def pictures(pairs: Iterable[Pair]) -> list[str]:
    """The pictures of a list, each once, in the order in which they come up."""
    return list(dict.fromkeys(chain.from_iterable((pair.a, pair.b) for pair in pairs)))


def locate(names: Sequence[str], root: str | os.PathLike[str]) -> dict[str, Path]:
    """The files of pictures; those that are not there are left out.

    An LFW picture ``Name/Name_0001`` is looked for as .jpg, .jpeg, .png or .webp, in ``root``
    and in folders of it that begin with ``lfw`` (archives unpack to ``lfw``,
    ``lfw-deepfunneled``, or one inside the other); and as ``Name_0001.jpg`` where all pictures
    lie in one folder.

    Raises:
        UsageError: ``root`` is no folder.
    """
    if not os.fspath(root):  # Path("") is the current folder
        raise UsageError('"": no such folder; name the one that holds the pictures')
    base = Path(root)
    if not base.is_dir():
        raise UsageError(f"{base}: no such folder; name the one that holds the pictures")
    found: dict[str, Path] = {}
    folders = list(_folders(base))
    for name in names:
        path = next((p for folder in folders for p in _candidates(folder, name)
                     if p.is_file()), None)  # fmt: skip
        if path is not None:
            found[name] = path
    return found


def _folders(root: Path) -> Iterator[Path]:
    yield root
    for pattern in ("lfw*", "lfw*/lfw*"):
        yield from sorted(path for path in root.glob(pattern) if path.is_dir())


def _candidates(folder: Path, name: str) -> Iterator[Path]:
    yield folder / name
    person, _, file = name.rpartition("/")
    # Name_0001 is one person's wherever it lies; 1 is not
    for stem in (name, file) if person and file.startswith(f"{person}_") else (name,):
        for suffix in SUFFIXES:
            yield folder / f"{stem}{suffix}"
            yield folder / f"{stem}{suffix.upper()}"
