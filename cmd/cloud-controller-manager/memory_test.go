// SPDX-License-Identifier: Apache-2.0

package main

import "testing"

func TestGarbagePercent(t *testing.T) {
	for inUse, want := range map[uint64]int{0: 100, 8 << 20: 100, 24 << 20: 50, 80 << 20: 15, 400 << 20: 10} {
		if got := garbagePercent(inUse); got != want {
			t.Errorf("with %d MiB in use: %d%%, want %d%%", inUse>>20, got, want)
		}
	}
}
