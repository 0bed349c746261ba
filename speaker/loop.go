// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"time"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// settle is how long changes in the API are gathered before a new decision, so that a burst of them costs one. Changes that a failure
// causes (of gossip, of interfaces) are never delayed.
const settle = 20 * time.Millisecond

// loop decides what the parts of a speaker announce, whenever something has changed. One goroutine runs it.
type loop struct {
	*Speaker
	members   *membership.Members
	sessions  *sessions
	roster    *roster
	isolation isolation
}

// newLoop returns the loop of a speaker that has joined the others.
func newLoop(s *Speaker, members *membership.Members, sessions *sessions, roster *roster) *loop {
	return &loop{Speaker: s, members: members, sessions: sessions, roster: roster}
}

// run decides anew whenever something has changed, until the context ends.
func (l *loop) run(ctx context.Context) {
	logger := klog.FromContext(ctx)
	linkChanges := l.links.Subscribe()
	startupHoldOver, discoveryOver := time.After(startupHold), time.After(discoveryWindow)
	check := time.NewTicker(isolationCheck)
	defer check.Stop()
	var answers chan answer // delivers what the API says; nil while nothing is asked
	l.changed.Raise()
	gathered := signal.Gather(ctx, l.changed, settle)
	defer l.health.ended()
	for ctx.Err() == nil {
		l.health.turned(time.Now())
		select {
		case <-ctx.Done():
			return
		case <-gathered:
		case <-linkChanges:
			l.status.Raise()
		case <-l.members.Changes():
		case <-l.kernels.changes():
		case said := <-l.kernels.heard:
			if !l.kernels.suspicions.Hear(time.Now(), said) {
				continue
			}
		case <-l.kernels.due.C:
		case <-startupHoldOver:
		case <-discoveryOver:
		case <-check.C:
			if l.isolation.asks() && answers == nil {
				answers = make(chan answer, 1)
				go func(to chan<- answer, state isolation) { to <- l.probe.Ask(ctx, state) }(answers, l.isolation)
			}
			continue
		case a := <-answers:
			answers = nil
			if !l.isolation.Step(a) {
				continue
			}
			l.isolated.Store(l.isolation.isolated)
			logger.Info("Changed isolation: without the API and any other speaker nothing is announced on layer 2", "isolated", l.isolation.isolated)
		}
		if err := l.decide(ctx); err != nil && ctx.Err() == nil {
			logger.Error(err, "Failed to decide what to announce, keeping what is announced")
		}
	}
}

// decide takes a snapshot and hands what follows from it to the announcers.
func (l *loop) decide(ctx context.Context) error {
	o, err := readObjects(ctx, l.cache)
	if err != nil {
		return err
	}
	l.records.Renew(o.Announcements.Items)
	links, claimed := l.links.Snapshot(), observation.Claimed(o.Claims.Items)
	usable, own := usableInterfaces(links), interfaceStates(links, claimed)
	l.layer2.SetInterfaces(usable)
	l.layer2.SetSpeakers(speakerMACs(o.Speakers.Items))
	speakers := o.SpeakerAddresses(family.Of(l.cfg.HostIP))
	alive := l.members.Alive()
	l.members.SetPeers(speakers)
	presence := l.roster.Update(time.Now(), alive, speakers)
	l.isolation.alone = alive.Alone

	snapshot := o.Snapshot(l.cfg.Node, own)
	snapshot.Alive = presence.alive
	away, gone := l.kernels.Update(ctx, time.Now(), presence, onLinks(l.cfg.Node, own, o.Speakers.Items), usable, snapshot.Nodes)
	l.roster.GiveUp(gone)
	l.roster.Heard(away)
	snapshot.Away = away
	here := func(node string) bool { return presence.alive(node) || snapshot.Away[node] }
	l.liveness.latest.Put(reportOn(l.cfg.Node, alive, here, speakers, o))
	snapshot.StartupHold = presence.startupHold
	snapshot.Isolated = l.isolation.isolated
	snapshot.Probed = probed(l.cfg.Node, l.layer2.Announced(), snapshot.Probed)
	snapshot.Paths = l.links.Paths(decision.PeerAddresses(snapshot.Config, snapshot.Nodes[l.cfg.Node].Labels), claimed)
	snapshot.Password = func(key config.SecretKey) (bgp.Password, error) { return o.Password(l.cfg.SecretsNamespace, key) }

	desired := decision.Decide(snapshot)
	l.layer2.Set(announcements(desired))
	if presence.returned {
		// A speaker that comes back may have announced our addresses on its side of a partition.
		l.layer2.Refresh("another speaker came back")
	}
	if !snapshot.Isolated { // An isolated speaker has no API to write records to.
		l.records.wanted.Put(wanted{
			records: desired.Records, kept: desired.Kept, announcements: o.Announcements.Items, services: o.LoadBalancers(),
		})
	}
	l.sessions.Set(desired)
	l.health.complete.Store(presence.complete)
	return nil
}
