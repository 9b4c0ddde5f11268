"""The Python API: load, run, embed, detect, align, verify; and where models are looked for."""

import io
import json
import os
import pickle
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import samples
from PIL import Image

import tinyface
from tinyface import modelstore
from tinyface.errors import GraphError, ModelError, NoFaceError, UsageError
from tinyface.faces.verify import threshold_for
from tinyface.formats.modelfile import save_model
from tinyface.model import Model, fit, l2_normalise
from tinyface.runtime import Session
from tinyface.vision import align as alignment
from tinyface.vision.align import align as align_by
from tinyface.vision.detect import Detector

pytestmark = pytest.mark.usefixtures("only_samples")


@pytest.fixture(scope="module")
def model() -> Model:
    finder = Detector(Session(*samples.detector()[:1]), samples.detector()[1])
    return Model(*samples.recogniser(), detector=finder)


ONE = samples.picture((1, 2))
THREE = samples.picture((0, 0), (2, 1), (1, 3))


# ------------------------------------------------------------------------------------ run


def test_run_is_the_network_alone(model: Model) -> None:
    x = np.random.default_rng(0).standard_normal((3, 3, 112, 112)).astype(np.float32)
    y = model.run(x)
    assert isinstance(y, np.ndarray) and y.shape == (3, 16) and y.dtype == np.float32
    assert np.linalg.norm(y, axis=1) != pytest.approx(1)  # not normalised
    one = model.run(x[1:2])
    np.testing.assert_allclose(one, y[1:2], rtol=1e-5, atol=1e-5)


def test_run_gives_a_dict_where_there_are_several_outputs() -> None:
    graph, card = samples.detector()
    outputs = Model(graph, card).run(np.zeros((1, 3, 128, 64), np.float32))
    assert isinstance(outputs, dict)
    assert {name: a.shape for name, a in outputs.items()} == {
        "loc": (1, 2, 4), "conf": (1, 2, 2), "landms": (1, 2, 10),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("x", "says"),
    [
        (np.zeros((1, 112, 112, 3), np.float32), "(N, 3, 112, 112)"),
        (np.zeros((3, 112, 112), np.float32), "(N, 3, 112, 112)"),
        (np.zeros((1, 3, 112, 112), np.uint8), "float32"),
        (np.zeros((1, 3, 8, 8), np.float32), "fc"),
    ],
)
def test_run_says_what_it_wants(model: Model, x: np.ndarray, says: str) -> None:
    with pytest.raises(GraphError) as caught:
        model.run(x)
    assert says in str(caught.value)


# ---------------------------------------------------------------------------------- embed


def test_embed_takes_everything_that_is_a_picture(model: Model, tmp_path: Path) -> None:
    path = samples.save_png(tmp_path / "face.png", ONE)
    stream = io.BytesIO(path.read_bytes())
    for image in (ONE, str(path), path, path.read_bytes(), stream, Image.fromarray(ONE)):
        embedding = model.embed(image)
        assert embedding.shape == (16,) and embedding.dtype == np.float32
        np.testing.assert_array_equal(embedding, model.embed(ONE))
    assert np.linalg.norm(model.embed(ONE)) == pytest.approx(1, abs=1e-6)


def test_a_list_gives_rows(model: Model) -> None:
    several = [ONE, THREE, ONE]
    embeddings = model.embed(several)
    assert embeddings.shape == (3, 16)
    np.testing.assert_array_equal(embeddings[0], embeddings[2])
    np.testing.assert_array_equal(model.embed(np.stack(several)), embeddings)
    np.testing.assert_array_equal(model.embed(tuple(several)), embeddings)
    np.testing.assert_array_equal(model.embed(iter(several)), embeddings)
    np.testing.assert_allclose(embeddings[1], model.embed(THREE), atol=1e-6)
    assert model.embed([]).shape == (0, 16)
    assert model.embed([ONE]).shape == (1, 16)


def test_embed_is_detect_align_prepare_run_normalise(model: Model) -> None:
    face = model.detector.detect(ONE)[0]
    crop = align_by(ONE, face.landmarks, 112)
    x = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    y = np.asarray(model.run(x))
    np.testing.assert_allclose(model.embed(ONE), (y / np.linalg.norm(y))[0], atol=1e-5)


def test_embed_without_a_face(model: Model, tmp_path: Path) -> None:
    path = samples.save_png(tmp_path / "night.png", samples.picture())
    with pytest.raises(NoFaceError, match=r"night\.png: no face found; try"):
        model.embed([ONE, path])


def test_embed_faces(model: Model) -> None:
    found = model.embed_faces(THREE)
    assert len(found) == 3
    centres = {tuple(map(int, f.face.box[:2] // 64)) for f in found}
    assert centres == {(0, 0), (2, 1), (1, 3)}
    assert len(model.embed_faces(THREE, limit=2)) == 2
    assert model.embed_faces(samples.picture()) == []
    with pytest.raises(UsageError, match="limit of -1"):
        model.embed_faces(THREE, limit=-1)
    assert found[0] != found[1] and found[0] in found and len({*found}) == 3
    np.testing.assert_allclose(found[0].embedding, model.embed(THREE), atol=1e-6)


def test_many_crops_take_no_more_memory(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine keeps the maps of each number of pictures that it has seen."""
    crops = np.random.default_rng(2).integers(0, 256, (71, 112, 112, 3), dtype=np.uint8)
    seen: list[int] = []
    run = model.session.run
    monkeypatch.setattr(model.session, "run", lambda x: seen.append(len(x)) or run(x))
    many = model.embed_crops(crops)
    assert seen == [32, 32, 7] and many.shape == (71, 16)
    single = np.concatenate([model.embed_crops(crop[None]) for crop in crops])
    np.testing.assert_allclose(many, single, rtol=1e-4, atol=1e-5)
    assert model.embed_crops(crops[:0]).shape == (0, 16)


def test_aligned_crops_are_taken_as_they_are(model: Model) -> None:
    crop = np.random.default_rng(1).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    x = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    y = np.asarray(model.run(x))
    np.testing.assert_allclose(model.embed(crop, aligned=True), l2_normalise(y)[0], atol=1e-5)


def test_aligned_crops_of_another_size_are_scaled(model: Model) -> None:
    large = np.kron(np.tile(np.arange(112, dtype=np.uint8), (112, 1)), np.ones((2, 2), np.uint8))
    crop = np.repeat(large[..., None], 3, axis=2)
    assert fit(crop, 112, 112).shape == (112, 112, 3)
    # each pixel was doubled, so that scaling back gives the ramp again, but for rounding
    assert np.abs(fit(crop, 112, 112)[56, 5:-5, 0].astype(int) - np.arange(5, 107)).max() <= 1
    assert model.embed(crop, aligned=True).shape == (16,)


def test_a_photograph_is_not_taken_for_a_crop_in_silence(
    model: Model, recwarn: pytest.WarningsRecorder
) -> None:
    for side in (112, 224, 256):
        model.embed(np.zeros((side, side, 3), np.uint8), aligned=True)
    assert not recwarn.list
    with pytest.warns(UserWarning, match="512x512 are taken as aligned crops"):
        model.embed(np.zeros((512, 512, 3), np.uint8), aligned=True)


@pytest.mark.parametrize("shape", [(112, 112), (224, 224), (100, 300), (300, 100), (1, 1)])
def test_fit_keeps_the_middle(shape: tuple[int, int]) -> None:
    crop = np.zeros((*shape, 3), np.uint8)
    crop[shape[0] // 2, shape[1] // 2] = 255
    odd = alignment.frame(*shape) is None
    with pytest.warns(UserWarning, match="250x250") if odd else nullcontext():
        fitted = fit(crop, 112, 96)
    assert fitted.shape == (112, 96, 3)
    y, x = np.unravel_index(fitted[..., 0].argmax(), (112, 96))
    assert (abs(y - 56) <= 2 and abs(x - 48) <= 2) or shape == (1, 1)


SIZES = [(112, 112), (112, 96), (128, 128), (224, 224), (224, 192), (256, 256)]


@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("wanted", SIZES)
def test_fit_keeps_the_landmarks_where_the_network_wants_them(
    shape: tuple[int, int], wanted: tuple[int, int]
) -> None:
    """A block on each of the template's five points is on those of the other template."""
    crop = np.zeros((*shape, 3), np.uint8)
    for x, y in np.rint(alignment.template(shape)).astype(int):
        crop[y - 4 : y + 5, x - 4 : x + 5] = 255
    fitted = fit(crop, *wanted)
    assert fitted.shape == (*wanted, 3)
    for x, y in alignment.template(wanted):
        around = fitted[round(y) - 12 : round(y) + 13, round(x) - 12 : round(x) + 13, 0]
        rows, columns = np.nonzero(around > 127)
        assert abs(rows.mean() - 12) < 2 and abs(columns.mean() - 12) < 2


def test_112x96_is_filled_up_on_both_sides() -> None:
    crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
    crop[:, :8] = crop[:, 104:] = 0
    np.testing.assert_array_equal(fit(crop[:, 8:104], 112, 112), crop)
    wide = np.pad(crop, ((0, 16), (8, 8), (0, 0)))
    np.testing.assert_array_equal(fit(wide, 112, 112), crop)
    np.testing.assert_array_equal(fit(crop, 128, 128), wide)


@pytest.mark.parametrize("colour", ["rgb", "bgr", "gray"])
def test_other_sizes_and_colours(colour: str) -> None:
    graph, card = samples.recogniser((112, 96), colour=colour)
    finder = Detector(Session(samples.detector()[0]), samples.detector()[1])
    model = Model(graph, card, detector=finder)
    assert model.prepare(np.zeros((2, 112, 96, 3), np.uint8)).shape == (
        2, 1 if colour == "gray" else 3, 112, 96,
    )  # fmt: skip
    assert model.embed(ONE).shape == (16,)
    # a 112x112 crop holds the 112x96 one in its middle
    crop = align_by(ONE, finder.detect(ONE)[0].landmarks, 112)
    np.testing.assert_allclose(model.embed(crop, aligned=True), model.embed(ONE), atol=1e-5)


def test_one_model_serves_several_threads(model: Model) -> None:
    images = [samples.picture((i % 4, i // 4)) for i in range(8)]
    expected = [model.embed(image) for image in images]
    found: dict[int, np.ndarray] = {}

    def work(i: int) -> None:
        for _ in range(3):
            found[i] = model.embed(images[i])

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, embedding in enumerate(expected):
        np.testing.assert_array_equal(found[i], embedding)


# ---------------------------------------------------------------- functions of the package


def test_detect_and_align() -> None:
    faces = tinyface.detect(THREE)
    assert len(faces) == 3 and tinyface.detect(samples.picture()) == []
    np.testing.assert_array_equal(tinyface.align(THREE), align_by(THREE, faces[0].landmarks, 112))
    assert tinyface.align(THREE, faces[1].landmarks, size=(112, 96)).shape == (112, 96, 3)
    with pytest.raises(NoFaceError):
        tinyface.align(samples.picture())


def test_a_detector_is_found_from_another_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is loaded when it is first needed; servers change to another folder before."""
    (tmp_path / "own.safetensors").write_bytes(modelstore.find("detector").read_bytes())
    monkeypatch.chdir(tmp_path)
    loaded = tinyface.load(threads=1, detector="./own.safetensors")
    monkeypatch.chdir(tmp_path.parent)
    assert loaded.detector is not None


def test_a_detector_goes_to_other_processes(model: Model) -> None:
    finder = tinyface.load_detector(threads=1)
    assert pickle.loads(pickle.dumps(finder)) is finder  # here it is loaded already
    again = pickle.loads(pickle.dumps(tinyface.load(threads=1, detector=finder)))
    assert again.detector is finder
    with pytest.raises(TypeError, match=r"load_detector\(\)"):
        pickle.dumps(model.detector)
    assert repr(finder).startswith("<tinyface.Detector ")
    quick = tinyface.load_detector(max_side=320)
    assert quick.max_side == 320 and pickle.loads(pickle.dumps(quick)) is quick
    with pytest.raises(UsageError, match="max_side is 1"):
        tinyface.load_detector(max_side=1)


def test_verify(model: Model) -> None:
    answer = tinyface.verify(ONE, ONE)
    assert answer.same and answer.cosine == pytest.approx(1)
    assert (answer.threshold, answer.fmr, answer.model) == (0.5, 1e-3, "sample")
    assert tinyface.verify(ONE, ONE, model, fmr=1e-2).threshold == 0.3
    other = tinyface.verify(ONE, THREE, model, threshold=0.99999)
    assert other.fmr is None
    assert other.same == (other.cosine >= 0.99999)
    assert other.cosine == pytest.approx(tinyface.cosine(model.embed(ONE), model.embed(THREE)))
    # "if verify(a, b):" lets no stranger in
    assert answer and not tinyface.verify(ONE, ONE[:, ::-1], threshold=1.0)
    document = json.loads(json.dumps(answer.to_json()))
    assert document["same"] and document["faces"][1]["of"] == 1
    # a threshold from an array of them
    answer = tinyface.verify(ONE, ONE, threshold=np.float32(0.5))  # type: ignore[arg-type]
    assert bool(answer) and json.loads(json.dumps(answer.to_json()))["same"] is True


def test_verify_sees_that_a_model_was_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYFACE_CACHE", str(models := samples.install(tmp_path)))
    assert tinyface.verify(ONE, ONE).model == "sample"
    graph, card = samples.recogniser()
    save_model(models / "fdfacenet.safetensors", graph, replace(card, name="another"))
    assert tinyface.verify(ONE, ONE).model == "another"


def test_a_model_whose_file_was_replaced_is_not_taken_for_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its fingerprint would be that of other weights than those that embed."""
    monkeypatch.setenv("TINYFACE_CACHE", str(models := samples.install(tmp_path)))
    loaded, known = tinyface.load(), tinyface.load()
    fingerprint = known.fingerprint
    save_model(path := models / "fdfacenet.safetensors", *samples.recogniser(seed=7))
    os.utime(path, ns=(1, 1))  # later, on clocks that tick slowly
    assert known.fingerprint == fingerprint
    with pytest.raises(ModelError, match="load it again"):
        _ = loaded.fingerprint
    assert tinyface.load().fingerprint != fingerprint


def test_verify_needs_a_threshold(model: Model) -> None:
    with pytest.raises(UsageError, match=r"no threshold for .* 0\.2; take 0\.01, 0\.001"):
        tinyface.verify(ONE, ONE, model, fmr=0.2)
    card = samples.recogniser()[1]
    object.__setattr__(card, "thresholds", {})
    with pytest.raises(UsageError, match="carries no thresholds"):
        threshold_for(card)


def test_cosine() -> None:
    assert tinyface.cosine([1, 0], [0, 2]) == 0
    assert tinyface.cosine([1, 1], [-3, -3]) == pytest.approx(-1)
    assert tinyface.cosine([0, 0], [1, 1]) == 0
    with pytest.raises(UsageError, match="2 and 3 values"):
        tinyface.cosine([1, 2], [1, 2, 3])
    assert tinyface.cosine([[1, 1]], [2, 2]) == pytest.approx(1)
    with pytest.raises(UsageError, match="give two embeddings"):
        tinyface.cosine(np.eye(2), np.eye(2))


# ------------------------------------------------------------------------------- the store


def test_load_by_name_and_path(models: Path) -> None:
    assert tinyface.load().card.embedding_size == 16
    assert tinyface.load("fdfacenet").name == "sample"
    assert tinyface.load(models / "fdfacenet.safetensors").name == "sample"


def test_a_name_with_a_dot_is_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As of networks whose width is in their name."""
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path))
    save_model(tmp_path / "net-x0.25.safetensors", *samples.recogniser())
    assert tinyface.load("net-x0.25").name == "sample"


def test_load_refuses(models: Path) -> None:
    with pytest.raises(UsageError, match="^3: give a model's name or the path of its file"):
        tinyface.load(3)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="no weights named 'nosuch'.*detector, dwfn, fdfacenet"):
        tinyface.load("nosuch")
    with pytest.raises(UsageError, match="no such model file"):
        tinyface.load(models / "nosuch.safetensors")
    with pytest.raises(UsageError, match="is a folder"):
        tinyface.load(str(models))
    for network in ("retinaface-mnet0.25", "mobilefacenet"):
        with pytest.raises(UsageError, match=f"import FILE --network {network}$"):
            tinyface.load(network)
    with pytest.raises(ModelError, match="gives no embeddings"):
        tinyface.load("detector")
    with pytest.raises(ModelError, match="finds no faces"):
        tinyface.load_detector("fdfacenet")


def test_the_default_is_never_invented(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINYFACE_CACHE", str(tmp_path))
    monkeypatch.setattr(modelstore, "packaged_folder", lambda: tmp_path / "none")
    with pytest.raises(UsageError, match="no trained weights of a recogniser.*tinyface import"):
        tinyface.load()
    with pytest.raises(UsageError, match="no trained weights of a face detector"):
        tinyface.load_detector()
    # what someone imported becomes the default, whatever its name; what cannot be read does not
    (tmp_path / "aaa.safetensors").write_bytes(b"nothing")
    save_model(tmp_path / "mine.safetensors", *samples.recogniser())
    assert tinyface.load().name == "sample"
    save_model(tmp_path / "fdfacenet.safetensors", *samples.recogniser(embedding=8))
    assert tinyface.load().card.embedding_size == 8
    monkeypatch.setenv("TINYFACE_MODEL", "mine")
    assert tinyface.load().card.embedding_size == 16


def test_user_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TINYFACE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert modelstore.user_folder() == Path("/somewhere/tinyface")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert modelstore.user_folder() == Path.home() / ".cache" / "tinyface"
