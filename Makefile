# Verbs for people and for CI. Each sets up what it needs in .venv; a second run of any starts at once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DATA ?= data
# Python's files are compiled once: else each process that a test or a server starts compiles torch for ten seconds.
export UV_COMPILE_BYTECODE := 1
unexport PYTHONDONTWRITEBYTECODE

# Three files at a time, as many tests wait for a page or a worker; more threads than cores would wait in loops.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: demo check test test-docker lint bench lock clean help

help:
	@echo "make demo    draw the demo pictures, compute their study, serve http://127.0.0.1:8050 with workers"
	@echo "make check   lint, then what is quick and needs no browser, container or PostgreSQL: for daily work"
	@echo "make test    lint, then all tests (installs Chromium, Redis and PostgreSQL for them where it may)"
	@echo "make test-docker  build the images and try what their containers deny (needs Docker with Compose)"
	@echo "make test-hostile  what takes minutes: very many false requests, very large false files"
	@echo "make lint    ruff and mypy"
	@echo "make bench   measure against the plain ways of doing it; writes a table"
	@echo "make lock    resolve the locked requirements anew"

demo: $(VENV)/worker
	$(BIN)/headscope demo --data $(DATA)

check: lint
	$(PYTEST) -m 'not (hostile or browser or docker or long or postgres)'

test: lint
	sh tests/need.sh
	$(PYTEST)

test-docker: $(VENV)/dev
	docker build --target proxy --tag headscope-proxy .
	docker build --target web --tag headscope-web .
	docker build --target worker --tag headscope-worker .
	HEADSCOPE_TEST_DOCKER=1 $(BIN)/python -m pytest tests/test_deploy_docker.py

test-hostile: $(VENV)/dev
	$(BIN)/python -m pytest -m hostile

lint: $(VENV)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

bench: $(VENV)/dev
	$(BIN)/python -m benchmarks

# uv resolves and installs: it takes the torch and torchvision that fit each other.
$(BIN)/uv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Headscope needs Python 3.11 or newer, not $$($(PYTHON) --version); set PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || sh -c ' \
		echo "Python here has no venv; installing Debian package python3-venv"; \
		if [ "$$(id -u)" = 0 ]; then apt-get update -qq && apt-get install -y -qq python3-venv; \
		else echo "run: sudo apt-get install python3-venv, then make again"; exit 1; fi'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check uv==0.13.8

$(VENV)/worker: $(BIN)/uv requirements-worker.txt pyproject.toml
	@test -e $(VENV)/dev || $(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-worker.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

$(VENV)/dev: $(BIN)/uv requirements-dev.txt pyproject.toml
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --editable .
	@touch $@

lock: $(BIN)/uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra postgres --extra s3 pyproject.toml -o requirements.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra worker --extra postgres --extra s3 pyproject.toml -o requirements-worker.txt
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra worker --extra postgres --extra s3 --extra dev pyproject.toml -o requirements-dev.txt

clean:
	rm -rf $(VENV) build *.egg-info
