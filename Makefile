# Two commands: `make demo` shows the whole way, `make test` runs what CI runs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

# Triton's interpreter and the reference interpreter run on numpy, whose threads only fight here.
export OMP_NUM_THREADS ?= 1
export OPENBLAS_NUM_THREADS ?= 1
export HF_HUB_OFFLINE ?= 1

.PHONY: demo test install lint types tests triton36 wheel gpu clean

demo: install
	@$(BIN)/python examples/demo.py

test: install lint types tests triton36 wheel

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,models]'
	@touch $@

lint:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types:
	$(BIN)/pyright

tests:
	$(BIN)/python -m pytest -n 2 --dist worksteal

# Kernels, their emission and offline compilation once more with the oldest Triton supported, and without torch-mlir.
triton36: $(VENV)-triton36/.installed
	$(VENV)-triton36/bin/python -m pytest -n 2 tests/numeric/test_kernels.py tests/unit/codegen --ignore tests/unit/codegen/mlir

$(VENV)-triton36/.installed: pyproject.toml constraints-triton36.txt
	$(PYTHON) -m venv $(VENV)-triton36
	$(VENV)-triton36/bin/python -m pip install --quiet --requirement constraints-triton36.txt
	$(VENV)-triton36/bin/python -m pip install --quiet --no-deps --editable .
	@touch $@

# What only a GPU can tell: every schedule's numbers, launches, graphs. Needs PyTorch for CUDA, which is installed by hand.
gpu:
	PYTHONPATH=typings:. $(PYTHON) -m pytest -m gpu tests/gpu --confcutdir=tests/gpu

# A wheel must carry the grammar and run without the checkout.
wheel:
	$(BIN)/python tests/packaging/check_wheel.py

clean:
	rm -rf $(VENV) $(VENV)-triton36 build dist *.egg-info .attir
