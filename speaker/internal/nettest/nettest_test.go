// SPDX-License-Identifier: Apache-2.0

package nettest

import (
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"
)

func TestHostsOnASwitchReachEachOther(t *testing.T) {
	lan := NewSwitch(t, "nettest-switch")
	host1, host2 := New(t, "nettest-host"), New(t, "nettest-host")
	for address, host := range map[string]*Namespace{"198.51.100.1": host1, "198.51.100.2": host2} {
		lan.Plug(t, host, "")
		host.IP(t, "addr add %s/24 dev eth0", address)
		host.IP(t, "link set eth0 up")
	}
	var server net.PacketConn
	host2.Do(t, func() (err error) {
		server, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.MustParseAddrPort("198.51.100.2:9")))
		return err
	})
	defer server.Close()
	sent := host1.Go(t, func() error {
		conn, err := net.Dial("udp", "198.51.100.2:9")
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = conn.Write([]byte("hello"))
		return err
	})
	if err := server.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 16)
	n, _, err := server.ReadFrom(b)
	if err != nil || string(b[:n]) != "hello" {
		t.Errorf("received %q, %v", b[:n], err)
	}
	<-sent
	lan.Await(t, host1, host2)
	if got := host1.Exec(t, "cat", "/sys/class/net/eth0/carrier"); got != "1\n" {
		t.Errorf("the carrier is %q while the port is up", got)
	}
	lan.SetPort(t, host1, "down")
	if got := host1.Exec(t, "cat", "/sys/class/net/eth0/carrier"); got != "0\n" {
		t.Errorf("the carrier is %q while the port is down", got)
	}
	if lan.passes(t, host1) {
		t.Error("frames pass while the port is down")
	}
}

func TestNamespacesEndWithTheirTest(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root for network namespaces")
	}
	name := ""
	t.Run("a test with a namespace", func(t *testing.T) { name = New(t, "nettest-gone").Name })
	out, err := exec.Command("ip", "netns", "list").CombinedOutput()
	if err != nil || strings.Contains(string(out), name) {
		t.Errorf("ip netns list: %v, %s; want no %s", err, out, name)
	}
}

// TestAProgramOutlastsThreads: a program does not end with the thread that has started it, on which a function of Do may run.
func TestAProgramOutlastsThreads(t *testing.T) {
	node := New(t, "nettest-program")
	program := node.Command("sleep", "600")
	ended, err := Start(program)
	if err != nil {
		t.Fatal(err)
	}
	for range 50 {
		node.Do(t, func() error { return nil })
	}
	select {
	case <-ended:
		t.Error("the program has ended")
	default:
	}
	if err := program.Process.Kill(); err != nil {
		t.Error(err)
	}
	<-ended
}
