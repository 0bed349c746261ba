// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"testing"
)

const examples = "../../manifests/examples/"

// TestSamples has FRR, BIRD and nft read the configurations that docs/security.md shows, without applying them.
func TestSamples(t *testing.T) {
	for name, command := range map[string][]string{
		"FRR":      {"vtysh", "--dryrun", "--inputfile", examples + "routers/frr.conf"},
		"BIRD":     {"bird", "-p", "-c", examples + "routers/bird.conf"},
		"nftables": {"nft", "--check", "--file", examples + "firewall/nftables.conf"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := exec.LookPath(command[0]); err != nil {
				t.Fatalf("%v: `make deps` installs the Debian packages of the tests", err)
			}
			if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
				t.Errorf("%v: %v\n%s", command, err, out)
			}
		})
	}
}

// TestFirewalldSample checks that firewalld's service file is XML, in which a comment has no two dashes.
func TestFirewalldSample(t *testing.T) {
	file, err := os.Open(examples + "firewall/firewalld-tandem.xml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for decoder := xml.NewDecoder(file); ; {
		if _, err := decoder.Token(); errors.Is(err, io.EOF) {
			return
		} else if err != nil {
			t.Fatal(err)
		}
	}
}
