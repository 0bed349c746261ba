// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// says waits until a condition of a Service has a status, and a message with a text.
func (s *stage) says(t *testing.T, service, condition string, status metav1.ConditionStatus, text string) {
	t.Helper()
	s.until(t, patience, fmt.Sprintf("%s=%s of %s with %q", condition, status, service, text), func(ctx context.Context) (bool, string) {
		var svc corev1.Service
		if err := s.Client.Get(ctx, client.ObjectKey{Namespace: s.ns, Name: service}, &svc); err != nil {
			return false, err.Error()
		}
		c := meta.FindStatusCondition(svc.Status.Conditions, condition)
		return c != nil && c.Status == status && strings.Contains(c.Message, text), fmt.Sprint(svc.Status.Conditions)
	})
}

// A Service whose pool is in no node's subnet says so, and the right advertisement turns the condition.
func TestAServiceSaysWhyItIsNotAnnounced(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.64/29")
	s.layer2(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4))
	ip := s.addresses(t, "web", 1)[0]
	reason := "no node has an interface in the subnet of " + ip
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, reason)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionTrue, ip+" from pool "+s.ns)
	s.event(t, "web", ipamv1alpha1.EventNotAnnounced, reason)
	s.bgp(t)
	s.kubectl(t, "wait", "-n", s.ns, "--for=condition="+ipamv1alpha1.ServiceConditionAnnounced, "service/web", "--timeout=30s")
	s.reach(t, lab.Ext, ip, "/hostname")
}

// The other reasons that a user meets first, each on a Service of its own.
func TestAServiceSaysWhatIsMissing(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "there is no L2Advertisement and no BGPAdvertisement")
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: L2Advertisement, metadata: {name: $NS-other}, spec: {addressPools: [another]}}`)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "no advertisement selects pool "+s.ns)
	nowhere := s.objects(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: L2Advertisement
metadata: {name: $NS-nowhere}
spec: {addressPools: [$NS], nodeSelectors: [{matchLabels: {node-role.kubernetes.io/edge: ""}}]}
`)[0]
	s.add(t, nowhere)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "nodeSelectors select no node")
	s.layer2(t)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "is announced on layer 2")
	s.remove(t, nowhere) // else it is the one that is said to be at fault
	s.followsNamespaces(t, "L2Advertisement", func(announced bool) {
		t.Helper()
		if announced {
			s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionTrue, "is announced on layer 2")
			s.reach(t, lab.Client, ips[0], "/hostname")
			return
		}
		s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "namespaceSelectors of L2Advertisement "+s.ns+" do not select namespace "+s.ns)
		s.until(t, patience, "silence of the LAN", func(ctx context.Context) (bool, string) {
			got := s.macs(ctx, ips[0])
			return len(got) == 0, fmt.Sprint(got)
		})
	})

	silent := s.service("silent", v4)
	silent.Spec.Selector = map[string]string{"app": "silent"}
	s.add(t, silent)
	s.says(t, "silent", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "no ready IPv4 endpoint")
}

// DHCPv6 gives hosts addresses of length 128, and a router tells them the subnet. Which prefix that is, no address of a node says.
func TestAServiceSaysWhichFamilyIsNotAnnounced(t *testing.T) {
	s := newStage(t, dual)
	for i, node := range s.Nodes() {
		address := fmt.Sprintf("2001:db8:77::1%d/128", i+1)
		if out, err := s.Command(t.Context(), node, "ip", "addr", "add", address, "dev", "eth0", "nodad").CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		t.Cleanup(func() { _ = s.Command(context.Background(), node, "ip", "addr", "del", address, "dev", "eth0").Run() })
	}
	s.pool(t, "", lanIPv4, "2001:db8:77::1000/124")
	s.layer2(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	reason := "no node has an interface in the subnet of " + ips[1]
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, reason)
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, ips[0]+" is announced on layer 2")
	s.event(t, "web", ipamv1alpha1.EventNotAnnounced, reason)
	s.reach(t, lab.Client, ips[0], "/hostname")
}

// Announced is what the speakers do, and not what is configured.
func TestAServiceSaysThatNoSpeakerRuns(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4, lanIPv6)
	s.layer2(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	announced := func() {
		t.Helper()
		s.kubectl(t, "wait", "-n", s.ns, "--for=condition="+ipamv1alpha1.ServiceConditionAnnounced, "service/web", "--timeout=30s")
	}
	announced()
	const speakers = "daemonset/tandem-speaker"
	s.kubectl(t, "patch", "-n", "tandem-system", speakers, "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"speaker": "none"}}}}}`)
	back := func() {
		s.kubectlAfter(t, "patch", "-n", "tandem-system", speakers, "-p", `{"spec": {"template": {"spec": {"nodeSelector": {"speaker": null}}}}}`)
		s.kubectlAfter(t, "rollout", "status", "-n", "tandem-system", speakers, "--timeout=90s")
	}
	restored := false
	t.Cleanup(func() {
		if !restored {
			back()
		}
	})
	for _, node := range s.Nodes() {
		s.until(t, patience, "the end of the speaker on "+node, func(context.Context) (bool, string) {
			p, err := s.process(node, programs["speaker"])
			return err != nil, fmt.Sprintf("process %d runs", p.pid)
		})
	}
	stopped := time.Now()
	s.says(t, "web", ipamv1alpha1.ServiceConditionAnnounced, metav1.ConditionFalse, "no speaker is alive")
	t.Logf("the Service said so %v after the last speaker had ended", time.Since(stopped).Round(time.Millisecond))
	if got := s.addresses(t, "web", 2); !slices.Equal(got, ips) {
		t.Errorf("addresses = %v, want %v as before", got, ips)
	}
	restored = true
	back()
	announced()
	s.reach(t, lab.Client, ips[0], "/hostname")
}
