// SPDX-License-Identifier: Apache-2.0

// Package monitoring_test tests the alerts by promtool, which is in the Debian package prometheus, and that alerts, runbooks and dashboard
// name what exists.
package monitoring_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/test/documents"
)

const monitoring = "../../manifests/monitoring"

// rules is what promtool reads.
type rules struct {
	Groups []struct {
		Name  string `json:"name"`
		Rules []rule `json:"rules"`
	} `json:"groups"`
}

type rule struct {
	Alert       string            `json:"alert"`
	Expr        string            `json:"expr"`
	For         string            `json:"for"`
	Labels      map[string]string `json:"labels"`
	Annotations map[string]string `json:"annotations"`
}

func readRules(t *testing.T) rules {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(monitoring, "rules/rules.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var object struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       rules          `json:"spec"`
	}
	if err := yaml.UnmarshalStrict(text, &object); err != nil {
		t.Fatal(err)
	}
	return object.Spec
}

// target are labels that Prometheus, and the monitors, give to every series.
var target = []string{"job", "instance", "node"}

// metrics returns the metrics that exist, with their labels: those of the reference, and those of Prometheus and of every controller manager.
func metrics(t *testing.T) map[string][]string {
	t.Helper()
	all := map[string][]string{"up": nil, "leader_election_master_status": {"name"}}
	for _, row := range reference(t)["Metrics"] {
		name, labels := strings.Trim(row[0], "`"), word.FindAllString(row[2], -1)
		all[name] = labels
		if row[1] == "histogram" {
			all[name+"_bucket"], all[name+"_sum"], all[name+"_count"] = append([]string{"le"}, labels...), labels, labels
		}
	}
	return all
}

// reference returns the tables of docs/reference.md.
func reference(t *testing.T) map[string][][]string {
	t.Helper()
	return documents.Read(t, "../..", "docs/reference.md").Tables
}

var (
	named    = regexp.MustCompile(`\b(tandem_[a-z0-9_]+|leader_election_[a-z_]+|up)\b`)
	matcher  = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"([^"]*)"`)
	word     = regexp.MustCompile(`[a-z_]+`)
	grouping = regexp.MustCompile(`\b(?:by|on) ?\(([a-z_, ]*)\)`)
)

// known checks that a query names at least one metric, and no metric, label, reason or state that does not exist.
func known(t *testing.T, where, query string, all map[string][]string) {
	t.Helper()
	labels := slices.Clone(target)
	found := named.FindAllString(query, -1)
	for _, name := range found {
		of, ok := all[name]
		if !ok {
			t.Errorf("%s asks for %s, which docs/reference.md does not have", where, name)
		}
		labels = append(labels, of...)
	}
	if len(found) == 0 {
		t.Errorf("%s asks for no metric: %s", where, query)
	}
	var asked []string
	for _, group := range grouping.FindAllStringSubmatch(query, -1) {
		asked = append(asked, word.FindAllString(group[1], -1)...)
	}
	for _, m := range matcher.FindAllStringSubmatch(query, -1) {
		asked = append(asked, m[1])
		for value := range strings.SplitSeq(m[2], "|") {
			table := map[string]string{"reason": "Reasons of metrics", "state": "Conditions of a Service"}[m[1]]
			if table != "" && !slices.ContainsFunc(reference(t)[table], func(row []string) bool { return row[1] == "`"+value+"`" }) {
				t.Errorf("%s asks for the %s %s, which docs/reference.md does not have", where, m[1], value)
			}
		}
	}
	for _, label := range asked {
		if !slices.Contains(labels, label) {
			t.Errorf("%s asks for the label %s, which %v do not have", where, label, found)
		}
	}
}

func TestAlertsNameWhatExists(t *testing.T) {
	all := metrics(t)
	contents, err := os.ReadFile("../../docs/runbooks/README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, group := range readRules(t).Groups {
		for _, r := range group.Rules {
			known(t, r.Alert, r.Expr, all)
			page, severity := "../../docs/runbooks/"+r.Alert+".md", r.Labels["severity"]
			if text, err := os.ReadFile(page); err != nil || !strings.HasPrefix(string(text), "# "+r.Alert+"\n\nSeverity "+severity+". ") {
				t.Errorf("%s has no page %s that says its severity %s: %v", r.Alert, page, severity, err)
			}
			if row := fmt.Sprintf("\n| [%[1]s](%[1]s.md) | %[2]s | ", r.Alert, severity); !strings.Contains(string(contents), row) {
				t.Errorf("docs/runbooks/README.md has no row %s", row)
			}
			if want := "https://github.com/tandem-lb/tandem/blob/main/docs/runbooks/" + r.Alert + ".md"; r.Annotations["runbook_url"] != want {
				t.Errorf("%s has the runbook %q, want %q", r.Alert, r.Annotations["runbook_url"], want)
			}
			for _, annotation := range []string{"summary", "description"} {
				if r.Annotations[annotation] == "" {
					t.Errorf("%s has no %s", r.Alert, annotation)
				}
			}
			if !slices.Contains([]string{"info", "warning", "critical"}, severity) {
				t.Errorf("%s has the severity %q", r.Alert, severity)
			}
		}
	}
}

func TestDashboardNamesWhatExists(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(monitoring, "rules/dashboard.json"))
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	all := metrics(t)
	for _, panel := range dashboard.Panels {
		for _, target := range panel.Targets {
			known(t, "the panel "+panel.Title, target.Expr, all)
		}
	}
	if len(dashboard.Panels) == 0 {
		t.Error("the dashboard has no panel")
	}
}

// TestManifests builds the parts of the component, with both ways to the metrics.
func TestManifests(t *testing.T) {
	for dir, want := range map[string][]string{
		"rules": {"ClusterRole/tandem-metrics-reader", "ConfigMap/tandem-dashboard", "PrometheusRule/tandem"},
		"service-monitors": {
			"Service/tandem-cloud-controller-manager", "Service/tandem-speaker",
			"ServiceMonitor/tandem-cloud-controller-manager", "ServiceMonitor/tandem-speaker",
		},
		"pod-monitors": {
			"ClusterRoleBinding/tandem-metrics", "PodMonitor/tandem-cloud-controller-manager", "PodMonitor/tandem-speaker", "Secret/tandem-metrics-token",
			"ServiceAccount/tandem-metrics",
		},
	} {
		built, err := krusty.MakeKustomizer(krusty.MakeDefaultOptions()).Run(filesys.MakeFsOnDisk(), filepath.Join(monitoring, dir))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, r := range built.Resources() {
			got = append(got, r.GetKind()+"/"+r.GetName())
		}
		if diff := cmp.Diff(want, slices.Sorted(slices.Values(got))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", dir, diff)
		}
	}
}

// A scenario is what a rule is to notice. Series have a value each minute. Ten minutes of good are followed by bad ones, and then by good ones:
// the alert is not firing at first, fires at last, and resolves.
type scenario struct {
	good, bad map[string]string // a value of each series
	fires     int               // minutes after which it fires, at least
}

// one is a scenario of one series with a good and a bad value.
func one(series, good, bad string, fires int) scenario {
	return scenario{map[string]string{series: good}, map[string]string{series: bad}, fires}
}

// scenarios returns the scenarios by the alert that fires. An alert that has several has them with something after a colon.
func scenarios() map[string]scenario {
	pool := func(family, allocated, available string) map[string]string {
		labels := `{pool="lan",family="` + family + `"}`
		return map[string]string{
			"tandem_pool_allocated_addresses" + labels: allocated, "tandem_pool_available_addresses" + labels: available,
			"tandem_pool_capacity_addresses" + labels: "100",
			// The other family is full throughout, and does not matter, or has no addresses.
			`tandem_pool_available_addresses{pool="none",family="` + family + `"}`: "0",
			`tandem_pool_capacity_addresses{pool="none",family="` + family + `"}`:  "0",
		}
	}
	const (
		speaker, peer = `{job="tandem-speaker",node="node1"}`, `{node="node1",peer="tor1",family="IPv6"}`
		newer, older  = `{job="tandem-speaker",node="node1",version="v2"}`, `{job="tandem-speaker",node="node2",version="v1"}`
	)
	return map[string]scenario{
		"TandemSpeakerDown":           one("up"+speaker, "1", "0", 6),
		"TandemSpeakersAbsent":        one("up"+speaker, "1", "_", 17), // a series is stale five minutes after its last value
		"TandemControllerManagerDown": one(`up{job="tandem-cloud-controller-manager"}`, "1", "0", 6),
		"TandemNoLeader":              one(`leader_election_master_status{name="tandem-cloud-controller-manager"}`, "1", "0", 3),
		"TandemBGPSessionDown":        one("tandem_bgp_session_up"+peer, "1", "0", 3),
		"TandemBGPPeerLost":           one("tandem_bgp_session_up"+peer, "1", "0", 2),
		"TandemBFDSessionDown":        one("tandem_bfd_session_up"+peer, "1", "0", 3),
		"TandemBGPPrefixesWithheld":   one("tandem_bgp_withheld_prefixes"+peer, "0", "3", 6),
		"TandemBGPReceivesPrefixes":   one("tandem_bgp_received_prefixes"+peer, "1000", "1001", 16),
		"TandemIPv4PoolExhausted":     {pool("IPv4", "99", "1"), pool("IPv4", "100", "0"), 7},
		"TandemIPv6PoolExhausted":     {pool("IPv6", "99", "1"), pool("IPv6", "100", "0"), 7},
		"TandemPoolUsage75Percent":    {pool("IPv4", "75", "25"), pool("IPv4", "76", "24"), 6},
		"TandemPoolUsage85Percent":    {pool("IPv6", "85", "15"), pool("IPv6", "86", "14"), 6},
		"TandemPoolUsage95Percent":    {pool("IPv4", "95", "5"), pool("IPv4", "96", "4"), 6},
		"TandemPoolInvalid":           one(`tandem_pool_valid{pool="lan"}`, "1", "0", 6),
		"TandemServicesWaiting":       one(`tandem_services{state="NotAllocated"}`, "0", "2", 6),
		"TandemServicesNotAnnounced":  one(`tandem_services{state="SessionDown"}`, "0", "2", 6),
		"TandemAllocationFailing":     one(`tandem_allocation_failures_total{pool="lan",family="IPv4",reason="api"}`, "0", "+", 12),
		"TandemAddressConflict":       one(`tandem_layer2_addresses_in_use{node="node1",interface="eth0"}`, "0", "1", 1),
		"TandemAddressUnreachable":    one(`tandem_address_reachable{node="node2",family="IPv4",address="198.51.100.200",holder="node1"}`, "_", "0", 2),
		"TandemSpeakersDisagree": {
			map[string]string{`tandem_membership_alive_speakers{node="node1"}`: "3", `tandem_membership_alive_speakers{node="node2"}`: "3"},
			map[string]string{`tandem_membership_alive_speakers{node="node1"}`: "3", `tandem_membership_alive_speakers{node="node2"}`: "1"},
			3,
		},
		"TandemSpeakersDisagree: port 7573 is closed between all nodes": {
			map[string]string{`tandem_membership_alive_speakers{node="node1"}`: "2", `tandem_membership_alive_speakers{node="node2"}`: "2"},
			map[string]string{`tandem_membership_alive_speakers{node="node1"}`: "1", `tandem_membership_alive_speakers{node="node2"}`: "1"},
			3,
		},
		"TandemSpeakerIsolated":      one(`tandem_speaker_isolated{node="node1"}`, "0", "1", 2),
		"TandemGossipRejected":       one(`tandem_membership_rejected_messages_total{node="node1"}`, "0", "+", 7),
		"TandemConfigNotReady":       one(`tandem_config_object_condition{kind="BGPPeer",name="tor1",condition="Ready"}`, "1", "0", 6),
		"TandemReservedAddressInUse": one(`tandem_pool_reserved_in_use_addresses{pool="lan",family="IPv4"}`, "0", "1", 6),
		"TandemSpeakerVersionsDiffer": {
			map[string]string{"tandem_build_info" + newer: "1", "tandem_build_info" + older: "_"},
			map[string]string{"tandem_build_info" + newer: "1", "tandem_build_info" + older: "1"},
			61,
		},
	}
}

// minutes of good values before, and of good ones after.
const before, after = 10, 40

// values writes a series for promtool.
func (s scenario) values(series string, bad int) string {
	good, ill := s.good[series], s.bad[series]
	times := func(value string, n int) string {
		switch value {
		case "_":
			return fmt.Sprintf("_x%d", n)
		default:
			return fmt.Sprintf("%sx%d", value, n-1)
		}
	}
	if ill == "+" { // a counter that rises, and then stays
		return fmt.Sprintf("%sx%d 0+10x%d %dx%d", good, before-1, bad-1, 10*(bad-1), after-1)
	}
	return times(good, before) + " " + times(ill, bad) + " " + times(good, after)
}

// TestAlerts has promtool show that each alert fires and resolves.
func TestAlerts(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Fatalf("%v: `make deps` installs the Debian package prometheus", err)
	}
	all, metrics, dir := readRules(t), metrics(t), t.TempDir()
	write := func(name string, content any) string {
		text, err := yaml.Marshal(content)
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, name)
		if err := os.WriteFile(file, text, 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	type object = map[string]any
	var alerts []string
	var tests []object
	for _, group := range all.Groups {
		for _, r := range group.Rules {
			alerts = append(alerts, r.Alert)
		}
	}
	var covered []string
	for name, s := range scenarios() {
		alert, _, _ := strings.Cut(name, ":")
		covered = append(covered, alert)
		tests = append(tests, promtoolTest(t, alert, name, s, metrics))
	}
	slices.Sort(covered)
	if diff := cmp.Diff(slices.Compact(covered), slices.Sorted(slices.Values(alerts))); diff != "" {
		t.Errorf("alerts with a scenario (-), alerts (+):\n%s", diff)
	}
	rulesFile := write("rules.yaml", all)
	out, err := exec.CommandContext(t.Context(), promtool, "check", "rules", rulesFile).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	file := write("tests.yaml", object{"rule_files": []string{rulesFile}, "evaluation_interval": "1m", "tests": tests})
	if out, err := exec.CommandContext(t.Context(), promtool, "test", "rules", file).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// promtoolTest returns a test for promtool of one scenario of an alert.
func promtoolTest(t *testing.T, alert, name string, s scenario, metrics map[string][]string) map[string]any {
	t.Helper()
	type object = map[string]any
	for series := range s.good {
		known(t, "the scenario of "+alert, series, metrics)
	}
	bad := s.fires + 5
	var series, checks []object
	for metric := range s.good {
		series = append(series, object{"series": metric, "values": s.values(metric, bad)})
	}
	for minute, want := range map[int]int{before - 1: 0, before + s.fires: 1, before + bad + after - 1: 0} {
		checks = append(checks, object{
			"expr": fmt.Sprintf(`count(ALERTS{alertname=%q,alertstate="firing"}) or vector(0)`, alert), "eval_time": fmt.Sprintf("%dm", minute),
			"exp_samples": []object{{"labels": "{}", "value": want}},
		})
	}
	return object{"name": name, "interval": "1m", "input_series": series, "promql_expr_test": checks}
}
