# make demo    train a small ViT and a small ResNet, compare them, write runs/demo/report.html
# make test    the whole suite
# make check   format, lint and types
# Nothing but Python 3.11+, pip and make is needed; everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check clean

demo: $(READY)
	$(BIN)/vitstudy demo

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# uv installs the same packages as pip in a quarter of the time (torch alone is several GB)
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/python -m uv pip install --python $(BIN)/python --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv runs build dist .pytest_cache .ruff_cache .mypy_cache
