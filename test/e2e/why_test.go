// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/lab"
)

// The tests in this file make one fault after another on a cluster, and heal each before the next. CI makes those that take moments or are found by
// a probe alone; TANDEM_FAULTS=1 makes all: `TANDEM_FAULTS=1 go test -tags e2e -v ./test/e2e -run TestWhy`. Each logs a row of a table: what was
// printed of the hop, and what `check` says.

// aFault is one that a test makes, and what `kubectl tandem why` is to say of it: the hop that is at fault, and a part of its text and of its remedy.
type aFault struct {
	name string
	rare bool // TANDEM_FAULTS alone makes it
	// make makes the fault, and has t heal it when the subtest ends.
	make func(t *testing.T, s *stage, ips []string)
	// what is asked for, "" for service/web.
	what              string
	hop, text, remedy string
	// unknown says that the hop is not known to be at fault (–), and nothing else is.
	unknown bool
	// step is that of `check` which warns or fails, "" where no step can see the fault.
	step string
	// from is the host where `check` connects to the Service, "" for none.
	from string
}

// apiFaults are those that the objects of the API show. They and those of the network are made while node1 holds the addresses of web.
var apiFaults = []aFault{
	{
		name: "no advertisement of the pool", make: patched(`patch l2advertisement $NS --type=merge -p {"spec":{"addressPools":["nobody"]}}`,
			`patch l2advertisement $NS --type=merge -p {"spec":{"addressPools":["$NS"]}}`),
		hop: "advertisement", text: "no advertisement selects pool", remedy: "addressPools", step: "advertisements",
	},
	{
		name: "selector", make: patched(`patch l2advertisement $NS --type=merge -p {"spec":{"serviceSelectors":[{"matchLabels":{"app":"db"}}]}}`,
			`patch l2advertisement $NS --type=merge -p {"spec":{"serviceSelectors":null}}`),
		hop: "advertisement", text: "serviceSelectors", remedy: "serviceSelectors", step: "Services",
	},
	{
		name: "excluded nodes", make: patched("label nodes node1 node2 node3 node.kubernetes.io/exclude-from-external-load-balancers=",
			"label nodes node1 node2 node3 node.kubernetes.io/exclude-from-external-load-balancers-"),
		hop: "holder", text: "excluded", remedy: "exclude-from-external-load-balancers", step: "nodes that may announce",
	},
	{
		name: "no endpoint", make: patched(`-n $NS patch service web --type=merge -p {"spec":{"selector":{"app":"nobody"}}}`,
			`-n $NS patch service web --type=merge -p {"spec":{"selector":{"app":"web"}}}`),
		hop: "endpoint", text: "no ready", remedy: "endpointslices", step: "Services",
	},
	{
		name: "Local without an endpoint on the node that is to announce", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			patched(`patch l2advertisement $NS --type=merge -p {"spec":{"nodeSelectors":[{"matchLabels":{"kubernetes.io/hostname":"node1"}}]}}`,
				`patch l2advertisement $NS --type=merge -p {"spec":{"nodeSelectors":null}}`)(t, s, ips)
			patched(`-n $NS patch service web --type=merge -p {"spec":{"externalTrafficPolicy":"Local"}}`,
				`-n $NS patch service web --type=merge -p {"spec":{"externalTrafficPolicy":"Cluster"}}`)(t, s, ips)
		},
		hop: "endpoint", text: "externalTrafficPolicy is Local", remedy: "run a Pod on a node that can announce", step: "Services",
	},
	{
		name: "wrong family", what: "service/other", make: func(t *testing.T, s *stage, _ []string) {
			s.other(t, "198.51.100.240", "", v6)
		},
		hop: "pool", text: "IPv6", remedy: "spec.ipv6", step: "Services",
	},
	{
		name: "exhausted pool", what: "service/first", make: func(t *testing.T, s *stage, _ []string) {
			first := s.service("first", v4)
			s.other(t, "198.51.100.240", "", v4)
			s.addresses(t, "other", 1)
			first.Annotations = map[string]string{ipamv1alpha1.AnnotationAddressPool: s.ns + "-other"}
			s.add(t, first)
			t.Cleanup(func() { s.kubectlAfter(t, "delete", "service", "first", "-n", s.ns) })
		},
		hop: "pool", text: "no free address in pool", remedy: "add a range to the pool", step: "Services",
	},
	{
		name: "reserved address", what: "service/other", make: func(t *testing.T, s *stage, _ []string) {
			s.other(t, "198.51.100.11-198.51.100.12", "198.51.100.11", v4)
		},
		hop: "pool", text: "reserved", remedy: "ask for another address", step: "Services",
	},
	{
		name: "class of another provider", what: "service/other", make: func(t *testing.T, s *stage, _ []string) {
			s.otherClass(t)
		},
		hop: "asked for", text: "example.com/lb", remedy: "a class cannot be changed",
	},
	{
		name: "another writer of the status", rare: true, what: "service/other", make: func(t *testing.T, s *stage, _ []string) {
			s.other(t, "198.51.100.240", "", v4)
			s.addresses(t, "other", 1)
			s.overwrite(t, "other", "svclb-controller")
		},
		hop: "status", text: "svclb-controller", remedy: "let one controller serve the Service", step: "Services",
	},
}

// networkFaults are those that no object of the API shows at once.
var networkFaults = []aFault{
	{
		name: "filtered ARP", make: func(t *testing.T, s *stage, ips []string) {
			cmd := s.Command(t.Context(), theSwitch, "nft", "-f", "-")
			cmd.Stdin = strings.NewReader("table bridge tandem-why {\n chain forward {\n type filter hook forward priority 0\n arp daddr ip " + ips[0] + " drop\n }\n}\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nft on the switch: %v: %s", err, out)
			}
			s.after(t, theSwitch, "nft delete table bridge tandem-why")
		},
		hop: "neighbour", text: "nobody answers node2 and node3", remedy: "drops ARP", step: "addresses",
	},
	{
		name: "two answers on the LAN", make: func(t *testing.T, s *stage, ips []string) {
			s.run(t, lab.Client, "ip addr add "+ips[0]+"/32 dev eth0")
			s.after(t, lab.Client, "ip addr del "+ips[0]+"/32 dev eth0")
		},
		// The speaker of the holder hears no frame of the other machine, so that no status has a conflict.
		hop: "neighbour", text: "several machines answer", remedy: "find the MAC on the switch", step: "neighbours",
	},
	{
		name: "firewall on the node", make: func(t *testing.T, s *stage, ips []string) {
			s.drops(t, "node1", "chain pre { type filter hook prerouting priority -350; iifname eth0 ip daddr "+ips[0]+" drop; }")
		},
		hop: "TCP", text: "though the node forwards what it sends itself", remedy: "a firewall on that node", step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "stale neighbour of the machine that asks", make: func(t *testing.T, s *stage, ips []string) { s.staleNeighbour(t, lab.ControlPlane, ips[0]) },
		hop: "from here", text: "this machine gets no answer, and has 02:00:00:00:00:7f for the address", remedy: "ip neigh flush",
		step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "stale neighbour of the router", make: func(t *testing.T, s *stage, ips []string) { s.staleNeighbour(t, lab.Router, ips[0]) },
		hop: "router", text: "by the gateway 198.51.100.1 comes back, and what it sends to this address by it does not", remedy: "an old neighbour entry",
		step: "service/web answers", from: lab.Ext,
	},
	{
		name: "closed gossip port", rare: true, what: "node/node3", make: func(t *testing.T, s *stage, _ []string) {
			s.drops(t, "node3", gossipIn, gossipOut)
		},
		hop: "speaker", text: "open port 7573", remedy: "open port 7573", step: "gossip",
	},
	{
		name: "no IPv6 on the link", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			for _, node := range s.Nodes() {
				own := s.Addresses(node)[1].String() + "/64 dev eth0"
				s.run(t, node, "ip -6 addr del "+own)
				s.after(t, node, "ip -6 addr add "+own+" nodad")
			}
		},
		hop: "holder", text: "an interface in the subnet of", remedy: "pool of the nodes' subnet", step: "Services",
	},
	{
		name: "kube-proxy stopped", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			if err := s.StopComponent(t.Context(), "node1/kube-proxy"); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.StartComponent("node1/kube-proxy"); err != nil {
					t.Error(err)
				}
			})
			// What it has written stays, and is right until an endpoint moves. A boot of the node would remove it.
			s.run(t, "node1", "nft delete table ip kube-proxy")
			s.run(t, "node1", "nft delete table ip6 kube-proxy")
		},
		hop: "kube-proxy", text: "a connection from node1 itself", remedy: "does kube-proxy run there", step: "kube-proxy",
	},
	{
		name: "rp_filter", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			// node1 reaches node2 by a cable of their own, and what it forwards to it in answer goes by the LAN, by a mark. So node2 gets its answers by the link
			// on which it asks, and a strict rp_filter, which knows of no mark, looks at the other one.
			s.run(t, "node1", "ip link add fab0 type veth peer name fab0 netns "+s.namespace("node2"))
			s.after(t, "node1", "ip link del fab0")
			for node, own := range map[string]string{"node1": "192.168.77.1/24", "node2": "192.168.77.2/24"} {
				s.run(t, node, "ip addr add "+own+" dev fab0")
				s.run(t, node, "ip link set fab0 up")
			}
			s.run(t, "node1", "ip route add 198.51.100.12/32 via 192.168.77.2 dev fab0")
			s.run(t, "node1", "ip route add 198.51.100.12/32 dev eth0 table 100")
			s.after(t, "node1", "ip route del 198.51.100.12/32 table 100")
			s.drops(t, "node1", "chain answers { type filter hook prerouting priority -150; ct direction reply meta mark set 100; }")
			s.run(t, "node1", "ip rule add fwmark 100 lookup 100")
			s.after(t, "node1", "ip rule del fwmark 100 lookup 100")
			s.whySays(t, "service/web", 0) // The cable does no harm.
			s.run(t, "node1", "sysctl -qw net.ipv4.conf.eth0.rp_filter=1")
			s.after(t, "node1", "sysctl -qw net.ipv4.conf.eth0.rp_filter=0")
		},
		hop: "TCP", text: "does not answer node2 by node1", remedy: "rp_filter", step: "sysctls",
	},
}

// otherFaults are none of those for which why was made. It may say that it does not know, and never that the address answers.
var otherFaults = []aFault{
	{
		name: "the holder does not forward", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			s.run(t, "node1", "sysctl -qw net.ipv4.conf.eth0.forwarding=0")
			s.after(t, "node1", "sysctl -qw net.ipv4.conf.eth0.forwarding=1")
		},
		hop: "TCP", text: "though the node forwards what it sends itself", remedy: "forwarding is off", step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "long packets are lost", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			s.drops(t, "node1", "chain through { type filter hook forward priority -300; meta length > 600 drop; }")
		},
		unknown: true, hop: "program", text: "nor whether long packets pass", remedy: "with a long answer too",
	},
	{
		name: "a firewall for the second port", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			patched(`-n $NS patch service web --type=merge -p {"spec":{"ports":[{"name":"a","port":80,"targetPort":8080},{"name":"b","port":443,"targetPort":8080}]}}`,
				`-n $NS patch service web --type=merge -p {"spec":{"ports":[{"port":80,"targetPort":8080}]}}`)(t, s, ips)
			s.drops(t, "node1", "chain pre { type filter hook prerouting priority -350; iifname eth0 tcp dport 443 drop; }")
		},
		unknown: true, hop: "program", text: "not tried: TCP 443", remedy: "--port", step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "a small MTU of the holder", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			s.run(t, "node1", "ip link set eth0 mtu 1300")
			s.after(t, "node1", "ip link set eth0 mtu 1500")
		},
		unknown: true, hop: "program", text: "nor whether long packets pass", remedy: "with a long answer too",
	},
	{
		name: "no program listens on the targetPort", rare: true,
		make: patched(`-n $NS patch service web --type=merge -p {"spec":{"ports":[{"port":80,"targetPort":8099}]}}`,
			`-n $NS patch service web --type=merge -p {"spec":{"ports":[{"port":80,"targetPort":8080}]}}`),
		hop: "TCP", text: "the connection to port 80 is refused", remedy: "no program listens on the targetPort", step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "the nodes of the Pods drop what is for them, as by a NetworkPolicy", rare: true, make: func(t *testing.T, s *stage, _ []string) {
			for _, node := range s.Nodes() {
				s.drops(t, node, "chain through { type filter hook forward priority 10; tcp dport 8080 drop; }",
					"chain out { type filter hook output priority 10; tcp dport 8080 drop; }")
			}
		},
		hop: "kube-proxy", text: "a connection from node1 itself to port 80 gets no answer", remedy: "a NetworkPolicy", step: "service/web answers", from: lab.ControlPlane,
	},
	{
		name: "a Pod whose readiness gate is closed", rare: true, what: "service/other", make: func(t *testing.T, s *stage, _ []string) {
			s.gated(t)
		},
		hop: "endpoint", text: "no ready IPv4 endpoint", remedy: "are they ready", step: "Services",
	},
	{
		name: "the holder drops its own answers to ARP", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			cmd := s.Command(t.Context(), "node1", "nft", "-f", "-")
			cmd.Stdin = strings.NewReader("table netdev tandem-why {\n chain out {\n type filter hook egress device eth0 priority 0\n arp saddr ip " + ips[0] + " drop\n }\n}\n")
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("nft on node1: %v: %s", err, out)
			}
			s.after(t, "node1", "nft delete table netdev tandem-why")
		},
		hop: "neighbour", text: "nobody answers node2 and node3", remedy: "nft or ebtables on the node", step: "neighbours",
	},
	{
		name: "Local, and the nodes of all endpoints are cordoned and excluded", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			patched(`-n $NS patch service web --type=merge -p {"spec":{"externalTrafficPolicy":"Local"}}`,
				`-n $NS patch service web --type=merge -p {"spec":{"externalTrafficPolicy":"Cluster"}}`)(t, s, ips)
			patched("cordon node2 node3", "uncordon node2 node3")(t, s, ips)
			patched("label nodes node2 node3 node.kubernetes.io/exclude-from-external-load-balancers=",
				"label nodes node2 node3 node.kubernetes.io/exclude-from-external-load-balancers-")(t, s, ips)
		},
		hop: "endpoint", text: "externalTrafficPolicy is Local", remedy: "run a Pod on a node that can announce", step: "Services",
	},
	{
		name: "sources that leave the nodes out", rare: true,
		make: patched(`-n $NS patch service web --type=merge -p {"spec":{"loadBalancerSourceRanges":["192.0.2.0/24","2001:db8:9::/64"]}}`,
			`-n $NS patch service web --type=merge -p {"spec":{"loadBalancerSourceRanges":null}}`),
		unknown: true, hop: "kube-proxy", text: "loadBalancerSourceRanges are 192.0.2.0/24", remedy: "try from one that is", step: "service/web answers", from: lab.ControlPlane,
	},
}

// bgpFaults are made while all nodes announce web to the router.
var bgpFaults = []aFault{
	{
		name: "wrong AS", make: patched(`patch bgppeer $NS --type=merge -p {"spec":{"peerASN":64999}}`,
			`patch bgppeer $NS --type=merge -p {"spec":{"peerASN":64513}}`),
		hop: "session", text: "bad peer as", remedy: "spec.peerASN", step: "BGP sessions",
	},
	{
		name: "session down", make: neighbour("neighbor NODES shutdown", "no neighbor NODES shutdown"),
		hop: "session", text: "is down on all 3 nodes", remedy: "the router", step: "BGP sessions",
	},
	{
		name: "route filtered by the router", make: func(t *testing.T, s *stage, _ []string) {
			for _, f := range []string{"ipv4", "ipv6"} {
				s.vtysh(t, "route-map NOTHING deny 10", "exit", "router bgp 64513", "address-family "+f+" unicast", "neighbor NODES route-map NOTHING in")
				t.Cleanup(func() {
					s.vtysh(t, "router bgp 64513", "address-family "+f+" unicast", "no neighbor NODES route-map NOTHING in")
				})
			}
		},
		hop: "router", text: "unreachable, it is told", remedy: "import filter", step: "service/web answers", from: lab.Ext,
	},
	{
		name: "Secret missing", rare: true, make: patched(`patch bgppeer $NS --type=merge -p {"spec":{"passwordSecret":{"name":"$NS"}}}`,
			`patch bgppeer $NS --type=merge -p {"spec":{"passwordSecret":null}}`),
		hop: "session", text: "there is no Secret tandem-system/", remedy: "create the Secret", step: "BGP sessions",
	},
	{
		name: "MD5 missing", rare: true, make: withPassword,
		hop: "session", text: "no answer from the peer", remedy: "MD5 password, or one on one side alone", step: "BGP sessions",
	},
	{
		name: "wrong password", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			s.create(t, `{apiVersion: v1, kind: Secret, metadata: {name: $NS, namespace: tandem-system}, stringData: {password: battery-staple}}`)
			patched(`patch bgppeer $NS --type=merge -p {"spec":{"passwordSecret":{"name":"$NS"}}}`,
				`patch bgppeer $NS --type=merge -p {"spec":{"passwordSecret":null}}`)(t, s, ips)
			withPassword(t, s, ips)
		},
		hop: "session", text: "no answer from the peer", remedy: "another MD5 password", step: "BGP sessions",
	},
	{
		name: "multihop", rare: true, make: func(t *testing.T, s *stage, ips []string) {
			config := strings.NewReplacer("198.51.100.1\n", "203.0.113.100\n", "hostname router", "hostname ext").Replace(cluster.RouterConfig)
			if err := s.StartFRR(t.Context(), lab.Ext, config); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := s.StopFRR(context.Background(), lab.Ext); err != nil {
					t.Error(err)
				}
			})
			// FRR accepts sessions of a range over any number of hops. Other routers take one hop for granted, and drop what another one has forwarded.
			s.drops(t, lab.Ext, "chain in { type filter hook input priority -300; tcp dport 179 ip ttl < 255 drop; }")
			patched(`patch bgppeer $NS --type=merge -p {"spec":{"peerAddress":"203.0.113.100"}}`,
				`patch bgppeer $NS --type=merge -p {"spec":{"peerAddress":"198.51.100.1"}}`)(t, s, ips)
		},
		hop: "session", text: "the peer is behind a router", remedy: "let the router speak with each node over several hops too", step: "BGP sessions",
	},
}

// patched changes something by kubectl, and undoes it in the same way. No argument has a space in it.
func patched(change, undo string) func(t *testing.T, s *stage, ips []string) {
	return func(t *testing.T, s *stage, _ []string) {
		t.Helper()
		fill := func(text string) []string { return strings.Fields(strings.ReplaceAll(text, "$NS", s.ns)) }
		s.kubectl(t, fill(change)...)
		t.Cleanup(func() { s.kubectlAfter(t, fill(undo)...) })
	}
}

// neighbour changes the nodes as neighbours of the router.
func neighbour(change, undo string) func(t *testing.T, s *stage, ips []string) {
	return func(t *testing.T, s *stage, _ []string) {
		t.Helper()
		s.vtysh(t, "router bgp 64513", change)
		t.Cleanup(func() { s.vtysh(t, "router bgp 64513", undo) })
	}
}

// withPassword has the router demand a password of the nodes. FRR starts anew after that: the password of a peer group with a range stays on its
// listening socket when it is removed.
func withPassword(t *testing.T, s *stage, _ []string) {
	t.Helper()
	s.router(t, strings.Replace(
		cluster.RouterConfig, "neighbor NODES remote-as 64512", "neighbor NODES remote-as 64512\n neighbor NODES password correct-horse", 1,
	))
}

// vtysh configures the router, and has it ask its neighbours again.
func (s *stage) vtysh(t *testing.T, commands ...string) {
	t.Helper()
	commands = append(append([]string{"configure terminal"}, commands...), "end", "clear bgp * soft in")
	if out, err := s.Vtysh(context.WithoutCancel(t.Context()), lab.Router, commands...); err != nil || strings.Contains(out, "%") {
		t.Errorf("configuring the router by %q: %v\n%s", commands, err, out)
	}
}

// after runs a command on a host when the test has ended.
func (s *stage) after(t *testing.T, host, command string) {
	t.Helper()
	t.Cleanup(func() {
		args := strings.Fields(command)
		if out, err := s.Command(context.Background(), host, args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Errorf("%s on %s: %v\n%s", command, host, err, out)
		}
	})
}

// namespace returns the name of the network namespace of a host.
func (s *stage) namespace(host string) string {
	return s.Namespace(host)[strings.LastIndexByte(s.Namespace(host), '/')+1:]
}

// staleNeighbour gives a host a MAC for an address that no machine has, which it does not ask about any more.
func (s *stage) staleNeighbour(t *testing.T, host, ip string) {
	t.Helper()
	s.run(t, host, "ip neigh replace "+ip+" lladdr 02:00:00:00:00:7f dev eth0 nud permanent")
	s.after(t, host, "ip neigh del "+ip+" dev eth0")
}

// other makes a Service other of one family, and a pool for it, until the test ends. Address is one that it asks for, "" for any.
func (s *stage) other(t *testing.T, addresses, address string, f corev1.IPFamily) {
	t.Helper()
	s.pool(t, "-other", addresses)
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "addresspool", s.ns+"-other") })
	svc := s.service("other", f)
	svc.Annotations = map[string]string{ipamv1alpha1.AnnotationAddressPool: s.ns + "-other"}
	if address != "" {
		svc.Annotations[ipamv1alpha1.AnnotationLoadBalancerIPs] = address
	}
	s.add(t, svc)
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "service", "other", "-n", s.ns) })
}

// gated makes a Service other whose Pod runs, and is not ready since nobody opens its readiness gate, until the test ends.
func (s *stage) gated(t *testing.T) {
	t.Helper()
	s.create(t, `
apiVersion: v1
kind: Pod
metadata: {name: gated, labels: {app: gated}}
spec:
  nodeName: node2
  terminationGracePeriodSeconds: 1
  readinessGates: [{conditionType: example.com/open}]
  containers:
  - {name: web, image: `+lab.AgnhostImage+`, args: [netexec, --http-port=8080]}
`)
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "pod", "gated", "-n", s.ns) })
	svc := s.service("other", v4)
	svc.Spec.Selector = map[string]string{"app": "gated"}
	s.add(t, svc)
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "service", "other", "-n", s.ns) })
}

// otherClass makes a Service other of another provider's class, until the test ends.
func (s *stage) otherClass(t *testing.T) {
	t.Helper()
	svc := s.service("other", v4)
	svc.Spec.LoadBalancerClass = new("example.com/lb")
	s.add(t, svc)
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "service", "other", "-n", s.ns) })
}

// TestWhyNamesTheHop: why --probe finds no fault while all is well on layer 2, and names the hop of each that is made.
func TestWhyNamesTheHop(t *testing.T) {
	s := newStage(t, dual)
	ips := s.heldBy(t, "node1")
	s.whySays(t, "service/web", 0, "✓   neighbour", "node2 and node3 hear node1", "✓   kube-proxy", "✓   TCP", "✓   router", "✓   from here")
	before := s.interfaces(t)
	s.makeFaults(t, ips, slices.Concat(apiFaults, networkFaults, otherFaults), func(t *testing.T) {
		s.until(t, 2*patience, "the speakers to see the interfaces that they saw in the beginning", func(context.Context) (bool, string) {
			now := s.interfaces(t)
			return now == before, now
		})
		s.takeBack(t, "node1")
	})
}

// interfaces returns what the speakers say of the interfaces of their nodes, but for those of Pods, which come and go.
func (s *stage) interfaces(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for _, node := range s.Nodes() {
		state, err := s.speaker(t.Context(), node)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range state.Interfaces {
			if i.Name == "eth0" || i.Name == "fab0" {
				fmt.Fprintf(&text, "%s %s %t %v\n", node, i.Name, i.Usable, i.Addresses)
			}
		}
	}
	return text.String()
}

// takeBack moves the Service back to a node, where the faults are made, if the fault before has moved it, as soon as a node has it on record.
func (s *stage) takeBack(t *testing.T, node string) {
	t.Helper()
	s.until(t, 2*patience, node+" on record for both addresses", func(ctx context.Context) (bool, string) {
		var record speakerv1alpha1.L2Announcement
		if err := s.Client.Get(ctx, client.ObjectKey{Name: s.ns + ".web"}, &record); err != nil {
			return false, err.Error()
		}
		if record.Status.Node != "" && record.Status.Node != node && record.Spec.Target == "" {
			s.patch(t, &record, `{spec: {target: `+node+`}}`)
		}
		return record.Status.Node == node && record.Spec.Target == "" && len(record.Status.Addresses) == 2, fmt.Sprintf("%+v %+v", record.Spec, record.Status)
	})
}

// TestWhyNamesTheHopByBGP does the same for an address that is announced by BGP.
func TestWhyNamesTheHopByBGP(t *testing.T) {
	s := newStage(t, dual)
	s.pool(t, "", "192.0.2.0/24", "2001:db8:c::/64")
	s.bgp(t)
	s.web(t, "node2", "node3")
	s.add(t, s.service("web", v4, v6))
	ips := s.addresses(t, "web", 2)
	s.announcedFrom(t, ips, s.Nodes()...)
	s.whySays(t, "service/web", 0, "✓   session", "✓   route", "✓   router", "✓   kube-proxy", "✓   TCP")
	s.makeFaults(t, ips, bgpFaults, func(*testing.T) {})
}

// makeFaults makes one fault after another. Before each, after a preparation, neither check nor why finds a fault any more, and why finds none in the end.
// What a fault leaves behind heals at its own pace: without that the next one would be made while an address moves.
func (s *stage) makeFaults(t *testing.T, ips []string, faults []aFault, prepare func(t *testing.T)) {
	t.Helper()
	for _, fault := range faults {
		if fault.rare && os.Getenv("TANDEM_FAULTS") == "" {
			continue
		}
		if fault.what == "" {
			fault.what = "service/web"
		}
		t.Run(fault.name, func(t *testing.T) {
			prepare(t)
			s.until(t, 2*patience, "check to find nothing", func(context.Context) (bool, string) {
				out, code := s.plugin(t, "check", "--ask-speakers=false") // Why asks them.
				return code == 0, out
			})
			s.whySays(t, "service/web", 0)
			fault.make(t, s, ips)
			code, sign := 1, "✗"
			if fault.unknown {
				code, sign = 0, "–"
			}
			out := s.whySays(t, fault.what, code, sign+"   "+fault.hop, fault.text, fault.remedy)
			t.Logf("| %s | %s | %s |", fault.name, lineOf(out, sign+"   "+fault.hop), s.checkSays(t, &fault))
		})
	}
	s.whySays(t, "service/web", 0)
}

// lineOf returns the first line of an output that has a text, and the remedy below it, as columns of a table.
func lineOf(out, text string) string {
	lines := strings.Split(out, "\n")
	i := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, text) })
	if i < 0 || i+1 == len(lines) {
		return ""
	}
	return strings.Join(strings.Fields(lines[i]), " ") + " | " + strings.Join(strings.Fields(lines[i+1]), " ")
}

// checkSays waits until `check` warns or fails in the step of a fault, and returns the line. It is run where the step needs it: from there it
// connects to the Service.
func (s *stage) checkSays(t *testing.T, fault *aFault) (line string) {
	t.Helper()
	if fault.step == "" {
		return "no step can see it"
	}
	args := []string{"check"}
	host := lab.ControlPlane
	if fault.from != "" {
		args, host = append(args, "service/web", "-n", s.ns), fault.from
	}
	s.until(t, 2*patience, "check to find the fault in the step "+fault.step, func(context.Context) (bool, string) {
		out, code := s.pluginOn(t, host, args...)
		for l := range strings.Lines(out) {
			if rest, ok := strings.CutPrefix(l, "FAIL  "+fault.step+": "); ok {
				line = "FAIL " + fault.step + ": " + strings.TrimSpace(rest)
			} else if rest, ok := strings.CutPrefix(l, "WARN  "+fault.step+": "); ok {
				line = "WARN " + fault.step + ": " + strings.TrimSpace(rest)
			}
		}
		return line != "" && (code != 0 || strings.HasPrefix(line, "WARN")), out // A warning alone is exit code 0.
	})
	return line
}

// whySays waits until why --probe exits with a code and prints all texts, and returns what it prints.
func (s *stage) whySays(t *testing.T, what string, code int, texts ...string) (printed string) {
	t.Helper()
	s.until(t, 2*patience, fmt.Sprintf("why to exit with %d and to print %q", code, texts), func(context.Context) (bool, string) {
		out, got := s.plugin(t, "why", what, "-n", s.ns, "--probe")
		ok := got == code
		for _, text := range texts {
			ok = ok && strings.Contains(out, text)
		}
		printed = out
		return ok, fmt.Sprintf("it exits with %d:\n%s", got, out)
	})
	return printed
}
