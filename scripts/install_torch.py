"""Install the PyTorch that the tests compare with, where that is cheap.

On x86-64 Linux the plain package is the CUDA build: several gigabytes for a few convolutions.
So pip is asked first which build it would take, and the answer decides:

- ``auto``: install a CPU build, otherwise leave PyTorch out (its tests are then skipped);
- ``yes``: install whatever pip finds;  ``no``: install nothing.
"""

import importlib.metadata
import json
import platform
import subprocess
import sys

WANTED = "torch==2.13.0"
PNNX = "pnnx>=20240102"  # makes ncnn's files of a trace, for a test; on its own pip adds CUDA
PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check"]


def installed() -> bool:
    try:
        return importlib.metadata.version("torch").split("+")[0] == WANTED.split("==")[1]
    except importlib.metadata.PackageNotFoundError:
        return False


def pip_finds_cpu_build() -> bool:
    """Whether pip would take a build without CUDA. Downloads no more than metadata."""
    if not (sys.platform == "linux" and platform.machine() == "x86_64"):
        return platform.machine() not in ("armv7l", "armv6l")  # no build at all for these
    command = [*PIP, "install", "--quiet", "--dry-run", "--no-deps", "--report", "-", WANTED]
    answer = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    if answer.returncode != 0:
        return False
    report = json.loads(answer.stdout)
    return all("+cpu" in item["metadata"]["version"] for item in report["install"])


def main(wish: str) -> int:
    if wish not in ("auto", "yes", "no"):
        print(f"TORCH={wish}: must be auto, yes or no", file=sys.stderr)
        return 2
    if wish == "no":
        return 0
    if installed():
        return add_pnnx()
    if wish == "auto" and not pip_finds_cpu_build():
        print(
            "PyTorch is left out: pip finds no CPU build of it, and the tests that compare with "
            "it will be skipped.\nTo run them too:  make test TORCH=yes  (several GB with CUDA), "
            "or let pip find a CPU wheel (PIP_FIND_LINKS, PIP_EXTRA_INDEX_URL)."
        )
        return 0
    return subprocess.run([*PIP, "install", "--quiet", WANTED]).returncode or add_pnnx()


def add_pnnx() -> int:
    """Where it has no wheel, its test is skipped."""
    answer = subprocess.run(
        [*PIP, "install", "--quiet", "--no-deps", "--only-binary", ":all:", PNNX]
    )
    if answer.returncode:
        print("No wheel of pnnx: the test of ncnn as a peer is skipped.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else "auto"))
