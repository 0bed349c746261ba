// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"os/user"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	coordinationclient "k8s.io/client-go/kubernetes/typed/coordination/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
)

const (
	// leaseDuration is for how long a command that says nothing counts as running. A command renews its Lease each renewPeriod.
	leaseDuration = 30 * time.Second
	renewPeriod   = 5 * time.Second
)

// Lock lets one command at a time move: a Lease of the move's name in Tandem's namespace says which one runs. A command looks at it before each write, so
// that one whose Lease somebody else has taken, such as on a laptop that slept, writes nothing more.
type Lock struct {
	Leases coordinationclient.LeaseInterface
	// Identity names this command among all others, in words for people: see [Identity].
	Identity string
	// Now returns the time of the API server, as its last answer had it. Clocks of two machines may differ.
	Now func() time.Time
	// TakeOver takes the Lease of a command that seems to run.
	TakeOver bool
}

// Identity returns the name of this process: the command, who runs it and where, and a random part, since processes in containers may have all else in
// common. For example "kubectl tandem move-in start of ana on laptop (process 4711, 3RT5AYZ6)".
func Identity(command string) string {
	name := "somebody"
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, err := os.Hostname()
	if err != nil {
		host = "an unknown machine"
	}
	return fmt.Sprintf("%s of %s on %s (process %d, %s)", command, name, host, os.Getpid(), rand.Text()[:8])
}

// Runner is the command that has the Lease.
type Runner struct {
	Identity string `json:"identity"`
	// Since is when the command began, and Renewed when it was last heard of.
	Since   metav1.Time `json:"since"`
	Renewed metav1.Time `json:"renewed"`
	// Dead says that it has not been heard of for so long that another command may begin.
	Dead bool `json:"dead"`
}

// Runner returns the command that has the Lease, nil if none has.
func (l *Lock) Runner(ctx context.Context) (*Runner, error) {
	lease, err := l.Leases.Get(ctx, live.ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the Lease of the move: %w", err)
	}
	return l.runner(lease), nil
}

func (l *Lock) runner(lease *coordinationv1.Lease) *Runner {
	spec := &lease.Spec
	if spec.HolderIdentity == nil || *spec.HolderIdentity == "" {
		return nil
	}
	r := &Runner{Identity: *spec.HolderIdentity}
	if spec.AcquireTime != nil {
		r.Since = metav1.Time(*spec.AcquireTime)
	}
	if spec.RenewTime != nil {
		r.Renewed = metav1.Time(*spec.RenewTime)
	}
	r.Dead = l.Now().Sub(r.Renewed.Time) >= leaseDuration
	return r
}

// inTheWay says who runs, since when, and what to do if it is dead.
func (l *Lock) inTheWay(r *Runner) error {
	now := l.Now()
	return Stopped{fmt.Sprintf("%s has been running since %s, for %v, and was heard of %v ago. Two at once would be in each other's way. "+
		"kubectl tandem move-in status says how far it is. If it is dead, give the command again in %v, or now with --take-over",
		r.Identity, r.Since.UTC().Format(time.RFC3339), now.Sub(r.Since.Time).Round(time.Second), now.Sub(r.Renewed.Time).Round(time.Second),
		leaseDuration-now.Sub(r.Renewed.Time).Truncate(time.Second))}
}

// lost is the error of a command whose Lease another one has taken.
func lost(r *Runner) error {
	if r == nil {
		return Stopped{"another command has taken the move over and has ended, or somebody has deleted the Lease of this one. Nothing more is written here; " +
			"kubectl tandem move-in status says how far it is"}
	}
	return Stopped{r.Identity + " has taken the move over. Nothing more is written here; kubectl tandem move-in status says how far it is"}
}

// acquire takes the Lease. The error is Stopped if another command has it.
func (l *Lock) acquire(ctx context.Context) error {
	lease, err := l.Leases.Get(ctx, live.ConfigMapName, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		lease = &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: live.ConfigMapName}}
	case err != nil:
		return err
	}
	r := l.runner(lease)
	if r != nil && r.Identity == l.Identity {
		return nil // The answer to the request before was lost.
	}
	if r != nil && !r.Dead && !l.TakeOver {
		return l.inTheWay(r)
	}
	now, seconds := metav1.NewMicroTime(l.Now()), int32(leaseDuration/time.Second)
	lease.Spec = coordinationv1.LeaseSpec{HolderIdentity: &l.Identity, AcquireTime: &now, RenewTime: &now, LeaseDurationSeconds: &seconds}
	if lease.ResourceVersion == "" {
		_, err = l.Leases.Create(ctx, lease, metav1.CreateOptions{})
	} else {
		_, err = l.Leases.Update(ctx, lease, metav1.UpdateOptions{}) // It fails if another command has been faster.
	}
	return err
}

// own returns the Lease, and fails with Stopped if this command does not have it any more.
func (l *Lock) own(ctx context.Context) (*coordinationv1.Lease, error) {
	lease, err := l.Leases.Get(ctx, live.ConfigMapName, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, lost(nil)
	}
	if err != nil {
		return nil, err
	}
	if r := l.runner(lease); r == nil || r.Identity != l.Identity {
		return nil, lost(r)
	}
	return lease, nil
}

// renew says that this command runs still.
func (l *Lock) renew(ctx context.Context) error {
	lease, err := l.own(ctx)
	if err != nil {
		return err
	}
	now := metav1.NewMicroTime(l.Now())
	lease.Spec.RenewTime = &now
	_, err = l.Leases.Update(ctx, lease, metav1.UpdateOptions{})
	return err
}

// keep renews the Lease until stop is called. The context that it returns ends if another command has taken it; what the API server does not answer is
// tried again.
func (l *Lock) keep(ctx context.Context) (kept context.Context, stop func()) {
	kept, cancel := context.WithCancelCause(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for sleep(kept, renewPeriod) == nil {
			if err := l.renew(kept); isStopped(err) {
				cancel(err)
			}
		}
	}()
	return kept, func() {
		cancel(nil)
		<-done
	}
}

// release deletes the Lease, unless it is another command's. If it cannot be deleted it counts as dead soon.
func (l *Lock) release(ctx context.Context) {
	lease, err := l.own(ctx)
	if err != nil {
		return
	}
	_ = l.Leases.Delete(ctx, lease.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &lease.UID, ResourceVersion: &lease.ResourceVersion}})
}
