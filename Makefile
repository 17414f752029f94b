# Everything that is built lands in .bin. Paths are relative or quoted, so the
# project may lie in a directory with spaces in its name.

SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# One package's tests may take this long with the race detector on two busy cores.
TEST_TIMEOUT ?= 20m

.PHONY: help run build test browser histories fault hang soak bench bench-promises bench-neighbours bench-providers check docs fmt lint formatted tidy migrations deployments sdks portable release FORCE

help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/  make \1\t\2/p' Makefile | expand -t 24

run: ## install PostgreSQL where it is missing, build, and play the demo
	@.ci/install-postgres
	@$(MAKE) --no-print-directory build
	.bin/relay demo

# The commit by the linker: not everywhere Go is let to ask git itself.
build: ## build .bin/relay
	go build -ldflags "-X main.linkedCommit=$$(git rev-parse HEAD 2>/dev/null)" -o .bin/relay ./cmd/relay

test: .bin/withpg ## test everything against a real PostgreSQL, with the race detector
	.bin/withpg -- go test -race -timeout $(TEST_TIMEOUT) ./...

browser: .bin/withpg ## install Chromium and axe-core where they are missing, and try the pages in a browser
	@.ci/install-browser
	CI=true .bin/withpg -- go test -race -count=1 -run '^TestBrowser' ./cmd/relay

# The test ends by itself when its time is nearly up.
FOR ?= 10m

histories: .bin/withpg ## play random histories on two nodes, for FOR (10m), or from SEED again
	.bin/withpg -- go test -race -count=1 -run '^TestRandomHistories$$' -timeout $(FOR) ./internal/intake \
		-rapid.checks 1000000 $(if $(SEED),-rapid.seed $(SEED))

# One by name: make fault FAULTS='--only killed'.
FAULTS ?= --markdown docs/faults.md

fault: build .bin/fault ## break the parts of three nodes, about 17 minutes, and write the tables of docs/faults.md
	.bin/fault $(FAULTS)

hang: build .bin/fault ## let a platform hang for 30 s a call, for FOR (10m), beside one that does not
	.bin/fault --only 'hangs beside' --hang $(FOR)

DURATION ?= 30m

soak: build .bin/fault ## break nothing for DURATION (30m), and look for what grows
	.bin/fault --soak $(DURATION)

# What is kept is kept by a commit: docs/bench/latest.json and the page's tables.
KEPT := docs/bench/latest.json

bench: build ## measure this machine, about 10 minutes, and compare with the figures that are kept
	.bin/relay bench --runs 3 --bodies 3072,20480 $(if $(wildcard $(KEPT)),--compare $(KEPT)) \
		--json $(KEPT) --markdown docs/performance.md

bench-promises: build ## measure what each promise costs, about half an hour, and keep it
	.bin/relay bench promises --runs 3 --duration 6s --json docs/bench/promises.json --markdown docs/performance.md

bench-providers: ## measure verifying and reading for each provider, about two minutes, and keep it
	go test -run '^$$' -bench '^BenchmarkProviders$$' ./internal/provider -page "$(CURDIR)/docs/performance.md"

bench-neighbours: build ## measure a healthy destination alone and beside a dead one, about a quarter of an hour, and keep it
	.bin/relay bench neighbours --runs 5 --duration 20s --json docs/bench/neighbours.json --markdown docs/performance.md

check: formatted lint tidy migrations deployments sdks portable ## hold the code to its rules: what CI asks besides the tests
	go vet ./...
	go test -count=1 ./internal/archtest

docs: ## write what is made of the presets: docs/providers, and the table of docs/presets.md
	go test -count=1 -run '^Test(Providers|PresetFields)AreDocumented$$' ./internal/archtest -update

fmt: .bin/gofumpt ## format the code
	.bin/gofumpt -w .

formatted: .bin/gofumpt
	@unformatted="$$(.bin/gofumpt -l .)"; \
	if [[ -n "$$unformatted" ]]; then echo "not formatted, run make fmt:"; echo "$$unformatted"; exit 1; fi

lint: .bin/golangci-lint
	.bin/golangci-lint run --allow-parallel-runners ./...
	cd tools && ../.bin/golangci-lint run --allow-parallel-runners ./...
	cd tools/sdks && ../../.bin/golangci-lint run --allow-parallel-runners ./...

tidy:
	go mod tidy -diff
	go -C tools mod tidy -diff
	go -C tools/sdks mod tidy -diff

migrations:
	@.ci/check-migrations

# What an engine or a cluster's client would say besides is asked where there
# is one.
deployments: ## check the Dockerfile, compose and Kubernetes files, where no engine runs too
	go -C tools test -count=1 ./...
	@if docker compose version >/dev/null 2>&1; then docker compose config --quiet; fi
	@if command -v kubectl >/dev/null; then kubectl kustomize deploy/kubernetes >/dev/null; fi

sdks: ## set the official libraries of providers against the presets
	go -C tools/sdks test -count=1 ./...

# The other system that is released for; its builds for another processor
# differ in nothing that we write.
portable:
	GOOS=darwin go build -o /dev/null ./cmd/relay

release: ## build dist/: archives for linux and darwin, bills of materials, SHA256SUMS
	@.ci/release

# Go knows best what has changed.
.bin/withpg: FORCE
	go build -o .bin/withpg ./internal/localpg/withpg

.bin/fault: FORCE
	go build -o .bin/fault ./internal/fault

.bin/gofumpt .bin/golangci-lint &: tools/go.mod tools/go.sum
	go -C tools build -o ../.bin/ tool
	@touch .bin/gofumpt .bin/golangci-lint
