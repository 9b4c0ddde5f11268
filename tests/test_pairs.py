"""Lists of pairs, and where their pictures are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinyface import limits
from tinyface.errors import UsageError
from tinyface.faces.pairs import Pair, locate, pictures, read_pairs, usual_face

# --------------------------------------------------------------------------- pairs files


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_lfw_lists(tmp_path: Path) -> None:
    text = "2\t1\nAbel_Pacheco\t1\t4\nAbdel_Madi\t5\tDean_Barker\t1\nA\t2\t3\nB\t1\tC\t12345\n"
    expected = [
        Pair("Abel_Pacheco/Abel_Pacheco_0001", "Abel_Pacheco/Abel_Pacheco_0004", True, 0),
        Pair("Abdel_Madi/Abdel_Madi_0005", "Dean_Barker/Dean_Barker_0001", False, 0),
        Pair("A/A_0002", "A/A_0003", True, 1),
        Pair("B/B_0001", "C/C_12345", False, 1),
    ]
    for form in (
        text,
        text.replace("\t", "   "),
        text.replace("\n", "\r\n") + "\n\n",
        "\ufeff" + text,
    ):
        assert read_pairs(write(tmp_path / "pairs.txt", form)) == expected
    assert pictures(expected)[:3] == [expected[0].a, expected[0].b, expected[1].a]


def test_the_form_says_which_face_is_meant_and_not_the_names(tmp_path: Path) -> None:
    """A dot in a person's name is no suffix, and a table may leave suffixes out."""
    lfw = read_pairs(write(tmp_path / "p.txt", "1 1\nAna_Jr.\t1\t2\nA_J._Cook\t1\tDr.X\t1\n"))
    table = read_pairs(write(tmp_path / "p.csv", "a,b,same\n1,2,1\n1,3,0\n"))
    assert (lfw.form, usual_face(lfw)) == ("lfw", "central")
    assert (table.form, usual_face(table)) == ("table", "largest")


def test_a_development_list_is_cut_into_folds(tmp_path: Path) -> None:
    lines = [f"P{i}\t1\t2" for i in range(25)] + [f"P{i}\t1\tP{i + 1}\t1" for i in range(25)]
    found = read_pairs(write(tmp_path / "pairsDevTest.txt", "25\n" + "\n".join(lines)))
    for same in (True, False):
        counts = np.bincount([pair.fold for pair in found if pair.same is same])
        assert len(counts) == 10 and set(counts) <= {2, 3}


def test_tables(tmp_path: Path) -> None:
    path = write(tmp_path / "p.csv", 'a,b,same\nx/1.jpg,x/2.jpg,1\n"y,1.jpg",z.png,no\n')
    assert read_pairs(path) == [
        Pair("x/1.jpg", "x/2.jpg", True, 0),
        Pair("y,1.jpg", "z.png", False, 0),
    ]
    path = write(tmp_path / "p.csv", "fold, same, b, a\none,true,2,1\ntwo,0,3,1\none,0,3,2\n")
    assert read_pairs(path) == [
        Pair("1", "2", True, 0), Pair("1", "3", False, 1), Pair("2", "3", False, 0),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "empty"),
        ("\n\n", "empty"),
        ("hello\n", "line 1"),
        ("10 300 5\n", "line 1"),
        ("-1 300\n", "line 1"),
        ("0\n", "line 1"),
        ("99999999 99999999\nA\t1\t2\n", "there are 1"),
        ("1 1\nA\t1\t2\n", "there are 1"),
        ("1 1\nA\t1\t2\nA\t1\tB\t1\nA\t1\t3\n", "there are 3"),
        ("1 1\nA\t1\t2\nA\t1\tB\n", "line 3"),
        ("1 1\nA\t1\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\tone\t2\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t0\t2\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t1\t²\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t1\t999999999999999999999\nA\t1\tB\t1\n", "line 2"),
        ("1 1\nA\t1\t2\nA\t1\tA\t2\n", "line 3.*two people with one name"),
        ("3 2\n" + 2 * (3 * "A\t1\t2\n" + 3 * "A\t1\tB\t2\n"), "fold 1 has 3: correct the header"),
        ("6 1\n" + 2 * (3 * "A\t1\t2\n" + 3 * "A\t1\tB\t2\n"), "fold 1 has 2: correct the header"),
        ("1 1\n../../etc\t1\t2\nA\t1\tB\t1\n", "name must be"),
        ("1 1\n..\t1\t2\nA\t1\tB\t1\n", "name must be"),
        ("1 1\nA\t1\t2\nA\t1\tC:\\x\t1\n", "name must be"),
        ("a,b\n1,2\n", "columns"),
        ("a;b;same\n1;2;1\n", "commas"),
        ("a,b,same\n1,2\n", "row 2"),
        ("a,b,same\n1,2,1\n1,2,maybe\n", "row 3"),
        ("a,b,same\n1,2,1,4\n", "row 2"),
        ("a,b,same\n,2,1\n", "row 2"),
        ("a,b,same,fold\n1,2,1,0\n1,2,1,\n", "row 3"),
        ("1 1\nA\0\t1\t2\n", "not a text file"),
        ('a,b,same\n"1,2,0\n' + 9999 * "Somebody/1.jpg,1\n", "an unclosed quote"),
    ],
)
def test_malformed_lists_name_the_place(text: str, said: str, tmp_path: Path) -> None:
    path = write(tmp_path / "pairs.txt", text)
    with pytest.raises(UsageError, match=said) as error:
        read_pairs(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_lists_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (tmp_path, tmp_path / "nosuch.txt"):
        with pytest.raises(UsageError, match="cannot be read"):
            read_pairs(path)
    monkeypatch.setattr(limits, "MAX_PAIRS_BYTES", 10)
    with pytest.raises(UsageError, match="larger than"):
        read_pairs(write(tmp_path / "pairs.txt", "1 1\n" + "A\t1\t2\n" * 9))


@given(st.binary(max_size=60) | st.text("12 \tA/,.\nabsmef", max_size=60).map(str.encode))
def test_any_bytes_are_a_list_or_refused(tmp_path_factory: Any, data: bytes) -> None:
    path = tmp_path_factory.mktemp("pairs") / "pairs.txt"
    path.write_bytes(data)
    try:
        found = read_pairs(path)
    except UsageError as error:
        assert "\n" not in str(error)
    else:
        assert all(0 <= pair.fold < len(found) * 10 + 10 for pair in found)


# ------------------------------------------------------------------------------ pictures


@pytest.mark.parametrize(
    "place",
    ["A/A_0001.jpg", "A/A_0001.PNG", "lfw/A/A_0001.webp", "A_0001.jpeg",
     "lfw-deepfunneled/lfw-deepfunneled/A/A_0001.jpg"],
)  # fmt: skip
def test_pictures_of_lfw_are_found(place: str, tmp_path: Path) -> None:
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    assert locate(["A/A_0001", "A/A_0002"], tmp_path) == {"A/A_0001": path}


def test_a_flat_folder_is_for_names_that_say_whose_they_are(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").touch()
    assert locate(["x/1", "y/1"], tmp_path) == {}
    assert locate(["1.jpg"], tmp_path) == {"1.jpg": tmp_path / "1.jpg"}
    with pytest.raises(UsageError, match="no such folder"):
        locate(["1.jpg"], tmp_path / "nosuch")
    with pytest.raises(UsageError, match="no such folder"):
        locate(["1.jpg"], "")  # a variable that is not set, in a script
