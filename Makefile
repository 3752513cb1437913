# What a person types; CI types the same. `make help` lists it.
PYTHON ?= python3
CONFIG ?= config.yml
MODEL ?=
SOURCE ?= serving_models/bundled/digits/RegNetX_200MF_digits.pdparams
NAME ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help serve test export lint format bench lock proto clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(VENV)/native  ## set up, get a model, serve it on the CPU (MODEL=name or folder, CONFIG=file)
	@model="$$($(BIN)/python -m serving_models prepare $(MODEL))" && \
	exec $(BIN)/python -m service serve --config $(CONFIG) --model "$$model"

test: $(VENV)/test  ## set up what the tests need and run them all
	$(BIN)/python -m pytest

export: $(VENV)/native  ## SOURCE=... [NAME=...]: a PaddleClas model becomes a serving model
	$(BIN)/python -m serving_models export $(SOURCE) $(if $(NAME),--name $(NAME))

lint: $(VENV)/test  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/test  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/test  ## measure the service beside the bare loop on this machine
	$(BIN)/python -m benchmarks.throughput

# --- environments: pinned and hashed; a stamp is renewed when its lock changes -------------------------------------

$(VENV)/bin/python:
	@sh requirements/python.sh $(PYTHON)
	$(PYTHON) -m venv $(VENV)

$(VENV)/native: requirements/native.txt client/pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements/native.txt
	$(PIP) --no-deps --no-build-isolation --editable client
	@touch $@

$(VENV)/test: requirements/test.txt requirements/reference.txt $(VENV)/native
	$(PIP) --require-hashes -r requirements/test.txt
	$(PIP) --no-deps --require-hashes -r requirements/reference.txt
	@touch $@

# --- for maintainers -----------------------------------------------------------------------------------------------

lock:  ## renew requirements/*.txt from *.in (needs uv)
	cd requirements && for name in test native; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate $$([ $$name = native ] && echo "-c test.txt") $$name.in -o $$name.txt; done

proto:  ## generate the stubs from the .proto again (needs grpcio-tools 1.62.3: its code runs with protobuf 4.25 and later)
	cd client && python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. regnetx_client/wire/pipeline_service.proto

clean:  ## forget the environment
	rm -rf $(VENV)
