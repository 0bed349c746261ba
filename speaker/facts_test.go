// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestReadSysctls(t *testing.T) {
	folder := t.TempDir()
	for path, value := range map[string]string{
		"net/ipv4/ip_forward": "1\n", "net/ipv6/conf/all/forwarding": "0\n", "net/ipv4/conf/eth0.100/rp_filter": "2\n", "secret": "x",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(folder, path)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, path), []byte(value), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"net.ipv4.ip_forward": "1", "net.ipv6.conf.all.forwarding": "0", "net.ipv4.conf.eth0/100.rp_filter": "2"}
	got := readSysctls(folder, []string{"eth0.100", "missing", "", "..", "../../../../secret"})
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestRoutesTo(t *testing.T) {
	asked := []string{"198.51.100.12", "198.51.100.13", "2001:db8:51::12", "eth0", ""}
	got := routesTo(asked, func(a netip.Addr) (string, error) {
		if a == netip.MustParseAddr("198.51.100.13") {
			return "", errors.New("network is unreachable")
		}
		return "eth0", nil
	})
	if diff := cmp.Diff(map[string]string{"198.51.100.12": "eth0"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if routesTo(nil, nil) == nil {
		t.Error("without addresses it is nil, as of a release that does not tell routes")
	}
}

func TestAskProxyMode(t *testing.T) {
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/proxyMode" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "nftables")
	}))
	url := server.URL
	if mode, problem := askProxyMode(t.Context(), url+"/proxyMode"); mode != "nftables" || problem != "" {
		t.Errorf("%q %q", mode, problem)
	}
	if mode, problem := askProxyMode(t.Context(), url+"/other"); mode != "" || problem != "kube-proxy answered 404 Not Found" {
		t.Errorf("%q %q", mode, problem)
	}
	server.Close()
	if mode, problem := askProxyMode(t.Context(), url+"/proxyMode"); mode != "" || problem != "" {
		t.Errorf("nothing listens: %q %q", mode, problem)
	}
}
