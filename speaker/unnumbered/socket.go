// SPDX-License-Identifier: Apache-2.0

package unnumbered

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"

	"github.com/mdlayher/ndp"
	"golang.org/x/net/ipv6"

	"github.com/tandem-lb/tandem/speaker/link"
)

var (
	allNodes   = netip.MustParseAddr("ff02::1")
	allRouters = netip.MustParseAddr("ff02::2")
)

// maxMessage is more than any message has whose source may matter: a router advertisement with options for some prefixes and servers.
const maxMessage = 2048

// socket sends and receives router advertisements and solicitations on one link, which takes CAP_NET_RAW. The kernel writes and checks
// their checksums.
type socket struct {
	conn      *ipv6.PacketConn
	iface     link.Interface
	multicast func(netip.Addr) *net.IPAddr
	buffer    [maxMessage]byte
}

// listen opens the socket of an interface. Packets leave with the address as their source.
func listen(i link.Interface, address netip.Addr) (*socket, error) {
	// Package net remembers for a minute which index the name of an interface had, so that the zones are numbers.
	zone := strconv.Itoa(i.Index)
	// A socket that is bound to a link-local address receives from its link alone.
	packets, err := new(net.ListenConfig).ListenPacket(context.Background(), "ip6:ipv6-icmp", address.WithZone(zone).String())
	if err != nil {
		return nil, err
	}
	s := &socket{conn: ipv6.NewPacketConn(packets), iface: i, multicast: func(group netip.Addr) *net.IPAddr {
		return &net.IPAddr{IP: group.AsSlice(), Zone: zone}
	}}
	var filter ipv6.ICMPFilter
	filter.SetAll(true)
	filter.Accept(ipv6.ICMPTypeRouterAdvertisement)
	filter.Accept(ipv6.ICMPTypeRouterSolicitation)
	if err := errors.Join(
		s.conn.SetICMPFilter(&filter),
		s.conn.SetControlMessage(ipv6.FlagHopLimit, true),
		s.conn.SetMulticastHopLimit(ndp.HopLimit), // RFC 4861 §4.1, §4.2
		// The kernel of this node needs no advertisement of ours.
		s.conn.SetMulticastLoopback(false),
		// A host hears what is for all nodes. What is for all routers is heard by the members of that group.
		s.conn.JoinGroup(&net.Interface{Index: i.Index}, s.multicast(allRouters)),
	); err != nil {
		_ = s.conn.Close()
		return nil, err
	}
	return s, nil
}

func (s *socket) close() { _ = s.conn.Close() }

// send advertises this node as a router that routes for nobody, and asks for the routers of the link.
func (s *socket) send(advertise, solicit bool) error {
	source := &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: s.iface.MAC}
	var errs []error
	write := func(m ndp.Message, group netip.Addr) {
		b, err := ndp.MarshalMessage(m)
		if err == nil {
			_, err = s.conn.WriteTo(b, nil, s.multicast(group))
		}
		errs = append(errs, err)
	}
	var options []ndp.Option
	if len(s.iface.MAC) == 6 { // A tunnel has none.
		options = append(options, source)
	}
	if advertise {
		// All fields are 0: a lifetime of 0 is that of a router which is nobody's default router, and what is unspecified changes nothing
		// at a host.
		write(&ndp.RouterAdvertisement{Options: options}, allNodes)
	}
	if solicit {
		write(&ndp.RouterSolicitation{Options: options}, allRouters)
	}
	return errors.Join(errs...)
}

// receive waits for a message of a neighbour on the link, and returns it with its source. The error of a packet that is none says what is
// wrong with it; that of a socket which is closed is net.ErrClosed.
func (s *socket) receive() (ndp.Message, netip.Addr, error) {
	n, control, from, err := s.conn.ReadFrom(s.buffer[:])
	if err != nil {
		return nil, netip.Addr{}, err
	}
	source, ok := netip.AddrFromSlice(from.(*net.IPAddr).IP)
	if !ok || control == nil {
		return nil, netip.Addr{}, fmt.Errorf("from %v, without a hop limit", from)
	}
	message, err := parse(s.buffer[:n], source, control.HopLimit)
	return message, source.WithZone(s.iface.Name), err
}

// parse reads a message as RFC 4861 §6.1.1 and §6.1.2 have it validated, but for the checksum.
func parse(b []byte, source netip.Addr, hopLimit int) (ndp.Message, error) {
	m, err := ndp.ParseMessage(b)
	if err != nil {
		return nil, err
	}
	if hopLimit != ndp.HopLimit {
		return nil, fmt.Errorf("from %v with hop limit %d: it is not of this link", source, hopLimit)
	}
	if b[1] != 0 {
		return nil, fmt.Errorf("from %v with code %d", source, b[1])
	}
	switch m.(type) {
	case *ndp.RouterAdvertisement:
		if !source.Is6() || !source.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("from %v, which is not link-local", source)
		}
	case *ndp.RouterSolicitation: // one without an address comes from ::
	default:
		return nil, fmt.Errorf("from %v: type %d", source, b[0])
	}
	return m, nil
}
