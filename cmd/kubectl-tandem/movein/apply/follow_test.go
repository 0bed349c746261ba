// SPDX-License-Identifier: Apache-2.0

package apply

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic/fake"
	clienttesting "k8s.io/client-go/testing"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/movein/live"
)

// served is an API server that has Services in namespace shop, and nothing else. Resource versions count its writes.
type served struct {
	mu       sync.Mutex
	version  int
	services map[string]*unstructured.Unstructured
	streams  []*watch.RaceFreeFakeWatcher
	lists    int
	// silent has its watches show nothing, and refused is the error of a watch that is to begin.
	silent  bool
	refused error
}

// newServed returns an API with the client of the server.
func newServed(names ...string) (*API, *served) {
	s := &served{version: 1, services: map[string]*unstructured.Unstructured{}}
	for _, name := range names {
		s.put(name, "")
	}
	api, client := newAPI()
	api.Timeout = time.Minute
	client.PrependReactor("list", "services", func(clienttesting.Action) (bool, runtime.Object, error) { return true, s.list(), nil })
	client.PrependReactor("patch", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		return true, s.put(action.(clienttesting.PatchAction).GetName(), "yes"), nil
	})
	client.PrependWatchReactor("services", func(clienttesting.Action) (bool, watch.Interface, error) { return s.watch() })
	return api, s
}

func (s *served) watch() (bool, watch.Interface, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.refused != nil {
		return true, nil, s.refused
	}
	stream := watch.NewRaceFreeFake()
	s.streams = append(s.streams, stream)
	return true, stream, nil
}

func (s *served) list() *unstructured.UnstructuredList {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.lists++
	list := &unstructured.UnstructuredList{}
	list.SetGroupVersionKind(schema.GroupVersionKind{Version: "v1", Kind: "ServiceList"})
	list.SetResourceVersion(strconv.Itoa(s.version))
	for _, svc := range s.services {
		list.Items = append(list.Items, *svc.DeepCopy())
	}
	return list
}

// put writes a Service with a label, "" for none, and has the watches show it.
func (s *served) put(name, moved string) *unstructured.Unstructured {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.version++
	o := serviceOf(name, s.version, moved)
	s.services[name] = o
	if !s.silent {
		for _, stream := range s.streams {
			stream.Modify(o.DeepCopy())
		}
	}
	return o.DeepCopy()
}

func (s *served) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lists
}

// hush has the watches show nothing, or show again what comes.
func (s *served) hush(silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.silent = silent
}

// cut ends all watches.
func (s *served) cut() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, stream := range s.streams {
		stream.Stop()
	}
	s.streams = nil
}

func serviceOf(name string, version int, moved string) *unstructured.Unstructured {
	o := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Service"}}
	o.SetNamespace("shop")
	o.SetName(name)
	o.SetResourceVersion(strconv.Itoa(version))
	if moved != "" {
		o.SetLabels(map[string]string{"moved": moved})
	}
	return o
}

// movedIn returns the label of a Service in a Snapshot.
func movedIn(s *live.Snapshot, name string) string {
	o := unstructured.Unstructured{Object: s.Objects[serviceNamed(name)]}
	return o.GetLabels()["moved"]
}

func serviceNamed(name string) live.Ref {
	return live.Ref{Kind: "Service", Namespace: "shop", Name: name}
}

func labelWrite(name string) live.Action {
	return live.Action{Write: &live.Write{Verb: live.Patch, Ref: serviceNamed(name), Body: map[string]any{}, Why: "label " + name}}
}

// inBubble runs a subtest whose time passes only while all wait.
func inBubble(t *testing.T, name string, test func(t *testing.T)) {
	t.Helper()
	t.Run(name, func(t *testing.T) { synctest.Test(t, test) })
}

// TestFollowed: of many writes to Services each decision has those before, and the Services are listed at the beginning and at the end.
func TestFollowed(t *testing.T) {
	var names []string
	for i := range 30 {
		names = append(names, fmt.Sprintf("s%d", i))
	}
	api, server := newServed(names...)
	writes := 0
	if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
		for _, name := range names {
			if movedIn(s, name) == "" {
				writes++
				return labelWrite(name), nil
			}
		}
		return live.Action{}, nil
	}); err != nil || writes != len(names) || server.count() != 2 {
		t.Errorf("after %d writes to %d Services, and %d lists: %v; want 2 lists", writes, len(names), server.count(), err)
	}
}

// TestShown: a watch that shows a write late has the next decision wait for it, and one that never shows it has all listed.
func TestShown(t *testing.T) {
	for name, tt := range map[string]struct {
		after time.Duration // 0 for never
		lists int
		takes time.Duration
	}{
		"a second later": {after: time.Second, lists: 2, takes: time.Second},
		"never":          {lists: 2, takes: showTimeout}, // The second list is that of all, and the end needs no other.
	} {
		inBubble(t, name, func(t *testing.T) {
			api, server := newServed("web")
			server.hush(true)
			begin := time.Now()
			writes := 0
			if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
				if movedIn(s, "web") != "" {
					return live.Action{}, nil
				}
				writes++
				if tt.after > 0 {
					time.AfterFunc(tt.after, func() {
						server.hush(false)
						server.put("web", "yes")
					})
				}
				return labelWrite("web"), nil
			}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(begin); writes != 1 || took != tt.takes || server.count() != tt.lists {
				t.Errorf("%d writes, %d lists, in %v; want 1, %d and %v", writes, server.count(), took, tt.lists, tt.takes)
			}
		})
	}
}

// TestChange: what is waited for goes on when it comes, and what changes all the time has one decision each 50 ms.
func TestChange(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, server := newServed("web", "busy")
		begin, decisions := time.Now(), 0
		const comes = 1130 * time.Millisecond
		time.AfterFunc(comes, func() { server.put("web", "yes") })
		busy := time.NewTicker(10 * time.Millisecond)
		defer busy.Stop()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			for i := 0; ; i++ {
				select {
				case <-ctx.Done():
					return
				case <-busy.C:
					server.put("busy", strconv.Itoa(i))
				}
			}
		}()
		if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
			decisions++
			if movedIn(s, "web") == "" {
				return live.Action{Wait: "the label"}, nil
			}
			return live.Action{}, nil
		}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took < comes || took > comes+shortest || decisions > int(took/shortest)+3 {
			t.Errorf("it came after %v, and the command ended after %v and %d decisions", comes, took, decisions)
		}
	})
}

// TestBroken: a watch that has ended has its kind listed before the next decision, and one that may not be begun has it listed before each.
func TestBroken(t *testing.T) {
	forbidden := apierrors.NewForbidden(schema.GroupResource{Resource: "services"}, "", errors.New("no"))
	for name, tt := range map[string]struct {
		refused error
		lists   int // for ten decisions and the end
	}{
		"ended":       {lists: 3},
		"not allowed": {refused: forbidden, lists: 12},
	} {
		inBubble(t, name, func(t *testing.T) {
			api, server := newServed("web")
			server.refused = tt.refused
			decisions := 0
			if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
				if got := movedIn(s, "web"); decisions > 0 && got != strconv.Itoa(decisions) {
					t.Errorf("decision %d has the label %q", decisions, got)
				}
				if decisions == 10 {
					return live.Action{}, nil
				}
				decisions++
				if decisions == 5 { // What happens while no watch runs is in the list.
					server.cut()
				}
				server.put("web", strconv.Itoa(decisions))
				return live.Action{Wait: "the label"}, nil
			}); err != nil || server.count() != tt.lists {
				t.Errorf("%d lists, %v; want %d lists", server.count(), err, tt.lists)
			}
		})
	}
}

// TestConfirmed: a Stop, the end, and a write that is about no Service count once the lists say so, too. Here a watch shows what is so no more.
func TestConfirmed(t *testing.T) {
	node := live.Ref{Kind: "Node", Name: "node1"}
	for name, grave := range map[string]live.Action{
		"stop": {Stop: "another address"}, "end": {}, "write to a Node": {Write: &live.Write{Verb: live.Delete, Ref: node, Why: "x"}},
	} {
		inBubble(t, name, func(t *testing.T) {
			api, server := newServed("web")
			api.Probe = func(context.Context, *live.Snapshot, *live.Unit, bool) string {
				time.Sleep(time.Second) // The watch has shown all by then.
				return ""
			}
			shown := 0
			err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
				switch movedIn(s, "web") {
				case "stale": // By the watch alone: the server has "true" by then.
					shown++
					server.put("web", "true")
					return grave, nil
				case "true":
					return live.Action{Stop: "as it should"}, nil
				}
				server.put("web", "stale")
				return live.Action{Probe: &live.Unit{}}, nil
			})
			for _, a := range api.Client.(*fake.FakeDynamicClient).Actions() {
				if a.GetVerb() == "delete" {
					t.Error("the Node was deleted")
				}
			}
			if err == nil || err.Error() != "as it should" || shown != 1 {
				t.Errorf("the command ends with %v, after the watch has shown it %d times", err, shown)
			}
		})
	}
}

// TestMissingKind: a kind that the API server does not have is not asked for again for each decision, and is there once a list has found it.
func TestMissingKind(t *testing.T) {
	api, server := newServed("a", "b", "c", "d", "e")
	client := api.Client.(*fake.FakeDynamicClient)
	var mu sync.Mutex
	asked, exists := 0, false
	client.PrependReactor("list", "servicegroups", func(clienttesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		asked++
		if !exists {
			return true, nil, apierrors.NewNotFound(schema.GroupResource{Resource: "servicegroups"}, "")
		}
		group := unstructured.Unstructured{Object: map[string]any{"apiVersion": "purelb.io/v2", "kind": "ServiceGroup"}}
		group.SetName("lan")
		return true, &unstructured.UnstructuredList{Items: []unstructured.Unstructured{group}}, nil
	})
	found := false
	if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
		found = s.Objects[live.Ref{Group: "purelb.io", Kind: "ServiceGroup", Name: "lan"}] != nil
		for name := range server.services {
			if movedIn(s, name) == "" {
				return labelWrite(name), nil
			}
		}
		mu.Lock()
		defer mu.Unlock()
		exists = true
		return live.Action{}, nil
	}); err != nil || !found || asked != 4 { // Both versions of the kind, at the beginning and at the end.
		t.Errorf("it was asked for %d times, and found: %t, %v; want 4 times", asked, found, err)
	}
}

// TestSilentWatch: what a watch does not show that has stopped without a word is in the lists that come each half a minute.
func TestSilentWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		api, server := newServed("web")
		server.hush(true)
		time.AfterFunc(time.Second, func() { server.put("web", "yes") })
		begin := time.Now()
		if err := api.Run(t.Context(), func(s *live.Snapshot) (live.Action, error) {
			if movedIn(s, "web") == "" {
				return live.Action{Wait: "the label"}, nil
			}
			return live.Action{}, nil
		}); err != nil || time.Since(begin) > resyncPeriod+time.Second {
			t.Errorf("%v, after %v", err, time.Since(begin))
		}
	})
}

// TestPart: a part of the cluster never becomes older, whatever comes in whatever order from a list and a watch.
func TestPart(t *testing.T) {
	list := func(version int, objects ...*unstructured.Unstructured) *unstructured.UnstructuredList {
		l := &unstructured.UnstructuredList{}
		l.SetResourceVersion(strconv.Itoa(version))
		for _, o := range objects {
			l.Items = append(l.Items, *o)
		}
		return l
	}
	event := func(kind watch.EventType, version int, moved string) watch.Event {
		return watch.Event{Type: kind, Object: serviceOf("web", version, moved)}
	}
	for name, tt := range map[string]struct {
		list  *unstructured.UnstructuredList // before the events
		do    []watch.Event
		then  *unstructured.UnstructuredList // nil for none
		want  string                         // the label of web, "gone" for none
		ended bool
	}{
		"a newer event":            {list: list(10, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Modified, 11, "b")}, want: "b"},
		"an older event":           {list: list(10, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Modified, 9, "b")}, want: "a"},
		"an older deletion":        {list: list(10, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Deleted, 8, "")}, want: "a"},
		"a deletion":               {list: list(10, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Deleted, 11, "")}, want: "gone"},
		"an addition":              {list: list(10), do: []watch.Event{event(watch.Added, 11, "b")}, want: "b"},
		"an addition before":       {list: list(10), do: []watch.Event{event(watch.Added, 7, "b")}, want: "gone"},
		"a longer number":          {list: list(9, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Modified, 10, "b")}, want: "b"},
		"a list that is behind":    {list: list(10), do: []watch.Event{event(watch.Added, 12, "b")}, then: list(11, serviceOf("web", 11, "a")), want: "b"},
		"a list that is ahead":     {list: list(10), do: []watch.Event{event(watch.Added, 12, "b")}, then: list(13, serviceOf("web", 13, "c")), want: "c"},
		"gone by a list":           {list: list(10, serviceOf("web", 9, "a")), then: list(11), want: "gone"},
		"too old to go on":         {list: list(10), do: []watch.Event{{Type: watch.Error, Object: &unstructured.Unstructured{}}}, want: "gone", ended: true},
		"a bookmark, and an older": {list: list(10, serviceOf("web", 9, "a")), do: []watch.Event{event(watch.Bookmark, 20, ""), event(watch.Modified, 19, "b")}, want: "a"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &part{objects: live.Objects{}}
			p.replace(tt.list)
			ended := false
			for _, e := range tt.do {
				_, over := p.take(e)
				ended = ended || over
			}
			if tt.then != nil {
				p.replace(tt.then)
			}
			got := "gone"
			if o := p.object(serviceNamed("web")); o != nil {
				got = (&unstructured.Unstructured{Object: o}).GetLabels()["moved"]
			}
			if got != tt.want || ended != tt.ended {
				t.Errorf("the label is %q, and the watch has ended: %t", got, ended)
			}
		})
	}
}

// TestNews: what the move has nothing to do with, such as that a Lease has been renewed, is no news.
func TestNews(t *testing.T) {
	lease := func(version, holder, renewed string) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
			"metadata": map[string]any{"namespace": "kube-system", "name": "a", "resourceVersion": version, "managedFields": []any{renewed}},
			"spec":     map[string]any{"holderIdentity": holder, "renewTime": renewed},
		}}
	}
	p := &part{objects: live.Objects{}}
	for i, tt := range []struct {
		o    *unstructured.Unstructured
		news bool
	}{{lease("1", "node1", "a"), true}, {lease("2", "node1", "b"), false}, {lease("3", "node2", "c"), true}} {
		if news, _ := p.take(watch.Event{Type: watch.Modified, Object: tt.o}); news != tt.news {
			t.Errorf("event %d is news: %t", i, news)
		}
	}
}
