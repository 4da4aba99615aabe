# `make demo` and `make test` set themselves up: a venv in .venv, the package in it, then the work.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
export HF_HUB_DISABLE_TELEMETRY = 1

.PHONY: help install demo test test-slow test-gpu bench bench-scale prepare clean

help:
	@echo "make demo       the whole path on synthetic images, and a report (about 5 minutes)"
	@echo "make test       every lesson and test, and the checks on the notebooks"
	@echo "make test-slow  what is slow by nature"
	@echo "make test-gpu   what only a GPU can show"
	@echo "make bench      speed against the usual way, on real images, alone on the machine (under an hour)"
	@echo "make bench-scale  time and memory as a set grows to 100,000 images"
	@echo "make prepare    export, clean, README: before a commit"

# The stamp is as new as the files that decide what is installed.
install: $(VENV)/.installed
$(VENV)/.installed: settings.ini setup.py pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

# The twins, whatever real images the environment names: the demo needs no dataset at hand.
DEMO := env -u HW4_PORTRAITS -u HW4_SCENES HW4_STORE=runs/demo $(BIN)/hw4
demo: install
	$(DEMO) run q1-5 q1-6 --arch tf_efficientnet_lite0 --size 80 --epochs 2
	$(DEMO) run q2-1 q2-3 --size 120 --epochs 3
	$(DEMO) report --out demo.html

# One thread a process, the twins whatever the environment names, and a store of its own that nothing is found in.
ALONE := env -u HW4_PORTRAITS -u HW4_SCENES OMP_NUM_THREADS=1 HW4_STORE=$$(mktemp -d)
test: install
	$(ALONE) $(BIN)/nbdev_test --n_workers 2 --do_print
	$(ALONE) $(BIN)/python -m pytest -n 2
	$(BIN)/python -m pytest tests/sync.py

# The lessons that have a cell of this flag.
HASH := \#
flagged = set -e; for o in $$(grep -rl --include=*.ipynb '"$(HASH)| $(1)' nbs); do $(ALONE) $(BIN)/nbdev_test --path $$o --flags $(1) --n_workers 0 --do_print; done

test-slow: install
	$(call flagged,slow)
	$(ALONE) $(BIN)/python -m pytest -m slow -s

test-gpu: install
	$(BIN)/python -c "import sys, torch; torch.cuda.is_available() or sys.exit('there is no GPU here')"
	$(call flagged,cuda)
	$(ALONE) $(BIN)/python -m pytest -m cuda

# The figures go to benchmarks/results. An interrupted benchmark goes on with `make bench BENCH=--resume`.
bench: install
	$(BIN)/python -m benchmarks $(BENCH)

bench-scale: install
	$(BIN)/python -m benchmarks --rows scale $(BENCH)

prepare: install
	$(BIN)/nbdev-export
	$(BIN)/nbdev-clean
	$(BIN)/python -m hw4.nbdev_cli readme

clean:
	rm -rf build dist *.egg-info _proc _docs
