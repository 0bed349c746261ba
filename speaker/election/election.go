// SPDX-License-Identifier: Apache-2.0

// Package election decides which node holds a sharing group on layer 2: the addresses, of one family or of both, that must be announced by
// one and the same node.
//
// There is no vote and no lease. [Holder] is a pure function of four inputs, and every speaker calls it for itself:
//
//   - the key of the group, for example the Service's namespace and name, or its sharing key;
//   - the holder that is recorded in the API;
//   - the candidates: nodes that could announce the group and are not excluded from doing so;
//   - which speakers are alive, by gossip.
//
// The node that finds its own name in the answer announces. So these hold:
//
//   - Speakers with equal inputs agree, in whatever order they received them.
//   - A recorded holder that is alive and a candidate keeps the group. A node that joins or comes back takes nothing, and neither does one
//     that a user prefers: preference decides only when a new holder has to be chosen. (If the record is deleted, or the holder excluded, a
//     new one is chosen.)
//   - Otherwise the live candidate with the highest weight holds it, and among equals the one with the highest random weight, also called
//     rendezvous hashing: the groups of a node that dies spread over the others, and no other group moves. [Place] bounds what one of them
//     gets; package decision counts.
//   - As long as a candidate is alive there is a holder.
//
// What speakers see differs for moments, and then their answers do:
//
//   - A node dies. As the others notice, each by itself comes to the same successor, which announces first and is recorded after. An API
//     that is down delays nothing.
//   - The API is down. Records and candidates stay as last read, so that holders stay too; deaths are still handled. A successor cannot be
//     recorded: if the dead holder then returns while the API is still down, every speaker goes back to it by the old record, and they
//     still agree.
//   - The network is cut. Each side sees the other as dead and has one holder of its own, if it has a candidate: there is no fencing, since
//     two announcers on two segments serve more clients than none. (A node that sees no other node is no matter of this package: its
//     speaker says what it does.) Only a side that reaches the API can change the record.
//   - The cut heals. For as long as gossip and the API's watch take there may be two. As soon as all see the same live nodes and the same
//     record, there is exactly one: the recorded holder, which then has to announce anew, because clients on the other side believe the
//     other one.
package election

import "github.com/cespare/xxhash/v2"

// A Candidate is a node that could hold a group: its speaker has an interface for the addresses, and nothing excludes it.
type Candidate struct {
	Node string
	// Weight is the sum of the weights of all the preferences that match the node; 0 if none does.
	Weight int32
}

// Holder returns the node that holds the group called key, and false where no candidate is alive. An empty recorded means that no holder is
// on record. The order of the candidates does not matter.
func Holder(key, recorded string, candidates []Candidate, alive func(node string) bool) (node string, ok bool) {
	for _, c := range candidates {
		if c.Node == recorded && alive(recorded) {
			return recorded, true
		}
	}
	var best Candidate
	var bestScore uint64
	rank := ranking(key)
	for _, c := range candidates {
		if !alive(c.Node) || ok && c.Weight < best.Weight {
			continue
		}
		score := rank(c.Node)
		if !ok || c.Weight > best.Weight || score > bestScore || score == bestScore && c.Node < best.Node {
			best, bestScore, ok = c, score, true
		}
	}
	return best.Node, ok
}

// Place returns the node that takes a group which nobody holds, among candidates that are alive and have equal weights: the one with the
// highest random weight among those that are not full and have an endpoint of the group, or else among those that are not full, or else among
// all. So endpoints save a hop where they are, and do not heap groups on one node. There has to be a candidate.
func Place(key string, candidates []Candidate, full, local func(node string) bool) string {
	type place struct {
		node        string
		room, local bool
		score       uint64
	}
	rank := ranking(key)
	var best place
	for _, c := range candidates {
		p := place{c.Node, !full(c.Node), local(c.Node), rank(c.Node)}
		better := p.score > best.score || p.score == best.score && p.node < best.node
		if p.local != best.local {
			better = p.local
		}
		if p.room != best.room {
			better = p.room
		}
		if best.node == "" || better {
			best = p
		}
	}
	return best.node
}

// ranking returns the score of each node for a key: XXH64, seed 0, over the key, a zero byte, and the node's name. It is part of the
// protocol: speakers of different releases must compute the same, so it can never change. The zero byte cannot occur in a name, so that no
// two pairs hash the same bytes. FNV would not do, because it hardly mixes its last bytes, and these are all that tells node1 from node2:
// their scores would move together.
func ranking(key string) func(node string) uint64 {
	var prefix xxhash.Digest
	prefix.Reset()
	_, _ = prefix.WriteString(key)
	_, _ = prefix.Write([]byte{0})
	return func(node string) uint64 {
		digest := prefix
		_, _ = digest.WriteString(node)
		return digest.Sum64()
	}
}
