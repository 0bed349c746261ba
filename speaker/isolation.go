// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

const (
	// isolationCheck is how often a speaker without any other asks whether it has lost the API too, and how long it waits for the answer.
	isolationCheck = time.Second
	// listTimeout is how long it waits for the records, of which there may be thousands.
	listTimeout = 5 * time.Second
)

// isolation says how much this speaker can go by what it sees. One that sees neither another speaker nor the API is isolated: such a node
// is more likely cut off than alone in the world, so that it stops answering on layer 2. One that has lost all others, or most of them, is
// in doubt: until the API has answered it takes nothing over. For example node1 loses the network of the cluster, but not the LAN: it does
// not see node2 and node3 any more, and they do not see it. They take over what it has. It takes nothing.
type isolation struct {
	// alone says that gossip shows no other speaker.
	alone bool
	// doubt is since when the speaker is in doubt, the zero Time if it is not.
	doubt time.Time
	// isolated is the state after the latest Step.
	isolated bool
	// answered is when the latest question that the API has answered was asked.
	answered time.Time
}

// answer is what the API said, and when it was asked.
type answer struct {
	asked      time.Time
	outOfReach bool
	// records are the L2Announcements as they are: all if the speaker was isolated, else those that were asked for.
	records []v1alpha1.L2Announcement
}

// manyRecords is from how many on records are listed and not read one by one.
const manyRecords = 16

// Doubt takes in whether the speaker is in doubt at a time, and reports whether it has begun to be, so that the API is to be asked at once.
func (i *isolation) Doubt(now time.Time, doubtful bool) (begun bool) {
	begun = doubtful && i.doubt.IsZero()
	if begun || !doubtful {
		i.doubt = time.Time{}
	}
	if begun {
		i.doubt = now
	}
	return begun
}

// asks reports whether the API is to be asked.
func (i *isolation) asks() bool { return i.alone || i.isolated || i.holds() }

// holds reports whether the speaker takes nothing over.
func (i *isolation) holds() bool { return !i.doubt.IsZero() && i.answered.Before(i.doubt) }

// Step takes in an answer, and reports whether that changes what may be announced. With the answer that ends isolation come the records as
// they are. Those in the cache may be old: a watch that was cut off for minutes is tried again only every 30 to 60 s. For example node1 held
// 192.0.2.10 and was cut off, and node2 took it. When the API answers node1 again, its cache still says node1, and the answer says node2.
func (i *isolation) Step(a answer) (changed bool) {
	before := *i
	switch {
	case !a.outOfReach:
		i.isolated, i.answered = false, a.asked
	default:
		i.isolated = i.alone
	}
	return i.isolated != before.isolated || i.holds() != before.holds()
}

// apiProbe asks the API past the cache.
type apiProbe struct {
	readyz rest.Interface
	live   client.Reader
}

// newAPIProbe returns a probe of an API.
func newAPIProbe(api *rest.Config) (*apiProbe, error) {
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
	return &apiProbe{readyz: readyz, live: live}, nil
}

// Ask asks whether the API is there and what it has on record: under some names, or under all if the speaker is isolated. It takes some
// seconds at most, for which no decision waits. After the failure of a switch all nodes are isolated, and all ask for all records when it is
// back: they do so within a second, and not at once.
func (p *apiProbe) Ask(ctx context.Context, state isolation, names []string) answer {
	a := answer{asked: time.Now()}
	short, cancel := context.WithTimeout(ctx, isolationCheck)
	defer cancel()
	a.outOfReach = !answered(p.readyz.Get().AbsPath("/readyz").MaxRetries(0).Do(short).Error())
	if a.outOfReach || !state.isolated && len(names) == 0 {
		return a
	}
	if state.isolated {
		select {
		case <-time.After(rand.N(time.Second)):
		case <-ctx.Done():
		}
	}
	var err error
	a.records, err = p.read(ctx, state.isolated || len(names) > manyRecords, names)
	// A refusal says nothing of the records: an API server that is overloaded, or forbids, has not said that there are none.
	a.outOfReach = err != nil
	return a
}

// read reads all records, or those with some names, as far as they exist.
func (p *apiProbe) read(ctx context.Context, all bool, names []string) (records []v1alpha1.L2Announcement, err error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	if all {
		var live v1alpha1.L2AnnouncementList
		err := p.live.List(ctx, &live)
		return live.Items, err
	}
	for _, name := range names {
		var live v1alpha1.L2Announcement
		if err := p.live.Get(ctx, client.ObjectKey{Name: name}, &live); client.IgnoreNotFound(err) != nil {
			return nil, err
		} else if err == nil {
			records = append(records, live)
		}
	}
	return records, nil
}

// Ready reports whether the API is there and has started, as far as this speaker may know.
func (p *apiProbe) Ready(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, isolationCheck)
	defer cancel()
	return !isOutage(p.readyz.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error())
}

// Started reports whether the API server says that it has started, and so has read all roles.
func (p *apiProbe) Started(ctx context.Context) bool {
	return p.readyz.Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error() == nil
}

// answered reports whether a request had an answer of any kind: a refusal is one.
func answered(err error) bool {
	var status apierrors.APIStatus
	return err == nil || errors.As(err, &status)
}
