// SPDX-License-Identifier: Apache-2.0

//go:build e2e && movein

package e2e

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/products"
)

// The module proxy has the modules of neither kube-vip nor PureLB. The tests of this file run programs that somebody has built, and are left out where
// these variables name no directory with them.
const (
	kubeVIPEnv = "TANDEM_KUBE_VIP" // kube-vip, kube-vip-cloud-provider and install.yaml, which installs both
	pureLBEnv  = "TANDEM_PURELB"   // allocator, lbnodeagent and install.yaml
)

// prebuilt returns the programs of a product, or skips the test.
func prebuilt(t *testing.T, title, variable string) *products.Prebuilt {
	t.Helper()
	built := products.OpenPrebuilt(variable)
	if built == nil {
		t.Skipf("%s is not moved from: the module proxy does not have it. Set %s to a directory with its programs and its install.yaml", title, variable)
	}
	return built
}

// installPrebuilt returns what installs a product by its own manifest, and waits for its workloads.
func installPrebuilt(built *products.Prebuilt, namespace string, workloads ...string) func(*testing.T, *cluster.Cluster) {
	return func(t *testing.T, c *cluster.Cluster) {
		t.Helper()
		images, err := built.Images(t.TempDir())
		if err == nil {
			err = c.LoadImages(t.Context(), images...)
		}
		if err != nil {
			t.Fatal(err)
		}
		manifest, err := built.Manifest()
		if err != nil {
			t.Fatal(err)
		}
		// An object whose kind the same manifest defines is refused until the API server serves the kind.
		if err := cluster.Until(t.Context(), time.Minute, "the API server to take install.yaml", func(ctx context.Context) (bool, string) {
			err := c.Apply(ctx, manifest)
			return err == nil, fmt.Sprint(err)
		}); err != nil {
			t.Fatal(err)
		}
		rolledOut(t, c, namespace, workloads...)
	}
}

// TestMoveInKubeVIP moves Services from kube-vip, a DaemonSet that announces by ARP and NDP, and whose cloud provider gives addresses.
func TestMoveInKubeVIP(t *testing.T) {
	const provider, daemonSet = "deployment/kube-vip-cloud-provider", "daemonset/kube-vip-ds"
	newMoveBed(t, product{
		title: "kube-vip", namespace: "kube-system",
		install: installPrebuilt(prebuilt(t, "kube-vip", kubeVIPEnv), "kube-system", provider, daemonSet),
		configuration: `
apiVersion: v1
kind: ConfigMap
metadata: {name: kubevip, namespace: kube-system}
data: {range-global: "198.51.100.200-198.51.100.249,2001:db8:51::1000-2001:db8:51::1031"}
`,
		restored:  []restored{deployments, daemonSets},
		mark:      "kube-vip.io/vipHost",
		elects:    true,
		uninstall: []string{"delete", "-n", "kube-system", provider, daemonSet, "--timeout=60s"},
	}).thereAndBack(t)
}

// TestMoveInPureLB moves Services from PureLB, whose addresses are in the subnet of the nodes. The interface for other addresses, which its agents make
// and remove whether there are any or not, is lo: not every kernel has the dummies that they would make.
func TestMoveInPureLB(t *testing.T) {
	newMoveBed(t, product{
		title: "PureLB", namespace: "purelb-system",
		install: installPrebuilt(prebuilt(t, "PureLB", pureLBEnv), "purelb-system", "deployment/allocator", "daemonset/lbnodeagent"),
		configuration: `
apiVersion: purelb.io/v2
kind: LBNodeAgent
metadata: {name: default, namespace: purelb-system}
spec: {local: {localInterface: default, dummyInterface: lo}}
---
apiVersion: purelb.io/v2
kind: ServiceGroup
metadata: {name: default, namespace: purelb-system}
spec:
  local:
    v4pools: [{subnet: 198.51.100.0/24, pool: 198.51.100.200-198.51.100.249}]
    v6pools: [{subnet: "2001:db8:51::/64", pool: "2001:db8:51::1000-2001:db8:51::1031"}]
`,
		restored: []restored{
			deployments, daemonSets, specOf("purelb.io", "v2", "ServiceGroup"), specOf("purelb.io", "v2", "LBNodeAgent"),
		},
		mark:      "purelb.io/announcing",
		elects:    true,
		uninstall: []string{"delete", "namespace", "purelb-system", "--timeout=60s"},
	}).thereAndBack(t)
}
