// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

func TestPassword(t *testing.T) {
	secret := func(namespace, name, key, value string) corev1.Secret {
		return corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Data: map[string][]byte{key: []byte(value)}}
	}
	o := &objects{secrets: corev1.SecretList{Items: []corev1.Secret{
		secret("elsewhere", "tor-auth", "password", "not ours"),
		secret("tandem-system", "tor-auth", "password", "s3cret"),
		secret("tandem-system", "empty", "other", "x"),
		secret("tandem-system", "blank", "password", ""),
	}}}
	for _, tt := range []struct {
		name      string
		key       config.SecretKey
		want      bgp.Password
		wantError string
	}{
		{name: "a password of our own namespace", key: config.SecretKey{Secret: "tor-auth", Key: "password"}, want: "s3cret"},
		{
			name: "a Secret that is missing", key: config.SecretKey{Secret: "tor2-auth", Key: "password"},
			wantError: "there is no Secret tandem-system/tor2-auth",
		},
		{
			name: "a key that is missing", key: config.SecretKey{Secret: "empty", Key: "password"},
			wantError: `Secret tandem-system/empty has no key "password"`,
		},
		{
			name: "a password that is empty", key: config.SecretKey{Secret: "blank", Key: "password"},
			wantError: `key "password" of Secret tandem-system/blank is empty`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := o.password("tandem-system", tt.key)
			if (err == nil) != (tt.wantError == "") || err != nil && err.Error() != tt.wantError {
				t.Fatalf("error %v, want %q", err, tt.wantError)
			}
			if got != tt.want {
				t.Errorf("password %q, want %q", string(got), string(tt.want))
			}
		})
	}
}
