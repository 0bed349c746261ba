// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

func TestComeback(t *testing.T) {
	sessions := func(states ...v1alpha1.BGPState) (all []v1alpha1.BGPSession) {
		for i, state := range states {
			all = append(all, v1alpha1.BGPSession{Peer: fmt.Sprint("tor", i+1), State: state})
		}
		return all
	}
	const up, down = v1alpha1.BGPEstablished, v1alpha1.BGPActive
	for name, tt := range map[string]struct {
		before, now []v1alpha1.BGPSession
		after       time.Duration
		want        []string
	}{
		"no speaker before":                  {now: sessions(down)},
		"a session that was up":              {before: sessions(up), now: sessions(down), want: []string{"tor1"}},
		"one of two is back":                 {before: sessions(up, up), now: sessions(up, down), want: []string{"tor2"}},
		"a session that was down":            {before: sessions(down), now: sessions(down)},
		"a peer of which this node has none": {before: sessions(up)},
		"a router that is down for a minute": {before: sessions(up), now: sessions(down), after: time.Minute},
		"a router that is down for a moment": {before: sessions(up), now: sessions(down), after: 59 * time.Second, want: []string{"tor1"}},
	} {
		t.Run(name, func(t *testing.T) {
			objects := fake.NewClientBuilder().WithScheme(config.Scheme())
			if tt.before != nil {
				objects.WithObjects(&v1alpha1.SpeakerStatus{
					ObjectMeta: metav1.ObjectMeta{Name: "node1"}, Status: v1alpha1.SpeakerState{BGPSessions: tt.before},
				})
			}
			start := time.Now()
			c, err := readComeback(t.Context(), start, objects.Build(), "node1")
			if err != nil {
				t.Fatal(err)
			}
			missing := c.Missing(start.Add(tt.after), func() []v1alpha1.BGPSession { return tt.now })
			if diff := cmp.Diff(tt.want, missing); diff != "" {
				t.Errorf("sessions that are waited for (-want +got):\n%s", diff)
			}
		})
	}
}
