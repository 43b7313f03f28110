# make demo   the main job on real recordings, in minutes: a table on the screen and demo/report.html
# make test   the tests
# make lint   ruff and mypy
# make stress kill, fill, flip and fuzz: counts of faults injected, survived, lost; under 30 minutes
# make slurm pretrain, prepare and embed in a real Slurm that warns, preempts and fails; as root on Debian; docs/results/slurm.md
# make versions  the tests with the oldest and newest dependencies on Python 3.11 to 3.14; docs/results/versions.md;
#             one cell: VERSIONS='--python 3.12 --set oldest --tests test_model.py'
# make calibrate known-answer simulations of the verdicts: false verdicts, coverage, power; docs/results/calibration.md
# make fuzz   10,000 damaged and random inputs for every reader
# make audit  known holes in the packages installed; needs the network, and exits with 2 if it cannot reach the database
# make bench  speed, memory and cost: one table, and docs/results/performance.md; BENCH='--model RUN --store STORE'
# make docs   the documentation site, build/docs/html; runs the tutorials, works offline, warnings are errors
# make docs-look  a screenshot of every page in headless Chromium: desktop, phone, dark; build/docs/look
# All set everything up on a machine with Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
SIZE ?= default

.PHONY: .venv demo test lint stress slurm versions calibrate fuzz audit bench docs docs-look clean

.venv: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "semantoks needs Python 3.11 or newer: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@

demo: .venv
	rm -rf demo
	$(BIN)/semantoks demo demo --size $(SIZE)

test: .venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

lint: .venv
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

stress: .venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/stress.py

slurm: .venv
	tests/slurm/start_slurm build/slurm
	SLURM_CONF=$(CURDIR)/build/slurm/slurm.conf $(BIN)/python tests/slurm/check.py build/slurm/check; \
	code=$$?; tests/slurm/start_slurm build/slurm stop; exit $$code

versions: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	PATH="$(CURDIR)/$(BIN):$$PATH" nice $(BIN)/python tests/versions/check.py build/versions $(VERSIONS)

calibrate: .venv
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/calibration.py docs/results/calibration.md

fuzz: .venv
	OMP_NUM_THREADS=1 SEMANTOKS_FUZZ=10000 $(BIN)/python -m pytest -n 2 tests/test_fuzz.py

audit: .venv
	@mkdir -p build
	$(BIN)/python -m pip install --quiet --disable-pip-version-check pip-audit
	@$(BIN)/pip-audit --local --skip-editable > build/audit.log 2>&1; code=$$?; cat build/audit.log; \
	if grep -qE "ConnectionError|Connection(Pool| refused)|Max retries|Temporary failure|ServiceError|timed out" build/audit.log; then \
	echo "make audit could not reach the database of known holes: nothing was checked." >&2; exit 2; fi; exit $$code

bench: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[onnx,openvino]"
	$(BIN)/python -m benchmarks.run $(BENCH)

docs: .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[docs]"
	$(BIN)/sphinx-build -W --keep-going --quiet -d build/docs/doctrees docs build/docs/html

docs-look: .venv
	$(BIN)/python scripts/docs_look.py build/docs/html build/docs/look

clean:
	rm -rf .venv demo build dist docs/tutorials docs/reference docs/pictures .pytest_cache .mypy_cache .ruff_cache .hypothesis
