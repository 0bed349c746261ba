// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"net/http"
	"net/http/httptest"
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
