// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/tandem-lb/tandem/test/lab"
)

func TestClustersOfOneFamily(t *testing.T) {
	for _, row := range []struct {
		families lab.Families
		family   corev1.IPFamily
		pool     string
	}{
		{lab.IPv4, v4, lanIPv4},
		{lab.IPv6, v6, lanIPv6},
	} {
		t.Run(string(row.families), func(t *testing.T) {
			t.Parallel()
			start := time.Now()
			c := emptyCluster(t, lab.Config{
				Name: labName() + string(row.families), Nodes: 2, Families: row.families, ExternalCloudProvider: true,
			})
			if err := c.Install(t.Context()); err != nil {
				t.Fatal(err)
			}
			t.Logf("the cluster is up after %v", time.Since(start).Round(time.Second))
			s := newStage(t, c)
			s.pool(t, "", row.pool)
			s.layer2(t)
			s.bgp(t)
			s.web(t, s.Nodes()...)
			svc := s.service("web", row.family)
			svc.Spec.IPFamilyPolicy = new(prefer)
			s.add(t, svc)
			ips := s.addresses(t, "web", 1)
			if diff := cmp.Diff([]corev1.IPFamily{row.family}, families(t, ips)); diff != "" {
				t.Fatalf("families (-want +got):\n%s", diff)
			}
			s.announcedFrom(t, ips, s.Nodes()...)
			s.reach(t, lab.Ext, ips[0], "/hostname")
			s.reach(t, lab.Client, ips[0], "/hostname")
			s.answeredBy(t, s.tcpdump(t, lab.Client), s.holder(t, "web", 1), ips)
			s.checkRouterIDs(t)
			both := s.service("both")
			both.Spec.IPFamilyPolicy = new(require)
			if err := s.Create(t.Context(), both); !apierrors.IsInvalid(err) {
				t.Errorf("creating a Service that requires two families: %v, want the API server to refuse it", err)
			}
			playEveryCase(t, c, row.family)
		})
	}
}

// checkRouterIDs checks that the sessions of all nodes have router IDs, all different. A node without an IPv4 address derives its own.
func (s *stage) checkRouterIDs(t *testing.T) {
	t.Helper()
	out, err := s.Vtysh(t.Context(), lab.Router, "show bgp neighbors json")
	if err != nil {
		t.Fatal(err)
	}
	var neighbours map[string]json.RawMessage
	if err := json.Unmarshal([]byte(out), &neighbours); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	ids := map[string]string{}
	for _, node := range s.Nodes() {
		address := s.Addresses(node)[0].String()
		var neighbour struct{ RemoteRouterID string }
		if err := json.Unmarshal(neighbours[address], &neighbour); err != nil {
			t.Fatalf("neighbour %s: %v", address, err)
		}
		id := neighbour.RemoteRouterID
		if other, taken := ids[id]; taken || id == "" || id == "0.0.0.0" {
			t.Errorf("router ID of %s = %q, that of %s is the same", node, id, other)
		}
		ids[id] = node
	}
	t.Logf("router IDs: %v", ids)
}
