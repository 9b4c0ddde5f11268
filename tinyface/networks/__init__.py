"""The networks of the face world, each a function that returns a Graph; and their registry.

>>> from tinyface import networks
>>> networks.find("fdfacenet").build().param_count
3180128

A module per family holds the function and says what is known about the network and what is
not. :data:`REGISTRY` has them by name, with source, status and preprocessing.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from tinyface.networks.catalogue import entries
from tinyface.networks.random import random_state
from tinyface.networks.registry import Entry, lookup

REGISTRY: Mapping[str, Entry] = MappingProxyType({entry.name: entry for entry in entries()})

ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "fdfn": "fdfacenet",
        "mobilefacenet-128": "mobilefacenet",
        "mobilefacenet-foamliu": "mobilefacenet-relu6",
        "mbf": "mobilefacenet-arcface",
        "proxylessfacenas": "proxylessfacenas-cpu",
        "shufflefacenet": "shufflefacenet-x1.0",
        "cnn-14-ds": "cnn-14-ds-x1",
        "cnn-8-fd": "cnn-8-fd-x1",
        "ghostfacenet": "ghostfacenet-v1-1.3-s1",
        "pocketnet": "pocketnet-s-128",
        "retinaface": "retinaface-mnet0.25",
        "retinaface-lowres": "retinaface-mnet0.25-lowres",
        "ssd4": "ssd4-slim",
        "slim": "ssd4-slim",
        "rfb": "ssd4-rfb",
    }
)


def find(name: str) -> Entry:
    """The network of that name; case, ``_``, ``*`` and ``×`` do not matter.

    Raises:
        UsageError: there is none; the message names the closest ones.
    """
    return lookup(REGISTRY, ALIASES, name)


__all__ = ["ALIASES", "REGISTRY", "Entry", "find", "random_state"]
