// SPDX-License-Identifier: Apache-2.0

package movein_test

import (
	"encoding/json"
	"fmt"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein"
)

// published is a kind of another product with its fields, as testdata/fields lists them.
type published struct {
	product, kind, version string
	fields                 [][2]string // path and type
}

func publishedKinds(t *testing.T) (kinds []*published) {
	t.Helper()
	for _, product := range []string{"metallb", "cilium", "purelb", "calico"} {
		for line := range strings.Lines(string(read(t, filepath.Join("testdata/fields", product+".txt")))) {
			word := strings.Fields(line)
			if len(word) < 4 {
				word = append(word, "object")
			}
			at := slices.IndexFunc(kinds,
				func(k *published) bool { return k.product == product && k.kind == word[0] && k.version == word[1] })
			if at < 0 {
				kinds = append(kinds, &published{product: product, kind: word[0], version: word[1]})
				at = len(kinds) - 1
			}
			kinds[at].fields = append(kinds[at].fields, [2]string{word[2], word[3]})
		}
	}
	return kinds
}

// groupsOf are the API groups of the products.
var groupsOf = map[string]string{"metallb": "metallb.io", "cilium": "cilium.io", "purelb": "purelb.io", "calico": "projectcalico.org"}

// withoutEffect are the fields that change neither what is written nor what is said, with the reason. Paths are prefixes.
var withoutEffect = map[string]string{
	"CiliumBGPClusterConfig spec.bgpInstances[].name": "names the instance; it counts where two have a " +
		"peer of one name",
	"CiliumBGPClusterConfig spec.bgpInstances[].peers[].peerConfigRef.group":       "there is one kind",
	"CiliumBGPClusterConfig spec.bgpInstances[].peers[].peerConfigRef.kind":        "there is one kind",
	"CiliumBGPNodeConfigOverride spec.bgpInstances[].peers[].localPort":            "it has no effect in Cilium",
	"CiliumBGPAdvertisement spec.advertisements[].interface.name":                  "goes with a type of its own",
	"BGPConfiguration spec.dynamicNeighbors[].":                                    "said of the whole",
	"BGPConfiguration spec.definedSets":                                            "said of the whole",
	"BGPConfiguration spec.policyDefinitions":                                      "said of the whole",
	"BGPConfiguration spec.vrfs":                                                   "said of the whole",
	"BGPConfiguration spec.global.applyPolicy":                                     "said of the whole",
	"BGPConfiguration spec.global.confederation":                                   "said of the whole",
	"BGPConfiguration spec.global.defaultRouteDistance":                            "said of the whole",
	"BGPConfiguration spec.global.routeSelectionOptions":                           "said of the whole",
	"BGPConfiguration spec.neighbors[].applyPolicy":                                "said of the whole",
	"BGPConfiguration spec.peerGroups[].applyPolicy":                               "said of the whole",
	"BGPConfiguration spec.neighbors[].routeReflector":                             "said of the whole",
	"BGPConfiguration spec.neighbors[].afiSafis[].":                                "said once of the session",
	"BGPConfiguration spec.peerGroups[]":                                           "the neighbour's own fields come first",
	"BGPConfiguration spec.neighbors[].transport.bindInterface":                    "neighborInterface comes first",
	"BGPConfiguration spec.neighbors[].transport.passiveMode":                      "an error",
	"BGPConfiguration spec.neighbors[].timers.config.minimumAdvertisementInterval": "the announcer's own",
	"BGPConfiguration spec.neighbors[].config.adminDown":                           "false in the sample",
	"BGPConfiguration spec.neighbors[].gracefulRestart.helperOnly":                 "false in the sample",
	"BGPConfiguration spec.neighbors[].config.peerGroup":                           "brings in the group",
	"BGPConfiguration spec.global.families":                                        "the neighbour's own come first",
	"BGPConfiguration spec.global.gracefulRestart":                                 "the neighbour's own comes first",
	"ServiceGroup spec.local.subnet": "says where the nodes are; a range outside of it " +
		"is an error",
	"ServiceGroup spec.local.v4pool.subnet":                                    "as above",
	"ServiceGroup spec.local.v6pool.subnet":                                    "as above",
	"ServiceGroup spec.local.v4pools[].subnet":                                 "as above",
	"ServiceGroup spec.local.v6pools[].subnet":                                 "as above",
	"ServiceGroup spec.local.v4pool.aggregation":                               "said once",
	"ServiceGroup spec.local.v6pool.aggregation":                               "said once",
	"ServiceGroup spec.local.v4pools[].aggregation":                            "said once",
	"ServiceGroup spec.local.v6pools[].aggregation":                            "said once",
	"ServiceGroup spec.local.aggregation":                                      "said once",
	"ServiceGroup spec.netbox.":                                                "said of the whole",
	"ServiceGroup spec.external.":                                              "said of the whole",
	"ServiceGroup spec.remote.":                                                "TestRemoteGroup",
	"LBNodeAgent spec.local.garpConfig.":                                       "said of the whole",
	"LBNodeAgent spec.local.addressConfig.":                                    "said of the whole",
	"LBNodeAgent spec.local.extlbint":                                          "TestRemoteGroup",
	"LBNodeAgent spec.local.dummyInterface":                                    "TestRemoteGroup",
	"CiliumLoadBalancerIPPool spec.blocks[].st":                                "cidr comes first",
	"CiliumBGPPeerConfig spec.families[].safi":                                 "unicast is said and meant",
	"CiliumBGPPeeringPolicy spec.virtualRouters[].neighbors[].families[].safi": "unicast is said and meant",
	"CiliumBGPPeeringPolicy spec.virtualRouters[].serviceAdvertisements":       "the default is said",
	"BGPPeer spec.myASN":                                                       "localASN comes first",
	"BGPPeer spec.localASN": "the sample has both numbers, as has the other " +
		"product's kind",
	"CiliumBGPNodeConfigOverride spec.bgpInstances[].localASN":                 "the same number in the sample",
	"ServiceGroup spec.local.multiPool":                                        "said once of local and remote",
	"ServiceGroup spec.local.balancePools":                                     "said once of local and remote",
	"BGPConfiguration spec.global.asn":                                         "localAsn comes first",
	"BGPConfiguration spec.neighbors[].config.authPassword":                    "the peer group has one too",
	"BGPConfiguration spec.neighbors[].config.neighborInterface":               "bindInterface is the second choice",
	"BGPConfiguration spec.neighbors[].transport.localAddress":                 "the peer group has one too",
	"BGPConfiguration spec.asNumber":                                           "localASNumber comes first",
	"BGPConfiguration spec.communities":                                        "prefixAdvertisements refer to it",
	"BGPPeer spec.node":                                                        "nodeSelector says the same in the sample",
	"IPPool spec.disabled":                                                     "assignmentMode says the same in the sample",
	"IPPool spec.assignmentMode":                                               "disabled says the same in the sample",
	"BGPPeer spec.disableMP":                                                   "goes with the other defaults of other versions",
	"BGPConfiguration spec.global.nodeStatus":                                  "output",
	"BGPConfiguration spec.global.listen":                                      "said once of both fields",
	"BGPConfiguration spec.netlink":                                            "said of the whole",
	"BGPConfiguration spec.neighbors[].config.description":                     "a remark",
	"BGPConfiguration spec.peerGroups[].config.description":                    "a remark",
	"BGPConfiguration spec.neighbors[].config.authPasswordSecretRef.optional":  "what refers to a Secret needs it",
	"BGPConfiguration spec.peerGroups[].config.authPasswordSecretRef.optional": "what refers to a Secret needs it",
	"BGPConfiguration spec.logSeverityScreen":                                  "Calico's own",
	"BGPConfiguration spec.nodeToNodeMeshEnabled":                              "Calico's own",
	"BGPConfiguration spec.listenPort":                                         "Calico's own",
	"BGPConfiguration spec.nodeMesh":                                           "Calico's own",
	"BGPConfiguration spec.bindMode":                                           "Calico's own",
	"BGPConfiguration spec.ignoredInterfaces":                                  "Calico's own",
	"BGPConfiguration spec.localWorkloadPeering":                               "Calico's own",
	"BGPPeer spec.sourceAddress":                                               "the kernel chooses, as in Calico by default",
	"IPPool spec.vxlanMode":                                                    "about pods",
	"IPPool spec.ipip":                                                         "about pods",
	"IPPool spec.nat":                                                          "about pods",
	"IPPool spec.blockSize":                                                    "about pods",
	"IPPool spec.nodeSelector":                                                 "all() for load balancers",
	"ServiceGroup spec.local.skipIPv6DAD":                                      "Tandem puts no address on an interface of the subnet",
}

// TestFields converts, of all kinds of a product's version, an object with every field that the product publishes. None may be unknown.
// Without one of the fields something else has to be written or said, or else the field is in the list of those without effect: none is
// dropped without a word.
func TestFields(t *testing.T) {
	kinds := publishedKinds(t)
	for _, k := range kinds {
		t.Run(k.product+" "+k.kind+" "+k.version, func(t *testing.T) {
			whole := convertFields(t, kinds, k, "")
			for _, m := range whole.Messages {
				if m.Code == "unknown-field" || m.Code == "unknown-kind" {
					t.Error(m)
				}
			}
			if whole.Failed(false) {
				t.Fatalf("errors, so that nothing is written: %v", whole.Messages)
			}
			for _, field := range k.fields {
				excused := false
				for path := range withoutEffect {
					excused = excused || strings.HasPrefix(k.kind+" "+field[0], path)
				}
				if !excused && reflect.DeepEqual(whole, convertFields(t, kinds, k, field[0])) {
					t.Errorf("%s changes nothing, and nothing is said of it", field[0])
				}
			}
		})
	}
}

// convertFields converts an object of each kind of the version of k's product, with all fields but one of k.
func convertFields(t *testing.T, kinds []*published, k *published, without string) movein.Result {
	t.Helper()
	var items []any
	for _, other := range kinds {
		gobgp := func(k *published) bool { return k.product == "purelb" && k.kind == "BGPConfiguration" }
		sibling := slices.ContainsFunc(kinds, func(same *published) bool {
			return same.product == k.product && same.kind == other.kind && same.version == k.version
		})
		if other.product != k.product || other.kind == k.kind && other != k || other.version != k.version && sibling ||
			gobgp(other) && other != k {
			continue
		}
		group := groupsOf[k.product]
		if gobgp(other) {
			group = "bgp.purelb.io"
		}
		meta := map[string]any{"name": "sample", "labels": map[string]any{"sample": "yes"}}
		object := map[string]any{"apiVersion": group + "/" + other.version, "kind": other.kind, "metadata": meta}
		for _, field := range other.fields {
			among := slices.Contains([]string{"spec.peerSelector", "spec.localWorkloadSelector", "spec.reversePeering"}, field[0])
			if among && without != "" { // A peer among nodes stays with Calico, whatever else it says.
				continue
			}
			if other != k || field[0] != without {
				put(object, strings.Split(field[0], "."), sample(field[0], field[1]))
			}
		}
		items = append(items, object)
	}
	text, err := json.Marshal(map[string]any{"kind": "List", "items": items})
	if err != nil {
		t.Fatal(err)
	}
	announce := map[string]string{"calico": "bgp"}[k.product]
	o := movein.Options{Announce: announce}
	if !strings.Contains(without, ".remote.") {
		o.Local = []string{"sample"}
	}
	return movein.Convert([]movein.Input{{Name: "sample.json", Data: text}}, o)
}

// put sets a field by its path, in which [] is the first element of a list.
func put(object map[string]any, path []string, value any) {
	name, list := strings.CutSuffix(path[0], "[]")
	switch {
	case len(path) == 1 && list:
		object[name] = []any{value}
	case len(path) == 1:
		object[name] = value
	case list:
		if object[name] == nil {
			object[name] = []any{map[string]any{}}
		}
		put(object[name].([]any)[0].(map[string]any), path[1:], value)
	default:
		if object[name] == nil {
			object[name] = map[string]any{}
		}
		put(object[name].(map[string]any), path[1:], value)
	}
}

// samples are values of fields that take no other text, by the end of the path.
var samples = map[string]any{
	"addresses[]": "192.0.2.0/28", "holdTime": "30s", "keepaliveTime": "10s", "connectTime": "7s", "dynamicASN": "external",
	"peerAddress": "198.51.100.1", "sourceAddress": "198.51.100.2", "routerID": "198.51.100.3", "communities[]": "65000:1",
	"communities[].value": "65000:9", "communities[].name": "mine", "standard[]": "65000:1", "large[]": "1:2:3", "wellKnown[]": "no-export",
	"service.addresses[]": "LoadBalancerIP", "advertisementType": "Service", "afi": "ipv4", "safi": "unicast", "mode": "DefaultGateway",
	"addressFamily": "ipv6", "allowFirstLastIPs": "No", "blocks[].cidr": "192.0.2.0/28", "interfaces[]": "^eth0$",
	"localAddress": "198.51.100.2",
	"selectorType": "CiliumLoadBalancerIPPool", "serviceAdvertisements[]": "LoadBalancerIP", "v4pool.pool": "192.0.2.1",
	"v4pool.subnet": "192.0.2.0/24",
	"v6pool.pool":   "2001:db8::1", "v6pool.subnet": "2001:db8::/64", "v4pools[].pool": "192.0.2.2", "v4pools[].subnet": "192.0.2.0/24",
	"v6pools[].pool": "2001:db8::2", "v6pools[].subnet": "2001:db8::/64", "local.pool": "192.0.2.3", "local.subnet": "192.0.2.0/24",
	"aggregation": "/25", "localint": "^eth0$", "local.localInterface": "^eth0$", "families[]": "ipv4-unicast", "family": "ipv4-unicast",
	"neighborAddress": "198.51.100.1", "peerGroup": "group", "peerGroupName": "group", "cidr": "192.0.2.0/28",
	"serviceLoadBalancerAggregation": "Disabled",
	"peerIP":                         "198.51.100.1:1790", "maxRestartTime": "50s", "spec.nodeSelector": "all()",
	"namespaceSelector": "team == 'a'",
	"allowedUses[]":     "LoadBalancer", "assignmentMode": "Manual",
}

// sample is a value for a field, by its path and type.
func sample(path, kind string) any {
	if slices.Contains([]string{"adminDown", "autoAssign", "passiveMode", "helperOnly"}, path[strings.LastIndex(path, ".")+1:]) {
		return strings.HasPrefix(path, "spec.passiveMode")
	}
	switch kind {
	case "selector":
		return map[string]any{"matchLabels": map[string]any{"sample": "yes"}}
	case "secretKey":
		return map[string]any{"name": "secret", "key": "word"}
	case "boolean":
		return true
	case "integer":
		return 10 + len(path)%20
	case "object":
		return map[string]any{}
	}
	best := ""
	for end := range samples {
		if strings.HasSuffix(path, "."+end) || path == end {
			if len(end) > len(best) {
				best = end
			}
		}
	}
	if best != "" {
		return samples[best]
	}
	return "sample"
}

// variableSamples are values of variables that take no other text.
var variableSamples = map[string]string{
	"bgp_peeraddress": "192.0.2.9", "bgp_peers": "192.0.2.7:64512::false,192.0.2.8:64512::false", "bgp_routerid": "192.0.2.3", "bgp_sourceip": "192.0.2.4",
	"bgp_sourceif": "eth1", "address": "192.0.2.5", "vip_address": "192.0.2.5", "vip_interface": "eth1", "vip_servicesinterface": "eth1",
	"svc_namespace": "shop", "lb_class_name": "example.com/mine", "bgp_hold_time": "60", "bgp_keepalive_interval": "7", "mpbgp_nexthop": "auto_sourceip",
	"bgp_routerinterface": "eth1", "bgp_as": "64999", "vip_arp": "false", "bgp_enable": "false", "svc_enable": "false", "cp_enable": "false", "bgp_peeras": "64514", "bgp_peerpass": "secret",
}

// TestVariables checks that each variable of kube-vip's environment changes what is written, or is spoken of.
func TestVariables(t *testing.T) {
	base := []string{
		"vip_arp", "true", "bgp_enable", "true", "svc_enable", "true", "cp_enable", "true", "bgp_as", "64500", "bgp_peers", "192.0.2.7:64512::false",
		"bgp_peeraddress", "192.0.2.6", "bgp_peeras", "64513",
	}
	convert := func(variable, value string) string {
		var env strings.Builder
		set := false
		for i := 0; i < len(base); i += 2 {
			name, text := base[i], base[i+1]
			if name == variable {
				text, set = value, true
			}
			fmt.Fprintf(&env, "    - {name: %s, value: %q}\n", name, text)
		}
		if variable != "" && !set {
			fmt.Fprintf(&env, "    - {name: %s, value: %q}\n", variable, value)
		}
		input := "kind: ConfigMap\napiVersion: v1\nmetadata: {name: kubevip, namespace: kube-system}\ndata: {range-global: 192.0.2.64-192.0.2.95}\n---\n" +
			"kind: Pod\napiVersion: v1\nmetadata: {name: kube-vip}\nspec:\n  containers:\n  - image: ghcr.io/kube-vip/kube-vip:v1.0.0\n    env:\n" + env.String()
		result := movein.Convert([]movein.Input{{Name: "pod.yaml", Data: []byte(input)}}, movein.Options{})
		var text strings.Builder
		for _, document := range result.Documents {
			yaml, err := document.YAML()
			if err != nil {
				t.Fatal(err)
			}
			text.Write(yaml)
		}
		fmt.Fprint(&text, result.Messages)
		return text.String()
	}
	without := convert("", "")
	for name := range strings.FieldsSeq(string(read(t, "testdata/fields/kube-vip-variables.txt"))) {
		value := "true"
		if sample, ok := variableSamples[name]; ok {
			value = sample
		}
		if convert(name, value) == without {
			t.Errorf("%s=%s: nothing is written or said differently", name, value)
		}
	}
}
