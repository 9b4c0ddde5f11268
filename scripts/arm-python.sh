#!/usr/bin/env bash
# The Python side of the C engine on ARM: a CPython under emulation plans networks, runs them on
# the cross-compiled engine and compares with NumPy.
#
#   scripts/arm-python.sh [arm64] [armhf] [PYTEST ARGUMENTS]    both where none is named
#   scripts/arm-python.sh [arm64|armhf] --prepare       the interpreter and its packages, no tests
#
# Minutes: emulated NumPy takes a hundred times as long. QEMU_CPU chooses the core of one of them
# (cortex-a72, cortex-a7). The interpreter and its packages stand in TINYFACE_ARM_HOME (~/.cache/tinyface-arm),
# 250 MB each, made once and by any user: Debian's foreign packages are unpacked there, nothing is
# installed. What has wheels is PyPI's; on armhf NumPy (1.24, the oldest that tinyface takes), cffi
# and Pillow (9.4, older than it asks for) have none and are Debian's.
#
# Needs qemu-user and the cross compiler, and apt with a Debian 12 source (TINYFACE_ARM_MIRROR).
set -euo pipefail
cd "$(dirname "$0")/.."

archs=()
while [[ ${1:-} =~ ^(arm64|armhf)$ ]]; do archs+=("$1"); shift; done
[ ${#archs[@]} -gt 0 ] || archs=(arm64 armhf)
if [ ${#archs[@]} -gt 1 ]; then # one beside the other, each to its own log, which is shown whole
    logs=build/arm-python jobs=() failed=0
    mkdir -p $logs
    trap 'kill "${jobs[@]}" 2>/dev/null || true' EXIT
    for i in "${!archs[@]}"; do
        scripts/arm-python.sh "${archs[i]}" "$@" >"$logs/${archs[i]}.log" 2>&1 &
        jobs[i]=$!
        [ "$(env -u OMP_NUM_THREADS nproc)" -gt 1 ] || wait "${jobs[i]}" || true # its status is asked for below
    done
    for i in "${!archs[@]}"; do
        status=0
        wait "${jobs[i]}" || status=$?
        unset "jobs[i]"
        printf '%s\n' "== Python on ${archs[i]}"
        cat "$logs/${archs[i]}.log"
        [ $status = 0 ] || { echo "arm-python: ${archs[i]} failed ($status)" >&2; failed=1; }
    done
    exit $failed
fi
arch=${archs[0]}
home=${TINYFACE_ARM_HOME:-$HOME/.cache/tinyface-arm}/$arch
root=$home/root site=$home/site
suite=bookworm py=3.11 # Debian 12 and its Python
debs=(python$py libpython$py-dev libstdc++6)
wheels=(pytest hypothesis click rich safetensors)
case $arch in
    arm64)
        machine=aarch64 triple=aarch64-linux-gnu emulator=qemu-aarch64 core=cortex-a72
        wheels+=(numpy cffi pillow)
        platforms=(manylinux_2_28_aarch64 manylinux_2_17_aarch64 manylinux2014_aarch64) ;;
    armhf)
        machine=armv7 triple=arm-linux-gnueabihf emulator=qemu-arm core=cortex-a7
        debs+=(python3-numpy python3-cffi python3-pil python3-distutils)
        platforms=(manylinux_2_17_armv7l manylinux2014_armv7l) ;;
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
cp -r tinyface tests weights pyproject.toml "$copy"
mkdir "$copy/docs" && cp -r docs/images "$copy/docs"
rm -f "$copy"/tinyface/_engine*
"$home/python" - "$copy/_engine.c" <<'PYTHON' >/dev/null
import runpy, sys
runpy.run_path("csrc/build_engine.py")["ffibuilder"].emit_c_code(sys.argv[1])
PYTHON
# the objects are those of scripts/arm-test.sh
CC=$triple-gcc CFLAGS="-O2 -fPIC -static" RUN=: scripts/c-tests.sh "build/$machine"
mapfile -t objects < <(ls "build/$machine"/*.o | grep -v /test_)
$triple-gcc -O2 -fPIC "$copy/_engine.c" "${objects[@]}" -shared -Icsrc -lm -pthread \
    -I"$root/usr/include/python$py" -idirafter "$root/usr/include" -o "$copy/tinyface/_engine.abi3.so"

cd "$copy"
"$home/python" -c 'from tinyface.backends import c; print(*(isa.name for isa in c.isas()))'
# What depends on the machine, and minutes of it: every operator, small networks, fp16 weights and
# chains on NEON against NumPy; what the checks of plans refuse; packing; bits for any number of
# threads; public implementations' outputs; from pictures to embeddings by the command and with
# the weights that ship. Left out are larger networks (minutes each here, and the same kernels)
# and the instruction set that is no ARM board's ("scalar", which x86 tests). What forks is left out
# because qemu cannot (it aborts once a child of a program with threads starts one), what draws on
# pictures because it needs a newer Pillow than Debian 12 has.
choice=(
    tests/test_pack.py tests/test_shipped.py::test_both_engines_agree
    tests/test_c_engine.py::test_{equals_numpy,networks_equal_numpy,same_bits_for_any_number_of_threads}
    tests/test_c_engine.py::test_{planned_equals_unplanned,an_unknown_isa_is_an_error}
    tests/test_c_engine.py::test_check_refuses_{what_run_could_not_survive,views_beyond_their_buffer}
    tests/test_c_graphs.py::test_{random_networks,rare_encounters,nan_comes_out_where_it_goes_in,large_values}
    tests/test_rare_rewrites.py::test_c_computes_the_definition
    tests/test_chain.py::test_{any_stack_keeps_its_bits,panels_that_go_on_at_once_keep_their_bits}
    tests/test_chain.py::test_{every_member_has_its_record,check_refuses_broken_chains,check_refuses_broken_links}
    tests/test_half.py::test_{every_instruction_set_equals_numpy_with_rounded_weights,networks_equal_numpy}
    'tests/test_golden.py::test_c_engine[dwfn_star_x1.25]'
    tests/test_cli_embed.py::test_{embed_one,embed_prints_the_vector_when_asked,aligned} tests/test_cli.py::test_verify
)
[ $# -gt 0 ] || set -- "${choice[@]}" -k 'not (scalar or retinaface or shuffle or mobilefacenet)'
TINYFACE_EXAMPLES=${TINYFACE_EXAMPLES:-8} exec "$home/python" -m pytest -q -p no:cacheprovider "$@"
