// SPDX-License-Identifier: Apache-2.0

package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"io"
	"math/rand/v2"
	"net/netip"
	"path"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// bundle returns what a report of a small cluster has in it.
func bundle(t *testing.T) *Bundle {
	t.Helper()
	objects := append(fixture.LAN(), fixture.Service("shopfront", "node1", []string{"node2"}, "198.51.100.200", "2001:db8:51::1000")...)
	svc := fixture.Find[*corev1.Service](t, objects, "shopfront")
	svc.Labels = map[string]string{"tenant": "acme"}
	svc.Annotations = map[string]string{
		"kubectl.kubernetes.io/last-applied-configuration": "lastapplied", "acme.example/owner": "jane", "tandem-lb.io/preferred-nodes": "rack=1",
	}
	svc.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kubectl", Operation: metav1.ManagedFieldsOperationApply, APIVersion: "v1", FieldsType: "FieldsV1", FieldsV1: metav1.NewFieldsV1("{}")}}
	objects = append(objects, &v1alpha1.BGPPeer{ObjectMeta: metav1.ObjectMeta{Name: "core-router"}, Spec: v1alpha1.BGPPeerSpec{
		PeerAddress: "198.51.100.1", PasswordSecret: &v1alpha1.SecretKeyReference{Name: "router-password"},
	}}, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "router-password"}, Data: map[string][]byte{"password": []byte("hunter2")}})
	b := &Bundle{Objects: map[string][]map[string]any{}, Texts: map[string][]byte{
		"programs/tandem-speaker-x.log": []byte(`"Announced" service="default/shopfront" node="node1" address="198.51.100.200:80" mac="02:00:00:00:01:11" record=default.shopfront` + "\n" +
			"node2: 2001:db8:51::1000 answers, range 198.51.100.200-198.51.100.239 in 198.51.100.0/24\n"),
	}}
	b.addState(fixture.State(t, objects...))
	b.add("pods", &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "tandem-system", Name: "tandem-speaker-x"},
		Spec: corev1.PodSpec{NodeName: "node1", Containers: []corev1.Container{{
			Image: "registry.acme.example/tandem/speaker:v0.1.0", Env: []corev1.EnvVar{{Name: "TOKEN", Value: "envsecret"}},
		}}},
	})
	b.addEvents([]corev1.Event{
		{InvolvedObject: corev1.ObjectReference{Kind: "Service", Namespace: "default", Name: "shopfront"}, Source: corev1.EventSource{Component: "tandem-speaker"}, Message: "ours"},
		{InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "default", Name: "x"}, Source: corev1.EventSource{Component: "kubelet"}, Message: "othersevent"},
	}, "tandem-system")
	b.Missing = []string{"speakers/node3: no answer"}
	return b
}

// unpack returns all names and contents of an archive, as one text.
func unpack(t *testing.T, b *Bundle, anonymous bool) string {
	t.Helper()
	var archive bytes.Buffer
	if err := b.Write(&archive, "tandem-report", time.Date(2026, 3, 1, 0, 0, 0, 0, time.UTC), anonymous); err != nil {
		t.Fatal(err)
	}
	unzipped, err := gzip.NewReader(&archive)
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for files := tar.NewReader(unzipped); ; {
		header, err := files.Next()
		if errors.Is(err, io.EOF) {
			return all.String()
		} else if err != nil {
			t.Fatal(err)
		}
		all.WriteString("== " + header.Name + "\n")
		if _, err := io.Copy(&all, files); err != nil {
			t.Fatal(err)
		}
	}
}

// A report has what helps, and nothing of Secrets, of what others have written, or of what is for programs alone.
func TestReport(t *testing.T) {
	text := unpack(t, bundle(t), false)
	for _, want := range []string{
		"tandem-report/README.txt", "tandem-report/objects/services.yaml", "shopfront", "198.51.100.200", "router-password", "missing.txt\nspeakers/node3", "ours",
		"programs/tandem-speaker-x.log", "TOKEN",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("it has no %q", want)
		}
	}
	for _, secret := range []string{"hunter2", "lastapplied", "managedFields", "othersevent", "envsecret"} {
		if strings.Contains(text, secret) {
			t.Errorf("it has %q", secret)
		}
	}
}

// An anonymous report has no name and no address of before, and what belonged together still does.
func TestAnonymize(t *testing.T) {
	b := bundle(t)
	b.Anonymize()
	text := unpack(t, b, true)
	for _, name := range []string{
		"shopfront", "node1", "node2", "node3", "198.51.100", "2001:db8", "02:00:00:00:01:11", "acme", "tenant", "jane", "core-router", "router-password",
		"tandem-speaker-x", "owner",
	} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, name) {
				t.Errorf("%q is in %q", name, line)
			}
		}
	}
	service := field(b.Objects["objects/services"][0], "metadata", "name").(string)
	address := asList(field(b.Objects["objects/services"][0], "status", "loadBalancer", "ingress"))[0].(map[string]any)["ip"].(string)
	for _, together := range []string{
		`service="default/` + service + `"`, "record=default." + service, `address="` + address + `:80"`, "name: default." + service, "kubernetes.io/service-name: " + service,
		"range " + address + "-",
	} {
		if !strings.Contains(text, together) {
			t.Errorf("there is no %q in:\n%s", together, text)
		}
	}
}

// Names are found wherever they stand: within other names, in the names of files, as keys of labels and of expressions, and in annotations of others.
func TestAnonymizeLeavesNoName(t *testing.T) {
	labels := func(keysAndValues ...string) map[string]any {
		all := map[string]any{}
		for i := 0; i < len(keysAndValues); i += 2 {
			all[keysAndValues[i]] = keysAndValues[i+1]
		}
		return all
	}
	b := &Bundle{Objects: map[string][]map[string]any{
		"objects/services": {
			{
				"metadata": map[string]any{
					"namespace": "team-bank", "name": "acme-web", "labels": labels("web", "yes", "name", "web", "acme.example/tier", "gold"),
					"annotations": labels("external-dns.alpha.kubernetes.io/hostname", "shop.secret.example", "tandem-lb.io/preferred-nodes", "acme.example/tier=gold"),
				},
				"spec": map[string]any{"loadBalancerClass": "lb.secret.example/lb"},
			},
			{"metadata": map[string]any{"namespace": "team-bank", "name": "web"}},
		},
		"objects/l2announcements": {{"metadata": map[string]any{"name": "team-bank.acme-web"}}},
		"objects/bgppeers": {{"metadata": map[string]any{"name": "tor-frankfurt"}, "spec": map[string]any{"nodeSelector": map[string]any{"matchExpressions": []any{
			map[string]any{"key": "secret.example/row", "operator": "In", "values": []any{"row-frankfurt"}},
			map[string]any{"key": "secretkey", "operator": "Exists"},
		}}}}},
		"objects/nodes": {{
			"metadata": map[string]any{"name": "node1", "labels": labels("node-role.kubernetes.io/secretrole", "", "kubernetes.io/os", "linux")},
			"spec":     map[string]any{"providerID": "metal:///secretid", "taints": []any{map[string]any{"key": "secret.example/taint", "value": "frankfurt", "effect": "NoSchedule"}}},
		}},
		"objects/deployments": {{"spec": map[string]any{
			"selector":   map[string]any{"matchLabels": labels("app", "tandem")},
			"containers": []any{map[string]any{"image": "registry.secret.example:5000/secretpath/tandem:v1"}},
		}}},
	}, Texts: map[string][]byte{
		"speakers/node1/routes-tor-frankfurt.json": []byte("node1: team-bank/acme-web, team-bank_acme-web: acme.example/tier is gold of secretkey\n"),
	}, Missing: []string{`pods: pods is forbidden: User "jane@secret.example" cannot list resource "pods"`}}
	b.Anonymize()
	text := unpack(t, b, true)
	for _, name := range []string{"bank", "acme", "web", "tier", "gold", "secret", "frankfurt", "tor-", "jane", "node1"} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, name) {
				t.Errorf("%q is in %q", name, line)
			}
		}
	}
	service, _ := field(b.Objects["objects/services"][0], "metadata", "name").(string)
	namespace, _ := field(b.Objects["objects/services"][0], "metadata", "namespace").(string)
	peer, _ := field(b.Objects["objects/bgppeers"][0], "metadata", "name").(string)
	if service == "" || namespace == "" || peer == "" {
		t.Fatalf("the keys of fields are others:\n%s", text)
	}
	for _, stays := range []string{
		"name: " + namespace + "." + service + "\n", "routes-" + peer + ".json", namespace + "/" + service + ", " + namespace + "_" + service + ":",
		"matchLabels:", "kubernetes.io/os: linux", "tandem-lb.io/preferred-nodes: ",
	} {
		if !strings.Contains(text, stays) {
			t.Errorf("there is no %q in:\n%s", stays, text)
		}
	}
}

// Names of ports, interfaces and VRFs are replaced, in logs too, and those stay that a kernel, systemd or a protocol has chosen. A pattern selects the
// stand-ins of what it selected.
func TestAnonymizeInterfacesAndPorts(t *testing.T) {
	type fields = map[string]any
	b := &Bundle{Objects: map[string][]map[string]any{
		"objects/services": {{"spec": fields{"ports": []any{
			fields{"name": "ledger-sync", "targetPort": "ledger-in", "appProtocol": "secret.example/ledger"}, fields{"name": "https", "targetPort": int64(8443)},
		}}}},
		"objects/endpointslices": {{"ports": []any{fields{"name": "ledger-out"}}, "endpoints": []any{fields{"zone": "hall-secret"}}}},
		"objects/pods": {{"spec": fields{"containers": []any{fields{
			"ports": []any{fields{"name": "ledgerport"}}, "livenessProbe": fields{"httpGet": fields{"port": "ledgerprobe"}},
		}}}}},
		"objects/bgppeers":         {{"spec": fields{"vrf": "vrf-ledger", "interface": "uplink-ledger0", "sourceInterface": "enx020000000111"}}},
		"objects/l2advertisements": {{"spec": fields{"interfaces": []any{"ledger*", "lan-led?er1", "eth*", "enp3s0f?", "bond0"}}}},
		"objects/l2announcements":  {{"status": fields{"interfaces": []any{"ledger10"}}}},
		"objects/speakerstatuses": {{"status": fields{
			"interfaces": []any{fields{"name": "ledger7"}, fields{"name": "enp3s0f1np1"}, fields{"name": "eth0.100"}},
			"conflicts":  []any{fields{"interface": "ledger10", "address": "192.0.2.1"}},
		}}},
	}, Texts: map[string][]byte{"programs/x.log": []byte("ledger10 is up; vrf-ledger has uplink-ledger0; enp3s0f1np1, eth0.100, dial tcp, https\n")}}
	b.Anonymize()
	text := unpack(t, b, true)
	for _, name := range []string{"ledger", "secret", "led", "0111"} {
		for line := range strings.Lines(text) {
			if strings.Contains(line, name) {
				t.Errorf("%q is in %q", name, line)
			}
		}
	}
	spec := asList(field(b.Objects["objects/l2advertisements"][0], "spec", "interfaces"))
	selects := func(pattern, name any) bool {
		ok, err := path.Match(pattern.(string), name.(string))
		return err == nil && ok
	}
	held := asList(field(b.Objects["objects/l2announcements"][0], "status", "interfaces"))[0]
	other := asList(field(b.Objects["objects/speakerstatuses"][0], "status", "interfaces"))[0].(fields)["name"]
	if !selects(spec[0], held) || !selects(spec[0], other) || held == other {
		t.Errorf("%q does not select the two interfaces %q and %q", spec[0], held, other)
	}
	for _, stays := range []string{
		"- eth*\n", "- enp3s0f?\n", "- bond0\n", "name: https", "; enp3s0f1np1, eth0.100, dial tcp, https\n", held.(string) + " is up; ",
	} {
		if !strings.Contains(text, stays) {
			t.Errorf("there is no %q in:\n%s", stays, text)
		}
	}
}

// Addresses keep as many bits in common as they have.
func TestAddressesKeepTheirPrefixes(t *testing.T) {
	a := newAnonymizer("key")
	random := rand.New(rand.NewPCG(1, 2))
	common := func(x, y netip.Addr) int {
		for bits := x.BitLen(); ; bits-- {
			if p, err := x.Prefix(bits); err == nil && p.Contains(y) {
				return bits
			}
		}
	}
	changed := 0
	for range 500 {
		x, y := [4]byte{198, 51, 100, byte(random.Uint32())}, [4]byte{198, 51, byte(random.Uint32()), byte(random.Uint32())}
		p, q := netip.AddrFrom4(x), netip.AddrFrom4(y)
		if got, want := common(a.address(p), a.address(q)), common(p, q); got != want {
			t.Fatalf("%s and %s have %d bits in common, and what stands for them %d", p, q, want, got)
		}
		if a.address(p) != p {
			changed++
		}
	}
	if changed < 490 {
		t.Errorf("%d of 500 addresses are others", changed)
	}
	for _, special := range []string{"127.0.0.1", "::1", "0.0.0.0", "ff02::1", "224.0.0.5"} {
		if ip := netip.MustParseAddr(special); a.address(ip) != ip {
			t.Errorf("%s became %s", ip, a.address(ip))
		}
	}
	if got := a.address(netip.MustParseAddr("fe80::1%eth0")).String(); !strings.HasPrefix(got, "fe80::") || !strings.HasSuffix(got, "%eth0") {
		t.Errorf("fe80::1%%eth0 became %s", got)
	}
}

// TestDeadSpeakers: a speaker that is not alive is not asked, since its node may answer nothing for long.
func TestDeadSpeakers(t *testing.T) {
	objects := append(fixture.LAN(), fixture.Node(4), fixture.Speaker(4))
	for _, o := range objects {
		if strings.HasPrefix(o.GetName(), "tandem-speaker.") {
			o.SetAnnotations(map[string]string{"tandem-lb.io/dead-speakers": "node4"})
		}
	}
	b := &Bundle{}
	b.askSpeakers(t.Context(), &cluster.Cluster{Client: fixture.Client()}, fixture.State(t, objects...))
	missing := strings.Join(b.Missing, "\n")
	if !strings.Contains(missing, "speakers/node4: the speaker is not alive") || !strings.Contains(missing, "speakers/node3: no pod") || len(b.Missing) != 4 {
		t.Errorf("missing are:\n%s", missing)
	}
}
