// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"
	"os"
	"testing"

	"github.com/tandem-lb/tandem/speaker/internal/nettest"
)

// TestMain runs the tests in a network namespace, since the speakers of these tests gossip on a fixed port. In a process that a benchmark has
// started, it does what that wants.
func TestMain(m *testing.M) {
	switch what := os.Getenv(detectorEnv); what {
	case "":
		os.Exit(nettest.Main(m, nil))
	case "burn":
		for { //nolint:staticcheck // to keep a processor busy is what it is for
		}
	default:
		if err := detect(what); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
}
