// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/component-base/version"

	"github.com/tandem-lb/tandem/ipam/family"
	"github.com/tandem-lb/tandem/speaker/lookingglass"
)

// mostFactInterfaces is of how many interfaces parameters are told at most, in an answer that is meant for a screen, and mostFactRoutes to how many
// addresses the route.
const mostFactInterfaces, mostFactRoutes = 16, 64

// proxyMode is where kube-proxy tells its mode, unless --metrics-bind-address of it says otherwise.
const proxyMode = "http://127.0.0.1:10249/proxyMode"

// serveFacts answers with the facts of this node, as JSON. The query names the interfaces and addresses of interest:
// /facts?interface=eth0&interface=eth1&to=198.51.100.12.
func (s *Speaker) serveFacts(w http.ResponseWriter, r *http.Request) {
	interfaces, addresses := r.URL.Query()["interface"], r.URL.Query()["to"]
	f := lookingglass.Facts{
		Version: version.Get().GitVersion,
		Sysctls: readSysctls("/proc/sys", interfaces[:min(len(interfaces), mostFactInterfaces)]),
	}
	if s.links != nil {
		f.Routes = routesTo(addresses[:min(len(addresses), mostFactRoutes)], s.links.InterfaceTo)
		f.DefaultRoute = s.links.Snapshot().DefaultInterfaces(family.IPv4)
	}
	f.KubeProxyMode, f.KubeProxyError = askProxyMode(r.Context(), proxyMode)
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(f) // it fails where the client is gone
}

// routesTo returns the interfaces that lead to IPv4 addresses.
func routesTo(addresses []string, interfaceTo func(netip.Addr) (string, error)) map[string]string {
	routes := map[string]string{}
	for _, text := range addresses {
		address, err := netip.ParseAddr(text)
		if err != nil || !address.Is4() {
			continue
		}
		if name, err := interfaceTo(address); err == nil {
			routes[text] = name
		}
	}
	return routes
}

// readSysctls reads the parameters on which forwarding and the answers of the kernel depend, below the folder of /proc/sys.
func readSysctls(folder string, interfaces []string) map[string]string {
	paths := []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter", "net/ipv4/conf/all/arp_ignore"}
	for _, name := range interfaces {
		if name == "" || name == "." || name == ".." || strings.ContainsAny(name, `/\`) {
			continue // no name of an interface: it comes from the request
		}
		for _, of := range []string{"ipv4/conf/%/rp_filter", "ipv4/conf/%/arp_ignore", "ipv6/conf/%/disable_ipv6", "ipv6/conf/%/accept_ra"} {
			paths = append(paths, "net/"+strings.Replace(of, "%", name, 1))
		}
	}
	values := map[string]string{}
	for _, path := range paths {
		if text, err := os.ReadFile(filepath.Join(folder, path)); err == nil {
			// A dot in the name of a VLAN is written as a slash, as sysctl(8) does: net.ipv4.conf.eth0/100.rp_filter.
			values[strings.NewReplacer("/", ".", ".", "/").Replace(path)] = strings.TrimSpace(string(text))
		}
	}
	return values
}

// askProxyMode asks kube-proxy for its mode. Nothing that listens there is no error: another program may stand in for kube-proxy.
func askProxyMode(ctx context.Context, url string) (mode, problem string) {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err.Error()
	}
	response, err := http.DefaultClient.Do(request)
	if errors.Is(err, unix.ECONNREFUSED) {
		return "", ""
	}
	if err != nil {
		return "", err.Error()
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, 64))
	if err != nil || response.StatusCode != http.StatusOK {
		return "", "kube-proxy answered " + response.Status
	}
	return strings.TrimSpace(string(body)), ""
}
