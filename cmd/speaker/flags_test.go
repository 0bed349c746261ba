// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/tandem-lb/tandem/test/documents"
)

// TestReferenceOfFlags makes docs/reference/speaker-flags.md from the flags, or compares it with them.
func TestReferenceOfFlags(t *testing.T) {
	t.Setenv("NODE_NAME", "")
	t.Setenv("POD_NAMESPACE", "")
	var flags []*pflag.Flag
	cmd := command()
	add := func(f *pflag.Flag) { flags = append(flags, f) }
	cmd.Flags().VisitAll(add)
	cmd.PersistentFlags().VisitAll(add)
	documents.Compare(t, "../../docs/reference/speaker-flags.md", "# Flags of tandem-speaker\n\n<!-- Made by `make generate`. -->\n\n"+
		"In the chart they are values, or items of `speaker.extraArgs`.\n\n"+documents.Flags(flags)+
		"\n`tandem-speaker health healthz` and `tandem-speaker health readyz` ask the speaker of the same container for its health, as the\n"+
		"kubelet's probes do.\n")
}

// TestFlagsAreValidated: a value that cannot work ends the speaker at once, with the name of its flag.
func TestFlagsAreValidated(t *testing.T) {
	good := options{node: "node1", namespace: "tandem-system", membershipPort: 7573, announcementRate: 500}
	if err := good.validate(); err != nil {
		t.Errorf("good flags: %v", err)
	}
	for flag, edit := range map[string]func(*options){
		"--node-name":                func(o *options) { o.node = "" },
		"--namespace":                func(o *options) { o.namespace = "" },
		"--restart-grace":            func(o *options) { o.restartGrace = -time.Second },
		"--lan-probe-interval":       func(o *options) { o.lanProbeInterval = -time.Second },
		"--membership-port":          func(o *options) { o.membershipPort = 0 },
		"--layer2-announcement-rate": func(o *options) { o.announcementRate = 0 },
		"--tls-private-key-file":     func(o *options) { o.metrics.CertFile = "tls.crt" },
	} {
		o := good
		edit(&o)
		if err := o.validate(); err == nil || !strings.Contains(err.Error(), flag) {
			t.Errorf("%v, want an error that names %s", err, flag)
		}
	}
}

// TestHostIP reads --host-ip. A wrong one ends the speaker with the name of the flag, and what is wrong.
func TestHostIP(t *testing.T) {
	for _, tt := range []struct{ text, address, other, wrong string }{
		{"198.51.100.11", "198.51.100.11", "invalid IP", ""},
		{"2001:db8::11, 198.51.100.11", "2001:db8::11", "198.51.100.11", ""},
		{"::1", "::1", "invalid IP", ""},
		{"node1", "invalid IP", "invalid IP", "unable to parse"},
		{"198.51.100.11,198.51.100.12", "invalid IP", "invalid IP", "of one family"},
		{"fe80::11%eth0", "invalid IP", "invalid IP", "fe80::11%eth0 is an address of one link"},
		{"198.51.100.11,fe80::11", "invalid IP", "invalid IP", "fe80::11 is an address of one link"},
	} {
		address, other, err := parseHostIP(tt.text)
		if address.String() != tt.address || other.String() != tt.other {
			t.Errorf("parseHostIP(%q) = %v, %v, want %s, %s", tt.text, address, other, tt.address, tt.other)
		}
		switch {
		case tt.wrong == "" && err != nil:
			t.Errorf("parseHostIP(%q): %v", tt.text, err)
		case tt.wrong != "" && (err == nil || !strings.Contains(err.Error(), "--host-ip") || !strings.Contains(err.Error(), tt.wrong)):
			t.Errorf("parseHostIP(%q): %v, want an error that names --host-ip, and says %s", tt.text, err, tt.wrong)
		}
	}
}
