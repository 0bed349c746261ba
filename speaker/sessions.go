// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/bfd"
	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/link"
)

// resolve resolves the peers of this node: passwords, router IDs and next hops. A peer that cannot be resolved is left out and
// its reason kept for the SpeakerStatus.
func (s *Speaker) resolve(snapshot *Snapshot, o *objects, desired Desired, held func(netip.Addr) bool) peerings {
	problems := map[string]string{}
	var sessions peerings
	for _, peer := range snapshot.Config.Peers {
		routes, selected := desired.Routes[peer.Name]
		if !selected {
			continue
		}
		session, err := s.session(peer, routes, o, held)
		if err != nil {
			problems[peer.Name] = err.Error()
		}
		if session != nil {
			sessions.bgp = append(sessions.bgp, *session)
			if peer.BFD != nil {
				watched, err := s.watched(session.Peer, peer.BFD)
				if err != nil {
					problems[peer.Name] = err.Error()
				} else {
					sessions.bfd = append(sessions.bfd, watched)
				}
			}
		}
	}
	if old := s.problems.Swap(&problems); old == nil || !maps.Equal(*old, problems) {
		signal(s.status)
	}
	return sessions
}

// session resolves one peer. It may return both a session and an error, where some routes have no next hop.
func (s *Speaker) session(peer config.Peer, routes []bgp.Route, o *objects, held func(netip.Addr) bool) (*bgp.Session, error) {
	resolved, err := s.peer(peer, o)
	if err != nil {
		return nil, err
	}
	_, v4, v6, err := s.links.SourceFor(resolved.Address, held)
	if err != nil {
		// While the route flaps, what the peer has been told stays true; if it does not come back, the hold time ends the session.
		err = fmt.Errorf("no route to the peer: %w", err)
		v4, v6 = s.nextHops[peer.Name].v4, s.nextHops[peer.Name].v6
	} else {
		s.nextHops[peer.Name] = nextHops{v4, v6}
	}
	// Where the user says which address the session comes from, that address is where traffic shall go.
	if source := resolved.SourceAddress; source.Is4() {
		v4 = source
	} else if source.Is6() && !source.IsLinkLocalUnicast() {
		v6 = source
	}
	session := &bgp.Session{Peer: resolved}
	filled, missing := withNextHops(routes, resolved.Families, v4, v6)
	session.Routes = filled
	if err == nil {
		err = missing
	}
	return session, err
}

// peerings are the sessions that this node is to have.
type peerings struct {
	bgp []bgp.Session
	bfd []bfd.Session
}

// watched is the BFD session that watches a peer.
func (s *Speaker) watched(peer bgp.Peer, profile *config.BFD) (bfd.Session, error) {
	path, err := s.links.PathTo(peer.Address)
	if last, ok := s.paths[peer.Address]; err != nil && ok {
		path = last // the peer is missed on it, as it should be
	} else if err != nil {
		return bfd.Session{}, fmt.Errorf("no BFD: %w", err)
	}
	s.paths[peer.Address] = path
	return watchedOn(path, peer, profile), nil
}

// watchedOn is the BFD session that watches a peer over a path. Whether routers may be between the two is what BGP says of the peer; an
// internal one may be anywhere, and is watched as on the link where it is there.
func watchedOn(path link.Path, peer bgp.Peer, profile *config.BFD) bfd.Session {
	local := peer.SourceAddress
	if !local.IsValid() {
		local = path.Source
	}
	internal := peer.PeerASN == peer.LocalASN || peer.Dynamic == bgp.Internal
	return bfd.Session{
		Name: peer.Name, Remote: peer.Address, Local: local,
		Multihop:   peer.EBGPMultiHop || peer.TTLSecurityHops > 1 || internal && !path.OnLink,
		MinimumTTL: profile.MinimumTTL, Params: profile.Params,
	}
}

// nextHops are the addresses of this node that a peer was told to send to.
type nextHops struct{ v4, v6 netip.Addr }

// withNextHops fills in the next hops of the routes whose families the session carries, and says which routes it leaves out because
// the node has no address of their family on the peer's link.
func withNextHops(routes []bgp.Route, families []family.Family, v4, v6 netip.Addr) ([]bgp.Route, error) {
	var filled []bgp.Route
	missing := map[family.Family]int{}
	for _, route := range routes {
		switch {
		case !slices.Contains(families, route.Family()):
			continue
		case route.Family() == family.IPv4 && v4.IsValid():
			route.NextHop = v4
		case v6.IsValid():
			route.NextHop = v6 // of an IPv4 prefix too, by RFC 8950, on a link without IPv4
		default:
			missing[route.Family()]++
			continue
		}
		filled = append(filled, route)
	}
	var errs []error
	for _, af := range slices.Sorted(maps.Keys(missing)) {
		errs = append(errs, fmt.Errorf("%d %s prefixes are not announced: this node has no %s address on the peer's link",
			missing[af], af, af))
	}
	return filled, errors.Join(errs...)
}

// peer fills in what each node has for itself: the router ID and the password.
func (s *Speaker) peer(peer config.Peer, o *objects) (bgp.Peer, error) {
	p := peer.Peer
	if !p.RouterID.IsValid() {
		p.RouterID = s.routerID(o)
	}
	if peer.PasswordSecret != nil {
		password, err := o.password(s.cfg.Namespace, *peer.PasswordSecret)
		if err != nil {
			return p, err
		}
		p.Password = password
	}
	return p, p.Validate()
}

// routerID is the node's IPv4 address, or where it has none a number derived from its name.
func (s *Speaker) routerID(o *objects) netip.Addr {
	for i := range o.nodes.Items {
		if node := &o.nodes.Items[i]; node.Name == s.cfg.Node {
			if address, ok := addressOf(node, true); ok {
				return address
			}
		}
	}
	return bgp.RouterID(s.cfg.Node)
}

func (o *objects) password(namespace string, ref config.SecretKey) (bgp.Password, error) {
	for i := range o.secrets.Items {
		secret := &o.secrets.Items[i]
		if client.ObjectKeyFromObject(secret) != (client.ObjectKey{Namespace: namespace, Name: ref.Secret}) {
			continue
		}
		if password, ok := secret.Data[ref.Key]; ok && len(password) == 0 {
			return "", fmt.Errorf("spec.passwordSecret: key %q of Secret %s/%s is empty", ref.Key, namespace, ref.Secret)
		} else if ok {
			return bgp.Password(password), nil
		}
		return "", fmt.Errorf("spec.passwordSecret: Secret %s/%s has no key %q", namespace, ref.Secret, ref.Key)
	}
	return "", fmt.Errorf("spec.passwordSecret: there is no Secret %s/%s", namespace, ref.Secret)
}
