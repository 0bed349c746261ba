// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"k8s.io/cli-runtime/pkg/genericiooptions"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/terminal"
	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/test/documents"
)

// noon is when the clusters of testdata were as the files say.
var noon = time.Date(2026, 11, 27, 12, 0, 0, 0, time.UTC)

// load returns the objects of files of testdata. An object of a later file replaces that of the same kind and name.
func load(t testing.TB, files ...string) []client.Object {
	t.Helper()
	decoder := serializer.NewCodecFactory(config.Scheme(), serializer.EnableStrict).UniversalDeserializer()
	index := map[string]int{}
	var all []client.Object
	for _, file := range files {
		text, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		for document := range strings.SplitSeq(string(text), "\n---\n") {
			decoded, kind, err := decoder.Decode([]byte(document), nil, nil)
			if err != nil {
				t.Fatalf("%s: %v in:\n%s", file, err, document)
			}
			obj := decoded.(client.Object)
			key := fmt.Sprint(kind, client.ObjectKeyFromObject(obj))
			if i, known := index[key]; known {
				all[i] = obj
				continue
			}
			index[key] = len(all)
			all = append(all, obj)
		}
	}
	return all
}

// fakeCluster returns a cluster with these objects, at noon.
func fakeCluster(objects []client.Object) *cluster.Cluster {
	name := func(obj client.Object) []string { return []string{obj.GetName()} }
	reason := func(obj client.Object) []string { return []string{obj.(*corev1.Event).Reason} }
	return &cluster.Cluster{
		Client: fake.NewClientBuilder().WithScheme(config.Scheme()).WithObjects(objects...).
			WithIndex(&coordinationv1.Lease{}, "metadata.name", name).WithIndex(&corev1.Event{}, "reason", reason).
			WithIndex(&corev1.Service{}, "spec.type", fixture.TypeOf).Build(),
		Now: func() time.Time { return noon },
	}
}

// run runs the plugin on a cluster, and returns what it prints and its exit code.
func runOn(ctx context.Context, c *cluster.Cluster, args ...string) (output string, code int) {
	var out bytes.Buffer
	root := command(genericiooptions.IOStreams{In: strings.NewReader(""), Out: &out, ErrOut: &out},
		func(_ genericclioptions.RESTClientGetter, system string) (*cluster.Cluster, error) {
			c.System = system
			return c, nil
		})
	root.SetArgs(append(args, "--kubeconfig", os.DevNull))
	code = terminal.ExitCode(&out, root.ExecuteContext(ctx))
	return out.String(), code
}

// TestDocument runs each command that docs/kubectl-tandem.md shows with its output, and compares. A comment says which files of testdata are the cluster:
//
//	<!-- on healthy.yaml faults.yaml -->
//
//	    $ kubectl tandem status
//	    …
func TestDocument(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "kubectl-tandem.md")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	const prompt = "    $ kubectl tandem "
	lines := strings.Split(string(text), "\n")
	var want []string
	var files []string
	commands := 0
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		want = append(want, line)
		if on, ok := strings.CutPrefix(line, "<!-- on "); ok {
			files = strings.Fields(strings.TrimSuffix(on, "-->"))
		}
		typed, ok := strings.CutPrefix(line, prompt)
		if !ok {
			continue
		}
		for i+1 < len(lines) && (strings.HasPrefix(lines[i+1], "    ") || lines[i+1] == "" && continues(lines[i+1:])) {
			i++
		}
		commands++
		output, _ := runOn(t.Context(), fakeCluster(load(t, files...)), strings.Fields(typed)...)
		for printed := range strings.SplitSeq(strings.TrimSuffix(output, "\n"), "\n") {
			if printed != "" {
				printed = "    " + printed
			}
			want = append(want, printed)
		}
	}
	if commands == 0 {
		t.Error("the page shows no command")
	}
	documents.Compare(t, path, strings.Join(want, "\n"))
}

// continues reports whether an indented block goes on after empty lines, and not with a command of its own.
func continues(lines []string) bool {
	for _, line := range lines {
		if line != "" {
			return strings.HasPrefix(line, "    ") && !strings.HasPrefix(line, "    $ ")
		}
	}
	return false
}

// TestCommandsOfDocuments parses each command of the plugin that a page tells its reader to type.
func TestCommandsOfDocuments(t *testing.T) {
	found := 0
	for _, page := range documents.Pages(t, filepath.Join("..", "..")) {
		commands, err := page.Commands()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range commands {
			if len(c.Args) < 2 || c.Args[0] != "kubectl" || c.Args[1] != "tandem" {
				continue
			}
			found++
			cmd, rest, err := command(genericiooptions.NewTestIOStreamsDiscard(), cluster.Connect).Find(c.Args[2:])
			if err == nil {
				cmd.InitDefaultVersionFlag() // as Execute does
				err = cmd.ParseFlags(rest)
			}
			if err == nil {
				err = cmd.ValidateArgs(cmd.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: %v", c, err)
			}
		}
	}
	if found == 0 {
		t.Error("no page has a command of the plugin")
	}
}

// TestWatch: --watch shows the status again until it is interrupted, which is no problem.
func TestWatch(t *testing.T) {
	ctx, interrupt := context.WithCancel(t.Context())
	c := fakeCluster(load(t, "healthy.yaml", "faults.yaml"))
	readings := 0
	c.Now = func() time.Time { // once for each reading
		if readings++; readings == 2 {
			interrupt()
		}
		return noon
	}
	var out bytes.Buffer
	p := &plugin{
		IOStreams: genericiooptions.IOStreams{Out: &out, ErrOut: &out},
		open:      func(genericclioptions.RESTClientGetter, string) (*cluster.Cluster, error) { return c, nil },
	}
	if err := p.watch(ctx, time.Millisecond); err != nil {
		t.Error(err)
	}
	if n := strings.Count(out.String(), "SPEAKERS   2 of 3 alive"); n != 2 {
		t.Errorf("the status is shown %d times, want 2:\n%s", n, out.String())
	}
}

// TestNames: an address is a word of its own in the message of an event.
func TestNames(t *testing.T) {
	for text, want := range map[string]bool{
		"Released 192.0.2.1 from pool lan":                  true,
		"Allocated 192.0.2.11 from pool lan":                false,
		"192.0.2.1: another machine":                        true,
		"Node node1 answers for 2001:db8::5 and 192.0.2.1.": true,
		"Node node1 answers for 192.0.2.10 and 192.0.2.100": false,
		"dead beef cafe and no address":                     false,
	} {
		if got := names(text, netip.MustParseAddr("192.0.2.1")); got != want {
			t.Errorf("%q names 192.0.2.1: %t, want %t", text, got, want)
		}
	}
}
