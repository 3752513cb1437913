# What a person types; CI types the same. `make help` lists it.
PYTHON ?= python3
CONFIG ?= config.yml
MODEL ?=
# Not taken from the environment: a shell may have a NAME of its own.
SOURCE =
NAME =
FORCE =
SECONDS = 600
REQUIRED =
TARGET =
SEED =
DIGITS := serving_models/bundled/digits/RegNetX_200MF_digits.pdparams --name digits --force
RUNTIME = native
VENV := .venv
STOCK := .venv-stock
VERIFY := .venv-verify
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --quiet --disable-pip-version-check

IMAGES = cpu export paddle-serving $(if $(GPU),gpu)
IMAGE = regnetx-serving:cpu
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' service/__init__.py)
REVISION = $(shell git describe --always --abbrev=40 --dirty 2>/dev/null || echo unknown)

export STOCK_PYTHON GPU

.DEFAULT_GOAL := help
.PHONY: help serve test fuzz export lint audit format bench verify-k8s lock proto clean images sbom verify-images

help:  ## this list
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## /{printf "make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(if $(filter paddle_serving,$(RUNTIME)),$(STOCK)/ready) $(VENV)/native  ## set up, get a model, serve it on the CPU (MODEL=name or folder, CONFIG=file, RUNTIME=paddle_serving)
	@model="$$($(BIN)/python -m serving_models prepare $(if $(MODEL),"$(MODEL)"))" && \
	case $(RUNTIME) in \
	  native) exec $(BIN)/python -m service serve --config "$(CONFIG)" --model "$$model" ;; \
	  paddle_serving) exec $(STOCK)/bin/python -m service.paddle_serving --config "$(CONFIG)" --model "$$model" ;; \
	  *) echo "regnetx: RUNTIME is $(RUNTIME); accepted: native, paddle_serving" >&2; exit 2 ;; \
	esac

test: $(VENV)/test  ## set up what the tests need and run them all
	@if sh requirements/python39.sh >/dev/null 2>&1; then $(MAKE) --no-print-directory $(STOCK)/ready; else \
	  echo "make test: no Python 3.9 here, so the stock runtime is NOT tested (tests/test_both_runtimes.py)" >&2; fi
	@sh requirements/nginx.sh >/dev/null || echo "make test: rolling restarts are NOT tested (tests/test_rolling_restart.py)" >&2
	$(BIN)/python -m pytest

fuzz: $(VENV)/test  ## look for inputs that break something, for so many seconds (SECONDS=3600; docs/hardening.md)
	PYTHONPATH=.:tests nice -n 10 $(BIN)/python -m fuzz --seconds $(SECONDS) $(if $(TARGET),--target $(TARGET)) $(if $(SEED),--seed $(SEED))

export: $(VENV)/native  ## a PaddleClas model becomes a serving model (SOURCE=..., NAME=..., FORCE=1; else the digits)
	$(BIN)/python -m serving_models export $(if $(SOURCE),"$(SOURCE)" $(if $(NAME),--name "$(NAME)") $(if $(FORCE),--force),$(DIGITS))

lint: $(VENV)/test  ## style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

audit: $(VENV)/test  ## known vulnerabilities of every locked version, where their database answers (REQUIRED=1: fail where it does not)
	$(BIN)/python -m requirements.audit $(if $(REQUIRED),--required)

format: $(VENV)/test  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/test  ## measure the service beside the bare loop, the stock runtime and its peers, in about half an hour (FULL=1: everything)
	@command -v h2load >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends nghttp2-client >/dev/null; } || \
	  { echo "regnetx: h2load is missing; install it (Debian, Ubuntu: apt-get install nghttp2-client)" >&2; exit 2; }
	@if sh requirements/python39.sh >/dev/null; then $(MAKE) --no-print-directory $(STOCK)/ready; fi
	$(BIN)/python -m benchmarks $(if $(FULL),--full) $(if $(CONTINUE),--continue)

verify-k8s: $(VERIFY)/ready $(VENV)/native  ## check the Kubernetes manifests, and that a broken one is noticed
	$(VERIFY)/bin/python -m pytest tests/manifests

images:  ## build the container images with your Docker (GPU=1: also the GPU image, 7 GB; IMAGES="cpu ...")
	@for target in $(IMAGES); do DOCKER_BUILDKIT=1 docker build --file docker/Dockerfile --target $$target \
	  --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
	  --tag regnetx-serving:$$target --tag regnetx-serving:$(VERSION)-$$target . || exit 1; done

sbom: $(VERIFY)/ready  ## what is in an image, as CycloneDX in sbom.json (IMAGE=regnetx-serving:cpu)
	@$(VERIFY)/bin/python docker/sbom.py "$(IMAGE)" > sbom.json.unfinished && mv sbom.json.unfinished sbom.json

verify-images: $(VERIFY)/ready  ## build the images and prove them in a real Docker engine, yours or one of its own (GPU=1)
	$(VERIFY)/bin/python -m pytest tests/images

# --- environments: pinned and hashed; a stamp is renewed when its lock changes -------------------------------------

$(VENV)/bin/python:
	@sh requirements/system.sh $(PYTHON)
	@echo "setting up $(VENV), once; Paddle is 190 MB" >&2
	@$(PYTHON) -m venv $(VENV)

$(VENV)/native: requirements/native.txt client/pyproject.toml | $(VENV)/bin/python
	$(PIP) --require-hashes -r requirements/native.txt
	$(PIP) --no-deps --no-build-isolation --editable client
	@touch $@

$(VENV)/test: requirements/test.txt requirements/reference.txt $(VENV)/native
	$(PIP) --require-hashes -r requirements/test.txt
	$(PIP) --no-deps --require-hashes -r requirements/reference.txt
	@touch $@

$(STOCK)/ready: requirements/stock.txt requirements/stock-serving.txt
	@python="$$(sh requirements/python39.sh)" && echo "setting up $(STOCK), once; Paddle is 190 MB" >&2 && \
	"$$python" -m venv --clear $(STOCK)
	$(STOCK)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/stock.txt
	$(STOCK)/bin/pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/stock-serving.txt
	@touch $@

$(VERIFY)/ready: requirements/verify.txt
	@sh requirements/system.sh $(PYTHON)
	@echo "setting up $(VERIFY), once" >&2
	@$(PYTHON) -m venv --clear $(VERIFY)
	$(VERIFY)/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements/verify.txt
	@touch $@

# --- for maintainers -----------------------------------------------------------------------------------------------

lock:  ## renew requirements/*.txt from *.in (needs uv)
	cd requirements && for name in test native verify; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header \
	    --no-annotate $$([ $$name = native ] && echo "-c test.txt") $$name.in -o $$name.txt; done
	for name in mosec litserve bentoml ray_serve fastapi; do (cd benchmarks/peers/$$name && uv pip compile --quiet --universal \
	  --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-annotate requirements.in -o requirements.txt); done
	cd requirements && for name in stock stock-gpu stock-serving stock-serving-gpu native-gpu; do \
	  uv pip compile --quiet --python-version $$([ $$name = native-gpu ] && echo 3.11 || echo 3.9) --generate-hashes \
	    --no-emit-index-url --no-header --no-annotate $$(case $$name in stock-serving*) echo --no-deps;; esac) $$name.in -o $$name.txt; done

proto:  ## generate the stubs from the .proto again (needs grpcio-tools 1.62.3: its code runs with protobuf 4.25 and later)
	cd client && python -m grpc_tools.protoc -I . --python_out=. --pyi_out=. regnetx_client/wire/pipeline_service.proto

clean:  ## forget the environments
	rm -rf $(VENV) $(STOCK) $(VERIFY) benchmarks/.peers .nginx build/fuzz sbom.json*
