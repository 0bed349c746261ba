// SPDX-License-Identifier: Apache-2.0

package live

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const nodes = `
apiVersion: v1
kind: Node
metadata: {name: node1, labels: {kubernetes.io/os: linux}}
status: {conditions: [{type: Ready, status: "True"}]}
---
apiVersion: v1
kind: Node
metadata: {name: node2, labels: {kubernetes.io/os: linux}}
status: {conditions: [{type: Ready, status: "True"}]}
---
apiVersion: apps/v1
kind: Deployment
metadata:
  namespace: tandem-system
  name: tandem-cloud-controller-manager
  labels: {app.kubernetes.io/name: tandem, app.kubernetes.io/component: cloud-controller-manager}
spec:
  replicas: 2
  selector: {matchLabels: {component: cloud-controller-manager}}
  template: {metadata: {labels: {component: cloud-controller-manager}}, spec: {containers: [{image: tandem}]}}
`

const cluster = nodes + `---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: metallb-system, name: controller}
spec:
  replicas: 1
  selector: {matchLabels: {app: metallb, component: controller}}
  template: {metadata: {labels: {app: metallb, component: controller}}, spec: {containers: [{image: "quay.io/metallb/controller:v0.16.1"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: metallb-system, name: speaker}
spec:
  selector: {matchLabels: {app: metallb, component: speaker}}
  updateStrategy: {type: RollingUpdate}
  template:
    metadata: {labels: {app: metallb, component: speaker}}
    spec: {containers: [{image: "quay.io/metallb/speaker:v0.16.1", env: [{name: METALLB_BGP_TYPE, value: native}]}]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {namespace: metallb-system, name: lan}
spec: {addresses: ["192.0.2.0/28", "2001:db8::/124"]}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {namespace: metallb-system, name: spare}
spec: {addresses: ["192.0.2.16-192.0.2.31"]}
`

const services = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, uid: a, annotations: {metallb.io/ip-allocated-from-pool: lan, own: kept}}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1}, {ip: "2001:db8::1"}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: dns-tcp, uid: b, labels: {app: dns}, annotations: {metallb.io/allow-shared-ip: dns}}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: home, name: dns-udp, uid: c, annotations: {metallb.io/allow-shared-ip: dns}}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: mail, uid: d}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.17}]}}
---
apiVersion: metallb.io/v1beta1
kind: ServiceL2Status
metadata: {namespace: metallb-system, name: l2-1}
status: {node: node2, serviceNamespace: shop, serviceName: web}
`

const layer2 = `
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {namespace: metallb-system, name: everything}
spec: {nodeSelectors: [{matchLabels: {kubernetes.io/os: linux}}]}
`

const newCRD = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: l2advertisements.metallb.io}
spec: {versions: [{schema: {openAPIV3Schema: {properties: {spec: {properties: {serviceSelectors: {type: array}}}}}}}]}
`

const webhook = `
apiVersion: admissionregistration.k8s.io/v1
kind: ValidatingWebhookConfiguration
metadata: {name: metallb-webhook-configuration}
webhooks: [{name: l2advertisementvalidationwebhook.metallb.io, failurePolicy: Fail}]
`

const sessions = `
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {namespace: metallb-system, name: tor}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 192.0.2.254, passwordSecret: {name: tor-secret}}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {namespace: metallb-system, name: all}
---
apiVersion: v1
kind: Secret
metadata: {namespace: metallb-system, name: tor-secret}
type: kubernetes.io/basic-auth
data: {password: c2VjcmV0}
`

const addresses = `
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: web, uid: a, annotations: {own: kept}}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.1, ports: [{port: 80, protocol: TCP}]}]}}
---
apiVersion: v1
kind: Service
metadata: {namespace: shop, name: mail, uid: d}
spec: {type: LoadBalancer}
status: {loadBalancer: {ingress: [{ip: 192.0.2.2}, {ip: "2001:db8::2"}]}}
`

// withKubeVIP has kube-vip with these variables, as YAML.
func withKubeVIP(variables string) string {
	return nodes + `---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: kube-system, name: kube-vip-cloud-provider}
spec:
  replicas: 1
  selector: {matchLabels: {component: provider}}
  template: {metadata: {labels: {component: provider}}, spec: {containers: [{image: "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: kubevip}
data: {range-global: "192.0.2.1-192.0.2.14,2001:db8::1-2001:db8::e"}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: kube-system, name: kube-vip-ds}
spec:
  selector: {matchLabels: {app: kube-vip}}
  updateStrategy: {type: RollingUpdate}
  template:
    metadata: {labels: {app: kube-vip}}
    spec:
      containers:
      - image: "ghcr.io/kube-vip/kube-vip:v1.0.0"
        args: [manager]
        env: [` + variables + `]
`
}

const arpAlone = `{name: vip_arp, value: "true"}, {name: svc_enable, value: "true"}`

const withPureLB = nodes + `---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: purelb-system, name: allocator}
spec:
  replicas: 1
  selector: {matchLabels: {app: purelb, component: allocator}}
  template: {metadata: {labels: {app: purelb, component: allocator}}, spec: {containers: [{image: "ghcr.io/purelb/purelb/allocator:v0.17.0"}]}}
---
apiVersion: apps/v1
kind: DaemonSet
metadata: {namespace: purelb-system, name: lbnodeagent}
spec:
  selector: {matchLabels: {app: purelb, component: lbnodeagent}}
  template:
    metadata: {labels: {app: purelb, component: lbnodeagent}}
    spec: {containers: [{image: "ghcr.io/purelb/purelb/lbnodeagent:v0.17.0"}]}
---
apiVersion: purelb.io/v2
kind: LBNodeAgent
metadata: {namespace: purelb-system, name: default}
spec: {local: {localInterface: default}}
---
apiVersion: purelb.io/v2
kind: ServiceGroup
metadata: {namespace: purelb-system, name: default}
spec: {local: {v4pools: [{subnet: 192.0.2.0/24, pool: 192.0.2.1-192.0.2.14}], v6pools: [{subnet: "2001:db8::/64", pool: "2001:db8::/124"}]}}
`

const withCilium = nodes + `---
apiVersion: apps/v1
kind: Deployment
metadata: {namespace: kube-system, name: cilium-operator}
spec:
  replicas: 1
  selector: {matchLabels: {io.cilium/app: operator}}
  template: {metadata: {labels: {io.cilium/app: operator}}, spec: {containers: [{image: "quay.io/cilium/operator-generic:v1.18.2@sha256:0"}]}}
---
apiVersion: v1
kind: ConfigMap
metadata: {namespace: kube-system, name: cilium-config}
data: {default-lb-service-ipam: lbipam, enable-l2-announcements: "true"}
---
apiVersion: cilium.io/v2
kind: CiliumLoadBalancerIPPool
metadata: {name: lan}
spec: {blocks: [{start: 192.0.2.1, stop: 192.0.2.14}, {cidr: "2001:db8::/124"}]}
---
apiVersion: cilium.io/v2alpha1
kind: CiliumL2AnnouncementPolicy
metadata: {name: lan}
spec: {loadBalancerIPs: true, interfaces: [^eth0$]}
---
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {namespace: kube-system, name: cilium-l2announce-shop-web}
spec: {holderIdentity: node2}
`

var clusters = map[string][]string{
	"kube-vip":                        {withKubeVIP(arpAlone), addresses},
	"kube-vip with the control plane": {withKubeVIP(arpAlone + `, {name: cp_enable, value: "true"}, {name: address, value: 192.0.2.100}`), addresses},
	"kube-vip by its arguments": {
		strings.ReplaceAll(withKubeVIP(`{name: cp_enable, value: "true"}`), "args: [manager]", "args: [manager, --services, --arp]"), addresses,
	},
	"PureLB":                               {withPureLB, addresses},
	"Cilium":                               {withCilium, addresses},
	"service by service":                   {cluster, services, layer2, newCRD, webhook},
	"pool by pool":                         {cluster, services, layer2, webhook},
	"node by node":                         {cluster, services, newCRD, sessions},
	"service by service, then by the node": {cluster, services, layer2, newCRD, sessions},
}

func start(goal Goal) func(*Snapshot) (Action, error) {
	return func(s *Snapshot) (Action, error) { return Start(s, goal, false) }
}

var all = start(Goal{All: true})

// TestKilled kills a move after each of its writes. Started again it comes to the same end, and undone to the beginning, also where undo is killed
// after each of its own writes.
func TestKilled(t *testing.T) {
	for name, documents := range clusters {
		t.Run(name, func(t *testing.T) {
			reference := newSim(t, documents...)
			before := reference.copy()
			total, stopped := reference.run(all, -1)
			if stopped != "" {
				t.Fatal(stopped)
			}
			for k := range total + 1 {
				s := newSim(t, documents...)
				s.run(all, k)
				midway := s.copy()
				if _, stopped := s.run(all, -1); stopped != "" {
					t.Fatalf("killed after %d writes, start says: %s", k, stopped)
				}
				if diff := cmp.Diff(reference.objects, s.objects); diff != "" {
					t.Fatalf("killed after %d writes and started again, the cluster is (-want +got):\n%s", k, diff)
				}
				checkUndo(t, midway, before, k)
			}
		})
	}
}

// checkUndo undoes a move from where it is, killed after each write of the undo.
func checkUndo(t *testing.T, from, want Objects, k int) {
	t.Helper()
	for j := 0; ; j += 1 + (k+3)%7 { // not every pair, which would be thousands
		s := &sim{t: t, objects: Objects{}, deaf: map[string]string{}}
		for ref, o := range from {
			s.objects[ref] = clone(o)
		}
		_, stopped := s.run(Undo, j)
		if stopped == "killed" && s.snapshot(nil).PhaseOf() == Undoing {
			if _, stopped := s.run(all, -1); !strings.Contains(stopped, "is being undone") {
				t.Fatalf("start of a move that is being undone says %q", stopped)
			}
		}
		if _, again := s.run(Undo, -1); again != "" {
			t.Fatalf("killed after %d writes and %d of undo: %s", k, j, again)
		}
		if diff := cmp.Diff(want, s.objects); diff != "" {
			t.Fatalf("killed after %d writes, undone with a kill after %d, the cluster is (-before +after):\n%s", k, j, diff)
		}
		if stopped != "killed" {
			return
		}
	}
}

// TestFinished: what a move leaves has no trace of it but the saved record, also where finish is killed after each write.
func TestFinished(t *testing.T) {
	for name, documents := range clusters {
		t.Run(name, func(t *testing.T) {
			for k := 0; ; k++ {
				s := newSim(t, documents...)
				s.run(all, -1)
				_, stopped := s.run(Finish, k)
				if _, again := s.run(Finish, -1); again != "" {
					t.Fatalf("killed after %d writes: %s", k, again)
				}
				for ref, o := range s.objects {
					text := fmt.Sprint(o)
					if strings.Contains(text, label) && (ref.Group == ourGroup || ref.Kind == "Service" || ref.Kind == "Node" || ref.Kind == "Secret") {
						t.Errorf("%s still has the label: %s", ref, text)
					}
				}
				for _, svc := range s.objects.moving() {
					if theirs, _ := s.both(svc); theirs || len(s.objects.speakerPods()) > 0 {
						t.Errorf("%s is announced by the other product, too", nameOf(svc))
					}
					for key := range table(svc, "metadata", "annotations") {
						if strings.Contains(key, "kube-vip") || strings.Contains(key, "purelb") || strings.Contains(key, "metallb.io/ip-") {
							t.Errorf("%s still has the annotation %s", nameOf(svc), key)
						}
					}
				}
				if _, stopped := s.run(Undo, -1); !strings.Contains(stopped, "no undo") {
					t.Errorf("undo after the end says %q", stopped)
				}
				if stopped != "killed" {
					return
				}
			}
		})
	}
}

// TestUnits: what is named moves, and nothing else.
func TestUnits(t *testing.T) {
	for _, tt := range []struct {
		name, cluster string
		goal          Goal
		want          []string // that have moved
	}{
		{"nothing", "service by service", Goal{}, nil},
		{"a Service", "service by service", Goal{Services: []string{"shop/web"}}, []string{"shop/web"}},
		{"a Service with those that share its address", "service by service", Goal{Services: []string{"shop/dns-tcp"}}, []string{"home/dns-udp", "shop/dns-tcp"}},
		{"a pool", "service by service", Goal{Pools: []string{"spare"}}, []string{"shop/mail"}},
		{"a Service of a pool", "pool by pool", Goal{Services: []string{"shop/web"}}, []string{"home/dns-udp", "shop/dns-tcp", "shop/web"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSim(t, clusters[tt.cluster]...)
			s.complete(start(tt.goal))
			var got []string
			for _, svc := range s.objects.of("", "Service") {
				theirs, ours := s.both(svc)
				if moved := table(svc, "metadata", "labels")[label] == moved; moved != ours || moved == theirs {
					t.Errorf("%s: moved %t, announced by MetalLB %t, by Tandem %t", nameOf(svc), moved, theirs, ours)
				} else if moved {
					got = append(got, nameOf(svc))
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("moved (-want +got):\n%s", diff)
			}
			if _, stopped := s.run(Finish, -1); !strings.Contains(stopped, "MetalLB still announces") {
				t.Errorf("finish says %q", stopped)
			}
		})
	}
}

// TestSessionsTakeTurns: MetalLB's speaker has ended on a Node before Tandem opens its sessions there, however long that takes.
func TestSessionsTakeTurns(t *testing.T) {
	s := newSim(t, clusters["node by node"]...)
	s.slow = true
	for _, next := range []func(*Snapshot) (Action, error){all, Undo, all, Finish} {
		s.complete(next)
	}
}

// TestDeaf: a unit that does not answer goes back, and the move stops there.
func TestDeaf(t *testing.T) {
	for name, unit := range map[string]string{
		"service by service": "Service shop/web", "pool by pool": "pool lan", "node by node": "node node1",
		"kube-vip": "all Services of kube-vip", "kube-vip with the control plane": "all Services of kube-vip", "PureLB": "all Services of PureLB",
		"Cilium": "Service shop/web",
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters[name]...)
			s.deaf[unit] = "nobody hears it"
			_, stopped := s.run(all, -1)
			if !strings.Contains(stopped, unit+" does not answer") || !strings.Contains(stopped, "nobody hears it") {
				t.Fatalf("the move stops with %q", stopped)
			}
			for _, o := range append(s.objects.of("", "Service"), s.objects.of("", "Node")...) {
				if text(o, "metadata", "labels", label) == moving {
					t.Errorf("%s has not gone back", RefOf(o))
				}
			}
			delete(s.deaf, unit)
			if _, stopped := s.run(all, -1); stopped != "" {
				t.Errorf("once it answers, the move stops with %q", stopped)
			}
		})
	}
}

// TestSeed: the node that MetalLB announces from is the one of Tandem.
func TestSeed(t *testing.T) {
	for _, name := range []string{"service by service", "pool by pool", "kube-vip", "PureLB", "Cilium"} {
		s := newSim(t, clusters[name]...)
		s.run(all, -1)
		if node := text(s.objects[Ref{ourGroup, "L2Announcement", "", "shop.web"}], "status", "node"); node != "node2" {
			t.Errorf("%s: web is on %q", name, node)
		}
	}
}

// TestConflict: a Service that gets another address stops the move before anything is announced.
func TestConflict(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	s.conflict = "shop/web"
	if _, stopped := s.run(all, -1); !strings.Contains(stopped, "shop/web had 192.0.2.1, 2001:db8::1 and has 192.0.2.9") {
		t.Errorf("the move stops with %q", stopped)
	}
}

// TestRestarted: a controller of MetalLB that somebody starts again stops the move.
func TestRestarted(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	s.run(start(Goal{}), -1)
	set(s.objects[Ref{"apps", "Deployment", "metallb-system", "controller"}], int64(1), "spec", "replicas")
	if a, err := all(s.snapshot(nil)); err != nil || !strings.Contains(a.Stop, "runs again") {
		t.Errorf("the move goes on with %+v, %v", a, err)
	}
}

// TestRefused: what cannot be moved is refused before anything is written.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(Objects)
		want   string
	}{
		"an address that no pool has": {func(o Objects) {
			set(o[serviceRef("shop/mail")], []any{map[string]any{"ip": "198.51.100.1"}}, "status", "loadBalancer", "ingress")
		}, "error [uncovered] Service shop/mail"},
		"no controller": {func(o Objects) { delete(o, Ref{"apps", "Deployment", "metallb-system", "controller"}) }, "error [no-metallb]"},
		"no Tandem": {
			func(o Objects) { delete(o, Ref{"apps", "Deployment", system, "tandem-cloud-controller-manager"}) }, "error [no-tandem]",
		},
		"a weight that the API server would refuse in the middle of the move": {func(o Objects) {
			for _, ad := range o.of(theirGroup, "L2Advertisement") {
				set(ad, []any{map[string]any{"weight": int64(200), "preference": map[string]any{}}}, "spec", "preferredNodeSelectors")
			}
		}, "error [refused] L2Advertisement everything: spec.preferredNodes[0].weight: 200 is more than 100; lower it"},
		"a pool of the name": {func(o Objects) {
			o[Ref{ourGroup, "AddressPool", "", "lan"}] = map[string]any{"kind": "AddressPool"}
		}, "error [exists] AddressPool lan"},
		"a router that does other work": {func(o Objects) {
			d := clone(o[Ref{"apps", "DaemonSet", "metallb-system", "speaker"}])
			set(d, "frr-k8s", "metadata", "name")
			set(d, map[string]any{"app.kubernetes.io/name": "frr-k8s"}, "spec", "template", "metadata", "labels")
			o[RefOf(d)] = d
			for _, name := range []string{"metallb-node1", "uplink"} {
				c := map[string]any{
					"apiVersion": frrGroup + "/v1beta1", "kind": "FRRConfiguration", "metadata": map[string]any{"namespace": "metallb-system", "name": name},
				}
				o[RefOf(c)] = c
			}
		}, "the move cannot start:\nerror [frr] FRRConfiguration metallb-system/uplink"},
		"another writer": {func(o Objects) {
			d := clone(o[Ref{"apps", "Deployment", "metallb-system", "controller"}])
			set(d, "kube-vip", "metadata", "name")
			set(d, map[string]any{"app": "kube-vip"}, "spec", "template", "metadata", "labels")
			set(d, []any{map[string]any{"image": "ghcr.io/kube-vip/kube-vip-cloud-provider:v0.0.12"}}, "spec", "template", "spec", "containers")
			o[RefOf(d)] = d
		}, "error [two-writers] Deployment metallb-system/kube-vip"},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSim(t, clusters["service by service"]...)
			tt.change(s.objects)
			a, err := all(s.snapshot(nil))
			if err != nil || !strings.Contains(a.Stop, tt.want) {
				t.Errorf("the move begins with %+v, %v; want a stop with %q", a, err, tt.want)
			}
		})
	}
}

// TestOwned: what Flux or Argo CD manages is named.
func TestOwned(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	set(s.objects[Ref{"apps", "Deployment", "metallb-system", "controller"}], map[string]any{
		"helm.toolkit.fluxcd.io/name": "metallb", "helm.toolkit.fluxcd.io/namespace": "infra",
	}, "metadata", "labels")
	plan, err := MakePlan(s.snapshot(nil), false)
	if err != nil || plan.Refused {
		t.Fatalf("%+v, %v", plan, err)
	}
	for _, m := range plan.Messages {
		if m.Code == "owned" && strings.Contains(m.Text, "Flux's HelmRelease infra/metallb") {
			return
		}
	}
	t.Errorf("no message names Flux: %v", plan.Messages)
}

// TestAnnounces: an advertisement that selects namespaces announces the Services there alone.
func TestAnnounces(t *testing.T) {
	s := newSim(t, clusters["service by service"]...)
	documents := newSim(t, `
apiVersion: tandem-lb.io/v1alpha1
kind: AddressPool
metadata: {name: lan}
spec: {ipv4: {ranges: [192.0.2.0/28]}}
`, `
apiVersion: tandem-lb.io/v1alpha1
kind: L2Advertisement
metadata: {name: lan}
spec: {namespaceSelectors: [{matchExpressions: [{key: kubernetes.io/metadata.name, operator: In, values: [home]}]}]}
`)
	m := &machine{Snapshot: s.snapshot(nil), Record: &Record{Documents: []map[string]any{
		documents.objects[Ref{ourGroup, "AddressPool", "", "lan"}], documents.objects[Ref{ourGroup, "L2Advertisement", "", "lan"}],
	}}}
	for name, want := range map[string]bool{"home/dns-udp": true, "shop/dns-tcp": false} {
		if got := m.by("L2Advertisement", s.objects[serviceRef(name)]); got != want {
			t.Errorf("%s is announced: %t, want %t", name, got, want)
		}
	}
}
