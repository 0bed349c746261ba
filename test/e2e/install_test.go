// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

func TestNodesAreInitialised(t *testing.T) {
	s := newStage(t, dual)
	for _, name := range s.Nodes() {
		t.Run(name, func(t *testing.T) {
			var node corev1.Node
			s.until(t, patience, "the end of its taint", func(ctx context.Context) (bool, string) {
				if err := s.Client.Get(ctx, client.ObjectKey{Name: name}, &node); err != nil {
					return false, err.Error()
				}
				return len(node.Spec.Taints) == 0, fmt.Sprint(node.Spec.Taints)
			})
			if want := "tandem://" + name; node.Spec.ProviderID != want {
				t.Errorf("provider ID = %q, want %q", node.Spec.ProviderID, want)
			}
			want := []corev1.NodeAddress{}
			for _, a := range s.Addresses(name) {
				want = append(want, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a.String()})
			}
			want = append(want, corev1.NodeAddress{Type: corev1.NodeHostName, Address: name})
			if diff := cmp.Diff(want, node.Status.Addresses); diff != "" {
				t.Errorf("addresses (-want +got):\n%s", diff)
			}
		})
	}
	t.Run("an annotation becomes the label of the zone", func(t *testing.T) {
		node := &corev1.Node{}
		node.Name = "node2"
		t.Cleanup(func() {
			s.kubectlAfter(t, "annotate", "node", "node2", "tandem-lb.io/zone-")
			s.kubectlAfter(t, "label", "node", "node2", corev1.LabelTopologyZone+"-")
		})
		s.patch(t, node, `{metadata: {annotations: {tandem-lb.io/zone: hall-1}}}`)
		s.until(t, patience, "the label", func(ctx context.Context) (bool, string) {
			err := s.Client.Get(ctx, client.ObjectKeyFromObject(node), node)
			return err == nil && node.Labels[corev1.LabelTopologyZone] == "hall-1", fmt.Sprint(node.Labels, err)
		})
	})
}

func TestPodsAreReadyWithTheRightsTheyNeed(t *testing.T) {
	s := newStage(t, dual)
	var pods corev1.PodList
	if err := s.List(t.Context(), &pods, client.InNamespace("tandem-system")); err != nil {
		t.Fatal(err)
	}
	count := map[string]int{}
	for _, pod := range pods.Items {
		component := pod.Labels["app.kubernetes.io/component"]
		count[component]++
		s.until(t, patience, "readiness of pod "+pod.Name, func(ctx context.Context) (bool, string) {
			if err := s.Client.Get(ctx, client.ObjectKeyFromObject(&pod), &pod); err != nil {
				return false, err.Error()
			}
			return ready(&pod), string(pod.Status.Phase)
		})
		security := pod.Spec.Containers[0].SecurityContext
		if security.AllowPrivilegeEscalation == nil || *security.AllowPrivilegeEscalation || security.ReadOnlyRootFilesystem == nil || !*security.ReadOnlyRootFilesystem {
			t.Errorf("%s: security context %v, want no escalation and a read-only root", pod.Name, security)
		}
		if diff := cmp.Diff([]corev1.Capability{"ALL"}, security.Capabilities.Drop); diff != "" {
			t.Errorf("%s: dropped capabilities (-want +got):\n%s", pod.Name, diff)
		}
		// What the manifests say is what the kernel knows of the process.
		status, err := s.process(pod.Spec.NodeName, programs[component])
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{"Uid": "65532", "CapEff": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2"}
		if component == "speaker" {
			want["Uid"], want["CapEff"] = "0", "0000000000002000" // CAP_NET_RAW alone
		}
		got := map[string]string{}
		for field := range want {
			got[field] = strings.Fields(status.fields[field])[0]
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: process (-want +got):\n%s", pod.Name, diff)
		}
	}
	if diff := cmp.Diff(map[string]int{"speaker": len(s.Nodes()), "cloud-controller-manager": 2}, count); diff != "" {
		t.Errorf("pods (-want +got):\n%s", diff)
	}
}

// TestExamplesReachFromBothSides is what README promises: the four files of manifests/examples, and both families answer on both paths.
func TestExamplesReachFromBothSides(t *testing.T) {
	s := newStage(t, dual)
	s.ns = "default" // where the examples go
	files := []string{"pool.yaml", "layer2.yaml", "bgp.yaml", "service.yaml"}
	t.Cleanup(func() {
		for _, file := range slices.Backward(files) {
			remove := s.Kubectl(context.Background(), "delete", "--ignore-not-found", "--timeout=60s", "-f", s.Example(file))
			if out, err := remove.CombinedOutput(); err != nil {
				t.Errorf("deleting %s: %v\n%s", file, err, out)
			}
		}
	})
	for _, file := range files {
		s.kubectl(t, "apply", "-f", s.Example(file))
	}
	ips := s.addresses(t, "web", 2)
	if diff := cmp.Diff([]corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}, families(t, ips)); diff != "" {
		t.Fatalf("families (-want +got):\n%s", diff)
	}
	s.kubectl(t, "rollout", "status", "deployment/web", "--timeout=60s")
	holder := s.holder(t, "web", 2)

	for _, host := range []string{lab.Client, lab.Ext} {
		for _, ip := range ips {
			t.Run("curl from "+host+" to "+ip, func(t *testing.T) {
				s.until(t, patience, "an answer", func(ctx context.Context) (bool, string) {
					out, err := s.Command(ctx, host, "curl", "-sS", "--max-time", "2", cluster.URL(ip, "/hostname")).CombinedOutput()
					return err == nil && strings.HasPrefix(string(out), "web-"), fmt.Sprintf("%v: %s", err, out)
				})
			})
		}
	}
	for _, show := range []struct {
		what string
		args []string
		want []string // patterns
	}{
		{
			"a pool shows ranges, used and free addresses for each family",
			[]string{"get", "addresspools", "lan"},
			[]string{`198\.51\.100\.200-198\.51\.100\.239`, `2001:db8:51::1000/116`, `\s39/40\s`, `\s4095/4096\s`, `True`},
		},
		{
			"a claim for each address names the Service",
			[]string{"get", "ipaddresses", "-l", "ipaddress.kubernetes.io/managed-by=tandem-lb.io"},
			[]string{regexp.QuoteMeta(ips[0]) + `\s+services/default/web`, regexp.QuoteMeta(ips[1]) + `\s+services/default/web`},
		},
		{"the Service shows both addresses", []string{"get", "service", "web"}, []string{regexp.QuoteMeta(ips[0] + "," + ips[1])}},
		{
			"the Service tells what happened",
			[]string{"describe", "service", "web"},
			[]string{
				regexp.QuoteMeta(ips[0]) + ` \(VIP\)`, regexp.QuoteMeta(ips[1]) + ` \(VIP\)`,
				`AllocatedAddresses.*Allocated ` + regexp.QuoteMeta(ips[0]+" and "+ips[1]+" from AddressPool lan"),
				`AnnouncingLayer2.*Node ` + holder + ` answers for`,
			},
		},
		{"the holder is on record", []string{"get", "l2announcements"}, []string{`default\.web\s+.*` + holder}},
		{"a speaker tells of its session", []string{"get", "speakerstatuses"}, []string{`node1\s+198\.51\.100\.11, 2001:db8:51::11\s+1/1\s+True\s+Announcing\s`}},
	} {
		t.Run(show.what, func(t *testing.T) {
			s.until(t, patience, "the right print", func(ctx context.Context) (bool, string) {
				out, err := s.Kubectl(ctx, show.args...).CombinedOutput()
				missing := slices.DeleteFunc(slices.Clone(show.want), func(want string) bool { return regexp.MustCompile(want).Match(out) })
				return err == nil && len(missing) == 0, fmt.Sprintf("%s\nhas no %q", out, missing)
			})
		})
	}
	t.Run("deleting the Service frees its addresses", func(t *testing.T) {
		start := time.Now()
		s.remove(t, &corev1.Service{ObjectMeta: s.service("web").ObjectMeta})
		s.until(t, 2*time.Second, "the end of its claims", func(ctx context.Context) (bool, string) {
			claims := s.claims(ctx, t)
			return len(claims) == 0, fmt.Sprint(claims)
		})
		t.Logf("freed after %v", time.Since(start).Round(time.Millisecond))
	})
}
