# make demo    train a small ViT and a small ResNet, compare them, write runs/demo/report.html
# make test    the whole suite
# make check   format, lint and types
# Nothing but Python 3.11+, pip and make is needed; everything is installed into .venv.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: demo test check clean browser

demo: $(READY)
	$(BIN)/vitstudy demo

test: $(READY) browser
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile

# Pages are tested in Debian's chromium. Where it cannot be installed those tests are skipped with the reason; with CI set they fail.
browser:
	@command -v chromium >/dev/null && exit 0; \
	if ! command -v apt-get >/dev/null; then echo "no chromium here and no apt-get to install it: tests in a browser are skipped"; exit 0; fi; \
	if [ "$$(id -u)" = 0 ]; then root=; elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then root="sudo -n"; \
	else echo "no chromium here and no right to install it: tests in a browser are skipped"; exit 0; fi; \
	$$root apt-get update -qq && $$root apt-get install -y -qq --no-install-recommends chromium fonts-dejavu-core \
	|| echo "chromium could not be installed: tests in a browser are skipped"

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

# uv installs the same packages as pip in a quarter of the time (torch alone is several GB); compiled once, imports of the many
# processes that tests start take half as long
$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, this is " + sys.version.split()[0] if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade uv
	$(BIN)/python -m uv pip install --compile-bytecode --python $(BIN)/python --editable '.[dev]'
	touch $(READY)

clean:
	rm -rf .venv runs build dist .pytest_cache .ruff_cache .mypy_cache
