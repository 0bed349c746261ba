// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"net/netip"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	serviceLBPrefix = "svccontroller.k3s.cattle.io/"
	serviceLBPool   = serviceLBPrefix + "lbpool"
	serviceLBEnable = serviceLBPrefix + "enablelb"

	serviceLBTolerations = serviceLBPrefix + "tolerations"
	serviceLBPriority    = serviceLBPrefix + "priorityclassname"

	servicePods = "annotation %s is for the pods of ServiceLB; Tandem announces from its DaemonSet, where tolerations are set for all"

	cleanup = "service.kubernetes.io/load-balancer-cleanup"
)

// serviceLB converts what there is of k3s' ServiceLB: Services that have the addresses of nodes, and labels. It has no pools, so that a
// person has to give one.
func (d *draft) serviceLB() {
	said := d.Options.From == "servicelb" || d.assumed("k3s").known || d.assumed("servicelb").known
	settings := d.readK3sSettings()
	found := settings.on // signs of ServiceLB
	for _, o := range d.objects {
		if strings.HasPrefix(o.kind, "HelmChart") && o.group == "helm.cattle.io" && !o.taken {
			found, o.taken = found || !strings.HasPrefix(o.nick, "rke2-"), true // RKE2 has ServiceLB on demand alone.
			o.whole("spec")
			d.add(Info, "ignored", o.namespaced("kube-system"), "values of the chart; externalTrafficPolicy is read from the Service")
		}
		found = found || slices.ContainsFunc(append(sortedKeys(o.annotations), sortedKeys(o.labels)...),
			func(key string) bool { return strings.HasPrefix(key, serviceLBPrefix) })
	}
	k3s := said || found && !settings.off
	var served []*service
	for _, s := range d.readServices() {
		if !s.loadBalancer || s.class != "" {
			continue
		}
		_, more := onePerFamily(s.status)
		theirs := len(more) > 0 || len(s.status) > 0 && !d.kubeVIPServes && !slices.ContainsFunc(s.status, func(a netip.Addr) bool { return d.node(a) == "" })
		nodes := theirs && slices.Contains(s.finalizers, cleanup)
		needs := len(d.Options.Pools) > 0 && !d.Options.Live && !s.names() // whatever serves it today, as kube-vip does without its cloud provider
		if k3s || len(d.pools) == 0 && (nodes || needs) {
			served = append(served, s)
		}
	}
	if d.Options.Live && len(d.pools) > 0 && !said {
		d.twoWriters(settings.running)
	}
	// With pools of another product, ServiceLB is off: charts of k3s, and labels of the time before, do not say that it is on.
	if len(d.pools) > 0 && !said || len(served) == 0 && (len(d.Options.Pools) == 0 || !k3s) {
		return
	}
	for _, s := range served {
		s.taken = true
		for _, key := range sortedKeys(s.annotations) {
			if strings.HasPrefix(key, serviceLBPrefix) {
				d.add(Warn, "tolerations", s.about(), servicePods, key)
			}
		}
	}
	if len(d.Options.Pools) == 0 {
		for _, s := range served {
			d.add(Error, "pool-needed", s.about(), "k3s' ServiceLB has no pool: the Service has the addresses of nodes (%s), and those "+
				"cannot become Tandem's. Say --pool NAME=RANGE with free addresses of the nodes' subnet",
				orElse(strings.ReplaceAll(join(s.status), ",", ", "), "none yet"))
		}
		return
	}
	d.tookPools = true
	d.serviceLBPools(served, settings)
}

// twoWriters refuses a cluster in which ServiceLB gives addresses to Services beside another product, unless that one serves a class of its own alone.
func (d *draft) twoWriters(running []subject) {
	apart := slices.ContainsFunc(d.entries, func(e entry) bool { return e.code == "class" && e.subject.kind != "Service" })
	plain := slices.ContainsFunc(d.readServices(), func(s *service) bool { return s.loadBalancer && s.class == "" })
	for _, about := range running {
		if plain && !apart {
			d.add(Error, "two-writers", about, "k3s' ServiceLB runs there and gives addresses to Services without a class, as AddressPools of the input do: two writers of one "+
				"status write in turn. Add servicelb to disable on every k3s server, and restart them")
		}
	}
}

// serviceLBPools makes the pools that a person has given, and their advertisements. A pool with the name of an lbpool is for its Services.
func (d *draft) serviceLBPools(served []*service, settings k3sSettings) {
	enabled := slices.Contains(settings.labels[serviceLBEnable], "true")
	names := settings.labels[serviceLBPool]
	for _, o := range d.objects {
		enabled = enabled || o.kind == "Node" && o.labels[serviceLBEnable] == "true"
		if o.kind == "Node" || o.kind == "Service" {
			names = append(names, nonempty(o.labels[serviceLBPool])...)
		}
	}
	var made []*pool
	for _, text := range d.Options.Pools {
		p := d.givenPool(text)
		if p == nil {
			continue
		}
		made = append(made, p)
		nodes := map[string]string{}
		if enabled {
			nodes[serviceLBEnable] = "true"
		}
		if slices.Contains(names, p.name) {
			p.services = []metav1.LabelSelector{{MatchLabels: map[string]string{serviceLBPool: p.name}}}
			nodes[serviceLBPool] = p.name
		}
		if (d.Options.Announce == "" || d.Options.Announce == "l2") && !d.announced(p) {
			a := d.newAdvertisement(l2Kind, p.name, "--pool "+text)
			a.pools = []string{p.name}
			if len(nodes) > 0 {
				a.nodes = []metav1.LabelSelector{{MatchLabels: nodes}}
			}
		}
	}
	for _, s := range served {
		name := ""
		for _, p := range made {
			if len(p.services) == 0 && name == "" || p.name == s.labels[serviceLBPool] {
				name = p.name
			}
		}
		if name == "" {
			d.add(Warn, "no-pool", s.about(), "no pool that was given is for it: say --pool "+
				"%s=RANGE", orElse(s.labels[serviceLBPool], "servicelb"))
			continue
		}
		if len(s.status) > 0 {
			d.add(Warn, "addresses-change", s.about(), "%s become one address of each family of %s; change DNS records and port "+
				"forwardings",
				strings.ReplaceAll(join(s.status), ",", ", "), name)
		}
	}
}

// givenPool makes a pool of NAME=RANGE[,RANGE...].
func (d *draft) givenPool(text string) *pool {
	name, ranges, ok := strings.Cut(text, "=")
	about := subject{name: "--pool " + text}
	if !ok || ranges == "" {
		d.add(Error, "bad-value", about, "write --pool NAME=RANGE")
		return nil
	}
	p := d.newPool(name, "servicelb", "--pool "+text)
	f := &fields{in: &input{journal: d.journal}, about: subject{}, path: "--pool " + name}
	for entry := range strings.SplitSeq(ranges, ",") {
		d.addSpan(p, f, "range", entry)
	}
	return p
}
