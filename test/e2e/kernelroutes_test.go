// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// frrOnNode is FRR on node1, which redistributes what it finds in the kernel.
const frrOnNode = `frr defaults datacenter
hostname node1
ip prefix-list TANDEM permit 192.0.2.0/24 le 32
ipv6 prefix-list TANDEM permit 2001:db8:c::/64 le 128
route-map TANDEM permit 10
 match ip address prefix-list TANDEM
route-map TANDEM permit 20
 match ipv6 address prefix-list TANDEM
router bgp 64512
 bgp router-id 198.51.100.11
 no bgp ebgp-requires-policy
 neighbor 198.51.100.1 remote-as 64513
 address-family ipv4 unicast
  redistribute KIND route-map TANDEM
 exit-address-family
 address-family ipv6 unicast
  redistribute KIND route-map TANDEM
  neighbor 198.51.100.1 activate
 exit-address-family`

// permitted gives the speakers NET_ADMIN until the test ends, as manifests/kernel-routes does.
func (s *stage) permitted(t *testing.T) {
	t.Helper()
	const speakers = "daemonset/tandem-speaker"
	capabilities := func(list string) string {
		return `[{"op": "replace", "path": "/spec/template/spec/containers/0/securityContext/capabilities/add", "value": [` + list + `]}]`
	}
	s.kubectl(t, "patch", "-n", "tandem-system", speakers, "--type=json", "-p", capabilities(`"NET_RAW", "NET_ADMIN"`))
	t.Cleanup(func() {
		s.kubectlAfter(t, "patch", "-n", "tandem-system", speakers, "--type=json", "-p", capabilities(`"NET_RAW"`))
		s.kubectlAfter(t, "rollout", "status", "-n", "tandem-system", speakers, "--timeout=120s")
	})
	s.kubectl(t, "rollout", "status", "-n", "tandem-system", speakers, "--timeout=120s")
}

// TestKernelRoutes has FRR on a node announce what an InterfaceAdvertisement puts into its kernel: as routes, and as addresses of an
// interface. Traffic from behind the router is answered, Local follows the endpoints, and what another program flushes is back.
func TestKernelRoutes(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.web(t, s.others("node1")...)
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.create(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: InterfaceAdvertisement
metadata: {name: $NS}
spec: {addressPools: [$NS], nodeSelectors: [{matchLabels: {kubernetes.io/hostname: node1}}]}
`)
	ad := s.object(t, "InterfaceAdvertisement")
	s.conditionOf(t, ad, metav1.Condition{
		Type: speakerv1alpha1.ConditionEffective, Status: metav1.ConditionFalse, Reason: speakerv1alpha1.ReasonNotPermitted,
	}, "speaker.kernelRoutes")
	s.permitted(t)
	s.conditionOf(t, ad, metav1.Condition{
		Type: speakerv1alpha1.ConditionEffective, Status: metav1.ConditionTrue, Reason: speakerv1alpha1.ReasonEffective,
	})
	s.router(t, cluster.RouterConfig)
	for _, mode := range []struct{ name, iface, redistribute string }{
		{"as routes", "", "kernel"}, {"on an interface", "kube-lb0", "connected"},
	} {
		t.Run(mode.name, func(t *testing.T) {
			s.patch(t, ad, `{spec: {interface: `+cmp.Or(mode.iface, "null")+`}}`)
			if err := s.StartFRR(t.Context(), "node1", strings.ReplaceAll(frrOnNode, "KIND", mode.redistribute)); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.StopFRR(context.Background(), "node1"); err != nil {
					t.Error(err)
				}
			})
			s.announcedFrom(t, ips, "node1")
			s.steady(t, lab.Ext, ips)
			s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "routing software")
			for _, ip := range ips {
				// The kubelet listens on all addresses of the node.
				ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
				conn, err := s.Dial(lab.Ext)(ctx, "tcp", net.JoinHostPort(ip, "10250"))
				cancel()
				if err == nil {
					conn.Close()
				}
				if reached := err == nil; reached != (mode.iface != "") {
					t.Errorf("the kubelet answers at %s: %t, %v", ip, reached, err)
				}
			}

			probing, stop := context.WithCancel(t.Context())
			defer stop()
			probes := s.probes(probing, lab.Ext, ips)
			start := time.Now()
			for _, f := range []string{"-4", "-6"} {
				s.run(t, "node1", "ip "+f+" route flush proto 75")
			}
			if mode.iface != "" {
				s.run(t, "node1", "ip addr flush dev "+mode.iface)
			}
			s.until(t, patience, "the routes in the kernel", func(ctx context.Context) (bool, string) {
				out := ""
				for _, f := range []string{"-4", "-6"} {
					text, _ := s.Command(ctx, "node1", "ip", f, "route", "show", "proto", "75").CombinedOutput()
					out += string(text)
				}
				return strings.Contains(out, ips[0]) && strings.Contains(out, ips[1]), out
			})
			t.Logf("what was flushed was back after %v", time.Since(start).Round(time.Millisecond))
			s.announcedFrom(t, ips, "node1")
			s.steady(t, lab.Ext, ips)
			stop()
			for i, answers := range probes() {
				t.Logf("%s: %s", ips[i], failures(answers, start))
			}

			web := s.service("web")
			s.patch(t, web, `{spec: {externalTrafficPolicy: Local}}`)
			s.announcedFrom(t, ips) // The endpoints are on other nodes.
			s.patch(t, web, `{spec: {externalTrafficPolicy: Cluster}}`)
			s.announcedFrom(t, ips, "node1")
		})
	}
	s.followsNamespaces(t, "InterfaceAdvertisement", func(there bool) {
		t.Helper()
		s.until(t, patience, fmt.Sprintf("%s on kube-lb0: %t", ips[0], there), func(ctx context.Context) (bool, string) {
			out, err := s.Command(ctx, "node1", "ip", "-br", "addr", "show", "to", host(ips[0])).CombinedOutput()
			return err == nil && strings.Contains(string(out), ips[0]) == there, string(out)
		})
	})
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node1"}}
	s.patch(t, node, `{metadata: {annotations: {"tandem-lb.io/drain": "true"}}}`)
	t.Cleanup(func() { s.kubectlAfter(t, "annotate", "node", "node1", "tandem-lb.io/drain-") })
	s.until(t, patience, "nothing of ours in the kernel of a drained node", func(ctx context.Context) (bool, string) {
		out, err := s.Command(ctx, "node1", "ip", "-br", "link").CombinedOutput()
		return err == nil && !strings.Contains(string(out), "kube-lb0") && !strings.Contains(string(out), "tandem-routes"), string(out)
	})
}
