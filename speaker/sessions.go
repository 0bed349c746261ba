// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"fmt"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/bgp"
	"github.com/tandem-lb/tandem/speaker/config"
)

func (o *objects) password(namespace string, ref config.SecretKey) (bgp.Password, error) {
	for i := range o.secrets.Items {
		secret := &o.secrets.Items[i]
		if client.ObjectKeyFromObject(secret) != (client.ObjectKey{Namespace: namespace, Name: ref.Secret}) {
			continue
		}
		if password, ok := secret.Data[ref.Key]; ok && len(password) == 0 {
			return "", fmt.Errorf("key %q of Secret %s/%s is empty", ref.Key, namespace, ref.Secret)
		} else if ok {
			return bgp.Password(password), nil
		}
		return "", fmt.Errorf("Secret %s/%s has no key %q", namespace, ref.Secret, ref.Key)
	}
	return "", fmt.Errorf("there is no Secret %s/%s", namespace, ref.Secret)
}
