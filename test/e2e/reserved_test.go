// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/lab"
)

// reserved waits until the condition Reserved of the stage's pool names all of these texts.
func (s *stage) reserved(t *testing.T, reason string, texts ...string) {
	t.Helper()
	s.conditionOf(t, s.object(t, "AddressPool"), metav1.Condition{
		Type: ipamv1alpha1.ConditionReserved, Status: metav1.ConditionTrue, Reason: reason,
	}, texts...)
}

// The pool is the nodes' own subnet, as people write it. A Service gets nobody's address, whether it asks for one or not.
func TestAPoolOfTheNodesSubnetGivesNobodysAddress(t *testing.T) {
	s := newStage(t, dual)
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS}, spec: {autoAssign: false, avoidBuggyIPs: true,
  ipv4: {ranges: [198.51.100.0/24]}, ipv6: {ranges: ["2001:db8:51::/64"]}}}`)
	s.layer2(t)
	s.web(t, s.Nodes()...)
	s.reserved(
		t, ipamv1alpha1.ReasonReserved, "198.51.100.1 (default gateway of node1", "198.51.100.10 (endpoint of the API server)",
		"198.51.100.12 (address of Node node2)", "2001:db8:51:: (subnet-router anycast address of 2001:db8:51::/64",
	)
	for node, ip := range map[string]string{"node2": "198.51.100.12", "node3": "2001:db8:51::13"} {
		svc := with(s.service("wants-"+node, families(t, []string{ip})...), ipamv1alpha1.AnnotationLoadBalancerIPs, ip)
		s.add(t, svc)
		s.event(t, svc.Name, "SyncLoadBalancerFailed", ip, "address of Node "+node)
		s.says(t, svc.Name, ipamv1alpha1.ServiceConditionAllocated, metav1.ConditionFalse, "address of Node "+node)
	}
	s.add(t, with(s.service("web", v4, v6), ipamv1alpha1.AnnotationAddressPool, s.ns))
	ips := s.addresses(t, "web", 2)
	if want := []string{"198.51.100.2", "2001:db8:51::2"}; !slices.Equal(ips, want) {
		t.Errorf("addresses = %v, want %v: the first of the subnet and the router's are passed over", ips, want)
	}
	for _, ip := range ips {
		s.reach(t, lab.Client, ip, "/hostname")
		s.reach(t, lab.Ext, ip, "/hostname")
	}
	state, err := s.speaker(t.Context(), "node2")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(fmt.Sprint(state.Interfaces), "198.51.100.12/24") {
		t.Errorf("node2 has lost its own address: %+v", state.Interfaces)
	}
	if claims := s.claims(t.Context(), t); len(claims) != 2 {
		t.Errorf("claims = %v, want those of web alone", claims)
	}
}

// A Node joins that has an address of a Service. Nothing is taken away, and both are told.
func TestANodeJoinsWithAnAddressThatAServiceHas(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", lanIPv4)
	s.layer2(t)
	s.web(t, "node1")
	s.add(t, s.service("web", v4))
	ip := s.addresses(t, "web", 1)[0]
	s.reach(t, lab.Client, ip, "/hostname")
	s.add(t, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: s.ns, Annotations: map[string]string{cloudproviderapi.AnnotationAlphaProvidedIPAddr: ip}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{
			{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule},
		}},
	})
	s.event(t, "web", ipamv1alpha1.EventReservedAddress, ip, "Node "+s.ns)
	s.reserved(t, ipamv1alpha1.ReasonReservedInUse, ip+" reserved and in use", "address of Node "+s.ns)
	s.until(t, patience, "an event of the Node", func(ctx context.Context) (bool, string) {
		var list corev1.EventList
		if err := s.List(ctx, &list, client.MatchingFields{"involvedObject.name": s.ns}); err != nil {
			return false, err.Error()
		}
		return slices.ContainsFunc(list.Items, func(e corev1.Event) bool {
			return e.Reason == ipamv1alpha1.EventReservedAddress && strings.Contains(e.Message, ip)
		}), fmt.Sprint(len(list.Items), " other events")
	})
	if got := s.addresses(t, "web", 1)[0]; got != ip {
		t.Errorf("the Service has %s, want the %s that it had", got, ip)
	}
	s.reach(t, lab.Client, ip, "/hostname")
}

// Ranges of addresses that no Service can have are refused with the field, and a range that merely has some gives none of them.
func TestAddressesThatAreNoneAreNotGiven(t *testing.T) {
	s := newStage(t, dual)
	for name, spec := range map[string]string{
		"loopback":    `{ipv4: {ranges: [127.0.0.1/32]}}`,
		"unspecified": `{ipv4: {ranges: [0.0.0.0/32]}}`,
		"multicast":   `{ipv4: {ranges: [224.0.0.0/24]}}`,
		"class-e":     `{ipv4: {ranges: [240.0.0.0/8]}}`,
		"link-local":  `{ipv6: {ranges: ["fe80::/64"]}}`,
		"ipv4-mapped": `{ipv6: {ranges: ["::ffff:192.0.2.0/120"]}}`,
	} {
		pool := s.objects(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS-`+name+`}, spec: `+spec+`}`)[0]
		err := s.Create(t.Context(), pool)
		if err == nil {
			s.created = append(s.created, pool)
		}
		if err == nil || !strings.Contains(err.Error(), ".ranges[0]") {
			t.Errorf("a pool of %s addresses: %v, want a refusal that names the field", name, err)
		}
	}
	s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: AddressPool, metadata: {name: $NS}, spec: {autoAssign: false, ipv4: {ranges: [0.0.0.0/0]}}}`)
	s.reserved(t, ipamv1alpha1.ReasonReserved, "0.0.0.0 (unspecified address)", "0.0.0.1-0.255.255.255 (this network")
	s.add(t, with(s.service("everything", v4), ipamv1alpha1.AnnotationAddressPool, s.ns))
	if ip := s.addresses(t, "everything", 1)[0]; ip != "1.0.0.0" {
		t.Errorf("the Service got %s, want the first that a Service can have", ip)
	}
	for name, ip := range map[string]string{"loopback": "127.0.0.1", "multicast": "224.0.0.1", "dhcp": "0.0.0.0"} {
		svc := s.service(name, v4)
		svc.Spec.LoadBalancerIP = ip
		s.add(t, svc)
		s.event(t, name, "SyncLoadBalancerFailed", ip, map[string]string{
			"loopback": "loopback", "multicast": "multicast", "dhcp": "unspecified address",
		}[name])
	}
}
