// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

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
