# make demo   the main job, from a fresh checkout        make test   the whole suite
# make check  format, lint, types                        make bench  speed beside the peers (longer)
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test check bench clean

setup: .venv/ready

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/likewise demo --out demo --overwrite

check: setup
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

test: check
	$(BIN)/pytest -q -n auto --dist loadfile --durations=15 --jaxtyping-packages=likewise,beartype.beartype

bench: setup
	$(BIN)/pip install --quiet --constraint constraints.txt ".[bench]"
	for file in $(filter-out benchmarks/setting.py,$(wildcard benchmarks/*.py)); do $(BIN)/python $$file || exit 1; done

clean:
	rm -rf .venv demo
