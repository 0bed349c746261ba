// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/link"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// isolatedFromLAN returns the condition IsolatedFromLAN of a SpeakerStatus, by the interfaces by which this node hears nothing.
func isolatedFromLAN(cutOff []string) metav1.Condition {
	if len(cutOff) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionIsolatedFromLAN, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonLANAnswers,
			Message: "nodes or the gateway answer on each interface by which they have been asked",
		}
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionIsolatedFromLAN, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonNothingAnswers,
		Message: "by " + strings.Join(cutOff, " and ") + " neither another node nor the gateway answers ARP, neighbour solicitations or echoes any more; " +
			"look for the cable, the switch port and its VLAN",
	}
}

// kernelAnswers returns the addresses, with the interfaces that have them, for which the kernel of this node answers on a link that can announce,
// whether the node is the holder or not. They are on record on layer 2. An IPv4 address is answered for on any link, unless arp_ignore of that link
// forbids it, and an IPv6 address on its own link alone. For example kube-proxy in IPVS mode puts 192.0.2.10 on kube-ipvs0, and arp_ignore of eth0
// is 0: who asks on eth0 gets an answer.
func kernelAnswers(links *link.Snapshot, recorded func(netip.Addr) bool, arpIgnore func(iface string) int) (found []string) {
	// The levels of the interfaces that can announce are read once, and only if an address is found: there may be thousands of those in IPVS
	// mode, and a hundred links of Pods.
	levels := sync.OnceValue(func() map[string]int {
		all := map[string]int{}
		for _, i := range links.Interfaces {
			if i.Unusable() == "" {
				all[i.Name] = arpIgnore(i.Name)
			}
		}
		return all
	})
	onAnyLink := sync.OnceValue(func() bool { return slices.Contains(slices.Collect(maps.Values(levels())), 0) })
	for _, i := range links.Interfaces {
		for _, a := range i.Addresses {
			ip := a.Prefix.Addr()
			if !recorded(ip) {
				continue
			}
			level, canAnnounce := levels()[i.Name]
			if canAnnounce && (ip.Is6() || level < 3) || ip.Is4() && onAnyLink() {
				found = append(found, ip.String()+" on "+i.Name)
			}
		}
	}
	return found
}

// readARPIgnore returns net.ipv4.conf.IFACE.arp_ignore, or that of all interfaces if it is higher.
func readARPIgnore(iface string) (level int) {
	for _, of := range []string{"all", iface} {
		text, err := os.ReadFile(filepath.Join("/proc/sys/net/ipv4/conf", of, "arp_ignore"))
		if n, errRead := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && errRead == nil {
			level = max(level, n)
		}
	}
	return level
}

// kernelAnswersCondition returns the condition KernelAnswers of a SpeakerStatus.
func kernelAnswersCondition(found []string) metav1.Condition {
	if len(found) == 0 {
		return metav1.Condition{
			Type: v1alpha1.ConditionKernelAnswers, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonOnlyTheHolderAnswers,
			Message: "the kernel answers for no address that is announced on layer 2",
		}
	}
	names := strings.Join(found[:min(len(found), 3)], ", ")
	if more := len(found) - 3; more > 0 {
		names += fmt.Sprintf(" and %d more", more)
	}
	return metav1.Condition{
		Type: v1alpha1.ConditionKernelAnswers, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAddressOnInterface,
		Message: "the kernel of this node answers ARP or neighbour solicitations for " + names + ", also where another node is the holder: " +
			"with kube-proxy in IPVS mode set ipvs.strictARP, else take the addresses off the interface",
	}
}
