// SPDX-License-Identifier: Apache-2.0

package movein

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Level says how much a message matters. The lower the number, the more it does.
type Level int

// Levels.
const (
	// Error means that nothing is written.
	Error Level = iota
	// Lost is a setting without an equal in Tandem; everything else is written.
	Lost
	// Warn is written, and a person has to look at it.
	Warn
	// Info is a change of form that keeps the meaning.
	Info
)

var levelNames = []string{"error", "lost", "warn", "info"}

// String returns the name of the level.
func (l Level) String() string { return levelNames[l] }

// MarshalJSON writes the name of the level.
func (l Level) MarshalJSON() ([]byte, error) { return json.Marshal(l.String()) }

// Message says one thing about the input, such as
//
//	warn [multihop] BGPPeer peer1: eBGP. ...
type Message struct {
	Level Level  `json:"level"`
	Code  string `json:"code"` // in lower-case words with hyphens, the same for all products
	// Object is what the message is about: an object ("BGPPeer peer1"), several ("BGPPeers peer1, peer2"), or a place in a configuration that
	// is no object ("peers[0].password").
	Object string `json:"object"`
	Text   string `json:"text"`
}

// String returns the message as people read it.
func (m Message) String() string {
	return fmt.Sprintf("%s [%s] %s: %s", m.Level, m.Code, m.Object, m.Text)
}

// subject is what a message is about. Without a kind, name is a place in a configuration.
type subject struct{ kind, name string }

// String returns the subject as messages have it.
func (s subject) String() string {
	if s.kind == "" {
		return s.name
	}
	return strings.TrimSpace(s.kind + " " + s.name)
}

// journal collects messages.
type journal struct{ entries []entry }

type entry struct {
	level   Level
	code    string
	subject subject
	text    string
}

func (j *journal) add(level Level, code string, about subject, format string, args ...any) {
	e := entry{level, code, about, fmt.Sprintf(format, args...)}
	if !slices.Contains(j.entries, e) {
		j.entries = append(j.entries, e)
	}
}

// failed reports whether there is an error.
func (j *journal) failed() bool {
	return slices.ContainsFunc(j.entries, func(e entry) bool { return e.level == Error })
}

// messages returns what was collected, sorted by how much it matters. What is said of several objects in the same words is said once of all
// of them, and several sentences with one code about one object become one message.
func (j *journal) messages() []Message {
	type group struct {
		entry
		names, texts []string
	}
	var groups []*group
	for _, e := range j.entries {
		at := slices.IndexFunc(groups, func(g *group) bool {
			same := g.level == e.level && g.code == e.code && g.subject.kind == e.subject.kind
			return same && (g.text == e.text && len(g.texts) == 1 || len(g.names) == 1 && g.names[0] == e.subject.name)
		})
		switch {
		case at < 0:
			groups = append(groups, &group{e, []string{e.subject.name}, []string{e.text}})
		case groups[at].text == e.text && len(groups[at].texts) == 1: // add has left out what is said again of the same object.
			groups[at].names = append(groups[at].names, e.subject.name)
		default:
			groups[at].texts = append(groups[at].texts, e.text)
		}
	}
	slices.SortStableFunc(groups, func(a, b *group) int { return cmp.Compare(a.level, b.level) })
	var messages []Message
	for _, g := range groups {
		kind := g.subject.kind
		switch {
		case len(g.names) > 1 && strings.HasSuffix(kind, "y"):
			kind = strings.TrimSuffix(kind, "y") + "ies"
		case len(g.names) > 1 && kind != "":
			kind += "s"
		}
		object := subject{kind, strings.Join(g.names, ", ")}.String()
		messages = append(messages, Message{g.level, g.code, object, strings.Join(g.texts, "; ")})
	}
	return messages
}
