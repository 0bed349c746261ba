// SPDX-License-Identifier: Apache-2.0

package observation

import (
	"cmp"
	"slices"
	"strings"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Speakers know by gossip which of them are alive. The controller manager takes no part in gossip, and reads it from Leases: the first few
// living speakers by name each renew a Lease of their own, whatever the number of nodes is. A Lease lists the speakers that its speaker
// takes for dead. For example node1, node2 and node3 report, and each Lease lists node7, whose speaker has died.
const (
	// Reporters is how many speakers renew a Lease, so that two of them may lose the API.
	Reporters = 3
	// ReportPeriod is how often they do. They do it at once when a speaker dies or comes.
	ReportPeriod = 2 * time.Second
	// ReportTimeout is how long after its last renewal a Lease still counts.
	ReportTimeout = 8 * time.Second

	// LabelReport is the label of these Leases, and AnnotationDead has the names of nodes whose speakers are dead, separated by commas.
	LabelReport    = "tandem-lb.io/speaker-report"
	AnnotationDead = "tandem-lb.io/dead-speakers"
)

// ReportName returns the name of the Lease of a node's speaker.
func ReportName(node string) string { return "tandem-speaker." + node }

// Report returns the Lease in which the speaker of a node says that others are dead. Its owner is the Node.
func Report(namespace, node string, owner *metav1.OwnerReference, dead []string, now time.Time) *coordinationv1.Lease {
	lease := &coordinationv1.Lease{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, Name: ReportName(node), Labels: map[string]string{LabelReport: "true"},
			Annotations: map[string]string{AnnotationDead: strings.Join(dead, ",")},
		},
		Spec: coordinationv1.LeaseSpec{
			HolderIdentity: &node, LeaseDurationSeconds: new(int32(ReportTimeout / time.Second)), RenewTime: &metav1.MicroTime{Time: now},
		},
	}
	if owner != nil {
		lease.OwnerReferences = []metav1.OwnerReference{*owner}
	}
	return lease
}

// Liveness is what the Leases say over time. It goes by when renewals were seen, and not by the clocks of nodes.
type Liveness struct {
	started time.Time
	leases  map[string]*renewal
}

// renewal is what was seen of a Lease.
type renewal struct {
	renewed time.Time // as the Lease says
	live    time.Time // when a renewal was seen last, zero before the first
}

// NewLiveness returns what is known at a time at which no Lease has been seen: nothing.
func NewLiveness(now time.Time) *Liveness {
	return &Liveness{started: now, leases: map[string]*renewal{}}
}

// View is who is alive at a moment.
type View struct {
	// Known is false as long as it may be that a Lease is about to be renewed for the first time that we see.
	Known bool
	// Until is when the view ends if no Lease is renewed before.
	Until time.Time

	reports []map[string]bool // the dead of each Lease that counts
}

// Alive reports whether the speaker of a node is alive, if the node has one: whether some report that counts does not list it.
func (v View) Alive(node string) bool {
	return slices.ContainsFunc(v.reports, func(dead map[string]bool) bool { return !dead[node] })
}

// Dead reports whether the speaker of a node is dead: whether there are reports that count, and all of them list it.
func (v View) Dead(node string) bool { return len(v.reports) > 0 && !v.Alive(node) }

// Equal reports whether two views say the same of every node.
func (v View) Equal(o View) bool {
	return v.Known == o.Known && slices.EqualFunc(v.reports, o.reports, func(a, b map[string]bool) bool {
		if len(a) != len(b) {
			return false
		}
		for node := range a {
			if !b[node] {
				return false
			}
		}
		return true
	})
}

// Update takes in the Leases as they are at a time. A Lease that has not been renewed since it was first seen does not count: its speaker
// may have stopped long ago.
func (l *Liveness) Update(now time.Time, leases []*coordinationv1.Lease) View {
	v := View{Known: now.Sub(l.started) >= ReportTimeout, Until: l.started.Add(ReportTimeout)}
	leases = slices.SortedFunc(slices.Values(leases), func(a, b *coordinationv1.Lease) int { return cmp.Compare(a.Name, b.Name) })
	for _, lease := range leases {
		if lease.Spec.RenewTime == nil {
			continue
		}
		r := l.leases[lease.Name]
		if r == nil {
			r = &renewal{renewed: lease.Spec.RenewTime.Time}
			l.leases[lease.Name] = r
		} else if !r.renewed.Equal(lease.Spec.RenewTime.Time) {
			r.renewed, r.live = lease.Spec.RenewTime.Time, now
		}
		if r.live.IsZero() || now.Sub(r.live) >= ReportTimeout {
			continue
		}
		if end := r.live.Add(ReportTimeout); len(v.reports) == 0 || end.Before(v.Until) {
			v.Until = end
		}
		v.Known = true
		v.reports = append(v.reports, deadIn(lease))
	}
	if len(v.reports) == 0 && v.Known {
		v.Until = time.Time{} // Only a renewal can change that.
	}
	return v
}

// ViewAt returns the view of a program that has seen the Leases once, and goes by the clock of the cluster: now is the time of the API server. A Lease
// counts that was renewed less than ReportTimeout before. For example a Lease that was renewed at 12:00:00 counts at 12:00:07, and so does one of
// 12:00:09, whose speaker's clock is ahead.
func ViewAt(now time.Time, leases []coordinationv1.Lease) View {
	v := View{Known: true}
	for i := range leases {
		renewed := leases[i].Spec.RenewTime
		if renewed == nil || now.Sub(renewed.Time) >= ReportTimeout {
			continue
		}
		v.reports = append(v.reports, deadIn(&leases[i]))
	}
	return v
}

// deadIn returns the nodes whose speakers a Lease lists as dead.
func deadIn(lease *coordinationv1.Lease) map[string]bool {
	dead := map[string]bool{}
	for node := range strings.SplitSeq(lease.Annotations[AnnotationDead], ",") {
		if node != "" {
			dead[node] = true
		}
	}
	return dead
}
