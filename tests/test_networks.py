"""Networks: their layers, sizes and figures, and the registry."""

from __future__ import annotations

import json
import subprocess
import sys

import layer_lists
import numpy as np
import pytest
from golden_cases import ALL, HERE, from_shared, load
from shared import SHARED

from tinyface import networks
from tinyface.backends.numpy import run_graph
from tinyface.errors import GraphError, UsageError
from tinyface.formats.torch_checkpoint import read_checkpoint
from tinyface.networks.vgg import VGG16, vgg
from tinyface.passes import optimise
from tinyface.traffic.tables import counts

NAMES = list(networks.REGISTRY)

LISTS = sorted(path.stem for path in layer_lists.FOLDER.glob("*.tsv"))

# Trainable parameters and MACs in millions, from the public implementations.
FIGURES = {
    "dwfn": (0.615, 80.22),
    "fdfn-star": (7.096, 133.30),
    "mobilefacenet-arcface": (2.06, 437.5),
    "mobilefacenet-512": (1.2005, 221.16),
    "shufflefacenet-x1.5": (2.662, 288.8),
    "shufflefacenet-x2.0": (4.527, 526.3),
    "proxylessfacenas-cpu-1432": (3.737, 438.6),
    "proxylessfacenas-cpu-1432-128": (3.187, 438.1),
    "ghostfacenet-v1-1.3-s1": (4.060, 211.9),
    "ghostfacenet-v1-1.3-s2": (4.038, 59.3),
    "ghostfacenet-v2-1.3-s1": (6.796, 267.1),
    "ghostfacenet-v2-1.3-s2": (6.755, 75.2),
    "ghostfacenet-v1-1.0-s2": (2.474, 36.7),
    "ghostfacenet-v2-1.0-s2": (4.164, 46.37),
    "lightcnn9": (5.481, 976.8),
    "lightcnn29": (12.573, 3619),
    "pocketnet-s-256": (0.9914, 283.6),
    "pocketnet-m-128": (1.6867, 538.2),
    "pocketnet-m-256": (1.7524, 538.3),
    "varkfacenet-train": (0.7476, 122.97),
    "varkfacenet": (0.7057, 119.5),
    "vargfacenet": (5.198, 512.6),
    "retinaface-mnet0.25": (0.4266, 245.29),
    "ssd4-slim": (0.3435, 87.50),
    "ssd4-rfb": (0.3596, 106.5),
    "vgg16": (138.358, 15470),
    "resnet18": (11.690, 1814),
    "resnet50": (25.557, 4089),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_of_the_public_implementations(name: str) -> None:
    params, macs = FIGURES[name]
    c = counts(networks.find(name).build())
    assert c.params / 1e6 == pytest.approx(params, rel=6e-4)
    assert c.macs / 1e6 == pytest.approx(macs, rel=6e-4)


@pytest.mark.parametrize("name", [name for name in ALL if (HERE / f"{name}.safetensors").exists()])
def test_counts_are_those_of_the_golden_files(name: str) -> None:
    case = load(name)
    assert case is not None
    c = counts(case.graph.with_inputs({"input": (1, *case.input.shape[1:])}))
    classifier = 10 * 256 if name.startswith("lightcnn") else 0  # theirs; not a part of ours
    assert c.params == case.meta["params"]
    assert c.macs == case.meta["macs_conv_fc"] - classifier
    if name.startswith(("fdf", "nfn", "dwfn", "cnn", "light", "mobile", "vark")):
        # the others call some activations or poolings as functions, which their counter missed
        assert c.macs_paper == pytest.approx(case.meta["macs_paper_rule"], abs=3000)
        assert c.fmap_folded / 1e6 == pytest.approx(case.meta["fmap_MB_fused"], abs=2e-4)
        assert c.fmap_unfused / 1e6 == pytest.approx(case.meta["fmap_MB_unfused"], abs=0.07)


@pytest.mark.skipif(not LISTS, reason="the project's shared material (../shared/specs) is absent")
@pytest.mark.parametrize("file", LISTS or ["none"])
def test_every_layer_is_the_public_one(file: str) -> None:
    """Weights: the same layers in the same order under the same names. Others: the same ones."""
    name, options = layer_lists.BUILDS.get(file, (file, {}))
    graph = networks.find(name).build(**options)
    theirs = layer_lists.public(file)
    same = file.startswith("ghostfacenet_v1")
    mine = layer_lists.ours(graph, same)
    assert layer_lists.learned(mine) == layer_lists.learned(theirs)
    missing = layer_lists.fixed(theirs) - layer_lists.fixed(mine)
    assert not missing


# --------------------------------------------------------------------------------- registry


@pytest.mark.parametrize("name", NAMES)
def test_entry_is_complete_and_builds(name: str) -> None:
    entry = networks.REGISTRY[name]
    graph = entry.build()
    assert entry.name == name == graph.name
    assert entry.status in ("public", "pinned", "reconstruction")
    assert entry.task in ("embed", "detect", "classify")
    assert entry.source
    assert networks.find(name.upper().replace("-", "_")) is entry
    card = entry.card(graph, licence="none")
    assert card.preprocess.colour == entry.colour
    first = graph.types[graph.outputs[0]].shape
    assert card.embedding_size == (0 if entry.task == "detect" else first[1])
    assert list(graph.inputs) == ["input"]
    assert set(entry.figures) <= {"params_M", "macs_M", "fmap_MB"}
    assert all(float(printed) > 0 for printed in entry.figures.values())
    # a network that was only built takes no memory for its weights
    assert all(value.strides == (0,) * value.ndim for value in graph.params.values())


def test_outputs_are_named_by_task() -> None:
    wanted = {"embed": ("embedding",), "classify": ("logits",), "detect": ("loc", "conf", "landms")}
    for entry in networks.REGISTRY.values():
        assert entry.build().outputs == wanted[entry.task]


def test_aliases_lead_somewhere() -> None:
    for alias, name in networks.ALIASES.items():
        assert networks.find(alias).name == name
        assert alias not in networks.REGISTRY


@pytest.mark.parametrize(
    ("spelled", "name"),
    [
        ("FDFN*", "fdfn-star"), ("DWFN*×1.25", "dwfn-star-x1.25"), ("nfn_star", "nfn-star"),
        ("CNN-14-DS_x0.75", "cnn-14-ds-x0.75"), ("MobileFaceNet", "mobilefacenet"),
    ],
)  # fmt: skip
def test_spelling_does_not_matter(spelled: str, name: str) -> None:
    assert networks.find(spelled).name == name


def test_unknown_names_and_options_are_explained() -> None:
    with pytest.raises(UsageError, match="did you mean mobilefacenet"):
        networks.find("mobilfacenet")
    with pytest.raises(UsageError, match="tinyface models"):
        networks.find("zzzzzz")
    with pytest.raises(UsageError, match="fdfacenet cannot be built.*colour"):
        networks.find("fdfacenet").build(colour=3)


def test_importing_networks_stays_light() -> None:
    code = "import sys, tinyface.networks; print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for heavy in ("torch", "PIL", "rich", "onnx", "matplotlib", "click"):
        assert f"'{heavy}'" not in done.stdout


# ---------------------------------------------------------------- options, sizes, odd shapes


@pytest.mark.parametrize("name", ["retinaface-mnet0.25", "ssd4-slim", "ssd4-rfb"])
@pytest.mark.parametrize("size", [(64, 64), (97, 65), (250, 330)])
def test_detectors_take_any_size(name: str, size: tuple[int, int]) -> None:
    """Re-shaped graph and newly built graph agree, and there are as many rows as priors."""
    entry = networks.find(name)
    graph = entry.build().with_inputs({"input": (2, 3, *size)})
    anchors = [len(row) for row in entry.detector["min_sizes"]]
    priors = sum(
        n * -(-size[0] // step) * -(-size[1] // step)
        for n, step in zip(anchors, entry.detector["steps"], strict=True)
    )
    shapes = {key: graph.types[key].shape for key in graph.outputs}
    assert shapes == {"loc": (2, priors, 4), "conf": (2, priors, 2), "landms": (2, priors, 10)}
    if size != (250, 330):
        graph = graph.bind(networks.random_state(graph))
        x = np.random.default_rng(1).uniform(-1, 1, (2, 3, *size)).astype(np.float32)
        out, fused = run_graph(graph, {"input": x}), run_graph(optimise(graph), {"input": x})
        for key, value in out.items():
            assert np.isfinite(value).all()
            assert np.abs(fused[key] - value).max() <= 1e-4 * np.abs(value).max()
        assert np.allclose(out["conf"].sum(-1), 1)


@pytest.mark.parametrize("name", ["cnn-8-fd-x0.5", "cnn-14-ds-cifar", "resnet18"])
def test_classifiers_take_any_size(name: str) -> None:
    graph = networks.find(name).build(classes=7).with_inputs({"input": (3, 3, 75, 41)})
    assert graph.types["logits"].shape == (3, 7)


@pytest.mark.parametrize(
    ("name", "options", "shape"),
    [
        ("fdfacenet", {"size": 224, "embedding": 64}, (1, 64)),
        ("fdfacenet", {"width": 0.5, "gdc_act": True, "fc_bias": False}, (1, 512)),
        ("mobilefacenet", {"size": (112, 96), "width": 0.5, "repeats": (1, 2, 1)}, (1, 128)),
        ("mobilefacenet-arcface", {"scale": 1, "repeats": (2, 1, 1, 1)}, (1, 512)),
        ("shufflefacenet-x0.5", {"size": 96, "units": (1, 2, 1), "last": 256}, (1, 128)),
        ("lightfacenet", {"stem": 16, "embedding": 96}, (1, 96)),
        ("lightcnn29", {"repeats": (1, 1, 1, 1), "size": 64}, (1, 256)),
        ("vargfacenet", {"width": 1, "units": (2, 2, 2)}, (1, 512)),
        ("varkfacenet", {"stages": ((32, 1, 9), (64, 1, 3))}, (1, 128)),
        ("ghostfacenet-v2-1.0-s1", {"width": 0.75, "embedding": 256, "size": 128}, (1, 256)),
        ("pocketnet-s-128", {"channels": 8, "cells": 6}, (1, 128)),
        ("proxylessfacenas-mobile", {"mixed": 64, "embedding": 32, "size": 64}, (1, 32)),
        ("resnet18", {"width": 0.25, "layers": (1, 1, 1), "classes": 5}, (1, 5)),
        ("ssd4-slim", {"base": 8, "size": 64}, (1, 8 * 8 * 3 + 4 * 4 * 2 + 2 * 2 * 2 + 3, 4)),
    ],
)
def test_families_are_generic(
    name: str, options: dict[str, object], shape: tuple[int, ...]
) -> None:
    graph = networks.find(name).build(**options)
    assert graph.types[graph.outputs[0]].shape == shape


def test_vgg_needs_a_map_of_seven() -> None:
    assert vgg(size=448).types["logits"].shape == (1, 1000)
    assert vgg(size=448).param_count == vgg().param_count
    with pytest.raises(GraphError, match="224 times n"):
        vgg(size=256)


def test_vgg_with_batch_norm_has_torchvision_names() -> None:
    params = vgg(batch_norm=True).params
    assert {"features.0.weight", "features.1.running_mean", "features.3.weight"} <= params.keys()
    assert "features.40.weight" in params  # the last convolution of torchvision's vgg16_bn
    assert len([c for c in VGG16 if c]) == 13


def test_a_width_that_leaves_nothing_is_refused() -> None:
    with pytest.raises(GraphError, match="leaves no channel"):
        networks.find("fdfacenet").build(width=0.001)


# ------------------------------------------------------------------------------ checkpoints


def test_bind_names_what_is_wrong() -> None:
    entry = networks.find("fdfacenet")
    state = networks.random_state(entry.build())
    assert entry.bind({**state, "conv1.bn.num_batches_tracked": np.zeros(())}).name == "fdfacenet"
    with pytest.raises(GraphError, match=r"1 missing \(conv3.bn.bias\)"):
        entry.bind({key: value for key, value in state.items() if key != "conv3.bn.bias"})
    with pytest.raises(GraphError, match=r"1 not in it \(head\)"):
        entry.bind({**state, "head": np.zeros(3)})
    with pytest.raises(GraphError, match=r"fc.weight has shape \(5, 512\)"):
        entry.bind({**state, "fc.weight": np.zeros((5, 512), np.float32)})


def test_trailing_ones_of_a_shape_do_not_matter() -> None:
    """ShuffleFaceNet's last layer is a Conv1d in the public code: (128, 1024, 1)."""
    entry = networks.find("shufflefacenet-x0.5")
    state = networks.random_state(entry.build())
    weight = state["linearconv.weight"]
    bound = entry.bind({**state, "linearconv.weight": weight[..., None]})
    assert np.array_equal(bound.params["linearconv.weight"], weight)


def test_mxnet_names_of_vargfacenet() -> None:
    entry = networks.find("vargfacenet")
    state = networks.random_state(entry.build())
    endings = {"running_mean": "moving_mean", "running_var": "moving_var"}
    norms = {key.rpartition(".")[0] for key in state if key.endswith("running_var")}
    slopes = {key.rpartition(".")[0] for key in state if state[key].ndim == 1} - norms
    mxnet = {}
    for key, value in state.items():
        layer, _, part = key.rpartition(".")
        scale = layer in norms or (layer in slopes and "act" in layer.rsplit("_", 1)[-1])
        part = {"weight": "gamma", "bias": "beta"}.get(part, part) if scale else part
        prefix = "aux:" if part in endings else "arg:"
        mxnet[f"{prefix}{layer}_{endings.get(part, part)}"] = value
    bound = entry.bind(mxnet)
    assert all(np.array_equal(bound.params[key], value) for key, value in state.items())


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("retinaface_mnet025.pth", "retinaface-mnet0.25"),
        ("retinaface_mnet025_lowres.pth", "retinaface-mnet0.25-lowres"),
    ],
)
def test_public_detectors_load(file: str, name: str) -> None:
    graph = networks.find(name).bind(_checkpoint(file))
    x = np.zeros((1, 3, 64, 64), np.float32)
    conf = run_graph(graph.with_inputs({"input": x.shape}), {"input": x})["conf"]
    assert (conf[..., 1] < 0.5).all()  # no face in a grey picture


def test_public_mobilefacenet_embeds_as_in_pytorch() -> None:
    """Raw embeddings of aligned crops; both the built and the optimised graph."""
    from PIL import Image
    from safetensors.numpy import load_file

    entry = networks.find("mobilefacenet-relu6")
    graph = entry.bind(_checkpoint("mobilefacenet.pt"))
    wanted = load_file(SHARED / "golden" / "real" / "mobilefacenet_embeddings.safetensors")
    names = sorted(wanted)[:4]
    images = np.stack(
        [np.asarray(Image.open(SHARED / "images" / "aligned" / name)) for name in names]
    )
    x = entry.preprocess(graph).apply(images)
    graph = graph.with_inputs({"input": x.shape})
    for form in (graph, optimise(graph)):
        (got,) = run_graph(form, {"input": x}).values()
        for name, embedding in zip(names, got, strict=True):
            largest = np.abs(wanted[name]).max()
            assert np.abs(embedding - wanted[name]).max() <= 2e-5 * largest


def _checkpoint(file: str) -> dict[str, np.ndarray]:
    path = SHARED / "weights" / file
    if not path.exists():
        pytest.skip(f"{file} is only in the project's shared material (../shared/weights)")
    return read_checkpoint(path)


# ----------------------------------------------------------------------------- random weights


@pytest.mark.parametrize("name", ["shufflefacenet-x0.5", "varkfacenet-train"])
def test_random_state_is_reproducible_and_sane(name: str) -> None:
    """The same for the same seed; outputs are finite and depend on the input."""
    graph = networks.find(name).build()
    state, again = networks.random_state(graph), networks.random_state(graph)
    assert state.keys() == graph.params.keys()
    assert all(np.array_equal(again[key], value) for key, value in state.items())
    other = networks.random_state(graph, seed=1)
    assert not any(np.array_equal(other[key], value) for key, value in state.items())
    x = np.random.default_rng(0).uniform(-1, 1, (2, 3, 112, 112)).astype(np.float32)
    graph = graph.bind(state).with_inputs({"input": x.shape})
    ((first, second),) = run_graph(graph, {"input": x}).values()
    assert np.isfinite(first).all()
    assert np.abs(first - second).max() > 0.01 * np.abs(first).max()


@pytest.mark.parametrize("name", ["ghostfacenet-v2-1.3-s2", "pocketnet-m-128", "vargfacenet"])
def test_random_weights_keep_maps_at_one_size(name: str) -> None:
    """Deep sums and gates: where maps grew a millionfold, the last bits decided the output."""
    graph = networks.find(name).build()
    graph = graph.bind(networks.random_state(graph))
    x = np.random.default_rng(0).uniform(-1, 1, (1, 3, 112, 112)).astype(np.float32)
    sizes: dict[str, float] = {}
    hook = lambda node, outputs: sizes.update({node.name: float(np.std(outputs[0]))})  # noqa: E731
    run_graph(graph, {"input": x}, hook=hook)
    assert {k: v for k, v in sizes.items() if not 1e-3 < v < 200} == {}


def test_a_graph_survives_json() -> None:
    """Every network can be written into a model file and read back."""
    from tinyface.graph import Graph

    for name in ("pocketnet-m-128", "ssd4-rfb", "ghostfacenet-v2-1.0-s2", "lightcnn29-v2"):
        graph = networks.find(name).build()
        assert Graph.from_json(json.loads(json.dumps(graph.to_json())), graph.params) == graph
    assert from_shared("no-such-case") is None
