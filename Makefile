# All targets make the environment first; nothing but Python 3.11+ is needed (`make doctor` says what else helps).
PYTHON ?= python3
UV_VERSION := 0.13.9
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install run demo test test-fast kube-versions fuzz chaos soak bench doctor fmt lint docs manifests clean lock

install: $(STAMP)

$(STAMP): requirements.lock pyproject.toml
	@echo "==> environment: $(VENV)"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "==> installing locked dependencies"
	@$(BIN)/uv pip install --python $(BIN)/python --compile-bytecode --require-hashes -r requirements.lock
	@$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q sidecar # also where PYTHONDONTWRITEBYTECODE is set: half of a start's time is that
	@touch $(STAMP)

run: install
	@$(BIN)/sidecar dev up

demo: install
	@$(BIN)/sidecar dev tour

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

test-fast: install
	$(BIN)/pytest -m "not real" -n 2 -q

test: lint
	$(BIN)/pytest -n 2 -q

# The last API server before native sidecars, and the first with them; each is built once, which takes minutes.
KUBE_TESTS := tests/real/test_kube.py tests/kube tests/injector/test_real_cluster.py tests/attack/test_kube.py \
	tests/deploy/test_chart_applied.py tests/deploy/test_chart_injector_runs.py
kube-versions: install
	KUBE_VERSION=1.28.15 $(BIN)/pytest -q tests/real/test_kube.py tests/kube/older_cluster.py
	KUBE_VERSION=1.29.15 $(BIN)/pytest -q $(KUBE_TESTS)

fuzz: install
	$(BIN)/python -m tests.differential.fuzz --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

chaos: install
	$(BIN)/python -m tests.chaos --rounds $(or $(ROUNDS),200) --seconds $(or $(SECONDS),600) $(if $(SEED),--seed $(SEED))

soak: install
	$(BIN)/python -m tests.soak --seconds $(or $(SECONDS),3600) $(if $(SEED),--seed $(SEED))

bench: install
	$(BIN)/python -m bench

doctor:
	@$(PYTHON) tools/doctor.py

docs: install
	@$(BIN)/python -m tools.docs

manifests: install
	@$(BIN)/python -m tests.deploy.manifests

lock: install
	$(BIN)/uv pip compile pyproject.toml --extra dev --universal --generate-hashes --python-version 3.11 --no-header -q -o requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .dev dist build
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
