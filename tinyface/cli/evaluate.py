"""``tinyface evaluate``: how well a recogniser tells people apart, on pairs that you know."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from tinyface import plots
from tinyface.cli import common
from tinyface.cli.batch import load_model
from tinyface.cli.common import origin
from tinyface.errors import UsageError

if TYPE_CHECKING:
    from tinyface.faces.evaluate import Evaluation, OnFailure, Report
    from tinyface.faces.metrics import OperatingPoint, Share
    from tinyface.faces.pairs import Pair, PairList


@click.command("evaluate", short_help="Accuracy on pairs of pictures: the LFW protocol.")
@click.argument("pairs", metavar="PAIRS")
@click.option("--root", metavar="DIR", required=True, help="The folder of the pictures.")
@common.model_option
@common.aligned_option
@click.option("--flip", is_flag=True, help="Add the embedding of the mirrored picture.")
@click.option(
    "--face", type=click.Choice(["largest", "central"]),
    help="Of several faces in a picture: the largest, as 'embed' does, or the one in the "
    "middle.  [default: central for LFW's list, whose people stand there; else largest]",
)  # fmt: skip
@click.option(
    "--on-failure", type=click.Choice(["wrong", "skip"]), default="wrong", show_default=True,
    help="Pairs with a picture in which no face is found: wrong answers, or left out.",
)  # fmt: skip
@click.option(
    "--fmr", type=common.Rate(), multiple=True, default=(1e-2, 1e-3), show_default=True,
    metavar="RATE", help="False-match rate to find a threshold for. May be repeated.",
)  # fmt: skip
@click.option("-o", "--output", metavar="FILE.csv", help="Write the score of every pair.")
@click.option("--plot", metavar="FILE", help="Draw the ROC: .png, .svg or .pdf (needs matplotlib).")
@common.detector_option
@common.engine_options
@common.weights_option
@common.json_option
def command(
    pairs: str,
    root: str,
    model: str | None,
    aligned: bool,
    flip: bool,
    face: str | None,
    on_failure: OnFailure,
    fmr: tuple[float, ...],
    output: str | None,
    plot: str | None,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str,
    as_json: bool,
) -> int:
    """Compare pairs of pictures of which you know whether they show the same person.

    PAIRS is LFW's pairs.txt, or a CSV file with the columns a, b, same (1 or 0) and, if you
    like, fold. Pictures of LFW are found below DIR as Name/Name_0001.jpg (or .png, .webp).

    Accuracy is LFW's: for each of ten folds the threshold that is best on the nine others;
    mean and standard deviation of the ten. The threshold at a false-match rate is the smallest
    that accepts no more than that share of the N pairs of different people, rounded down to
    whole pairs; intervals are 95 %, for independent pairs.

    \b
    Example:
      tinyface evaluate pairs.txt --root lfw
      tinyface evaluate pairs.txt --root lfw-112 --aligned --flip --plot roc.png
    """
    from tinyface.cli import roc
    from tinyface.faces.evaluate import evaluate
    from tinyface.faces.pairs import pictures, usual_face

    common.check_folders(output, plot, inputs=[pairs, model or "", detector or ""])
    listed = read_list(pairs, root, output, plot)
    _check_forms(output, plot)
    face = face or usual_face(listed)
    count = len(pictures(listed))
    recogniser, at_once = load_model(count, model, detector, backend, threads, weights)
    _ = aligned or recogniser.detector  # that none is installed is said before the work
    with common.progress_bar(count, "embedding") as advance:
        done = evaluate(
            recogniser, listed, root, aligned=aligned, flip=flip, central=face == "central",
            on_failure=on_failure, rates=fmr, at_once=at_once, progress=advance,
        )  # fmt: skip
    report_failures(done)
    if output:
        write_scores(output, listed, done)
    if plot:
        roc.draw(plot, done.report, recogniser.name)
    if as_json:
        how = {"model": recogniser.name, "weights": weights, "list": pairs, "root": root,
               "aligned": aligned, "flip": flip, "face": face}  # fmt: skip
        common.print_json("evaluate/1", how | origin(model, detector, aligned) | to_json(done))
    else:
        print_report(done.report, recogniser.name, "" if aligned else face)
    return 1 if done.failures else 0


def _check_forms(output: str | None, plot: str | None) -> None:
    """UsageError where a file to write is named like one of another kind, which would be lost."""
    plots.check(plot)
    if output and not output.lower().endswith(".csv"):
        raise UsageError(f"{output}: the scores are a table; name a file that ends with .csv")


def read_list(path: str, root: str, *outputs: str | None) -> PairList:
    """The pairs; UsageError where an output is one of their pictures, which would be lost."""
    from tinyface.faces.pairs import locate, pictures, read_pairs

    listed = read_pairs(path)
    if any(outputs):
        common.check_kept(map(str, locate(pictures(listed), root).values()), *outputs)
    return listed


def to_json(done: Evaluation) -> dict[str, Any]:
    """The report, and which pictures failed."""
    failed = common.failed(done.failures)
    return {"pictures": {"total": done.pictures, "failed": failed}, **done.report.to_json()}


def report_failures(done: Evaluation) -> None:
    """On stderr: every picture that failed, and what becomes of its pairs."""
    for name, why in done.failures.items():
        common.note(why if name in why else f"{name}: {why}")
    if done.failures:
        fate = "left out" if done.report.on_failure == "skip" else "counted as wrong"
        common.note(
            f"{len(done.failures)} of {done.pictures} pictures failed: "
            f"{done.report.failed} pairs are {fate}"
        )


def print_report(report: Report, name: str, face: str) -> None:
    """The figures for people; ``face``: which one was taken of several, "" for crops."""
    failed = f", {report.failed} failed ({report.on_failure})" if report.failed else ""
    click.echo(
        f"{name}: {report.same} pairs of one person, {report.different} of two{failed}, "
        f"{len(report.accuracies)} folds" + (f", {face} face of a picture" if face else "")
    )
    click.echo(
        f"accuracy    {report.accuracy:.2%} ± {report.deviation:.2%} (deviation over the folds; "
        f"standard error {report.standard_error:.2%}), threshold {report.thresholds.mean():.4f}"
    )
    click.echo(f"AUC         {report.auc:.5f}")
    click.echo(f"equal error {report.eer:.2%} at {report.eer_threshold:.4f}")
    common.print_table(
        ["FMR", "threshold", "95 %", "false matches", "95 %", "TAR", "95 %", ""],
        [_row(point) for point in report.points],
        right=range(7),
    )


def _row(point: OperatingPoint) -> list[str]:
    low, high = point.interval
    let_in = f"{point.fmr.count} of {point.fmr.total}"
    return [
        f"{point.rate:g}", f"{point.threshold:.4f}",
        f"{low:.4f} … {'?' if high is None else f'{high:.4f}'}",
        let_in, _interval(point.fmr), f"{point.tar.value:.2%}", _interval(point.tar),
        "" if point.resolved else "too few pairs of two people to tell",
    ]  # fmt: skip


def _interval(share: Share) -> str:
    low, high = share.interval
    return f"{low:.2%} … {high:.2%}"


def write_scores(path: str, pairs: Sequence[Pair], done: Evaluation) -> None:
    """a, b, same, fold, score; the score of a pair that failed is empty."""
    from tinyface.files import atomic_write

    how: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with atomic_write(path, "w", **how) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["a", "b", "same", "fold", "score"])
        for pair, score in zip(pairs, done.scores, strict=True):
            shown = "" if score != score else f"{score:.9g}"
            writer.writerow([pair.a, pair.b, int(pair.same), pair.fold, shown])
    common.note(f"{path}: scores of {len(pairs)} pairs")
