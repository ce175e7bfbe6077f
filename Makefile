PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin
UV := $(BIN)/uv
COMPILE := $(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types docs fmt bench bench-gpu accuracy long chaos search soak autoscale dashboard-preview tf-check release lock clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-9s %s\n", $$1, $$2}'

setup: .venv/.ready ## build .venv from requirements.lock

demo: setup ## run the main job on this machine; FILE=talk.mp3 takes a recording of yours
	@$(BIN)/transcriptd demo $(if $(FILE),"$(FILE)")

test: setup lint types ## everything that must pass; WORKERS=1 runs one test at a time
	$(BIN)/pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

lint: setup ## style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup ## static types
	$(BIN)/mypy

docs: setup ## write the generated documents and dashboards anew
	$(BIN)/python docs/generate.py
	$(BIN)/python -m deploy.monitoring.dashboards.generate

fmt: setup ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## speed beside whisperx and others in one run, and the daemon's overhead, 35 minutes; ARGS="--full --write", ARGS=--help
	$(BIN)/python -m bench.throughput $(ARGS)

bench-gpu: setup ## the same on a CUDA device, and Whisper's encoder and decoder by batch size; ARGS="--model large-v3"
	$(BIN)/python -m bench.gpu $(ARGS)

accuracy: setup ## errors of words, speakers and times beside whisperx; ARGS="--only call", ARGS=--write
	$(BIN)/python -m bench.accuracy_table $(ARGS)

long: setup ## memory and speed on recordings of 10 min to 6 h; ARGS="--hours 2 --kill-at 0.9"
	$(BIN)/python -m bench.long $(ARGS)

chaos: setup ## three daemons, 200 jobs, a seeded schedule of kills and outages; SEED=7
	$(BIN)/python -m tests.chaos.run $(if $(SEED),--seed $(SEED))

search: setup ## look for an order of events that breaks a delivery promise, 10 times as long as the tests do
	$(BIN)/pytest --hypothesis-profile=search tests/unit/test_delivery_model.py

soak: setup ## memory of the poller over 1,000 jobs
	$(BIN)/python -m bench.soak

autoscale: setup ## simulate the fleet at three scales and write docs/capacity.md anew, about 2 minutes
	$(BIN)/python -m bench.autoscale --write

dashboard-preview: setup ## draw the dashboards as pictures for the docs, from a real Prometheus and a fleet that fails, 4 minutes
	$(BIN)/python -m bench.dashboard_preview $(ARGS)

tf-check: ## check deploy/terraform with what is there: terraform, checkov; TF_CHECK=… for machines without a registry
	@deploy/terraform/check.sh

release: setup ## dist/transcriptd-VERSION.tar.gz, which deploy/install.sh and the fleet install; ARGS=--wheels for closed networks
	@deploy/release.sh dist $(ARGS)

lock: setup ## resolve pyproject.toml into requirements.lock, and what of it an instance needs into deploy/requirements.lock
	$(COMPILE) --upgrade --all-extras --output-file requirements.lock pyproject.toml
	$(COMPILE) --extra install --constraints requirements.lock --output-file deploy/requirements.lock pyproject.toml

clean: ## remove what the targets made
	rm -rf .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

# uv comes from the lock as well, by its hash: nothing unpinned is ever installed.
.venv/.ready: requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "transcriptd needs Python 3.11 or newer: make PYTHON=python3.11 …")'
	$(PYTHON) -m venv .venv
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > .venv/uv.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes --requirement .venv/uv.lock
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	touch $@
