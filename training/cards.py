"""What the cards of the shipped weights say, and `weights/README.md`, written from the files.

    python -m training.cards weights

Every figure comes out of the model files; a file that is not there has no card.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyface.formats.importer import sha256
from tinyface.formats.modelfile import Card, read_card
from training import groups
from training.alignment import is_the_pool

SHIPPED = Path(__file__).resolve().parent.parent / "weights"
Row = Sequence[str]


@dataclass(frozen=True)
class Text:
    """Of one kind of weights."""

    licence: str
    teachers: str
    notes: str


LICENCE = "Apache-2.0; learnt from pictures and teachers for research use only, see the notes"
TERMS = (
    "Apache-2.0 holds for what is this project's own in the weights. The pictures that they were "
    "learnt from were published for research, and so were those that their teachers had learnt "
    "from: use the weights for research, teaching and testing. The project can grant no more than "
    "that; for a product, train on pictures that you have the rights to (training/README.md)."
)
PICTURES = (
    "UTKFace (23,707 pictures, research use only); SCUT-FBP5500 (5,490, non-commercial research); "
    "pictures from the web by way of the repositories chandrikadeb7/Face-Mask-Detection (4,094), "
    "Karimashraf01/Face-Mask-Detection-using-MobilenetV2 (5,624) and "
    "Friendlykid/football-headshots (3,761); 703 generated faces of santaz-sahithi/"
    "InterfaceGAN{made}. No picture of LFW. Unlabelled: the weights copy their teachers' answers. "
)
MADE = (
    "; {made:,} faces of people who do not exist, by the MobileStyleGAN of random_face "
    "(Apache-2.0; a student of StyleGAN2, which had learnt from FFHQ: 70,000 pictures of Flickr, "
    "a collection under CC BY-NC-SA 4.0)"
)
RECOGNISER = Text(
    LICENCE,
    "Teachers: mobilefacenet.pt of foamliu/MobileFaceNet (Apache-2.0; trained on a "
    "refined MS-Celeb-1M, a collection for non-commercial research that its makers withdrew) and "
    "mobilefacenet-v1 of zuoqing1988/ZQCNN (MIT; its data are not stated).",
    TERMS + " Thresholds are from all pairs of a FaceScrub subset, found and aligned by the "
    "detector that ships; see weights/README.md.",
)
DETECTOR = Text(
    LICENCE,
    "Composed into scenes, several to a picture. Teacher: retinaface_mnet025.pth of "
    "biubug6/Pytorch_Retinaface (MIT; trained on WIDER FACE, for research use).",
    TERMS + " See weights/README.md.",
)

OWN_LICENCE = "to be said by who trained it; its teachers are for research use only, see the notes"
OWN_TERMS = (
    "Who trained the weights must say what the terms of their pictures allow. Their teachers had "
    "learnt from pictures that were published for research."
)
OWN_PICTURES = "{about}{made}. Unlabelled: the weights copy their teachers' answers. "

HEAD = """\
# The weights that ship

Written by `python -m training.package` from the model files beside it; do not edit. `tinyface
info NAME` prints the card that travels inside a file.

## What you may do with them

{terms}

That means for you: in a course, a paper, an experiment, on your own photographs, use them freely.
Do not use them in a product or a service, or for decisions about a person: the people in
the training pictures were not asked, the terms of the pictures allow research only, and the
figures below say how often the answers are wrong. Neither the pictures nor the teachers' weights
are in this project.
"""

TITLE = HEAD.partition("\n")[0]

RECOGNISER_TEXT = """\
**How it was measured.** {pictures} web pictures of {people} people (the validation set: a
FaceScrub subset by way of praysmld/face_matching_mvp, none of whose pictures was trained on). In
{found} of them the shipped detector found a face; the largest was aligned and embedded, without
mirrored pictures. All their pairs were compared: {same_pairs:,} of one person,
{different_pairs:,} of two. Accuracy is over ten folds by person, as many pairs of two people as
of one, the threshold chosen on nine folds; ± is the standard deviation of the folds.

LFW is not among our figures, because it is not among our data. Whoever has it can check these
weights: `tinyface evaluate pairs.txt --root lfw`.
"""

THRESHOLD_TEXT = """\
**Thresholds.** Two faces count as one person's where the cosine is at least the threshold.
`verify` takes that for a false-match rate (FMR) of 1e-3; `--fmr` chooses another. Intervals are
95 %, from 400 draws of people with replacement, since pairs that share a picture are not
independent.
"""

RECOGNISER_FAILS = """\
**Where it fails.** The lower rows of the first table are the same pictures, degraded. {groups}Not
measured, for want of labelled pictures: the same person years later, faces in profile, relatives,
real masks. The people of the test are actors, mostly photographed by professionals; a false-match
rate holds for people and pictures like those. Measure your own: `tinyface evaluate`.
"""

NO_GROUPS = (
    "People are not all confused equally often, small children and old people far more than other "
    "adults: **do not use it on children**. This card has no rates by age and origin; "
    "`training/groups.py` measures them. "
)

GROUPS_TEXT = """\
**Who is taken for another.** Of pairs of two people of one group, the share that the threshold for
1e-3 lets in. {pictures} pictures of UTKFace that were not trained on, by the labels in their names;
each counts as a person of its own, so that a few pairs of one person make the rates a little too
high. Men and women are those of 20 and older, origins are called as the set calls them. Intervals
are 95 %, from 400 draws of pictures with replacement. **Do not use it on children.**
"""

DETECTOR_TEXT = """\
**How it was measured.** Against the teacher's faces at 0.5 on pictures that were not trained on,
at the score that ships ({score:g}). *Found* is the share of the teacher's faces, *extra* counts
detections that the teacher does not share, *error* is the mean distance of the five landmarks
from the teacher's, over the distance of the eyes. *Recall* and the last two errors are against
YuNet's faces instead, beside the teacher's own figures. `portraits` and `identities` come from
sources that no training picture is of. All this is one look of the network at each picture;
`tinyface detect` looks more often, and does better (figures in `training/HISTORY.md`): at half or
double the size where it found nothing or something very small; closely at every face whose score
is doubtful or that is wider than 130 pixels in the network's picture, each in a square of its own
in which it is 150 pixels high; and turned where no face is sure (`turned`).
"""

DETECTOR_FAILS = """\
**Where it fails.** The table says it: covered faces (`faces_masks`, with and without masks) and
small or turned ones in a crowd (`composed`) are missed more often than large upright ones, and
their landmarks are less sure. How a face is aligned depends on them, and so does how well
it is recognised.
"""


def origin(
    task: str, training: Mapping[str, Any], about: str | None = None
) -> tuple[str, str, str]:
    """Licence, data and notes of weights: those of what ships if they learnt from its sets, and
    otherwise what `about` says of their pictures, or the names of the sets."""
    text = DETECTOR if task == "detect" else RECOGNISER
    made = MADE.format(made=training["made"]) if training.get("made") else ""
    if not about and is_the_pool(training.get("pool")):
        return text.licence, PICTURES.format(made=made) + text.teachers, text.notes
    about = (about or f"The maker's own sets: {training['pool']}").rstrip(". ")
    return OWN_LICENCE, OWN_PICTURES.format(about=about, made=made) + text.teachers, OWN_TERMS


def table(head: Row, rows: Sequence[Row]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(row) + " |" for row in lines) + "\n"


def threshold_rows(card: Card) -> list[Row]:
    """FMR, threshold and interval, pairs let in, TAR and interval."""
    points: Mapping[str, Any] = card.figures.get("operating_points", {})
    return [
        [rate, f"{p['threshold']:.4f}", _span(p["interval"], ".3f"),
         f"{p['let_in']} of {card.figures['different_pairs']:,}", f"{p['tar']:.1%}",
         _span(p["tar_interval"], ".1%")]
        for rate, p in points.items()
    ]  # fmt: skip


def _span(ends: Sequence[float], form: str) -> str:
    return " – ".join(f"{end:{form}}" for end in ends)


def readme(folder: Path) -> str:
    """The text for the model files in a folder."""
    parts = [HEAD.format(terms=textwrap.fill(TERMS, 98))]
    for path in sorted(folder.glob("*.safetensors")):
        card = read_card(path)
        body = detector_card if card.task == "detect" else recogniser_card
        parts += [f"## {path.name}\n", *facts(path, card), *body(card)]
    return "\n".join(parts)


def write(folder: Path) -> Path:
    """Write the README of a folder of weights."""
    path = folder / "README.md"
    path.write_text(readme(folder), encoding="utf-8")
    return path


def renew(folder: Path) -> str:
    """Write the README of a folder that is there for weights alone, and leave others as they are:
    their README and their files are somebody's. What was done, for the terminal."""
    path = folder / "README.md"
    ours = folder.resolve() == SHIPPED or (
        path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(TITLE)
    )
    return f"{write(folder)}: written" if ours else f"{path}: not written; it is not of weights"


def facts(path: Path, card: Card) -> Iterator[str]:
    """What is true of every file: size, checksums, data, cost of the storage."""
    p = card.preprocess
    yield table(["", ""], [
        ["file", f"{path.stat().st_size:,} bytes, SHA-256 `{sha256(path)}`"],
        ["weights", f"{card.source}; stored as {card.stored}; from a state of SHA-256 "
                    f"`{card.checksum}`"],
        ["input", f"{p.colour.upper()}, (x − {_numbers(p.mean)}) × {_numbers(p.scale)}"
                  + ("" if card.task == "detect" else f", {p.height}×{p.width}")],
        ["data", card.data],
    ])  # fmt: skip
    what = "relative difference of an output" if card.task == "detect" else "1 − cosine"
    yield (
        f"**What {card.stored} costs**, against the weights as trained, on the sample pictures: "
        f"largest {what} {card.figures['storage_costs']:.1e}."
        + ("" if card.stored == "float16" else " That is the engines' rounding.")
    )
    changes = card.figures.get("storage_changes")
    if changes:
        yield (
            f"In the pair test it changes the accuracy by {100 * changes['accuracy']:+.2f} points, "
            f"the AUC by {changes['auc']:+.4f}, TAR at FMR 1e-3 by "
            f"{100 * changes['tar@1e-03']:+.2f} points."
        )
    yield ""


def _numbers(values: Sequence[float]) -> str:
    shown = [f"{v:.6g}" for v in values]
    return shown[0] if len(set(shown)) == 1 else f"({', '.join(shown)})"


def recogniser_card(card: Card) -> Iterator[str]:
    """Figures, thresholds, failures; only the training's own where nothing else was measured."""
    f = card.figures
    yield f"**Training.** {_training(f['training'])} How to repeat it: `training/README.md`.\n"
    if "operating_points" not in f:
        yield "No thresholds: they were not measured.\n"
        return
    yield RECOGNISER_TEXT.format(**f)
    rows = [("found and aligned by the detector", f),
            ("aligned by landmarks that came with the pictures", f["landmarks_given"]),
            *(("the first, " + name, figures) for name, figures in f["hard"].items())]  # fmt: skip
    yield table(["faces", "accuracy", "AUC", "TAR at FMR 1e-2", "at 1e-3"], [
        [name, f"{r['accuracy']:.2%} ± {r['deviation']:.2%}", f"{r['auc']:.4f}",
         f"{r['tar@1e-02']:.1%}", f"{r['tar@1e-03']:.1%}"] for name, r in rows])  # fmt: skip
    yield THRESHOLD_TEXT
    yield table(
        ["FMR", "threshold", "interval", "false matches", "TAR", "interval"], threshold_rows(card)
    )
    if "groups" in f:
        yield GROUPS_TEXT.format(pictures=f["groups"]["everyone"]["pictures"])
        yield table(
            ["people", "pictures", "pairs", "false matches", "interval"], groups.rows(f["groups"])
        )
    yield _filled(RECOGNISER_FAILS.format(groups="" if "groups" in f else NO_GROUPS))


def _filled(paragraph: str) -> str:
    return textwrap.fill(paragraph, 98) + "\n"


def _training(figures: Mapping[str, Any]) -> str:
    """How long, and how near to the teachers, as far as the training's own card says."""
    text = f"{figures['samples']:,} samples"
    if "minutes" in figures:
        text += f" in {figures['minutes']:.0f} minutes"
    if "held_out_cosine" in figures:
        near = figures["held_out_cosine"]
        text += f"; cosine to the teachers' embeddings on held-out pictures {near:.3f}"
    return f"{text}."


def detector_card(card: Card) -> Iterator[str]:
    """Figures by set of pictures, and failures."""
    f = card.figures
    t = f["training"]
    yield (
        f"**Training.** {t['pictures']:,} composed pictures in {t['steps']:,} steps. How to repeat "
        "it: `training/README.md`.\n"
    )
    yield DETECTOR_TEXT.format(score=f["at_score"])
    sets = {name: v for name, v in f.items() if isinstance(v, Mapping) and "found" in v}
    yield table(["pictures", "", "teacher's faces", "found", "extra", "error", "recall (teacher)",
                 "error to YuNet (teacher)"], [
        [name, str(v["pictures"]), str(v["teacher_faces"]), f"{v['found']:.1%}",
         str(v["not_in_teacher"]), f"{v['error_mean']:.1%}", *_beside(v)]
        for name, v in sets.items()])  # fmt: skip
    empty = f["no_face"]
    yield (
        f"Of {empty['pictures']} pictures without a face, {empty['alarms']} gave a detection "
        f"(the teacher: {empty['teacher_alarms']}).\n"
    )
    yield DETECTOR_FAILS


def _beside(entry: Mapping[str, Any]) -> list[str]:
    """Recall and landmark error against the table of the pictures, the teacher's in brackets."""
    if "csv" not in entry:
        return ["", ""]
    own, teacher = entry["csv"], entry["csv_teacher"]
    return [f"{own[k]:.1%} ({teacher[k]:.1%})" for k in ("recall", "error_mean")]


if __name__ == "__main__":
    print(write(Path(sys.argv[1])))
