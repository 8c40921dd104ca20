# make train               set up and train the default experiment
# make test                set up and run the tests, but for those that are marked slow
# make test-all            all tests, and more random examples
# make lint                ruff: errors, and the form of the code
# make train JAX=cuda13    the same on an NVIDIA GPU
# make handler             compile cnnjax/kernels/onednn/handler.c, and print what handler.py holds of it
# make requirements        refresh the exact versions in requirements*.txt from pyproject.toml

PYTHON ?= python3
JAX ?= cpu
VENV := .venv
REQUIREMENTS := $(if $(filter cpu,$(JAX)),requirements.txt,requirements-$(JAX).txt)
INSTALLED := $(VENV)/installed-$(JAX)
COMPILE = $(VENV)/bin/uv pip compile --quiet --universal --upgrade --python-version 3.11 --custom-compile-command "make requirements" --extra test pyproject.toml

.PHONY: train test test-all lint requirements handler

train: $(INSTALLED)
	$(VENV)/bin/python run.py train --config=experiments/digits.py --workdir=runs/digits

test: $(INSTALLED)
	$(VENV)/bin/python -m pytest

test-all: $(INSTALLED)
	CNNJAX_TEST_ALL=1 $(VENV)/bin/python -m pytest -m ""

lint: $(INSTALLED)
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --check --quiet .

# The stamp is written last: a set-up that was cut off is taken up again.
$(INSTALLED): $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "cnnjax needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --requirement $(REQUIREMENTS)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $@

HANDLER_FLAGS = -Os -fPIC -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -fcf-protection=none
handler:
	cc $(HANDLER_FLAGS) -c cnnjax/kernels/onednn/handler.c -o handler.o
	objcopy -O binary -j .text handler.o handler.bin
	xxd -p -c 56 handler.bin
	rm handler.o handler.bin

requirements-%.txt:
	@test -f $@ || { echo "JAX=$* is not known: take cpu or cuda13."; exit 2; }

requirements:
	test -x $(VENV)/bin/pip || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check uv
	$(COMPILE) --output-file requirements.txt
	$(COMPILE) --extra cuda13 --constraint requirements.txt --output-file requirements-cuda13.txt
	$(COMPILE) --extra prepare --constraint requirements.txt --output-file requirements-prepare.txt
