// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"slices"
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
