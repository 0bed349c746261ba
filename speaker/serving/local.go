// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"net"
	"net/http"
	"net/netip"

	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/connections"
)

// Local serves a handler on the node itself, for people and programs that reach it by kubectl port-forward, which asks for the right to do so.
type Local struct {
	// Address is where to listen, such as "127.0.0.1:7576": one of loopback, since nobody is asked for a token.
	Address string
	Handler http.Handler
}

// Run serves until the context ends. While it cannot listen, it tries again.
func (l Local) Run(ctx context.Context) {
	retrying(ctx, "Failed to serve the looking glass, trying again every 10 s; announcements go on", l.Address, func(ctx context.Context) error {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", l.Address)
		if err != nil {
			return err
		}
		bounded := connections.Listener{Listener: listener, Set: &connections.Set{Limit: maxConnections}}
		return serve(ctx, newServer(klog.FromContext(ctx), forLoopback(l.Handler)), bounded)
	})
}

// forLoopback refuses requests that are meant for another host: those that the browser of somebody on the node sends for a page of a site whose
// name resolves to 127.0.0.1.
func forLoopback(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		if !IsLoopback(host) {
			http.Error(w, "ask for localhost or 127.0.0.1", http.StatusForbidden)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// IsLoopback reports whether a host is localhost or an address of loopback, as in "127.0.0.1" or "::1".
func IsLoopback(host string) bool {
	address, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && address.IsLoopback()
}
