#!/usr/bin/env python3
"""Does a wheel work with this Python? Its engine against NumPy, on the weights that it brings.

    python scripts/try_wheel.py dist/tinyface-…-manylinux_2_17_x86_64.whl

Nothing is installed: what tinyface needs is there, and the wheel is unpacked beside it.
"""

import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np

LEAST = 0.999999  # cosine between the engines


def main(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as file:
        file.extractall(folder)
        sys.path.insert(0, folder)
        import tinyface
        from tinyface.backends import c

        assert Path(tinyface.__file__).is_relative_to(folder), f"another one: {tinyface.__file__}"
        crop = np.random.default_rng(0).integers(0, 256, (112, 112, 3), dtype=np.uint8)
        fast, plain = (
            tinyface.load(backend=backend).embed(crop, aligned=True) for backend in ("c", "numpy")
        )
        assert fast @ plain > LEAST, f"the engines differ: cosine {fast @ plain}"
        print(f"{wheel.name}: {', '.join(isa.name for isa in c.isas())}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
