// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// codes returns levels and codes of the messages, sorted.
func codes(messages []movein.Message) (list []string) {
	for _, m := range messages {
		list = append(list, m.Level.String()+" "+m.Code)
	}
	slices.Sort(list)
	return slices.Compact(list)
}

// convert converts a text, and returns the documents as one text.
func convert(t *testing.T, input string, o movein.Options) (documents string, messages []movein.Message) {
	t.Helper()
	result := movein.Convert([]movein.Input{{Name: "input.yaml", Data: []byte(input)}}, o)
	var b strings.Builder
	for _, d := range result.Documents {
		text, err := d.YAML()
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String(), result.Messages
}

// TestSyntax reads what the parsers of the products take, and refuses what they refuse.
func TestSyntax(t *testing.T) {
	const pool = "apiVersion: metallb.io/v1beta1\nkind: IPAddressPool\nmetadata: {name: lan}\nspec:\n"
	for _, tt := range []struct {
		name, input string
		o           movein.Options
		want        []string // texts in the documents
		codes       []string // level and code of messages
	}{
		{name: "blanks and line feeds in a range", input: pool + "  addresses: [\" 192.0.2.1 -\\n192.0.2.9 \"]\n", want: []string{"- " +
			"192.0.2.1-192.0.2.9\n"}, codes: []string{"info blanks"}},
		{name: "a range that ends before it begins", input: pool + "  addresses: [192.0.2.9-192.0.2.1]\n", codes: []string{"error " +
			"backwards"}},
		{name: "a bare address, which MetalLB refuses", input: pool + "  addresses: [192.0.2.9]\n", want: []string{"- " +
			"192.0.2.9\n"}, codes: []string{"warn was-refused"}},
		{name: "host bits", input: pool + "  addresses: [192.0.2.9/28]\n", want: []string{"- 192.0.2.0/28\n"}, codes: []string{"info " +
			"host-bits"}},
		{name: "a boolean in capitals and a scalar for a list", input: pool + "  addresses: 192.0.2.0/28\n  autoAssign: " +
			"\"False\"\n", want: []string{"autoAssign: false", "- 192.0.2.0/28\n"}},
		{name: "a key that is there twice", input: pool + "  addresses: [192.0.2.0/28]\n  addresses: " +
			"[192.0.2.16/28]\n", codes: []string{"error duplicate-key"}},
		{name: "a field that nobody knows", input: pool + "  addresses: [192.0.2.0/28]\n  adresses: " +
			"[]\n", want: []string{"192.0.2.0/28"}, codes: []string{"warn unknown-field"}},
		{name: "a kind that nobody knows", input: "apiVersion: metallb.io/v1\nkind: IPPool\nmetadata: {name: " +
			"lan}\n", codes: []string{"warn unknown-kind"}},
		{name: "loopback addresses", input: pool + "  addresses: [127.0.0.0/8, 192.0.2.0/28]\n", want: []string{"- " +
			"192.0.2.0/28\n"}, codes: []string{"warn reserved"}},
		{name: "a value of --set", input: pool + "  addresses: " +
			"[\"${RANGE}\"]\n", o: movein.Options{Set: map[string]string{"RANGE": "192.0.2.0/28"}}, want: []string{"- 192.0.2.0/28\n"}},
		{name: "a List in JSON", input: `{"kind": "List", "items": [{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool",
			"metadata": {"name": "lan"}, "spec": {"addresses": ["192.0.2.0/28"]}}]}`, want: []string{"name: lan"}},
		{name: "one value in JSON after the other", input: `{"apiVersion": "metallb.io/v1beta1", "kind": "IPAddressPool", "metadata": {"name": "lan"},
			"spec": {"addresses": ["192.0.2.0/28"]}}
			{"apiVersion": "metallb.io/v1beta1", "kind": "L2Advertisement", "metadata": {"name": "lan"}}`, want: []string{"kind: AddressPool", "kind: L2Advertisement"}},
		{name: "a template of Helm in a text", input: pool + "  addresses: [\"{{ .Values.range }}\"]\n", codes: []string{"error template"}},
		{name: "no YAML", input: "resource \"metallb\" {\n\tname = [\n", codes: []string{"error no-yaml"}},
		{name: "nothing", input: "# a comment\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			documents, messages := convert(t, tt.input, tt.o)
			for _, want := range tt.want {
				if !strings.Contains(documents, want) {
					t.Errorf("there is no %q in:\n%s", want, documents)
				}
			}
			got := slices.DeleteFunc(codes(messages), func(code string) bool { return code == "warn no-advertisement" })
			if !slices.Equal(got, tt.codes) {
				t.Errorf("messages %q, want codes %q", messages, tt.codes)
			}
		})
	}
}

// TestRemoteGroup converts a group of PureLB whose addresses are in no subnet of the nodes: they go on PureLB's interface, with the length
// of the subnet unless aggregation says another one.
func TestRemoteGroup(t *testing.T) {
	documents, _ := convert(t, `
apiVersion: purelb.io/v2
kind: ServiceGroup
metadata: {name: far, namespace: purelb}
spec:
  remote:
    v4pools: [{subnet: 203.0.113.0/26, pool: 203.0.113.0/26, aggregation: default}]
    v6pools: [{subnet: "2001:db8::/112", pool: "2001:db8::/112", aggregation: /128}]
---
apiVersion: purelb.io/v2
kind: LBNodeAgent
metadata: {name: default, namespace: purelb}
spec: {local: {localInterface: default, dummyInterface: lb0}}
`, movein.Options{})
	for _, want := range []string{"kind: InterfaceAdvertisement", "interface: lb0", "aggregationLength: 26"} {
		if !strings.Contains(documents, want) {
			t.Errorf("there is no %q in:\n%s", want, documents)
		}
	}
	if strings.Contains(documents, "aggregationLengthV6") {
		t.Errorf("128 is the default:\n%s", documents)
	}
}

// TestConsent converts two Services that share an address by MetalLB's key alone. In Tandem both namespaces have to consent, and the
// patches do.
func TestConsent(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: NS, annotations: {metallb.io/allow-shared-ip: " +
		"front}}\nspec: {type: LoadBalancer}\n"
	documents, _ := convert(t, strings.Replace(service, "NS", "shop", 1)+"---\n"+strings.Replace(service, "NS", "blog", 1),
		movein.Options{})
	for _, want := range []string{"tandem-lb.io/share-with-namespaces: shop", "tandem-lb.io/share-with-namespaces: blog"} {
		if !strings.Contains(documents, want) {
			t.Errorf("there is no %q in:\n%s", want, documents)
		}
	}
}

// TestMessagesByObject says of each of two Services both sentences that concern both, whatever else has the same words.
func TestMessagesByObject(t *testing.T) {
	const service = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME, annotations: {metallb.io/allow-shared-ip: key}}\n" +
		"spec: {type: LoadBalancer, loadBalancerIP: 192.0.2.1}\n---\n"
	_, messages := convert(t, strings.Replace(service, "NAME", "first", 1)+strings.Replace(service, "NAME", "second", 1), movein.Options{Announce: "l2"})
	const said = "annotation metallb.io/allow-shared-ip works in Tandem as it is; Tandem honours spec.loadBalancerIP"
	for _, object := range []string{"Service default/first", "Service default/second"} {
		if !slices.ContainsFunc(messages, func(m movein.Message) bool { return m.Object == object && m.Text == said }) {
			t.Errorf("no message about %s says %q: %q", object, said, messages)
		}
	}
}
