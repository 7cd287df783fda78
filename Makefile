# Everything runs in a virtual environment of its own, from PyPI alone.
#   make demo     compress the shipped network, run it on the simulated RTL, compare every output byte
#   make test     the test suite (what takes longer is marked slow: make test-slow)
#   make bitstreams   two boards' bitstreams from scratch, held to their clocks; long. ONLY=icebreaker: one
#   make regress  the cocotb benches alone, on every simulator found; SEED=n repeats a run
#   make bench    the MLPerf Tiny networks of KOLMOGATE_MODELS on the RTL; writes benchmarks/cycles.md and .json
#   make fmax     every configuration's bitstream with five seeds; hours; writes benchmarks/fmax.md and .json
#   make boards   time and energy of an inference on each board, of the results of bench and fmax
#   make fronts   bytes by cycles of the same networks on two machines; writes benchmarks/fronts
#   make lint     formatting, lint rules and types
#   make clean    remove the environment and everything built

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SEED ?= $(shell $(PYTHON) -c 'import secrets; print(secrets.randbelow(1 << 31))')
JOBS ?= 2

.PHONY: demo test test-slow bitstreams regress bench fronts fmax boards lint clean prerequisites

demo: $(VENV)/sim.installed
	$(BIN)/kolmogate demo

test: $(VENV)/test.installed
	$(BIN)/pytest -n $(JOBS) -m "not slow and not bitstream"

test-slow: $(VENV)/test.installed
	$(BIN)/pytest -n $(JOBS) -m slow

bitstreams: $(VENV)/boards.installed
	$(BIN)/pytest -m bitstream $(addprefix -k ,$(ONLY))

regress: $(VENV)/test.installed
	@echo "seed: $(SEED)   (repeat with: make regress SEED=$(SEED))"
	@mkdir -p build
	KOLMOGATE_SEED=$(SEED) $(BIN)/pytest -n $(JOBS) tests/sim -m cocotb --junitxml=build/regress.xml

TARGETS := up5k up5k-small ecp5-25f ecp5-45f ecp5-85f
NETWORKS := kws_ref_model pretrainedResnet_quant vww_96_int8 ad01_int8 str_ww_ref_model
bench: $(VENV)/sim.installed
	@test -n "$(KOLMOGATE_MODELS)" || \
	    { echo "KOLMOGATE_MODELS is not set: it names the folder of the MLPerf Tiny networks" >&2; exit 1; }
	$(BIN)/kolmogate bench $(NETWORKS:%=$(KOLMOGATE_MODELS)/%.tflite) \
	    $(TARGETS:%=--target %) --on rtl -o benchmarks/cycles

FRONT_TARGETS := up5k ecp5-85f
# AD's programs alone are more than the scratchpad of an UP5K.
fronts: $(VENV)/fronts.installed
	@test -n "$(KOLMOGATE_MODELS)" || \
	    { echo "KOLMOGATE_MODELS is not set: it names the folder of the MLPerf Tiny networks" >&2; exit 1; }
	@mkdir -p benchmarks/fronts
	for network in $(NETWORKS); do for target in $(FRONT_TARGETS); do \
	    test $$network-$$target = ad01_int8-up5k && continue; \
	    $(BIN)/kolmogate compile $(KOLMOGATE_MODELS)/$$network.tflite --target $$target \
	        --front benchmarks/fronts/$$network-$$target --jobs $(JOBS) || exit 1; \
	done; done

fmax: $(VENV)/boards.installed
	$(BIN)/python benchmarks/fmax.py

boards: $(VENV)/boards.installed
	$(BIN)/python benchmarks/boards.py

lint: $(VENV)/lint.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/sim.installed: EXTRAS := sim
$(VENV)/test.installed: EXTRAS := test
$(VENV)/fronts.installed: EXTRAS := plot
$(VENV)/boards.installed: EXTRAS := test,boards
$(VENV)/lint.installed: EXTRAS := test,lint

$(VENV)/%.installed: pyproject.toml | prerequisites
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
	    { echo "The Python module venv is missing. Install it, for example: apt install python3-venv" >&2; exit 1; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$(EXTRAS)]'
	@touch $@

prerequisites:
	@command -v $(PYTHON) > /dev/null || \
	    { echo "Python is missing. Install it, for example: apt install python3 python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Python 3.11 or newer is needed; this is $$($(PYTHON) --version). Install one, for example:" \
	      "apt install python3.11 python3.11-venv, then: make PYTHON=python3.11" >&2; exit 1; }
	@command -v g++ > /dev/null || \
	    { echo "g++ is missing: it compiles the simulated RTL. Install it, for example: apt install g++" >&2; exit 1; }
