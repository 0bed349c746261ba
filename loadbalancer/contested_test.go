// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/loadbalancer/contest"
)

func TestAnotherWriter(t *testing.T) {
	bubble("another writer of a status is named, answered ever more slowly, and takes nothing", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", require, "IPv4 IPv6"))
		l.mustSync("web")
		l.takeWoken()
		c.frozen = true
		written := func(svc *corev1.Service) {
			svc.ManagedFields = []metav1.ManagedFieldsEntry{{
				Manager: "k3s", Subresource: "status", Time: &metav1.Time{Time: time.Now()},
				FieldsV1: metav1.NewFieldsV1(`{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`),
			}}
		}
		web := ipam.Service{Namespace: "default", Name: "web"}
		for range contest.FreeRounds {
			c.edit("web", publish("198.51.100.11"), written)
			l.wantWoken("web")
			l.mustSync("web")
		}
		if message, _ := l.Contested(web); message != "" {
			t.Errorf("contested after %d rounds: %s", contest.FreeRounds, message)
		}
		c.edit("web", publish("198.51.100.11"), written)
		l.wantWoken("")
		c.edit("web", publish("198.51.100.12"), written)
		l.wantWoken("")
		message, until := l.Contested(web)
		const want = "k3s writes 198.51.100.11 over 192.0.2.1 and 2001:db8::1 in the status"
		if !strings.HasPrefix(message, want) {
			t.Errorf("message %q, want %s", message, want)
		}
		if got := strings.Join(l.events, "\n"); !strings.Contains(got, v1alpha1.EventStatusOverwritten) || !strings.Contains(got, want) {
			t.Errorf("events %s", got)
		}
		time.Sleep(contest.FirstPause)
		c.settle()
		l.wantWoken("web")
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		time.Sleep(time.Until(until) + contest.FirstPause + time.Second)
		if message, _ := l.Contested(web); message != "" {
			t.Errorf("contested after the other writer has stopped: %s", message)
		}
		c.edit("web", publish("198.51.100.11"), written)
		l.wantWoken("web")
	})
}

func TestUnknownWriter(t *testing.T) {
	bubble("another writer that the API server does not name has no time either", t, func(t *testing.T) {
		c := newCluster(t, newPool("lan", dualPool))
		l := c.lead()
		c.create(newService("web", single, "IPv6"))
		l.mustSync("web")
		c.frozen = true
		for range contest.FreeRounds {
			c.edit("web", publish("2001:db8:1::11"))
			l.mustSync("web")
		}
		c.edit("web", publish("2001:db8:1::11"))
		got := l.wantEvents(v1alpha1.EventStatusOverwritten, 1)
		if all := strings.Join(got, "\n"); !strings.Contains(all, "another controller writes 2001:db8:1::11") || strings.Contains(all, "last at") {
			t.Errorf("events %s", all)
		}
	})
}

func TestStatusWriter(t *testing.T) {
	us, _, _ := strings.Cut(rest.DefaultKubernetesUserAgent(), "/")
	entry := func(manager, subresource, fields string, at int64) metav1.ManagedFieldsEntry {
		return metav1.ManagedFieldsEntry{
			Manager: manager, Subresource: subresource, FieldsV1: metav1.NewFieldsV1(fields), Time: &metav1.Time{Time: time.Unix(at, 0)},
		}
	}
	const status = `{"f:status":{"f:loadBalancer":{"f:ingress":{}}}}`
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{ManagedFields: []metav1.ManagedFieldsEntry{
		entry("kube-vip", "status", status, 1), entry("k3s", "status", status, 2), entry("kubectl", "", `{"f:spec":{}}`, 3), entry(us, "status", status, 4),
		entry("conditions", "status", `{"f:status":{"f:conditions":{}}}`, 5),
	}}}
	if manager, at := statusWriter(svc); manager != "k3s" || at.Unix() != 2 {
		t.Errorf("the writer is %s at %s, want k3s", manager, at)
	}
}
