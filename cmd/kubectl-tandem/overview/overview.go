// SPDX-License-Identifier: Apache-2.0

// Package overview says how Tandem is doing in a cluster: its pools, speakers, BGP sessions, Services and configuration, and the problems that there are.
//
// An Overview is worked out of a [cluster.State], and has in short words what commands print and pages show. What is well and what is not is said by
// the packages of the programs: config and diagnosis. For example a Service is listed as NotAnnounced with the sentence that the controller manager
// writes into its condition, worked out anew of what the cluster is now.
package overview

import (
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
)

// Overview is how Tandem is doing at a moment.
type Overview struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"` // of Tandem
	Leader    Leader    `json:"leader"`
	Pools     []Pool    `json:"pools"`
	Speakers  []Speaker `json:"speakers"`
	Sessions  []Session `json:"sessions"`
	Services  []Service `json:"services"`
	// Configuration has the objects that are not in use, or without effect.
	Configuration []Object `json:"configuration"`
	// Problems are what is wrong, in a few words each; none if all is well.
	Problems []string `json:"problems"`
}

// Leader is the controller manager that leads.
type Leader struct {
	Name    string    `json:"name,omitempty"` // "" if there is none
	Renewed time.Time `json:"renewed,omitzero"`
	// Alive says whether its Lease has not expired.
	Alive bool `json:"alive"`
}

// Object is an object of the configuration with a condition that says what is wrong with it.
type Object struct {
	Kind      string `json:"kind"`
	Name      string `json:"name"`
	Condition string `json:"condition"` // Ready or Effective
	Reason    string `json:"reason"`
	Message   string `json:"message"`
}

// Of returns the Overview of a State.
func Of(s *cluster.State) *Overview {
	o := &Overview{Time: s.Now, Namespace: s.System, Leader: leaderOf(s)}
	o.Pools = Pools(s)
	o.Speakers = Speakers(s)
	o.Sessions = Sessions(s)
	o.Services = Services(s)
	o.Configuration = configuration(s)
	o.Problems = o.problems()
	return o
}

// leaderOf returns the leader by its Lease, as of the clock of the API server.
func leaderOf(s *cluster.State) (l Leader) {
	if s.Leader == nil || s.Leader.Spec.HolderIdentity == nil || *s.Leader.Spec.HolderIdentity == "" || s.Leader.Spec.RenewTime == nil {
		return Leader{}
	}
	l = Leader{Name: *s.Leader.Spec.HolderIdentity, Renewed: s.Leader.Spec.RenewTime.Time}
	seconds := s.Leader.Spec.LeaseDurationSeconds
	l.Alive = seconds != nil && s.Now.Sub(l.Renewed) < time.Duration(*seconds)*time.Second
	return l
}

// configuration returns the objects that speakers do not use, or cannot follow, by what config and diagnosis say of them now: the conditions of the
// objects may be those of a moment ago.
func configuration(s *cluster.State) []Object {
	objects := []Object{}
	_, ready := config.Compile(s.Config)
	effective := diagnosis.Advertisements(s.Snapshot)
	add := func(kind, name string) {
		key := config.Key{Kind: kind, Name: name}
		for _, conditions := range []map[config.Key]metav1.Condition{ready, effective} {
			if c, ok := conditions[key]; ok && c.Status != metav1.ConditionTrue {
				objects = append(objects, Object{kind, name, c.Type, c.Reason, c.Message})
				return
			}
		}
	}
	for i := range s.Config.L2Advertisements {
		add("L2Advertisement", s.Config.L2Advertisements[i].Name)
	}
	for i := range s.Config.BGPAdvertisements {
		add("BGPAdvertisement", s.Config.BGPAdvertisements[i].Name)
	}
	for i := range s.Config.InterfaceAdvertisements {
		add("InterfaceAdvertisement", s.Config.InterfaceAdvertisements[i].Name)
	}
	for i := range s.Config.BGPPeers {
		add("BGPPeer", s.Config.BGPPeers[i].Name)
	}
	for i := range s.Config.BFDProfiles {
		add("BFDProfile", s.Config.BFDProfiles[i].Name)
	}
	for i := range s.Config.Communities {
		add("Community", s.Config.Communities[i].Name)
	}
	return objects
}

// problems says in a few words each what is wrong.
func (o *Overview) problems() []string {
	problems := []string{}
	say := func(format string, args ...any) { problems = append(problems, fmt.Sprintf(format, args...)) }
	switch {
	case o.Leader.Name == "":
		say("no controller manager leads")
	case !o.Leader.Alive:
		say("the controller manager that leads has not been heard of for %s", o.Time.Sub(o.Leader.Renewed).Round(time.Second))
	}
	if len(o.Speakers) == 0 {
		say("no speaker has reported")
	}
	dead, unwell := 0, 0
	for _, s := range o.Speakers {
		switch {
		case !s.Alive:
			dead++
		case len(s.Problems) > 0:
			unwell++
		}
	}
	down := 0
	for _, s := range o.Sessions {
		if s.Problem != "" {
			down++
		}
	}
	pools := 0
	for _, p := range o.Pools {
		if p.Problem != "" {
			pools++
		}
	}
	states := map[ServiceState]int{}
	for _, s := range o.Services {
		states[s.State]++
	}
	count(&problems, pools, "pool gives no address", "pools give no address")
	count(&problems, len(o.Configuration), "object of the configuration has no effect", "objects of the configuration have no effect")
	count(&problems, dead, "speaker is dead", "speakers are dead")
	count(&problems, unwell, "speaker reports a problem", "speakers report problems")
	count(&problems, down, "BGP session is not as it should be", "BGP sessions are not as they should be")
	count(&problems, states[Waiting], "Service waits for addresses", "Services wait for addresses")
	count(&problems, states[NotAnnounced], "Service is not announced", "Services are not announced")
	count(&problems, states[Unanswered], "Service does not answer", "Services do not answer")
	return problems
}

// count adds a problem if there are any of a kind.
func count(problems *[]string, n int, one, many string) {
	switch {
	case n == 1:
		*problems = append(*problems, "1 "+one)
	case n > 1:
		*problems = append(*problems, fmt.Sprintf("%d %s", n, many))
	}
}

// Pool is one partition of an AddressPool: its addresses of one family.
type Pool struct {
	Name      string   `json:"name"`
	Family    string   `json:"family"`
	Ranges    []string `json:"ranges"`
	Capacity  int64    `json:"capacity"`
	Allocated int64    `json:"allocated"`
	Cooling   int64    `json:"cooling"`
	Available int64    `json:"available"`
	// Problem says why the pool gives no address, "" if it does.
	Problem string `json:"problem,omitempty"`
	// Notes are the messages of the pool's other conditions, of addresses that are reserved, stranded, in several pools, or at a limit.
	Notes []string `json:"notes,omitempty"`
}

// Pools returns the partitions of all pools, by name, IPv4 first. The counts are those that the controller manager has published.
func Pools(s *cluster.State) []Pool {
	pools := []Pool{}
	for i := range s.Config.AddressPools {
		p := &s.Config.AddressPools[i]
		var notes []string
		for _, condition := range []string{
			ipamv1alpha1.ConditionOverlapping, ipamv1alpha1.ConditionStranded, ipamv1alpha1.ConditionReserved, ipamv1alpha1.ConditionAtLimit,
		} {
			if c := meta.FindStatusCondition(p.Status.Conditions, condition); c != nil && c.Status == metav1.ConditionTrue {
				notes = append(notes, c.Type+": "+c.Message)
			}
		}
		add := func(family string, ranges []string, counts *ipamv1alpha1.PartitionStatus) {
			partition := Pool{Name: p.Name, Family: family, Ranges: ranges, Notes: notes}
			if counts == nil {
				partition.Problem = "the controller manager has not counted its addresses yet"
			} else {
				partition.Capacity, partition.Allocated, partition.Cooling, partition.Available =
					counts.Capacity, counts.Allocated, counts.Cooling, counts.Available
			}
			// Ready is one condition for both partitions, and this one may have addresses.
			if c := meta.FindStatusCondition(p.Status.Conditions, ipamv1alpha1.ConditionReady); c != nil && c.Status == metav1.ConditionFalse &&
				(c.Reason != ipamv1alpha1.ReasonExhausted || partition.Available == 0) {
				partition.Problem = c.Message
			}
			pools = append(pools, partition)
		}
		if p.Spec.IPv4 != nil {
			add("IPv4", texts(p.Spec.IPv4.Ranges), p.Status.IPv4)
		}
		if p.Spec.IPv6 != nil {
			add("IPv6", texts(p.Spec.IPv6.Ranges), p.Status.IPv6)
		}
	}
	return pools
}

func texts[T ~string](list []T) []string {
	all := make([]string, len(list))
	for i, t := range list {
		all[i] = string(t)
	}
	return all
}

// Percent returns how much of a partition is taken, cooling addresses among them. A partition in which a single address is taken is not 0 % full, and
// one in which a single address is free not 100 %.
func (p Pool) Percent() int {
	taken := p.Allocated + p.Cooling
	switch {
	case p.Capacity == 0 || p.Available == 0:
		return 100
	case taken == 0:
		return 0
	}
	return min(99, max(1, int(float64(taken)/float64(p.Capacity)*100)))
}
