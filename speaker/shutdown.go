// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"cmp"
	"context"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/klog/v2"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/membership"
	"github.com/tandem-lb/tandem/speaker/observation"
)

const (
	// shutdownTimeout bounds a shutdown. The DaemonSet gives a Pod 30 s.
	shutdownTimeout = 20 * time.Second
	// stopDrainTime is for how long at most a speaker that leaves goes on announcing with the least preference. The kubelet of a node that shuts
	// down may give it 10 s in all.
	stopDrainTime = 5 * time.Second
)

// shutdown ends a speaker in the order that costs clients least. A speaker that restarts keeps what it has: the others wait for it, and
// BGP peers with graceful restart keep the routes for the speaker that follows. What is away meanwhile is answered by deputies, who say
// the same as this speaker, so that it answers to the end. A speaker that leaves the node is replaced by the others at once, and is
// silent from then on.
//
//	node1 when its speaker stops       the others are told    layer 2       BGP
//	nothing is known of it             restart, for grace     to the end    graceful restart
//	the same, without a grace          leave                  until then    graceful restart
//	its Node is cordoned               restart, for grace     to the end    withdraw
//	it is being removed, or Tandem is  leave                  until then    withdraw
//	the same, and it is the only node  leave                  to the end    withdraw
//
// Routes are withdrawn after a while in which peers prefer any other node, so that traffic has left when they go.
type shutdown struct {
	node  string
	grace time.Duration // RestartGrace
	// ignoreLabel is IgnoreExcludeLabel.
	ignoreLabel bool
	cached      client.Reader
	// members are the speakers, to whom the farewell goes.
	members interface {
		Alive() membership.Snapshot
		Restart(ctx context.Context, grace time.Duration) error
		Leave(ctx context.Context) error
	}
	// daemonSet is the one that runs the speakers, nil if it is deleted, and false if that is not known.
	daemonSet func(context.Context) (*appsv1.DaemonSet, bool)
	silence   func() // ends layer 2
	// yield announces all routes with the least preference for a while.
	yield       func(context.Context)
	endSessions func(context.Context, bgp.CloseMode)
}

// run shuts down. The context has ended, and is that of the logger.
func (s shutdown) run(ended context.Context) {
	logger := klog.FromContext(ended)
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ended), shutdownTimeout)
	defer cancel()
	leaves, withdraws := s.leaving(ctx)
	if err := s.sayFarewell(ctx, leaves != ""); err != nil {
		logger.Error(err, "Failed to tell the other speakers that this one stops")
	}
	mode := bgp.Restart
	if withdraws != "" {
		mode = bgp.Withdraw
		s.yield(ctx)
	}
	s.endSessions(ctx, mode)
	logger.Info("Stopped", "node", s.node, "leaves", leaves, "withdraws", withdraws)
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

// leaving returns why the speaker leaves its node, "" if it restarts, and why it withdraws its routes, by the Node in the cache and the
// DaemonSet in the API.
func (s shutdown) leaving(ctx context.Context) (leaves, withdraws string) {
	var node corev1.Node
	switch err := s.cached.Get(ctx, client.ObjectKey{Name: s.node}, &node); {
	case apierrors.IsNotFound(err):
		leaves = observation.Leaving(nil, false)
		return leaves, leaves
	case err != nil:
		return "", ""
	}
	leaves = observation.Leaving(&node, s.ignoreLabel)
	if leaves == "" {
		if current, ok := s.daemonSet(ctx); ok {
			leaves = observation.Removed(current, &node)
		}
	}
	return leaves, cmp.Or(leaves, observation.Withdraws(&node))
}
