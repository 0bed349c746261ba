// SPDX-License-Identifier: Apache-2.0

package loadbalancer

import (
	"fmt"
	"testing"

	"github.com/tandem-lb/tandem/ipam"
)

func TestReason(t *testing.T) {
	for err, want := range map[error]string{
		ipam.ErrExhausted: reasonExhausted, ipam.ErrInUse: reasonInUse, ipam.ErrNoPool: reasonNoPool, ipam.ErrNotInPool: reasonNotInPool,
		ipam.ErrReserved: reasonReserved, ipam.ErrLimit: reasonLimit, ipam.ErrFixedDenied: reasonFixed, ipam.ErrReleased: reasonReleased,
		ipam.ErrUncovered: reasonUncovered, ipam.ErrBadRequest: reasonBadRequest,
	} {
		if got := reason(fmt.Errorf("%w: and more", err)); got != want {
			t.Errorf("%v is counted as %q, want %q", err, got, want)
		}
	}
}
