# dot-sidecar: what there is to do here. `make` alone lists it.

SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules --no-print-directory

VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml)
REVISION := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/dot-sidecar
STATIC_TARGET := $(shell uname -m)-unknown-linux-gnu
STUBS := dot doh doq curl kdig
REGISTRY := localhost:5000
# What the recipes that need it begin with.
NEEDS_DOCKER = docker info >/dev/null 2>&1 || { echo "make $(or $(MAKECMDGOALS),$@): needs Docker, and none answers here.$(1)" >&2; exit 1; }
COMMA := ,
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

fuzz: ## Fuzz every target briefly, as CI does (TARGET=client_message RUNS=10000000 for one of them and long)
	.ci/fuzz $(TARGET) $(RUNS)

bench: ## Measure the proxy beside other forwarders: some 20 minutes (ARGS=--quick for a minute and a half)
	.ci/bench $(ARGS)

manifests: ## Generate manifests/ and the chart's reference from the chart
	.ci/manifests

##@ Try it

script: ## Run the proxy here: DNS on 127.0.0.1:1053, over TLS to Cloudflare (ARGS='--upstream quad9' for others)
	cargo run --locked --release --package dot-proxy -- --host 127.0.0.1 $(ARGS)

profile: ## Compare resolvers and upstreams on this network: some minutes (ARGS='--stub ssock,doh --upstream quad9')
	cargo run --locked --release --package dot-profiler -- $(ARGS)

up: run.dot ## Run the proxy's image: DNS on 127.0.0.1:1053 (ARGS='--upstream quad9' for others)

# Each resolver has an image of its own, dot-proxy:VERSION-STUB.
run.dot: ## The same by the project's own DNS over TLS,
run.doh: ## … by DNS over HTTPS,
run.doq: ## … by DNS over QUIC,
run.curl: ## … by the program curl,
run.kdig: ## … by the program kdig
$(STUBS:%=run.%): run.%: image.%
	docker run --rm --name dot-proxy-$* --publish 127.0.0.1:1053:1053/udp --publish 127.0.0.1:1053:1053/tcp \
	  --read-only --cap-drop ALL --security-opt no-new-privileges dot-proxy:$(VERSION)-$* $(ARGS)

shell: ## A shell in a container with the same binary, the same user, and dig, kdig and curl
	@$(call NEEDS_DOCKER)
	docker build --file Dockerfile.proxy --target shell --tag dot-proxy:$(VERSION)-shell .
	docker run --rm --interactive --tty --name dot-proxy-shell --read-only --cap-drop ALL --security-opt no-new-privileges \
	  --tmpfs /tmp dot-proxy:$(VERSION)-shell $(ARGS)

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
	@bash .ci/steps.bash
	@# One at a time: features that the injector alone asks of a crate would get into the proxy too, 75 KB of them.
	for program in dot-proxy dot-injector; do \
	  CARGO_TARGET_DIR="$(CACHE)/target" RUSTFLAGS="-C target-feature=+crt-static" \
	    cargo build --locked --release --target $(STATIC_TARGET) --package $$program; \
	done

images: $(STUBS:%=image.%) ## Build all images with Docker: dot-proxy, for each resolver, and dot-injector
	docker tag dot-proxy:$(VERSION)-dot dot-proxy:$(VERSION)
	docker build --file Dockerfile.injector --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) --tag dot-injector:$(VERSION) .

$(STUBS:%=image.%): image.%:
	@$(call NEEDS_DOCKER, Without it make script ARGS='--stub $*' runs the proxy itself$(COMMA) and make images.test builds the images with buildah.)
	docker build --file Dockerfile.proxy --build-arg STUB=$(subst dot,ssock,$*) --build-arg VERSION=$(VERSION) \
	  --build-arg REVISION=$(REVISION) --tag dot-proxy:$(VERSION)-$* .

registry: ## Run an image registry here, on 127.0.0.1:5000, and push the images there, for a cluster to pull
	@$(call NEEDS_DOCKER)
	$(MAKE) images
	docker start dot-sidecar-registry >/dev/null 2>&1 || \
	  docker run --detach --name dot-sidecar-registry --restart unless-stopped --publish 127.0.0.1:5000:5000 docker.io/library/registry:2.8.3
	for image in dot-injector:$(VERSION) dot-proxy:$(VERSION) $(STUBS:%=dot-proxy:$(VERSION)-%); do \
	  docker tag "$$image" "$(REGISTRY)/$$image"; docker push "$(REGISTRY)/$$image"; \
	done
	@echo "Install from there: helm install dot-sidecar charts/dot-sidecar --namespace dot-sidecar --create-namespace \\"
	@echo "  --set injector.image.repository=$(REGISTRY)/dot-injector --set sidecar.image.repository=$(REGISTRY)/dot-proxy"
	@echo "It goes on until: docker rm --force dot-sidecar-registry"

images.test: binaries ## Build the images that the tests use, without Docker and without pulling anything
	.ci/images

help: ## Show this list
	@awk 'BEGIN { FS = ":[^#]*## " } \
	  /^##@ / { printf "\n%s\n", substr($$0, 5) } \
	  /^[a-z.-]+:.*## / { printf "  %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: $(shell sed -n 's/^\([a-z.-]*\):.*/\1/p' $(MAKEFILE_LIST)) $(STUBS:%=run.%) $(STUBS:%=image.%)
