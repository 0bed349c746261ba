// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	discoveryv1 "k8s.io/api/discovery/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/test/lab"
)

// prometheus is a Prometheus that watches the cluster by manifests/monitoring. It runs on the control plane's host.
type prometheus struct {
	s *stage
}

const prometheusPort = "127.0.0.1:9090"

// object is YAML or JSON of which a test reads a few fields.
type object = map[string]any

// field returns what is at a path in an object.
func field[T any](o object, path ...string) T {
	for _, name := range path[:len(path)-1] {
		o, _ = o[name].(object)
	}
	value, _ := o[path[len(path)-1]].(T)
	return value
}

// prometheus runs a Prometheus until the test ends. It has the rules of manifests/monitoring, and scrapes what the ServiceMonitors there
// select, with a token of its own that is bound to tandem-metrics-reader, as docs/monitoring.md says. Durations are shortened: each rule is
// evaluated every second, fires at once, and looks back for seconds where it looks back for minutes.
func (s *stage) prometheus(t *testing.T) *prometheus {
	t.Helper()
	s.create(t, `{apiVersion: v1, kind: ServiceAccount, metadata: {name: prometheus}}`)
	s.create(t, s.manifest(t, "rules/metrics-reader.yaml"))
	s.create(t, s.manifest(t, "service-monitors/services.yaml"))
	s.kubectl(t, "create", "clusterrolebinding", s.ns+"-metrics", "--clusterrole=tandem-metrics-reader",
		"--serviceaccount="+s.ns+":prometheus")
	t.Cleanup(func() { s.kubectlAfter(t, "delete", "clusterrolebinding", s.ns+"-metrics") })

	dir := t.TempDir()
	write := func(name string, content []byte) string {
		t.Helper()
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	token := write("token", []byte(s.kubectl(t, "create", "token", "-n", s.ns, "prometheus")))
	var rules object
	text := regexp.MustCompile(`\[\d+m\]`).ReplaceAllString(s.manifest(t, "rules/rules.yaml"), "[5s]")
	text = regexp.MustCompile(`for: \w+\n`).ReplaceAllString(text, "for: 0s\n")
	if err := yaml.Unmarshal([]byte(text), &rules); err != nil {
		t.Fatal(err)
	}
	var jobs []object
	for monitor := range strings.SplitSeq(s.manifest(t, "service-monitors/service-monitors.yaml"), "\n---\n") {
		var parsed object
		if err := yaml.Unmarshal([]byte(monitor), &parsed); err != nil {
			t.Fatal(err)
		}
		jobs = append(jobs, s.scrapes(t, parsed, token))
	}
	marshal := func(o object) []byte {
		text, err := yaml.Marshal(o)
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	config := write("prometheus.yaml", marshal(object{
		"global":     object{"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
		"rule_files": []string{write("rules.yaml", marshal(field[object](rules, "spec")))}, "scrape_configs": jobs,
	}))
	ctx, stop := context.WithCancel(context.Background())
	cmd := s.Command(ctx, lab.ControlPlane, "prometheus", "--config.file="+config, "--storage.tsdb.path="+filepath.Join(dir, "data"),
		"--web.listen-address="+prometheusPort, "--log.level=warn")
	var log strings.Builder
	cmd.Stdout, cmd.Stderr = &log, &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stop()
		if _ = cmd.Wait(); t.Failed() {
			t.Logf("Prometheus says:\n%s", log.String())
		}
	})
	p := &prometheus{s}
	s.until(t, patience, "Prometheus", func(ctx context.Context) (bool, string) {
		_, err := s.Get(ctx, lab.ControlPlane, "http://"+prometheusPort+"/-/ready")
		return err == nil, fmt.Sprint(err)
	})
	return p
}

// manifest returns a file of manifests/monitoring.
func (s *stage) manifest(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "manifests", "monitoring", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// scrapes returns the scrape configuration that the Prometheus operator makes of a ServiceMonitor, in so far as ours use its fields. The
// Prometheus of Debian cannot discover targets in Kubernetes, so that this lists them, with the labels that discovery would give them.
func (s *stage) scrapes(t *testing.T, monitor object, token string) object {
	t.Helper()
	namespace, name := field[string](monitor, "metadata", "namespace"), field[string](monitor, "metadata", "name")
	endpoints := field[[]any](monitor, "spec", "endpoints")
	if len(endpoints) != 1 {
		t.Fatalf("%s has %d endpoints, want 1", name, len(endpoints))
	}
	endpoint := endpoints[0].(object)
	if file := field[string](endpoint, "bearerTokenFile"); file != "/var/run/secrets/kubernetes.io/serviceaccount/token" {
		t.Fatalf("%s takes its token from %q, want that of Prometheus", name, file)
	}
	selector := client.MatchingLabels{}
	for key, value := range field[object](monitor, "spec", "selector", "matchLabels") {
		selector[key] = value.(string)
	}
	relabel := []object{{"source_labels": []string{"__meta_kubernetes_service_name"}, "target_label": "job"}}
	for _, r := range field[[]any](endpoint, "relabelings") {
		relabel = append(relabel, object{"source_labels": r.(object)["sourceLabels"], "target_label": r.(object)["targetLabel"]})
	}
	return object{
		"job_name": "serviceMonitor/" + namespace + "/" + name, "scheme": endpoint["scheme"],
		"authorization":  object{"credentials_file": token},
		"tls_config":     object{"insecure_skip_verify": field[bool](endpoint, "tlsConfig", "insecureSkipVerify")},
		"static_configs": s.targets(t, namespace, selector, field[string](endpoint, "port")), "relabel_configs": relabel,
	}
}

// targets returns the Pods behind a port of the Services with these labels. It waits until there are some.
func (s *stage) targets(t *testing.T, namespace string, selector client.MatchingLabels, port string) (targets []object) {
	t.Helper()
	s.until(t, patience, fmt.Sprintf("Pods behind port %s of Services with %v", port, selector), func(ctx context.Context) (bool, string) {
		var list discoveryv1.EndpointSliceList
		if err := s.List(ctx, &list, client.InNamespace(namespace), selector); err != nil {
			return false, err.Error()
		}
		targets = nil
		for _, slice := range list.Items {
			for _, p := range slice.Ports {
				for _, e := range slice.Endpoints {
					if *p.Name != port || e.NodeName == nil {
						continue
					}
					address := net.JoinHostPort(e.Addresses[0], strconv.Itoa(int(*p.Port)))
					targets = append(targets, object{"targets": []string{address}, "labels": object{
						"__meta_kubernetes_service_name": slice.Labels[discoveryv1.LabelServiceName], "__meta_kubernetes_pod_node_name": *e.NodeName,
					}})
				}
			}
		}
		return len(targets) > 1, fmt.Sprint(list.Items)
	})
	return targets
}

// ask returns the data of an answer of Prometheus' API.
func (p *prometheus) ask(ctx context.Context, path string, data any) error {
	body, err := p.s.Get(ctx, lab.ControlPlane, "http://"+prometheusPort+"/api/v1/"+path)
	if err != nil {
		return err
	}
	answer := struct {
		Status string
		Data   any
	}{Data: data}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		return fmt.Errorf("%w: %s", err, body)
	}
	return nil
}

// series returns how many series a query yields.
func (p *prometheus) series(ctx context.Context, query string) (int, error) {
	var data struct{ Result []any }
	err := p.ask(ctx, "query?query="+url.QueryEscape(query), &data)
	return len(data.Result), err
}

// firing returns the alerts that fire, each with those of its labels that are asked for.
func (p *prometheus) firing(ctx context.Context, labels ...string) ([]string, error) {
	var data struct {
		Alerts []struct {
			State  string
			Labels map[string]string
		}
	}
	if err := p.ask(ctx, "alerts", &data); err != nil {
		return nil, err
	}
	var firing []string
	for _, a := range data.Alerts {
		words := []string{a.Labels["alertname"]}
		for _, label := range labels {
			if a.Labels[label] != "" {
				words = append(words, a.Labels[label])
			}
		}
		if a.State == "firing" {
			firing = append(firing, strings.Join(words, " "))
		}
	}
	slices.Sort(firing)
	return firing, nil
}

// fires waits until these alerts fire and no others, each written with its pool, peer or name, family, node and state.
func (p *prometheus) fires(t *testing.T, want ...string) {
	t.Helper()
	for i := range want {
		want[i] = strings.ReplaceAll(want[i], "$NS", p.s.ns)
	}
	slices.Sort(want)
	p.s.until(t, 2*patience, fmt.Sprintf("alerts %q", want), func(ctx context.Context) (bool, string) {
		got, err := p.firing(ctx, "peer", "pool", "name", "family", "node", "state")
		return err == nil && slices.Equal(got, want), fmt.Sprintf("%v (-want +got)\n%s", err, cmp.Diff(want, got))
	})
}

// yields waits until a query yields a series.
func (p *prometheus) yields(t *testing.T, what, query string) {
	t.Helper()
	p.s.until(t, patience, fmt.Sprintf("a series of %s: %s", what, query), func(ctx context.Context) (bool, string) {
		n, err := p.series(ctx, query)
		return err == nil && n > 0, fmt.Sprint(err)
	})
}

// TestPrometheus has a real Prometheus watch a cluster that is well, then one whose pool is full, then one whose router is gone, then a well
// one again.
func TestPrometheus(t *testing.T) {
	s := newStage(t, dual)
	s.router(t, bfdRouter(100))
	s.create(t, bfdProfile(100))
	s.pool(t, "", "198.51.100.200-198.51.100.201", "2001:db8:51::1000-2001:db8:51::1001")
	s.bgp(t)
	s.patch(t, s.object(t, "BGPPeer"), `{spec: {bfdProfile: $NS}}`)
	s.layer2On(t, "node1")
	s.web(t, "node1")
	s.add(t, s.service("web", v4, v6))
	s.announcedFrom(t, s.addresses(t, "web", 2), s.Nodes()...)
	p := s.prometheus(t)

	t.Run("every target is scraped once", func(t *testing.T) {
		s.until(t, patience, "the speakers and two controller managers", func(ctx context.Context) (bool, string) {
			speakers, err := p.series(ctx, `up{job="tandem-speaker",node=~"node.+"} == 1`)
			managers, errToo := p.series(ctx, `up{job="tandem-cloud-controller-manager",node=~"node.+"} == 1`)
			all, errAtLast := p.series(ctx, "up")
			return speakers == len(s.Nodes()) && managers == 2 && all == speakers+managers,
				fmt.Sprintf("%d speakers, %d controller managers, %d in all: %v %v %v", speakers, managers, all, err, errToo, errAtLast)
		})
	})
	t.Run("nothing fires while all is well", func(t *testing.T) { p.fires(t) })
	t.Run("a full pool fires for each family", func(t *testing.T) {
		second, third := s.service("second", v4, v6), s.service("third", v4, v6)
		s.add(t, second)
		s.addresses(t, "second", 2)
		s.add(t, third)
		p.fires(t, "TandemIPv4PoolExhausted $NS IPv4", "TandemIPv6PoolExhausted $NS IPv6",
			"TandemPoolUsage75Percent $NS IPv4", "TandemPoolUsage85Percent $NS IPv4", "TandemPoolUsage95Percent $NS IPv4",
			"TandemPoolUsage75Percent $NS IPv6", "TandemPoolUsage85Percent $NS IPv6", "TandemPoolUsage95Percent $NS IPv6",
			"TandemServicesWaiting NotAllocated")
	})
	t.Run("each metric of the rules exists", func(t *testing.T) {
		for _, name := range slices.Compact(slices.Sorted(slices.Values(
			regexp.MustCompile(`\b(tandem_[a-z0-9_]+|leader_election_[a-z_]+)\b`).FindAllString(s.manifest(t, "rules/rules.yaml"), -1),
		))) {
			if name == "tandem_address_reachable" { // It has series for addresses that do not answer alone. This one counts the others.
				name = "tandem_reachable_addresses"
			}
			p.yields(t, "the rules", name)
		}
	})
	t.Run("each query of the dashboard yields series", func(t *testing.T) {
		var dashboard struct {
			Panels []struct {
				Title   string
				Targets []struct{ Expr string }
			}
		}
		if err := json.Unmarshal([]byte(s.manifest(t, "rules/dashboard.json")), &dashboard); err != nil {
			t.Fatal(err)
		}
		for _, panel := range dashboard.Panels {
			for _, target := range panel.Targets {
				p.yields(t, "the panel "+panel.Title, target.Expr)
			}
		}
	})
	t.Run("a pool with free addresses resolves", func(t *testing.T) {
		for _, name := range []string{"third", "second"} {
			s.remove(t, s.service(name))
		}
		p.fires(t)
	})
	t.Run("a router that is gone fires for each family", func(t *testing.T) {
		t.Cleanup(func() {
			if err := s.SetLink(context.Background(), lab.Router, true); err != nil {
				t.Error(err)
			}
		})
		if err := s.SetLink(t.Context(), lab.Router, false); err != nil {
			t.Fatal(err)
		}
		// The BGPAdvertisement has lost all of its sessions, and the Service is still announced on layer 2.
		want := []string{"TandemBGPPeerLost $NS IPv4", "TandemBGPPeerLost $NS IPv6", "TandemConfigNotReady $NS"}
		for _, node := range s.Nodes() {
			want = append(want, "TandemBGPSessionDown $NS IPv4 "+node, "TandemBGPSessionDown $NS IPv6 "+node, "TandemBFDSessionDown $NS IPv4 "+node)
		}
		p.fires(t, want...)
	})
	t.Run("the peer has events of it", func(t *testing.T) {
		for _, node := range s.Nodes() {
			s.until(t, patience, "an event of "+node, func(ctx context.Context) (bool, string) {
				out, err := s.Kubectl(ctx, "describe", "bgppeers.tandem-lb.io", s.ns).CombinedOutput()
				told := regexp.MustCompile(`BGPSessionLost.*Node ` + node + ` has lost its session with .* for IPv4 and IPv6: .*BFD: nothing was heard`)
				return err == nil && told.Match(out), string(out)
			})
		}
	})
	t.Run("a router that is back resolves", func(t *testing.T) { p.fires(t) })
}
