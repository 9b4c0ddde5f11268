"""``tinyface verify``: the same person or not."""

from __future__ import annotations

import click

from tinyface.cli import common

DIFFERENT = 10  # exit status


@click.command("verify", short_help="Are two pictures of the same person?")
@click.argument("a", metavar="A")
@click.argument("b", metavar="B")
@common.model_option
@common.decision_options
@common.aligned_option
@common.detector_option
@common.engine_options
@common.weights_option
@common.json_option
def command(
    a: str,
    b: str,
    model: str | None,
    fmr: float | None,
    threshold: float | None,
    aligned: bool,
    detector: str | None,
    backend: str,
    threads: int | None,
    weights: str,
    as_json: bool,
) -> int:
    """Say whether the largest faces of two pictures are of the same person.

    Prints the cosine similarity of their embeddings and the threshold it is compared with.
    Exit status: 0 the same, 10 different; 1, 2 or 3 if there is no answer.

    \b
    Example:
      tinyface verify one.jpg other.jpg
      tinyface verify one.jpg other.jpg --fmr 1e-4 && echo welcome
    """
    from tinyface.faces.verify import verify

    rate = common.decisive_rate(fmr, threshold)
    recogniser = common.load_model(model, detector, backend, threads, weights)
    answer = verify(a, b, recogniser, aligned=aligned, fmr=rate, threshold=threshold)
    for name, taken in zip((a, b), answer.faces or (), strict=False):
        common.note_choice(name, taken.face, taken.of)
    if as_json:
        common.print_json("verify/1", {"a": a, "b": b, **answer.to_json()})
    else:
        basis = "yours" if answer.fmr is None else f"false-match rate {answer.fmr:g}"
        click.echo(
            f"{'same' if answer.same else 'different'}  cosine={answer.cosine:.4f}  "
            f"threshold={answer.threshold:.4f} ({basis}, {answer.model})"
        )
    return 0 if answer.same else DIFFERENT
