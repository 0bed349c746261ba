// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"net/http"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"
)

const (
	// startPatience is how long a speaker waits for kube-proxy at most on a node that has just started. By then it is more likely that kube-proxy
	// says nothing than that it does not forward.
	startPatience = 30 * time.Second
	// settledPatience is that on any other node, which has its rules from before: kube-proxy leaves them in place when it stops. It is well below
	// the restartTime of a BGPPeer, 30 s by default, after which routers drop what they have kept of the speaker before.
	settledPatience = 5 * time.Second
	// kubeProxyPeriod is how often it asks.
	kubeProxyPeriod = 200 * time.Millisecond
	// bootTime is how long after a node has booted, or joined the cluster, kube-proxy may still have to be started. Later a node where nothing
	// listens has another proxy, such as Cilium's.
	bootTime = 5 * time.Minute
)

// healthOfKubeProxy are the addresses at which kube-proxy says whether it has written its rules, unless --healthz-bind-address of it says
// otherwise.
var healthOfKubeProxy = []string{"http://127.0.0.1:10256/healthz", "http://[::1]:10256/healthz"}

// A kubeProxy finds out when the node forwards what is sent to the addresses of Services. A node that boots starts its speaker and its kube-proxy
// in any order, and what is announced before kube-proxy has written its rules is refused. It is found out once: a kube-proxy that restarts leaves
// its rules in place.
type kubeProxy struct {
	urls     []string
	client   http.Client
	age      func(context.Context) time.Duration // of the Node, zero if it is not known
	uptime   func() time.Duration                // of the node
	forwards atomic.Bool
	found    chan struct{} // closed when forwards is set
}

func newKubeProxy(age func(context.Context) time.Duration) *kubeProxy {
	return &kubeProxy{urls: healthOfKubeProxy, age: age, uptime: uptime, found: make(chan struct{})}
}

// uptime returns for how long the node has run.
func uptime() time.Duration {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	return time.Duration(info.Uptime) * time.Second
}

// run asks until the node forwards, the patience has ended, or the context has.
func (k *kubeProxy) run(ctx context.Context) error {
	started := time.Now()
	ticker := time.NewTicker(kubeProxyPeriod)
	defer ticker.Stop()
	for !k.answers(ctx) {
		if waited := time.Since(started); waited >= startPatience || waited >= settledPatience && k.settled(ctx) {
			klog.FromContext(ctx).Info("Announcing although kube-proxy does not say that it forwards", "waited", waited)
			break
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
	k.forwards.Store(true)
	close(k.found)
	return nil
}

// answers reports whether kube-proxy says that it has written its rules, or is not there.
func (k *kubeProxy) answers(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	absent := true
	for _, url := range k.urls {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			continue
		}
		response, err := k.client.Do(request)
		if err != nil {
			// A host without IPv6 has no such address.
			absent = absent && (errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.ENETUNREACH))
			continue
		}
		_ = response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return true
		}
		absent = false
	}
	return absent && k.settled(ctx)
}

// settled reports whether the node has started long ago. Whether its Node is Ready says nothing of that: it is not during an outage of the API.
func (k *kubeProxy) settled(ctx context.Context) bool {
	return k.uptime() >= bootTime && k.age(ctx) >= bootTime
}
