PYTHON ?= python3
WORKERS ?= 2
VENV ?= .venv
BIN := $(VENV)/bin
UV := $(BIN)/uv
# Whole files, so that their tests share fixtures, in the order of tests/conftest.py.
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

# Tests start hundreds of processes, which must not compile our modules each time.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo check test pytest test-interpreter test-lowest lint types docs fmt audit bench bench-gpu bench-priority accuracy long chaos search soak autoscale tf-check release lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-14s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## build .venv from requirements.lock; another interpreter: PYTHON=python3.12 VENV=.venv-3.12

demo: setup ## transcribe a sample on this machine, outputs in transcriptd-demo/; your own recording: FILE=talk.mp3
	@$(BIN)/transcriptd demo $(if $(FILE),"$(FILE)")

check: setup lint ## quick checks while you work: style, import contracts, types and unit tests
	@$(MAKE) --no-print-directory --jobs 2 types pytest TESTS=tests/unit

test: setup lint ## all checks and tests; WORKERS=1 runs one test at a time
	@$(MAKE) --no-print-directory --jobs 2 types pytest

pytest: # mypy is single-threaded, so it runs in parallel with the tests
	$(PYTEST) $(TESTS) $(ARGS)

test-interpreter: setup ## tests that depend on the Python version: unit, media, and installed releases
	$(PYTEST) tests/unit tests/integration/test_any_media_words.py tests/deploy/test_instance.py $(ARGS)

test-lowest: setup ## run the demo with the lowest versions that pyproject.toml allows
	rm -rf $(VENV)-lowest && $(BIN)/python -m venv --without-pip $(VENV)-lowest
	$(UV) pip compile --quiet --python $(BIN)/python --resolution lowest-direct --generate-hashes --no-emit-index-url --extra embedded --output-file $(VENV)-lowest/requirements.txt pyproject.toml
	$(UV) pip sync --quiet --python $(VENV)-lowest/bin/python --require-hashes $(VENV)-lowest/requirements.txt
	$(BIN)/python -m hatchling build --target wheel --directory $(VENV)-lowest/dist > /dev/null
	$(UV) pip install --quiet --python $(VENV)-lowest/bin/python --no-deps $(VENV)-lowest/dist/*.whl
	$(VENV)-lowest/bin/transcriptd demo

lint: setup ## check style, formatting, import contracts and the review dates of accepted advisories
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/python -m deploy.audit --reviews

types: setup ## check static types
	$(BIN)/mypy

docs: setup ## regenerate the documents and dashboards
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.monitoring.dashboards.generate

fmt: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

audit: setup ## check the locked packages against published advisories, which needs the network
	$(BIN)/python -m deploy.audit $(ARGS)

bench: setup ## compare speed with whisperx and others, and measure the overhead, 35 minutes; ARGS="--full --write", ARGS=--help
	$(BIN)/python -m bench.throughput $(ARGS)

bench-gpu: setup ## the same on a CUDA device, with Whisper's encoder and decoder by batch size; ARGS="--model large-v3"
	$(BIN)/python -m bench.gpu $(ARGS)

bench-priority: setup ## measure how long a short job takes under a full batch queue, as a ratio, 10 minutes; ARGS="--device cuda"
	$(BIN)/python -m bench.priority $(ARGS)

accuracy: setup ## compare errors of words, speakers and times with whisperx and faster-whisper; ARGS="--only call", ARGS=--write
	$(BIN)/python -m bench.accuracy_table $(ARGS)

long: setup ## measure memory and speed on recordings of 10 min to 6 h; ARGS="--hours 2 --kill-at 0.9"
	$(BIN)/python -m bench.long $(ARGS)

chaos: setup ## run three daemons and 200 jobs under a seeded schedule of faults; SEED=7 ARGS="--jobs 10000 --faults 1000"
	$(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED)) $(ARGS)

search: setup ## search for an order of events that breaks a delivery guarantee, 10 times as long as in the tests
	$(BIN)/pytest --hypothesis-profile=search tests/unit/test_delivery_model.py

soak: setup ## measure the poller's memory over 1,000 jobs
	$(BIN)/python -m bench.soak

autoscale: setup ## simulate the fleet at three scales and update docs/capacity.md, about 2 minutes
	$(BIN)/python -m bench.autoscale --write

tf-check: ## check deploy/terraform with the installed tools: terraform, checkov; TF_CHECK=… for machines without a registry
	@deploy/terraform/check.sh

release: setup ## build dist/transcriptd-VERSION.tar.gz for deploy/install.sh and the fleet, with SBOM and SHA256SUMS; ARGS=--wheels for closed networks
	@deploy/release.sh dist $(ARGS)

lock: setup ## resolve pyproject.toml into requirements.lock, and the subset for instances into deploy/requirements.lock
	$(COMPILE) --upgrade --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra install --constraints requirements.lock --output-file deploy/requirements.lock pyproject.toml

clean: ## remove all build results
	rm -rf .venv .venv-* dist transcriptd-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis

# uv is installed from the lock as well, by its hash, so nothing unpinned is ever installed.
$(VENV)/.ready: requirements.lock pyproject.toml
	@[ "$$(uname -s)" = Linux ] || { echo "this is $$(uname -s), and transcriptd needs Linux: use a Linux machine, or a container or virtual machine with it" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(None if (3, 11) <= sys.version_info[:2] <= (3, 13) else "transcriptd needs Python 3.11, 3.12 or 3.13, not %d.%d: make PYTHON=python3.12 …" % sys.version_info[:2])'
	@$(PYTHON) -c 'import venv, ensurepip' || { echo 'this Python has no venv module; on Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@echo "set-up: downloads about 4 GB of packages; $(VENV) takes about 8 GB of disk, of $$(df -Ph . | awk 'NR == 2 { print $$4 }') free here"
	$(PYTHON) -m venv $(VENV)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(VENV)/uv.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement $(VENV)/uv.lock
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
