# `make demo` and `make test` do all of their own set-up, in .venv.

PYTHON ?= python3.11
VENV   := .venv
BIN    := $(VENV)/bin
# Extra words for pip when it installs torch, such as an index that has its CPU build.
TORCH_INDEX ?=
# glibc gives freed memory back at once by default; keeping it makes CPU inference up to 1.6 times as fast.
export MALLOC_MMAP_THRESHOLD_ := 8589934592
export MALLOC_TRIM_THRESHOLD_ := 8589934592
export MALLOC_TOP_PAD_        := 1073741824
export TOKENIZERS_PARALLELISM := false

.PHONY: demo test check format docs clean

demo: $(VENV)/installed
	$(BIN)/outcrop demo $(ARGS)

test: $(VENV)/installed-dev
	$(BIN)/pytest -rs -n 2 --dist loadfile --jaxtyping-packages=outcrop,beartype.beartype $(ARGS)

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/installed-dev
	$(BIN)/mkdocs build --strict

$(VENV)/torch: requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet $(TORCH_INDEX) $$(grep '^torch==' requirements.lock)
	touch $@

$(VENV)/installed: $(VENV)/torch pyproject.toml
	$(BIN)/pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/installed-dev: $(VENV)/torch pyproject.toml
	$(BIN)/pip install --quiet --constraint requirements.lock --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build site *.egg-info
