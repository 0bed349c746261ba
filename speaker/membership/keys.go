// SPDX-License-Identifier: Apache-2.0

package membership

import (
	"bytes"
	"crypto/hkdf"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"
	"time"
)

const (
	// useAfter is how long after a speaker has learnt of a new key it encrypts with that: all others know it by then, and decrypt with it.
	useAfter = 10 * time.Second
	// dropAfter is how long after that it still decrypts with a key that is not wanted any more.
	dropAfter = time.Minute
)

// A rotation is the change from some keys to others.
type rotation struct {
	wanted  [][]byte // the first encrypts
	learned time.Time
	used    bool // the first encrypts already
	dropped bool // all others are gone
}

// SetKeys replaces the secret that all speakers share, while they go on. Gossip is encrypted with the first, and decrypted with each. For
// example the key was "old" and becomes "new": from now on this speaker decrypts both, after ten seconds it encrypts with "new", and a
// minute later it does not decrypt "old" any more. Calling it again with the same keys does nothing.
func (m *Members) SetKeys(now time.Time, secrets ...[]byte) error {
	var keys [][]byte
	for _, secret := range secrets {
		key, err := derive(secret)
		if err != nil {
			return err
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return errors.New("changing the membership key: there is no key")
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if slices.EqualFunc(m.keys.wanted, keys, bytes.Equal) {
		return nil
	}
	for _, key := range keys {
		if err := m.ring.AddKey(key); err != nil {
			return fmt.Errorf("changing the membership key: %w", err)
		}
	}
	m.keys = rotation{wanted: keys, learned: now}
	m.logger.Info("Learnt another membership key", "usedIn", useAfter.String())
	return nil
}

// rotate does what is due of a change of keys.
func (m *Members) rotate(now time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k := &m.keys
	if k.learned.IsZero() || k.dropped || now.Sub(k.learned) < useAfter {
		return
	}
	if !k.used {
		k.used = true
		if err := m.ring.UseKey(k.wanted[0]); err != nil {
			m.logger.Error(err, "Failed to use another membership key")
		}
	}
	if now.Sub(k.learned) < useAfter+dropAfter {
		return
	}
	k.dropped = true
	for _, key := range slices.Clone(m.ring.GetKeys()) {
		if !slices.ContainsFunc(k.wanted, func(wanted []byte) bool { return bytes.Equal(wanted, key) }) {
			if err := m.ring.RemoveKey(key); err != nil {
				m.logger.Error(err, "Failed to forget a membership key")
			}
		}
	}
}

// derive returns the key of a secret.
func derive(secret []byte) ([]byte, error) {
	if len(secret) == 0 {
		return nil, errors.New("deriving the membership key: the secret is empty")
	}
	key, err := hkdf.Key(sha256.New, secret, nil, "tandem-lb.io membership v1", 32)
	if err != nil {
		return nil, fmt.Errorf("deriving the membership key: %w", err)
	}
	return key, nil
}
