// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"net"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/config"
)

// dialTimeout is how long an API server may take to accept a connection. By default it would be 30 seconds.
const dialTimeout = 10 * time.Second

// Connect returns a Cluster for the flags of a command. It opens no connection. System is the namespace of Tandem, "" to find it.
func Connect(flags genericclioptions.RESTClientGetter, system string) (*Cluster, error) {
	restConfig, err := flags.ToRESTConfig()
	if err != nil {
		return nil, err
	}
	restConfig = rest.CopyConfig(restConfig)
	restConfig.QPS, restConfig.Burst = -1, -1 // One reading is a dozen requests at once. The API server's priority and fairness limits them.
	if restConfig.Dial == nil {
		restConfig.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	date := new(atomic.Int64)
	restConfig.Wrap(func(next http.RoundTripper) http.RoundTripper { return &clock{next, date} })
	httpClient, err := rest.HTTPClientFor(restConfig)
	if err != nil {
		return nil, err
	}
	c := &Cluster{REST: restConfig, System: system, Now: func() time.Time { return time.Unix(date.Load(), 0).UTC() }}
	scheme := config.Scheme()
	whole, err := client.New(restConfig, client.Options{HTTPClient: httpClient, Scheme: scheme, Mapper: mapper(scheme)})
	if err != nil {
		return nil, err
	}
	if c.Client, err = newStreaming(whole, restConfig, httpClient); err != nil {
		return nil, err
	}
	if c.Clientset, err = kubernetes.NewForConfigAndClient(restConfig, httpClient); err != nil {
		return nil, err
	}
	return c, nil
}

// withoutNamespace are the kinds of Kubernetes in [config.Scheme] whose objects are in no namespace. Those of Tandem all are.
var withoutNamespace = []string{"ComponentStatus", "IngressClass", "IPAddress", "Namespace", "Node", "PersistentVolume", "ServiceCIDR"}

// mapper says where an API server has the kinds of a scheme. The plugin knows them, and need not ask: that is one request for each group, before any
// other, by functions that no context ends.
func mapper(scheme *runtime.Scheme) meta.RESTMapper {
	m := meta.NewDefaultRESTMapper(nil)
	for gvk := range scheme.AllKnownTypes() {
		scope := meta.RESTScopeNamespace
		if gvk.Group == ipamv1alpha1.GroupVersion.Group || slices.Contains(withoutNamespace, gvk.Kind) {
			scope = meta.RESTScopeRoot
		}
		m.Add(gvk, scope)
	}
	return m
}

// Within returns what call does, or the error of ctx when that ends before: functions of discovery take no context, and wait for half a minute for an
// API server that does not answer. Nobody waits for call then.
func Within[T any](ctx context.Context, call func() (T, error)) (T, error) {
	type outcome struct {
		value T
		err   error
	}
	done := make(chan outcome, 1)
	go func() {
		value, err := call()
		done <- outcome{value, err}
	}()
	select {
	case o := <-done:
		return o.value, o.err
	case <-ctx.Done():
		var none T
		return none, context.Cause(ctx)
	}
}

// clock remembers the time that the API server puts into its answers. The clock of the user's machine may be wrong by minutes.
type clock struct {
	next http.RoundTripper
	date *atomic.Int64 // of the last answer, in Unix seconds
}

// RoundTrip implements [http.RoundTripper].
func (c *clock) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	if err == nil {
		if date, err := http.ParseTime(response.Header.Get("Date")); err == nil {
			c.date.Store(date.Unix())
		}
	}
	return response, err
}
