// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// fate says what becomes of a variable of kube-vip's environment.
type fate int

const (
	read         fate = iota // the converter reads it
	elected                  // how kube-vip elects; Tandem elects by itself
	plane                    // for the address of the API server, which stays with kube-vip
	podOnly                  // belongs to kube-vip's pods
	nic                      // about addresses on interfaces, on which Tandem puts none
	withoutEqual             // a feature that Tandem does not have
)

// kubeVIPVariables are all that kube-vip reads, and old names that are common.
var kubeVIPVariables = map[fate]string{
	read: "vip_arp bgp_enable svc_enable svc_election cp_enable address vip_address vip_interface vip_servicesinterface svc_namespace " +
		"lb_class_only lb_class_name bgp_routerid bgp_routerinterface bgp_as bgp_peeras bgp_peeraddress bgp_peerpass bgp_multihop " +
		"bgp_peers bgp_sourceip bgp_sourceif " +
		"bgp_hold_time bgp_keepalive_interval mpbgp_nexthop mpbgp_ipv4 mpbgp_ipv6 annotation annotations enableServicesElection",
	elected: "vip_leaderelection vip_leasename vip_leaseduration vip_renewdeadline vip_retryperiod vip_leaseannotations svc_leasename " +
		"vip_preserve_on_leadership_loss vip_loseleadership per_service_election_on_demand",
	plane: "cp_namespace cp_detect port vip_ddns dns_mode dhcp_mode lb_enable lb_port lb_fwdmethod kubernetes_addr " +
		"backend_health_check_interval control_plane_health_check_address control_plane_health_check_period_seconds " +
		"control_plane_health_check_timeout_seconds control_plane_health_check_failure_threshold control_plane_health_check_ca_path",
	podOnly: "enable_service_security EnableServiceSecurity enable_endpoints enable_node_labeling EnableNodeLabeling " +
		"disable_service_updates prometheus_server vip_loglevel " +
		"vip_arpRate vip_startleader vip_addpeerstolb vip_localpeer vip_configmap healthCheckPort health_check_port " +
		"lb_class_legacy_handling dhcp_backoff_attempts k8s_config_file config_file debounce_time instance_name vip_nodename vip_singlenode",
	nic: "vip_cidr vip_subnet bgp_attach_ip_to_interface vip_interfaceloglobal vip_skipdad vip_allow_interface_not_up",
	withoutEqual: "vip_routingtable vip_routingtableid vip_routingtabletype vip_routingprotocol vip_cleanroutingtable vip_wireguard " +
		"mirror_dest_interface zebra_enable zebra_url zebra_version zebra_software_name egress_podcidr egress_servicecidr egress_withnftables egress_clean " +
		"iptables_backend enable_upnp",
}

// fateOf returns what becomes of a variable. ok is false for one that kube-vip does not know.
func fateOf(name string) (f fate, ok bool) {
	for f, names := range kubeVIPVariables {
		if slices.Contains(strings.Fields(names), name) {
			return f, true
		}
	}
	switch {
	case strings.HasPrefix(name, "control_plane_health_check_"):
		return plane, true
	case strings.HasPrefix(name, "vip_loseleadership"):
		return elected, true
	case strings.HasPrefix(name, "egress_"), strings.HasPrefix(name, "zebra_"):
		return withoutEqual, true
	}
	return 0, false
}

// kubeVIPFlags are arguments of kube-vip that say what a variable says too.
var kubeVIPFlags = map[string]string{
	"arp": "vip_arp", "bgp": "bgp_enable", "services": "svc_enable", "controlplane": "cp_enable", "servicesElection": "svc_election",
	"address": "address", "vip": "vip_address", "interface": "vip_interface", "serviceInterface": "vip_servicesinterface",
	"localAS": "bgp_as", "peerAS": "bgp_peeras", "peerAddress": "bgp_peeraddress", "peerPass": "bgp_peerpass",
	"peerMultihop": "bgp_multihop", "bgppeers": "bgp_peers", "bgpRouterID": "bgp_routerid", "sourceIP": "bgp_sourceip",
	"sourceIF": "bgp_sourceif", "multihop": "bgp_multihop", "bgpHoldTimer": "bgp_hold_time", "bgpKeepAliveInterval": "bgp_keepalive_interval",
	"annotations": "annotations", "lbClassOnly": "lb_class_only", "lbClassName": "lb_class_name", "lbClassNameLegacyHandling": "lb_class_legacy_handling",
	"table": "vip_routingtable", "wireguard": "vip_wireguard", "mirrorDestInterface": "mirror_dest_interface",
}

// flags reads arguments as the variables of the same meaning, which come first. For example, --interface eth0 is vip_interface eth0.
func (c *container) flags() {
	for i, arg := range c.args {
		name, ok := strings.CutPrefix(arg, "--")
		if !ok {
			continue
		}
		name, value, given := strings.Cut(name, "=")
		if !given {
			value = "true"
			if i+1 < len(c.args) && !strings.HasPrefix(c.args[i+1], "-") {
				value = c.args[i+1]
			}
		}
		if variable := kubeVIPFlags[name]; variable != "" && c.env[variable] == "" {
			c.env[variable] = value
			if !slices.Contains(c.order, variable) {
				c.order = append(c.order, variable)
			}
		}
	}
}

// variables names those that have no effect on what is written.
func (k *kubeVIPState) variables(o *object, c container) {
	var ignored, lost, legacy []string
	own := map[fate][]string{}
	for _, name := range c.order {
		f, known := fateOf(name)
		value := c.env[name]
		source, elsewhere := c.from[name]
		switch {
		case known && f == read && elsewhere && source.name != "": // fill and bgp say what becomes of it.
		case !known:
			ignored = append(ignored, name)
		case f == plane || f == elected || f == nic && value != "":
			own[f] = append(own[f], name)
		case value == "":
			ignored = append(ignored, name)
		case f == podOnly:
			ignored = append(ignored, name)
		case f == withoutEqual && value != "false" && value != "":
			lost = append(lost, name)
		case strings.HasPrefix(name, "annotation"):
			legacy = append(legacy, name)
		}
	}
	about := k.workload
	if len(ignored) > 0 {
		k.add(Info, "ignored", about, "%s: belong to kube-vip's pods, have no value, or are no keys of "+
			"kube-vip", strings.Join(ignored, ", "))
	}
	for _, of := range []struct {
		fate       fate
		code, text string
	}{
		{elected, "election", "Tandem's speakers elect a node for each group of Services, without Leases"},
		{plane, "control-plane-variables", "for the address of the API server, which stays with kube-vip"},
		{nic, "no-interface-address", "Tandem answers for addresses and puts none on an interface"},
	} {
		if names := own[of.fate]; len(names) > 0 {
			k.add(Info, of.code, about, "%s: %s", strings.Join(names, ", "), of.text)
		}
	}
	if len(lost) > 0 {
		k.add(Lost, "no-equal", about, "%s: Tandem has no such function", strings.Join(lost, ", "))
	}
	if len(legacy) > 0 {
		k.add(Lost, "no-equal", about, "%s: peers from annotations of nodes are in the cluster only; write one BGPPeer for each "+
			"node", strings.Join(legacy, ", "))
	}
}

// says reports whether two containers, of Pods that the kubelets of two nodes run from a file, are configured alike.
func (c container) says(other container) bool {
	a, b := maps.Clone(c.env), maps.Clone(other.env)
	delete(a, "vip_nodename")
	delete(b, "vip_nodename")
	return maps.Equal(a, b) && maps.Equal(c.from, other.from) && slices.Equal(c.args, other.args) && slices.Equal(c.whole, other.whole)
}

// fill takes variables from ConfigMaps of the input, and warns of those that are read and whose values are elsewhere.
func (k *kubeVIPState) fill(o *object, c *container) {
	about := o.namespaced("kube-system")
	for _, source := range c.whole {
		data := k.configMapData(o, source)
		if data == nil {
			k.add(Warn, "dangling", about, "its variables are in %s %s (envFrom), which is not in the input: give that too", source.kind, source.name)
		}
		for _, name := range sortedKeys(data) {
			if _, own := c.env[name]; !own {
				c.env[name] = strings.TrimSpace(data[name])
				c.order = append(c.order, name)
			}
		}
	}
	for _, name := range sortedKeys(c.from) {
		source := c.from[name]
		value, found := k.configMapData(o, source)[source.key]
		if found {
			c.env[name] = strings.TrimSpace(value)
		}
		// The password has a place of its own, and what a Pod says of itself is the same in Tandem without being said.
		if f, known := fateOf(name); known && f == read && !found && source.name != "" && name != "bgp_peerpass" {
			k.add(Warn, "dangling", about, "the value of %s is in %s %s, which is not in the input: give that too", name, source.kind, source.name)
		}
	}
}

// placeholders fills in the values of --set, and reports those that are missing of variables that are read. For example, value: ${INTERFACE} of
// vip_interface becomes eth0 by --set INTERFACE=eth0. That of the API server's address counts only where it may be in a pool.
// It reports whether all that is needed is known.
func (k *kubeVIPState) placeholders(c *container) (complete bool) {
	complete = true
	serves, err := strconv.ParseBool(orElse(c.env["svc_enable"], "false"))
	for _, name := range sortedKeys(c.env) {
		filled, missing := k.fillIn(c.env[name])
		c.env[name] = filled
		f, known := fateOf(name)
		template := templateMark.MatchString(filled)
		switch {
		case !known || f != read || len(missing) == 0 && !template:
		case name == "address" || name == "vip_address":
			k.unknownControl = append(k.unknownControl, filled)
		case !serves && err == nil && name != "cp_enable": // These pods stay as they are.
		case template:
			complete = false
			k.add(Error, "template", k.workload, "%s: %q is filled in by a template. Render it first, or read the live cluster by --from-cluster", name, filled)
		default:
			complete = false
			k.add(Error, "placeholder", k.workload, "%s: %q is filled in elsewhere; give it by --set %s=..., or read the live cluster by "+
				"--from-cluster", name, filled, missing[0])
		}
	}
	return complete
}

// configMapData returns the data of a ConfigMap in the namespace of an object, nil if the input does not have it.
func (k *kubeVIPState) configMapData(o *object, source reference) map[string]string {
	for _, other := range k.objects {
		if source.kind == "ConfigMap" && other.kind == source.kind && other.nick == source.name && (other.namespace == o.namespace || other.namespace == "") {
			return other.stringMap("data")
		}
	}
	return nil
}

// bgp converts the peers: those of bgp_peers first, then the one that has variables of its own.
func (k *kubeVIPState) bgp(o *object, c container, nodes []metav1.LabelSelector) {
	var peers []kubeVIPPeer
	for text := range strings.SplitSeq(c.env["bgp_peers"], ",") {
		if text = strings.TrimSpace(text); text != "" {
			peers = append(peers, parseKubeVIPPeer(text))
		}
	}
	if address := c.env["bgp_peeraddress"]; address != "" {
		peers = append(peers, kubeVIPPeer{
			text: address, address: strings.Trim(address, "[]"), as: orElse(c.env["bgp_peeras"], kubeVIPDefaultASN), password: c.env["bgp_peerpass"],
			multihop: c.env["bgp_multihop"],
		})
	}
	for i, written := range peers {
		p := k.bgpPeer(o, c, written, i+1, nodes)
		if secret := c.from["bgp_peerpass"]; secret.kind == "Secret" && c.env["bgp_peeraddress"] != "" && i == len(peers)-1 {
			p.secret, p.key = secret.name, secret.key
			k.noteSecret(p, orElse(o.namespace, "kube-system"))
		}
	}
	if own := nonempty(strings.Trim(c.env["mpbgp_ipv4"]+", "+c.env["mpbgp_ipv6"], ", ")); len(peers) > 0 && len(own) > 0 {
		k.add(Info, "next-hop", k.workload, "mpbgp_ipv4 and mpbgp_ipv6 (%s): Tandem's next hop is the node's own address of the family", own[0])
	}
	if c.env["bgp_routerinterface"] != "" && c.env["bgp_routerid"] == "" {
		k.add(Info, "router-id", k.workload, "bgp_routerinterface %s: without routerID Tandem uses the node's IPv4 address; set the "+
			"annotation tandem-lb.io/bgp-router-id on nodes where the interface has another one",
			c.env["bgp_routerinterface"])
	}
}

// kubeVIPPeer is a peer as kube-vip's environment has it.
type kubeVIPPeer struct{ text, address, iface, as, password, multihop, port, families, bfd string }

// parseKubeVIPPeer reads addr:as:pass:multihop[:port:mpbgp:bfd], where addr may be [v6], or unnumbered:interface. Before 1.2 the families stand at the
// end, as in addr:as:pass:multihop/mpbgp_nexthop=auto_sourceif. A slash within a password is none of it.
func parseKubeVIPPeer(text string) kubeVIPPeer {
	written := kubeVIPPeer{text: text}
	rest, families, _ := strings.Cut(text, "/mpbgp_")
	if after, ok := strings.CutPrefix(rest, "["); ok {
		written.address, rest, _ = strings.Cut(after, "]")
		rest = strings.TrimPrefix(rest, ":")
	} else if after, ok := strings.CutPrefix(rest, "unnumbered:"); ok {
		written.iface, rest, _ = strings.Cut(after, ":")
	} else {
		written.address, rest, _ = strings.Cut(rest, ":")
	}
	part := append(strings.Split(rest, ":"), make([]string, 6)...)
	written.as, written.password, written.multihop, written.port, written.families, written.bfd = part[0], part[1], part[2], part[3], part[4], part[5]
	written.families += families
	return written
}

// kubeVIPDefaultASN is the AS number of the nodes, and that of the router, where kube-vip's environment says none.
const kubeVIPDefaultASN = "65000"

// bgpPeer converts one peer.
func (k *kubeVIPState) bgpPeer(o *object, c container, written kubeVIPPeer, index int, nodes []metav1.LabelSelector) *peer {
	p := k.newPeer(fmt.Sprintf("kube-vip-%d", index), o.origin())
	f := &fields{in: o.in, about: p.about(), read: map[string]bool{}}
	p.address, p.iface, p.my = written.address, written.iface, numberOf(orElse(c.env["bgp_as"], kubeVIPDefaultASN))
	if p.theirs = numberOf(written.as); p.theirs == 0 {
		p.theirs = numberOf(c.env["bgp_peeras"])
	}
	if p.password = written.password; p.password != "" {
		k.add(Info, "password", p.about(), "the password is in clear in the input; it goes to a Secret in tandem-system named after "+
			"the peer")
	}
	p.multihop, _ = strconv.ParseBool(written.multihop)
	p.port = numberOf(written.port)
	switch {
	case p.iface != "" && p.my != 0 && written.as == "" && p.theirs == 0:
		p.dynamic = "External"
		k.add(Warn, "ambiguous", p.about(), "kube-vip takes any AS number of the router on the interface; dynamicASN is External, which takes any but %d. "+
			"Write Internal if the router has that one", p.my)
	case p.my == 0 || p.theirs == 0:
		f.report(Error, "missing", "bgp_peers", "%q has no AS number, of the router or of the nodes (bgp_as)", written.text)
	}
	k.bfd(o, p, written.bfd)
	p.routerID, p.source, p.nodes = c.env["bgp_routerid"], c.env["bgp_sourceip"], nodes
	if name := c.env["bgp_sourceif"]; name != "" {
		k.add(Info, "source", p.about(), "bgp_sourceif %s: left to the kernel; set sourceInterface where it chooses another one", name)
	}
	k.timers(p, c)
	if mode := orElse(written.families, c.env["mpbgp_nexthop"]); mode == "" && p.ownFamily() {
		k.add(Info, "families", p.about(), "without mpbgp keys kube-vip's sessions carry the family of their address only")
	}
	k.checkPeer(p, f, "bgp_peers")
	return p
}

// timers sets hold and keepalive times. Versions that have variables for them default to 30 and 10 seconds, those before 0.7 to 90 and 30,
// as GoBGP does.
func (k *kubeVIPState) timers(p *peer, c container) {
	hold, keepalive := c.env["bgp_hold_time"], c.env["bgp_keepalive_interval"]
	if hold == "" && (!k.versioned() || !k.before(0, 7)) {
		hold = "30"
	}
	p.hold = number("%ds", numberOf(hold))
	p.keepalive = number("%ds", numberOf(keepalive))
}

// bfd converts true;rx;tx;mult. kube-vip takes the intervals for microseconds, whatever was meant.
func (k *kubeVIPState) bfd(o *object, p *peer, text string) {
	part := strings.Split(text, ";")
	if on, _ := strconv.ParseBool(part[0]); !on {
		return
	}
	part = append(part, "", "", "")
	profile := k.newProfile(p.name, o.origin())
	profile.multiplier = numberOf(part[3])
	small := false
	for _, interval := range []struct {
		text string
		to   *int64
	}{{part[1], &profile.receive}, {part[2], &profile.transmit}} {
		n := numberOf(interval.text)
		if *interval.to = n / 1000; n > 0 && n < 10000 {
			*interval.to, small = n, true
		}
	}
	if small {
		k.add(Warn, "ambiguous", p.about(), "the BFD intervals of %q work as microseconds in kube-vip, and were most likely meant "+
			"as milliseconds; they are written as milliseconds", text)
	}
	p.bfd = profile.name
}
