// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
	toolscache "k8s.io/client-go/tools/cache"
)

// outagePeriod is how often the API is asked whether it answers again, give or take a half, while informers wait for it.
const outagePeriod = time.Second

// An outage has informers wait for an API that is away, and go on a moment after it answers again. By themselves they try again after growing
// delays, of up to a minute, each for itself: a speaker would not see for so long what has changed meanwhile. Instead one of them asks
// /readyz each second, and all go on when that is answered. An API that answers /readyz, and refuses what an informer asks for, is not away.
type outage struct {
	answers func(context.Context) bool // whether the API is there
	asking  chan struct{}              // has room for the one that asks
	period  time.Duration
}

func newOutage(api *rest.Config) (*outage, error) {
	probe, err := newAPIProbe(api)
	if err != nil {
		return nil, err
	}
	return &outage{answers: probe.Ready, asking: make(chan struct{}, 1), period: outagePeriod}, nil
}

// Wait returns when the API answers, or the context ends, and reports whether that took time.
func (o *outage) Wait(ctx context.Context) (waited bool) {
	begun := time.Now()
	select {
	case o.asking <- struct{}{}:
		defer func() { <-o.asking }()
	case <-ctx.Done():
		return false
	}
	for !o.answers(ctx) {
		waited = true
		select {
		case <-time.After(o.period/2 + rand.N(o.period)):
		case <-ctx.Done():
			return false
		}
	}
	return waited || time.Since(begun) >= o.period/2
}

// Informer is toolscache.NewSharedIndexInformer with requests that wait.
func (o *outage) Informer(
	lw toolscache.ListerWatcher, object runtime.Object, resync time.Duration, indexers toolscache.Indexers,
) toolscache.SharedIndexInformer {
	return toolscache.NewSharedIndexInformer(o.waiting(lw), object, resync, indexers)
}

// waiting repeats a request that failed once, after an outage.
func (o *outage) waiting(lw toolscache.ListerWatcher) *toolscache.ListWatch {
	inner := toolscache.ToListerWatcherWithContext(lw)
	return &toolscache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			list, err := inner.ListWithContext(ctx, options)
			if isOutage(err) && o.Wait(ctx) {
				return inner.ListWithContext(ctx, options)
			}
			return list, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (apiwatch.Interface, error) {
			w, err := inner.WatchWithContext(ctx, options)
			if isOutage(err) && o.Wait(ctx) {
				return inner.WatchWithContext(ctx, options)
			}
			return w, err
		},
	}
}

// isOutage reports whether a request failed since the API is away: nobody answered, or an API server without its etcd, or a load balancer
// without an API server.
func isOutage(err error) bool {
	var status apierrors.APIStatus
	return err != nil && (!errors.As(err, &status) || status.Status().Code >= http.StatusInternalServerError)
}
