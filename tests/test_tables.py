"""The FDFaceNet paper's tables: which of its figures our counts explain, and by which rule."""

from __future__ import annotations

import pytest

from tinyface import networks
from tinyface.builder import Builder
from tinyface.ops import GlobalAveragePool, MaxPool, ReLU
from tinyface.traffic.tables import Figure, Row, counts, rows

ROWS = {row.title: row for row in rows()}


def tiny() -> Builder:
    return Builder("tiny")


def test_counts_by_hand() -> None:
    """3x4x4 -> conv 2x4x4, BN, ReLU, pool 2x2x2, mean, flatten, FC 5, BN."""
    b = tiny()
    x = b.conv(b.input("input", (1, 3, 4, 4)), 2, 3, pad=1, key="conv")
    x = b.apply(ReLU(), b.batch_norm(x, key="bn"))
    x = b.apply(MaxPool(kernel=(2, 2), stride=(2, 2)), x)
    x = b.linear(_flat(b, b.apply(GlobalAveragePool(), x)), 5, key="fc")
    c = counts(b.build(b.batch_norm(x, key="bn1")))
    assert c.params == 2 * 27 + 4 + 15 + 10
    assert c.macs == 32 * 27 + 10
    assert c.macs_paper == c.macs + 2 * (32 + 5) + 32
    assert c.macs_pooled == c.macs_paper + 32 + 8
    assert c.fmap_folded == 8 * (32 + 32 + 5)
    assert c.fmap_unfused == c.fmap_folded + 8 * (32 + 5 + 8 + 2 + 2)
    assert c.fmap_tail == c.fmap_folded + 8 * (2 + 5)
    assert c.fmap_conv == 4 * 32


def _flat(b: Builder, x: str) -> str:
    from tinyface.networks.blocks import flatten

    return flatten(b, x)


# F by both rules in MB: unfused, folded
PRINTED_F = {
    "FDFaceNet (FDFN)": (7.387, 4.919),
    "FDFN*": (7.44, 4.915),
    "NFN": (21.916, 14.605),
    "DWFN* x1.25": (40.00, 26.61),
    "MobileFaceNet": (73.37, 47.72),
    "ShuffleFaceNet x1.0": (37.72, 23.91),
    "LightFaceNet": (48.083, 31.516),
    "ProxylessFaceNAS": (208.46, 136.2),
    "CNN-8": (87.32, 58.212),
    "CNN-8-DS": (127.29, 84.856),
    "CNN-8-FD x0.5": (14.54, 9.692),
    "CNN-8-FD-Pooling x0.75": (55.48, 34.74),
}


@pytest.mark.parametrize("title", PRINTED_F)
def test_feature_map_output_by_both_rules(title: str) -> None:
    computed = ROWS[title].fmap.computed
    unfused, folded = PRINTED_F[title]
    assert computed["U"] == pytest.approx(unfused, abs=6e-3)
    assert computed["Z"] == pytest.approx(folded, abs=6e-2 if title == "ProxylessFaceNAS" else 6e-3)


# which rule explains the printed feature-map output
RULE = {
    "FDFaceNet (FDFN)": "U", "NFN": "U", "MobileFaceNet": "U", "ShuffleFaceNet x1.0": "U",
    "LightFaceNet": "U", "FDFN*": "Z", "DWFN* x1.25": "Z+tail", "CNN-8-DS": "Z",
    "CNN-14-DS x0.5": "Z", "CNN-14-DS x0.75": "Z", "CNN-14-DS x1": "Z", "CNN-14-DS x1.25": "Z",
    "CNN-8-FD x0.5": "Z", "CNN-8-FD x0.75": "Z", "CNN-8-FD x1": "Z", "CNN-8-FD x1.25": "Z",
    "CNN-8 (32x32)": "Z", "CNN-8-DS (32x32)": "Z", "CNN-14-DS (32x32)": "Z",
}  # fmt: skip


@pytest.mark.parametrize("title", RULE)
def test_the_rule_that_fits(title: str) -> None:
    row = ROWS[title]
    assert RULE[title] in row.fmap.fits
    assert not {"U", "Z"} <= set(row.fmap.fits), "the rules must be told apart"
    assert "paper" in row.macs.fits


def test_one_table_mixes_two_rules() -> None:
    """FDFaceNet and NFN are printed unfused, DWFN* folded: not comparable as printed."""
    faces = [row for row in ROWS.values() if row.table == "9, 10, 11" and row.fmap.fits]
    assert {"U"} <= {row.fmap.fits[0] for row in faces}
    assert any("U" not in row.fmap.fits for row in faces)


def test_misfits_are_flagged() -> None:
    misfits = {row.title: row.misfits for row in ROWS.values() if row.misfits}
    assert misfits == {
        "CNN-8-FD-Pooling x0.5": ("fmap",),
        "CNN-8-FD-Pooling x0.75": ("fmap",),
        "ProxylessFaceNAS": ("params", "macs", "fmap"),
        "VGG16": ("macs",),
    }
    for title in misfits:
        assert ROWS[title].note or title == "VGG16"


def test_what_cannot_be_built_says_so() -> None:
    unknown = [row for row in ROWS.values() if not row.network]
    assert [row.macs.printed for row in unknown] == ["113", "132", "264"]
    assert all("cannot be built" in row.note and not row.macs.computed for row in unknown)


def test_rows_name_networks_of_the_registry() -> None:
    def shown(row: Row) -> dict[str, str]:
        figures = {"params_M": row.params, "macs_M": row.macs, "fmap_MB": row.fmap}
        return {key: figure.printed for key, figure in figures.items() if figure.printed}

    for row in ROWS.values():
        if row.network:
            assert shown(row) == networks.find(row.network).figures


@pytest.mark.parametrize(
    ("printed", "value", "fits", "near"),
    [
        ("7.39", 7.387, True, False), ("132", 132.92, True, False), ("133", 132.92, True, False),
        ("131", 132.92, False, False), ("132.5", 132.92, False, True), ("4.9", 4.985, True, False),
        ("0.40", 0.3954, True, False), ("0.40", 0.3899, False, False), ("", 5.0, False, False),
    ],
)  # fmt: skip
def test_fitting(printed: str, value: float, fits: bool, near: bool) -> None:
    figure = Figure(printed, {"rule": value})
    assert (bool(figure.fits), bool(figure.near)) == (fits, near)
    assert figure.misfit == (bool(printed) and not fits and not near)
