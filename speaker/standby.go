// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// turnPeriod is how often a speaker that stands by looks whether the one before it has ended.
const turnPeriod = 50 * time.Millisecond

// A turn is had by one speaker of a node at a time: the one that gossips, speaks BGP, and writes to the API and the kernel. It lasts until it
// is closed, or the process ends.
//
// It is a name among the abstract Unix sockets of the node's network. So nothing is left of it after a crash, it needs no path on the host,
// and nobody connects to it: SELinux keeps the containers of two Pods from that, and not from finding out that a name is in use.
type turn struct {
	socket *net.UnixConn // nil where the kernel gives none
}

// Close ends the turn.
func (t turn) Close() error {
	if t.socket == nil {
		return nil
	}
	return t.socket.Close()
}

// takeTurn takes the turn of a node. It returns an error that is unix.EADDRINUSE while another speaker has it.
func takeTurn(node string) (turn, error) {
	name := fmt.Sprintf("@tandem-speaker-%x", sha256.Sum256([]byte(node))) // the name of a node may be longer than that of a socket
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Net: "unixgram", Name: name})
	if err != nil {
		return turn{}, fmt.Errorf("looking whether another speaker runs on this node: %w", err)
	}
	return turn{socket}, nil
}

// awaitTurn takes the turn of this node. As long as another speaker has it, this one stands by: in an update with maxSurge the next speaker
// starts while the one before it still runs, so that somebody answers on the LAN all the while.
//
//	old speaker    gossip, BGP, writes, layer 2 ─────────────┤ ends with a farewell, as for any restart
//	next speaker         layer 2 alone, for what is on record, and Ready ──┤ gossip, BGP, writes, layer 2
//	                                         │
//	                     the DaemonSet deletes the old Pod
//
// Both answer with the same MAC, so that nobody can tell them apart. Where the kernel gives no such name for another reason than that it is in use,
// the speaker goes on without. It returns an error if the context ends.
func (s *Speaker) awaitTurn(ctx context.Context) (turn, error) {
	had, err := takeTurn(s.cfg.Node)
	if errors.Is(err, unix.EADDRINUSE) {
		had, err = s.awaitEnd(ctx)
	}
	if ctx.Err() != nil {
		return had, context.Cause(ctx)
	}
	if err != nil {
		klog.FromContext(ctx).Error(err, "Failed to take the turn of this node, going on without")
	}
	return had, nil
}

// awaitEnd stands by until the speaker before this one ends, and takes the turn then.
func (s *Speaker) awaitEnd(ctx context.Context) (had turn, err error) {
	logger := klog.FromContext(ctx)
	logger.Info("Standing by until the speaker before this one ends", "node", s.cfg.Node)
	standing, end := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		newLoop(s, nil, nil, nil).standBy(standing)
	}()
	defer func() { end(); <-ended; s.health.standby.Store(false) }()
	look := time.NewTicker(turnPeriod)
	defer look.Stop()
	for {
		select {
		case <-ctx.Done():
			return turn{}, context.Cause(ctx)
		case <-look.C:
		}
		if had, err = takeTurn(s.cfg.Node); !errors.Is(err, unix.EADDRINUSE) {
			logger.Info("The speaker before this one has ended", "node", s.cfg.Node)
			return had, err
		}
	}
}

// standBy announces on layer 2 what this node is on record for, and follows what changes of that, until the context ends. It takes nothing
// over and writes nothing, which the speaker before this one does: what that one takes over or gives up is soon on record.
func (l *loop) standBy(ctx context.Context) {
	linkChanges := l.links.Subscribe()
	l.feed.others.Raise()
	others, objects := signal.Gather(ctx, l.feed.others, settle), signal.Pace(ctx, l.feed.objects, settle)
	again := time.NewTicker(time.Second)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-others:
		case <-objects:
		case <-linkChanges:
		case <-again.C:
		}
		if err := l.decideStandingBy(ctx); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Failed to decide what to announce while standing by")
		}
	}
}

// decideStandingBy decides as one who has just started and takes all others to be alive: what is on record stays where it is.
func (l *loop) decideStandingBy(ctx context.Context) error {
	if _, err := l.read(ctx); err != nil {
		return err
	}
	index, o, links := l.kept.index, l.kept.few, l.links.Snapshot()
	l.layer2.SetInterfaces(usableInterfaces(links))
	l.layer2.SetSpeakers(speakerMACs(o.Speakers.Items))
	snapshot := o.Surroundings(l.kept.config, l.cfg.Node, interfaceStates(links, index.Claimed, l.layer2.Failed()))
	snapshot.Alive = func(string) bool { return true }
	snapshot.StartupHold, snapshot.NotForwarding = true, true
	snapshot.Probed = probed(l.cfg.Node, l.layer2.Lookup(), snapshot.Probed)
	l.announceLayer2(l.kept.decider.Update(snapshot, index.Take().Services))
	l.health.standby.Store(answersAll(announcements(l.kept.decider.Desired()), l.layer2.Announced()))
	return nil
}

// answersAll reports whether layer 2 answers for all that it was told to announce, as far as it ever will. Announcements for which this node
// is a deputy or listens do not count, since layer 2 lists no Status of them. For example 192.0.2.10 is to move to node3, whose speaker is
// dead, and this node answers for the address meanwhile: its next speaker is ready all the same.
func answersAll(told []layer2.Announcement, states []layer2.Status) bool {
	known := 0
	for _, state := range states {
		if state.Announced || state.Err != nil {
			known++
		}
	}
	want := 0
	for _, a := range told {
		if len(a.As) == 0 && !a.Listen {
			want += len(a.Interfaces)
		}
	}
	return known == want
}
