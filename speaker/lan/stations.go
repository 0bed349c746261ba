// SPDX-License-Identifier: Apache-2.0

package lan

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/packet"

	"github.com/tandem-lb/tandem/speaker/internal/neighbor"
)

// answerTime is how long Stations waits for answers after each question: a second station may need longer than the first.
const answerTime = 250 * time.Millisecond

// Stations asks all stations on the link of an interface who has an address, by an ARP request or a neighbour solicitation to its group, so many
// times, and returns the MACs that they give, each once, in the order of the answers. It waits for all its time, a quarter of a second for each
// question, since two answers are what it looks for too. Own is an address of this node on the link of the same family; without one ARP asks from
// 0.0.0.0, and IPv6 cannot ask. For example 198.51.100.200 is node1's, and a printer has it too:
//
//	who has 198.51.100.200? tell 198.51.100.12    →    02:…:0b (node1), 00:…:7f (the printer)
//
// A deputy answers with the MAC of the holder, and so the holder's is what is returned.
//
// The socket is opened in the network namespace of the calling thread, and needs CAP_NET_RAW.
func Stations(ctx context.Context, on *net.Interface, own, address netip.Addr, questions int) ([]net.HardwareAddr, error) {
	if len(on.HardwareAddr) != len(neighbor.MAC{}) {
		return nil, fmt.Errorf("%s has no Ethernet address", on.Name)
	}
	if address.Is6() && !own.IsValid() {
		return nil, fmt.Errorf("this node has no IPv6 address on %s to ask from", on.Name)
	}
	if !own.IsValid() {
		own = netip.IPv4Unspecified()
	}
	etherType, filter := neighbor.TypeARP, arpFilter(on.Index)
	if address.Is6() {
		etherType, filter = neighbor.TypeIPv6, icmpv6Filter(on.Index, 0)
	}
	conn, err := neighbor.Listen(on, etherType, filter)
	if err != nil {
		return nil, fmt.Errorf("asking on %s: %w", on.Name, err)
	}
	defer func() { _ = conn.Close() }()
	kind := toNeighbour // To the broadcast address it is the request of a host that wants to send.
	if address.Is6() {
		kind = toGroup
	}
	frame := question(kind, neighbor.MAC(on.HardwareAddr), neighbor.Broadcast, Pair{Own: own, Target: address}, 0)
	var found []net.HardwareAddr
	for range questions {
		if err := neighbor.Send(conn, frame); err != nil {
			return nil, fmt.Errorf("asking on %s: %w", on.Name, err)
		}
		if err := pause(ctx, answerTime); err != nil {
			return nil, err
		}
		if found, err = answersAbout(conn, address, found); err != nil {
			return nil, fmt.Errorf("hearing on %s: %w", on.Name, err)
		}
	}
	return found, nil
}

// answersAbout adds the MACs in the answers about an address that wait in a socket to those that were found.
func answersAbout(conn *packet.Conn, address netip.Addr, found []net.HardwareAddr) ([]net.HardwareAddr, error) {
	parse := parseARP
	if address.Is6() {
		parse = func(frame []byte) (answer, bool) {
			a, ok := parseICMPv6(frame, 0)
			if ok {
				a.mac = targetLinkLayer(frame, a.mac)
			}
			return a, ok && a.kind != echo
		}
	}
	_, err := neighbor.Drain(conn, make([]byte, maxFrame), func(frame []byte) {
		a, ok := parse(frame)
		mac := net.HardwareAddr(a.mac[:])
		if ok && a.address == address && !slices.ContainsFunc(found, func(m net.HardwareAddr) bool { return m.String() == mac.String() }) {
			found = append(found, slices.Clone(mac))
		}
	})
	return found, err
}

// targetLinkLayer returns the link-layer address that a Neighbour Advertisement gives (RFC 4861 §4.4), or else the source of its frame. A
// deputy gives the address of the holder, and is the source itself.
func targetLinkLayer(frame []byte, source neighbor.MAC) neighbor.MAC {
	const (
		option         = neighbor.HeaderLen + 40 + neighbor.MessageLen
		linkLayer      = 2 // the type of the option, RFC 4861 §4.6.1
		optionLen      = 8
		inUnitsOfEight = 1
	)
	if len(frame) < option+optionLen || frame[option] != linkLayer || frame[option+1] != inUnitsOfEight {
		return source
	}
	return neighbor.MAC(frame[option+2 : option+optionLen])
}

// pause waits, and returns the error of a context that ends before.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-timer.C:
		return nil
	}
}
