# Two commands: `make demo` shows what ZoomLDM does, `make test` checks it. Both set themselves up.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Waiting threads sleep instead of spinning: on few cores that is worth a factor.
export OMP_WAIT_POLICY := PASSIVE
export TORCH_CPP_LOG_LEVEL := ERROR

.PHONY: demo test lint docs setup test-lowest dist clean

demo: $(VENV)/.ready-run
	@echo "== rendering the shipped archive at eight magnifications"
	@$(BIN)/zoomldm demo --out demo

test: $(VENV)/.ready-dev lint
	@echo "== tests"
	@$(BIN)/python -m pytest -n 2

lint: $(VENV)/.ready-dev
	@echo "== lint (ruff) and types (pyright)"
	@$(BIN)/ruff check src tests benchmarks
	@$(BIN)/ruff format --check src tests benchmarks
	@$(BIN)/pyright

docs: $(VENV)/.ready-dev
	@echo "== site/index.html"
	@$(BIN)/pip install -q -c constraints.txt -e '.[docs]'
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The lower bounds of pyproject.toml, in an environment of their own: tests that together use every
# package of lowest.txt, which says why torch is not among them.
LOWEST_TESTS := $(addprefix tests/, \
	archive/test_base.py archive/test_reader.py archive/test_writer.py \
	cli/test_archives.py cli/test_shell.py cohort/test_items.py cohort/test_ray_pool.py \
	diffusion/test_schedule.py encoders evaluation/test_nuclei.py evaluation/test_public_features.py \
	evaluation/test_rates.py features/test_to_archive.py mil/models/test_logistic.py \
	mil/test_maps.py mil/test_metrics.py mil/test_splits.py networks/test_every_network.py \
	networks/test_patch_vit.py pipeline/test_call.py pipeline/test_hub.py slides test_caching.py \
	test_remote.py training/test_config.py training/test_loop.py \
	training/stages/test_lowpass_decoder.py viewer/test_routes.py viewer/test_serving.py writers)

test-lowest:
	@echo "== the lowest versions that pyproject.toml allows"
	@$(PYTHON) -m venv $(VENV)-lowest
	@$(VENV)-lowest/bin/pip install -q torch==2.13.0
	@$(VENV)-lowest/bin/pip install -q -r lowest.txt
	@$(VENV)-lowest/bin/pip install -q -c lowest.txt pytest hypothesis psutil httpx wsidicom
	@$(VENV)-lowest/bin/pip install -q --no-deps -e .
	@$(VENV)-lowest/bin/pip check
	@$(VENV)-lowest/bin/python -m pytest $(LOWEST_TESTS)

dist: $(VENV)/.ready-dev
	@$(BIN)/pip install -q build
	@$(BIN)/python -m build -o dist .

setup: $(VENV)/.ready-dev

$(VENV)/bin/python:
	@echo "== making a virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)

# torch comes first and by its exact version: a range may bring gigabytes of CUDA packages.
$(VENV)/.ready-run: $(VENV)/bin/python pyproject.toml constraints.txt
	@echo "== installing zoomldm and what it needs (about 1.5 GB, a minute or two)"
	@$(BIN)/pip install -q -c constraints.txt torch==2.13.0
	@$(BIN)/pip install -q -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready-run
	@echo "== installing what the tests need"
	@$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) $(VENV)-lowest demo site dist .pytest_cache .ruff_cache .hypothesis
