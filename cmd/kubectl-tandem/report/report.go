// SPDX-License-Identifier: Apache-2.0

// Package report makes a support bundle: what Tandem has in the API, what its programs say, and their logs, in one archive for those who help.
//
//	[Gather] ──▶ Bundle ──▶ [Bundle.Anonymize] ──▶ [Bundle.Write] ──▶ tandem-report-….tar.gz
//
// No Secret is ever read, so that none can be in it: a BGPPeer shows the name of the Secret with its password. What objects have for programs alone is left
// out (managedFields, the last applied configuration), and so are the values of environment variables.
//
// Anonymize replaces names and addresses, each by the same one everywhere, so that what belongs together still does. Addresses keep their prefixes in
// common: if 192.0.2.10 is in the subnet of 192.0.2.1/24 and 192.0.2.129 is in another half of it, the same is true of what stands for them.
package report

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
)

// Bundle is what a report has in it.
type Bundle struct {
	// Objects are what the API holds, by the name of a file without its ending, as "objects/services".
	Objects map[string][]map[string]any
	// Texts are logs and answers of programs, by the name of a file.
	Texts map[string][]byte
	// Missing are what could not be read, with the reason.
	Missing []string
}

// add adds objects under the name of a file. They are copied.
func (b *Bundle) add(file string, objects ...runtime.Object) {
	for _, object := range objects {
		fields, err := runtime.DefaultUnstructuredConverter.ToUnstructured(object)
		if err != nil {
			b.Missing = append(b.Missing, fmt.Sprintf("%s: %v", file, err))
			continue
		}
		clean(fields)
		b.Objects["objects/"+file] = append(b.Objects["objects/"+file], fields)
	}
}

// clean removes what is for programs alone, and what may be a secret: the values of environment variables.
func clean(fields map[string]any) {
	for key, value := range fields {
		switch key {
		case "managedFields", "kubectl.kubernetes.io/last-applied-configuration":
			delete(fields, key)
		case "env":
			for _, variable := range asList(value) {
				if v, ok := variable.(map[string]any); ok && v["value"] != nil {
					v["value"] = "(left out)"
				}
			}
		default:
			walk(value, clean)
		}
	}
}

func asList(value any) []any {
	list, _ := value.([]any)
	return list
}

// walk calls do with each map that a value has in it, but not in a map.
func walk(value any, do func(map[string]any)) {
	if fields, ok := value.(map[string]any); ok {
		do(fields)
	}
	for _, element := range asList(value) {
		walk(element, do)
	}
}

// addState adds all that a reading of the cluster has found.
func (b *Bundle) addState(s *cluster.State) {
	c := &s.Config
	addAll(b, "addresspools", c.AddressPools)
	addAll(b, "l2advertisements", c.L2Advertisements)
	addAll(b, "bgppeers", c.BGPPeers)
	addAll(b, "bgpadvertisements", c.BGPAdvertisements)
	addAll(b, "bfdprofiles", c.BFDProfiles)
	addAll(b, "communities", c.Communities)
	addAll(b, "interfaceadvertisements", c.InterfaceAdvertisements)
	addAll(b, "l2announcements", s.Announcements.Items)
	addAll(b, "speakerstatuses", s.Speakers.Items)
	addAll(b, "ipaddresses", s.Claims.Items)
	addAll(b, "services", s.Services.Items)
	addAll(b, "endpointslices", s.EndpointSlices.Items)
	addAll(b, "leases", s.Leases)
	nodes := slices.Clone(s.Nodes.Items)
	for i := range nodes {
		nodes[i].Status.Images = nil // They say what else runs there.
	}
	addAll(b, "nodes", nodes)
}

// addAll adds the items of a list. *T is the type of an object of the API.
func addAll[T any](b *Bundle, file string, items []T) {
	for i := range items {
		if object, ok := any(&items[i]).(runtime.Object); ok {
			b.add(file, object)
		}
	}
}

// addEvents adds the events of Tandem: those that its programs wrote, and those of its own objects and Pods.
func (b *Bundle) addEvents(events []corev1.Event, system string) {
	for i := range events {
		e := &events[i]
		if e.InvolvedObject.Namespace == system || e.Source.Component == "tandem-speaker" || e.Source.Component == "cloud-controller-manager" ||
			e.InvolvedObject.GroupVersionKind().Group == "tandem-lb.io" {
			b.add("events", e)
		}
	}
}

// readme is the first file of an archive.
const readme = `A report of Tandem, made by kubectl tandem report at %s.

objects/    what the API holds of Tandem's kinds, and of the Services, claims, endpoints and Nodes that they are about
programs/   Deployment, DaemonSet and Pods, and their logs
speakers/   what each speaker said of its sessions and its node
check.txt   what kubectl tandem check found
missing.txt what could not be read, if anything

No Secret was read. Names and addresses are %s.
Look through it before you hand it on.
`

// Write writes the bundle as tar.gz, all files below a folder. Anonymous says what the readme says.
func (b *Bundle) Write(w io.Writer, folder string, now time.Time, anonymous bool) error {
	files := maps.Clone(b.Texts)
	for name, objects := range b.Objects {
		var all bytes.Buffer
		for i, object := range objects {
			text, err := yaml.Marshal(object)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			if i > 0 {
				all.WriteString("---\n")
			}
			all.Write(text)
		}
		files[name+".yaml"] = all.Bytes()
	}
	for i, text := range b.Missing {
		if i == 0 {
			files["missing.txt"] = nil
		}
		files["missing.txt"] = append(files["missing.txt"], text+"\n"...)
	}
	how := "as they are; --anonymize replaces them"
	if anonymous {
		how = "replaced, each by the same one everywhere"
	}
	files["README.txt"] = fmt.Appendf(nil, readme, now.UTC().Format(time.RFC3339), how)
	zipped := gzip.NewWriter(w)
	archive := tar.NewWriter(zipped)
	for _, name := range slices.Sorted(maps.Keys(files)) {
		header := &tar.Header{Name: path.Join(folder, name), Mode: 0o644, Size: int64(len(files[name])), ModTime: now}
		if err := archive.WriteHeader(header); err != nil {
			return err
		}
		if _, err := archive.Write(files[name]); err != nil {
			return err
		}
	}
	if err := archive.Close(); err != nil {
		return err
	}
	return zipped.Close()
}
