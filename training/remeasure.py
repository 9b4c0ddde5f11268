"""Measure packed recognisers anew: what finds or aligns faces has changed, the weights have not.

    python -m training.remeasure --people DIR weights/fdfacenet.safetensors weights/dwfn.safetensors

Each file gets the thresholds and figures of today's pair test (`--people` as for
`training.package`) and keeps its weights, bit by bit, and what its storage costs; the README
beside it is written anew if it is one of weights.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tinyface.errors import TinyfaceError, UsageError
from tinyface.formats.modelfile import load_model, save_model
from tinyface.model import Model
from training import cards
from training.package import with_figures


def remeasure(path: Path, people: Path, detector: str | None = None) -> list[list[str]]:
    """Write the file's card anew; its thresholds as rows for the terminal.

    Raises:
        TinyfaceError: the file cannot be read, or is no recogniser's.
    """
    graph, card = load_model(path)
    if card.task != "embed":
        raise UsageError(f"{path}: is no recogniser; a detector is measured by training.detector")
    card = with_figures(card, Model(graph, card), people, detector)
    save_model(path, graph, card, card.stored)
    return cards.threshold_rows(card)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("models", type=Path, nargs="+", help="model files")
    add("--people", type=Path, required=True, help="folder of validation_identities")
    add("--detector", help="that finds the faces; the default one if left out")
    args = parser.parse_args()
    try:
        for path in args.models:
            rows = remeasure(path, args.people, args.detector)
            print("\n".join([f"{path}: measured", *(" ".join(row) for row in rows)]))
        for folder in {path.parent for path in args.models}:
            print(cards.renew(folder))
    except TinyfaceError as error:
        print(f"training.remeasure: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
