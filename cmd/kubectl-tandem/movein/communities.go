// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

var (
	communityName    = regexp.MustCompile(`^[A-Za-z][A-Za-z0-9_.-]*$`)
	outsideCommunity = regexp.MustCompile(`[^A-Za-z0-9_.-]+`)
)

var communityValue = regexp.MustCompile(`^(\d+:\d+|\d{5,10}|large:\d+:\d+:\d+)$`)

// wellKnown are the communities that Tandem knows by name.
var wellKnown = map[string]string{
	"graceful-shutdown": "65535:0", "planned-shut": "65535:0", "accept-own": "65535:1", "route-filter-translated-v4": "65535:2",
	"route-filter-v4": "65535:3", "route-filter-translated-v6": "65535:4", "route-filter-v6": "65535:5", "llgr-stale": "65535:6",
	"no-llgr":            "65535:7",
	"accept-own-nexthop": "65535:8", "standby-pe": "65535:9", "blackhole": "65535:666", "no-export": "65535:65281",
	"no-advertise":        "65535:65282",
	"no-export-subconfed": "65535:65283", "local-as": "65535:65283", "no-peer": "65535:65284", "internet": "0:0",
}

// communityProblem says what is wrong with a value, "" for nothing. A name is none.
func communityProblem(text string) string {
	if !communityValue.MatchString(text) {
		if strings.Contains(text, ":") {
			return "is no community such as 64512:100 or large:64512:1:2"
		}
		return ""
	}
	if n, err := strconv.ParseUint(text, 10, 64); err == nil && n < 1<<16 {
		return "is half of a community such as 64512:100"
	}
	for part := range strings.SplitSeq(strings.TrimPrefix(text, "large:"), ":") {
		bits := 32
		if !strings.HasPrefix(text, "large:") && strings.Contains(text, ":") {
			bits = 16
		}
		if _, err := strconv.ParseUint(part, 10, bits); err != nil {
			return fmt.Sprintf("has %s, which does not fit into %d bits; write it as a large community", part, bits)
		}
	}
	return ""
}

// addCommunity adds a name with its value. A well-known name needs no object.
func (d *draft) addCommunity(c *community, f *fields, name, value, field string) {
	switch {
	case value == "" || communityProblem(value) != "" || !communityValue.MatchString(value):
		f.report(Error, "bad-value", field, "%q %s", value, orElse(communityProblem(value), "is no community such as 64512:100"))
	case wellKnown[name] == value:
		d.add(Info, "community", f.aboutOr(f.path), "%q is the well-known community of that name in Tandem; it needs no Community "+
			"object", name)
	case wellKnown[name] != "":
		f.report(Error, "bad-value", field, "%q is a well-known community with another value (%s); choose another "+
			"name", name, wellKnown[name])
	case d.communityNames[name] != "":
		d.add(Warn, "was-refused", f.aboutOr(f.path), "MetalLB refuses the name %q twice; Tandem takes the value of the first Community by name", name)
		if !slices.ContainsFunc(c.values, func(v [2]string) bool { return v[0] == d.communityNames[name] }) {
			c.values = append(c.values, [2]string{d.communityNames[name], value})
		}
	default:
		c.values = append(c.values, [2]string{d.newCommunity(c, name), value})
	}
}

// newCommunity returns a name of a community that the API server takes, and remembers it for those who refer to it.
func (d *draft) newCommunity(c *community, theirs string) string {
	name := strings.Trim(outsideCommunity.ReplaceAllString(theirs, "-"), "-")
	if !communityName.MatchString(name) { // It begins with a digit, or is empty.
		name = strings.TrimRight("community-"+name, "-")
	}
	name = unique(name[:min(len(name), 63)], 63, func(n string) bool {
		return slices.ContainsFunc(c.values, func(v [2]string) bool { return v[0] == n && n != theirs }) || wellKnown[n] != ""
	})
	d.communityNames[theirs] = name
	if name != theirs {
		d.add(Warn, "renamed", subject{communityKind, c.name}, "%q is no name that a Community takes; it is called %s", theirs, name)
	}
	return name
}

// ourCommunity translates the name of a community; a value stays as it is.
func (d *draft) ourCommunity(theirs string) string { return orElse(d.communityNames[theirs], theirs) }

// keepCommunity adds the object, unless nothing is left in it.
func (d *draft) keepCommunity(c *community) {
	if len(c.values) > 0 {
		d.communities = append(d.communities, c)
	}
}

// decimal writes a community that is one number as two. For example, 4259840100 is 65000:100.
func decimal(text string) string {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		return text
	}
	return fmt.Sprintf("%d:%d", n>>16, n&0xffff)
}

func itoa(n int) string { return strconv.Itoa(n) }
