# make demo   a virtual environment, the installation, a training on real digits, its report, and two photographs
# make test   lint, types and tests; with COVERAGE=1 the lines are counted, too, as CI does
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Three on two cores: some tests wait for the processes that they start. Each takes up to 3 GB.
WORKERS ?= 3
COVERAGE ?=

.PHONY: demo test lint types docs bench clean

demo: $(VENV)/.installed
	$(BIN)/eyespot train digits --out runs/demo-$$(date +%Y%m%d-%H%M%S)
	@echo "a temple and a flower for spot-cifar10, the model that comes with eyespot. It knows neither; it calls about half of such photographs unknown:"
	@$(BIN)/eyespot predict spot-cifar10 --top 3 $$($(BIN)/python -c "import sklearn.datasets as d; print(*d.load_sample_images().filenames)")

test: $(VENV)/.installed-dev lint types
	rm -f .coverage .coverage.*
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder $(if $(COVERAGE),--cov --cov-report=)
	$(if $(COVERAGE),$(BIN)/python -m coverage report --fail-under=90)

lint: $(VENV)/.installed-dev
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/ruff check src tests benchmarks

types: $(VENV)/.installed-dev
	$(BIN)/mypy

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/bench.py

docs: $(VENV)/.installed-dev
	$(BIN)/python -m tests.make_docs

# A folder without pip, as a failed or killed `python -m venv` leaves it, would be taken for a whole one for ever.
define MAKE_VENV
	@if ! $(BIN)/python -m pip --version >/dev/null 2>&1 && ! $(BIN)/python -m ensurepip >/dev/null 2>&1; then \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "eyespot needs Python 3.10 or newer: make PYTHON=python3.12 ...")' || exit 1; \
		if test -f $(VENV)/pyvenv.cfg; then rm -rf $(VENV); else rmdir $(VENV) 2>/dev/null; fi; \
		if test -e $(VENV); then echo "error: $(VENV) is there and is no virtual environment: make VENV=..." >&2; exit 1; fi; \
		echo "$(PYTHON) -m venv $(VENV)"; \
		if ! $(PYTHON) -m venv $(VENV) || ! $(BIN)/python -m pip --version >/dev/null; then \
			rm -rf $(VENV); \
			$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
				echo "error: $(PYTHON) cannot make virtual environments: on Debian or Ubuntu, sudo apt install python3-venv, and make again" >&2; \
			exit 1; \
		fi; \
	fi
endef

$(VENV)/.installed: pyproject.toml
	$(MAKE_VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e .
	touch $@

$(VENV)/.installed-dev: pyproject.toml
	$(MAKE_VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -e '.[dev]'
	touch $@ $(VENV)/.installed

clean:
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov
