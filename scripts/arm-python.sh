#!/usr/bin/env bash
# The Python side of the C engine on ARM: a CPython under emulation plans networks, runs them on
# the cross-compiled engine and compares with NumPy.
#
#   scripts/arm-python.sh [arm64|armhf] [PYTEST ARGUMENTS]
#   scripts/arm-python.sh [arm64|armhf] --prepare       the interpreter and its packages, no tests
#
# Minutes: emulated NumPy takes a hundred times as long. QEMU_CPU chooses the core (cortex-a72,
# cortex-a7). The interpreter and its packages stand in TINYFACE_ARM_HOME (~/.cache/tinyface-arm),
# 250 MB, made once and by any user: Debian's foreign packages are unpacked there, nothing is
# installed. What has wheels is PyPI's; on armhf NumPy, cffi and Pillow have none and are Debian's.
#
# Needs qemu-user and the cross compiler, and apt with a Debian 12 source (TINYFACE_ARM_MIRROR).
set -euo pipefail
cd "$(dirname "$0")/.."
arch=${1:-arm64}
shift $(($# > 0))
home=${TINYFACE_ARM_HOME:-$HOME/.cache/tinyface-arm}/$arch
root=$home/root site=$home/site
suite=bookworm py=3.11 # Debian 12 and its Python
debs=(python$py libpython$py-dev libstdc++6)
wheels=(pytest hypothesis click rich)
case $arch in
    arm64)
        triple=aarch64-linux-gnu emulator=qemu-aarch64 core=cortex-a72
        wheels+=(numpy cffi pillow safetensors)
        platforms=(manylinux_2_28_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64) ;;
    armhf)
        triple=arm-linux-gnueabihf emulator=qemu-arm core=cortex-a7
        debs+=(python3-numpy python3-cffi python3-pil python3-distutils)
        platforms=(any) ;;
    *) echo "arm-python: arm64 or armhf, not $arch" >&2; exit 2 ;;
esac

need() { command -v "$1" >/dev/null || { echo "arm-python: $1 is missing: apt install $2" >&2; exit 2; }; }
need $emulator qemu-user
need $triple-gcc "gcc-$triple libc6-dev-$arch-cross"

unpack_debs() { # resolved by apt in a folder of its own, and unpacked without being configured
    local apt=$home/apt mirror options
    mirror=${TINYFACE_ARM_MIRROR:-$(apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(ORIGIN)' \
        'Created-By: Packages' | awk -v s=$suite '$2 == s && $3 == "Debian" {print $1; exit}')}
    [ -n "$mirror" ] || { echo "arm-python: set TINYFACE_ARM_MIRROR to a Debian mirror" >&2; exit 2; }
    mkdir -p "$apt"/{lists/partial,archives/partial} "$root"
    : >"$apt/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $suite main" \
        >"$apt/sources"
    options=(-qq -o "APT::Architecture=$arch" -o "APT::Architectures=$arch"
        -o "APT::Sandbox::User=$(id -un)" -o APT::Install-Recommends=0 -o Acquire::Languages=none
        -o "Dir::Etc::sourcelist=$apt/sources" -o Dir::Etc::sourceparts=/dev/null
        -o Dir::Etc::preferencesparts=/dev/null -o "Dir::State::lists=$apt/lists"
        -o "Dir::State::status=$apt/status" -o "Dir::Cache=$apt" -o Debug::NoLocking=1)
    apt-get "${options[@]}" update
    apt-get "${options[@]}" -y --download-only install "${debs[@]}" >/dev/null
    for deb in "$apt"/archives/*.deb; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x --no-same-owner -C "$root" --wildcards \
            --exclude='./usr/share/*' './usr/*' './lib*' 2>/dev/null || true # some have no lib
    done
    rm -rf "$apt"
}

make_environment() {
    echo "== Python $py for $arch in $home"
    rm -rf "$home"
    mkdir -p "$home"
    unpack_debs
    for name in blas lapack; do # what Debian's alternatives would have linked
        [ ! -d "$root/usr/lib/$triple/$name" ] \
            || ln -s "$name/lib$name.so.3" "$root/usr/lib/$triple/lib$name.so.3"
    done
    python3 -m pip install --quiet --disable-pip-version-check \
        --root-user-action ignore --target "$site" \
        --python-version $py --implementation cp --only-binary :all: \
        "${platforms[@]/#/--platform=}" "${wheels[@]}"
    # sys.executable must be something that this machine can execute: tests start it again
    cat >"$home/python" <<WRAPPER
#!/bin/sh
export PYTHONHOME="$root/usr" PYTHONPATH="$site:$root/usr/lib/python3/dist-packages" PYTHONSAFEPATH=
exec $emulator -L "$root" -0 "$home/python" "$root/usr/bin/python$py" "\$@"
WRAPPER
    chmod +x "$home/python"
    echo "$recipe" >"$home/ready"
}

recipe="$suite $py ${debs[*]} ${wheels[*]} ${platforms[*]}"
[ "$(cat "$home/ready" 2>/dev/null)" = "$recipe" ] || make_environment
[ "${1:-}" != --prepare ] || exec "$home/python" -c "import numpy, cffi, PIL, pytest" # it works?
export QEMU_CPU=${QEMU_CPU:-$core} OPENBLAS_NUM_THREADS=1

copy=build/arm-python/$arch # beside the tree: its engine is this machine's
rm -rf "$copy"
mkdir -p "$copy"
cp -r tinyface tests pyproject.toml "$copy"
rm -f "$copy"/tinyface/_engine*
read -ra build < <({ "$home/python" - "$copy/_engine.c" <<'PYTHON'
import runpy, sys
engine = runpy.run_path("csrc/build_engine.py")
engine["ffibuilder"].emit_c_code(sys.argv[1])
print(*engine["FLAGS"], *(f"csrc/{name}" for name in engine["SOURCES"]))
PYTHON
} | tail -n 1)
$triple-gcc "${build[@]}" "$copy/_engine.c" -shared -fPIC -Icsrc -lm \
    -I"$root/usr/include/python$py" -idirafter "$root/usr/include" -o "$copy/tinyface/_engine.abi3.so"

cd "$copy"
"$home/python" -c 'from tinyface.backends import c; print(*(isa.name for isa in c.isas()))'
quick="neon and (equals_numpy or fdfacenet or cnn) or refuse or stack or record" # without long networks
[ $# -gt 0 ] || set -- tests/test_c_engine.py tests/test_chain.py -k "$quick"
TINYFACE_EXAMPLES=${TINYFACE_EXAMPLES:-8} exec "$home/python" -m pytest -q -p no:cacheprovider "$@"
