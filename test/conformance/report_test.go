// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/tandem-lb/tandem/test/lab"
)

// A report of Ginkgo has every test of Kubernetes, most of which the focus has left out.
func TestReport(t *testing.T) {
	file := filepath.Join(t.TempDir(), "report.json")
	if err := os.WriteFile(file, []byte(`[{"SpecReports": [
	{"ContainerHierarchyTexts": ["[sig-network] LoadBalancers [Feature:LoadBalancer]"], "LeafNodeText": "works [Slow]", "State": "passed",
	 "RunTime": 61000000000, "NumAttempts": 1},
	{"ContainerHierarchyTexts": ["[sig-network] LoadBalancers [Feature:LoadBalancer]"], "LeafNodeText": "switches", "State": "failed",
	 "RunTime": 1000000000, "NumAttempts": 1, "Failure": {"Message": "Affinity should hold\nbut did not"}},
	{"ContainerHierarchyTexts": ["[sig-apps] Jobs"], "LeafNodeText": "run", "State": "skipped"},
	{"LeafNodeText": "", "State": "passed", "NumAttempts": 1}
]}]`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests, err := readReport(file)
	if err != nil {
		t.Fatal(err)
	}
	got := table(lab.IPv4, []results{{way: "BGP", took: 62 * time.Second, tests: tests}})
	want := "\nKubernetes " + lab.KubernetesVersion + ", ipv4, CoreDNS " + corednsVersion + ", containerd " + lab.ContainerdVersion + `

| test | BGP: 1 of 2 in 1m2s |
|---|---|
| LoadBalancers switches | failed, 1s: Affinity should hold |
| LoadBalancers works | passed, 1m1s |
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("table (-want +got):\n%s", diff)
	}
}
