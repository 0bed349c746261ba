// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"
	"testing"
)

// TestPrintObjects prints documents that kubectl apply takes, and names the Secret of a session.
func TestPrintObjects(t *testing.T) {
	peer := map[string]any{
		"kind": "BGPPeer", "metadata": map[string]any{"name": "tor"}, "spec": map[string]any{"passwordSecret": map[string]any{"name": "tor-password"}},
	}
	pool := map[string]any{"kind": "AddressPool", "metadata": map[string]any{"name": "lan"}}
	var out strings.Builder
	if err := printObjects(&out, []map[string]any{peer, pool}); err != nil {
		t.Fatal(err)
	}
	const want = `kind: BGPPeer
metadata:
  name: tor
spec:
  passwordSecret:
    name: tor-password
# Its password is in the Secret tor-password of Tandem's namespace, which is not printed.
---
kind: AddressPool
metadata:
  name: lan
`
	if out.String() != want {
		t.Errorf("printed:\n%s\nwant:\n%s", out.String(), want)
	}
}
