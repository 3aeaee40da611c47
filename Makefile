# dot-sidecar: what there is to do here. `make` alone lists it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dot-sidecar
STATIC_TARGET := $(shell uname -m)-unknown-linux-gnu
# What the recipes that need it begin with.
NEEDS_DOCKER = docker info >/dev/null 2>&1 || { echo "make $@: needs Docker, and none answers here.$(1)" >&2; exit 1; }
NEEDS_KIND = command -v kind >/dev/null || { echo "make $@: needs kind (kind.sigs.k8s.io) beside Docker. Without it, make demo makes a cluster of its own." >&2; exit 1; }

##@ Every day

install: ## Install what building and testing need and this machine lacks
	.ci/install

build: ## Compile everything, for debugging
	cargo build --locked --workspace

test: ## Lint, then run all tests: unit, integration, and end to end on a real cluster
	.ci/test

lint: ## Check formatting, clippy, documentation, dependencies, shell, chart and generated files
	.ci/lint

format: ## Format the code
	cargo fmt --all

type-check: ## Type-check everything, without compiling it to the end
	cargo check --locked --workspace --all-targets

test-cov: ## Measure how much of the code the unit and integration tests reach
	.ci/test-cov

bench: ## Measure the proxy beside other forwarders: some 20 minutes (ARGS=--quick for a minute and a half)
	.ci/bench $(ARGS)

manifests: ## Generate manifests/ and the chart's reference from the chart
	.ci/manifests

##@ Try it

script: ## Run the proxy here: DNS on 127.0.0.1:1053, over TLS to Cloudflare (ARGS='--upstream quad9' for others)
	cargo run --locked --release --package dot-proxy -- --host 127.0.0.1 $(ARGS)

up: images ## Run the proxy's image: DNS on 127.0.0.1:1053 (ARGS='--upstream quad9' for others)
	docker run --rm --name dot-proxy --publish 127.0.0.1:1053:1053/udp --publish 127.0.0.1:1053:1053/tcp \
	  --read-only --cap-drop ALL dot-proxy:$(VERSION) $(ARGS)

demo: ## The main job, on screen: a cluster, the chart, an annotated pod, and proof that its lookup left over TLS
	tests/demo/demo up

demo-down: ## Remove all that `make demo` made
	tests/demo/demo down

kind-up: ## Start a kind cluster called dot-sidecar (needs Docker and kind)
	@$(call NEEDS_DOCKER)
	@$(NEEDS_KIND)
	kind get clusters | grep -qx dot-sidecar || kind create cluster --config manifests/kind.yaml --wait 120s

kind-down: ## Delete the kind cluster
	@$(call NEEDS_DOCKER)
	@$(NEEDS_KIND)
	kind delete cluster --name dot-sidecar

##@ Ship it

binaries: ## Compile the static binaries that the images carry
	@# One at a time: features that the injector alone asks of a crate would get into the proxy too, 75 KB of them.
	for program in dot-proxy dot-injector; do \
	  CARGO_TARGET_DIR="$(CACHE)/target" RUSTFLAGS="-C target-feature=+crt-static" \
	    cargo build --locked --release --target $(STATIC_TARGET) --package $$program; \
	done

images: ## Build both images with Docker
	@$(call NEEDS_DOCKER, Without it make images.test builds them with buildah.)
	for program in proxy injector; do \
	  docker build --file Dockerfile.$$program --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag dot-$$program:$(VERSION) .; \
	done

images.test: binaries ## Build the images that the tests use, without Docker and without pulling anything
	.ci/images

help: ## Show this list
	@awk 'BEGIN { FS = ":[^#]*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z.-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: $(shell sed -n 's/^\([a-z.-]*\):.*/\1/p' $(MAKEFILE_LIST))
