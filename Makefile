# make demo    set up .venv and run the main job on the embedded data, from random and from pretrained weights
# make test    set up .venv and run the tests
# make check   linters and types
# make slow    the long tests too
# make site    the documentation as a web site, in build/site
# make stress  the tests three times while other processes keep two cores busy
PYTHON ?= python3
BIN := .venv/bin
STAMPS := .venv/.stamps
DEMO_DIR ?= demo-run
COMPARE := $(BIN)/attngraft compare --seeds 3 --at-once 2 --set curve=false
# Threads of PyTorch on the CPU that wait in a spin are slow where other programs use the same cores.
export GOMP_SPINCOUNT ?= 10000
unexport PYTHONDONTWRITEBYTECODE  # every process would compile all modules again
BUSY := $(BIN)/python -c "while True: pass"

.PHONY: demo test slow stress check format docs site clean

demo: $(STAMPS)/demo
	$(COMPARE) cluttered-digits:test=2000 --backbone small-cnn --attention cbam,coord \
		--recipe one-cycle --epochs 12 --image-size 32 --out $(DEMO_DIR)/random
	$(COMPARE) cluttered-digits:train=500,test=1000 --backbone timm:tf_efficientnet_lite0 \
		--attention cbam,cbam:init=paper --recipe examples/cluttered-digits.toml --image-size 64 \
		--out $(DEMO_DIR)/pretrained

test: $(STAMPS)/dev
	$(BIN)/python -m pytest -n 2

slow: $(STAMPS)/dev
	$(BIN)/python -m pytest -n 2 -m "not gpu and not network" --hypothesis-profile=slow

stress: $(STAMPS)/dev
	$(BUSY) & first=$$!; $(BUSY) & second=$$!; trap "kill $$first $$second" EXIT; \
	for round in 1 2 3; do $(BIN)/python -m pytest -n 2 || exit 1; done

check: $(STAMPS)/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMPS)/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMPS)/dev
	$(BIN)/python docs/tables.py

site: $(STAMPS)/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

$(BIN)/python:
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --quiet --upgrade pip

$(STAMPS)/%: $(BIN)/python pyproject.toml constraints.txt
	$(BIN)/python -m pip install --quiet --quiet --constraint constraints.txt --editable ".[$*]"
	mkdir -p $(STAMPS)
	touch $@

clean:
	rm -rf .venv build dist
