"""Small things that the tests of training share. Only for tests that have asked for ``torch``."""

from __future__ import annotations

import csv
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

torch = pytest.importorskip("torch")

from training.alignment import LANDMARKS, TEMPLATE  # noqa: E402
from training.detector_net import RetinaFace  # noqa: E402


def random_net(seed: int) -> RetinaFace:
    """A detector whose batch norms are not the identity."""
    torch.manual_seed(seed)
    net = RetinaFace()
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.running_mean, -0.5, 0.5)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5)
    return net.eval()


def png(picture: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, "PNG", **how)
    return file.getvalue()


def write_set(folder: Path, name: str, pictures: int | Sequence[str]) -> None:
    """An archive of grey pictures, so many or of these names, and the table of their landmarks."""
    names = [f"{i}.png" for i in range(pictures)] if isinstance(pictures, int) else pictures
    with (
        zipfile.ZipFile(folder / f"{name}.zip", "w") as archive,
        open(folder / f"{name}.csv", "w", newline="", encoding="utf-8") as file,
    ):
        table = csv.writer(file)
        table.writerow(["file", *LANDMARKS])
        for i, picture in enumerate(names):
            archive.writestr(picture, png(Image.new("RGB", (112, 112), (i, i, i))))
            table.writerow([picture, *TEMPLATE.ravel()])
