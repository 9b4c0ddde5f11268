"""Make the model files that ship: trained weights with a card, checked against PyTorch.

    python -m training.package detector --state detector_state.safetensors \\
        --card detector_card.json -o weights/detector.safetensors
    python -m training.package fdfacenet --state fdfacenet_state.safetensors \\
        --card fdfacenet_state.json --people DIR -o weights/fdfacenet.safetensors

The state is a safetensors file of PyTorch's tensors, under the names that the network has in the
registry; the card is the JSON that the training wrote beside it. `--people` names the folder of
`validation_identities.zip` and `.csv`: from its pairs come a recogniser's thresholds; where the
pool's archives lie there, too, from the held-out ones the false matches by age and origin. The same
input gives the same bytes. `weights/README.md` is written anew from what lies beside it; another
folder's README is left as it is, unless it was written so before.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinyface import modelstore
from tinyface.errors import ModelError, TinyfaceError, UsageError
from tinyface.faces.locate import load_detector
from tinyface.formats.importer import import_file, sha256
from tinyface.formats.modelfile import Card, load_model, save_model
from tinyface.graph import Graph
from tinyface.model import Model, l2_normalise
from tinyface.runtime import Session
from tinyface.vision.image import read_image, resize
from training import cards

MAX_BYTES = 7_000_000
ALIASES = {"detector": "retinaface-mnet0.25"}
PICTURES = Path(__file__).resolve().parent.parent / "tests" / "images"
LOADING = 1e-4  # largest relative difference to PyTorch with the same, rounded weights
ROUNDING = 1e-3  # largest 1 - cosine (a detector's relative difference) that float16 may cost

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Packed:
    """A written model and what was measured on it."""

    path: Path
    card: Card
    loading: float
    rounding: float

    def lines(self) -> list[str]:
        """For the terminal."""
        size = self.path.stat().st_size
        what = "relative difference of the outputs" if self.card.task == "detect" else "1 - cosine"
        lines = [
            f"{self.path}: {size} bytes, {self.card.stored}, sha256 {sha256(self.path)}",
            f"against PyTorch with the stored weights: relative difference {self.loading:.1e}",
            f"cost of the storage: largest {what} {self.rounding:.1e}",
        ]
        rows = cards.threshold_rows(self.card)
        return lines + [" ".join(row) for row in rows]


# -------------------------------------------------------------------- against PyTorch


def module(network: str) -> Any:
    """The training's own definition of a network of the registry."""
    from training.detector_net import RetinaFace
    from training.networks import NETWORKS

    known = {**NETWORKS, "retinaface-mnet0.25": RetinaFace}
    if network not in known:
        raise UsageError(f"{network} is not trained here; there are {', '.join(sorted(known))}")
    return known[network]()


def torch_outputs(network: str, state: Arrays, inputs: list[NDArray[np.float32]]) -> list[Arrays]:
    """The outputs that PyTorch gives, under the names of tinyface's graph."""
    import torch

    net = module(network).eval()
    tensors = {key: torch.from_numpy(np.array(value)) for key, value in state.items()}
    missing, unexpected = net.load_state_dict(tensors, strict=False)
    wrong = [*unexpected, *(key for key in missing if not key.endswith("num_batches_tracked"))]
    if wrong:
        raise ModelError(f"{network}: tensors that do not fit the training's network: {wrong[:5]}")
    outputs: list[Arrays] = []
    with torch.inference_mode():
        for x in inputs:
            y = net(torch.from_numpy(x))
            if isinstance(y, torch.Tensor):
                outputs.append({"embedding": y.numpy()})
            else:
                conf = y.logits.softmax(-1)
                outputs.append({"loc": y.box.numpy(), "conf": conf.numpy(),
                                "landms": y.landmarks.numpy()})  # fmt: skip
    return outputs


def sample_inputs(card: Card) -> list[NDArray[np.float32]]:
    """The sample pictures and noise, prepared as the card says."""
    p = card.preprocess
    noise = np.random.default_rng(0).integers(0, 256, (p.height, p.width, 3), dtype=np.uint8)
    side = 320 if card.task == "detect" else None
    pictures = [noise]
    for path in sorted(PICTURES.glob("*.jpg")):
        rgb = read_image(path, max_side=side)
        pictures.append(rgb if side else resize(rgb, p.height, p.width))
    return [p.apply(rgb[None]) for rgb in pictures]


def apart(found: list[Arrays], wanted: list[Arrays]) -> float:
    """Largest difference of two runs, relative to the largest value of each output."""
    return max(
        float(np.abs(f[name] - w[name]).max() / np.abs(w[name]).max())
        for f, w in zip(found, wanted, strict=True)
        for name in w
    )


def turned(found: list[Arrays], wanted: list[Arrays]) -> float:
    """Largest 1 - cosine of two runs' embeddings."""
    return max(
        float(1 - (l2_normalise(f["embedding"]) * l2_normalise(w["embedding"])).sum(1).min())
        for f, w in zip(found, wanted, strict=True)
    )


def check(path: Path, network: str, state: Arrays) -> tuple[float, float]:
    """(difference to PyTorch with the stored weights, cost of the storage) of a written model.

    Raises:
        ModelError: one of them is more than rounding explains.
    """
    graph, card = load_model(path)
    inputs = sample_inputs(card)
    session = Session(graph)
    found = [session.run(x) for x in inputs]
    kind = np.dtype(card.stored)
    stored = {key: value.astype(kind).astype(np.float32) for key, value in state.items()}
    loading = apart(found, torch_outputs(network, stored, inputs))
    wanted = torch_outputs(network, state, inputs)
    rounding = (apart if card.task == "detect" else turned)(found, wanted)
    if not loading <= LOADING:
        raise ModelError(f"{path}: differs from PyTorch by {loading:.1e}; allowed is {LOADING:g}")
    if not rounding <= ROUNDING:
        raise ModelError(f"{path}: {card.stored} costs {rounding:.1e}, more than {ROUNDING:g}")
    return loading, rounding


# -------------------------------------------------------------------------------- the card


def describe(card: Card, network: str, name: str, trained: Mapping[str, Any],
             about: str | None = None) -> Card:  # fmt: skip
    """The card with name, terms, data and the training's own figures; no thresholds yet."""
    figures: dict[str, Any]
    if card.task == "detect":
        detector = {**card.detector, "score": trained["threshold"], "overlap": trained["nms_iou"],
                    "doubt": list(trained["doubt"])}  # fmt: skip
        figures = {"at_score": trained["threshold"],
                   **detector_figures(trained["figures"], f"{trained['threshold']:g}"),
                   "training": _plain(trained["training"])}  # fmt: skip
    else:
        detector = dict(card.detector)
        figures = {"training": _plain(trained)}
    licence, data, notes = cards.origin(card.task, figures["training"], about)
    return replace(card, name=name, detector=detector, figures=figures,
                   source=f"trained for tinyface, from random weights; network {network}",
                   licence=licence, data=data, notes=notes)  # fmt: skip


def detector_figures(figures: Mapping[str, Any], score: str) -> dict[str, Any]:
    """Of every set of pictures, what was measured at the score that ships."""
    return {name: {"pictures": entry["pictures"], **_plain(entry[score])}
            for name, entry in figures.items()}  # fmt: skip


def _plain(table: Mapping[str, Any]) -> dict[str, Any]:
    """Without what is no finite number or short text: a card holds nothing else."""
    result: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, dict):
            result[key] = _plain(value)
        elif isinstance(value, str) or (isinstance(value, int | float) and math.isfinite(value)):
            result[key] = round(value, 5) if isinstance(value, float) else value
    return result


def with_figures(card: Card, model: Model, data: Path, detector: str | None) -> Card:
    """The card with the thresholds and figures that the model has in the pair test, whose faces
    are found by the detector that ships or by a file, and in the groups of the pool."""
    from training import groups
    from training.alignment import POOL
    from training.identities import examine

    figures = examine(model, data, load_detector(detector))
    thresholds = {rate: point["threshold"] for rate, point in figures["operating_points"].items()}
    there = all((data / f"{name}.zip").exists() for name in POOL)
    if there and groups.never_saw(card):
        figures["groups"] = groups.examine(model, data, thresholds[groups.RATE])
    figures["found_by"] = sha256(Path(detector) if detector else modelstore.default("detect"))
    return replace(card, thresholds=thresholds, figures={**card.figures, **figures})


def measured(graph: Graph, card: Card, data: Path, detector: str | None, dtype: str) -> Card:
    """The card with figures and thresholds from the pair test, by the weights as they are stored;
    the full-precision weights take it, too, and the difference goes into the card."""
    from training.identities import brief, embed, given

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.safetensors"
        save_model(path, graph, card, dtype)
        model = Model(*load_model(path))
    card = with_figures(card, model, data, detector)
    people = given(data, (card.preprocess.height, card.preprocess.width))
    whole = brief(embed(Model(graph, card), people.crops), people.names)
    stored = card.figures["landmarks_given"]
    cost = {key: round(stored[key] - whole[key], 5) for key in whole}
    return replace(card, figures={**card.figures, "storage_changes": cost})


# --------------------------------------------------------------------------------- the work


def package(network: str, state: Path, trained: Path, out: Path, *, name: str | None = None,
            dtype: str | None = None, people: Path | None = None, detector: str | None = None,
            about: str | None = None) -> Packed:  # fmt: skip
    """Write a model file; nothing is written where a check fails.

    Raises:
        TinyfaceError: the state does not fit, the file is too large, or a check fails.
    """
    entry = ALIASES.get(network, network)
    imported = import_file(state, entry)
    card = describe(imported.card, entry, name or network,
                    json.loads(trained.read_text(encoding="utf-8")), about)  # fmt: skip
    dtype = dtype or ("float32" if card.task == "detect" else "float16")
    if people is not None and card.task == "embed":
        card = measured(imported.graph, card, people, detector, dtype)
    with tempfile.TemporaryDirectory() as folder:
        draft = Path(folder) / "model.safetensors"
        save_model(draft, imported.graph, card, dtype)
        if draft.stat().st_size > MAX_BYTES:
            raise ModelError(f"{out}: {draft.stat().st_size} bytes, over {MAX_BYTES}; use float16")
        weights = {key: np.asarray(value) for key, value in imported.graph.params.items()}
        loading, rounding = check(draft, entry, weights)
    stored = float(f"{rounding:.2g}")
    card = replace(card, figures={**card.figures, "storage_costs": stored})
    save_model(out, imported.graph, card, dtype)
    return Packed(out, load_model(out)[1], loading, rounding)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("network", help="of the registry; 'detector' is retinaface-mnet0.25")
    add("--state", type=Path, required=True, help="safetensors of PyTorch's tensors")
    add("--card", type=Path, required=True, help="what the training wrote beside it")
    add("-o", "--output", type=Path, required=True, help="the model file")
    add("--name", help="of the weights; the network's if left out")
    add("--dtype", choices=["float16", "float32"],
        help="how weights are stored; by default float16, float32 for a detector")  # fmt: skip
    add("--people", type=Path, help="folder of validation_identities; no thresholds without it")
    add("--detector", help="that finds the faces of --people; the default one if left out")
    add("--about", help="where the pictures are from and what may be done with them, for the "
                        "card; needed if they are not those of what ships")  # fmt: skip
    args = parser.parse_args()
    try:
        packed = package(args.network, args.state, args.card, args.output, name=args.name,
                         dtype=args.dtype, people=args.people, detector=args.detector,
                         about=args.about)  # fmt: skip
        readme = cards.renew(args.output.parent)
    except TinyfaceError as error:
        print(f"training.package: {error}", file=sys.stderr)
        return error.exit_code
    print("\n".join([*packed.lines(), readme]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
