# make demo ARGS="--seed 1" · make test ARGS="-k othello" · VENV=folder and PYTHON=python3.12 choose the environment
VENV ?= .venv
PYTHON ?= $(firstword $(shell for p in python3.11 python3 python3.12 python3.13; do $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done; true) python3)
BIN = $(VENV)/bin

.PHONY: setup demo test bench lint weights
setup: $(VENV)/.ready
demo: setup ; $(BIN)/kibitz demo $(ARGS)
test: setup ; $(BIN)/python -m pytest -q -n 2 --dist worksteal --durations 10 $(ARGS)
bench: setup ; set -e; for file in benchmarks/*.py; do $(BIN)/python $$file $(ARGS); done
lint: setup ; $(BIN)/ruff format --check . && $(BIN)/ruff check . && $(BIN)/pyright --pythonpath $(BIN)/python
weights: setup ; set -e; for recipe in pretrain_othello train_demo_dictionaries train_injected_rule; do $(BIN)/python scripts/$$recipe.py; done

$(VENV)/.ready: pyproject.toml constraints.txt ; @$(PYTHON) scripts/make_venv.py $(VENV)
