// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	toolscache "k8s.io/client-go/tools/cache"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// writes are when each speaker was last seen to write to the API, by the clock of this node. A speaker that writes after gossip has lost it
// is alive, and reaches the API. Only it writes its SpeakerStatus, or an L2Announcement that names its node.
type writes struct {
	mu sync.Mutex // guards at
	at map[string]time.Time
}

// watch takes in what the informers see from now on. What they list at first may have been written at any time.
func (w *writes) watch(ctx context.Context, informers cache.Informers) error {
	for _, obj := range []client.Object{&v1alpha1.L2Announcement{}, &v1alpha1.SpeakerStatus{}} {
		informer, err := informers.GetInformer(ctx, obj, cache.BlockUntilSynced(false))
		if err == nil {
			_, err = informer.AddEventHandler(toolscache.ResourceEventHandlerDetailedFuncs{
				AddFunc: func(obj any, isInInitialList bool) {
					if !isInInitialList {
						w.note(nil, obj)
					}
				},
				UpdateFunc: w.note,
			})
		}
		if err != nil {
			return fmt.Errorf("watching what speakers write: %T: %w", obj, err)
		}
	}
	return nil
}

// note takes in an object that was written just now, and what it was before, nil if there was none. Only a new status counts: an informer that
// lists anew tells of each object, changed or not, and a user may write the target of a record whose holder is dead.
func (w *writes) note(before, obj any) {
	node, same := "", false
	switch o := obj.(type) {
	case *v1alpha1.SpeakerStatus:
		old, known := before.(*v1alpha1.SpeakerStatus)
		node, same = o.Name, known && equality.Semantic.DeepEqual(old.Status, o.Status)
	case *v1alpha1.L2Announcement:
		old, known := before.(*v1alpha1.L2Announcement)
		node, same = o.Status.Node, known && equality.Semantic.DeepEqual(old.Status, o.Status)
	}
	if node == "" || same {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.at == nil {
		w.at = map[string]time.Time{}
	}
	w.at[node] = time.Now()
}

// latest returns when each speaker was last seen to write.
func (w *writes) latest() map[string]time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return maps.Clone(w.at)
}
