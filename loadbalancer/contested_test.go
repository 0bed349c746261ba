// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/tandem-lb/tandem/ipam"
	"github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// TestRounds has another writer answer each of our writes at once, a given time after its last write.
func TestRounds(t *testing.T) {
	const now = time.Duration(0)
	for name, test := range map[string]struct {
		after  []time.Duration // each of the other's writes
		pauses []time.Duration // before each of ours
	}{
		"three rounds in a minute": {
			after:  []time.Duration{now, now, now},
			pauses: []time.Duration{0, 0, 0},
		},
		"a round every half minute": {
			after:  []time.Duration{now, 30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second, 30 * time.Second},
			pauses: []time.Duration{0, 0, 0, 0, 0, 0},
		},
		"without end": {
			after: make([]time.Duration, 10),
			pauses: []time.Duration{
				0, 0, 0, 10 * time.Second, 20 * time.Second, 40 * time.Second, 80 * time.Second, 160 * time.Second, 300 * time.Second, 300 * time.Second,
			},
		},
		"again before it counts as over": {
			after:  []time.Duration{now, now, now, now, 79 * time.Second},
			pauses: []time.Duration{0, 0, 0, 10 * time.Second, 20 * time.Second},
		},
		"again when it is over": {
			after:  []time.Duration{now, now, now, now, 81 * time.Second},
			pauses: []time.Duration{0, 0, 0, 10 * time.Second, 0},
		},
	} {
		t.Run(name, func(t *testing.T) {
			clock := time.Unix(0, 0)
			c, version := &contest{since: clock, last: clock}, "0"
			var got []time.Duration
			for _, after := range test.after {
				clock, version = clock.Add(after), version+"+"
				write, pause := c.next(version, clock)
				if write == (pause > 0) {
					t.Fatalf("write = %v, pause = %s", write, pause)
				}
				got = append(got, pause)
				if pause == 0 {
					continue
				}
				version += "+" // the other one goes on writing in the pause
				if write, again := c.next(version, clock.Add(pause-1)); write || again != 0 {
					t.Errorf("in the pause: write = %v, pause = %s", write, again)
				}
				clock = clock.Add(pause)
				for _, family := range []string{"IPv4", "IPv6"} {
					if write, _ := c.next(version, clock); !write {
						t.Errorf("%s is not written after the pause", family)
					}
				}
			}
			if diff := cmp.Diff(test.pauses, got); diff != "" {
				t.Errorf("pauses (-want +got):\n%s", diff)
			}
		})
	}
}

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
		for range freeRounds {
			c.edit("web", publish("198.51.100.11"), written)
			l.wantWoken("web")
			l.mustSync("web")
		}
		if message, _ := l.Contested(web); message != "" {
			t.Errorf("contested after %d rounds: %s", freeRounds, message)
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
		time.Sleep(firstPause)
		c.settle()
		l.wantWoken("web")
		c.wantClaims("192.0.2.1=web 2001:db8::1=web")
		l.mustSync("web")
		c.wantShown("web", bothKinds)
		time.Sleep(time.Until(until) + firstPause + time.Second)
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
		for range freeRounds {
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
