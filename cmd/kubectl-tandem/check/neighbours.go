// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/speaker/diagnosis"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// mostQuestions is for how many addresses one speaker asks its LAN. Each takes half a second, since a second answer may come late.
const mostQuestions = 8

// Question is an address that is announced on layer 2, and for which the LAN can be asked.
type Question struct {
	Address netip.Addr
	// Record is the name of the L2Announcement, and Holder and Interface who answers by it.
	Record, Holder, Interface string
}

// Heard is what a speaker heard when it asked its LAN for an address.
type Heard struct {
	Question
	// Asker is the node of the speaker.
	Asker string
	// Stations are the machines that answered, and Err why it is not known.
	Stations []reachability.Station
	Err      error
}

// others returns the machines that answered beside the holder, as a person looks for them, and whether the holder did.
func (h *Heard) others() (others []string, holder bool) {
	for _, station := range h.Stations {
		switch {
		case station.Node == h.Holder:
			holder = true
		case station.Node != "":
			others = append(others, station.MAC+" of "+station.Node)
		default:
			others = append(others, station.MAC)
		}
	}
	return others, holder
}

// questions returns for which addresses each speaker is to ask, and how many addresses are left out, since the speakers that could ask for them have
// enough. The addresses of one Service go before all others.
func questions(s *cluster.State, first types.NamespacedName) (byAsker map[string][]Question, left int) {
	records := make([]*v1alpha1.L2Announcement, 0, len(s.Announcements.Items))
	for i := range s.Announcements.Items {
		records = append(records, &s.Announcements.Items[i])
	}
	isFirst := func(a *v1alpha1.L2Announcement) bool {
		return a.Service.Namespace == first.Namespace && a.Service.Name == first.Name
	}
	slices.SortStableFunc(records, func(a, b *v1alpha1.L2Announcement) int {
		switch {
		case isFirst(a) != isFirst(b) && isFirst(a):
			return -1
		case isFirst(a) != isFirst(b):
			return 1
		}
		return strings.Compare(a.Name, b.Name)
	})
	byAsker = map[string][]Question{}
	for _, record := range records {
		if record.Status.Node == "" || len(record.Status.Interfaces) == 0 || !s.Snapshot.Alive(record.Status.Node) {
			continue
		}
		askers := askersOf(s, record.Status.Node, record.Status.Interfaces[0])
		full := func(asker string) bool { return len(byAsker[asker]) >= mostQuestions }
		if askers = slices.DeleteFunc(askers, full); len(askers) == 0 {
			left += len(record.Status.Addresses)
			continue
		}
		for _, address := range announcedOn(s, record) {
			asker := slices.MinFunc(askers, func(a, b string) int { return len(byAsker[a]) - len(byAsker[b]) })
			if full(asker) {
				left++
				continue
			}
			byAsker[asker] = append(byAsker[asker], Question{address, record.Name, record.Status.Node, record.Status.Interfaces[0]})
		}
	}
	return byAsker, left
}

// announcedOn returns the addresses of a record that its node is to answer for now: not one without an endpoint, for example.
func announcedOn(s *cluster.State, record *v1alpha1.L2Announcement) (addresses []netip.Addr) {
	for _, f := range s.Diagnoser.Service(types.NamespacedName{Namespace: record.Service.Namespace, Name: record.Service.Name}, true) {
		if f.Announced && f.Way == diagnosis.Layer2 && slices.Contains(record.Status.Addresses, f.Address.String()) {
			addresses = append(addresses, f.Address)
		}
	}
	return addresses
}

// askersOf returns the nodes that can ask for what a node announces on an interface: those with a speaker that is alive, and with an interface in a subnet
// of that one.
func askersOf(s *cluster.State, holder, iface string) (askers []string) {
	subnets := func(link v1alpha1.InterfaceState) (all []netip.Prefix) {
		for _, text := range link.Addresses {
			if p, err := netip.ParsePrefix(text); err == nil && !p.IsSingleIP() {
				all = append(all, p.Masked())
			}
		}
		return all
	}
	var theirs []netip.Prefix
	for i := range s.Speakers.Items {
		for _, link := range s.Speakers.Items[i].Status.Interfaces {
			if s.Speakers.Items[i].Name == holder && link.Name == iface {
				theirs = subnets(link)
			}
		}
	}
	for i := range s.Speakers.Items {
		name := s.Speakers.Items[i].Name
		if name == holder || !s.Snapshot.Alive(name) {
			continue
		}
		if slices.ContainsFunc(usable(&s.Speakers.Items[i]), func(link v1alpha1.InterfaceState) bool {
			return slices.ContainsFunc(subnets(link), func(p netip.Prefix) bool { return slices.Contains(theirs, p) })
		}) {
			askers = append(askers, name)
		}
	}
	return askers
}

// hear has the speaker of a node ask. What is not as it should be is asked once more, of the node that is on record by then: an address may be moving.
func hear(ctx context.Context, c client.Reader, speaker poster, asker string, q Question) Heard {
	h := hearOnce(ctx, speaker, asker, q)
	others, holder := h.others()
	if h.Err != nil || holder && len(others) == 0 {
		return h
	}
	var record v1alpha1.L2Announcement
	if err := c.Get(ctx, client.ObjectKey{Name: q.Record}, &record); err != nil {
		h.Err = err
		return h
	}
	if q.Holder = record.Status.Node; len(record.Status.Interfaces) > 0 {
		q.Interface = record.Status.Interfaces[0]
	}
	if q.Holder == "" || q.Holder == asker {
		h.Err = fmt.Errorf("%s is moving", q.Address)
		return h
	}
	return hearOnce(ctx, speaker, asker, q)
}

// poster is a speaker that can be asked, as [cluster.Speaker] is.
type poster interface {
	Post(ctx context.Context, path string, into any) error
}

func hearOnce(ctx context.Context, speaker poster, asker string, q Question) Heard {
	h := Heard{Question: q, Asker: asker}
	var answer reachability.Asked
	query := url.Values{"address": {q.Address.String()}, "node": {q.Holder}, "interface": {q.Interface}}
	if h.Err = speaker.Post(ctx, "/probe/lan?"+query.Encode(), &answer); h.Err == nil && answer.Error != "" {
		h.Err = fmt.Errorf("%s: %s", asker, answer.Error)
	}
	h.Stations = answer.Stations
	return h
}

// neighbours looks whether one machine alone answers on the LAN for each address, and whether it is the holder.
func neighbours(in *Input) *Step {
	const name = "neighbours"
	var f found
	var unable []string
	well := 0
	for i := range in.Heard {
		h := &in.Heard[i]
		others, holder := h.others()
		switch {
		case h.Err != nil:
			unable = append(unable, h.Err.Error())
		case len(others) > 0 && holder:
			f.fail("%s: %s hears %s answer for it, beside %s, which holds it", h.Address, h.Asker, strings.Join(others, " and "), h.Holder)
		case len(others) > 0:
			f.fail("%s: %s hears %s answer for it, in the place of %s, which holds it", h.Address, h.Asker, strings.Join(others, " and "), h.Holder)
		case !holder:
			f.fail("%s: %s hears nobody answer for it, and %s holds it", h.Address, h.Asker, h.Holder)
		default:
			well++
		}
	}
	switch {
	case len(in.Heard) == 0 && len(in.Facts) == 0:
		return skip(name, "%s", unasked(in))
	case len(in.Heard) == 0:
		return skip(name, "there is no address on layer 2 for which another node could ask")
	case well == 0 && len(f.failures) == 0:
		return skip(name, "no speaker could ask: %s", unable[0])
	}
	message := fmt.Sprintf("the holders alone answer for %s", plural(well, "address"))
	if in.Unheard > 0 {
		message += fmt.Sprintf("; for %d more nobody was asked", in.Unheard)
	}
	if len(unable) > 0 {
		message += fmt.Sprintf("; %d could not be asked for: %s", len(unable), unable[0])
	}
	return f.step(name, message, "find the MAC on the switch, and take the address off that machine, or out of the pool by spec.ipv4.exclude or spec.ipv6.exclude; where nobody "+
		"answers: kubectl tandem why ADDRESS --probe")
}
