// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/connections"
)

const (
	// maxPacket is longer than any UDP packet.
	maxPacket = 1 << 16
	// receiveBuffer is what the kernel is asked to keep of packets that have not been read. It keeps net.core.rmem_max at most.
	receiveBuffer = 2 << 20
	// streamBuffer is the same for each stream: a speaker reads at once.
	streamBuffer = 64 << 10
	// socketRetry is after how long a socket that failed is read again.
	socketRetry = 100 * time.Millisecond
)

// A socket is the UDP and the TCP port on one address of this node.
//
// It stands in for memberlist.NetTransport, which makes a buffer of 64 KiB for each packet. As a packet has some 200 bytes, nearly all garbage of a
// speaker was that: with a hundred speakers on two processors, collecting it took so long after three of them had died that the others took each other
// for dead, too. A socket reads into one buffer, and passes on a copy as long as the packet. BenchmarkReceive compares the two.
type socket struct {
	udp *net.UDPConn
	tcp *net.TCPListener
}

// openSocket binds both ports.
func openSocket(at netip.AddrPort) (*socket, error) {
	tcp, err := net.ListenTCP("tcp", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	if err := boundStreams(tcp); err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	udp, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	if err := udp.SetReadBuffer(receiveBuffer); err != nil {
		return nil, errors.Join(err, tcp.Close(), udp.Close())
	}
	return &socket{udp: udp, tcp: tcp}, nil
}

// boundStreams bounds what the kernel keeps of each stream that will be accepted, which would be up to 6 MiB otherwise, of streams of any host.
func boundStreams(tcp *net.TCPListener) error {
	raw, err := tcp.SyscallConn()
	if err != nil {
		return err
	}
	var failure error
	err = raw.Control(func(fd uintptr) { failure = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_RCVBUF, streamBuffer) })
	return errors.Join(err, failure)
}

// close ends receive and accept.
func (s *socket) close() error { return errors.Join(s.tcp.Close(), s.udp.Close()) }

// receive takes in packets until the context ends. The socket is to be closed then.
func (s *socket) receive(ctx context.Context, packets chan<- *memberlist.Packet) {
	buffer := make([]byte, maxPacket)
	for ctx.Err() == nil {
		n, from, err := s.udp.ReadFromUDPAddrPort(buffer)
		if err != nil {
			s.failed(ctx, err)
			continue
		}
		if n == 0 {
			continue // It is no message.
		}
		packet := &memberlist.Packet{Buf: append([]byte(nil), buffer[:n]...), From: net.UDPAddrFromAddrPort(from), Timestamp: time.Now()}
		select {
		case packets <- packet:
		case <-ctx.Done():
		}
	}
}

// accept takes in streams, as many as open has room for, until the context ends. The socket is to be closed then.
func (s *socket) accept(ctx context.Context, open *connections.Set, streams chan<- net.Conn) {
	for ctx.Err() == nil {
		conn, err := s.tcp.AcceptTCP()
		if err != nil {
			s.failed(ctx, err)
			continue
		}
		stream := open.Add(conn)
		select {
		case streams <- stream:
		case <-ctx.Done():
			_ = stream.Close()
		}
	}
}

// failed waits a moment after a failure, such as want of file descriptors, unless the context has ended.
func (s *socket) failed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	klog.FromContext(ctx).V(4).Info("Failed to receive gossip, trying again", "address", s.tcp.Addr(), "err", err)
	select {
	case <-time.After(socketRetry):
	case <-ctx.Done():
	}
}

// sockets are those of all addresses, and what reads from them.
type sockets struct {
	stop     context.CancelFunc
	open     []*socket
	accepted connections.Set // the streams of all addresses, so that a host that knows two has room for no more
	reading  sync.WaitGroup
}

// start reads from a socket until close.
func (all *sockets) start(ctx context.Context, s *socket, packets chan<- *memberlist.Packet, streams chan<- net.Conn) {
	all.open = append(all.open, s)
	all.reading.Go(func() { s.receive(ctx, packets) })
	all.reading.Go(func() { s.accept(ctx, &all.accepted, streams) })
}

// close closes all sockets, and returns when nothing reads from them any more. It may be called again.
func (all *sockets) close() error {
	all.stop()
	var errs []error
	for _, s := range all.open {
		errs = append(errs, s.close())
	}
	all.open = nil
	all.reading.Wait()
	return errors.Join(errs...)
}
