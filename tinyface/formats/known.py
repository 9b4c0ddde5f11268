"""Public files of weights that are recognised by their SHA-256, and where some can be had.

Some cannot be told apart by names and shapes, and none of them says how it must be fed, what
it was trained on, or under which terms it may be used. The LFW figures are this project's own:
6,000 pairs, 10 folds, aligned crops of 112x112, cosine, no flip.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

CELEBRITIES: Final = (
    "MS-Celeb-1M, a collection of photographs of real persons that its makers withdrew; it was "
    "for non-commercial research only, which may bind what was trained on it"
)
CROWDS: Final = "WIDER FACE, for research use only"


@dataclass(frozen=True)
class Known:
    """A public file: its network, and what goes into the card.

    network: its name in the registry; "" where the file itself describes the network.
    card: fields of :class:`tinyface.formats.card.Card`, without preprocessing.
    preprocess: fields in which it differs from the network's usual one.
    addresses, size: where ``tinyface models get`` finds it, and its bytes; the first address is
        of a fixed commit. None where no address is known for certain.
    """

    title: str
    network: str
    card: Mapping[str, Any] = field(default_factory=dict)
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    addresses: tuple[str, ...] = ()
    size: int = 0

    @property
    def name(self) -> str:
        """Of the weights."""
        return str(self.card["name"])


def _github(repository: str, commit: str, path: str) -> tuple[str, ...]:
    """The file at a commit, and as it is now: one of the two may go away."""
    return tuple(f"https://github.com/{repository}/raw/{ref}/{path}" for ref in (commit, "HEAD"))


KNOWN: Final[Mapping[str, Known]] = {
    "90a00ba1d8b0b688af3deb731ed53dca582e6106805d1bc3cfdef55f570493f4": Known(
        "mobilefacenet.pt of foamliu/MobileFaceNet",
        "mobilefacenet-relu6",
        {
            "name": "mobilefacenet-foamliu",
            "licence": "Apache-2.0 (the repository); the data had terms of their own",
            "data": f"{CELEBRITIES} (refined list)",
            "source": "github.com/foamliu/MobileFaceNet, weights/mobilefacenet.pt",
            "figures": {"LFW accuracy": 0.9937, "LFW accuracy sd": 0.0030, "LFW TAR@1e-3": 0.987},
            "thresholds": {"1e-3": 0.268},
            "notes": "threshold from LFW",
        },
        addresses=_github(
            "foamliu/MobileFaceNet",
            "408e13c0bcd1c10b666f00b07efcc2eab3c5d195",
            "weights/mobilefacenet.pt",
        ),
        size=4_135_271,
    ),
    "2979b33ffafda5d74b6948cd7a5b9a7a62f62b949cef24e95fd15d2883a65220": Known(
        "RetinaFace-MobileNet0.25 of biubug6/Pytorch_Retinaface",
        "retinaface-mnet0.25",
        {
            "name": "retinaface-mnet0.25",
            "licence": "MIT (the repository); the data had terms of their own",
            "data": CROWDS,
            "source": "github.com/biubug6/Pytorch_Retinaface; also in github.com/foamliu/"
            "MobileFaceNet",
        },
    ),
    "ed6fa7d45a5179f03cb5ce82c73b0c6711372968e53782e88395acee88d319e1": Known(
        "RetinaFace-MobileNet0.25 of biubug6/Face-Detector-1MB-with-landmark",
        "retinaface-mnet0.25-lowres",
        {
            "name": "retinaface-mnet0.25-lowres",
            "licence": "MIT (the repository); the data had terms of their own",
            "data": CROWDS,
            "source": "github.com/biubug6/Face-Detector-1MB-with-landmark, "
            "weights/mobilenet0.25_Final.pth",
            "figures": {"LFW pictures with a face found": "150 of 150"},
        },
        addresses=_github(
            "biubug6/Face-Detector-1MB-with-landmark",
            "7f49cebe8c46c0d36debf2f4776dff35dd59a071",
            "weights/mobilenet0.25_Final.pth",
        ),
        size=1_789_735,
    ),
    "81dbde155e982455488235acb8ec2dec5d647edf7cf7080d33e4abb69b93a0d2": Known(
        "yunet_n_320_320.onnx of ShiqiYu/libfacedetection.train",
        "",
        {
            "name": "yunet-n-320",
            "licence": "Apache-2.0 (the repository); the data had terms of their own",
            "data": CROWDS,
            "source": "github.com/ShiqiYu/libfacedetection.train, onnx/yunet_n_320_320.onnx",
        },
        addresses=_github(
            "ShiqiYu/libfacedetection.train",
            "47198234de8c4646961e46159e02af5b06021a78",
            "onnx/yunet_n_320_320.onnx",
        ),
        size=317_434,
    ),
    "1a1b4c805e6906675cb588275979139fdb7c2e3011371466ac8a5b4d1bfea8da": Known(
        "mobilefacenet-v1 of ZQCNN, in ncnn form",
        "",
        {
            "name": "mobilefacenet-zqcnn",
            "licence": "MIT (the repository); the data had terms of their own",
            "data": "not stated",
            "source": "github.com/zuoqing1988/ZQCNN, mobilefacenet-v1",
            "figures": {"LFW accuracy": 0.9935, "LFW accuracy sd": 0.0035, "LFW TAR@1e-3": 0.991},
            "thresholds": {"1e-3": 0.315},
            "notes": "threshold from LFW",
        },
    ),
}


def public() -> dict[str, tuple[str, Known]]:
    """Those that can be fetched, by the name of their weights: SHA-256 and the rest."""
    return {file.name: (sha256, file) for sha256, file in KNOWN.items() if file.addresses}
