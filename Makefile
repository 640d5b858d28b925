# make demo   the main job on embedded data       make test      the tests of every change, minutes on two cores
# make lint   style, types and the rooms          make test-all  the slow tests too
# make bench  speed, measured                     make setup     only install
# make docs   the site, in docs/_build/html       make notebooks the notebooks, run from their scripts
# make wheels all distributions, in dist/         make test-wheels  the quickstart, with them alone
PYTHON ?= python3
BIN := .venv/bin
PACKAGES := . zoo $(sort $(wildcard plugins/kdplugin-*))
PROJECTS := $(addsuffix /pyproject.toml,$(PACKAGES))

.PHONY: setup demo test test-slow test-all coverage lint bench docs notebooks wheels test-wheels clean

setup: .venv/installed

.venv/installed: $(PROJECTS)
	@echo "== Creating .venv and installing kdengine, the zoo and every plugin (torch is large: this can take minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[all,trackers,dev,docs]' $(addprefix -e ./,$(filter-out .,$(PACKAGES)))
	@touch $@

demo: setup
	@echo "== Distilling ResNet-32 into ResNet-8 on handwritten digits; the teacher is trained first, and kept for next time"
	$(BIN)/kdengine run --plugin kdplugin-rkd --teacher timm:resnet32 --student resnet8

# one thread for each worker: pools of threads that share cores are many times slower than no threads
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadscope

test: setup
	$(PYTEST) -m "not slow"

test-slow: setup
	KDENGINE_TEST_PROFILE=thorough $(PYTEST) -m "slow or fuzz"

test-all: test test-slow

coverage: setup
	$(PYTEST) -m "not slow" --cov=kdengine --cov=plugins --cov=zoo --cov-report=term:skip-covered

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	$(BIN)/python benchmarks/step.py

# -n: a link to anything that is not on a page is a warning; -W: warnings are errors
docs: setup
	$(BIN)/python -m sphinx -b html -W --keep-going -n -q docs docs/_build/html
	@echo "== The site is in docs/_build/html/index.html"

notebooks: setup
	PYTHONPATH=docs $(BIN)/python -m kdengine_docs.notebooks

wheels: setup
	PYTHONPATH=.ci $(BIN)/python -m kdengine_release build

# an empty environment that sees the dependencies of .venv, but of ours only the wheels
test-wheels: wheels
	KDENGINE_DIST=dist $(BIN)/python -m pytest tests/release/test_distributions.py tests/release/test_wheels.py

clean:
	rm -rf .venv runs dist docs/_build docs/plugins
