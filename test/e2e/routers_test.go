// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/test/cluster"
	"github.com/tandem-lb/tandem/test/documents"
	"github.com/tandem-lb/tandem/test/lab"
)

// The samples for FRR and BIRD run as they are written, with the objects that docs/security.md has for the other side. A router takes the addresses of
// the pools that the sample names, over a session with password and TTL security, and no others.
func TestRouterSamples(t *testing.T) {
	blocks := documents.Read(t, "../..", "docs/security.md").Blocks
	otherSide := slices.IndexFunc(blocks, func(b documents.Block) bool { return b.Language == "yaml" })
	if otherSide < 0 {
		t.Fatal("docs/security.md has no objects for the other side of the routers")
	}
	for _, row := range []struct {
		name  string
		start func(*stage, *testing.T) (paths func(ctx context.Context, ip string) string)
	}{
		{"frr.conf", (*stage).frrSample},
		{"bird.conf", (*stage).birdSample},
	} {
		t.Run(row.name, func(t *testing.T) {
			s := newStage(t, dual)
			paths := row.start(s, t)
			s.pool(t, "", "203.0.113.208/28", "2001:db8:113::/112")
			s.pool(t, "-foreign", "192.0.2.0/24", "2001:db8:c::/64")
			s.create(t, blocks[otherSide].Text)
			s.create(t, `{apiVersion: tandem-lb.io/v1alpha1, kind: BGPAdvertisement, metadata: {name: $NS}, spec: {peers: [router], addressPools: [$NS, $NS-foreign]}}`)
			s.web(t, s.Nodes()...)
			ips := map[string][]string{}
			for _, suffix := range []string{"", "-foreign"} {
				name := "web" + suffix
				s.add(t, with(s.service(name, v4, v6), ipamv1alpha1.AnnotationAddressPool, s.ns+suffix))
				ips[suffix] = s.addresses(t, name, 2)
			}
			for family, ip := range ips[""] {
				for _, node := range s.Nodes() {
					hop := s.Addresses(node)[family].String()
					s.until(t, patience, fmt.Sprintf("a path to %s by %s", ip, node), func(ctx context.Context) (bool, string) {
						got := paths(ctx, ip)
						return strings.Contains(got, hop), got
					})
				}
			}
			// The Service of the foreign pool was announced in the same way.
			for _, node := range s.Nodes() {
				s.until(t, patience, "announcements of "+node, func(ctx context.Context) (bool, string) {
					state, err := s.speaker(ctx, node)
					return err == nil && len(state.BGPSessions) == 1 && state.BGPSessions[0].AdvertisedIPv4 == 2 && state.BGPSessions[0].AdvertisedIPv6 == 2,
						fmt.Sprint(state.BGPSessions, err)
				})
			}
			for family, ip := range ips["-foreign"] {
				for _, node := range s.Nodes() {
					if got := paths(t.Context(), ip); strings.Contains(got, s.Addresses(node)[family].String()) {
						t.Errorf("the router has taken %s from %s, which is in none of its pools:\n%s", ip, node, got)
					}
				}
			}
			// The client sends by the router, which is its default gateway.
			for _, ip := range ips[""] {
				s.reach(t, lab.Client, ip, "/hostname")
			}
		})
	}
}

// sample returns the path and the text of a router's configuration.
func (s *stage) sample(t *testing.T, name string) (path, text string) {
	t.Helper()
	path, err := filepath.Abs(s.Example("routers/" + name))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return path, string(content)
}

// frrSample runs FRR's sample on the router.
func (s *stage) frrSample(t *testing.T) (paths func(context.Context, string) string) {
	t.Helper()
	_, text := s.sample(t, "frr.conf")
	s.router(t, text)
	return func(ctx context.Context, ip string) string {
		routes, err := s.routes(ctx, host(ip))
		return fmt.Sprint(routes, err)
	}
}

// birdSample runs BIRD with its sample on the router, in place of FRR.
func (s *stage) birdSample(t *testing.T) (paths func(context.Context, string) string) {
	t.Helper()
	if err := s.StopFRR(t.Context(), lab.Router); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.StartFRR(context.Background(), lab.Router, cluster.RouterConfig); err != nil {
			t.Error(err)
		}
	})
	path, _ := s.sample(t, "bird.conf")
	dir := t.TempDir()
	socket := filepath.Join(dir, "bird.ctl")
	var said strings.Builder
	bird := s.Command(context.Background(), lab.Router, "bird", "-f", "-c", path, "-s", socket, "-P", filepath.Join(dir, "bird.pid"))
	bird.Stdout, bird.Stderr = &said, &said
	if err := bird.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // BIRD takes its routes out of the kernel
		_ = bird.Process.Signal(unix.SIGTERM)
		_ = bird.Wait()
		if t.Failed() {
			t.Log(said.String())
		}
	})
	birdc := func(ctx context.Context, command string) (string, error) {
		out, err := s.Command(ctx, lab.Router, "birdc", "-s", socket, command).CombinedOutput()
		return string(out), err
	}
	s.until(t, patience, "BIRD", func(ctx context.Context) (bool, string) {
		out, err := birdc(ctx, "show status")
		return err == nil, out
	})
	return func(ctx context.Context, ip string) string {
		out, err := birdc(ctx, "show route "+host(ip))
		return fmt.Sprint(out, err)
	}
}
