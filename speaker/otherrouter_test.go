// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/signal"
)

// listenAsAnother has another program listen on the port of BGP until the test ends.
func listenAsAnother(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", ":179")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	file, err := listener.(*net.TCPListener).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	cmd := exec.Command("cat")
	cmd.ExtraFiles = []*os.File{file}
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = input.Close()
		_ = cmd.Wait()
	})
}

// TestLooksForOtherRouters: a program that begins to listen while no peer is dialled is seen within lookPeriod.
func TestLooksForOtherRouters(t *testing.T) {
	nettest.Own(t)
	listenAsAnother(t)
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		s := newSessions(ctx, signal.New())
		s.Set(decision.Desired{Peers: []config.Peer{{}}}, nil) // which has no session, for lack of a Secret, say
		go func() { _ = s.run(ctx) }()
		synctest.Wait()
		if listening, _ := s.others.OtherRouter(); listening {
			t.Error("the listener was seen before anybody looked")
		}
		time.Sleep(lookPeriod)
		synctest.Wait()
		if listening, _ := s.others.OtherRouter(); !listening {
			t.Errorf("after %v the listener was not seen", lookPeriod)
		}
		cancel()
	})
}

func TestOtherRouter(t *testing.T) {
	for _, tt := range []struct {
		name      string
		listening bool
		taken     []string
		status    metav1.ConditionStatus
		reason    string
		message   string
	}{
		{"nobody else", false, nil, metav1.ConditionFalse, "NoOtherRouter", "no other program"},
		{"a listener alone", true, nil, metav1.ConditionTrue, "ListensForBGP", "such as Calico's BIRD"},
		{"a session", true, []string{"tor1", "tor2"}, metav1.ConditionTrue, "SessionTaken", "the router of BGPPeer tor1, tor2"},
		{"a session without a listener", false, []string{"tor1"}, metav1.ConditionTrue, "SessionTaken", "spec.sourceAddress"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := otherRouter(tt.listening, tt.taken)
			if got.Type != "OtherRouter" || got.Status != tt.status || got.Reason != tt.reason || !strings.Contains(got.Message, tt.message) {
				t.Errorf("otherRouter() = %+v", got)
			}
		})
	}
}
