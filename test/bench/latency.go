// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/tandem-lb/tandem/test/lab"
)

const (
	// singles is of how many Services the endpoints become ready one after the other.
	singles = 100
	// arrivesWithin bounds how long a route may take, and sessionWithin how long the session may: a node without kube-proxy is waited for.
	arrivesWithin, sessionWithin = 30 * time.Second, 2 * time.Minute
)

// bgpConfig has the speakers announce everything to the router.
const bgpConfig = `
apiVersion: tandem-lb.io/v1alpha1
kind: BGPPeer
metadata: {name: router}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1}
---
apiVersion: tandem-lb.io/v1alpha1
kind: BGPAdvertisement
metadata: {name: bench}
---
apiVersion: metallb.io/v1beta2
kind: BGPPeer
metadata: {name: router, namespace: metallb-system}
spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1}
---
apiVersion: metallb.io/v1beta1
kind: BGPAdvertisement
metadata: {name: bench, namespace: metallb-system}
---
apiVersion: metallb.io/v1beta1
kind: IPAddressPool
metadata: {name: bench, namespace: metallb-system}
spec: {addresses: ["` + rangeV4 + `"]}`

// routerConfig is FRR's, for the speakers on the control plane.
const routerConfig = `router bgp 64513
 bgp router-id 192.0.2.254
 no bgp ebgp-requires-policy
 neighbor 198.51.100.10 remote-as 64512`

// latencyFigure has the times from an endpoint that is ready to the route in the router's kernel, in ascending order.
type latencyFigure struct {
	name, policy string
	single, many []time.Duration
	last         time.Duration // from the first of many endpoints to the last route
}

// measureLatency prints how long it takes from an endpoint that is ready to the route in the kernel of a router with FRR: of one Service, and of
// n at once. The time starts when the EndpointSlice is sent to the API server. The Services have an IPv4 address, since MetalLB's own BGP can do
// no more, and one endpoint, on the speaker's node.
//
// Tandem has a new address of a Service with externalTrafficPolicy Cluster wait for a second, so that no router sends to a node whose kube-proxy
// does not forward yet; MetalLB announces it at once. With Local neither waits.
func (a *arena) measureLatency(ctx context.Context, n int, names []string, baseline string) error {
	programs, err := a.prepareSpeakers(ctx, baseline, bgpConfig)
	if err != nil {
		return err
	}
	var figures []latencyFigure
	for _, policy := range []string{"Local", "Cluster"} {
		for _, p := range programs {
			if !slices.Contains(append(names, "baseline"), p[0]) {
				continue
			}
			f, err := a.measureRoutes(ctx, p, policy, n)
			if err != nil {
				return fmt.Errorf("%s: %w", p[0], err)
			}
			figures = append(figures, f)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\nendpoint ready to route\texternalTrafficPolicy\tof one: median\tp99\tof %d: median\tp99\tall after\t\n", n)
	for _, f := range figures {
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t\n", f.name, f.policy, percentile(f.single, 50), percentile(f.single, 99),
			percentile(f.many, 50), percentile(f.many, 99), f.last.Round(time.Millisecond))
	}
	return w.Flush()
}

// percentile returns that of times in ascending order.
func percentile(times []time.Duration, p int) time.Duration {
	return times[min(len(times)*p/100, len(times)-1)].Round(100 * time.Microsecond)
}

// measureRoutes runs one speaker beside a router without routes. Of the Services one more has an endpoint from the beginning: with its route
// there is a session.
func (a *arena) measureRoutes(ctx context.Context, command []string, policy string, n int) (latencyFigure, error) {
	f := latencyFigure{name: command[0], policy: policy}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := a.lab.StartFRR(ctx, lab.Router, routerConfig); err != nil {
		return f, err
	}
	arrivals, err := a.watchRoutes(ctx, n)
	if err != nil {
		return f, err
	}
	first := singles + n
	if err := a.fill(ctx, first+1, func(i int) objects { return routedObjects(i, policy, i == first) }); err != nil {
		return f, err
	}
	p, err := a.run(ctx, command[0]+"-speaker", command[1], command[2:]...)
	if err != nil {
		return f, err
	}
	defer p.end()
	if _, err := arrivals.await(ctx, first, 1, sessionWithin); err != nil {
		return f, fmt.Errorf("%w; its log is %s", err, p.log)
	}
	fmt.Fprintf(a.progress, "%s: has a session\n", f.name)
	if err := sleep(ctx, 5*time.Second); err != nil {
		return f, err
	}
	for i := range singles {
		began := time.Now()
		if err := a.setReady(ctx, i); err != nil {
			return f, err
		}
		arrived, err := arrivals.await(ctx, i, 1, arrivesWithin)
		if err != nil {
			return f, err
		}
		f.single = append(f.single, arrived[0].Sub(began))
	}
	began, start := make([]time.Time, n), time.Now()
	if err := each(ctx, n, func(ctx context.Context, i int) error {
		began[i] = time.Now()
		return a.setReady(ctx, singles+i)
	}); err != nil {
		return f, err
	}
	arrived, err := arrivals.await(ctx, singles, n, arrivesWithin)
	if err != nil {
		return f, err
	}
	for i := range n {
		f.many = append(f.many, arrived[i].Sub(began[i]))
		f.last = max(f.last, arrived[i].Sub(start))
	}
	slices.Sort(f.single)
	slices.Sort(f.many)
	return f, nil
}

// routedObjects returns a Service with an IPv4 address and one endpoint, ready or not.
func routedObjects(i int, policy string, ready bool) objects {
	name := serviceName(i)
	all, v4 := objectsOf(i), addressesOf(i)[0].String()
	for key := range all {
		if strings.HasPrefix(key, "tandem-lb.io/") || strings.HasPrefix(key, "metallb.io/") || strings.HasSuffix(key, "-v6") ||
			strings.HasPrefix(key, "ipaddresses/") && key != "ipaddresses/"+v4 {
			delete(all, key)
		}
	}
	svc := all["services/specs/"+namespace+"/"+name]
	spec := svc["spec"].(map[string]any)
	spec["ipFamilies"], spec["ipFamilyPolicy"], spec["externalTrafficPolicy"] = []any{"IPv4"}, "SingleStack", policy
	svc["status"] = map[string]any{"loadBalancer": map[string]any{"ingress": []any{map[string]any{"ip": v4, "ipMode": "VIP"}}}}
	endpoint := endpointOf(0, 1, lab.NodeName(1))
	endpoint["conditions"] = map[string]any{"ready": ready, "serving": ready, "terminating": false}
	all["endpointslices/"+namespace+"/"+name+"-v4"]["endpoints"] = []any{endpoint}
	return all
}

// setReady makes the endpoint of a Service ready.
func (a *arena) setReady(ctx context.Context, i int) error {
	patch, err := json.Marshal(map[string]any{"endpoints": []any{endpointOf(0, 1, lab.NodeName(1))}})
	if err != nil {
		return err
	}
	_, err = a.api.DiscoveryV1().EndpointSlices(namespace).Patch(ctx, serviceName(i)+"-v4", types.MergePatchType, patch, metav1.PatchOptions{})
	return err
}

// An arrival is when a route came into the router's kernel.
type arrival struct {
	address netip.Addr
	at      time.Time
}

type arrivals <-chan arrival

// watchRoutes tells of the routes that come into the router's kernel, until the context ends.
func (a *arena) watchRoutes(ctx context.Context, n int) (arrivals, error) {
	router, err := netns.GetFromPath(a.lab.Namespace(lab.Router))
	if err != nil {
		return nil, err
	}
	defer router.Close()
	updates, came := make(chan netlink.RouteUpdate), make(chan arrival, singles+n+1)
	if err := netlink.RouteSubscribeWithOptions(updates, ctx.Done(), netlink.RouteSubscribeOptions{
		Namespace: &router, ReceiveBufferSize: 16 << 20, ReceiveBufferForceSize: true,
	}); err != nil {
		return nil, fmt.Errorf("watching the routes of the router: %w", err)
	}
	go func() {
		defer close(came)
		for update := range updates {
			if update.Type != unix.RTM_NEWROUTE || update.Dst == nil {
				continue
			}
			if address, ok := netip.AddrFromSlice(update.Dst.IP); ok {
				came <- arrival{address, time.Now()}
			}
		}
	}()
	return came, nil
}

// await waits for the routes of n Services, counted from one, and returns when they came.
func (arrived arrivals) await(ctx context.Context, from, n int, patience time.Duration) ([]time.Time, error) {
	wanted, at, left := map[netip.Addr]int{}, make([]time.Time, n), n
	for i := range n {
		wanted[addressesOf(from + i)[0]] = i
	}
	over := time.After(patience)
	for left > 0 {
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-over:
			return nil, fmt.Errorf("the router lacks %d of %d routes after %v", left, n, patience)
		case a, ok := <-arrived:
			if !ok {
				return nil, errors.New("the router's kernel tells of no more routes")
			}
			if i, ok := wanted[a.address.Unmap()]; ok && at[i].IsZero() {
				at[i], left = a.at, left-1
			}
		}
	}
	return at, nil
}
