# SPDX-License-Identifier: Apache-2.0
# `make demo` shows Tandem at work, `make test` passes every test. Both need Debian 12, Go and root, and nothing else.

VERSION       := $(shell cat VERSION)
CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0
GOLANGCI_LINT  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
HELM           := go run helm.sh/helm/v4/cmd/helm@v4.3.1
CHART          := manifests/helm/tandem
# The CRDs are in manifests/crd.
HELM_TEMPLATE  := $(HELM) template tandem $(CHART) --namespace tandem-system --skip-tests --set crds.install=false
LDFLAGS        := -s -w -X k8s.io/component-base/version.gitVersion=$(VERSION)

# One set of flags for programs and tests, so that nothing is compiled twice.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath

.PHONY: all
all: build

.PHONY: build
build: ## the programs, into dist/
	go build -ldflags "$(LDFLAGS)" -o dist/tandem-cloud-controller-manager ./cmd/cloud-controller-manager
	go build -ldflags "$(LDFLAGS)" -o dist/tandem-speaker ./cmd/speaker

.PHONY: images
images: ## dist/images/*.tar, for `ctr images import` or `docker load`
	go run ./cmd/images --version $(VERSION)

.PHONY: deps
deps: ## the Debian packages that the lab and the tests run
	go run ./test/lab/cmd/lab deps

.PHONY: demo
demo: deps images ## a cluster on this machine, with Tandem at work on it
	go run ./test/demo

.PHONY: demo-down
demo-down: ## removes what `make demo` left
	go run ./test/lab/cmd/lab -name demo down

.PHONY: test
test: deps images unit e2e ## every test

.PHONY: unit
unit: ## the tests that need no cluster; those of sockets make network namespaces
	go test -count=1 -timeout 15m $$(go list ./... | grep -v /test/e2e)

.PHONY: race
race: ## the unit tests once more under the race detector, which needs a C compiler; GoBGP has a race of its own (see speaker/bgp/gobgp)
	CGO_ENABLED=1 go test -count=1 -race -timeout 20m $$(go list ./ipam/... ./loadbalancer/... ./provider/... ./speaker/... | grep -v /bgp)

.PHONY: e2e
e2e: ## the tests against a real API server, and on a cluster in network namespaces
	go test -count=1 -tags e2e -timeout 10m ./test/api
	go test -count=1 -tags e2e -timeout 10m ./test/lab
	go test -count=1 -tags e2e -timeout 20m -v ./test/kubeadm
	go test -count=1 -tags e2e -timeout 10m -run TestTwoLeaders ./test/bench
	go test -count=1 -tags e2e -timeout 40m -v ./test/e2e

.PHONY: soak
soak: deps images ## the scenarios that `make e2e` plays once, up to 100 times each, and a table of what clients noticed; 40 minutes
	TANDEM_SOAK=100 go test -count=1 -tags e2e -timeout 3h -v -run TestSoak ./test/e2e

.PHONY: bench
bench: deps ## the speed of what has to be fast, with ratios to MetalLB and to the API server's own limit
	go test -run '^$$' -bench . -benchmem ./ipam ./speaker ./speaker/decision ./speaker/election ./speaker/layer2
	go run ./test/bench

.PHONY: generate
generate: ## deep copies, CRDs and RBAC from the code; the manifests of both modes from the chart
	$(CONTROLLER_GEN) object crd paths="./ipam/v1alpha1;./speaker/v1alpha1" output:crd:dir=manifests/crd
	$(CONTROLLER_GEN) rbac:roleName=tandem-cloud-controller-manager paths="./provider;./loadbalancer" \
		output:rbac:dir=$(CHART)/rbac/cloud-controller-manager
	$(CONTROLLER_GEN) rbac:roleName=tandem-speaker paths="./speaker;./speaker/serving" output:rbac:dir=$(CHART)/rbac/speaker
	sed -i 's/^version: .*/version: $(VERSION:v%=%)/; s/^appVersion: .*/appVersion: $(VERSION)/' $(CHART)/Chart.yaml
	$(HELM_TEMPLATE) >manifests/default/tandem.yaml
	$(HELM_TEMPLATE) --set mode=services >manifests/services/tandem.yaml

.PHONY: verify
verify: generate ## that what is generated is up to date and that the code is formatted
	git diff --exit-code -- manifests ipam/v1alpha1 speaker/v1alpha1
	$(HELM) lint --strict --quiet $(CHART)
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	go vet -tags e2e ./...

.PHONY: lint
lint: ## the linters, the direction of imports among them
	$(GOLANGCI_LINT) run --build-tags e2e ./...
