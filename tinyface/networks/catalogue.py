"""The entries of the registry, family by family."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from tinyface.graph import Graph
from tinyface.networks import (
    cnn,
    fdfacenet,
    ghostfacenet,
    lightcnn,
    lightfacenet,
    mobilefacenet,
    pocketnet,
    proxylessfacenas,
    resnet,
    retinaface,
    shufflefacenet,
    ssd4,
    vargfacenet,
    varkfacenet,
    vgg,
)
from tinyface.networks.registry import BY_128, COUNTER, Entry

FDFACENET = "Wang et al. 2023"
IMAGENET: dict[str, Any] = {
    "mean": (123.675, 116.28, 103.53),  # 255 x (0.485, 0.456, 0.406)
    "scale": tuple(1 / (255 * s) for s in (0.229, 0.224, 0.225)),
}


def figures(params: str = "", macs: str = "", fmap: str = "") -> dict[str, str]:
    """What a paper prints: parameters and MACs in millions, feature-map output in MB.

    Text, digit by digit: how many digits were printed decides what fits them.
    """
    given = {"params_M": params, "macs_M": macs, "fmap_MB": fmap}
    return {key: value for key, value in given.items() if value}


def fdfacenets() -> Iterator[Entry]:
    """The paper's Table 7 and its ablations. Preprocessing: the paper does not give it."""

    def entry(name: str, shown: dict[str, str], **options: Any) -> Entry:
        return Entry(
            name, "fdfacenet", partial(fdfacenet.fdfacenet, **options), "pinned",
            f"{FDFACENET}, Table 7 and Fig. 4", figures=shown,
        )  # fmt: skip

    normal = {"strides": fdfacenet.NORMAL}
    yield entry("fdfacenet", figures("3.17", "130", "7.39"))
    yield entry("fdfn-star", figures("7.10", "134", "4.9"), gdc=False)
    yield entry("nfn", figures("", "656", "21.92"), **normal)
    yield entry("nfn-star", figures("7.10", "660"), gdc=False, **normal)
    yield entry("dwfn", {}, separable=True, **normal)
    yield entry(
        "dwfn-star-x1.25", figures("", "132", "26.70"),
        separable=True, gdc=False, width=1.25, **normal,
    )  # fmt: skip


def cnns() -> Iterator[Entry]:
    """Tables 3, 4 (224x224) and 5 (32x32) of the FDFaceNet paper."""

    def entry(name: str, shown: dict[str, str], table: str, **options: Any) -> Entry:
        return Entry(
            name, "cnn", partial(cnn.cnn, **options), "pinned",
            f"{FDFACENET}, {table}", task="classify", figures=shown,
        )  # fmt: skip

    large = "Tables 3 and 4"
    separable: dict[str, Any] = {"separable": True}
    deep: dict[str, Any] = {"separable": True, "repeats": cnn.DEEP}
    fast: dict[str, Any] = {"strides": fdfacenet.FAST}
    pooled: dict[str, Any] = {"strides": cnn.POOLED, "pooled": (2, 3, 4, 5)}
    cifar: dict[str, Any] = {"classes": 10, "size": 32}
    yield entry("cnn-8", figures("3.4", "2600", "58.20"), large)
    yield entry("cnn-8-ds", figures("0.9", "333", "84.86"), large, **separable)
    for width, shown in (
        (0.5, figures("", "132", "55.08")),
        (0.75, figures("", "276", "82.61")),
        (1, figures("1.1", "472", "110.14")),
        (1.25, figures("1.5", "719", "137.68")),
    ):
        yield entry(f"cnn-14-ds-x{width}", shown, large, width=width, **deep)
    for width, shown in (
        (0.5, figures("", "126", "9.69")),
        (0.75, figures("", "276", "14.53")),
        (1, figures("", "485", "19.38")),
        (1.25, figures("", "750", "24.22")),
    ):
        yield entry(f"cnn-8-fd-x{width}", shown, large, width=width, **fast)
    for width, shown in ((0.5, figures("", "406", "10.83")), (0.75, figures("", "903", "16.27"))):
        yield entry(f"cnn-8-fd-pooling-x{width}", shown, large, width=width, **pooled)
    yield entry("cnn-8-cifar", figures("", "53", "1.19"), "Table 5", **cifar)
    yield entry("cnn-8-ds-cifar", figures("", "6.8", "1.73"), "Table 5", **separable, **cifar)
    yield entry("cnn-14-ds-cifar", figures("", "9.6", "2.25"), "Table 5", **deep, **cifar)
    yield entry("cnn-8-fd-cifar", figures("", "9.8", "0.40"), "Table 5", **fast, **cifar)


def classifiers() -> Iterator[Entry]:
    """ImageNet networks that the FDFaceNet paper compares with."""

    def entry(
        name: str, module: str, make: Callable[..., Graph], shown: dict[str, str], source: str
    ) -> Entry:
        return Entry(
            name, module, make, "public", f"{source}; as in torchvision", task="classify",
            figures=shown, **IMAGENET,
        )  # fmt: skip

    he = "He et al. 2016, Table 1"
    deep = partial(resnet.resnet, layers=(3, 4, 6, 3), bottleneck=True)
    simonyan = "Simonyan & Zisserman 2015, Table 1"
    yield entry("vgg16", "vgg", vgg.vgg, figures("138.36", "15610"), simonyan)
    yield entry("resnet18", "resnet", resnet.resnet, figures("11.69", "1820"), he)
    yield entry("resnet50", "resnet", deep, figures("25.56", "4140"), he)


def mobilefacenets() -> Iterator[Entry]:
    paper = "Chen et al. 2018, Table 1"
    shown = figures("1.0", "230", "73.4")

    def entry(name: str, make: Callable[..., Graph], code: str, **more: Any) -> Entry:
        return Entry(name, "mobilefacenet", make, "public", f"{paper}; {code}", **more)

    make, arcface = mobilefacenet.mobilefacenet, mobilefacenet.mobilefacenet_arcface
    code = "TreB1eN/InsightFace_Pytorch @ 350ff7aa9c9d"
    bgr = "some checkpoints with these names were trained on BGR crops: see their card"
    yield entry("mobilefacenet", make, code, figures=shown, notes=bgr)
    yield entry("mobilefacenet-512", partial(make, embedding=512), code, figures=shown, notes=bgr)
    yield entry(
        "mobilefacenet-facexzoo", partial(make, embedding=512, normalise=False),
        "JDAI-CV/FaceX-Zoo @ 16b793a7564a", colour="bgr", scale=BY_128,
    )  # fmt: skip
    yield entry(
        "mobilefacenet-xiaoccer", mobilefacenet.mobilefacenet_xiaoccer,
        "Xiaoccer/MobileFaceNet_Pytorch @ 26bd8d262017", scale=BY_128,
    )  # fmt: skip
    relu6 = mobilefacenet.mobilefacenet_relu6
    yield entry("mobilefacenet-relu6", relu6, "foamliu/MobileFaceNet", **IMAGENET)
    code = "deepinsight/insightface @ 7fadd420c235, arcface_torch"
    yield entry("mobilefacenet-arcface", arcface, f"{code} (mbf)")
    yield entry(
        "mobilefacenet-arcface-large", partial(arcface, repeats=(2, 8, 12, 4), scale=4),
        f"{code} (mbf_large)",
        notes="structure as in the code; no reference output was at hand to check this depth",
    )  # fmt: skip


def small_embedders() -> Iterator[Entry]:
    """ShuffleFaceNet, LightFaceNet, ProxylessFaceNAS, VarGFaceNet, VarKFaceNet."""
    shown = {1.0: figures("1.4", "143", "37.7")}
    for width, widths in shufflefacenet.WIDTHS.items():
        yield Entry(
            f"shufflefacenet-x{width}", "shufflefacenet",
            partial(shufflefacenet.shufflefacenet, widths=widths), "public",
            "Martinez-Diaz et al. 2019; mbfaria/ShuffleFaceNet_Pytorch @ 39818fbff657",
            scale=BY_128, figures=shown.get(width, {}),
        )  # fmt: skip
    yield Entry(
        "lightfacenet", "lightfacenet", lightfacenet.lightfacenet, "reconstruction",
        f"{FDFACENET}, figures only", figures=figures("1.1", "227", "48.08"),
        notes="the configuration was fitted to the figures; they are no evidence for it",
    )  # fmt: skip
    yield from _proxyless()
    yield Entry(
        "vargfacenet", "vargfacenet", vargfacenet.vargfacenet, "public",
        "Yan et al. 2019; zma-c-137/VarGFaceNet @ a937852b51aa (MXNet)", scale=BY_128,
        figures=figures("5.0"), rename=vargfacenet.from_mxnet,
        notes="the public graph normalises its input itself; 1022 MFLOPs are printed, two per MAC",
    )  # fmt: skip
    for suffix, deploy in (("-train", False), ("", True)):
        yield Entry(
            f"varkfacenet{suffix}", "varkfacenet", partial(varkfacenet.varkfacenet, deploy=deploy),
            "reconstruction", "VarKFaceNet, abstract only", figures=figures("0.7"),
            notes="0.24 GFLOPs are printed; a MAC is taken as two FLOPs",
        )  # fmt: skip


def _proxyless() -> Iterator[Entry]:
    p = proxylessfacenas
    published = figures("4.9", "481", "200.78")
    rows: tuple[tuple[str, dict[str, Any], dict[str, str]], ...] = (
        ("cpu", {"backbone": p.CPU}, published),
        ("cpu-1432", {"backbone": p.CPU, "mixed": 1432}, published),
        ("cpu-1432-128", {"backbone": p.CPU, "mixed": 1432, "embedding": 128}, figures("3.2")),
        ("gpu", {"backbone": p.GPU}, {}),
        ("mobile", {"backbone": p.MOBILE}, {}),
    )
    for suffix, options, shown in rows:
        yield Entry(
            f"proxylessfacenas-{suffix}", "proxylessfacenas",
            partial(p.proxylessfacenas, **options), "public",
            "Cai et al. 2019; cavalleria/cavaface @ 822651f0e6d4", figures=shown,
            notes="the backbone is public; no head meets the FDFaceNet paper's 4.9 M parameters",
        )  # fmt: skip


def lightcnns() -> Iterator[Entry]:
    rows: tuple[tuple[str, Callable[..., Graph], dict[str, str]], ...] = (
        ("lightcnn9", lightcnn.lightcnn9, figures("5.6")),
        ("lightcnn29", lightcnn.lightcnn29, {}),
        ("lightcnn29-v2", partial(lightcnn.lightcnn29, v2=True), {}),
    )
    for name, make, shown in rows:
        yield Entry(
            name, "lightcnn", make, "public",
            "Wu et al. 2018; AlfredXiangWu/LightCNN @ 7b38a6f2d208",
            colour="gray", mean=(0.0,), scale=(1 / 255,), figures=shown,
            ignore=(COUNTER, "fc2.weight", "fc2.bias"),
        )  # fmt: skip


def ghostfacenets() -> Iterator[Entry]:
    shown = {
        (1, 1.3, 1): figures("4.09", "215.7"), (1, 1.3, 2): figures("", "60.3"),
        (2, 1.3, 1): figures("6.88", "272.1"), (2, 1.3, 2): figures("6.83", "76.5"),
    }  # fmt: skip
    source = "Alansari et al. 2023; HamadYA/GhostFaceNets @ 513b9f5698ac (Keras)"
    for version in (1, 2):
        for width in (1.0, 1.3):
            for stride in (1, 2):
                make = partial(
                    ghostfacenet.ghostfacenet, version=version, width=width, stride=stride
                )
                yield Entry(
                    f"ghostfacenet-v{version}-{width}-s{stride}", "ghostfacenet", make, "public",
                    source, scale=BY_128, figures=shown.get((version, width, stride), {}),
                    notes="printed are MFLOPs of a profiler that counts MACs and some element-wise "
                    "operators; printed parameters include batch-norm statistics",
                )  # fmt: skip
        for width in (1.0, 1.3):
            make = partial(
                ghostfacenet.ghostfacenet, version=version, width=width, stride=2, port=True
            )
            yield Entry(
                f"ghostfacenet-v{version}-{width}-port", "ghostfacenet", make, "public",
                "Alansari et al. 2023; Hazqeel09/ellzaf_ml @ 1fd06fb2b2e6 (PyTorch)",
                notes="the port computes something else than the original of the same name",
            )  # fmt: skip


def pocketnets() -> Iterator[Entry]:
    shown = {"s-128": "0.92", "s-256": "0.99", "m-128": "1.68", "m-256": "1.75"}
    for size, channels, cells in (("s", 16, 18), ("m", 32, 9)):
        for embedding in (128, 256):
            suffix = f"{size}-{embedding}"
            yield Entry(
                f"pocketnet-{suffix}", "pocketnet",
                partial(
                    pocketnet.pocketnet, channels=channels, cells=cells, embedding=embedding
                ), "public",
                "Boutros et al. 2022; fdbtrs/PocketNet @ 2f860d77ce3a",
                figures=figures(shown[suffix]),
            )  # fmt: skip


def detectors() -> Iterator[Entry]:
    """Input BGR minus a mean, unscaled; priors and variances as in their code."""
    small = "biubug6/Face-Detector-1MB-with-landmark @ 2b075657aef9"
    retina = [[16, 32], [64, 128], [256, 512]]
    lowres = [[10, 20], [32, 64], [128, 256]]
    four = [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]]
    deng = "Deng et al. 2019; biubug6/Pytorch_Retinaface @ b984b4b775b2"
    rows: tuple[tuple[str, str, Callable[..., Graph], str, list[list[int]]], ...] = (
        ("retinaface-mnet0.25", "retinaface", retinaface.retinaface, deng, retina),
        ("retinaface-mnet0.25-lowres", "retinaface", retinaface.retinaface_lowres, small, lowres),
        ("ssd4-slim", "ssd4", ssd4.ssd4, small, four),
        ("ssd4-rfb", "ssd4", partial(ssd4.ssd4, rfb=True), small, four),
    )
    for name, family, make, source, sizes in rows:
        yield Entry(
            name, family, make, "public", source, task="detect", colour="bgr",
            mean=(104.0, 117.0, 123.0), scale=(1.0, 1.0, 1.0),
            detector={
                "min_sizes": sizes,
                "steps": [8 << i for i in range(len(sizes))],
                "variances": [0.1, 0.2],
            },
            figures=figures("", "254") if name == "retinaface-mnet0.25" else {},
        )  # fmt: skip


def entries() -> Iterator[Entry]:
    """All networks, in the order in which ``tinyface models`` lists them."""
    for family in (
        fdfacenets, mobilefacenets, small_embedders, ghostfacenets, pocketnets, lightcnns,
        detectors, cnns, classifiers,
    ):  # fmt: skip
        yield from family()
