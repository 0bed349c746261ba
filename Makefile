# SPDX-License-Identifier: Apache-2.0
# `make demo` shows Tandem at work, `make test` passes every test. Both need Debian 12, Go and root, and nothing else.

VERSION       := $(shell cat VERSION)
CONTROLLER_GEN := go run sigs.k8s.io/controller-tools/cmd/controller-gen@v0.21.0
GOLANGCI_LINT  := go run github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
GOVULNCHECK    := go run golang.org/x/vuln/cmd/govulncheck@v1.9.0
# gotestsum calls go test. It prints a line for each package or test, what a test printed only if it failed, and all that failed once more at the end.
GOTESTSUM      := go run gotest.tools/gotestsum@v1.13.0
# tools/helm.mod has Helm's version, and those of go.mod for what both import, so that it is compiled once.
HELM           := go run -modfile=tools/helm.mod helm.sh/helm/v4/cmd/helm
CHART          := manifests/helm/tandem
# The CRDs are in manifests/crd.
HELM_TEMPLATE  := $(HELM) template tandem $(CHART) --namespace tandem-system --skip-tests --set crds.install=false

# What a program says of itself: `tandem-speaker --version` prints "Tandem v0.1.0+0123456789ab". A release has the version of its tag, and an archive
# of the source has no commit.
COMMIT         := $(shell git rev-parse HEAD 2>/dev/null)
RELEASE        := $(shell git describe --tags --match 'v*' --dirty 2>/dev/null || cat VERSION)
EPOCH          := $(shell git log -1 --format=%ct 2>/dev/null || echo 0)
self            = $(1)$(addprefix +,$(shell echo $(COMMIT) | cut -c1-12))
ldflags         = -s -w -X k8s.io/component-base/version/verflag.programName=Tandem \
	-X k8s.io/component-base/version.gitVersion=$(call self,$(1)) -X k8s.io/client-go/pkg/version.gitVersion=$(call self,$(1)) \
	-X k8s.io/component-base/version.gitCommit=$(COMMIT) -X k8s.io/client-go/pkg/version.gitCommit=$(COMMIT)

# One set of flags for programs and tests, so that nothing is compiled twice.
export CGO_ENABLED = 0
export GOFLAGS = -trimpath

.PHONY: all
all: build

.PHONY: build
build: ## the programs, into dist/
	go build -ldflags "$(call ldflags,$(VERSION))" -o dist/tandem-cloud-controller-manager ./cmd/cloud-controller-manager
	go build -ldflags "$(call ldflags,$(VERSION))" -o dist/tandem-speaker ./cmd/speaker
	go build -ldflags "$(call ldflags,$(VERSION))" -o dist/kubectl-tandem ./cmd/kubectl-tandem

.PHONY: images
images: PLATFORMS = linux/$(shell go env GOARCH)
images: PLUGIN_PLATFORMS = $(PLATFORMS)
images: release ## a release for this machine's processor alone, which the demo and the tests install

.PHONY: release
# The order of file names in the checksums is not to depend on the language.
release: export LC_ALL = C
release: ## what a release page holds, into dist/release; PLATFORMS=linux/amd64 builds fewer images
	rm -rf dist/release dist/chart
	mkdir -p dist/release dist/chart
	SOURCE_DATE_EPOCH=$(EPOCH) $(addprefix TANDEM_BUILD_CACHE=,$(BUILD_CACHE)) \
		go run ./cmd/images $(addprefix -platforms=,$(PLATFORMS)) $(addprefix -plugin-platforms=,$(PLUGIN_PLATFORMS)) -version $(RELEASE) -commit "$(COMMIT)" -ldflags "$(call ldflags,$(RELEASE))"
	cp -rL $(CHART) dist/chart && find dist/chart -exec touch -d @$(EPOCH) {} +
	$(HELM) package dist/chart/tandem --version $(RELEASE:v%=%) --app-version $(RELEASE) --destination dist/release
	for mode in cloud-provider services; do \
		file=dist/release/install$$(test $$mode = services && echo -services).yaml; \
		cp manifests/namespace/namespace.yaml $$file && \
		$(HELM) template tandem dist/release/tandem-$(RELEASE:v%=%).tgz --namespace tandem-system --skip-tests --set crds.keep=false,mode=$$mode >>$$file || exit 1; \
	done
	$(HELM) template tandem dist/release/tandem-$(RELEASE:v%=%).tgz --set crds.keep=false --show-only templates/crds.yaml >dist/release/crds.yaml
	cp LICENSE dist/release
	cd dist/release && sha256sum * >SHA256SUMS

.PHONY: reproduce
reproduce: release ## builds the release once more, from an archive of the commit in another directory with an empty build cache, and compares
	test -z "$$(git status --porcelain)"
	dir=$$(mktemp -d) && git archive HEAD | tar -x -C $$dir && \
	$(MAKE) -C $$dir release RELEASE=$(RELEASE) COMMIT=$(COMMIT) EPOCH=$(EPOCH) BUILD_CACHE=$(or $(BUILD_CACHE),$$dir/cache) && \
	diff -r dist/release $$dir/dist/release && echo "reproduced: $$(sha256sum <dist/release/SHA256SUMS)" && rm -rf $$dir

.PHONY: deps
deps: ## the Debian packages that the lab and the tests run
	go run ./test/lab/cmd/lab deps

.PHONY: compile
compile: ## what the demo runs beside Kubernetes, with a line for each hundred modules and packages; four minutes the first time
	@echo "Compiling Tandem, its tools and Helm"
	@{ go build -v ./cmd/... ./test/lab/... ./test/demo && $(HELM:go run%=go run -v%) version; } 2>&1 | awk 'NR % 100 == 0 {print "  " NR ": " $$0; fflush()}'

.PHONY: demo
demo: compile deps images ## a cluster on this machine, with Tandem at work on it
	go run ./test/demo

.PHONY: demo-down
demo-down: ## removes what `make demo` left
	go run ./test/lab/cmd/lab -name demo down

.PHONY: test
test: deps images unit e2e ## every test

.PHONY: unit
unit: ## the tests that need no cluster; those of sockets make network namespaces
	$(GOTESTSUM) --format pkgname --format-hide-empty-pkg -- -count=1 -timeout 15m $$(go list ./... | grep -v /test/e2e)

.PHONY: race
race: ## the unit tests once more under the race detector, which needs a C compiler; those against routers are left out, since GoBGP's server, which is one of them, has a race of its own
	CGO_ENABLED=1 go test -count=1 -race -timeout 20m $$(go list ./ipam/... ./loadbalancer/... ./provider/... ./speaker/... | grep -v /bgp/fsm)

FUZZ_TIME ?= 1m
.PHONY: fuzz
# On a busy machine Go's engine now and then takes the end of the time for a failure, "context deadline exceeded". An input that fails is written to a file.
fuzz: ## each fuzz target for FUZZ_TIME, which is a minute, two at a time: what comes from the network, and what users write; by default Go would spend that minute on making one input smaller
	grep -r --include='*_test.go' -o '^func Fuzz[A-Za-z0-9]*' . | sed 's|/[^/]*:func | |' | sort -u | xargs -P 2 -L 1 \
		sh -c 'log=$$(mktemp); go test -run "^$$" -fuzz "^$$1\$$" -fuzztime $(FUZZ_TIME) -fuzzminimizetime 10x -parallel 1 $$0 >$$log 2>&1; code=$$?; \
			cat $$log; if grep -qx "    context deadline exceeded" $$log && ! grep -q "Failing input written" $$log; then code=0; fi; rm $$log; exit $$code'

.PHONY: vulnerabilities
vulnerabilities: ## known vulnerabilities in what the programs call; needs vuln.go.dev, which has the database
	$(GOVULNCHECK) ./cmd/cloud-controller-manager ./cmd/speaker ./cmd/kubectl-tandem

.PHONY: e2e
e2e: ## the tests against a real API server, and on a cluster in network namespaces; the first builds Kubernetes, and those of two clusters run side by side
	rm -rf dist/tests
	$(call e2e_tests,lab,20m) ./test/lab
	$(MAKE) -j 2 e2e-main e2e-other || { echo && echo "What failed:" && \
		$(GOTESTSUM) --format none --hide-summary output --raw-command -- sh -c 'cat dist/tests/*.json; exit 1'; exit 1; }

# What all tests printed, also those that pass, is in dist/tests afterwards.
e2e_tests = mkdir -p dist/tests && $(GOTESTSUM) --format testname --jsonfile dist/tests/$(1).json -- -count=1 -tags e2e -timeout $(2)

.PHONY: e2e-main
e2e-main:
	$(call e2e_tests,e2e,40m) ./test/e2e

.PHONY: e2e-other
e2e-other:
	$(call e2e_tests,api,20m) ./test/api
	$(call e2e_tests,kubeadm,20m) ./test/kubeadm
	$(call e2e_tests,bench,15m) -run TestTwoLeaders ./test/bench

.PHONY: soak
soak: deps images ## the scenarios that `make e2e` plays once, up to 100 times each, and random failures, with a table of what clients noticed, and what finds dead nodes; about four and a half hours
	TANDEM_CRASHES=100 go test -count=1 -tags e2e -timeout 1h -v -run TestCrashes ./test/api
	TANDEM_SOAK=100 go test -count=1 -tags e2e -timeout 4h -v -run TestSoak ./test/e2e
	TANDEM_DETECTOR_WATCH=1h go test -run '^$$' -bench Detector -benchtime 20x -timeout 4h ./speaker

.PHONY: soak-move-in
soak-move-in: deps images ## 50 Services move from MetalLB to Tandem, back, and again, while clients ask, with a table of what these noticed; builds MetalLB; from kube-vip and PureLB too, where TANDEM_KUBE_VIP and TANDEM_PURELB have them; before that a move is killed after each of its writes
	TANDEM_MOVEIN_CUTS=all go test -count=1 -tags e2e -timeout 40m -v -run TestLiveMove ./test/api
	go test -count=1 -tags e2e,movein -timeout 90m -v -run TestMoveIn ./test/e2e

.PHONY: conformance
conformance: deps images ## the LoadBalancer suite of Kubernetes by layer 2 and by BGP, in a table; FAMILY=ipv6 on IPv6
	go run ./test/conformance -family $(or $(FAMILY),ipv4)

LOOPS := Usage|SetPools|BenchmarkPools|SharingKey|Start|Audit|PoolEdit|Wake|Events|Ensure|PoolStatus|Network|Diagnose|Diagnosis|Silence|Nodes

.PHONY: bench-loops
bench-loops: ## how the loops of the controller manager grow with Services, pools and nodes, in a table; three minutes
	go test -run '^$$' -bench '$(LOOPS)' -benchtime 100ms -benchmem ./ipam ./loadbalancer ./provider | go run ./test/bench/growth '$(LOOPS)'

.PHONY: bench
bench: deps bench-loops ## the speed of what has to be fast, with ratios to MetalLB and to the API server's own limit
	go test -run '^$$' -bench . -skip Detector -benchmem ./ipam ./speaker ./speaker/observation ./speaker/decision ./speaker/election ./speaker/layer2
	go test -run '^$$' -bench Receive -benchmem ./speaker/membership
	go test -run '^$$' -bench Detector -benchtime 20x -timeout 1h ./speaker
	go test -run '^$$' -bench . -benchtime 5x ./speaker/bgp/fsm
	go test -run '^$$' -bench Plugin -benchtime 5x -tags e2e -timeout 30m ./test/api
	go run ./test/bench

.PHONY: bench-peers
bench-peers: deps ## a speaker with ten thousand Services, what fails, Services a second and how soon routes arrive, beside MetalLB's; forty minutes
	go run ./test/bench -speakers 10000
	go run ./test/bench -gaps
	go run ./test/bench -sizes 1000
	go run ./test/bench -latency 1000

.PHONY: generate
generate: ## deep copies, CRDs, RBAC and docs/reference from the code; the manifests of both modes from the chart
	$(CONTROLLER_GEN) object crd paths="./ipam/v1alpha1;./speaker/v1alpha1" output:crd:dir=manifests/crd
	$(CONTROLLER_GEN) rbac:roleName=tandem-cloud-controller-manager paths="./provider;./loadbalancer" \
		output:rbac:dir=$(CHART)/rbac/cloud-controller-manager
	$(CONTROLLER_GEN) rbac:roleName=tandem-speaker paths="./speaker;./speaker/serving" output:rbac:dir=$(CHART)/rbac/speaker
	sed -i 's/^version: .*/version: $(VERSION:v%=%)/; s/^appVersion: .*/appVersion: $(VERSION)/' $(CHART)/Chart.yaml
	$(HELM_TEMPLATE) >manifests/default/tandem.yaml
	$(HELM_TEMPLATE) --set mode=services >manifests/services/tandem.yaml
	go test -count=1 -run TestReference ./cmd/cloud-controller-manager ./cmd/speaker ./test/documents ./test/structure -update
	go test -count=1 -run TestDocument ./cmd/kubectl-tandem -update

.PHONY: verify
verify: generate ## that what is generated is up to date and that the code is formatted
	git diff --exit-code -- manifests ipam/v1alpha1 speaker/v1alpha1 docs
	$(HELM) lint --strict --quiet $(CHART)
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	go vet -tags e2e,movein ./...

.PHONY: lint
lint: ## the linters, the direction of imports among them
	$(GOLANGCI_LINT) run --build-tags e2e,movein ./...
