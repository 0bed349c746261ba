// SPDX-License-Identifier: Apache-2.0

package live

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	utiljson "k8s.io/apimachinery/pkg/util/json"
)

// Phase says how far a move has come.
type Phase string

// Phases. The comment of the package says what happens in each.
const (
	Preparing  Phase = "Preparing"
	Adopting   Phase = "Adopting"
	Announcing Phase = "Announcing"
	Finishing  Phase = "Finishing"
	Finished   Phase = "Finished"
	Undoing    Phase = "Undoing"
	Undone     Phase = "Undone" // but for Tandem's controller manager and the ConfigMaps
)

// PhaseUnknown is the phase in a Status of a move whose own somebody has deleted or written by hand.
const PhaseUnknown Phase = "Unknown"

// ConfigMapName is the name of the ConfigMap with the phase. Those with the Record have a number behind it.
const ConfigMapName = "tandem-move-in"

// mostOfPart is how many bytes of the Record a ConfigMap has: the API server takes a MiB.
const mostOfPart = 700 << 10

// Record is what a move knows of the cluster as it was, and of what it makes. It is written once.
type Record struct {
	// From is the product that Services come from, by its name for movein.Convert.
	From string `json:"from"`
	// ByPool says that MetalLB's smallest unit on layer 2 is a pool, since its L2Advertisements know no serviceSelectors.
	ByPool bool `json:"byPool"`
	// Ours and Theirs are the Deployments of the controllers, Speakers the DaemonSets that announced before, and Webhook MetalLB's configuration.
	Ours     Ref   `json:"ours"`
	Theirs   Ref   `json:"theirs"`
	Speakers []Ref `json:"speakers"`
	Webhook  *Ref  `json:"webhook,omitempty"`
	// FailurePolicy is that of MetalLB's webhook for L2Advertisements.
	FailurePolicy string `json:"failurePolicy,omitempty"`
	// Nodes are those that the Pods of each of these DaemonSets run on, by its name.
	Nodes map[string][]string `json:"nodes,omitempty"`
	// Documents are Tandem's objects, as they are when the move has finished, but for Secrets.
	Documents []map[string]any `json:"documents"`
	// Secrets are those that are made, by name. What is in them is worked out when they are made.
	Secrets []string `json:"secrets,omitempty"`
	// Patches are the annotations that Services get, by the Service.
	Patches map[string]map[string]string `json:"patches,omitempty"`
	// Before are the objects that the move changes, with what it changes of them.
	Before []map[string]any `json:"before"`
	// Existed are the objects of Tandem that were there before and of which the move may make more.
	Existed []Ref `json:"existed,omitempty"`

	index map[Ref]map[string]any // Before by name, nil as long as more may come
}

// Memory is what Next has worked out of the ConfigMaps of a move, for the Snapshots that come after. The zero Memory is empty.
type Memory struct {
	whole  string
	sum    string
	record *Record
}

// before returns an object as it was, nil if the Record does not have it.
func (r *Record) before(ref Ref) map[string]any {
	if r.index != nil {
		return r.index[ref]
	}
	for _, o := range r.Before {
		if RefOf(o) == ref {
			return o
		}
	}
	return nil
}

// refsBefore returns those of the objects that were there that are of a kind.
func (r *Record) refsBefore(group, kind string) (refs []Ref) {
	for _, o := range r.Before {
		if ref := RefOf(o); ref.Group == group && ref.Kind == kind {
			refs = append(refs, ref)
		}
	}
	return refs
}

func configMap(system, suffix string, data map[string]any) map[string]any {
	return map[string]any{
		"apiVersion": "v1", "kind": "ConfigMap",
		"metadata": map[string]any{
			"name": ConfigMapName + suffix, "namespace": system, "labels": map[string]any{label: made},
		},
		"data": data,
	}
}

// encode returns the ConfigMaps of a Record: the head comes last, so that the Record is whole where it exists.
func (r *Record) encode(system string) ([]map[string]any, error) {
	whole, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	var maps []map[string]any
	sum := sha256.Sum256(whole)
	for rest := string(whole); rest != ""; {
		end := min(len(rest), mostOfPart)
		for end < len(rest) && !utf8.RuneStart(rest[end]) { // The API server takes no half of a character.
			end--
		}
		part := rest[:end]
		rest = rest[end:]
		o := configMap(system, "-"+strconv.Itoa(len(maps)), map[string]any{"part": part})
		set(o, true, "immutable") // The API server takes no edits by hand.
		maps = append(maps, o)
	}
	return append(maps, head(system, Preparing, len(maps), sum, r.From)), nil
}

// head returns the ConfigMap with the phase of a move whose Record has so many parts and this sum.
func head(system string, phase Phase, parts int, sum [sha256.Size]byte, from string) map[string]any {
	of := hex.EncodeToString(sum[:])
	return configMap(system, "", map[string]any{
		"phase": string(phase), "parts": strconv.Itoa(parts), "sha256": of, "from": from, "seal": seal(phase, of),
	})
}

// seal returns what shows that this program has written a phase, for the Record with a sum, and no person.
func seal(phase Phase, sum string) string {
	of := sha256.Sum256([]byte(string(phase) + " " + sum))
	return hex.EncodeToString(of[:])
}

// PhaseLost reports whether a move has begun, and somebody has deleted the ConfigMap with its phase, or the phase in it, or has changed it: what the move has
// made or labelled is there.
func (s *Snapshot) PhaseLost() bool {
	if s.PhaseOf() != "" {
		return false
	}
	for ref, o := range s.Objects {
		ours := ref.Group == ourGroup || ref.Group == "" && ref.Kind != "ConfigMap"
		if ours && text(o, "metadata", "labels", label) != "" {
			return true
		}
	}
	return false
}

// noPhase says what to do about a move that is [Snapshot.PhaseLost].
func (s *Snapshot) noPhase() string {
	return "ConfigMap " + s.System + "/" + ConfigMapName + " is gone, or somebody has written the phase in it by hand, though a move has begun, so that nobody " +
		"knows how far that is: kubectl tandem move-in undo goes back"
}

// headBack makes the ConfigMap with the phase again, from the Record. What has been done is not known then, and undo goes back from anywhere.
func (s *Snapshot) headBack() Action {
	var whole []byte
	parts := 0
	for ; ; parts++ {
		part := s.Objects[Ref{Kind: "ConfigMap", Namespace: s.System, Name: fmt.Sprintf("%s-%d", ConfigMapName, parts)}]
		if part == nil {
			break
		}
		whole = append(whole, text(part, "data", "part")...)
	}
	r := &Record{}
	if err := utiljson.Unmarshal(whole, r); err != nil || originOf(r.From) == nil {
		return stop("a move has begun, and its record in ConfigMaps %s/%s and following is gone or has been changed: go back by hand, as docs/moving-in.md says",
			s.System, ConfigMapName)
	}
	again := head(s.System, Undoing, parts, sha256.Sum256(whole), r.From)
	if s.Objects[headRef(s.System)] == nil {
		return s.create(again, "make the ConfigMap with the phase again, which somebody has deleted")
	}
	return s.change(headRef(s.System), "write the phase again, which somebody has changed", func(o map[string]any) { set(o, again["data"], "data") })
}

// remedy is what a person can do about a Record that is not whole.
const remedy = "Nothing is done by it: put back what was there, or go back by hand, as \"The way back\" of docs/moving-in.md says"

// headRef names the ConfigMap with the phase.
func headRef(system string) Ref {
	return Ref{Kind: "ConfigMap", Namespace: system, Name: ConfigMapName}
}

// PhaseOf returns the phase of a move, "" if there is none. One that somebody has written by hand is none: a finish, for example, that begins after nothing has
// moved would leave Services without an announcer.
func (s *Snapshot) PhaseOf() Phase {
	head := s.Objects[headRef(s.System)]
	phase := Phase(text(head, "data", "phase"))
	if phase == "" || text(head, "data", "seal") != seal(phase, text(head, "data", "sha256")) {
		return ""
	}
	return phase
}

// record reads the Record of a move that has begun.
func (s *Snapshot) record() (*Record, error) {
	begun := s.Objects[headRef(s.System)]
	parts, err := strconv.Atoi(text(begun, "data", "parts"))
	if err != nil {
		return nil, fmt.Errorf("ConfigMap %s/%s does not say how many parts the record has, so that somebody has changed it by hand. %s", s.System, ConfigMapName,
			remedy)
	}
	var whole strings.Builder
	for i := range parts {
		name := fmt.Sprintf("%s-%d", ConfigMapName, i)
		part := s.Objects[Ref{Kind: "ConfigMap", Namespace: s.System, Name: name}]
		if part == nil {
			return nil, fmt.Errorf("ConfigMap %s/%s, a part of the move's record, is gone. %s", s.System, name, remedy)
		}
		whole.WriteString(text(part, "data", "part"))
	}
	want := text(begun, "data", "sha256")
	if known := s.Memory; known != nil && known.record != nil && known.sum == want && known.whole == whole.String() {
		return known.record, nil
	}
	if sum := sha256.Sum256([]byte(whole.String())); hex.EncodeToString(sum[:]) != want {
		return nil, fmt.Errorf("the move's record in ConfigMaps %s/%s-0 and following has been changed by hand. %s", s.System, ConfigMapName, remedy)
	}
	r := &Record{}
	if err := utiljson.Unmarshal([]byte(whole.String()), r); err != nil {
		return nil, fmt.Errorf("reading the move's record: %w", err)
	}
	r.index = map[Ref]map[string]any{}
	for _, o := range slices.Backward(r.Before) {
		r.index[RefOf(o)] = o
	}
	if s.Memory != nil {
		*s.Memory = Memory{whole.String(), want, r}
	}
	return r, nil
}
