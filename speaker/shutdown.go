// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
)

// shutdownTimeout bounds a shutdown.
const shutdownTimeout = 10 * time.Second

// shutdown ends a speaker in the order that costs clients least. A speaker that restarts keeps what it has: the others wait for it, and
// BGP peers with graceful restart keep the routes for the speaker that follows. What is away meanwhile is answered by deputies, who say
// the same as this speaker, so that it answers to the end. A speaker that leaves the node is replaced by the others at once, and is
// silent from then on.
//
//	node1 when its speaker stops       the others are told    layer 2       BGP
//	nothing is known of it             restart, for grace     to the end    graceful restart
//	the same, without a grace          leave                  until then    graceful restart
//	it is being removed                leave                  until then    withdraw
//	the same, and it is the only node  leave                  to the end    withdraw
type shutdown struct {
	node   string
	grace  time.Duration // RestartGrace
	cached client.Reader
	// members are the speakers, to whom the farewell goes.
	members interface {
		Alive() membership.Snapshot
		Restart(ctx context.Context, grace time.Duration) error
		Leave(ctx context.Context) error
	}
	silence     func() // ends layer 2
	endSessions func(context.Context, bgp.CloseMode)
}

// run shuts down. The context has ended, and is that of the logger.
func (s shutdown) run(ended context.Context) {
	logger := klog.FromContext(ended)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ended), shutdownTimeout)
	defer cancel()
	reason := s.leaving(ctx)
	if err := s.sayFarewell(ctx, reason != ""); err != nil {
		logger.Error(err, "Failed to tell the other speakers that this one stops")
	}
	mode := bgp.Restart
	if reason != "" {
		mode = bgp.Withdraw
	}
	s.endSessions(ctx, mode)
	logger.Info("Stopped", "node", s.node, "leaves", reason)
}

// sayFarewell tells the others that this speaker restarts, or that it leaves. In the second case it falls silent when they know.
func (s shutdown) sayFarewell(ctx context.Context, leaves bool) error {
	if !leaves && s.grace > 0 {
		return s.members.Restart(ctx, s.grace)
	}
	others := len(s.members.Alive().Nodes) > 1
	if err := s.members.Leave(ctx); err != nil {
		return err
	}
	if others {
		s.silence()
	}
	return nil
}

// leaving returns why the speaker leaves its node, "" if it restarts, by the Node in the cache.
func (s shutdown) leaving(ctx context.Context) string {
	var node corev1.Node
	switch err := s.cached.Get(ctx, client.ObjectKey{Name: s.node}, &node); {
	case apierrors.IsNotFound(err):
		return observation.Leaving(nil)
	case err != nil:
		return ""
	}
	return observation.Leaving(&node)
}
