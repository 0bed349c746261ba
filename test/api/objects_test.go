// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/json"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestDefinitions(t *testing.T) {
	var crds apiextensionsv1.CustomResourceDefinitionList
	if err := apiClient.List(t.Context(), &crds); err != nil {
		t.Fatal(err)
	}
	if want := 9; len(crds.Items) != want {
		t.Errorf("got %d definitions, want %d", len(crds.Items), want)
	}
	for _, crd := range crds.Items {
		if crd.Spec.Scope != apiextensionsv1.ClusterScoped {
			t.Errorf("%s is %s, want every kind to be cluster-scoped", crd.Name, crd.Spec.Scope)
		}
		for _, condition := range crd.Status.Conditions {
			good := condition.Type == apiextensionsv1.Established || condition.Type == apiextensionsv1.NamesAccepted
			if good != (condition.Status == apiextensionsv1.ConditionTrue) {
				t.Errorf("%s is %s=%s: %s", crd.Name, condition.Type, condition.Status, condition.Message)
			}
		}
	}
}

// TestNames checks that what users type after kubectl get means one thing only.
func TestNames(t *testing.T) {
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	_, lists, err := disco.ServerGroupsAndResources()
	if err != nil {
		t.Fatal(err)
	}
	groupOf := map[string]string{}
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			t.Fatal(err)
		}
		for _, resource := range list.APIResources {
			if strings.Contains(resource.Name, "/") {
				continue
			}
			for _, name := range append([]string{resource.Name, resource.SingularName}, resource.ShortNames...) {
				other, ok := groupOf[name]
				if ok && other != gv.Group && (other == ipamv1alpha1.GroupVersion.Group || gv.Group == ipamv1alpha1.GroupVersion.Group) {
					t.Errorf("%q is a name in both %q and %q", name, other, gv.Group)
				}
				groupOf[name] = gv.Group
			}
		}
	}
}

func TestDefaults(t *testing.T) {
	for _, test := range []struct {
		name, kind, object string
		// want is the spec as the API server stores it.
		want string
	}{
		{
			"a pool is used automatically and in sequence", "AddressPool", `spec: {ipv4: {ranges: [192.0.2.0/24]}}`,
			`spec: {allocation: Sequential, autoAssign: true, fixedAddresses: Allowed, ipv4: {ranges: [192.0.2.0/24]}}`,
		},
		{
			"a pool keeps what is said", "AddressPool",
			`spec: {allocation: Stable, autoAssign: false, fixedAddresses: Denied, reuseAfter: 10m, ipv6: {ranges: ["2001:db8::/64"]}}`,
			`spec: {allocation: Stable, autoAssign: false, fixedAddresses: Denied, reuseAfter: 10m, ipv6: {ranges: ["2001:db8::/64"]}}`,
		},
		{
			"a peer listens on port 179 and may be silent for 90s", "BGPPeer",
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, passwordSecret: {name: tor}, gracefulRestart: {}}`,
			`spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.1, passwordSecret: {name: tor, key: password},
			        gracefulRestart: {enabled: true, restartTime: 30s}, peerPort: 179, holdTime: 90s, connectTime: 5s}`,
		},
		{
			"a BGP advertisement without a spec aggregates nothing", "BGPAdvertisement", `{}`,
			`spec: {aggregationLength: 32, aggregationLengthV6: 128}`,
		},
		{
			"an interface advertisement aggregates nothing", "InterfaceAdvertisement", `spec: {interface: kube-lb0}`,
			`spec: {interface: kube-lb0, aggregationLength: 32, aggregationLengthV6: 128}`,
		},
		{
			"an interface advertisement without a spec aggregates nothing", "InterfaceAdvertisement", `{}`,
			`spec: {aggregationLength: 32, aggregationLengthV6: 128}`,
		},
		{
			"a BFD profile without a spec detects in 900 ms", "BFDProfile", `{}`,
			`spec: {receiveInterval: 300ms, transmitInterval: 300ms, detectMultiplier: 3, echoInterval: 50ms, minimumTTL: 254}`,
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			obj := object(t, test.kind, test.object)
			if err := tryCreate(t.Context(), obj); err != nil {
				t.Fatal(err)
			}
			want := object(t, test.kind, test.want)
			if diff := cmp.Diff(want.Object["spec"], obj.Object["spec"]); diff != "" {
				t.Errorf("spec (-want +got):\n%s", diff)
			}
		})
	}
}

// TestTypedDurations writes durations as Go does, which is not as users do: 90 s become 1m30s, and 1500 ms become 1.5s.
func TestTypedDurations(t *testing.T) {
	for _, obj := range []client.Object{
		&speakerv1alpha1.BGPPeer{
			ObjectMeta: metav1.ObjectMeta{Name: "typed"},
			Spec: speakerv1alpha1.BGPPeerSpec{
				MyASN: 64512, DynamicASN: speakerv1alpha1.DynamicASNExternal, Interface: "eth1",
				HoldTime:        &metav1.Duration{Duration: 90 * time.Second},
				KeepaliveTime:   &metav1.Duration{Duration: 30 * time.Second},
				ConnectTime:     &metav1.Duration{Duration: time.Hour},
				GracefulRestart: &speakerv1alpha1.GracefulRestart{RestartTime: &metav1.Duration{Duration: 4095 * time.Second}},
				Families:        []corev1.IPFamily{corev1.IPv6Protocol},
			},
		},
		&ipamv1alpha1.AddressPool{
			ObjectMeta: metav1.ObjectMeta{Name: "typed"},
			Spec: ipamv1alpha1.AddressPoolSpec{
				IPv4:       &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{"192.0.2.0/24"}},
				ReuseAfter: &metav1.Duration{Duration: 90*time.Minute + 1500*time.Millisecond},
			},
		},
		&speakerv1alpha1.L2Advertisement{
			ObjectMeta: metav1.ObjectMeta{Name: "typed"},
			Spec:       speakerv1alpha1.L2AdvertisementSpec{FailbackAfter: &metav1.Duration{Duration: 10 * time.Minute}},
		},
		&speakerv1alpha1.BFDProfile{
			ObjectMeta: metav1.ObjectMeta{Name: "typed"},
			Spec: speakerv1alpha1.BFDProfileSpec{
				ReceiveInterval:  &metav1.Duration{Duration: 10500 * time.Microsecond},
				TransmitInterval: &metav1.Duration{Duration: 1500 * time.Millisecond},
				EchoInterval:     &metav1.Duration{Duration: time.Minute},
			},
		},
	} {
		t.Run(fmt.Sprintf("%T", obj), func(t *testing.T) {
			if err := tryCreate(t.Context(), obj); err != nil {
				t.Errorf("was refused: %v", err)
			}
		})
	}
}

// condition is a condition as a controller writes it.
func condition(kind string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{
		Type: kind, Status: status, Reason: reason, Message: message, ObservedGeneration: 1,
		LastTransitionTime: metav1.Time{Time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)},
	}
}

// TestStatus checks who can write what: a status is out of reach for those who write a spec, and the other way round.
func TestStatus(t *testing.T) {
	pool := &ipamv1alpha1.AddressPool{
		ObjectMeta: metav1.ObjectMeta{Name: "counted"},
		Spec:       ipamv1alpha1.AddressPoolSpec{IPv6: &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{"2001:db8::/64"}}},
	}
	create(t, pool)
	want := ipamv1alpha1.AddressPoolStatus{
		IPv6:       &ipamv1alpha1.PartitionStatus{Capacity: math.MaxInt64, Allocated: 1, Available: math.MaxInt64},
		Conditions: []metav1.Condition{condition(ipamv1alpha1.ConditionReady, metav1.ConditionTrue, ipamv1alpha1.ReasonAvailable, "")},
	}
	pool.Status = want
	pool.Spec.AutoAssign = new(false)
	if err := apiClient.Status().Update(t.Context(), pool); err != nil {
		t.Fatalf("writing the status: %v", err)
	}
	pool.Status = ipamv1alpha1.AddressPoolStatus{}
	pool.Spec.Priority = new(int32(7))
	if err := apiClient.Update(t.Context(), pool); err != nil {
		t.Fatalf("writing the spec: %v", err)
	}
	if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(pool), pool); err != nil {
		t.Fatal(err)
	}
	for i := range pool.Status.Conditions {
		pool.Status.Conditions[i].LastTransitionTime.Time = pool.Status.Conditions[i].LastTransitionTime.UTC()
	}
	if diff := cmp.Diff(want, pool.Status); diff != "" {
		t.Errorf("status after both writes (-want +got):\n%s", diff)
	}
	if !*pool.Spec.AutoAssign || *pool.Spec.Priority != 7 {
		t.Errorf("got autoAssign %t and priority %d, want true, which the status cannot change, and 7", *pool.Spec.AutoAssign, *pool.Spec.Priority)
	}

	pool.Status.Conditions = append(pool.Status.Conditions, pool.Status.Conditions[0])
	got := causes(t, apiClient.Status().Update(t.Context(), pool))
	if len(got) != 1 || !strings.HasPrefix(got[0], "status.conditions[1]: Duplicate value") {
		t.Errorf("got refusals %q, want one of a condition written twice", got)
	}
}

// TestUpdates checks what an object that is good may become.
func TestUpdates(t *testing.T) {
	for _, test := range []struct {
		name, kind, before, after string
		wantError                 string
	}{
		{
			"a pool may be widened", "AddressPool",
			`spec: {ipv4: {ranges: [192.0.2.0/25]}}`, `spec: {ipv4: {ranges: [192.0.2.0/24]}}`, "",
		},
		{
			"a pool may change its family", "AddressPool",
			`spec: {ipv4: {ranges: [192.0.2.0/25]}}`, `spec: {ipv6: {ranges: ["2001:db8::/64"]}}`, "",
		},
		{
			"a pool may not become empty", "AddressPool",
			`spec: {ipv4: {ranges: [192.0.2.0/25]}}`, `spec: {autoAssign: false}`, "spec: the pool is empty",
		},
		{
			"a pool may not be given a bad range", "AddressPool",
			`spec: {ipv4: {ranges: [192.0.2.0/25]}}`, `spec: {ipv4: {ranges: [192.0.2.0/25, "2001:db8::/64"]}}`,
			"spec.ipv4.ranges[1]: is IPv6",
		},
		{
			"a hold time may not fall below three keepalive times", "BGPPeer",
			peer("holdTime: 90s, keepaliveTime: 30s"), peer("holdTime: 9s, keepaliveTime: 30s"), "spec.keepaliveTime: must be at least 1s",
		},
		{
			"an announcement may pass to another node", "L2Announcement",
			`{metadata: {name: a.b}, service: {namespace: a, name: b}, status: {node: node1}}`,
			`{metadata: {name: a.b}, service: {namespace: a, name: b}, status: {node: node2}}`, "",
		},
		{
			"an announcement may not pass to another Service", "L2Announcement",
			`{metadata: {name: a.b}, service: {namespace: a, name: b}}`, `{metadata: {name: a.b}, service: {namespace: a, name: c}}`,
			"metadata: name must be that of the Service",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			before := object(t, test.kind, test.before)
			create(t, before)
			after := object(t, test.kind, test.after)
			after.SetResourceVersion(before.GetResourceVersion())
			got := causes(t, apiClient.Update(t.Context(), after))
			field, message, _ := strings.Cut(test.wantError, ": ")
			switch {
			case test.wantError == "" && len(got) > 0:
				t.Errorf("was refused: %s", got)
			case test.wantError != "" && (len(got) != 1 || !strings.HasPrefix(got[0], field+": ") || !strings.Contains(got[0], message)):
				t.Errorf("got refusals %q, want exactly one: %s", got, test.wantError)
			}
		})
	}
}

// TestL2AnnouncementInOneWrite checks that a speaker records itself as a holder by creating the object, status and all.
func TestL2AnnouncementInOneWrite(t *testing.T) {
	want := speakerv1alpha1.L2AnnouncementStatus{
		Node: "node1", Addresses: []string{"192.0.2.1", "2001:db8::1"}, Interfaces: []string{"eth0"},
		Since: &metav1.MicroTime{Time: time.Date(2026, 1, 2, 3, 4, 5, 678901000, time.UTC)},
	}
	announcement := &speakerv1alpha1.L2Announcement{
		ObjectMeta: metav1.ObjectMeta{Name: "default.web"},
		Service:    speakerv1alpha1.ServiceReference{Namespace: "default", Name: "web"},
		Status:     want,
	}
	create(t, announcement)
	if err := apiClient.Get(t.Context(), client.ObjectKeyFromObject(announcement), announcement); err != nil {
		t.Fatal(err)
	}
	announcement.Status.Since.Time = announcement.Status.Since.UTC()
	if diff := cmp.Diff(want, announcement.Status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
}

// TestColumns checks what kubectl get shows, and what it adds with -o wide.
func TestColumns(t *testing.T) {
	disco, err := discovery.NewDiscoveryClientForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Name: "shown"}
	conditions := []metav1.Condition{condition("Ready", metav1.ConditionFalse, "Why", "what to do")}
	selection := speakerv1alpha1.Selection{AddressPools: []string{"lan", "production-ipv4", "production-ipv6"}}
	status := speakerv1alpha1.ConfigStatus{Conditions: conditions}
	for resource, test := range map[string]struct {
		obj  client.Object
		want string
	}{
		"addresspools": {
			&ipamv1alpha1.AddressPool{
				ObjectMeta: meta,
				Spec: ipamv1alpha1.AddressPoolSpec{
					IPv4:     &ipamv1alpha1.IPv4Partition{Ranges: []ipamv1alpha1.IPv4Range{"198.51.100.200-198.51.100.239", "192.0.2.0/24"}},
					IPv6:     &ipamv1alpha1.IPv6Partition{Ranges: []ipamv1alpha1.IPv6Range{"2001:db8:51::1000/116", "2001:db8:52::1-2001:db8:52::ff"}},
					Priority: new(int32(7)),
				},
				Status: ipamv1alpha1.AddressPoolStatus{
					IPv4:       &ipamv1alpha1.PartitionStatus{Capacity: 257, Allocated: 2, Available: 255},
					IPv6:       &ipamv1alpha1.PartitionStatus{Capacity: math.MaxInt64, Allocated: 1, Available: math.MaxInt64},
					Conditions: conditions,
				},
			},
			`Name=shown, IPv4=198.51.100.200-198..., +1 more, IPv4 Free=255/257, IPv6=2001:db8:51::1000/116, +1 more, IPv6 Free=>9.2e18, ` +
				`Ready=False, Age=…; wide: Auto-Assign=true, IPv4 Used=2, IPv6 Used=1, Priority=7, Message=what to do`,
		},
		"l2advertisements": {
			&speakerv1alpha1.L2Advertisement{
				ObjectMeta: meta, Status: status,
				Spec: speakerv1alpha1.L2AdvertisementSpec{
					Selection: selection, Interfaces: []speakerv1alpha1.InterfacePattern{"eth0", "bond*"},
				},
			},
			`Name=shown, Pools=lan, +2 more, Interfaces=eth0, bond*, Ready=False, Effective=<nil>, Reason=Why, Age=…; ` +
				`wide: Message=what to do, Effect=<nil>`,
		},
		"bgppeers": {
			&speakerv1alpha1.BGPPeer{
				ObjectMeta: meta, Status: status,
				Spec: speakerv1alpha1.BGPPeerSpec{
					MyASN: 4200000000, PeerASN: 4200000001, PeerAddress: "2001:db8:51::1", Interface: "eth1", BFDProfile: "fast",
				},
			},
			`Name=shown, Peer=2001:db8:51::1%eth1, My ASN=4200000000, Peer ASN=4200000001, Established=<nil>, BFD=fast, ` +
				`Ready=False, Reason=Why, Age=…; wide: Message=what to do`,
		},
		"bgpadvertisements": {
			&speakerv1alpha1.BGPAdvertisement{
				ObjectMeta: meta, Status: status,
				Spec: speakerv1alpha1.BGPAdvertisementSpec{
					Selection: selection, Peers: []string{"tor1"}, Communities: []speakerv1alpha1.CommunityReference{"no-export"},
				},
			},
			`Name=shown, Pools=lan, +2 more, Peers=tor1, Ready=False, Effective=<nil>, Reason=Why, Age=…; ` +
				`wide: Message=what to do, Communities=no-export, Effect=<nil>`,
		},
		"communities": {
			&speakerv1alpha1.Community{
				ObjectMeta: meta, Status: status,
				Spec: speakerv1alpha1.CommunitySpec{Communities: []speakerv1alpha1.NamedCommunity{
					{Name: "a", Value: "1:2"}, {Name: "b", Value: "large:1:2:3"},
				}},
			},
			`Name=shown, Communities=a=1:2, b=large:1:2:3, Ready=False, Reason=Why, Age=…; wide: Message=what to do`,
		},
		"bfdprofiles": {
			&speakerv1alpha1.BFDProfile{ObjectMeta: meta, Status: status},
			`Name=shown, Receive=300ms, Transmit=300ms, Multiplier=3, Ready=False, Reason=Why, Age=…; wide: Message=what to do`,
		},
		"interfaceadvertisements": {
			&speakerv1alpha1.InterfaceAdvertisement{
				ObjectMeta: meta, Status: status,
				Spec: speakerv1alpha1.InterfaceAdvertisementSpec{Selection: selection, Interface: "kube-lb0"},
			},
			`Name=shown, Pools=lan, +2 more, Interface=kube-lb0, Ready=False, Reason=Why, Age=…; wide: Message=what to do`,
		},
		"speakerstatuses": {
			&speakerv1alpha1.SpeakerStatus{ObjectMeta: meta, Status: speakerv1alpha1.SpeakerState{
				Addresses:  []string{"198.51.100.11", "2001:db8:51::11"},
				Interfaces: []speakerv1alpha1.InterfaceState{{Name: "eth0", MAC: "02:00:00:00:00:01", Usable: true}},
				BGPSessions: []speakerv1alpha1.BGPSession{
					{Peer: "tor1", State: speakerv1alpha1.BGPEstablished, AdvertisedIPv4: 1}, {Peer: "tor2", State: speakerv1alpha1.BGPIdle},
				},
				Conditions: conditions,
			}},
			`Name=shown, Addresses=198.51.100.11, 2001:db8:51::11, BGP=1/2, Ready=False, Reason=Why, Age=…; ` +
				`wide: Message=what to do, BGP Sessions=tor1 Established, tor2 Idle`,
		},
		"l2announcements": {
			&speakerv1alpha1.L2Announcement{
				ObjectMeta: metav1.ObjectMeta{Name: "default.shown"},
				Service:    speakerv1alpha1.ServiceReference{Namespace: "default", Name: "shown"},
				Spec:       speakerv1alpha1.L2AnnouncementSpec{Target: "node2"},
				Status: speakerv1alpha1.L2AnnouncementStatus{
					Node: "node1", Addresses: []string{"192.0.2.1", "2001:db8::1"}, Interfaces: []string{"eth0"},
					Since: &metav1.MicroTime{Time: time.Now()},
				},
			},
			`Name=default.shown, Node=node1, Address=192.0.2.1, Second Address=2001:db8::1, Since=…; ` +
				`wide: Interface=eth0, Second Interface=<nil>, Target=node2, Age=…`,
		},
	} {
		t.Run(resource, func(t *testing.T) {
			withStatus := test.obj.DeepCopyObject().(client.Object)
			switch obj := withStatus.(type) {
			case *speakerv1alpha1.SpeakerStatus:
				obj.Status.Summarize()
			case interface{ Summarize() }:
				obj.Summarize()
			}
			create(t, test.obj)
			if resource != "l2announcements" {
				withStatus.SetResourceVersion(test.obj.GetResourceVersion())
				if err := apiClient.Status().Update(t.Context(), withStatus); err != nil {
					t.Fatalf("writing the status: %v", err)
				}
			}
			if diff := cmp.Diff(test.want, shown(t, disco.RESTClient(), resource, test.obj.GetName())); diff != "" {
				t.Errorf("columns (-want +got):\n%s", diff)
			}
		})
	}
}

// shown returns the columns of an object as "Column=cell, …; wide: Column=cell, …". Ages are not told. It checks that a line has at most
// 120 characters with a name of 15, and no JSON.
func shown(t *testing.T, server rest.Interface, resource, name string) string {
	t.Helper()
	answer, err := server.Get().AbsPath("/apis", ipamv1alpha1.GroupVersion.String(), resource, name).
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(t.Context()).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(answer, &table); err != nil {
		t.Fatal(err)
	}
	if len(table.Rows) != 1 {
		t.Fatalf("got %d rows, want 1", len(table.Rows))
	}
	var narrow, wide []string
	width := -len("   ")
	for i, column := range table.ColumnDefinitions {
		cell := fmt.Sprint(table.Rows[0].Cells[i])
		if n, ok := table.Rows[0].Cells[i].(int64); ok {
			cell = strconv.FormatInt(n, 10)
		}
		if column.Type == "date" {
			cell = "…"
		}
		if strings.ContainsAny(cell, "[{") {
			t.Errorf("column %s shows JSON: %s", column.Name, cell)
		}
		if column.Priority == 0 {
			width += len("   ") + max(len(column.Name), len(cell), map[string]int{"Name": 15, "Reason": 16}[column.Name])
			narrow = append(narrow, column.Name+"="+cell)
		} else {
			wide = append(wide, column.Name+"="+cell)
		}
	}
	if width > 120 {
		t.Errorf("a line has %d characters, want 120 at most", width)
	}
	return strings.Join(narrow, ", ") + "; wide: " + strings.Join(wide, ", ")
}
