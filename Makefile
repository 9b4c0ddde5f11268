# Everything a newcomer, a maintainer and CI do, one word each. `make` alone lists them.
#
#   make demo    set up .venv, embed a sample photo, verify a pair
#   make test    set up .venv, run all tests
#
# PYTHON=python3.12   the Python that .venv is made of
# TORCH=auto|yes|no   PyTorch, the oracle of some tests: "auto" installs it where pip finds a
#                     CPU build; without it those tests are skipped
# WORKERS=0           tests run one after another (for --pdb, say) in place of one process a CPU

PYTHON ?= python3
VENV   ?= .venv
TORCH  ?= auto
BIN    := $(VENV)/bin

WORKERS ?= auto
# Files stay whole: some tests share what another of their file has made.
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# The package is installed in place; these decide whether that must happen again.
SOURCES := pyproject.toml setup.py $(wildcard csrc/*.c csrc/*.h csrc/*.py)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-quick test-oldest lint format c-tests asan tsan avx512-test arm-test arm-python perf-arm count-arm cachesim clang-test wheels try-wheels wheel clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | sort | expand -t 14

# ---------------------------------------------------------------------------- setting up

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	  || { echo 'tinyface needs Python 3.10 or newer: make PYTHON=python3.12 …' >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) \
	  || { rm -rf $(VENV); echo 'First:  sudo apt install python3-venv python3-dev' >&2; exit 1; }

$(VENV)/.installed: $(SOURCES) | $(BIN)/python
	@echo 'building tinyface into $(VENV); minutes on a small board'
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

# tinyface itself is there: pip only adds what the extra names, and builds nothing again
$(VENV)/.installed-test: $(VENV)/.installed scripts/install_torch.py
	$(BIN)/python -m pip install --quiet 'tinyface[test]'
	$(BIN)/python -m pip install --quiet --only-binary :all: 'tinyface[test-peers]' \
	  || echo 'Not all of onnx, onnxruntime, onnxscript, ncnn, matplotlib: tests that need them are skipped.'
	$(BIN)/python -m pip install --quiet --only-binary :all: 'tinyface[report]' \
	  || echo 'No wheel of vl-convert-python: the tests of reports in a browser are skipped.'
	$(BIN)/python scripts/install_torch.py $(TORCH)
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'tinyface[test,lint]'
	@touch $@

$(VENV)/.installed-release: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet 'tinyface[release]'
	@touch $@

install: $(VENV)/.installed  ## tinyface in .venv, in place

# --------------------------------------------------------------------------- trying it out

demo: $(VENV)/.installed  ## embed a sample photo and verify a pair
	@PATH="$(abspath $(BIN)):$$PATH" sh scripts/demo.sh

# --------------------------------------------------------------------------------- testing

test: $(VENV)/.installed-test  ## all tests
	$(PYTEST) $(ARGS)

test-quick: $(VENV)/.installed-test  ## the tests that take seconds
	$(PYTEST) -m 'not slow' $(ARGS)

OLDEST := build/oldest/bin/python
$(OLDEST): pyproject.toml | $(VENV)/.installed
	rm -rf build/oldest
	$(PYTHON) -m venv build/oldest
	$(OLDEST) -m pip install --quiet uv
	$(OLDEST) -m uv pip install --quiet --python $(OLDEST) --resolution lowest-direct \
	  --only-binary :all: -r pyproject.toml --extra onnx --extra plot --extra report --extra test
	@touch $@

# Most of the time goes to arithmetic and to the source itself, in which no package has a part.
NO_PACKAGE := golden c_engine c_graphs chain cache half layering detect networks passes touched \
              rivals attention torch_checkpoint_hostile
test-oldest: $(OLDEST)  ## the quick ones with the oldest packages that tinyface asks for
	TINYFACE_EXAMPLES=8 PYTHONPATH=$(CURDIR) $(PYTEST:$(BIN)/%=build/oldest/bin/%) -m 'not slow' \
	  $(NO_PACKAGE:%=--ignore=tests/test_%.py) $(ARGS)

C_FILES  := $(wildcard csrc/*.[ch] tests/c/*.[ch] benchmarks/*.c)
C_STRICT := -std=c11 -Wall -Wextra -Wconversion -Werror -pthread -Icsrc

lint: $(VENV)/.installed-lint  ## ruff, mypy --strict, C warnings as errors, clang-format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy
	for file in csrc/*.c; do $(CC) $(C_STRICT) -fsyntax-only $$file || exit 1; done
	$(BIN)/clang-format --dry-run --Werror $(C_FILES)

format: $(VENV)/.installed-lint  ## let ruff and clang-format lay out the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(C_FILES)

# Scripts that also run on their own, with more choices: see the comment at the top of each.
script = PATH="$(abspath $(BIN)):$$PATH" bash scripts/$@.sh

c-tests:  ## the C engine's own test program
	@$(script)

asan:  ## the same under ASan and UBSan
	@$(script)

tsan:  ## its threads under TSan
	@PATH="$(abspath $(BIN)):$$PATH" bash scripts/asan.sh thread

avx512-test:  ## the same for AVX-512, carried out by SIMDe where the CPU has none
	@$(script)

arm-test:  ## the same on aarch64 and armv7, emulated
	@$(script)

ARCHS ?= arm64 armhf
arm-python:  ## the Python tests of the C engine on emulated aarch64 and armv7: minutes
	@$(script) $(ARCHS)

perf-arm:  ## the two hottest aarch64 loops on models of Pi cores: FLOPs per cycle (llvm-mca)
	@$(script)

MODEL ?= fdfacenet mobilefacenet-512
count-arm: $(VENV)/.installed  ## instructions and DRAM traffic on a Raspberry Pi, emulated
	@$(BIN)/python scripts/count_arm.py $(MODEL) $(ARGS)

cachesim: $(VENV)/.installed  ## the model of memory traffic beside a simulated Pi 4 (valgrind)
	@$(BIN)/python scripts/cachesim.py $(NETWORKS) $(ARGS)

# ------------------------------------------------------------------------------- packaging

clang-test: $(VENV)/.installed-release  ## the same as clang makes them for aarch64, Windows and macOS
	@$(script)

wheels: $(VENV)/.installed-release  ## source and wheels for Linux, macOS and Windows, in dist/
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python scripts/wheels.py $(PLATFORMS)

try-wheels:  ## whether those of them work that this machine can run, emulated or not
	@$(script)

wheel: $(BIN)/python  ## sdist and this machine's wheel in dist/
	$(BIN)/python -m pip install --quiet 'build>=1.2'
	TINYFACE_EXTENSION=require $(BIN)/python -m build

clean:  ## remove what the above made
	rm -rf build dist $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	rm -f tinyface/_engine*.so tinyface/_engine*.pyd tinyface/_engine.c
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
