# The commands that people type. Only Python 3.11.4 or later, git and make must be installed before.
.DEFAULT_GOAL := help
SHELL := /bin/sh
PYTHON ?= python3
VENV := .venv
# uv installs in a fraction of pip's time, so it is used if it is there (`make UV= repro`: pip all the same). It does not read
# pip's configuration, so the variable that docs/install.md names is handed on.
UV ?= $(shell command -v uv)
MORE_WHEELS = $(if $(PIP_EXTRA_INDEX_URL),--extra-index-url $(PIP_EXTRA_INDEX_URL) --index-strategy unsafe-best-match)
INSTALL = $(if $(UV),$(UV) pip install -q --compile-bytecode --python $(VENV)/bin/python $(MORE_WHEELS),python -m pip install -q --disable-pip-version-check)
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.PHONY: help install repro test slow cluster check schema pictures docs bench faults audit format clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

repro: $(VENV)/installed  ## install, run the pipeline, print the result
	@python -m pipeline.dvc repro
	@python -m pipeline summary

test: $(VENV)/installed-dev  ## install what tests need, and run them
	python -m pytest -q -n 2 --dist worksteal

slow: $(VENV)/installed-dev  ## run the tests that `make test` leaves out for their time
	python -m pytest -q -n 2 --dist worksteal -m slow

cluster: $(VENV)/installed-dev  ## install Ray and, as root, Slurm, and test sweeps on clusters on this machine (takes minutes)
	@{ command -v slurmctld && command -v munged; } >/dev/null || apt-get install -qq -y slurm-wlm munge || true
	$(INSTALL) -c constraints.txt '.[dev,ray]'
	python -m pytest -q -n 0 -m cluster

check: $(VENV)/installed-dev  ## style, types, layers: warnings are errors
	ruff format --check .
	ruff check .
	mypy
	lint-imports --no-logo

schema: $(VENV)/installed-dev  ## write params.schema.json, with which editors complete and check params.yaml
	python -m harness.params_schema

pictures: $(VENV)/installed-dev  ## draw docs/pictures from the numbers in reports/
	python -m benchmarks.pictures

docs: .scratch/docs/installed  ## build the pages of docs/ as a site in .scratch/site; a broken link is an error
	@rm -rf .scratch/pages && mkdir -p .scratch/pages
	@git ls-files README.md CITATION.cff params.yaml LICENSE CHANGELOG.md docs images lists presets reports | tar cf - -T - | tar xf - -C .scratch/pages
	@NO_MKDOCS_2_WARNING=1 .scratch/docs/bin/mkdocs build --strict
	@echo "the site: .scratch/site/index.html"

.scratch/docs/installed: constraints-docs.txt
	@test -d .scratch/docs || $(PYTHON) -m venv .scratch/docs
	.scratch/docs/bin/python -m pip install -q --disable-pip-version-check -r constraints-docs.txt
	@touch $@

bench: $(VENV)/installed-dev  ## measure speed: against bare loops and the authors' schedule, and how long users wait
	python -m benchmarks.speed
	python -m benchmarks.speed.profile_step
	python -m benchmarks.speed.switching
	python -m benchmarks.speed.times

audit:  ## look up known vulnerabilities of the pinned packages on PyPI, except one discussed in docs/decisions.md
	@test -x .scratch/audit/bin/pip-audit || { $(PYTHON) -m venv .scratch/audit && .scratch/audit/bin/python -m pip install -q --disable-pip-version-check pip-audit; }
	.scratch/audit/bin/pip-audit --strict --no-deps --disable-pip -r constraints.txt --ignore-vuln CVE-2025-69872

faults: $(VENV)/installed-dev  ## fault-injection tests (takes hours): bad input, damage, full disks, kills, other machines, fifty tasks
	python -m benchmarks.faults.bad_input
	python -m benchmarks.faults.corruption
	python -m benchmarks.faults.environment
	python -m benchmarks.faults.kill
	python -m benchmarks.faults.determinism
	python -m benchmarks.faults.long_run

format: $(VENV)/installed-dev  ## rewrite the code in the common style
	ruff format .
	ruff check --fix .

install: $(VENV)/installed  ## only make .venv with the pinned dependencies

# Files are removed by the names that stages give them, never whole folders: a user's images or weights may lie there, too.
OUTPUTS := data/raw/classes.json data/raw/train.safetensors data/raw/test.safetensors data/train/t[1-9]*.safetensors \
	data/backbone.safetensors data/tasks.json data/image_counts.json data/domains.json data/test.safetensors data/test_images/t[1-9]*.json artifacts/code/*.json \
	artifacts/method.json artifacts/stream.json artifacts/learner.json artifacts/evaluation.json artifacts/rematch.safetensors \
	artifacts/queries/test/t[1-9]*.safetensors artifacts/queries/train/t[1-9]*.safetensors \
	$(foreach folder,banks auxiliary_heads features heads keys selectors,artifacts/$(folder)/t[0-9]*.safetensors)
FOLDERS := data/raw data/train data/test_images data artifacts/queries/train artifacts/queries/test \
	$(foreach folder,code queries banks auxiliary_heads features heads keys selectors,artifacts/$(folder)) artifacts

clean:  ## remove the pipeline's outputs; DVC's cache stays, so dvc repro restores them
	@rm -f $(OUTPUTS)
	@rmdir $(FOLDERS) 2>/dev/null || true

$(VENV)/installed: pyproject.toml constraints.txt
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(INSTALL) -c constraints.txt .
	@touch $@

$(VENV)/installed-dev: $(VENV)/installed
	$(INSTALL) -c constraints.txt '.[dev]'
	@touch $@
