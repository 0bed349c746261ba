// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/connections"
)

// maxStreams bounds the streams that others have opened, in both families together. A stream lasts streamTimeout at most, and a speaker needs a few at a
// time: exchanges of the state, and probes that UDP did not carry.
const maxStreams = 64

// maxStreamBytes bounds what the streams that others have opened have been sent, together. memberlist keeps up to 20 MiB of each before it knows that
// the other side has the key. The state of 5,000 speakers has 0.5 to 1.5 MiB, depending on their names.
const maxStreamBytes = 4 << 20

// addressPatience is how long an address is waited for when a speaker starts, and addressPeriod how often it is looked for.
const (
	addressPatience = 5 * time.Second
	addressPeriod   = addressPatience / 50
)

// transport is a socket for each family that the node has. A speaker tells all others one address, Config.Bind. Where a packet is to go to an address
// of a family that this node does not have, it goes to another address of that node or, if it has none, by way of a node that has both:
//
//	node1 198.51.100.11, 2001:db8::11    node2 198.51.100.12    node3 2001:db8::13
//
//	node3 to node1    to 2001:db8::11, though node1 tells 198.51.100.11
//	node2 to node3    to node1, which passes it on
//
// So memberlist sees nodes that all reach each other. Streams are not passed on: node2 and node3 exchange what they know with node1.
//
// It also bounds the streams that others have opened: memberlist reads from each of them for streamTimeout, in a goroutine of its own with a
// buffer, before it knows that the other side has the key.
type transport struct {
	families map[family.Family]*socket
	// told is the address which the others are told.
	told    netip.AddrPort
	sockets sockets
	packets chan *memberlist.Packet
	streams chan net.Conn
	// addresses returns those of a node, and relays the nodes that are alive with their addresses.
	addresses func(node string) []netip.Addr
	relays    func() map[string][]netip.Addr
	// pass sends a message to the member at another node.
	pass func(relay string, message []byte) error
}

// listen binds the TCP and the UDP port on an address, and on another one unless it is the zero Addr. An address that is not there yet is waited
// for, until the context ends or addressPatience is over. The caller sets the functions, and shuts the transport down.
func listen(ctx context.Context, told netip.AddrPort, other netip.Addr) (*transport, error) {
	t := &transport{
		families: map[family.Family]*socket{}, told: told, packets: make(chan *memberlist.Packet), streams: make(chan net.Conn),
		sockets: sockets{accepted: connections.Set{Limit: maxStreams, Bytes: maxStreamBytes}},
	}
	reading, stop := context.WithCancel(context.WithoutCancel(ctx)) // A speaker that stops says farewell first.
	t.sockets.stop = stop
	if err := t.open(ctx, reading, told.Addr()); err != nil {
		stop()
		return nil, err
	}
	if other.IsValid() {
		if err := t.open(ctx, reading, other); err != nil {
			return t, &otherFamilyError{err}
		}
	}
	return t, nil
}

// open binds the ports on one address, and reads from them until the context reading ends.
func (t *transport) open(ctx, reading context.Context, address netip.Addr) error {
	awaitAddress(ctx, address)
	s, err := openSocket(netip.AddrPortFrom(address, t.told.Port()))
	if err != nil {
		return err
	}
	t.families[family.Of(address)] = s
	t.sockets.start(reading, s, t.packets, t.streams)
	return nil
}

// awaitAddress waits a moment until an address can be bound. While a node boots, the kernel has yet to find out that no other has its IPv6
// address (RFC 4862 §5.4), which takes a second or two.
func awaitAddress(ctx context.Context, address netip.Addr) {
	_ = wait.PollUntilContextTimeout(ctx, addressPeriod, addressPatience, true, func(context.Context) (bool, error) {
		conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address, 0)))
		if err == nil {
			_ = conn.Close()
		}
		return !errors.Is(err, unix.EADDRNOTAVAIL), nil
	}) // To bind the address fails then, and says why.
}

// An otherFamilyError says that a transport works, but not in its second family.
type otherFamilyError struct{ error }

// reach returns the address at which a node is to be reached, which is known by one address, or none. It is not valid if the node has none
// of a family that this node has.
func (t *transport) reach(node string, known netip.AddrPort) netip.AddrPort {
	if t.families[family.Of(known.Addr())] != nil {
		return known
	}
	for _, address := range t.addresses(node) {
		if t.families[family.Of(address)] != nil {
			return netip.AddrPortFrom(address, known.Port())
		}
	}
	return netip.AddrPort{}
}

// route is reach for an address as memberlist has it.
func (t *transport) route(a memberlist.Address) (netip.AddrPort, error) {
	known, err := netip.ParseAddrPort(a.Addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	return t.reach(a.Name, netip.AddrPortFrom(known.Addr().Unmap(), known.Port())), nil
}

// WriteToAddress implements memberlist.NodeAwareTransport.
func (t *transport) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	to, err := t.route(a)
	if err != nil {
		return time.Time{}, err
	}
	if to.IsValid() {
		_, err := t.families[family.Of(to.Addr())].udp.WriteToUDPAddrPort(b, to)
		return time.Now(), err
	}
	if err := t.passOn(b, a); err != nil {
		// It is one by which memberlist has others probe the node.
		return time.Time{}, &net.OpError{Op: "write", Net: "udp", Err: fmt.Errorf("to %s: %w", a.String(), err)}
	}
	return time.Now(), nil
}

// passOn sends a packet by way of a node that is alive, and has an address of each family. Of several each has its turn, since one may have
// died a moment ago.
func (t *transport) passOn(b []byte, a memberlist.Address) error {
	var able []string
	for node, addresses := range t.relays() {
		here := slices.ContainsFunc(addresses, func(ip netip.Addr) bool { return t.families[family.Of(ip)] != nil })
		there := slices.ContainsFunc(addresses, func(ip netip.Addr) bool { return t.families[family.Of(ip)] == nil })
		if here && there && node != a.Name {
			able = append(able, node)
		}
	}
	if len(able) == 0 {
		return errors.New("neither this node nor any other speaker that is alive has an address of its family as well")
	}
	return t.pass(able[rand.IntN(len(able))], slices.Concat(relayed, []byte(a.Addr), []byte{0}, b))
}

// relayed begins a message that is to be passed on: the address follows, a zero byte, and the packet. No message of a speaker begins so: those
// are JSON.
var relayed = []byte("relay ")

// Relay passes a packet on if the message of another member asks for that, and reports whether it does. A packet is passed on once: the node
// to which it goes is asked for no more than its address says.
func (t *transport) Relay(message []byte) bool {
	rest, ok := bytes.CutPrefix(message, relayed)
	if !ok {
		return false
	}
	address, packet, ok := bytes.Cut(rest, []byte{0})
	to, err := netip.ParseAddrPort(string(address))
	if s := t.families[family.Of(to.Addr())]; ok && err == nil && s != nil {
		_, _ = s.udp.WriteToUDPAddrPort(packet, to) // A failure is like a loss.
	}
	return true
}

// DialAddressTimeout implements memberlist.NodeAwareTransport.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	to, err := t.route(a)
	if err != nil {
		return nil, err
	}
	if !to.IsValid() {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: fmt.Errorf("this node and %s have no family in common", a.String())}
	}
	dialer := net.Dialer{Timeout: timeout}
	return dialer.Dial("tcp", to.String())
}

// WriteTo implements memberlist.Transport.
func (t *transport) WriteTo(b []byte, address string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: address})
}

// DialTimeout implements memberlist.Transport.
func (t *transport) DialTimeout(address string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: address}, timeout)
}

// FinalAdvertiseAddr implements memberlist.Transport. The configuration names the address, so that it is not looked for.
func (t *transport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.told.Addr().AsSlice(), int(t.told.Port()), nil
}

// PacketCh implements memberlist.Transport.
func (t *transport) PacketCh() <-chan *memberlist.Packet { return t.packets }

// StreamCh implements memberlist.Transport.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

// Shutdown implements memberlist.Transport.
func (t *transport) Shutdown() error { return t.sockets.close() }
