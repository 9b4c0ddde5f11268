"""The weights that ship, on the sample pictures: what `make demo` shows must hold."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import tinyface
from tinyface import modelstore
from tinyface.cli.main import run
from tinyface.errors import UsageError
from tinyface.formats.modelfile import read_card
from tinyface.model import Model

ROOT = Path(__file__).parent.parent
IMAGES = ROOT / "docs" / "images"
A, CHANGED, B = (IMAGES / f"portrait_{name}.jpg" for name in ("a", "a_changed", "b"))
GROUP = ROOT / "tests" / "images" / "group_of_four.jpg"

FILES = [modelstore.packaged_folder() / f"{name}.safetensors" for name in ("fdfacenet", "detector")]
pytestmark = pytest.mark.skipif(
    not all(path.is_file() for path in FILES), reason="no trained weights in weights/"
)


@pytest.fixture(autouse=True)
def only_what_ships(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path / "empty"))
    monkeypatch.delenv("TINYFACE_MODEL", raising=False)
    monkeypatch.delenv("TINYFACE_DETECTOR", raising=False)


@pytest.fixture(scope="module")
def model() -> Model:
    return tinyface.load(FILES[0], detector=FILES[1])


def test_they_are_the_defaults() -> None:
    assert [modelstore.default("embed"), modelstore.default("detect")] == FILES


def test_small_enough_and_described() -> None:
    for path in modelstore.packaged_folder().glob("*.safetensors"):
        card = read_card(path)
        assert path.stat().st_size <= 7_000_000
        assert card.licence and card.data and card.source
        if card.task == "embed":
            assert {1e-2, 1e-3, 1e-4} <= {float(rate) for rate in card.thresholds}


def test_a_changed_copy_is_the_same_and_another_person_is_not(model: Model) -> None:
    check_pairs(model)


@pytest.mark.needs_c
@pytest.mark.parametrize("degrees", [-44, -7, -6, 31, 32])
def test_a_face_is_found_once(model: Model, degrees: int) -> None:
    """Two answers may be one face when they are looked at closely."""
    for path in (A, B):
        turned = Image.open(path).rotate(degrees)
        assert len(model.detector.detect(np.asarray(turned))) == 1


@pytest.mark.needs_c
def test_small_faces_of_a_picture_on_its_side_are_found(model: Model) -> None:
    canvas = Image.new("RGB", (2000, 1500), (128, 128, 128))
    for i, path in enumerate((A, B, A)):
        canvas.paste(Image.open(path).resize((150, 150)), (200 + 600 * i, 600))
    upright = np.asarray(canvas)
    counts = [len(model.detector.detect(np.rot90(upright, n).copy())) for n in range(4)]
    assert counts == [3] * 4


def test_the_small_recogniser_tells_them_apart_too() -> None:
    small = tinyface.load("dwfn", detector=FILES[1])
    assert sum(value.size for value in small.graph.params.values()) < 1e6
    check_pairs(small)


def check_pairs(model: Model) -> None:
    same, other = tinyface.verify(A, CHANGED, model), tinyface.verify(A, B, model)
    assert same.same and not other.same
    assert same.cosine > other.cosine + 0.3


def test_faces_of_a_group(model: Model) -> None:
    found = model.embed_faces(GROUP)
    assert len(found) == 4
    centres = np.array([f.face.box.reshape(2, 2).mean(axis=0) for f in found])
    quarters = {(bool(x > 320), bool(y > 320)) for x, y in centres}  # one in each of the four
    assert len(quarters) == 4
    # two women on the left, two men on the right: neither woman is one of the men
    embeddings, left = np.array([f.embedding for f in found]), centres[:, 0] < 320
    assert (embeddings[left] @ embeddings[~left].T < min(model.card.thresholds.values())).all()


def test_both_engines_agree(model: Model) -> None:
    reference = tinyface.load(FILES[0], backend="numpy", detector=FILES[1])
    expected, found = reference.embed([A]), model.embed([A])
    # landmarks that differ by 1e-5 of a pixel round a few values of the crop the other way
    assert (1 - (found.astype(np.float64) * expected).sum(1) < 1e-6).all()


def test_the_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["embed", str(A)]) == 0
    assert run(["verify", str(A), str(CHANGED)]) == 0
    assert run(["verify", str(A), str(B)]) == 10
    capsys.readouterr()
    assert run(["doctor", "--json"]) in (0, 1)  # 1: no C engine here
    assert json.loads(capsys.readouterr().out)["models"]["recogniser"]["licence"]


@pytest.mark.parametrize("wish", ["", "~nosuch/x"])
def test_without_a_home_folder_they_are_there(
    wish: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As in a container whose user has no entry in its list of users."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("TINYFACE_CACHE", wish)
    assert [modelstore.default("embed"), modelstore.default("detect")] == FILES
    with pytest.raises(UsageError, match="no home folder .*; set TINYFACE_CACHE to a folder"):
        modelstore.made_user_folder()
    for line in ("models", "doctor", "profile fdfacenet --runs 1"):
        run(line.split())
        out, err = capsys.readouterr()
        assert out and "Traceback" not in err
