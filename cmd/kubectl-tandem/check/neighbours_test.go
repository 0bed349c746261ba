// SPDX-License-Identifier: Apache-2.0

package check

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	"github.com/tandem-lb/tandem/speaker/reachability"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestQuestions spreads questions over the nodes that share the link, and asks for nothing that is not to answer.
func TestQuestions(t *testing.T) {
	none := types.NamespacedName{}
	with := func(services ...[]client.Object) []client.Object {
		objects := fixture.LAN()
		for _, of := range services {
			objects = append(objects, of...)
		}
		return objects
	}
	dual := fixture.Service("web", "node1", everywhere, v4, "2001:db8:51::1000")
	several := func(n int) (all []client.Object) {
		for i := range n {
			all = append(all, fixture.Service(fmt.Sprintf("s%02d", i), "node1", everywhere, fmt.Sprintf("198.51.100.%d", 201+i))...)
		}
		return all
	}
	for _, tt := range []struct {
		name    string
		objects []client.Object
		first   types.NamespacedName
		change  func([]client.Object)
		want    map[string]string // by the asker
		left    int
	}{
		{name: "both families", objects: with(dual), want: map[string]string{"node2": v4, "node3": "2001:db8:51::1000"}},
		{name: "without an endpoint", objects: with(fixture.Service("web", "node1", nil, v4)), want: map[string]string{}},
		{name: "without a holder", objects: with(fixture.Service("web", "", everywhere, v4)), want: map[string]string{}},
		{
			name: "one node has no interface in the subnet", objects: with(dual), want: map[string]string{"node3": v4 + " 2001:db8:51::1000"},
			change: func(objects []client.Object) {
				fixture.Find[*v1alpha1.SpeakerStatus](t, objects, "node2").Status.Interfaces[0].Addresses = []string{"192.0.2.12/24", "198.51.100.12/32"}
			},
		},
		{
			name: "more than speakers can ask for", objects: with(several(18)), left: 2, want: map[string]string{
				"node2": "198.51.100.201 198.51.100.203 198.51.100.205 198.51.100.207 198.51.100.209 198.51.100.211 198.51.100.213 198.51.100.215",
				"node3": "198.51.100.202 198.51.100.204 198.51.100.206 198.51.100.208 198.51.100.210 198.51.100.212 198.51.100.214 198.51.100.216",
			},
		},
		{
			name: "the Service that is named comes first", objects: with(several(18)), left: 2, first: types.NamespacedName{Namespace: "default", Name: "s17"},
			want: map[string]string{
				"node2": "198.51.100.218 198.51.100.202 198.51.100.204 198.51.100.206 198.51.100.208 198.51.100.210 198.51.100.212 198.51.100.214",
				"node3": "198.51.100.201 198.51.100.203 198.51.100.205 198.51.100.207 198.51.100.209 198.51.100.211 198.51.100.213 198.51.100.215",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(tt.objects)
			}
			if tt.first == none {
				tt.first = types.NamespacedName{Namespace: "default", Name: "other"}
			}
			byAsker, left := questions(fixture.State(t, tt.objects...), tt.first)
			got := map[string]string{}
			for asker, all := range byAsker {
				var addresses []string
				for _, q := range all {
					addresses = append(addresses, q.Address.String())
					if q.Holder != "node1" || q.Interface != "eth0" || !strings.HasPrefix(q.Record, "default.") {
						t.Errorf("%+v", q)
					}
				}
				got[asker] = strings.Join(addresses, " ")
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || left != tt.left {
				t.Errorf("%d are left, want %d (-want +got):\n%s", left, tt.left, diff)
			}
		})
	}
}

// fakeSpeaker answers one question after another.
type fakeSpeaker struct {
	answers []reachability.Asked
	asked   []url.Values
	err     error
}

func (s *fakeSpeaker) Post(_ context.Context, path string, into any) error {
	_, query, _ := strings.Cut(path, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return err
	}
	s.asked = append(s.asked, values)
	if s.err != nil {
		return s.err
	}
	text, err := json.Marshal(s.answers[min(len(s.asked), len(s.answers))-1])
	if err != nil {
		return err
	}
	return json.Unmarshal(text, into)
}

// TestHear asks once more for what is not as it should be, of the node that holds the address by then.
func TestHear(t *testing.T) {
	by := func(nodes ...string) (a reachability.Asked) {
		a.Address = netip.MustParseAddr(v4)
		for _, node := range nodes {
			a.Stations = append(a.Stations, reachability.Station{MAC: "02:00:00:00:00:7f", Node: node})
		}
		return a
	}
	for _, tt := range []struct {
		name    string
		answers []reachability.Asked
		fails   error
		holder  string // on record now
		asked   []string
		wantErr string
		others  int
	}{
		{name: "the holder alone", answers: []reachability.Asked{by("node1")}, holder: "node1", asked: []string{"node1"}},
		{name: "two answers", answers: []reachability.Asked{by("node1", ""), by("", "node1")}, holder: "node1", asked: []string{"node1", "node1"}, others: 1},
		{name: "two answers, once", answers: []reachability.Asked{by("node1", "node3"), by("node1")}, holder: "node1", asked: []string{"node1", "node1"}},
		{name: "it has moved", answers: []reachability.Asked{by("node3"), by("node3")}, holder: "node3", asked: []string{"node1", "node3"}},
		{name: "it moves to the node that asks", answers: []reachability.Asked{by()}, holder: "node2", asked: []string{"node1"}, wantErr: v4 + " is moving"},
		{name: "it is given up", answers: []reachability.Asked{by()}, asked: []string{"node1"}, wantErr: v4 + " is moving"},
		{
			name: "no common link", answers: []reachability.Asked{{Error: "no interface"}}, holder: "node1", asked: []string{"node1"},
			wantErr: "node2: no interface",
		},
		{name: "no answer of the speaker", fails: errors.New("429"), holder: "node1", asked: []string{"node1"}, wantErr: "429"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := fixture.Client(fixture.Service("web", "node1", everywhere, v4)...)
			var record v1alpha1.L2Announcement
			if err := c.Get(t.Context(), client.ObjectKey{Name: "default.web"}, &record); err != nil {
				t.Fatal(err)
			}
			record.Status.Node = tt.holder
			if err := c.Update(t.Context(), &record); err != nil {
				t.Fatal(err)
			}
			speaker := &fakeSpeaker{answers: tt.answers, err: tt.fails}
			h := hear(t.Context(), c, speaker, "node2", Question{netip.MustParseAddr(v4), "default.web", "node1", "eth0"})
			var asked []string
			for _, query := range speaker.asked {
				asked = append(asked, query.Get("node"))
				if query.Get("address") != v4 || query.Get("interface") != "eth0" || query.Has("port") {
					t.Errorf("asked %v", query)
				}
			}
			if diff := cmp.Diff(tt.asked, asked); diff != "" {
				t.Errorf("asked (-want +got):\n%s", diff)
			}
			others, holder := h.others()
			if tt.wantErr != "" {
				if h.Err == nil || h.Err.Error() != tt.wantErr {
					t.Errorf("the error is %v, want %q", h.Err, tt.wantErr)
				}
			} else if h.Err != nil || len(others) != tt.others || !holder || h.Asker != "node2" {
				t.Errorf("heard %+v", h)
			}
		})
	}
}
