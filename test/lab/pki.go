// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// authority is the lab's one certificate authority: for servers, clients and kubelets alike. Its key is never stored.
type authority struct {
	dir         string // where certificates are written
	key         crypto.Signer
	certificate *x509.Certificate
}

func newAuthority(dir string) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := certificate("lab", nil)
	template.IsCA = true
	template.KeyUsage |= x509.KeyUsageCertSign
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	parsed, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	a := &authority{dir: dir, key: key, certificate: parsed}
	return a, writePEM(filepath.Join(dir, "ca.crt"), "CERTIFICATE", der)
}

// issue writes name.crt and name.key. In Kubernetes the common name is the user and the organisation the group.
func (a *authority) issue(name, user string, groups []string, dnsNames []string, ips []netip.Addr) error {
	key, err := writeKey(filepath.Join(a.dir, name+".key"))
	if err != nil {
		return err
	}
	template := certificate(user, groups)
	template.DNSNames = dnsNames
	for _, ip := range ips {
		template.IPAddresses = append(template.IPAddresses, net.IP(ip.AsSlice()))
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, key.Public(), a.key)
	if err != nil {
		return err
	}
	return writePEM(filepath.Join(a.dir, name+".crt"), "CERTIFICATE", der)
}

// kubeconfig issues a client certificate and writes name.kubeconfig, which holds all that it needs.
func (a *authority) kubeconfig(name, server, user string, groups ...string) error {
	if err := a.issue(name, user, groups, nil, nil); err != nil {
		return err
	}
	config := clientcmdapi.NewConfig()
	config.CurrentContext = "lab"
	config.Contexts["lab"] = &clientcmdapi.Context{Cluster: "lab", AuthInfo: name}
	cluster, auth := clientcmdapi.NewCluster(), clientcmdapi.NewAuthInfo()
	cluster.Server = server
	for file, data := range map[string]*[]byte{
		"ca.crt":      &cluster.CertificateAuthorityData,
		name + ".crt": &auth.ClientCertificateData,
		name + ".key": &auth.ClientKeyData,
	} {
		content, err := os.ReadFile(filepath.Join(a.dir, file))
		if err != nil {
			return err
		}
		*data = content
	}
	config.Clusters["lab"], config.AuthInfos[name] = cluster, auth
	return clientcmd.WriteToFile(*config, filepath.Join(a.dir, name+".kubeconfig"))
}

// certificate returns a template that suits clients and servers.
func certificate(commonName string, organisations []string) *x509.Certificate {
	serial, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)) // Never fails, per crypto/rand.
	now := time.Now()
	return &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: commonName, Organization: organisations},
		NotBefore:             now.Add(-time.Hour),
		NotAfter:              now.AddDate(1, 0, 0),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		BasicConstraintsValid: true,
	}
}

func writeKey(file string) (crypto.Signer, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, err
	}
	return key, writePEM(file, "PRIVATE KEY", der)
}

func writePEM(file, kind string, der []byte) error {
	return os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}
