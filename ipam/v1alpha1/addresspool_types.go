// SPDX-License-Identifier: Apache-2.0

package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// AddressPool is a set of addresses that Services of type LoadBalancer may get, partitioned by family.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:path=addresspools,scope=Cluster,shortName=pool,categories=tandem
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name="IPv4",type=string,JSONPath=`.status.summary.ipv4`
// +kubebuilder:printcolumn:name="IPv4 Free",type=string,JSONPath=`.status.summary.ipv4Free`
// +kubebuilder:printcolumn:name="IPv6",type=string,JSONPath=`.status.summary.ipv6`
// +kubebuilder:printcolumn:name="IPv6 Free",type=string,JSONPath=`.status.summary.ipv6Free`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name="Auto-Assign",type=boolean,JSONPath=`.spec.autoAssign`,priority=1
// +kubebuilder:printcolumn:name="IPv4 Used",type=integer,JSONPath=`.status.ipv4.allocated`,priority=1
// +kubebuilder:printcolumn:name="IPv6 Used",type=integer,JSONPath=`.status.ipv6.allocated`,priority=1
// +kubebuilder:printcolumn:name="Priority",type=integer,JSONPath=`.spec.priority`,priority=1
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`,priority=1
// +kubebuilder:validation:XValidation:rule="self.metadata.name.size() <= 63",fieldPath=".metadata",message="name must have at most 63 characters, since it labels the addresses the pool gives"
type AddressPool struct {
	metav1.TypeMeta `json:",inline"`
	// metadata is the standard object metadata.
	// +optional
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// spec says which addresses the pool contains and which Services may have them.
	// +required
	Spec AddressPoolSpec `json:"spec"`

	// status counts addresses and says what is wrong with the pool.
	// +optional
	Status AddressPoolStatus `json:"status,omitempty"`
}

// AddressPoolList is a list of address pools.
//
// +kubebuilder:object:root=true
type AddressPoolList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []AddressPool `json:"items"`
}

// AddressPoolSpec says which addresses a pool contains and which Services may have them.
//
// +kubebuilder:validation:XValidation:rule="has(self.ipv4) || has(self.ipv6)",message="the pool is empty; give it spec.ipv4.ranges, spec.ipv6.ranges or both"
type AddressPoolSpec struct {
	// ipv4 is the pool's IPv4 partition. Without it the pool gives no IPv4 address.
	// +optional
	IPv4 *IPv4Partition `json:"ipv4,omitempty"`

	// ipv6 is the pool's IPv6 partition. Without it the pool gives no IPv6 address.
	// +optional
	IPv6 *IPv6Partition `json:"ipv6,omitempty"`

	// autoAssign lets Services that name no pool take addresses from this one. A pool with autoAssign false is used
	// only where a Service asks for it, or for one of its addresses, by annotation.
	// +optional
	// +kubebuilder:default=true
	AutoAssign *bool `json:"autoAssign,omitempty"`

	// avoidBuggyIPs leaves out IPv4 addresses that end in .0 or .255, which some old equipment takes for the network
	// or the broadcast address whatever the prefix length is. IPv6 addresses are not concerned.
	// +optional
	AvoidBuggyIPs bool `json:"avoidBuggyIPs,omitempty"`

	// priority orders the pools a Service may take addresses from: lower numbers are tried first, pools without a
	// priority last, and pools of one priority by name.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	Priority *int32 `json:"priority,omitempty"`

	// namespaceSelectors, where set, keep the pool for Services in namespaces with these labels: one of the selectors
	// has to match the namespace. Together with serviceSelectors a Service has to match both lists.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	NamespaceSelectors []metav1.LabelSelector `json:"namespaceSelectors,omitempty"`

	// serviceSelectors, where set, keep the pool for Services with these labels: one of the selectors has to match the
	// Service.
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=64
	ServiceSelectors []metav1.LabelSelector `json:"serviceSelectors,omitempty"`

	// allocation says how an address is chosen. Sequential takes the lowest free address. With Stable the address follows
	// from the Service's namespace and name, so that a Service that is deleted and created again, or a cluster that is
	// rebuilt, gets the same address where it is free. Most do so even after ranges have grown or excludes have changed.
	// +optional
	// +kubebuilder:default=Sequential
	Allocation Allocation `json:"allocation,omitempty"`

	// limits bound how many of the pool's addresses may be in use. Without it there is no bound but the pool's size.
	// +optional
	Limits *PoolLimits `json:"limits,omitempty"`

	// fixedAddresses says whether a Service may ask for a certain address of the pool, by annotation or in
	// spec.loadBalancerIP. Denied leaves the choice to the pool.
	// +optional
	// +kubebuilder:default=Allowed
	FixedAddresses FixedAddresses `json:"fixedAddresses,omitempty"`

	// adoptExternalIPs lets `kubectl tandem externalips adopt` make load balancers of Services that have addresses of the pool in
	// spec.externalIPs. Anybody who may create a Service can write any address there, so that the pool has to consent. Without it
	// they are left alone.
	// +optional
	AdoptExternalIPs bool `json:"adoptExternalIPs,omitempty"`

	// reuseAfter is how long an address waits after its release before another Service may get it. A Service of the same
	// namespace and name gets it at once. Without it, or with 0s, no address waits.
	// +optional
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="self.matches('^([0-9]{1,5}([.][0-9]{1,6})?(ms|s|m|h))+$') && duration(self) >= duration('0s') && duration(self) <= duration('720h')",message="must be a duration from 0s to 720h such as 10m"
	ReuseAfter *metav1.Duration `json:"reuseAfter,omitempty"`
}

// PoolLimits bound how many addresses of a pool may be in use.
type PoolLimits struct {
	// perNamespace bounds the addresses that the Services of one namespace have from this pool together. An address that
	// several of them share counts once.
	// +required
	PerNamespace FamilyLimits `json:"perNamespace"`
}

// FamilyLimits are numbers of addresses, one for each family.
//
// +kubebuilder:validation:MinProperties=1
type FamilyLimits struct {
	// ipv4 is the largest number of IPv4 addresses. Without it the family has no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	IPv4 *int32 `json:"ipv4,omitempty"`

	// ipv6 is the largest number of IPv6 addresses. Without it the family has no limit.
	// +optional
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=2147483647
	IPv6 *int32 `json:"ipv6,omitempty"`
}

// FixedAddresses says whether a Service may ask for a certain address.
//
// +kubebuilder:validation:Enum=Allowed;Denied
type FixedAddresses string

const (
	// FixedAddressesAllowed lets a Service ask for any address that it may have.
	FixedAddressesAllowed FixedAddresses = "Allowed"
	// FixedAddressesDenied refuses a Service that asks for a certain address of the pool.
	FixedAddressesDenied FixedAddresses = "Denied"
)

// Allocation says where the search for a free address starts.
//
// +kubebuilder:validation:Enum=Sequential;Stable
type Allocation string

const (
	// AllocationSequential takes the lowest free address of the pool.
	AllocationSequential Allocation = "Sequential"
	// AllocationStable takes an address that follows from the Service's namespace and name.
	AllocationStable Allocation = "Stable"
)

// IPv4Partition is the IPv4 part of a pool.
type IPv4Partition struct {
	// ranges are the addresses of the partition. A range that consists of reserved addresses alone, such as loopback, is
	// refused.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) ? !['0.0.0.0/32', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3'].exists(n, cidr(n).containsCIDR(self)) : !isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || !['0.0.0.0/32', '127.0.0.0/8', '169.254.0.0/16', '224.0.0.0/3'].exists(n, cidr(n).containsIP(self.find('^[^-]+')) && cidr(n).containsIP(self.find('[^-]+$')))",message="no Service can have such an address: the whole range is loopback (127.0.0.0/8), link-local (169.254.0.0/16), multicast or class E (224.0.0.0/3), or unspecified (0.0.0.0); remove it"
	Ranges []IPv4Range `json:"ranges"`

	// exclude takes addresses out of ranges again, such as a router's own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Exclude []IPv4Range `json:"exclude,omitempty"`
}

// IPv6Partition is the IPv6 part of a pool.
type IPv6Partition struct {
	// ranges are the addresses of the partition.
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:XValidation:rule="isCIDR(self) ? !['::/127', 'fe80::/10', 'ff00::/8'].exists(n, cidr(n).containsCIDR(self)) : !isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || !['::/127', 'fe80::/10', 'ff00::/8'].exists(n, cidr(n).containsIP(self.find('^[^-]+')) && cidr(n).containsIP(self.find('[^-]+$')))",message="no Service can have such an address: the whole range is link-local (fe80::/10), multicast (ff00::/8), loopback (::1) or unspecified (::); remove it"
	Ranges []IPv6Range `json:"ranges"`

	// exclude takes addresses out of ranges again, such as a router's own.
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	Exclude []IPv6Range `json:"exclude,omitempty"`
}

// Each rule of IPv4Range and IPv6Range names one mistake: a text that is no range at all, the other family, two families, a
// reversed range. self.find gets the first and the last address; they are the same where self is a single address.
//
// CEL cannot compare addresses. For IPv4 the last address comes after the first where one of its octets is the larger and
// those before are equal. IPv6 has hexadecimal groups, which CEL cannot read, so the rule asks for the first bit n in which
// the two addresses differ: the last's network of length n does not contain the first, and the first masked to n bits,
// which ends in 0, equals the last masked to n-1. In 2001:db8::fe-2001:db8::ff that is bit 128: 2001:db8::ff/128 does not
// contain 2001:db8::fe, and both masked to 127 bits are 2001:db8::fe. Lengths are cut out of literals because the API
// server sees no bound in the cost of string(n).
//
// A range of reserved addresses alone is a mistake in ranges and none in exclude, so that this rule stands at ranges.

// IPv4Range is a CIDR ("192.0.2.0/24"), a range with its first and last address ("192.0.2.10-192.0.2.20") or a single
// address ("192.0.2.1"). A CIDR means the whole network, whatever its host bits are.
//
// +kubebuilder:validation:XValidation:rule="isCIDR(self) || (self.matches('^[^-]+(-[^-]+)?$') && isIP(self.find('^[^-]+')) && isIP(self.find('[^-]+$')))",message="must be a CIDR (192.0.2.0/24), a range (192.0.2.10-192.0.2.20) or an address (192.0.2.1)"
// +kubebuilder:validation:XValidation:rule="isCIDR(self) ? cidr(self).ip().family() == 4 : !isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() == 4 || ip(self.find('[^-]+$')).family() == 4",message="is IPv6; put it under spec.ipv6"
// +kubebuilder:validation:XValidation:rule="!isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() == ip(self.find('[^-]+$')).family()",message="the first and the last address are of different families"
// +kubebuilder:validation:XValidation:rule="!isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() != 4 || ip(self.find('[^-]+$')).family() != 4 || ip(self.find('^[^-]+')) == ip(self.find('[^-]+$')) || [0, 1, 2, 3].exists(i, int(self.find('[^-]+$').split('.')[i]) > int(self.find('^[^-]+').split('.')[i]) && [0, 1, 2, 3].all(j, j >= i || int(self.find('[^-]+$').split('.')[j]) == int(self.find('^[^-]+').split('.')[j])))",message="the last address comes before the first; swap them"
// +kubebuilder:validation:MaxLength=80
type IPv4Range string

// IPv6Range is a CIDR ("2001:db8::/112"), a range with its first and last address ("2001:db8::1-2001:db8::ff") or a
// single address ("2001:db8::1"). A CIDR means the whole network, whatever its host bits are.
//
// +kubebuilder:validation:XValidation:rule="isCIDR(self) || (self.matches('^[^-]+(-[^-]+)?$') && isIP(self.find('^[^-]+')) && isIP(self.find('[^-]+$')))",message="must be a CIDR (2001:db8::/112), a range (2001:db8::1-2001:db8::ff) or an address (2001:db8::1)"
// +kubebuilder:validation:XValidation:rule="isCIDR(self) ? cidr(self).ip().family() == 6 : !isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() == 6 || ip(self.find('[^-]+$')).family() == 6",message="is IPv4; put it under spec.ipv4"
// +kubebuilder:validation:XValidation:rule="!isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() == ip(self.find('[^-]+$')).family()",message="the first and the last address are of different families"
// +kubebuilder:validation:XValidation:rule="!isIP(self.find('^[^-]+')) || !isIP(self.find('[^-]+$')) || ip(self.find('^[^-]+')).family() != 6 || ip(self.find('[^-]+$')).family() != 6 || ip(self.find('^[^-]+')) == ip(self.find('[^-]+$')) || [0, 16, 32, 48, 64, 80, 96, 112].exists(high, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15].exists(low, !cidr(self.find('[^-]+$') + '/' + '  1 2 3 4 5 6 7 8 9 101112'.substring((high + low + 1) / 10 * 2, (high + low + 1) / 10 * 2 + 2).trim() + '0123456789'.substring((high + low + 1) % 10, (high + low + 1) % 10 + 1)).containsIP(self.find('^[^-]+')) && cidr(self.find('^[^-]+') + '/' + '  1 2 3 4 5 6 7 8 9 101112'.substring((high + low + 1) / 10 * 2, (high + low + 1) / 10 * 2 + 2).trim() + '0123456789'.substring((high + low + 1) % 10, (high + low + 1) % 10 + 1)).masked().ip() == cidr(self.find('[^-]+$') + '/' + '  1 2 3 4 5 6 7 8 9 101112'.substring((high + low) / 10 * 2, (high + low) / 10 * 2 + 2).trim() + '0123456789'.substring((high + low) % 10, (high + low) % 10 + 1)).masked().ip()))",message="the last address comes before the first; swap them"
// +kubebuilder:validation:MaxLength=80
type IPv6Range string

// AddressPoolStatus counts the addresses of a pool and says what is wrong with it.
type AddressPoolStatus struct {
	// ipv4 counts the addresses of the IPv4 partition. It is absent where the pool has none.
	// +optional
	IPv4 *PartitionStatus `json:"ipv4,omitempty"`

	// ipv6 counts the addresses of the IPv6 partition. It is absent where the pool has none.
	// +optional
	IPv6 *PartitionStatus `json:"ipv6,omitempty"`

	// summary has in a few words what kubectl shows in columns.
	// +optional
	Summary *PoolSummary `json:"summary,omitempty"`

	// conditions say whether the pool gives addresses (Ready), shares some with another pool (Overlapping), has lost
	// addresses that are in use (Stranded), or contains some that are never given (Reserved).
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// PoolSummary says in a few words what a pool has. It is for people: programs read spec and the counts.
type PoolSummary struct {
	// ipv4 are the first ranges of spec.ipv4, and how many there are beside.
	// +optional
	IPv4 string `json:"ipv4,omitempty"`

	// ipv4Free says how many IPv4 addresses are free, of how many if these are few.
	// +optional
	IPv4Free string `json:"ipv4Free,omitempty"`

	// ipv6 are the first ranges of spec.ipv6, and how many there are beside.
	// +optional
	IPv6 string `json:"ipv6,omitempty"`

	// ipv6Free says how many IPv6 addresses are free, of how many if these are few. It is rounded, as 9.2e18.
	// +optional
	IPv6Free string `json:"ipv6Free,omitempty"`
}

// PartitionStatus counts the addresses of one family. Counts that do not fit (an IPv6 /64 has 2^64 addresses) stay at
// the largest number that does, 2^63-1.
type PartitionStatus struct {
	// capacity is the number of addresses that may be given: ranges without exclude, avoidBuggyIPs and what is reserved.
	// +required
	Capacity int64 `json:"capacity"`

	// allocated is the number of the partition's addresses that are claimed, each counted once however many Services
	// share it.
	// +required
	Allocated int64 `json:"allocated"`

	// cooling is the number of addresses that no Service has and that wait as spec.reuseAfter says. They are neither
	// allocated nor available.
	// +optional
	Cooling int64 `json:"cooling,omitempty"`

	// available is the number of addresses that are still free.
	// +required
	Available int64 `json:"available"`
}
