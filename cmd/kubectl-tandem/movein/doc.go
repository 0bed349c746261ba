// SPDX-License-Identifier: Apache-2.0

// Package movein reads the configuration of other load balancers and converts it to objects of Tandem, and patches for Services. It is
// pure: bytes go in, documents and messages come out.
//
// Each product has files of its own; what they have in common is in fields.go (reading YAML), ranges.go, names.go, selectors.go and
// draft.go (the objects on their way, and what is checked when all are there). For example, the MetalLB pool
//
//	kind: IPAddressPool
//	metadata: {name: lan, namespace: metallb-system}
//	spec: {addresses: ["192.0.2.10 - 192.0.2.20"]}
//
// becomes the AddressPool lan with the range 192.0.2.10-192.0.2.20 and the message "info [blanks] IPAddressPool lan: ...". Whatever a
// product means otherwise than Tandem has a message, and so has every field that no code has asked for: nothing is dropped without a word.
package movein

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Products are the products whose configuration is read.
var Products = []string{"metallb", "purelb", "kube-vip", "cilium", "calico", "servicelb", "services"}

// Options say what the files do not.
type Options struct {
	// From limits the conversion to one of Products. Without it all that are found are converted.
	From string
	// Assume has what a user knows of versions and modes, such as "metallb=0.12 native".
	Assume []string
	// Set has the values of placeholders such as ${RANGE}.
	Set map[string]string
	// Pools are pools of new addresses, as NAME=RANGE[,RANGE...], for products that have none.
	Pools []string
	// Announce says how addresses are announced of which the input does not say it: l2, bgp, or calico, which announces them itself.
	Announce string
	// Local and Remote name service groups of PureLB whose addresses are in the subnet of the nodes, and in none.
	Local, Remote []string
	// Namespace is the namespace of objects that have none. "" is default.
	Namespace string
	// Live says that the input is an export of a cluster, so that the status of its Services counts.
	Live bool
	// KeepInUse makes a pool of the addresses that Services have and no pool holds, so that the status of Services counts as with Live.
	KeepInUse bool
}

// Validate returns an error that names the flag and the fix if Assume is of no product, or Pools have no NAME=RANGE. Convert would pass over them.
func (o Options) Validate() error {
	known := append(slices.Clone(Products), "k3s")
	for _, text := range o.Assume {
		// "metallb=0.12 native" and "kube-vip without its cloud provider" start with a product, "metal=0.12" and "metallbs" do not.
		if !slices.ContainsFunc(known, func(product string) bool {
			rest, ok := strings.CutPrefix(strings.TrimSpace(text), product)
			return ok && (rest == "" || strings.ContainsAny(rest[:1], " =<>"))
		}) {
			return fmt.Errorf("--assume is %q; start with one of %s, as in \"metallb=0.12 native\"", text, strings.Join(known, ", "))
		}
	}
	for _, text := range o.Pools {
		if name, ranges, _ := strings.Cut(text, "="); name == "" || ranges == "" {
			return fmt.Errorf("--pool is %q; give NAME=RANGE[,RANGE], as in servicelb=192.0.2.240/28", text)
		}
	}
	return nil
}

// ValidateGroups returns an error if Local or Remote names a service group of PureLB that is not among those of the input.
func (o Options) ValidateGroups(groups []string) error {
	for _, named := range []struct {
		flag  string
		names []string
	}{{"--local", o.Local}, {"--remote", o.Remote}} {
		for _, name := range named.names {
			if slices.Contains(groups, name) {
				continue
			}
			if len(groups) == 0 {
				return fmt.Errorf("%s is %q, and the input has no ServiceGroup of PureLB; leave the flag out", named.flag, name)
			}
			return fmt.Errorf("%s is %q; give one of the ServiceGroups of the input: %s", named.flag, name, strings.Join(groups, ", "))
		}
	}
	return nil
}

// ValidatePools returns an error if there are Pools and nothing in the input has taken them, since all its products have pools of their own.
func (o Options) ValidatePools(taken bool) error {
	if len(o.Pools) == 0 || taken {
		return nil
	}
	return fmt.Errorf("--pool is %q, and nothing in the input needs a pool: it is for Services of a product that has none, such as ServiceLB of k3s. Leave the flag out, "+
		"and write another AddressPool beside the others", o.Pools[0])
}

// Result is what a conversion comes to.
type Result struct {
	// Documents are empty if there is a message of level Error.
	Documents []Document
	Messages  []Message
	// Groups are the names of the ServiceGroups of PureLB in the input, which Options.Local and Options.Remote choose from.
	Groups []string
	// TookPools says that Options.Pools have become AddressPools.
	TookPools bool
	// Known says that the input has an object of a load balancer that is converted, such as a Service of type LoadBalancer, even if nothing is to be
	// written or said of it.
	Known bool
}

// Failed reports whether there is an error. With strict, what is lost is one.
func (r Result) Failed(strict bool) bool {
	return slices.ContainsFunc(r.Messages, func(m Message) bool { return m.Level == Error || strict && m.Level == Lost })
}

// Convert converts the configuration of all products in the files.
func Convert(files []Input, o Options) Result {
	in := &input{journal: &journal{}, set: o.Set, several: len(files) > 1, live: o.Live}
	o.Live = o.Live || o.KeepInUse
	d := newDraft(in.journal, o)
	for _, file := range files {
		d.objects = append(d.objects, in.parse(file)...)
	}
	d.repeated()
	if !in.failed() || len(d.objects) > 0 {
		d.convert()
	}
	var documents []Document
	if !d.failed() {
		documents = d.documents()
		d.refuse(documents)
	}
	if d.failed() {
		documents = nil
	}
	return Result{documents, d.messages(), d.groups(), d.tookPools, d.known()}
}

// known reports whether a product has converted an object, or there is a Service of type LoadBalancer.
func (d *draft) known() bool {
	return slices.ContainsFunc(d.objects, func(o *object) bool { return o.taken }) ||
		slices.ContainsFunc(d.parsed, func(s *service) bool { return s.loadBalancer })
}

// repeated leaves out objects that come again in the input: the last one counts, as when all are applied one after the other.
func (d *draft) repeated() {
	type identity struct{ group, kind, namespace, name string }
	last := map[identity]*object{}
	var kept []*object
	for _, o := range slices.Backward(d.objects) {
		id := identity{strings.TrimPrefix(o.group, "crd."), o.kind, o.namespace, o.nick} // Calico's are served in two groups.
		later := last[id]
		switch {
		case later == nil || !converted(o.group, o.kind) || o.nick == "":
			last[id] = o
			kept = append(kept, o)
		case maps.Equal(o.labels, later.labels) && sameValue(o.spec().node, later.spec().node): // The versions may differ.
			d.add(Info, "duplicate", o.about, "it is there twice, and is read once")
		default:
			d.add(Warn, "ambiguous", o.about, "it is there twice with different contents (%s line %d, and %s line %d); the last one counts, as when both are "+
				"applied", o.file, o.line, later.file, later.line)
		}
	}
	slices.Reverse(kept)
	d.objects = kept
}

// sameValue reports whether two nodes say the same in the same order, whatever their style and comments are.
func sameValue(a, b *yaml.Node) bool {
	return a.Kind == b.Kind && a.Value == b.Value && slices.EqualFunc(a.Content, b.Content, sameValue)
}

// groups returns the names of PureLB's ServiceGroups, sorted.
func (d *draft) groups() (names []string) {
	for _, o := range d.objects {
		if o.group == "purelb.io" && o.kind == "ServiceGroup" {
			names = append(names, o.nick)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// convert runs the products one after the other, then what needs the pools of all.
func (d *draft) convert() {
	for _, product := range []struct {
		name string
		run  func()
	}{
		{"metallb", d.metallb},
		{"purelb", d.purelb},
		{"kube-vip", d.kubeVIP},
		{"cilium", d.cilium},
		{"calico", d.calico},
		{"servicelb", d.serviceLB},
		{"services", d.services},
	} {
		if d.Options.From == "" || d.Options.From == product.name || product.name == "services" {
			product.run()
		}
	}
	d.elsewhere()
	d.finish()
	d.fit()
	for _, o := range d.objects {
		d.leftovers(o)
	}
}

// leftovers names the fields of a converted object that nobody has asked for, and kinds of known products that nobody reads.
func (d *draft) leftovers(o *object) {
	if o.taken || o.kind == "Service" { // Nothing is made of the others.
		for _, path := range o.duplicates {
			d.add(Error, "duplicate-key", o.aboutOr(path), "%s is there twice; parsers take the last one silently, so say which is meant", path)
		}
	}
	if o.taken {
		if o.nick == "" && converted(o.group, o.kind) {
			d.add(Error, "missing", subject{name: fmt.Sprintf("%s in %s line %d", o.kind, o.file, o.line)}, "metadata.name: it has no name")
		}
		for _, text := range []string{o.nick, o.namespace} {
			if _, missing := o.in.fill(text); len(missing) > 0 {
				d.add(Error, "placeholder", o.about, "%q is filled in elsewhere; give it by --set %s=..., or read the live cluster by "+
					"--from-cluster", text, missing[0])
			}
		}
		d.unknown(o.fields)
		return
	}
	if d.Options.From == "" && o.looksForeign() {
		d.add(Warn, "unknown-kind", o.about, "%s of %s is no kind that is converted; it is left out", o.kind, orElse(o.peek("apiVersion"), "no apiVersion"))
	}
}

// looksForeign reports whether an object that nobody has converted has the API group or the kind of a product. Examples are an IpAddressPool of metallb.io,
// and an IPAddressPool without an apiVersion.
func (o *object) looksForeign() bool {
	if o.group == "frrk8s.metallb.io" || o.group == "kube-vip.io" || strings.HasPrefix(o.kind, "CiliumBGP") || strings.HasPrefix(o.kind, "CiliumL2") ||
		strings.HasPrefix(o.kind, "CiliumLoadBalancer") {
		return true
	}
	for group, kinds := range kindsOf {
		if o.group == group || slices.Contains(kinds, o.kind) && (o.group == "" || strings.Contains(o.group, "metallb") || strings.Contains(o.group, "purelb")) {
			return true
		}
	}
	return false
}

// unknown says which fields nobody has asked for, and which stand for the default.
func (d *draft) unknown(f *fields) {
	if paths := f.unread(); len(paths) > 0 {
		d.add(Warn, "unknown-field", f.aboutOr(strings.Join(paths, ", ")), "%s: no field that is known; it has no effect on what is "+
			"written",
			strings.Join(paths, ", "))
	}
	d.reportZeros(f)
}

func (d *draft) reportZeros(f *fields) {
	if f == nil || f.zeros == nil || len(*f.zeros) == 0 {
		return
	}
	slices.Sort(*f.zeros)
	zeros := strings.Join(slices.Compact(*f.zeros), ", ")
	d.add(Info, "zero", f.aboutOr(zeros), "%s: what stands for the default is left out", zeros)
	*f.zeros = nil
}

// assumption is what a user knows of a product.
type assumption struct {
	known   bool
	release release // the zero one where nobody has said it
	words   string
}

// release is a version of a product such as 0.14.9.
type release struct{ major, minor, patch int }

// latest stands for the last patch of a minor version, which 0.14 without a patch means.
const latest = 1 << 20

// version matches a number that does not go on a word, as that of frr-k8s does.
var version = regexp.MustCompile(`(?:^|[^\pL\d_])v?(\d+)(?:\.(\d+|x)(?:\.(\d+))?)?`)

// parseRelease reads the first version in a text, such as the tag of an image.
func parseRelease(text string) (r release, ok bool) {
	m := version.FindStringSubmatch(text)
	if m == nil {
		return release{}, false
	}
	r.major, _ = strconv.Atoi(m[1])
	r.minor, _ = strconv.Atoi(m[2])
	if r.patch = latest; m[3] != "" {
		r.patch, _ = strconv.Atoi(m[3])
	}
	return r, true
}

// assumed reads what the user has said of a product, such as "metallb=0.12 native", "cilium=1.16 or later" or "kube-vip without its cloud
// provider".
func (d *draft) assumed(product string) (a assumption) {
	for _, text := range d.Options.Assume {
		rest, ok := strings.CutPrefix(strings.TrimSpace(text), product)
		if !ok {
			continue
		}
		a.known, a.words = true, rest
		if r, ok := parseRelease(rest); ok {
			a.release = r.bound(strings.TrimSpace(rest))
		}
	}
	return a
}

// bound returns the release next to r that a text with a comparison means. For example, "<0.13" is 0.12 at most, and "<0.14.9" is 0.14.8.
func (r release) bound(text string) release {
	strict := !strings.HasPrefix(text, "<=") && !strings.HasPrefix(text, ">=")
	switch {
	case strict && text[0] == '<' && (r.patch == latest || r.patch == 0):
		return release{r.major, r.minor - 1, latest}
	case strict && text[0] == '<':
		r.patch--
	case strict && text[0] == '>' && r.patch == latest:
		return release{r.major, r.minor + 1, latest}
	case strict && text[0] == '>':
		r.patch++
	}
	return r
}

// versioned reports whether a version is known.
func (a assumption) versioned() bool { return a.release.major > 0 || a.release.minor > 0 }

// before reports whether a known version is older than another one, whose patch is 0 unless it is given.
func (a assumption) before(major, minor int, patch ...int) bool {
	other := release{major: major, minor: minor}
	if len(patch) > 0 {
		other.patch = patch[0]
	}
	return a.versioned() && a.release.compare(other) < 0
}

// compare returns -1, 0 or 1 as r is older than, the same as or newer than another one.
func (r release) compare(other release) int {
	return cmp.Or(cmp.Compare(r.major, other.major), cmp.Compare(r.minor, other.minor), cmp.Compare(r.patch, other.patch))
}

// learn takes the version from the tag of an image, where the user has not said it.
func (a *assumption) learn(tag string) {
	if r, ok := parseRelease(tag); ok && !a.versioned() {
		a.release = r
	}
}

// says reports whether the user has said a word, in either case.
func (a assumption) says(word string) bool { return a.first(word) != "" }

// first returns the word that the user has said first of some, in small letters, "" for none. For example, "0.13 frr (native has no vrf)" says frr before
// native.
func (a assumption) first(words ...string) string {
	m := regexp.MustCompile(`(?i)(?:^|[^\w-])(` + strings.Join(words, "|") + `)(?:$|[^\w-])`).FindStringSubmatch(a.words)
	if m == nil {
		return ""
	}
	return strings.ToLower(m[1])
}
