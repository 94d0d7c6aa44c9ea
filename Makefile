# Each target installs its requirements in .venv, and reuses them until setup.cfg, pyproject.toml or the version changes.

PYTHON ?= python3
PIP_INDEX ?=
TORCH_INDEX_URL ?=
# In the order of the folders, in which the files that take longest come first.
PYTEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder
DEMO_FOLDER ?= results/demo

VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INDEX = $(if $(PIP_INDEX),--index-url "$(PIP_INDEX)")
METADATA := setup.cfg pyproject.toml mossformer_sb/version.py

SPECTROGRAM = $(BIN)/python examples/spectrogram.py

# A stamp is written only after its installation has succeeded.
READY_LINT := $(VENV)/.ready-lint
READY_DEMO := $(VENV)/.ready-demo
READY_TEST := $(VENV)/.ready-test
READY_DOCS := $(VENV)/.ready-docs

# The lowest versions that setup.cfg allows have wheels for Python 3.10 and 3.11 only. Further extras need newer versions.
LOWEST := .venv-lowest
READY_LOWEST := $(LOWEST)/.ready
LOWEST_EXTRAS := mini,data,report,onnx,activity,av,dev

# requirement NAMES, FILE: the lines of setup.cfg for these packages, so that their bounds stay in one place
requirement = sed -nE 's/^ +(($(1))[ <>=].*)$$/\1/p' setup.cfg > $(2)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-lowest docs lint format clean

help: ## Show this help
	@echo "make TARGET [VARIABLE=value ...]"
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' Makefile
	@echo "Variables"
	@echo "  PYTHON           the Python, 3.10 or newer, that makes .venv (now: $(PYTHON))"
	@echo "  PIP_INDEX        address of the package index that pip uses instead of its usual one"
	@echo "  TORCH_INDEX_URL  address of an index to take torch and torchaudio from, such as one with CPU-only wheels,"
	@echo "                   which are much smaller than those with CUDA"
	@echo "  PYTEST_ARGS      arguments for pytest (now: $(PYTEST_ARGS))"
	@echo "  DEMO_FOLDER      where the demo writes (now: $(DEMO_FOLDER))"

install: $(READY_TEST) ## Install everything for development in .venv

demo: $(READY_DEMO) ## Separate two people; generate a small corpus, train on it, evaluate, export, separate with it
	@$(SPECTROGRAM) examples/two_speakers.flac "$(DEMO_FOLDER)/two_people"
	$(BIN)/python train.py hparams/mossformer_mini.yaml --output_folder "$(DEMO_FOLDER)"
	@mixture=$$(ls "$(DEMO_FOLDER)"/corpus/wav8k/min/tt/mix_both/*.wav | head -n 1) && \
	  $(SPECTROGRAM) "$$mixture" "$(DEMO_FOLDER)/separated" "$(DEMO_FOLDER)/export" && \
	  echo && echo "Done. In $(DEMO_FOLDER):" && \
	  echo "  two_people/        two people in one recording, separated by the packaged model, with a picture" && \
	  echo "  corpus/            the small corpus, laid out as WHAM!" && \
	  echo "  train_log.txt      a line for each epoch" && \
	  echo "  test_results.csv   scores of every test mixture; the last row is the average" && \
	  echo "  audio/             some test mixtures with their sources and estimates, to listen to" && \
	  echo "  export/            the trained model with its model card, README.md: what others load" && \
	  echo "  separated/         $$mixture, separated by the model in export/, with a picture"

test: $(READY_TEST) ## Run all tests
	$(BIN)/python -m pytest $(PYTEST_ARGS)

docs: $(READY_DOCS) ## Build the documentation in docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx -b html -W --keep-going -q -c docs . docs/_build/html
	@echo "The documentation is docs/_build/html/index.html"

test-lowest: $(READY_LOWEST) ## Run the unit tests with the lowest versions that setup.cfg allows
	$(LOWEST)/bin/python -m pytest $(PYTEST_ARGS) tests/unit

lint: $(READY_LINT) ## Check style, types and likely bugs
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	@if git grep -nIE '[[:blank:]]+$$' -- ':!*.md'; then echo "Remove the blanks at the ends of these lines." >&2; exit 1; fi

format: $(READY_LINT) ## Sort imports and lay out the code
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

clean: ## Remove build leftovers and caches; virtual environments and results stay
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache docs/_build docs/generated
	find . -path ./$(VENV) -prune -o -path ./$(LOWEST) -prune -o -path ./results -prune -o -name __pycache__ -type d -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "$(PYTHON) is not Python 3.10 or newer: give one, as in 'make test PYTHON=python3.11'." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV) || { rm -rf $(VENV); exit 1; }

$(READY_LINT): $(METADATA) | $(BIN)/python
	@$(call requirement,ruff|mypy,$(VENV)/lint.txt)
	@$(PIP) install $(INDEX) -r $(VENV)/lint.txt
	@touch $@

$(READY_DEMO): EXTRAS := mini,report
$(READY_DOCS): EXTRAS := docs,report
$(READY_TEST): EXTRAS := mini,data,parity,report,onnx,serve,activity,av,web,cluster,docs,dev
$(READY_DEMO) $(READY_DOCS) $(READY_TEST): $(METADATA) | $(BIN)/python
	@echo "Installing mossformer_sb[$(EXTRAS)] in $(VENV): the first time takes some minutes and about 5 GB of disk."
ifneq ($(TORCH_INDEX_URL),)
	@$(call requirement,torch|torchaudio,$(VENV)/torch.txt)
	@$(PIP) install --index-url "$(TORCH_INDEX_URL)" -r $(VENV)/torch.txt
endif
	@$(PIP) install $(INDEX) -e ".[$(EXTRAS)]"
	@touch $@ $(if $(findstring dev,$(EXTRAS)),$(READY_DEMO) $(READY_DOCS) $(READY_LINT))

$(READY_LOWEST): setup.cfg
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info < (3, 12))' || { \
	  echo "$(PYTHON) is not Python 3.10 or 3.11: give one, as in 'make test-lowest PYTHON=python3.10'." >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(LOWEST)
	@sed -nE '/^install_requires/,/^\[/ s/^ +([A-Za-z0-9_.-]+)>=([0-9.]+).*$$/\1==\2/p' setup.cfg > $(LOWEST)/lowest.txt
ifneq ($(TORCH_INDEX_URL),)
	@grep -E '^torch(audio)?==' $(LOWEST)/lowest.txt > $(LOWEST)/torch.txt
	@$(LOWEST)/bin/python -m pip --quiet install --index-url "$(TORCH_INDEX_URL)" -r $(LOWEST)/torch.txt
endif
	@$(LOWEST)/bin/python -m pip --quiet install $(INDEX) -c $(LOWEST)/lowest.txt -e ".[$(LOWEST_EXTRAS)]"
	@touch $@
