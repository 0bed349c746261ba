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
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
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
	// KeepInUse makes a pool of the addresses that Services have and no pool holds.
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
	return fmt.Errorf("--pool is %q, and nothing in the input needs a pool: it is for ServiceLB of k3s, which has none. Leave the flag out, "+
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
}

// Failed reports whether there is an error. With strict, what is lost is one.
func (r Result) Failed(strict bool) bool {
	return slices.ContainsFunc(r.Messages, func(m Message) bool { return m.Level == Error || strict && m.Level == Lost })
}

// Convert converts the configuration of all products in the files.
func Convert(files []Input, o Options) Result {
	in := &input{journal: &journal{}, set: o.Set, several: len(files) > 1, live: o.Live}
	d := newDraft(in.journal, o)
	for _, file := range files {
		d.objects = append(d.objects, in.parse(file)...)
	}
	if !in.failed() || len(d.objects) > 0 {
		d.convert()
	}
	messages := d.messages()
	if d.failed() {
		return Result{Messages: messages, Groups: d.groups(), TookPools: d.tookPools}
	}
	return Result{d.documents(), messages, d.groups(), d.tookPools}
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
		for _, text := range []string{o.nick, o.namespace} {
			if _, missing := o.in.fill(text); len(missing) > 0 {
				d.add(Error, "placeholder", o.about, "%q is filled in elsewhere; give it by --set %s=..., or read the live cluster by "+
					"--from-cluster", text, missing[0])
			}
		}
		d.unknown(o.fields)
		return
	}
	foreign := slices.ContainsFunc([]string{"metallb.io", "purelb.io", "bgp.purelb.io", "kube-vip.io", "frrk8s.metallb.io"},
		func(group string) bool { return o.group == group })
	looksLike := strings.HasPrefix(o.kind, "CiliumBGP") || strings.HasPrefix(o.kind, "CiliumL2") || strings.HasPrefix(o.kind,
		"CiliumLoadBalancer")
	if d.Options.From == "" && (foreign || looksLike) {
		d.add(Warn, "unknown-kind", o.about, "%s is no kind that is converted; it is left out", o.kind)
	}
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
	known        bool
	major, minor int // of the version; 0.0 where nobody has said it
	words        string
}

var version = regexp.MustCompile(`v?(\d+)(?:\.(\d+|x))?`)

// assumed reads what the user has said of a product, such as "metallb=0.12 native", "cilium=1.16 or later" or "kube-vip without its cloud
// provider".
func (d *draft) assumed(product string) (a assumption) {
	for _, text := range d.Options.Assume {
		rest, ok := strings.CutPrefix(strings.TrimSpace(text), product)
		if !ok {
			continue
		}
		a.known, a.words = true, rest
		if m := version.FindStringSubmatch(rest); m != nil {
			a.major, _ = strconv.Atoi(m[1])
			a.minor, _ = strconv.Atoi(m[2])
			if before := strings.TrimSpace(rest); strings.HasPrefix(before, "<") && !strings.HasPrefix(before, "<=") {
				a.minor-- // "<0.13" is 0.12 at most.
			}
		}
	}
	return a
}

// versioned reports whether a version is known.
func (a assumption) versioned() bool { return a.major > 0 || a.minor > 0 }

// before reports whether a known version is older than another one.
func (a assumption) before(major, minor int) bool {
	return a.versioned() && (a.major < major || a.major == major && a.minor < minor)
}

// learn takes the version from the tag of an image, where the user has not said it.
func (a *assumption) learn(tag string) {
	if m := version.FindStringSubmatch(tag); m != nil && !a.versioned() {
		a.major, _ = strconv.Atoi(m[1])
		a.minor, _ = strconv.Atoi(m[2])
	}
}

// says reports whether the user has said a word.
func (a assumption) says(word string) bool {
	return regexp.MustCompile(fmt.Sprintf(`(^|[^\w-])%s($|[^\w-])`, regexp.QuoteMeta(word))).MatchString(a.words)
}
