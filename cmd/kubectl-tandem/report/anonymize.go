// SPDX-License-Identifier: Apache-2.0

package report

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// Anonymize replaces names and addresses by others, with a key that is forgotten afterwards. What it cannot know are names that only a log has, such as
// that of an API server: what is handed on is to be looked through.
func (b *Bundle) Anonymize() {
	a := newAnonymizer(rand.Text())
	files := slices.Sorted(maps.Keys(b.Objects))
	for _, learn := range []func(string, map[string]any){a.learnName, a.learn} { // What has a name of its own is called by its kind.
		for _, file := range files {
			for _, object := range b.Objects[file] {
				learn(strings.TrimPrefix(file, "objects/"), object)
			}
		}
	}
	for _, objects := range b.Objects {
		for _, object := range objects {
			a.object(object, false)
		}
	}
	texts := map[string][]byte{}
	for name, text := range b.Texts {
		texts[a.text(name)] = []byte(a.text(string(text)))
	}
	b.Texts = texts
	for i, text := range b.Missing {
		b.Missing[i] = a.text(text)
	}
}

// known are names that say nothing of anybody: those of Kubernetes and Tandem, and words that stand in fields of objects.
var known = map[string]bool{
	"default": true, "kube-system": true, "kube-public": true, "kube-node-lease": true, "tandem-system": true, "kubernetes": true, "true": true, "false": true,
	"tandem-speaker": true, "tandem-cloud-controller-manager": true, "tandem": true, "speaker": true, "cloud-controller-manager": true,
	"ghcr.io": true, "tandem-lb": true, "registry.k8s.io": true, "http": true, "https": true, "linux": true,
	"amd64": true, "arm64": true, "services": true, "nodes": true, "": true,
	// names of ports that say what every user of the protocol would say
	"tcp": true, "udp": true, "sctp": true, "dns": true, "dns-tcp": true, "dns-udp": true, "ssh": true, "grpc": true, "metrics": true, "health": true,
	"membership-tcp": true, "membership-udp": true,
}

// predictable are the names of interfaces that a kernel, systemd or a CNI plugin chooses: eth0, bond0.100, enp3s0f1np1. One of enx and a MAC address is
// none of them.
var predictable = regexp.MustCompile(`^(lo|(eth|ib|bond|team|br|vlan|dummy|vrf|wg|tap|tun|docker|cni|tunl|flannel\.|kube-ipvs)[0-9]+` +
	`|(en|wl|ib)(o[0-9]+|(P[0-9]+)?p[0-9]+s[0-9]+|s[0-9]+)(f[0-9]+)?(np?[0-9]+)?(d[0-9]+)?)(\.[0-9]+)?$`)

// byMAC are the names of interfaces that systemd makes of a MAC address.
var byMAC = regexp.MustCompile(`^(en|wl|ib)x[0-9a-f]{12}$`)

// anonymizer knows what stands for what.
type anonymizer struct {
	key   []byte
	names map[string]string
	kinds map[string]int    // how many names of a kind have a stand-in
	stems map[string]string // what stands for the names of interfaces without the number at their end
	bits  map[netip.Prefix]bool
}

func newAnonymizer(key string) *anonymizer {
	return &anonymizer{key: []byte(key), names: map[string]string{}, kinds: map[string]int{}, stems: map[string]string{}, bits: map[netip.Prefix]bool{}}
}

// name finds a stand-in for a name, such as service-x3.
func (a *anonymizer) name(kind, name string) {
	if known[name] || a.names[name] != "" {
		return
	}
	if _, err := netip.ParseAddr(name); err == nil {
		return // such as the name of an IPAddress
	}
	a.kinds[kind]++
	a.names[name] = fmt.Sprintf("%s-x%d", kind, a.kinds[kind])
}

// learnName finds a stand-in for the name of an object.
func (a *anonymizer) learnName(file string, object map[string]any) {
	kind := strings.TrimSuffix(file, "s")
	if name, _ := field(object, "metadata", "name").(string); name != "" && file != "l2announcements" && file != "leases" {
		a.name(kind, name)
	}
	if namespace, _ := field(object, "metadata", "namespace").(string); namespace != "" {
		a.name("namespace", namespace)
	}
}

// areLabels are the fields with a map of labels. A selector may also be a LabelSelector, which has no strings in it.
var areLabels = map[string]bool{"labels": true, "matchLabels": true, "nodeSelector": true, "selector": true}

// learn finds stand-ins for the names in an object: those of labels that people choose, and of what it refers to.
func (a *anonymizer) learn(_ string, object map[string]any) {
	var look func(map[string]any)
	look = func(fields map[string]any) {
		a.learnExpression(fields)
		for key, value := range fields {
			if labels, ok := value.(map[string]any); ok && areLabels[key] {
				for label, value := range labels {
					a.learnLabel(label, value)
				}
			}
			a.learnInterfaces(key, value)
			a.learnPorts(key, value)
			switch text, _ := value.(string); key {
			case "vrf":
				if !predictable.MatchString(text) {
					a.name("vrf", text)
				}
			case "zone":
				a.name("zone", text)
			case "nodeName", "hostname", "node":
				a.name("node", text)
			case "address": // of a Node, which may be a name; an IP address is none
				a.name("host", text)
			case "image":
				path := strings.Split(text, "/")
				for _, part := range path[:len(path)-1] {
					a.name("registry", part)
				}
			case "loadBalancerClass":
				a.name("class", text)
			case "namespace":
				a.name("namespace", text)
			}
			if ref, ok := value.(map[string]any); ok && (key == "targetRef" || key == "passwordSecret") {
				if name, ok := ref["name"].(string); ok {
					a.name(strings.ToLower(key[:6]), name)
				}
			}
			walk(value, look)
		}
	}
	look(object)
}

// learnInterfaces finds stand-ins for the names of interfaces in a field: one name, a list of names and patterns, or a list of what a speaker says of
// its interfaces.
func (a *anonymizer) learnInterfaces(key string, value any) {
	switch key {
	case "interface", "sourceInterface":
		if name, ok := value.(string); ok {
			a.learnInterface(name)
		}
	case "interfaces":
		for _, element := range asList(value) {
			if fields, ok := element.(map[string]any); ok {
				element = fields["name"]
			}
			if name, ok := element.(string); ok {
				a.learnInterface(name)
			}
		}
	}
}

// learnInterface finds a stand-in for the name of an interface, or for each part of a pattern of names. Names that differ in the number at their end still
// do, so that a pattern selects what it selected: acme10 and acme* become interface-x1n10 and interface-x1*.
func (a *anonymizer) learnInterface(pattern string) {
	if predictable.MatchString(pattern) || predictable.MatchString(strings.NewReplacer("*", "0", "?", "0").Replace(pattern)) {
		return
	}
	for _, name := range strings.FieldsFunc(pattern, func(r rune) bool { return r == '*' || r == '?' }) {
		name = strings.TrimRight(strings.TrimLeft(name, between), between) // as words has it
		stem := strings.TrimRight(name, "0123456789")
		if byMAC.MatchString(name) {
			stem = name
		}
		if known[name] || a.names[name] != "" || stem == "" {
			continue
		}
		if a.stems[stem] == "" {
			a.kinds["interface"]++
			a.stems[stem] = fmt.Sprintf("interface-x%d", a.kinds["interface"])
		}
		if a.names[name] = a.stems[stem]; stem != name {
			a.names[name] += "n" + strings.TrimPrefix(name, stem)
		}
	}
}

// learnPorts finds stand-ins for the names of ports in a field: of a list of ports of a Service, its endpoints or a container, and where they are referred to.
func (a *anonymizer) learnPorts(key string, value any) {
	switch key {
	case "ports":
		for _, element := range asList(value) {
			if port, ok := element.(map[string]any); ok {
				for _, name := range []any{port["name"], port["targetPort"], port["appProtocol"]} {
					if name, ok := name.(string); ok && !isWellKnown(name) {
						a.name("port", name)
					}
				}
			}
		}
	case "httpGet", "tcpSocket":
		if name, ok := field(map[string]any{key: value}, key, "port").(string); ok {
			a.name("port", name)
		}
	}
}

// learnExpression finds stand-ins for the key and the values of one of matchExpressions, of a taint, or of a toleration.
func (a *anonymizer) learnExpression(fields map[string]any) {
	key, ok := fields["key"].(string)
	if !ok || fields["operator"] == nil && fields["effect"] == nil {
		return
	}
	for _, value := range append(asList(fields["values"]), fields["value"], "") { // Exists has no value, and the key counts all the same.
		a.learnLabel(key, value)
	}
}

// learnLabel finds stand-ins for the value of a label, and for its key where this is no well-known one.
func (a *anonymizer) learnLabel(key string, value any) {
	text, ok := value.(string)
	if !ok {
		return
	}
	if !isWellKnown(key) {
		a.name("label", key)
	}
	a.name("value", text)
}

// isWellKnown reports whether people did not choose the key of a label: it is one of Kubernetes or Tandem. Of two domains of Kubernetes
// people choose a part, as in node-role.kubernetes.io/acme and acme.example.node-restriction.kubernetes.io/fips.
func isWellKnown(key string) bool {
	if isOf(key, "node-role.kubernetes.io") {
		return strings.HasSuffix(key, "/control-plane") || strings.HasSuffix(key, "/worker")
	}
	return isOf(key, "kubernetes.io", "k8s.io", "tandem-lb.io") && !isOf(key, "node-restriction.kubernetes.io")
}

// isOf reports whether the key of a label or an annotation is of one of the domains, or of a domain below one.
func isOf(key string, domains ...string) bool {
	prefix, _, ok := strings.Cut(key, "/")
	return ok && slices.ContainsFunc(domains, func(domain string) bool { return strings.HasSuffix("."+prefix, "."+domain) })
}

// field returns a field of nested maps, nil if there is none.
func field(object map[string]any, path ...string) any {
	var value any = object
	for _, key := range path {
		fields, _ := value.(map[string]any)
		value = fields[key]
	}
	return value
}

// object replaces in all strings of an object, and in its keys if these are those of labels. Of annotations only Tandem's stay: others may
// have any text.
func (a *anonymizer) object(fields map[string]any, labels bool) {
	for _, key := range slices.Collect(maps.Keys(fields)) { // as they are now: renamed keys come in between
		value, renamed := fields[key], key
		_, isText := value.(string)
		if stand := a.names[key]; labels && isText && stand != "" {
			renamed = stand
			delete(fields, key)
		}
		switch key {
		case "annotations":
			annotations, _ := value.(map[string]any)
			maps.DeleteFunc(annotations, func(key string, _ any) bool { return !isOf(key, "tandem-lb.io") })
		case "uid", "machineID", "systemUUID", "bootID", "providerID", "volumesInUse", "volumesAttached":
			value = "(left out)"
		}
		if inner, ok := value.(map[string]any); ok {
			a.object(inner, areLabels[key])
		} else {
			value = a.value(value)
		}
		fields[renamed] = value
	}
}

func (a *anonymizer) value(value any) any {
	switch v := value.(type) {
	case string:
		return a.text(v)
	case map[string]any:
		a.object(v, false)
	case []any:
		for i := range v {
			v[i] = a.value(v[i])
		}
	}
	return value
}

const (
	// between are the characters between the parts of a word.
	between = "-.:/_"
	// longestName bounds what is looked up: the key of a label has 253 bytes, a slash, and 63 bytes at most.
	longestName = 253 + 1 + 63
)

// Words are what may be a name or an address: letters, digits and what these have in the middle. The user is the one to whom the API server
// has refused something: User "jane@acme.example" cannot list resource "pods".
var (
	words = regexp.MustCompile(`[A-Za-z0-9:](?:[A-Za-z0-9._:/-]*[A-Za-z0-9:])?`)
	mac   = regexp.MustCompile(`^(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}$`)
	user  = regexp.MustCompile(`(\bUser \\?")[^"\\]+`)
)

// text replaces in a text.
func (a *anonymizer) text(text string) string {
	return words.ReplaceAllStringFunc(user.ReplaceAllString(text, "${1}(left out)"), a.word)
}

// word replaces in a word all that has a stand-in, from left to right, the longest first. For example team-bank.acme-web has namespace
// team-bank and Service acme-web in it, and nothing of a label with the value web; 198.51.100.200-198.51.100.239 has two addresses.
func (a *anonymizer) word(word string) string {
	var replaced strings.Builder
	for word != "" {
		stand, length := "", 0
		for end := min(len(word), longestName); end > 0 && length == 0; end-- {
			if end == len(word) || strings.IndexByte(between, word[end]) >= 0 {
				if stand = a.part(word[:end]); stand != "" {
					length = end
				}
			}
		}
		if length == 0 { // What comes before the next part stays.
			if length = strings.IndexAny(word, between) + 1; length == 0 {
				length = len(word)
			}
			stand = word[:length]
		}
		replaced.WriteString(stand)
		word = word[length:]
	}
	return replaced.String()
}

// part returns what stands for a part of a word, "" if nothing does. A MAC address is one before it is anything else. A known name stands
// for itself.
func (a *anonymizer) part(part string) string {
	if stand := a.names[part]; stand != "" {
		return stand
	}
	if known[part] {
		return part
	}
	if mac.MatchString(part) {
		return a.mac(part)
	}
	if ip, err := netip.ParseAddr(part); err == nil {
		return a.address(ip).String()
	}
	return ""
}

// mac returns what stands for a MAC address: one that is administered locally.
func (a *anonymizer) mac(text string) string {
	sum := a.sum(strings.ToLower(text))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}

// address returns what stands for an address. Two addresses that have their first n bits in common still have after it, and no more: whether a bit is
// turned over depends on those before it (as Crypto-PAn has it). What is special stays so: loopback, multicast, the unspecified address, and the
// prefix fe80::/64, of which the interface identifier is replaced.
func (a *anonymizer) address(ip netip.Addr) netip.Addr {
	if ip.IsLoopback() || ip.IsMulticast() || ip.IsUnspecified() {
		return ip
	}
	bytes, first := ip.AsSlice(), 0
	if ip.IsLinkLocalUnicast() {
		if first = 64; ip.Is4() {
			first = 16
		}
	}
	for bit := first; bit < len(bytes)*8; bit++ {
		if prefix, err := ip.WithZone("").Prefix(bit); err == nil && a.turns(prefix) {
			bytes[bit/8] ^= 0x80 >> (bit % 8)
		}
	}
	replaced, _ := netip.AddrFromSlice(bytes)
	return replaced.WithZone(ip.Zone())
}

// turns reports whether the bit after a prefix is turned over.
func (a *anonymizer) turns(prefix netip.Prefix) bool {
	turned, ok := a.bits[prefix]
	if !ok {
		turned = a.sum(prefix.String())[0]&1 == 1
		a.bits[prefix] = turned
	}
	return turned
}

func (a *anonymizer) sum(text string) []byte {
	mac := hmac.New(sha256.New, a.key)
	mac.Write([]byte(text))
	return mac.Sum(nil)
}
