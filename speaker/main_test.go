// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"os"
	"testing"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// TestMain runs the tests in a network namespace, since the speakers of these tests gossip on a fixed port.
func TestMain(m *testing.M) { os.Exit(nettest.Main(m, nil)) }
