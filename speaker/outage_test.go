// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	toolscache "k8s.io/client-go/tools/cache"
)

// TestInformersWaitForTheAPI: an outage of ten minutes costs each informer one failed request, and two seconds after it all go on. One asks
// meanwhile, and not each.
func TestInformersWaitForTheAPI(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away := errors.New("connection refused")
		back := time.Now().Add(10 * time.Minute)
		var asked, listed, watched atomic.Int32
		o := &outage{
			answers: func(context.Context) bool { asked.Add(1); return !time.Now().Before(back) },
			asking:  make(chan struct{}, 1), period: outagePeriod,
		}
		const informers = 5
		ended := make(chan time.Duration, 2*informers)
		for range informers {
			lw := o.waiting(&toolscache.ListWatch{
				ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
					if listed.Add(1); time.Now().Before(back) {
						return nil, away
					}
					return &corev1.ServiceList{}, nil
				},
				WatchFuncWithContext: func(context.Context, metav1.ListOptions) (apiwatch.Interface, error) {
					if watched.Add(1); time.Now().Before(back) {
						return nil, apierrors.NewServiceUnavailable("the load balancer has no server")
					}
					return apiwatch.NewFake(), nil
				},
			})
			for _, request := range []func() error{
				func() error { _, err := lw.ListWithContext(t.Context(), metav1.ListOptions{}); return err },
				func() error { _, err := lw.WatchWithContext(t.Context(), metav1.ListOptions{}); return err },
			} {
				go func() {
					if err := request(); err != nil {
						t.Error(err)
					}
					ended <- time.Since(back)
				}()
			}
		}
		for range 2 * informers {
			if late := <-ended; late < 0 || late > 2*outagePeriod {
				t.Errorf("a request ended %v after the outage", late)
			}
		}
		if listed.Load() != 2*informers || watched.Load() != 2*informers {
			t.Errorf("%d lists and %d watches, want two of each for each informer", listed.Load(), watched.Load())
		}
		if n := asked.Load(); n > 1300 {
			t.Errorf("asked %d times in ten minutes", n)
		}
	})
}

// TestRefusalsAreNoOutage: what an API that is there has refused is left to the informer's own delays.
func TestRefusalsAreNoOutage(t *testing.T) {
	for _, tt := range []struct {
		name    string
		err     error
		answers bool
		want    int // requests
	}{
		{name: "it is forbidden", err: apierrors.NewForbidden(corev1.Resource("services"), "", errors.New("no")), want: 1},
		{name: "the version is too old", err: apierrors.NewResourceExpired("too old"), want: 1},
		{name: "an error of one kind, while the API is ready", err: apierrors.NewInternalError(errors.New("conversion failed")), answers: true, want: 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &outage{answers: func(context.Context) bool { return tt.answers }, asking: make(chan struct{}, 1), period: outagePeriod}
			requests := 0
			lw := o.waiting(&toolscache.ListWatch{ListWithContextFunc: func(context.Context, metav1.ListOptions) (runtime.Object, error) {
				requests++
				return nil, tt.err
			}})
			if _, err := lw.ListWithContext(t.Context(), metav1.ListOptions{}); !errors.Is(err, tt.err) || requests != tt.want {
				t.Errorf("%v after %d requests, want %v after %d", err, requests, tt.err, tt.want)
			}
		})
	}
}
