"""What each network's parameters are called, as one short number: an index for recognising files.

Building all networks to look at their names takes a second, on a Raspberry Pi many. A test
holds this table against the builders, and prints the line of a network that is missing or has
changed; a network without one is found all the same, by building it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Final


def signature(names: Iterable[str]) -> str:
    """Of a set of parameter names: 16 hexadecimal digits of their SHA-256, in sorted order."""
    return hashlib.sha256("\n".join(sorted(names)).encode()).hexdigest()[:16]


SIGNATURES: Final[Mapping[str, str]] = {
    "fdfacenet": "79debe9a5e13ba38",
    "fdfn-star": "0eab7599b0a40344",
    "nfn": "79debe9a5e13ba38",
    "nfn-star": "0eab7599b0a40344",
    "dwfn": "15896f46d815f092",
    "dwfn-star-x1.25": "dbc30c4bdd89199b",
    "mobilefacenet": "c8dd74e5473ca132",
    "mobilefacenet-512": "c8dd74e5473ca132",
    "mobilefacenet-facexzoo": "c8dd74e5473ca132",
    "mobilefacenet-xiaoccer": "95ace57fe90988a5",
    "mobilefacenet-relu6": "11e14baa86ce2c9e",
    "mobilefacenet-arcface": "1a1baead8dea6d2c",
    "mobilefacenet-arcface-large": "1aa02284caad1653",
    "shufflefacenet-x0.5": "b41f82481815a9fb",
    "shufflefacenet-x1.0": "b41f82481815a9fb",
    "shufflefacenet-x1.5": "b41f82481815a9fb",
    "shufflefacenet-x2.0": "b41f82481815a9fb",
    "lightfacenet": "654e78d32f4108c6",
    "proxylessfacenas-cpu": "e3dc6ccd6d455ad5",
    "proxylessfacenas-cpu-1432": "e3dc6ccd6d455ad5",
    "proxylessfacenas-cpu-1432-128": "e3dc6ccd6d455ad5",
    "proxylessfacenas-gpu": "580428a8ff6c4ad1",
    "proxylessfacenas-mobile": "be933cb688ab7e7c",
    "vargfacenet": "224c6aaf3ca47a0e",
    "varkfacenet-train": "336bc11c3438de43",
    "varkfacenet": "e20dc8c87cdc842a",
    "ghostfacenet-v1-1.0-s1": "d4052155e4c70066",
    "ghostfacenet-v1-1.0-s2": "1dca258025c7e48f",
    "ghostfacenet-v1-1.3-s1": "d4052155e4c70066",
    "ghostfacenet-v1-1.3-s2": "1dca258025c7e48f",
    "ghostfacenet-v1-1.0-port": "8794bf2e99f70eda",
    "ghostfacenet-v1-1.3-port": "8794bf2e99f70eda",
    "ghostfacenet-v2-1.0-s1": "69ee666b5a323279",
    "ghostfacenet-v2-1.0-s2": "69ee666b5a323279",
    "ghostfacenet-v2-1.3-s1": "69ee666b5a323279",
    "ghostfacenet-v2-1.3-s2": "69ee666b5a323279",
    "ghostfacenet-v2-1.0-port": "21911909a81d936a",
    "ghostfacenet-v2-1.3-port": "21911909a81d936a",
    "pocketnet-s-128": "1db1e8d7bd5f45f6",
    "pocketnet-s-256": "1db1e8d7bd5f45f6",
    "pocketnet-m-128": "9cb53e1cba6026f4",
    "pocketnet-m-256": "9cb53e1cba6026f4",
    "lightcnn9": "8184d61cd77393f8",
    "lightcnn29": "747884791e760da3",
    "lightcnn29-v2": "fcb737f9600ef5ce",
    "retinaface-mnet0.25": "53cb2cc9f303e7de",
    "retinaface-mnet0.25-lowres": "53cb2cc9f303e7de",
    "ssd4-slim": "eefd788ecd9e3577",
    "ssd4-rfb": "e6c5277ed1e37938",
    "cnn-8": "a39c755f3b10b849",
    "cnn-8-ds": "9290150a347dd809",
    "cnn-14-ds-x0.5": "9365b80a602ff625",
    "cnn-14-ds-x0.75": "9365b80a602ff625",
    "cnn-14-ds-x1": "9365b80a602ff625",
    "cnn-14-ds-x1.25": "9365b80a602ff625",
    "cnn-8-fd-x0.5": "a39c755f3b10b849",
    "cnn-8-fd-x0.75": "a39c755f3b10b849",
    "cnn-8-fd-x1": "a39c755f3b10b849",
    "cnn-8-fd-x1.25": "a39c755f3b10b849",
    "cnn-8-fd-pooling-x0.5": "7bfddf090bfb73b0",
    "cnn-8-fd-pooling-x0.75": "7bfddf090bfb73b0",
    "cnn-8-cifar": "a39c755f3b10b849",
    "cnn-8-ds-cifar": "9290150a347dd809",
    "cnn-14-ds-cifar": "9365b80a602ff625",
    "cnn-8-fd-cifar": "a39c755f3b10b849",
    "vgg16": "66817e7930788a33",
    "resnet18": "e90b1f58ce95ad39",
    "resnet50": "d1512e10e88bf8a9",
}
