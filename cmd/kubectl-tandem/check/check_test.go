// SPDX-License-Identifier: Apache-2.0

package check

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	kubefake "k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const v4 = "198.51.100.200"

var everywhere = []string{"node1", "node2", "node3"}

// condition returns a condition with what a test says of it.
func condition(of string, status metav1.ConditionStatus, reason, message string) metav1.Condition {
	return metav1.Condition{Type: of, Status: status, Reason: reason, Message: message}
}

// healthy returns the objects of a cluster with which all is well.
func healthy(t *testing.T) []client.Object {
	objects := append(fixture.LAN(), fixture.Service("web", "node1", everywhere, v4)...)
	fixture.Find[*ipamv1alpha1.AddressPool](t, objects, "lan").Status.Conditions = []metav1.Condition{condition("Ready", "True", "Available", "")}
	fixture.Find[*v1alpha1.L2Advertisement](t, objects, "lan").Status.Conditions = []metav1.Condition{
		condition("Ready", "True", "Accepted", ""), condition("Effective", "True", "Effective", ""),
	}
	fixture.Find[*corev1.Service](t, objects, "web").Status.Conditions = []metav1.Condition{
		condition(ipamv1alpha1.ServiceConditionAllocated, "True", "Allocated", ""), condition(ipamv1alpha1.ServiceConditionAnnounced, "True", "Announced", ""),
	}
	return objects
}

// pod returns the template of a Pod with one container.
func pod(image string, args ...string) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{Spec: corev1.PodSpec{Containers: []corev1.Container{{Image: image, Args: args}}}}
}

// input returns what is read of a cluster with which all is well.
func input(t *testing.T, objects []client.Object) *Input {
	in := &Input{
		State: fixture.State(t, objects...), Kubernetes: "v1.36.3", Plugin: "v0.1.0+abc", Kinds: resources,
		Deployment: &appsv1.Deployment{
			Spec:   appsv1.DeploymentSpec{Template: pod("ghcr.io/tandem-lb/cloud-controller-manager:v0.1.0", "--controllers=service-lb-controller")},
			Status: appsv1.DeploymentStatus{Replicas: 1, UpdatedReplicas: 1, AvailableReplicas: 1},
		},
		DaemonSet: &appsv1.DaemonSet{
			Spec:   appsv1.DaemonSetSpec{Template: pod("ghcr.io/tandem-lb/speaker:v0.1.0")},
			Status: appsv1.DaemonSetStatus{DesiredNumberScheduled: 3, UpdatedNumberScheduled: 3, NumberAvailable: 3},
		},
		Workloads: []Workload{{Kind: "DaemonSet", Namespace: "kube-flannel", Name: "kube-flannel-ds", Images: []string{"ghcr.io/flannel-io/flannel:v0.27"}}},
		Networks:  map[netip.Prefix]string{netip.MustParsePrefix("10.96.0.0/16"): "ClusterIPs"},
		Facts:     map[string]lookingglass.Facts{}, FactsErrs: map[string]error{},
	}
	for _, node := range everywhere {
		in.Facts[node] = lookingglass.Facts{Version: "v0.1.0+abc", KubeProxyMode: "nftables", Sysctls: map[string]string{
			"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "1", "net.ipv4.conf.all.rp_filter": "0", "net.ipv4.conf.eth0.rp_filter": "1",
		}, Routes: map[string]string{"198.51.100.11": "eth0", "198.51.100.12": "eth0", "198.51.100.13": "eth0"}, DefaultRoute: []string{"eth0"}}
	}
	in.Heard = []Heard{heard(reachability.Station{MAC: "02:00:00:00:01:11", Node: "node1"})}
	return in
}

// heard is what node2 heard when it asked for the address of web, which node1 holds.
func heard(stations ...reachability.Station) Heard {
	return Heard{Question: Question{netip.MustParseAddr(v4), "default.web", "node1", "eth0"}, Asker: "node2", Stations: stations}
}

// A cluster with which all is well passes each step but those of what it has not.
func TestHealthy(t *testing.T) {
	for _, s := range Run(input(t, healthy(t))) {
		if want := map[bool]Result{true: Skip, false: Pass}[s.Name == "BGP sessions" || s.Name == "routers"]; s.Result != want || s.Fix != "" {
			t.Errorf("%+v, want %s", s, want)
		}
	}
}

func TestFaults(t *testing.T) {
	speaker := func(t *testing.T, objects []client.Object, change func(*v1alpha1.SpeakerState)) {
		change(&fixture.Find[*v1alpha1.SpeakerStatus](t, objects, "node2").Status)
	}
	says := func(of string, status metav1.ConditionStatus, message string) func(*testing.T, []client.Object) []client.Object {
		return func(t *testing.T, objects []client.Object) []client.Object {
			speaker(t, objects, func(s *v1alpha1.SpeakerState) {
				meta.SetStatusCondition(&s.Conditions, condition(of, status, "Reason", message))
			})
			return objects
		}
	}
	bgp := func(change func(*v1alpha1.BGPSession)) func(*testing.T, []client.Object) []client.Object {
		return func(t *testing.T, objects []client.Object) []client.Object {
			session := v1alpha1.BGPSession{
				Peer: "tor1", State: v1alpha1.BGPEstablished, Families: []corev1.IPFamily{corev1.IPv4Protocol}, AdvertisedIPv4: 1, GracefulRestart: true,
			}
			change(&session)
			speaker(t, objects, func(s *v1alpha1.SpeakerState) { s.BGPSessions = []v1alpha1.BGPSession{session} })
			return append(objects, &v1alpha1.BGPPeer{
				ObjectMeta: metav1.ObjectMeta{Name: "tor1"},
				Spec: v1alpha1.BGPPeerSpec{
					MyASN: 64512, PeerASN: 64513, PeerAddress: "198.51.100.1", GracefulRestart: &v1alpha1.GracefulRestart{Enabled: new(true)},
				},
				Status: v1alpha1.ConfigStatus{Conditions: []metav1.Condition{condition("Ready", "True", "Accepted", "")}},
			}, &v1alpha1.BGPAdvertisement{ObjectMeta: metav1.ObjectMeta{Name: "all"}, Status: v1alpha1.ConfigStatus{Conditions: []metav1.Condition{
				condition("Ready", "True", "Accepted", ""),
			}}})
		}
	}
	// silent takes a condition from speakers.
	silent := func(of string, nodes ...string) func(*testing.T, []client.Object) []client.Object {
		return func(t *testing.T, objects []client.Object) []client.Object {
			for _, node := range nodes {
				meta.RemoveStatusCondition(&fixture.Find[*v1alpha1.SpeakerStatus](t, objects, node).Status.Conditions, of)
			}
			return objects
		}
	}
	forbidden := error(apierrors.NewForbidden(schema.GroupResource{}, "", nil))
	notFound := error(apierrors.NewNotFound(schema.GroupResource{}, ""))
	for _, tt := range []struct {
		name   string
		change func(*testing.T, []client.Object) []client.Object
		in     func(*Input)
		step   string
		want   Result
		says   string // in the message or the fix
	}{
		{
			name: "a holder that the LAN does not hear", change: says(v1alpha1.ConditionAddressesAnswer, "False", "node node1 does not answer for "+v4),
			step: "addresses", want: Fail, says: "node2: node node1 does not answer for " + v4 + " kubectl tandem why",
		},
		{
			name: "a speaker that has no address to ask for", change: says(v1alpha1.ConditionAddressesAnswer, "Unknown", "asked for none"),
			step: "addresses", want: Pass, says: "as other nodes ask",
		},
		{name: "a kind is missing", in: func(in *Input) { in.Kinds = in.Kinds[1:] }, step: "kinds", want: Fail, says: "addresspools is not served"},
		{name: "no kind is there", in: func(in *Input) { in.KindsErr = notFound }, step: "kinds", want: Fail, says: "crds.yaml"},
		{name: "the API server does not tell its kinds", in: func(in *Input) { in.KindsErr = errors.New("refused") }, step: "kinds", want: Skip, says: "refused"},
		{name: "an old API server", in: func(in *Input) { in.Kubernetes = "v1.31.2+k3s1" }, step: "Kubernetes", want: Fail, says: "1.33"},
		{name: "a new API server", in: func(in *Input) { in.Kubernetes = "v1.40.0" }, step: "Kubernetes", want: Warn, says: "newer"},
		{name: "no rights", in: func(in *Input) { in.State, in.StateErr = nil, forbidden }, step: "reading", want: Fail, says: "tandem-view"},
		{
			name: "no connection", in: func(in *Input) { in.State, in.StateErr = nil, errors.New("refused") },
			step: "reading", want: Fail, says: "refused kubectl cluster-info",
		},
		{
			name: "nothing to read", in: func(in *Input) { in.State, in.StateErr, in.KindsErr = nil, notFound, notFound },
			step: "reading", want: Fail, says: "install the CRDs",
		},
		{name: "no controller manager", in: func(in *Input) { in.Deployment = nil }, step: "controller manager", want: Fail, says: "--tandem-namespace"},
		{
			name: "the controller manager is down", in: func(in *Input) { in.Deployment.Status.AvailableReplicas = 0 },
			step: "controller manager", want: Fail, says: "no replica",
		},
		{name: "a speaker is missing", in: func(in *Input) { in.DaemonSet.Status.NumberAvailable = 2 }, step: "speakers run", want: Fail, says: "2 of 3"},
		{
			name: "an older speaker", in: func(in *Input) { in.Facts["node1"] = lookingglass.Facts{Version: "v0.0.9"} },
			step: "versions", want: Warn, says: "speaker of node1 has v0.0.9",
		},
		{name: "a plugin of no release", in: func(in *Input) { in.Plugin = "v0.0.0-master+$Format:%H$" }, step: "versions", want: Pass},
		{name: "a plugin that is far ahead", in: func(in *Input) { in.Plugin = "v0.3.0" }, step: "versions", want: Fail, says: "docs/upgrading.md"},
		{
			name: "a kubelet waits for a cloud provider", step: "mode", want: Fail, says: "node1 waits",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Spec.Taints = []corev1.Taint{{Key: "node.cloudprovider.kubernetes.io/uninitialized", Effect: "NoSchedule"}}
				return objects
			},
		},
		{
			name: "another provider's nodes", step: "mode", want: Warn, says: "aws:///x",
			in: func(in *Input) { in.Deployment.Spec.Template = pod("x:v0.1.0") },
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Spec.ProviderID = "aws:///x"
				return objects
			},
		},
		{
			name: "a node is drained", step: "nodes that may announce", want: Warn, says: "node1 is drained",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Annotations = map[string]string{ipamv1alpha1.AnnotationDrain: "true"}
				return objects
			},
		},
		{
			name: "a label that excludes a node is ignored", step: "nodes that may announce", want: Pass,
			says: "3 of 3 nodes; the label that excludes them is ignored (--ignore-exclude-label): node1",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Labels[corev1.LabelNodeExcludeBalancers] = ""
				speaker := fixture.Find[*v1alpha1.SpeakerStatus](t, objects, "node1")
				speaker.Status.Conditions = append(slices.DeleteFunc(speaker.Status.Conditions, func(c metav1.Condition) bool {
					return c.Type == v1alpha1.ConditionDraining
				}), metav1.Condition{Type: v1alpha1.ConditionDraining, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonExcludeLabelIgnored})
				return objects
			},
		},
		{
			name: "a speaker is dead", step: "speakers alive", want: Fail, says: "node4",
			change: func(_ *testing.T, objects []client.Object) []client.Object {
				for _, o := range objects {
					if strings.HasPrefix(o.GetName(), "tandem-speaker.") {
						o.SetAnnotations(map[string]string{"tandem-lb.io/dead-speakers": "node4"})
					}
				}
				return append(objects, fixture.Node(4), fixture.Speaker(4))
			},
		},
		{name: "a speaker is not ready", change: says("Ready", "False", "it cannot"), step: "speakers ready", want: Fail, says: "node2: it cannot"},
		{name: "the gossip port is closed", change: says("PeersReachable", "False", "node1"), step: "gossip", want: Fail, says: "7573"},
		{name: "a speaker does not say", change: silent("PeersReachable", "node2"), step: "gossip", want: Skip, says: "1 of 3 speakers do not say: node2"},
		{name: "a speaker does not know", change: says("KernelAnswers", "Unknown", ""), step: "one answer", want: Skip, says: "do not say: node2"},
		{name: "a speaker says nothing of its links", change: silent("IsolatedFromLAN", "node3"), step: "links", want: Skip, says: "do not say: node3"},
		{name: "no speaker says anything of links", change: silent("IsolatedFromLAN", everywhere...), step: "links", want: Skip, says: "no speaker says so"},
		{
			name: "one speaker fails and one does not say", step: "gossip", want: Fail, says: "node2: node1; 1 of 3 speakers do not say: node3",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				return silent("PeersReachable", "node3")(t, says("PeersReachable", "False", "node1")(t, objects))
			},
		},
		{name: "Nodes have no podCIDR", step: "pools and networks", want: Pass, says: "the network of Pods is not known"},
		{
			name: "Nodes have a podCIDR", step: "pools and networks", want: Pass, says: "the network of Pods or ClusterIPs",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Node](t, objects, "node1").Spec.PodCIDRs = []string{"10.244.0.0/24"}
				return objects
			},
		},
		{
			name: "ServiceCIDRs may not be read", step: "pools and networks", want: Skip, says: "ClusterIPs is not known: forbidden",
			in: func(in *Input) { in.ServiceCIDRsErr = forbidden },
		},
		{
			name: "a pool in the network of Pods, and ServiceCIDRs may not be read", step: "pools and networks", want: Fail, says: "198.51.100.0/24",
			in: func(in *Input) {
				in.Networks[netip.MustParsePrefix("198.51.100.0/24")], in.ServiceCIDRsErr = "Pods", forbidden
			},
		},
		{
			name: "static Pods may not be read", step: "other load balancers", want: Skip, says: "kube-system could not be read: forbidden",
			in: func(in *Input) { in.StaticPodsErr = forbidden },
		},
		{
			name: "the configuration of Cilium may not be read", step: "pod network", want: Skip, says: "Cilium announces is not known: forbidden",
			in: func(in *Input) {
				in.Workloads, in.CiliumErr = []Workload{{Kind: "DaemonSet", Images: []string{"quay.io/cilium/cilium:v1.20"}}}, forbidden
			},
		},
		{name: "a cable is out", change: says("IsolatedFromLAN", "True", "by eth0"), step: "links", want: Fail, says: "by eth0"},
		{
			name: "another machine has the address", step: "links", want: Fail, says: "02:00:00:00:09:09",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				speaker(t, objects, func(s *v1alpha1.SpeakerState) {
					s.Conflicts = []v1alpha1.AddressConflict{{Address: v4, Interface: "eth0", MAC: "02:00:00:00:09:09"}}
				})
				return objects
			},
		},
		{name: "IPVS without strictARP", change: says("KernelAnswers", "True", "kube-ipvs0"), step: "one answer", want: Fail, says: "strictARP"},
		{
			name: "an advertisement is invalid", step: "configuration", want: Fail, says: "L2Advertisement lan: spec.x",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*v1alpha1.L2Advertisement](t, objects, "lan").Status.Conditions[0] = condition("Ready", "False", "Invalid", "spec.x")
				return objects
			},
		},
		{
			name: "an advertisement has no node", step: "advertisements", want: Fail, says: "no node",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*v1alpha1.L2Advertisement](t, objects, "lan").Status.Conditions[1] = condition("Effective", "False", "NoNode", "no node")
				return objects
			},
		},
		{
			name: "a session is down", step: "BGP sessions", want: Fail, says: "node2 with tor1 is Active: connection refused",
			change: bgp(func(s *v1alpha1.BGPSession) { s.State, s.LastError = v1alpha1.BGPActive, "connection refused" }),
		},
		{
			name: "the router withholds a family", step: "routers", want: Fail, says: "2 prefixes not sent: no IPv6",
			change: bgp(func(s *v1alpha1.BGPSession) { s.Withheld, s.LastError = 2, "no IPv6" }),
		},
		{
			name: "the router has not agreed to graceful restart", step: "routers", want: Warn, says: "graceful restart",
			change: bgp(func(s *v1alpha1.BGPSession) { s.GracefulRestart = false }),
		},
		{name: "BFD is down", step: "routers", want: Warn, says: "BFD is Down", change: bgp(func(s *v1alpha1.BGPSession) { s.BFD = "Down" })},
		{name: "a session that carries all", step: "routers", want: Pass, change: bgp(func(*v1alpha1.BGPSession) {})},
		{
			name: "a pool is exhausted", step: "pools", want: Warn, says: "no free IPv4",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*ipamv1alpha1.AddressPool](t, objects, "lan").Status.Conditions[0] = condition("Ready", "False", "Exhausted", "no free IPv4")
				return objects
			},
		},
		{
			name: "a pool that nobody advertises", step: "pools", want: Fail, says: "no advertisement selects pool lan",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*v1alpha1.L2Advertisement](t, objects, "lan").Spec.AddressPools = []string{"other"}
				return objects
			},
		},
		{
			name: "a pool in the network of ClusterIPs", step: "pools and networks", want: Fail, says: "in 198.51.100.0/24, the network of Pods",
			in: func(in *Input) { in.Networks[netip.MustParsePrefix("198.51.100.0/24")] = "Pods" },
		},
		{
			name: "a pool of no subnet of a node", step: "pools and networks", want: Fail, says: "192.0.2.1-192.0.2.9 of pool lan",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*ipamv1alpha1.AddressPool](t, objects, "lan").Spec.IPv4.Ranges = []ipamv1alpha1.IPv4Range{"192.0.2.1-192.0.2.9"}
				return objects
			},
		},
		{
			name: "a Service without an address", step: "Services", want: Fail, says: "default/web: no free address",
			change: func(t *testing.T, objects []client.Object) []client.Object {
				fixture.Find[*corev1.Service](t, objects, "web").Status.Conditions[0] = condition(ipamv1alpha1.ServiceConditionAllocated, "False", "NotAllocated", "no free address")
				return objects
			},
		},
		{
			name: "a node does not forward", step: "sysctls", want: Fail, says: "node3: net.ipv4.ip_forward is 0",
			in: func(in *Input) { in.Facts["node3"].Sysctls["net.ipv4.ip_forward"] = "0" },
		},
		{
			name: "strict rp_filter, and the way back to another node is by another interface", step: "sysctls", want: Warn,
			says: "node1: net.ipv4.conf.eth0.rp_filter is 1 (strict), and drops what node2 (198.51.100.12) sends by eth0, since the way back is by fab0 set",
			in:   func(in *Input) { in.Facts["node1"].Routes["198.51.100.12"] = "fab0" },
		},
		{
			name: "loose rp_filter, and the way back to another node is by another interface", step: "sysctls", want: Pass, says: "all nodes forward",
			in: func(in *Input) {
				in.Facts["node1"].Routes["198.51.100.12"], in.Facts["node1"].Sysctls["net.ipv4.conf.all.rp_filter"] = "fab0", "2"
			},
		},
		{
			name: "strict rp_filter, and the default route is by another interface", step: "sysctls", want: Warn,
			says: "node2: net.ipv4.conf.eth0.rp_filter is 1 (strict), and drops what comes from behind 198.51.100.1 by eth0, unless a route to its sender is by " +
				"eth0 too: the default route is by wg0",
			in: func(in *Input) {
				facts := in.Facts["node2"]
				facts.DefaultRoute = []string{"wg0"}
				in.Facts["node2"] = facts
			},
		},
		{
			name: "strict rp_filter on a link by which a BGP peer sends", step: "sysctls", want: Warn, says: "net.ipv4.conf.eth1/7.rp_filter is 1 (strict), and drops what comes from behind 192.0.2.1 by eth1.7",
			in: func(in *Input) { in.Facts["node2"].Sysctls["net.ipv4.conf.eth1/7.rp_filter"] = "1" },
			change: func(t *testing.T, objects []client.Object) []client.Object {
				speaker(t, objects, func(s *v1alpha1.SpeakerState) {
					s.Interfaces = append(s.Interfaces, v1alpha1.InterfaceState{Name: "eth1.7", Usable: true, Addresses: []string{"192.0.2.12/24"}})
					s.BGPSessions = []v1alpha1.BGPSession{{Peer: "tor1", Address: "192.0.2.1", State: v1alpha1.BGPEstablished}}
				})
				return objects
			},
		},
		{
			name: "strict rp_filter on a link of its own, and on the bridge of Pods", step: "sysctls", want: Pass, says: "all nodes forward",
			in: func(in *Input) {
				in.Facts["node1"].Sysctls["net.ipv4.conf.all.rp_filter"] = "1"
				in.Facts["node1"].Routes["192.0.2.12"] = "eth1"
			},
			change: func(t *testing.T, objects []client.Object) []client.Object {
				for i, node := range everywhere {
					status := &fixture.Find[*v1alpha1.SpeakerStatus](t, objects, node).Status
					status.Interfaces = append(status.Interfaces,
						v1alpha1.InterfaceState{Name: "eth1", Usable: true, Addresses: []string{fmt.Sprintf("192.0.2.%d/24", 11+i)}},
						v1alpha1.InterfaceState{Name: "cni0", Usable: true, Addresses: []string{fmt.Sprintf("10.244.%d.1/24", 1+i)}})
				}
				return objects
			},
		},
		{
			name: "strict rp_filter, and a speaker that does not tell routes", step: "sysctls", want: Pass, says: "does harm is not known of node1",
			in: func(in *Input) {
				facts := in.Facts["node1"]
				facts.Routes, facts.DefaultRoute = nil, nil
				in.Facts["node1"] = facts
			},
		},
		{name: "one answer on the LAN", step: "neighbours", want: Pass, says: "the holders alone answer for 1 address"},
		{
			name: "two answers on the LAN", step: "neighbours", want: Fail,
			says: v4 + ": node2 hears 02:00:00:00:00:7f and 02:00:00:00:01:13 of node3 answer for it, beside node1, which holds it find the MAC",
			in: func(in *Input) {
				in.Heard = []Heard{heard(in.Heard[0].Stations[0], reachability.Station{MAC: "02:00:00:00:00:7f"}, reachability.Station{MAC: "02:00:00:00:01:13", Node: "node3"})}
			},
		},
		{
			name: "another machine in the place of the holder", step: "neighbours", want: Fail, says: "02:00:00:00:00:7f answer for it, in the place of node1",
			in: func(in *Input) { in.Heard = []Heard{heard(reachability.Station{MAC: "02:00:00:00:00:7f"})} },
		},
		{
			name: "nobody answers", step: "neighbours", want: Fail, says: "node2 hears nobody answer for it, and node1 holds it",
			in: func(in *Input) { in.Heard = []Heard{heard()} },
		},
		{
			name: "some that could not be asked for, and too many", step: "neighbours", want: Pass,
			says: "the holders alone answer for 1 address; for 7 more nobody was asked; 1 could not be asked for: 429",
			in: func(in *Input) {
				unknown := heard()
				unknown.Err = errors.New("429")
				in.Heard, in.Unheard = append(in.Heard, unknown), 7
			},
		},
		{
			name: "none that could be asked for", step: "neighbours", want: Skip, says: "no speaker could ask: 429",
			in: func(in *Input) { in.Heard[0].Err = errors.New("429") },
		},
		{name: "nothing on layer 2", step: "neighbours", want: Skip, says: "no address on layer 2", in: func(in *Input) { in.Heard = nil }},
		{
			name: "no speaker was asked for neighbours", step: "neighbours", want: Skip, says: "no speaker was asked",
			in: func(in *Input) { in.Heard, in.Facts = nil, nil },
		},
		{
			name: "no speaker can be asked", step: "sysctls", want: Skip, says: "no right",
			in: func(in *Input) { in.Facts, in.FactsErrs = nil, map[string]error{"node1": errors.New("no right")} },
		},
		{
			name: "kube-proxy in IPVS mode", step: "kube-proxy", want: Fail, says: "node1: ipvs without strictARP",
			in: func(in *Input) {
				in.Facts["node1"] = lookingglass.Facts{KubeProxyMode: "ipvs", Version: "v0.1.0"}
				in.KubeProxy = "mode: \"ipvs\"\nipvs:\n  strictARP: false\n"
			},
		},
		{
			name: "kube-proxy does not run on one node", step: "kube-proxy", want: Fail, says: "127.0.0.1:10249 of node1, and kube-proxy does on the other nodes",
			in: func(in *Input) { in.Facts["node1"] = lookingglass.Facts{Version: "v0.1.0"} },
		},
		{
			name: "kube-proxy does not tell its mode on one node", step: "kube-proxy", want: Warn, says: "node1: 403",
			in: func(in *Input) { in.Facts["node1"] = lookingglass.Facts{Version: "v0.1.0", KubeProxyError: "403"} },
		},
		{
			name: "kube-proxy by its ConfigMap", step: "kube-proxy", want: Pass, says: "nftables",
			in: func(in *Input) { in.Facts, in.KubeProxy = nil, "mode: nftables\n" },
		},
		{
			name: "Cilium announces", step: "pod network", want: Fail, says: "enable-l2-announcements",
			in: func(in *Input) {
				in.Workloads = []Workload{{Kind: "DaemonSet", Images: []string{"quay.io/cilium/cilium:v1.20"}}}
				in.Cilium = "enable-l2-announcements=true\n"
			},
		},
		{
			name: "MetalLB is there", step: "other load balancers", want: Fail, says: "MetalLB (DaemonSet metallb-system/speaker)",
			in: func(in *Input) {
				in.Workloads = append(in.Workloads, Workload{
					Kind: "DaemonSet", Namespace: "metallb-system", Name: "speaker", Images: []string{"quay.io/metallb/speaker:v0.16.1"},
				})
			},
		},
		{
			name: "kube-vip is there for Services", step: "other load balancers", want: Fail, says: "kube-vip (Pod kube-system/kube-vip)",
			in: func(in *Input) {
				in.Workloads = append(in.Workloads, Workload{
					Kind: "Pod", Namespace: "kube-system", Name: "kube-vip", Images: []string{"ghcr.io/kube-vip/kube-vip:v1.2.3"}, Env: []string{"svc_enable=true"},
				})
			},
		},
		{
			name: "kube-vip is there for the API server alone, and MetalLB with a class", step: "other load balancers", want: Pass, says: "none found",
			in: func(in *Input) {
				in.Workloads = append(in.Workloads, Workload{Images: []string{"ghcr.io/kube-vip/kube-vip:v1.2.3"}, Env: []string{"cp_enable=true", "svc_enable=false"}},
					Workload{Images: []string{"quay.io/metallb/speaker:v0.16.1"}, Args: []string{"--lb-class=metallb"}})
			},
		},
		{
			name: "MetalLB is there, and Tandem has its class", step: "other load balancers", want: Pass, says: "there are MetalLB",
			in: func(in *Input) {
				in.Deployment.Spec.Template.Spec.Containers[0].Args = []string{"--load-balancer-class-only"}
				in.Workloads = append(in.Workloads, Workload{Kind: "DaemonSet", Images: []string{"quay.io/metallb/speaker:v0.16.1"}})
			},
		},
		{
			name: "a Service does not answer", step: "service/web answers", want: Fail, says: v4 + ":80: timeout",
			in: func(in *Input) {
				in.Service, in.Published, in.Answers = "service/web", true, []Answer{{netip.MustParseAddrPort(v4 + ":80"), errors.New("timeout")}}
			},
		},
		{
			name: "a Service publishes no address", step: "service/web answers", want: Fail, says: "its status has no address",
			in: func(in *Input) { in.Service = "service/web" },
		},
		{
			name: "a Service without a TCP port", step: "service/web answers", want: Skip, says: "it has no TCP port",
			in: func(in *Input) { in.Service, in.Published = "service/web", true },
		},
		{
			name: "a Service of a cluster that cannot be read", step: "service/web answers", want: Skip, says: "forbidden",
			in: func(in *Input) { in.Service, in.State, in.StateErr = "service/web", nil, forbidden },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			objects := healthy(t)
			if tt.change != nil {
				objects = tt.change(t, objects)
			}
			in := input(t, objects)
			if tt.in != nil {
				tt.in(in)
			}
			steps := Run(in)
			i := slices.IndexFunc(steps, func(s Step) bool { return s.Name == tt.step })
			if i < 0 {
				t.Fatalf("there is no step %q in %+v", tt.step, steps)
			}
			s := steps[i]
			if s.Result != tt.want || !strings.Contains(s.Message+" "+s.Fix, tt.says) {
				t.Errorf("%+v, want %s with %q", s, tt.want, tt.says)
			}
			if (s.Fix == "") != (s.Result == Pass || s.Result == Skip) {
				t.Errorf("%+v: a fix is for what is wrong", s)
			}
		})
	}
}

// TestGatherForbidden: what may not be read is in the Input with the reason.
func TestGatherForbidden(t *testing.T) {
	clientset := kubefake.NewClientset()
	for _, resource := range []string{"servicecidrs", "pods", "configmaps"} {
		clientset.PrependReactor("*", resource, func(clienttesting.Action) (bool, runtime.Object, error) {
			return true, nil, apierrors.NewForbidden(schema.GroupResource{Resource: resource}, "", nil)
		})
	}
	c := &cluster.Cluster{Client: fixture.Client(healthy(t)...), Clientset: clientset, Now: func() time.Time { return fixture.Now }}
	in := Gather(t.Context(), c, Options{})
	for resource, err := range map[string]error{"servicecidrs": in.ServiceCIDRsErr, "pods": in.StaticPodsErr, "configmaps": in.CiliumErr} {
		if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), resource) {
			t.Errorf("the error of %s is %v", resource, err)
		}
	}
}
