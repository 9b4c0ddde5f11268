"""The ROC of ``tinyface evaluate --plot``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tinyface import plots

if TYPE_CHECKING:
    from tinyface.faces.evaluate import Report

INK: Final = "#1f4e79"


def draw(path: str, report: Report, name: str) -> None:
    """True-accept rate over false-accept rate, the latter on a logarithmic axis.

    The axis ends where one impostor is accepted: below, these pairs say nothing.
    """
    figure = plots.figure(6.4, 4.8, dpi=150)
    axes = figure.add_subplot()
    far, tar = report.roc
    impostors = max((point.fmr.total for point in report.points), default=report.different)
    left = 1 / max(2, impostors)
    axes.step(far.clip(left / 2), tar, where="post", color=INK, linewidth=1.8)
    for point in report.points:
        if point.resolved:
            axes.plot([point.rate], [point.tar.value], "o", color=INK, markersize=5)
            low, high = point.tar.interval
            axes.plot([point.rate] * 2, [low, high], color=INK, linewidth=1)
            axes.annotate(
                f"{point.tar.value:.1%} at {point.rate:g}", (point.rate, point.tar.value),
                xytext=(7, -12), textcoords="offset points", fontsize=9,
            )  # fmt: skip
    chance = [left * (1 / left) ** (i / 100) for i in range(101)]
    axes.plot(chance, chance, color="0.6", linewidth=1, linestyle=":", label="by chance")
    axes.set(xscale="log", xlim=(left, 1), ylim=(0, 1.02))
    axes.set_xlabel("false-accept rate: pairs of two people that are accepted")
    axes.set_ylabel("true-accept rate: pairs of one person that are")
    pairs = f"{report.same} pairs of one person, {report.different} of two"
    accuracy = f"accuracy {report.accuracy:.2%} ± {report.deviation:.2%}"
    axes.set_title(f"{name}: {pairs}\n{accuracy}, AUC {report.auc:.4f}", fontsize=10)
    axes.grid(True, which="major", color="0.88")
    axes.legend(loc="lower right", frameon=False, fontsize=9)
    plots.save(figure, path)
