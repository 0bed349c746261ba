// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/request"
)

// in puts a Service into a namespace.
func in(namespace string) func(*corev1.Service) {
	return func(svc *corev1.Service) { svc.Namespace = namespace }
}

// twoTeams is a cluster with the namespaces shop and blog.
func twoTeams(t *testing.T, pool string) *cluster {
	c := newCluster(t, newPool("lan", pool))
	c.label("shop", labels.Set{})
	c.label("blog", labels.Set{})
	return c
}

const (
	consentKey       = "tandem-lb.io/share-with-namespaces"
	metallbShareKey  = "metallb.io/allow-shared-ip"
	ciliumShareKey   = "lbipam.cilium.io/sharing-key"
	ciliumConsentKey = "lbipam.cilium.io/sharing-cross-namespace"
	ownAddress       = "192.0.2.2"
	sharedAddress    = "192.0.2.1"
)

func TestSharingAcrossNamespaces(t *testing.T) {
	web := func(namespace string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService("web", single, "IPv4", append([]func(*corev1.Service){in(namespace), listen("TCP", port)}, edits...)...)
	}
	tests := []struct {
		name       string
		shop, blog []func(*corev1.Service)
		mode       request.CrossNamespaceSharing
		want       string // what blog/web gets
		told       string // what the event on it says
	}{
		{
			name: "not by the key alone", shop: []func(*corev1.Service){annotate(shareKey, "k")}, blog: []func(*corev1.Service){annotate(shareKey, "k")},
			want: ownAddress, told: "Service shop/web has 192.0.2.1 in another namespace; to share, write the annotation " +
				"tandem-lb.io/share-with-namespaces: blog on it and tandem-lb.io/share-with-namespaces: shop on this Service",
		},
		{
			name: "not with the consent of one", shop: []func(*corev1.Service){annotate(shareKey, "k")},
			blog: []func(*corev1.Service){annotate(shareKey, "k"), annotate(consentKey, "shop")},
			want: ownAddress, told: "to share, write the annotation tandem-lb.io/share-with-namespaces: blog on it",
		},
		{
			name: "with the consent of both", shop: []func(*corev1.Service){annotate(shareKey, "k"), annotate(consentKey, "blog")},
			blog: []func(*corev1.Service){annotate(shareKey, "k"), annotate(consentKey, "shop,front")}, want: sharedAddress,
		},
		{
			name: "by MetalLB's key alone, if it is allowed", shop: []func(*corev1.Service){annotate(metallbShareKey, "k")},
			blog: []func(*corev1.Service){annotate(metallbShareKey, "k")}, mode: request.Allow, want: sharedAddress,
		},
		{
			name: "not by MetalLB's key on one of them", shop: []func(*corev1.Service){annotate(shareKey, "k")},
			blog: []func(*corev1.Service){annotate(metallbShareKey, "k")}, mode: request.Allow, want: ownAddress,
			told: "to share, write the annotation tandem-lb.io/share-with-namespaces: blog on it",
		},
		{
			name: "not by MetalLB's key by default", shop: []func(*corev1.Service){annotate(metallbShareKey, "k")},
			blog: []func(*corev1.Service){annotate(metallbShareKey, "k")}, want: ownAddress, told: "share-with-namespaces: shop on this Service",
		},
		{
			name: "never, if it is denied", shop: []func(*corev1.Service){annotate(shareKey, "k"), annotate(consentKey, "blog")},
			blog: []func(*corev1.Service){annotate(shareKey, "k"), annotate(consentKey, "shop")}, mode: request.Deny, want: ownAddress,
		},
		{
			name: "by Cilium's annotations on both", shop: []func(*corev1.Service){annotate(ciliumShareKey, "k"), annotate(ciliumConsentKey, "*")},
			blog: []func(*corev1.Service){annotate(ciliumShareKey, "k"), annotate(ciliumConsentKey, "shop")}, want: sharedAddress,
		},
	}
	for _, tt := range tests {
		bubble(tt.name, t, func(t *testing.T) {
			c := twoTeams(t, "192.0.2.1-192.0.2.9")
			c.rules.CrossNamespace = tt.mode
			l := c.lead()
			c.create(web("shop", 80, tt.shop...), web("blog", 81, tt.blog...))
			l.mustSync("shop/web", "blog/web", "blog/web")
			c.wantShown("blog/web", tt.want)
			if tt.told == "" {
				l.wantEvents(v1alpha1.EventNotShared, 0)
			} else if told := l.wantEvents(v1alpha1.EventNotShared, 1); len(told) == 1 && !strings.Contains(told[0], tt.told) {
				t.Errorf("blog/web is told %q, want %q", told[0], tt.told)
			}
		})
	}
	bubble("a consent that is withdrawn moves nobody, also after a restart, and keeps a third one out", t, func(t *testing.T) {
		c := twoTeams(t, "192.0.2.1-192.0.2.9")
		l := c.lead()
		key := annotate(shareKey, "k")
		c.create(web("shop", 80, key, annotate(consentKey, "blog,default")), web("blog", 81, key, annotate(consentKey, "shop,default")))
		l.mustSync("shop/web", "blog/web")
		c.edit("shop/web", annotate(consentKey, "default"))
		l.mustSync("shop/web")
		told := l.wantEvents(v1alpha1.EventKeptAddress, 1)
		if len(told) == 1 && !strings.Contains(told[0], "share-with-namespaces: blog on this Service") {
			t.Errorf("shop/web is told %q", told[0])
		}
		l.stop()
		l = c.lead()
		c.create(web("default", 82, key, annotate(consentKey, "shop")))
		l.mustSync("web", "blog/web", "shop/web")
		c.wantShown("shop/web", sharedAddress)
		c.wantShown("blog/web", sharedAddress)
		c.wantShown("web", ownAddress)
		l.wantEvents(v1alpha1.EventKeptAddress, 2)
		c.edit("shop/web", annotate(consentKey, "blog"))
		l.mustSync("shop/web")
		c.settle()
		l.syncWoken()
		l.wantEvents(v1alpha1.EventSharingAgrees, 2)
		c.wantClaims("192.0.2.1=shop/web 192.0.2.2=web")
	})
	bubble("what MetalLB has had share goes on, and is told", t, func(t *testing.T) {
		c := twoTeams(t, "198.51.100.1")
		c.create(web("shop", 80, annotate(metallbShareKey, "k"), publish("192.0.2.7")), web("blog", 81, annotate(metallbShareKey, "k"), publish("192.0.2.7")))
		l := c.lead()
		c.setPool(newPool("lan", "192.0.2.0/24"))
		c.settle()
		l.mustSync("shop/web", "blog/web")
		c.wantShown("shop/web", "192.0.2.7")
		c.wantShown("blog/web", "192.0.2.7")
		l.wantEvents(v1alpha1.EventKeptAddress, 2)
	})
}

func TestKeptAddressIsToldOnce(t *testing.T) {
	keyed := func(name string, ports ...int32) *corev1.Service {
		return newService(name, require, "IPv4 IPv6", annotate(shareKey, "k"), listen("TCP", ports...))
	}
	bubble("for each change", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(keyed("a", 80, 8443), keyed("b", 81))
		l.mustSync("a", "b")
		c.edit("b", listen("TCP", 81, 8443))
		l.mustSync("b", "b", "b")
		told := l.wantEvents(v1alpha1.EventKeptAddress, 1)
		for _, want := range []string{
			"Service default/a has 192.0.2.1 on the same port TCP/8443; this Service keeps 192.0.2.1",
			"Service default/a has 2001:db8::1 on the same port TCP/8443; this Service keeps 2001:db8::1", `tandem-lb.io/reallocate: "true"`,
		} {
			if !strings.Contains(told[0], want) {
				t.Errorf("b is told %q, want %q", told[0], want)
			}
		}
		c.edit("b", listen("TCP", 81, 80))
		l.mustSync("b", "b")
		l.wantEvents(v1alpha1.EventKeptAddress, 2)
		c.edit("b", listen("TCP", 81))
		l.mustSync("b", "b")
		l.wantEvents(v1alpha1.EventSharingAgrees, 1)
		c.wantShown("b", bothKinds)
	})
}

func TestAnnotationsOfOtherProducts(t *testing.T) {
	for _, annotation := range []string{"kube-vip.io/loadbalancerIPs", "lbipam.cilium.io/ips", "io.cilium/lb-ipam-ips"} {
		bubble("a dead one moves nobody: "+annotation, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", "192.0.2.0/24"))
			c.create(newService("web", single, "IPv4", annotate(annotation, "192.0.2.9"), publish("192.0.2.5")))
			l := c.lead()
			l.mustSync("web", "web")
			c.wantShown("web", "192.0.2.5")
			told := l.wantEvents(v1alpha1.EventIgnoredAnnotation, 1)
			if want := "The annotation " + annotation + " asks for 192.0.2.9, and the Service has 192.0.2.5"; len(told) == 1 && !strings.Contains(told[0], want) {
				t.Errorf("web is told %q, want %q", told[0], want)
			}
			c.edit("web", publish("")) // a wiped status is no lack of an address
			l.mustSync("web")
			c.wantShown("web", "192.0.2.5")
			c.edit("web", publish(""))
			l.stop()
			l = c.lead()
			l.mustSync("web")
			c.wantShown("web", "192.0.2.5")
		})
		bubble("a Service without an address gets what it asks for: "+annotation, t, func(t *testing.T) {
			c := newCluster(t, newPool("lan", "192.0.2.0/24"))
			l := c.lead()
			c.create(newService("web", single, "IPv4", annotate(annotation, "192.0.2.9")))
			l.mustSync("web", "web")
			c.wantShown("web", "192.0.2.9")
			l.wantEvents(v1alpha1.EventIgnoredAnnotation, 0)
		})
	}
	bubble("a leftover of MetalLB's that moves a Service is told", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.0/24"))
		c.create(newService("web", single, "IPv4", annotate("metallb.universe.tf/loadBalancerIPs", "192.0.2.9"), publish("192.0.2.5")))
		l := c.lead()
		l.mustSync("web", "web")
		c.wantShown("web", "192.0.2.9")
		l.wantEvents(v1alpha1.EventIgnoredAnnotation, 1)
		c.edit("web", annotate("metallb.universe.tf/loadBalancerIPs", "192.0.2.8")) // and an edit is none
		l.mustSync("web", "web")
		c.wantShown("web", "192.0.2.8")
		l.wantEvents(v1alpha1.EventIgnoredAnnotation, 1)
	})
	bubble("one that cannot be followed is told once", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.0/24"))
		l := c.lead()
		c.create(newService("web", single, "IPv4"))
		l.mustSync("web")
		c.edit("web", annotate("metallb.io/loadBalancerIPs", "198.51.100.9"))
		l.wantError("web", "no pool")
		l.wantError("web", "no pool")
		l.wantEvents(v1alpha1.EventIgnoredAnnotation, 1)
	})
	bubble("a product that is not honoured", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.0/24"))
		c.rules.Honour = request.Products{request.KubeVIP}
		l := c.lead()
		c.create(newService("web", single, "IPv4", annotate("metallb.io/loadBalancerIPs", "192.0.2.9"), annotate("lbipam.cilium.io/ips", "192.0.2.8")))
		l.mustSync("web")
		c.wantShown("web", "192.0.2.0")
		l.wantEvents(v1alpha1.EventIgnoredAnnotation, 0)
	})
}

// Two leaders let c and d, which have the same port, join the address of a at the same moment. Neither knows what the other does.
func TestTwoLeadersLetServicesShareAtOnce(t *testing.T) {
	keyed := func(name string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService(name, single, "IPv4", append([]func(*corev1.Service){annotate(shareKey, "k"), listen("TCP", port)}, edits...)...)
	}
	// atOnce has one leader serve c and the other one d, while watches stand still, and returns what came of d.
	atOnce := func(c *cluster, d *corev1.Service) error {
		one, two := c.lead(), c.lead()
		c.create(keyed("a", 80), keyed("c", 81), d)
		one.mustSync("a")
		two.mustSync("a")
		c.frozen = true
		c.api.tracker.standStill(true)
		one.mustSync("c")
		err := two.sync("d")
		c.api.tracker.standStill(false)
		c.frozen = false
		c.settle()
		c.wantShown("c", sharedAddress)
		return err
	}
	bubble("one port is given once", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		c.must(atOnce(c, keyed("d", 81)))
		c.wantShown("d", ownAddress)
		c.wantSharers(sharedAddress, "a=80 c=81")
		c.wantClaims("192.0.2.1=a 192.0.2.2=d")
	})
	bubble("also where the address was asked for, until it is free", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		err := atOnce(c, keyed("d", 81, annotate(fixedKey, sharedAddress)))
		if err == nil || !strings.Contains(err.Error(), "Service default/c has 192.0.2.1 on the same port TCP/81") {
			t.Errorf("d: got error %v", err)
		}
		two := c.leaders[1]
		two.takeWoken()
		for _, l := range c.leaders {
			l.release("c")
		}
		c.vanish("c")
		c.settle()
		two.wantWoken("d")
		two.mustSync("d")
		c.wantShown("d", sharedAddress)
		c.settle()
		c.wantSharers(sharedAddress, "a=80 d=81")
	})
	bubble("two ports are given both", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		c.must(atOnce(c, keyed("d", 82)))
		c.wantShown("d", sharedAddress)
		c.wantSharers(sharedAddress, "a=80 c=81 d=82")
	})
	bubble("a Service that no informer shows yet counts by what its claim says", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		one, two := c.lead(), c.lead()
		c.create(keyed("a", 80), keyed("d", 81))
		one.mustSync("a")
		two.mustSync("a")
		c.frozen = true
		c.api.tracker.standStill(true)
		late := keyed("late", 81)
		c.create(late)
		_, err := one.EnsureLoadBalancer(t.Context(), "", c.service("late"), nil)
		c.must(err)
		two.mustSync("d")
		c.wantShown("d", ownAddress)
	})
}

func TestSharersOnTheClaim(t *testing.T) {
	keyed := func(name string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService(name, single, "IPv4", append([]func(*corev1.Service){annotate(shareKey, "k"), listen("TCP", port)}, edits...)...)
	}
	bubble("follow those that come, change and leave", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(keyed("a", 80), newService("alone", single, "IPv4"))
		l.mustSync("a", "alone")
		c.wantSharers("192.0.2.1", "a=80") // without a further write
		c.wantSharers("192.0.2.2", "")
		c.create(keyed("b", 81), keyed("c", 82))
		c.api.ClearActions()
		l.mustSync("b", "c")
		writes := 0
		for _, action := range c.api.Actions() {
			if action.GetResource().Resource == "ipaddresses" && action.GetVerb() != "get" {
				writes++
			}
		}
		if writes != 2 {
			t.Errorf("two Services that join an address cost %d writes to claims, want 2", writes)
		}
		c.wantSharers("192.0.2.1", "a=80 b=81 c=82")
		c.edit("b", listen("TCP", 83))
		c.wantSharers("192.0.2.1", "a=80 b=83 c=82")
		l.delete("b")
		c.wantSharers("192.0.2.1", "a=80 c=82")
		l.delete("a")
		c.wantSharers("192.0.2.1", "c=82")
		c.wantClaims("192.0.2.1=left 192.0.2.2=alone")
		l.delete("c")
		c.wantClaims("192.0.2.2=alone")
		c.edit("alone", annotate(shareKey, "k"))
		c.wantSharers("192.0.2.2", "alone=80")
	})
	bubble("are completed where an earlier version has written none", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		c.create(keyed("a", 80, publish("192.0.2.1")), keyed("b", 81, publish("192.0.2.1")), keyed("c", 82, publish("192.0.2.1")))
		c.createClaim("192.0.2.1", v1alpha1.ManagedBy, "default", "a")
		l := c.lead()
		c.wantSharers("192.0.2.1", "a=80 b=81 c=82")
		l.mustSync("a", "b", "c")
		c.wantShown("c", "192.0.2.1")
		c.wantClaims("192.0.2.1=a")
	})
	bubble("have an address that was claimed before a leader ended", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(keyed("a", 80), keyed("b", 81))
		l.mustSync("a")
		_, err := l.ensure("b") // and its status is not written
		c.must(err)
		l.stop()
		l = c.lead()
		c.create(keyed("d", 81))
		l.mustSync("d")
		c.wantShown("d", ownAddress)
		l.mustSync("b")
		c.wantShown("b", sharedAddress)
	})
}

// The claim of a shared address and the cache may have different ports of a Service. No other Service is left without an address then.
func TestPortsOfSharers(t *testing.T) {
	keyed := func(name string, port int32, edits ...func(*corev1.Service)) *corev1.Service {
		return newService(name, single, "IPv4", append([]func(*corev1.Service){annotate(shareKey, "k"), listen("TCP", port)}, edits...)...)
	}
	bubble("a Service whose request fails has the ports of its claim", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(keyed("a", 80))
		l.mustSync("a")
		c.edit("a", listen("TCP", 81), annotate(v1alpha1.AnnotationAddressPool, "wan"))
		c.settle()
		c.wantSharers("192.0.2.1", "a=81")
		l.wantError("a", `names AddressPool "wan", which does not exist`)
		c.create(keyed("b", 81), keyed("c", 80))
		l.mustSync("b", "c")
		c.wantShown("b", ownAddress)
		c.wantShown("c", sharedAddress)
	})
	bubble("a Service whose status is overwritten gives a port up", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(keyed("a", 80))
		l.mustSync("a")
		c.edit("a", listen("TCP", 81), publish("198.51.100.11"))
		_, err := l.ensure("a")
		c.must(err)
		c.settle()
		c.wantSharers("192.0.2.1", "a=81")
		c.create(keyed("b", 80))
		l.mustSync("b")
		c.wantShown("b", sharedAddress)
	})
	bubble("a port that was given up a moment ago is given, although the watch does not show that", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", "192.0.2.1-192.0.2.9"))
		l := c.lead()
		c.create(keyed("a", 80))
		l.mustSync("a")
		c.frozen = true
		c.api.tracker.standStill(true)
		c.edit("a", listen("TCP", 81))
		c.create(keyed("b", 80))
		_, err := l.EnsureLoadBalancer(t.Context(), "", c.service("a"), nil)
		c.must(err)
		_, err = c.api.NetworkingV1().IPAddresses().Patch(t.Context(), sharedAddress, types.MergePatchType,
			[]byte(`{"metadata":{"annotations":{"tandem-lb.io/sharers":"{\"default/a\":[\"TCP/81\"]}"}}}`), metav1.PatchOptions{})
		c.must(err)
		got, err := l.EnsureLoadBalancer(t.Context(), "", c.service("b"), nil)
		c.must(err)
		if ip := got.Ingress[0].IP; ip != sharedAddress {
			t.Errorf("b got %s, want %s", ip, sharedAddress)
		}
		c.wantSharers(sharedAddress, "a=81 b=80")
	})
}
