// SPDX-License-Identifier: Apache-2.0

package repair

import (
	"fmt"
	"maps"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/tandem-lb/tandem/ipam"
)

var now = time.Unix(1_000_000, 0)

// TestSteps has at least one row for each line of the table in the doc comment of Steps, by its number.
//
// A world is what the records of 192.0.2.1 say: the claim, and after a colon the Services, each with h where it holds
// the address, p where it publishes it, its need, and a sharing key with a port where it has one. "+other" means that
// it holds another address of the family. A claim that is "left" was left by its parent Z five seconds ago, and "by B" is by
// B too. "A+B" is a claim with the parent A and the sharer B, "left+B" one that has only that. A parent with a key is among the sharers,
// unless the claim is "unlisted". "was82" says that the claim has the port 82 for a Service.
func TestSteps(t *testing.T) {
	tests := []struct {
		line  int
		world string
		want  string
	}{
		{1, "pending: A h needed", ""},
		{1, "pending: A h surplus; B p needed", ""},
		{2, "A: A hp needed", ""},
		{3, "A: A h writing in 5s", ""},
		{4, "A: A h needed", "wake A"},
		{4, "A: A h writing in -1s", "wake A"},
		{4, "A: A hp needed k80; B h needed k81", "wake B"},
		{5, "A: A hp surplus", ""},
		{6, "A: A h surplus in 5s", "look in 5s"},
		{7, "A: A h surplus", "release A, delete"},
		{7, "A: A h surplus in -1s", "release A, delete"},
		{7, "A: A hp needed k80; B h surplus k81", "release B"},
		{8, "A: A hp surplus in 5s", "keep A"},
		{9, "A: A h duplicate", "mark surplus A in 20s"},
		{10, "A: A h finishing", ""},
		{10, "A: A hp unread", ""},
		{11, "A: A hp other-provider", ""},
		{12, "A: A h other-provider", "release A, delete"},
		{13, "A: A hp gone", "release A, delete"},
		{13, "A: A h gone", "release A, delete"},
		{13, "A: A hp needed k80; B hp gone", "release B"},
		{14, "A: A - needed", "hold A"},
		{14, "A: A p needed", "hold A"},
		{14, "A: A - finishing", "hold A"},
		{14, "A: A - unread", "hold A"},
		{14, "A blocked: A - needed", "hold A"},
		{14, "A+B: A hp needed k80; B - needed k81", "hold B k81"},
		{14, "A+B: A hp needed k80; B - unread k81", "hold B k81"},
		{14, "left+B: B - needed k81", "hold B k81"},
		{15, "A: A p other-provider", "hold A"},
		{16, "A: A - other-provider", "collect A, delete"},
		{17, "A: A - gone", "collect A, delete"},
		{16, "A+B: A hp needed k80; B - other-provider", "collect B, take off"},
		{17, "A: A p gone", "collect A, delete"},
		{17, "A+B: A hp needed k80; B - gone", "collect B, take off"},
		{17, "left+B: B - gone", "collect B, delete"},
		{18, "A: A hp gone; B hp needed", "release A, mark"},
		{18, "A+B: A hp gone; B hp needed k81", "release A, mark"},
		{18, "A+B: A hp needed k80; B hp gone", "release B, take off"},
		{18, "A+B: A hp needed k80; B h surplus k81", "release B, take off"},
		{18, "left+B+C: B hp gone; C hp needed k82", "release B, take off"},
		{18, "A: A h surplus; B h needed", "release A, mark, wake B"},
		{18, "A: A hp gone; B hp finishing; C h needed", "release A, mark, wake C"},
		{18, "A: A hp gone; B hp finishing", "release A, mark"},
		{18, "A: A hp gone; B hp gone", "release A, delete, release B, delete"},
		{18, "A reuse 10s: A h surplus; B h needed", "release A, mark, wake B"},
		{19, "A: A hp gone; B p needed", "hold B, release A, mark"},
		{19, "A: A h surplus; B p needed k81", "hold B k81, release A, mark"},
		{19, "A: A hp gone; B p finishing", "release A, delete"},
		{20, "A: A - gone; B p needed", "hold B, collect A, mark"},
		{20, "A+B: A - gone; B - needed k81", "hold B k81"},
		{20, "A: A - gone; B h needed; C p needed", "collect A, mark"},
		{21, "A: A - needed k80; B hp needed k81", "hold A k80"},
		{22, "A: A - needed; B hp needed", "hold A, drop B, wake B"},
		{22, "A: A - needed k80; B hp needed j81", "hold A k80, drop B, wake B"},
		{22, "A: A - needed k80; B hp needed k80", "hold A k80, drop B, wake B"},
		{22, "A: A - needed; B hp finishing", "hold A, drop B"},
		{22, "A+B: A hp needed k80; B - needed k81; C h needed k81", "hold B k81, drop C, wake C"},
		{22, "A+B: A hp needed k80; B - needed k81; C h needed k82", "hold B k81"},
		{23, "A: A hp needed k80; B p needed k81", "hold B k81, wake B"},
		{24, "A keyed starting: A hp needed k80; B p needed k81; C p needed k81", "hold B k81, wake B, hold C k81, wake C"},
		{24, "A keyed starting: A hp needed k80; B p needed", "hold B, wake B"},
		{24, "A keyed starting: A hp needed; B p needed", "hold B, wake B"},
		{24, "A keyed starting: A - needed k80; B p needed j80", "hold A k80, hold B j80, wake B"},
		{24, "A starting: A - needed k80; B p needed k80", "hold A k80, hold B k80, wake B"},
		{25, "A starting: A hp needed; B p needed", "wake B"},
		{25, "A starting: A hp needed k80; B p needed", "wake B"},
		{25, "A keyed: A hp needed k80; B p needed", "wake B"},
		{25, "A: A hp needed; B p needed", "wake B"},
		{25, "A: A hp needed k80; B p needed k80", "wake B"},
		{25, "A: A hp needed k80; B p needed k81; C p needed k81", "hold B k81, wake B, wake C"},
		{25, "A keyed starting: A hp needed k80; B p needed +other", "wake B"},
		{25, "A: A hp needed; B p finishing", ""},
		{25, "A: A hp needed; B p other-provider", ""},
		{26, "A in old, gone: A hp needed", "relabel"},
		{26, "A in old, gone: A h needed", "wake A"},
		{26, "A in old: A hp needed", ""},
		{27, "none: A hp needed", "claim for A"},
		{27, "none: A h needed", "claim for A"},
		{27, "none: A h writing in 5s", "claim for A"},
		{27, "none: A hp finishing; B hp needed", "claim for B"},
		{28, "none: A hp surplus", "claim for A"},
		{29, "none: A h surplus in 5s", "release A"},
		{29, "none: A h duplicate", "release A"},
		{29, "none: A h duplicate; B hp needed", "claim for B, release A"},
		{30, "none: A hp finishing", ""},
		{30, "none: A hp finishing; B p needed", "wake B"},
		{31, "none: A hp other-provider", ""},
		{32, "none: A h other-provider", "release A"},
		{33, "none: A hp gone", "release A"},
		{33, "none: A hp gone; B p needed", "hold B, wake B, claim for B, release A"},
		{34, "none: A p needed", "hold A, wake A, claim for A"},
		{34, "none: A p finishing", ""},
		{34, "none: A p other-provider", ""},
		{35, "none in no pool: A p needed", "wake A"},
		{36, "none: A p needed k80; B p needed k81", "hold A k80, wake A, hold B k81, wake B, claim for A"},
		{36, "none: A p needed k80; B p needed k80", "hold A k80, wake A, hold B k80, wake B, claim for A"},
		{36, "none: A p needed; B p needed", "hold A, wake A, wake B, claim for A"},
		{36, "none starting: A p needed; B p needed", "hold A, wake A, wake B, claim for A"},
		{36, "none: A p needed k80; B p needed j81", "hold A k80, wake A, wake B, claim for A"},
		{37, "none blocked:", "unblock"},
		{37, "none blocked: A p needed", "unblock"},
		{38, "foreign: A hp needed; B h finishing", "drop A, wake A, drop B, block"},
		{39, "foreign: A p needed", "wake A, block"},
		{39, "foreign blocked: A p needed", "wake A"},
		{40, "foreign:", "block"},
		{41, "foreign blocked:", ""},
		{2, "left+A: A hp needed", ""},
		{4, "left: A h needed", "wake A"},
		{7, "left: A hp needed k80; B h surplus k81", "release B"},
		{24, "left keyed starting: A p needed j80; B p needed k81", "hold A j80, wake A, hold B k81, wake B"},
		{25, "left+B keyed: A p needed j80; B hp needed k81", "wake A"},
		{25, "left reuse 10s: B p needed", "wake B, cool, look in 5s"},
		{42, "left: B hp gone", "release B, delete"},
		{42, "left: B h surplus", "release B, delete"},
		{43, "left: B p needed", "hold B, wake B"},
		{43, "left keyed: B p needed k80", "hold B k80, wake B"},
		{43, "left keyed reuse 10s: B p needed k80; C p needed k81", "hold B k80, wake B, hold C k81, wake C"},
		{43, "left by B reuse 10s: B p needed", "hold B, wake B"},
		{44, "left keyed: B p finishing k80", "hold B k80"},
		{44, "left keyed: B p unread", "hold B"},
		{45, "left reuse 10s:", "cool, look in 5s"},
		{45, "left reuse 10s cooling:", "look in 5s"},
		{46, "left reuse 5s cooling:", "collect, delete"},
		{46, "left:", "collect, delete"},
		{46, "left: B p gone", "collect, delete"},
		{47, "A reuse 10s: A h surplus", "release A, mark"},
		{47, "A reuse 10s: A - gone", "collect A, mark"},
		{47, "left reuse 10s: B hp gone", "release B, mark"},
		{47, "left+B reuse 10s: B hp gone", "release B, mark"},
		{48, "A unlisted: A hp needed k80", "share"},
		{48, "A: A hp needed k80; B hp needed k81", "share"},
		{48, "A: A hp needed; B hp needed", "share"},
		{48, "left: B hp needed", "share"},
		{48, "A+B: A hp needed k80; B hp needed k81 was82", "share"},
		{48, "A+B: A h needed k80; B hp needed k81 was82", "wake A, share"},
		{48, "A+B: A hp needed k80; B h needed k81 was82", "wake B, share"},
		{2, "A+B: A hp needed k80; B hp needed k81", ""},
		{4, "A: A hp needed k80; B h writing k81 in 5s", ""},
	}
	tested := map[int]bool{}
	for _, tt := range tests {
		tested[tt.line] = true
		t.Run(fmt.Sprintf("line %d, %s", tt.line, tt.world), func(t *testing.T) {
			entry := world(t, tt.world)
			before := slices.Clone(entry.Services)
			if got := say(Steps(entry, now)); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
			if !slices.EqualFunc(before, entry.Services, func(a, b Standing) bool { return fmt.Sprint(a) == fmt.Sprint(b) }) {
				t.Error("Steps changed the entry")
			}
		})
	}
	source, err := os.ReadFile("repair.go")
	if err != nil {
		t.Fatal(err)
	}
	lines := regexp.MustCompile(`(?m)^//\t *(\d+)  `).FindAllStringSubmatch(string(source), -1)
	if len(lines) < 48 {
		t.Errorf("the doc comment of Steps has %d lines with a number, want 48 or more", len(lines))
	}
	for i, line := range lines {
		n, _ := strconv.Atoi(line[1])
		if n != i+1 {
			t.Errorf("line %d of the table has the number %d", i+1, n)
		}
		if !tested[n] {
			t.Errorf("line %d of the table has no row in this test", n)
		}
		delete(tested, n)
	}
	for n := range tested {
		t.Errorf("the test has rows for line %d, which the table does not have", n)
	}
}

var needs = map[string]Need{
	"needed": Needed, "writing": Writing, "surplus": Surplus, "duplicate": Duplicate, "finishing": Finishing, "other-provider": OtherProvider,
	"gone": Gone, "unread": Unread,
}

// world reads a world.
func world(t *testing.T, text string) Entry {
	t.Helper()
	record, services, _ := strings.Cut(text, ":")
	e := Entry{
		Address: netip.MustParseAddr("192.0.2.1"), Pool: "lan", Blocked: strings.Contains(record, "blocked"), Starting: strings.Contains(record, "starting"),
	}
	parent, sharers, _ := strings.Cut(strings.Fields(record)[0], "+")
	switch parent {
	case "none":
	case "pending":
		e.Claim.State = Pending
	case "foreign":
		e.Claim.State = Foreign
	case "left":
		e.Claim = Claim{State: Ours, Parent: named("Z"), Pool: "lan", Left: map[ipam.Service]time.Time{named("Z"): now.Add(-5 * time.Second)}}
	default:
		e.Claim = Claim{State: Ours, Parent: named(parent), Pool: "lan"}
	}
	if e.Claim.State == Ours {
		e.Claim.Sharers = map[ipam.Service][]ipam.Port{}
	}
	for i, word := range strings.Fields(record) {
		switch word {
		case "by":
			e.Claim.Left[named(strings.Fields(record)[i+1])] = now.Add(-5 * time.Second)
		case "reuse":
			e.ReuseAfter, _ = time.ParseDuration(strings.Fields(record)[i+1])
		case "cooling":
			e.Cooling = true
		}
	}
	if strings.Contains(record, "keyed") {
		e.Claim.Key = "k"
	}
	if strings.Contains(record, "in old") {
		e.Claim.Pool, e.Claim.PoolGone = "old", strings.Contains(record, "gone")
	}
	if strings.Contains(record, "in no pool") {
		e.Pool = ""
	}
	for service := range strings.SplitSeq(services, ";") {
		words := strings.Fields(service)
		if len(words) == 0 {
			continue
		}
		need, ok := needs[words[2]]
		if !ok {
			t.Fatalf("%q is no need", words[2])
		}
		s := Standing{Service: named(words[0]), Holds: strings.Contains(words[1], "h"), Publishes: strings.Contains(words[1], "p"), Need: need}
		for i, word := range words[3:] {
			switch {
			case word == "+other":
				s.HasOther = true
			case strings.HasPrefix(word, "was"):
				port, _ := strconv.Atoi(word[3:])
				e.Claim.Sharers[s.Service] = []ipam.Port{{Protocol: "TCP", Number: int32(port)}}
			case word == "in":
				d, err := time.ParseDuration(words[3+i+1])
				if err != nil {
					t.Fatal(err)
				}
				s.Until = now.Add(d)
			case i == 0 || words[3+i-1] != "in":
				port, err := strconv.Atoi(word[1:])
				if err != nil {
					t.Fatal(err)
				}
				s.Sharing = ipam.Sharing{Key: word[:1], Ports: []ipam.Port{{Protocol: "TCP", Number: int32(port)}}}
			}
		}
		e.Services = append(e.Services, s)
		_, listed := e.Claim.Sharers[s.Service]
		own := words[0] == parent && s.Sharing.Key != "" && !strings.Contains(record, "unlisted")
		if own || !listed && slices.Contains(strings.Split(sharers, "+"), words[0]) {
			e.Claim.Sharers[s.Service] = s.Sharing.Ports
		}
	}
	return e
}

func named(name string) ipam.Service { return ipam.Service{Namespace: "default", Name: name} }

// say says what steps do.
func say(steps []Step) string {
	verbs := map[Action]string{
		Hold: "hold", Write: "claim for", Release: "release", Collect: "collect", Drop: "drop", Block: "block",
		Unblock: "unblock", Relabel: "relabel", Share: "share",
		MarkSurplus: "mark surplus", Keep: "keep", Cool: "cool", Wake: "wake", Look: "look",
	}
	var said []string
	for _, s := range steps {
		words := []string{verbs[s.Do], s.Service.Name}
		if s.Sharing.Key != "" {
			word := s.Sharing.Key
			for _, port := range s.Sharing.Ports {
				word += strconv.Itoa(int(port.Number))
			}
			words = append(words, word)
		}
		if !s.Until.IsZero() {
			words = append(words, "in", s.Until.Sub(now).String())
		}
		said = append(said, strings.Join(strings.Fields(strings.Join(words, " ")), " "))
		if end := map[ClaimEnd]string{TakeOff: "take off", MarkLeft: "mark", DeleteClaim: "delete"}[s.Claim]; end != "" {
			said = append(said, end)
		}
	}
	return strings.Join(said, ", ")
}

// TestStepsEnd takes the steps of every entry of up to three Services in memory, and checks that they come to an end:
// no row undoes what another one did.
func TestStepsEnd(t *testing.T) {
	var standings []string
	for _, flags := range []string{"-", "h", "p", "hp"} {
		for need := range needs {
			for _, key := range []string{"", " k80", " k81"} {
				standings = append(standings, flags+" "+need+key)
			}
		}
	}
	slices.Sort(standings)
	for _, claim := range []string{
		"none", "none starting", "none blocked", "A", "A starting", "A keyed starting", "A reuse 10s", "B", "A+B", "A+B starting", "left+B",
		"left", "left starting", "left keyed", "left keyed starting", "left by A reuse 10s", "foreign", "foreign blocked",
	} {
		for _, a := range standings {
			for _, b := range standings {
				text := fmt.Sprintf("%s: A %s; B %s", claim, a, b)
				entry := world(t, text)
				var all []string
				for range 8 {
					steps := Steps(entry, now)
					all = append(all, say(steps))
					if !slices.ContainsFunc(steps, func(s Step) bool { return s.Do < Relabel || s.Do == Share }) {
						all = nil
						break
					}
					for _, step := range steps {
						entry = take(entry, step)
					}
				}
				if all != nil {
					t.Fatalf("%s: no end of steps: %q", text, all)
				}
			}
		}
	}
}

// take takes a step in an entry.
func take(e Entry, step Step) Entry {
	e.Services = slices.Clone(e.Services)
	for i := range e.Services {
		s := &e.Services[i]
		if s.Service == step.Service {
			switch step.Do {
			case Hold:
				s.Holds = true
				e.Blocked = false
			case Release, Collect, Drop:
				s.Holds = false
			case MarkSurplus:
				s.Need, s.Until = Surplus, step.Until
			}
		}
	}
	switch step.Do {
	case Write:
		e.Claim = Claim{State: Ours, Parent: step.Service, Pool: e.Pool}
		e.Claim.Sharers = e.Sharers()
	case Share:
		e.Claim.Sharers = e.Sharers()
	case Release, Collect:
		switch {
		case e.Claim.State != Ours || step.Claim == KeepClaim:
		case step.Claim == DeleteClaim:
			e.Claim = Claim{}
		case step.Claim == TakeOff:
			e.Claim.Sharers = without(e.Claim.Sharers, step.Service)
		default:
			e.Claim.Sharers = without(e.Claim.Sharers, step.Service)
			e.Claim.Left = maps.Clone(e.Claim.Left)
			if e.Claim.Left == nil {
				e.Claim.Left = map[ipam.Service]time.Time{}
			}
			e.Claim.Left[step.Service] = now
		}
	case Cool:
		e.Cooling = true
	case Block:
		e.Blocked = true
	case Unblock:
		e.Blocked = false
	}
	return e
}

func without(sharers map[ipam.Service][]ipam.Port, service ipam.Service) map[ipam.Service][]ipam.Port {
	sharers = maps.Clone(sharers)
	delete(sharers, service)
	return sharers
}
