"""Faces that are made: the generator beside a direct computation, and a work folder's arrays."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

torch = pytest.importorskip("torch", reason="training needs PyTorch")

import torch.nn.functional as F  # noqa: E402

from training import generate, generator  # noqa: E402
from training.alignment import TEMPLATE  # noqa: E402
from training.data import Pool  # noqa: E402

WIDTH = 16
CHANNELS = ((4, 16), (4, 16), (4, 8))  # of each block: after the transform, and its outputs
Arrays = dict[str, NDArray[np.float32]]


@pytest.fixture(autouse=True)
def eager() -> Any:
    """Compiling takes half a minute and changes nothing but the time."""
    with torch.compiler.set_stance("force_eager"):
        yield


def synthesis(rng: np.random.Generator) -> Arrays:
    """The constants of a small network, named and ordered as random_face's are: maps of 4 to 32.
    Its last block is one that `_shrunk` and skipping the details leave exact: no details, all
    activations positive, noise alike in every 2x2 pixels, one tap in the second kernels.
    """
    found: Arrays = {}

    def normal(name: str, *shape: int, spread: float = 1.0) -> None:
        found[name] = rng.normal(0, spread, shape).astype(np.float32)

    def style(name: str, width: int) -> None:
        normal(f"m.{name}.modulation.weight", width, WIDTH, spread=0.1)
        found[f"m.{name}.modulation.bias"] = np.ones((1, width), np.float32)

    last = len(CHANNELS) - 1
    style(f"layers.{last}.to_img.conv", CHANNELS[-1][1])
    for k in reversed(range(len(CHANNELS))):
        style(f"layers.{k}.conv2.conv", CHANNELS[k][1])
        style(f"layers.{k}.conv1.conv", CHANNELS[k][0])
        style(f"layers.{k}.up", 4 * CHANNELS[k][0])
    style("conv1.conv", WIDTH)
    normal("m.input.input", 1, WIDTH, 4, 4)
    normal("Mul_39_copy", WIDTH, WIDTH, 3, 3)
    normal("1531", 1, 1, 4, 4)
    normal("m.conv1.bias", 1, WIDTH, 1, 1)
    for k, (means, width) in enumerate(CHANNELS):
        side = 8 << k
        for j, inputs in ((1, means), (2, width)):
            normal(f"m.layers.{k}.conv{j}.conv.weight_dw", inputs, 1, 1, 3, 3)
            normal(f"Mul_{100 * k + 106 + j}_copy", width, inputs, 1, 1)
            normal(f"{1500 + 20 * k + j}", 1, 1, side, side)
            normal(f"m.layers.{k}.conv{j}.bias", 1, width, 1, 1)
            if k == last:
                coarse = rng.normal(0, 1, (1, 1, side // 2, side // 2))
                found[f"{1500 + 20 * k + j}"] = np.kron(coarse, np.ones((2, 2))).astype(np.float32)
                found[f"m.layers.{k}.conv{j}.bias"] += 4
    found[f"m.layers.{last}.up.modulation.weight"][means:] = 0
    found[f"m.layers.{last}.up.modulation.bias"][:, means:] = 0
    found[f"m.layers.{last}.conv2.conv.weight_dw"] *= np.pad([[1.0]], 1).astype(np.float32)
    paint = rng.normal(0, 0.4, (12, width, 1, 1))
    paint -= paint.mean(1, keepdims=True)  # the activations' large mean would be all there is
    found[f"m.layers.{last}.to_img.conv.weight"] = paint.astype(np.float32)
    normal(f"m.layers.{last}.to_img.bias", 1, 12, 1, 1, spread=0.1)
    return found


def mapping(rng: np.random.Generator) -> Arrays:
    found: Arrays = {"Constant_5": np.ones((1, 1), np.float32)}
    for i in range(8):
        found[f"w{i}"] = rng.normal(0, WIDTH**-0.5, (WIDTH, WIDTH)).astype(np.float32)
        found[f"b{i}"] = rng.normal(0, 0.1, WIDTH).astype(np.float32)
    return found


def write(path: Path, arrays: Arrays) -> None:
    """An OpenVINO model of constants alone."""
    layers, numbers = [], b""
    for name, values in arrays.items():
        layers.append(
            f'<layer name="{name}" type="Const"><data element_type="f32" '
            f'shape="{", ".join(map(str, values.shape))}" offset="{len(numbers)}" '
            f'size="{values.nbytes}"/></layer>'
        )
        numbers += values.tobytes()
    path.write_text(f"<net><layers>{''.join(layers)}</layers></net>")
    path.with_suffix(".bin").write_bytes(numbers)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(4)
    write(tmp_path / "MappingNetwork.xml", mapping(rng))
    write(tmp_path / "SynthesisNetwork.xml", synthesis(rng))
    return tmp_path


def definition(found: Arrays, styles: Any) -> Any:
    """(levels, width) -> (3, 32, 32) in float64, channels first, all blocks in full."""
    own = {name.removeprefix("m."): torch.from_numpy(a).double() for name, a in found.items()}
    noises = iter([t for t in own.values() if t.dim() == 4 and t.shape[1] == 1 != t.shape[2]])
    dense = iter([t for name, t in own.items() if name.startswith("Mul_")])

    def scaled(x: Any, name: str, level: int, gain: float = 1.0) -> Any:
        factors = own[f"{name}.modulation.weight"] @ styles[level] + own[f"{name}.modulation.bias"]
        return x * factors.view(1, -1, 1, 1) * gain

    def activated(x: Any, name: str) -> Any:
        return F.leaky_relu(x + next(noises) + own[f"{name}.bias"], 0.2)

    x = scaled(own["input.input"], "conv1.conv", 0, (9 * WIDTH) ** -0.5)
    x = activated(F.conv2d(x, next(dense), padding=1), "conv1")
    haar = torch.tensor([1.0, 1.0]), torch.tensor([1.0, -1.0])
    squares = [torch.outer(y, x) / 2 for x, y in itertools.product(haar, haar)]
    for k, (means, _) in enumerate(CHANNELS):
        x = scaled(x, f"layers.{k}.up", k + 1)
        details = x[:, means:].unflatten(1, (means, 3))
        parts = [x[:, :means], *details.unbind(2)]
        x = sum(
            torch.kron(part, square.double()) for part, square in zip(parts, squares, strict=True)
        )
        for j in (1, 2):
            name, inputs = f"layers.{k}.conv{j}", x.shape[1]
            x = scaled(x, f"{name}.conv", k + 1, (9 * inputs) ** -0.5)
            x = F.conv2d(x, own[f"{name}.conv.weight_dw"][:, 0], padding=1, groups=inputs)
            x = activated(F.conv2d(x, next(dense)), name)
    name = f"layers.{len(CHANNELS) - 1}.to_img"
    x = scaled(x, f"{name}.conv", -1, x.shape[1] ** -0.5)
    return (F.conv2d(x, own[f"{name}.conv.weight"]) + own[f"{name}.bias"])[0, :3] / 2


def test_pictures_are_those_of_the_definition(folder: Path) -> None:
    """Within what bfloat16 loses: 2^-9 of each of the maps' values, over seven layers."""
    made = generator.Generator(folder)
    assert (made.width, made.levels, made.side) == (WIDTH, 4, 16)
    styles = made.styles(torch.randn(8, WIDTH, generator=torch.Generator().manual_seed(1)))
    styles = styles.view(2, 4, WIDTH) * 0.5  # another for each level
    found = synthesis_of(folder)
    for picture, own in zip(made.pictures(styles), styles, strict=True):
        whole = definition(found, own.double())
        means = F.avg_pool2d(whole[None], 2)[0].permute(1, 2, 0)
        wanted = (means + 1) * 127.5
        assert wanted.clamp(0, 255).eq(wanted).all()
        error = (picture.double() - wanted.clamp(0, 255)).pow(2).mean().sqrt()
        assert error < 1
        spread = (wanted - wanted.mean((0, 1))).pow(2).mean().sqrt()
        assert error < 0.12 * spread  # .05 and .1; details changed for one another: .15 and .19


def synthesis_of(folder: Path) -> Arrays:
    found = generator.constants(folder / "SynthesisNetwork.xml")
    return {name: t.numpy() for name, t in found.items()}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('size="64"', 'size="68"', r"bias: f32 \[1, 16\] in 68 bytes"),
        ('offset="0"', 'offset="99999999"', "lies outside"),
        ('offset="0"', 'offset="-4"', "lies outside"),
        ('element_type="f32"', 'element_type="boolean"', "boolean"),
        ('name="m.conv1.bias"', 'name="bias"', "not random_face.*conv1.bias"),
        ('name="Mul_39_copy"', 'name="Mul"', "not random_face"),
    ],
)
def test_files_that_are_none_of_random_face(folder: Path, old: str, new: str, message: str) -> None:
    path = folder / "SynthesisNetwork.xml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=message):
        generator.Generator(folder)


def test_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps random_face"):
        generator.package_folder()


def test_recipes_hang_on_seed_row_and_attempt() -> None:
    def one(seed: int, row: int, attempt: int = 0) -> generate.Recipe:
        return generate.recipe(seed, row, attempt, WIDTH, 8)

    assert np.array_equal(one(0, 3).noise, one(0, 3).noise)
    for other in (one(1, 3), one(0, 4), one(0, 3, 1)):
        assert not np.array_equal(one(0, 3).noise, other.noise)
    drawn = [one(0, row) for row in range(400)]
    assert all(0.75 <= r.far <= 1.15 and 1 <= r.second <= 8 for r in drawn)
    assert 150 < sum(r.second == 8 for r in drawn) < 250
    assert {r.second for r in drawn} == set(range(1, 9))


def test_a_second_style_holds_from_its_level_on(folder: Path) -> None:
    """The picture of two styles is that of `Generator.pictures` with one style for each level."""
    made = generator.Generator(folder)
    for second in (1, 3, made.levels):
        noise = np.random.default_rng(second).standard_normal((2, WIDTH)).astype(np.float32)
        first, other = made.styles(torch.from_numpy(noise))
        levels = [first if level < second else other for level in range(made.levels)]
        styles = torch.stack([made.mean + 0.8 * (style - made.mean) for style in levels])
        got = generate.pictures(made, [generate.Recipe(noise, 0.8, second)])
        assert (got.int() - made.pictures(styles[None]).int()).abs().max() <= 1


@pytest.fixture
def making(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`Making` with stand-ins for the detector and for the teachers; what they have seen."""
    seen: dict[str, int] = {"pictures": 0, "relu6": 0, "zq": 0}

    def landmarks(detector: Any, made: Any) -> list[Any]:
        seen["pictures"] += len(made)
        return [TEMPLATE / 8 if int(picture.sum()) % 3 else None for picture in made]

    class Teacher(torch.nn.Module):
        def __init__(self, folder: Path, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Any) -> Any:
            seen[self.name] += len(x)
            assert x.shape[1:] == (3, 112, 112)
            return x.flatten(1)[:, :128] + len(self.name)

    monkeypatch.setattr(generate, "landmarks", landmarks)
    monkeypatch.setattr(generate, "load_detector", lambda path: torch.nn.Identity())
    monkeypatch.setattr(generate, "load_teacher", Teacher)
    monkeypatch.setattr(generate, "fast", lambda model, threads: model)
    monkeypatch.setattr(generate, "PART", 4)
    monkeypatch.setattr(generate, "best_device", lambda: "cpu")

    def make(work: Path, count: int, stop: int | None = None) -> list[int]:
        work.mkdir(exist_ok=True)
        run = generate.Making(work, folder, folder, count, 1).run(0)
        return list(itertools.islice(run, stop))

    return make, seen


def test_a_run_goes_on_and_grows_to_the_same_bits(making: Any, tmp_path: Path) -> None:
    make, seen = making
    assert make(tmp_path / "whole", 10) == [0, 4, 8, 10]
    assert seen["pictures"] > 10 and seen["relu6"] == seen["zq"] == 10
    assert make(tmp_path / "parts", 6, stop=2) == [0, 4]  # interrupted
    assert make(tmp_path / "parts", 10) == [4, 8, 10]
    assert make(tmp_path / "parts", 10) == [10]
    assert make(tmp_path / "parts", 6) == [10]  # as many as were asked for, and more
    for name in ("made.npy", "made_relu6_0.npy", "made_zq_0.npy"):
        whole, parts = (np.load(tmp_path / run / name) for run in ("whole", "parts"))
        assert len(whole) == 10 and np.array_equal(whole, parts)
    pool = Pool(tmp_path / "whole", ("crops", "made"), held_out=3)
    assert len(pool) == 10  # those that are held out are crops
    pixels, goal = pool.batch(np.array([0, 9]))
    assert np.array_equal(pixels[1].permute(1, 2, 0), np.load(tmp_path / "whole/made.npy")[9])
    assert torch.allclose(goal.norm(dim=1), torch.ones(2))


def test_a_generator_that_makes_no_faces_is_given_up(
    making: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(generate, "landmarks", lambda detector, made: [None] * len(made))
    with pytest.raises(ValueError, match="no face in 20 pictures for row 0"):
        making[0](tmp_path / "none", 2)
