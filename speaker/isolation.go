// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/observation"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// isolationCheck is how often a speaker without any other asks whether it has lost the API too, and how long it waits for the answer.
const isolationCheck = time.Second

// isolation says whether this speaker sees neither another speaker nor the API. Such a node is more likely cut off than alone in the world,
// so that it stops answering on layer 2.
type isolation struct {
	// alone says that gossip shows no other speaker.
	alone bool
	// isolated is the state after the latest Step.
	isolated bool
}

// answer is what the API said, and whether the speaker was alone when it asked.
type answer struct {
	alone, outOfReach bool
	// behind says that the cache still has this node on record for addresses that another node has taken over.
	behind bool
}

// asks reports whether the API is to be asked.
func (i *isolation) asks() bool { return i.alone || i.isolated }

// Step takes in an answer, and reports whether that begins or ends isolation. Isolation does not end before the cache knows who has taken
// over meanwhile: a watch that was cut off for minutes is tried again only every 30 to 60 s, and until then the record in the cache is
// still this node's. For example node1 held 192.0.2.10 and was cut off, and node2 took it. When the API answers node1 again, its cache says
// node1, and the API says node2: node1 stays silent until the cache says node2 too. If the others have no API either, they all go by the
// old record.
func (i *isolation) Step(a answer) (changed bool) {
	isolated := i.isolated
	switch {
	case a.outOfReach && i.alone == a.alone:
		isolated = i.alone
	case !a.outOfReach && !a.behind:
		isolated = false
	}
	changed = isolated != i.isolated
	i.isolated = isolated
	return changed
}

// apiProbe asks the API past the cache.
type apiProbe struct {
	node   string
	readyz rest.Interface
	live   client.Reader
	cached client.Reader
}

// newAPIProbe returns a probe for the speaker of a node, which compares the API with a cache.
func newAPIProbe(api *rest.Config, node string, cached client.Reader) (*apiProbe, error) {
	scheme := config.Scheme()
	// The mapper is told the one kind that is asked for. Discovery would cost requests, and the time for an answer is short.
	mapper := meta.NewDefaultRESTMapper([]schema.GroupVersion{v1alpha1.GroupVersion})
	mapper.Add(v1alpha1.GroupVersion.WithKind("L2Announcement"), meta.RESTScopeRoot)
	live, err := client.New(api, client.Options{Scheme: scheme, Mapper: mapper})
	if err != nil {
		return nil, fmt.Errorf("building the client without a cache: %w", err)
	}
	unversioned := rest.CopyConfig(api)
	unversioned.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	readyz, err := rest.UnversionedRESTClientFor(unversioned)
	if err != nil {
		return nil, fmt.Errorf("building the client without a version: %w", err)
	}
	return &apiProbe{node: node, readyz: readyz, live: live, cached: cached}, nil
}

// Ask asks whether the API is gone and, if the speaker is isolated, whether the cache knows what the API has on record. It takes up to
// isolationCheck, for which no decision waits.
func (p *apiProbe) Ask(ctx context.Context, state isolation) answer {
	ctx, cancel := context.WithTimeout(ctx, isolationCheck)
	defer cancel()
	a := answer{alone: state.alone}
	if !state.isolated {
		a.outOfReach = !answered(p.readyz.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error())
		return a
	}
	var live, cached v1alpha1.L2AnnouncementList
	if !answered(p.live.List(ctx, &live)) {
		a.outOfReach = true
		return a
	}
	if err := p.cached.List(ctx, &cached, client.UnsafeDisableDeepCopy); err != nil {
		a.behind = true
		return a
	}
	holders := observation.Holders(live.Items)
	for service, node := range observation.Holders(cached.Items) {
		a.behind = a.behind || node == p.node && holders[service] != node
	}
	return a
}

// answered reports whether a request had an answer of any kind: a refusal is one.
func answered(err error) bool {
	var status apierrors.APIStatus
	return err == nil || errors.As(err, &status)
}
