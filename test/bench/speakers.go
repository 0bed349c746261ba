// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/test/lab"
	"github.com/tandem-lb/tandem/test/products"
)

const (
	// changeEvery is how often an endpoint changes, changeFor for how long.
	changeEvery = 100 * time.Millisecond
	changeFor   = 30 * time.Second
	// speakerBursts is how long a speaker announces its addresses at least after its start, before it can be at rest.
	speakerBursts = 90 * time.Second
	// speakerStarts bounds how long a speaker may take to come to rest after its start.
	speakerStarts = 10 * time.Minute
)

// A churn is a way in which endpoints change.
type churn struct {
	name string
	// remain is how many of the two IPv4 endpoints of a Service are ready after a change; they all are after the next one.
	remain int
}

// speakerFigure is what was measured of one speaker.
type speakerFigure struct {
	name     string
	idle     float64            // of a core
	churning map[string]float64 // of a core, by the churn
	rss, hwm int                // KiB
}

// measureSpeakers prints what the speakers of Tandem and MetalLB need with n dual-stack Services, all of which one node answers for on layer
// 2. The Services and what belongs to them are written to etcd past the API server, which would take an hour to create them. The speakers
// run on the control plane, one after the other, for a node that does not run. Those that are not named are left out; the baseline is the path of
// another build of Tandem's, "" for none.
func (a *arena) measureSpeakers(ctx context.Context, n int, names []string, baseline string, repeat int) error {
	programs, err := a.prepareSpeakers(ctx, baseline, layer2Config)
	if err != nil {
		return err
	}
	start := time.Now()
	if err := a.fill(ctx, n, objectsOf); err != nil {
		return err
	}
	fmt.Fprintf(a.progress, "%d Services with claims, endpoints and records are in etcd after %.1fs\n", n, time.Since(start).Seconds())
	churns := []churn{{"one of two IPv4 endpoints comes or goes", 1}, {"all IPv4 endpoints come or go", 0}}
	var figures []speakerFigure
	for range repeat {
		for _, p := range programs {
			if !slices.Contains(append(names, "baseline"), p[0]) {
				continue
			}
			f, err := a.measureSpeaker(ctx, p, n, churns)
			if err != nil {
				return fmt.Errorf("%s: %w", p[0], err)
			}
			figures = append(figures, f)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "\n%d Services, a change every %v\tCPU at rest\t%s\t%s\tmemory\tat most\t\n", n, changeEvery, churns[0].name, churns[1].name)
	for _, f := range figures {
		fmt.Fprintf(w, "%s\t%.2f %%\t%.2f %%\t%.2f %%\t%d MiB\t%d MiB\t\n", f.name, 100*f.idle, 100*f.churning[churns[0].name],
			100*f.churning[churns[1].name], f.rss>>10, f.hwm>>10)
	}
	return w.Flush()
}

// layer2Config has the speakers announce everything on layer 2.
const layer2Config = `
apiVersion: tandem-lb.io/v1alpha1
kind: L2Advertisement
metadata: {name: bench}
spec: {interfaces: ["eth*"]}
---
apiVersion: metallb.io/v1beta1
kind: L2Advertisement
metadata: {name: bench, namespace: metallb-system}`

// prepareSpeakers builds both speakers, writes their configuration, and stops the components that would look at each object and take time. It
// returns the speakers' command lines, each after a name.
func (a *arena) prepareSpeakers(ctx context.Context, baseline, config string) ([][]string, error) {
	if _, err := a.newTandem(ctx); err != nil { // the CRDs
		return nil, err
	}
	m, err := a.newMetalLB(ctx, "speaker")
	if err != nil {
		return nil, err
	}
	tandem := filepath.Join(a.lab.Dir(), "tandem-speaker")
	if _, err := products.Go(ctx, a.root, nil, "build", "-o", tandem, "./cmd/speaker"); err != nil {
		return nil, err
	}
	node := lab.NodeName(1)
	ours := func(name, program string) []string {
		return []string{
			name, program, "--kubeconfig=" + a.kubeconfig(), "--node-name=" + node, "--namespace=tandem-system",
			"--host-ip=" + a.lab.Addresses(lab.ControlPlane)[0].String(), "--metrics-bind-address=127.0.0.1:7574", "--metrics-secure=false",
			"--layer2-announcement-rate=5000", // so that the burst of 20,000 addresses is over in a minute, and not in eight
			"--health-socket=" + filepath.Join(a.lab.Dir(), "speaker.sock"),
		}
	}
	commands := [][]string{
		ours("tandem", tandem),
		{
			"metallb", "/usr/bin/env", "KUBECONFIG=" + a.kubeconfig(), "METALLB_BGP_TYPE=native", m.Program("speaker"), "--node-name=" + node,
			"--namespace=metallb-system", "--pod-name=controller", "--log-level=error",
		},
	}
	if baseline != "" {
		commands = append(commands, ours("baseline", baseline))
	}
	for _, component := range []string{lab.ControlPlane + "/kube-controller-manager", lab.ControlPlane + "/kube-scheduler"} {
		if err := a.lab.StopComponent(ctx, component); err != nil {
			return nil, err
		}
	}
	return commands, a.apply(ctx, `apiVersion: v1
kind: Secret
metadata: {name: tandem-membership, namespace: tandem-system}
stringData: {key: 0123456789abcdef0123456789abcdef}
---`+config)
}

// addressesOf returns the addresses of the Service with a number, from the ranges of the pools.
func addressesOf(i int) [2]netip.Addr {
	v6 := netip.MustParsePrefix(rangeV6).Addr().As16()
	v6[14], v6[15] = byte((i+1)>>8), byte(i+1)
	return [2]netip.Addr{netip.AddrFrom4([4]byte{10, 128, byte((i + 1) >> 8), byte(i + 1)}), netip.AddrFrom16(v6)}
}

// objects are the objects of a Service, by their keys in etcd.
type objects map[string]map[string]any

// fill writes the objects of n Services to etcd, as the API server stores JSON.
func (a *arena) fill(ctx context.Context, n int, of func(i int) objects) error {
	dial := a.lab.Dial(lab.ControlPlane)
	etcd := &http.Client{Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: creators}}
	put := func(ctx context.Context, key string, object map[string]any) error {
		value, err := json.Marshal(object)
		if err != nil {
			return err
		}
		body, err := json.Marshal(map[string]string{
			"key": base64.StdEncoding.EncodeToString([]byte("/registry/" + key)), "value": base64.StdEncoding.EncodeToString(value),
		})
		if err != nil {
			return err
		}
		request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://127.0.0.1:2379/v3/kv/put", bytes.NewReader(body))
		if err != nil {
			return err
		}
		response, err := etcd.Do(request)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return fmt.Errorf("etcd: %s", response.Status)
		}
		_, err = new(bytes.Buffer).ReadFrom(response.Body)
		return err
	}
	return each(ctx, n, func(ctx context.Context, i int) error {
		for key, object := range of(i) {
			if err := put(ctx, key, object); err != nil {
				return fmt.Errorf("writing %s: %w", key, err)
			}
		}
		return nil
	})
}

// objectsOf returns a Service with its claims, endpoints and records.
func objectsOf(i int) objects {
	name, node := serviceName(i), lab.NodeName(1)
	meta := func(kind int, namespace, name string, labels map[string]any) map[string]any {
		m := map[string]any{
			"name": name, "uid": fmt.Sprintf("%08d-0000-4000-8000-%012d", kind, i), "creationTimestamp": "2026-01-01T00:00:00Z", "labels": labels,
		}
		if namespace != "" {
			m["namespace"] = namespace
		}
		return m
	}
	var ingress, texts []any
	all := objects{}
	for f, address := range addressesOf(i) {
		text, family := address.String(), []string{"IPv4", "IPv6"}[f]
		ingress, texts = append(ingress, map[string]any{"ip": text, "ipMode": "VIP"}), append(texts, text)
		all["ipaddresses/"+text] = map[string]any{
			"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress",
			"metadata": meta(1+f, "", text, map[string]any{
				"ipaddress.kubernetes.io/managed-by": "tandem-lb.io", "ipaddress.kubernetes.io/ip-family": family, "tandem-lb.io/address-pool": "bench",
			}),
			"spec": map[string]any{"parentRef": map[string]any{"resource": "services", "namespace": namespace, "name": name}},
		}
		slice := name + "-" + strings.ToLower(family[2:])
		all["endpointslices/"+namespace+"/"+slice] = map[string]any{
			"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
			"metadata":  meta(3+f, namespace, slice, map[string]any{discoveryv1.LabelServiceName: name}),
			"endpoints": []any{endpointOf(f, 1, node), endpointOf(f, 2, "node2")},
			"ports":     []any{map[string]any{"name": "", "port": 80, "protocol": "TCP"}},
		}
	}
	all["services/specs/"+namespace+"/"+name] = map[string]any{
		"apiVersion": "v1", "kind": "Service", "metadata": meta(5, namespace, name, nil),
		"spec": map[string]any{
			"type": "LoadBalancer", "ipFamilies": []any{"IPv4", "IPv6"}, "ipFamilyPolicy": "RequireDualStack", "externalTrafficPolicy": "Cluster",
			"ports": []any{map[string]any{"port": 80, "protocol": "TCP", "targetPort": 80}}, "allocateLoadBalancerNodePorts": false,
		},
		"status": map[string]any{"loadBalancer": map[string]any{"ingress": ingress}},
	}
	all["tandem-lb.io/l2announcements/"+namespace+"."+name] = map[string]any{
		"apiVersion": "tandem-lb.io/v1alpha1", "kind": "L2Announcement", "metadata": meta(6, "", namespace+"."+name, nil),
		"service": map[string]any{"namespace": namespace, "name": name},
		"status":  map[string]any{"node": node, "addresses": texts, "interfaces": []any{"eth0"}, "since": "2026-01-01T00:00:00.000000Z"},
	}
	all["metallb.io/servicel2statuses/metallb-system/l2-"+name] = map[string]any{
		"apiVersion": "metallb.io/v1beta1", "kind": "ServiceL2Status", "metadata": meta(7, "metallb-system", "l2-"+name, map[string]any{
			"metallb.io/node": node, "metallb.io/service-name": name, "metallb.io/service-namespace": namespace,
		}),
		"status": map[string]any{"node": node, "serviceName": name, "serviceNamespace": namespace},
	}
	return all
}

func serviceName(i int) string { return fmt.Sprintf("web-%05d", i) }

func endpointOf(family, n int, node string) map[string]any {
	return map[string]any{
		"addresses": []any{[]string{fmt.Sprintf("10.244.0.%d", n), fmt.Sprintf("fd00:244::%d", n)}[family]}, "nodeName": node,
		"conditions": map[string]any{"ready": true, "serving": true, "terminating": false},
	}
}

// measureSpeaker runs one speaker.
func (a *arena) measureSpeaker(ctx context.Context, command []string, n int, churns []churn) (speakerFigure, error) {
	f := speakerFigure{name: command[0], churning: map[string]float64{}}
	p, err := a.run(ctx, command[0]+"-speaker", command[1], command[2:]...)
	if err != nil {
		return f, err
	}
	defer p.end()
	start := time.Now()
	if err := p.rest(ctx); err != nil {
		return f, err
	}
	fmt.Fprintf(a.progress, "%s: at rest %.0fs after its start\n", f.name, time.Since(start).Seconds())
	if f.idle, err = p.share(ctx, func(ctx context.Context) error { return sleep(ctx, changeFor/2) }); err != nil {
		return f, err
	}
	for _, c := range churns {
		if f.churning[c.name], err = p.share(ctx, func(ctx context.Context) error { return a.churn(ctx, c, n) }); err != nil {
			return f, err
		}
		fmt.Fprintf(a.progress, "%s: %s: %.2f %% of a core\n", f.name, c.name, 100*f.churning[c.name])
	}
	if f.rss, err = p.status("VmRSS"); err != nil {
		return f, err
	}
	f.hwm, err = p.status("VmHWM")
	return f, err
}

// churn changes the IPv4 endpoints of one Service after the other, for as long as a churn is measured.
func (a *arena) churn(ctx context.Context, c churn, n int) error {
	ticks := time.NewTicker(changeEvery)
	defer ticks.Stop()
	endpoints := a.api.DiscoveryV1().EndpointSlices(namespace)
	for i, end := 0, time.Now().Add(changeFor); time.Now().Before(end); i++ {
		slice, err := endpoints.Get(ctx, serviceName(i/2*37%n)+"-v4", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for j := range slice.Endpoints {
			ready := i%2 == 1 || j < c.remain
			slice.Endpoints[j].Conditions = discoveryv1.EndpointConditions{Ready: &ready, Serving: &ready, Terminating: new(false)}
		}
		if _, err := endpoints.Update(ctx, slice, metav1.UpdateOptions{}); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ticks.C:
		}
	}
	return nil
}

// rest waits until the process has used less than a fiftieth of a core for ten seconds.
func (p *process) rest(ctx context.Context) error {
	if err := sleep(ctx, speakerBursts); err != nil {
		return err
	}
	for end := time.Now().Add(speakerStarts); time.Now().Before(end); {
		used, err := p.share(ctx, func(ctx context.Context) error { return sleep(ctx, 10*time.Second) })
		if err != nil {
			return err
		}
		if used < 0.02 {
			return nil
		}
	}
	return fmt.Errorf("it is not at rest %v after its start; its log is %s", speakerStarts, p.log)
}

// share returns how much of a core the process uses while f runs.
func (p *process) share(ctx context.Context, f func(context.Context) error) (float64, error) {
	before, err := p.cpu()
	if err != nil {
		return 0, err
	}
	start := time.Now()
	if err := f(ctx); err != nil {
		return 0, err
	}
	select {
	case <-p.exited:
		return 0, fmt.Errorf("it has ended; its log is %s: %w", p.log, p.err)
	default:
	}
	after, err := p.cpu()
	return float64(after-before) / float64(time.Since(start)), err
}

func sleep(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}
