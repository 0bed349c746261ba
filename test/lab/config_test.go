// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

func TestValidate(t *testing.T) {
	for _, test := range []struct {
		name      string
		config    Config
		wantError string
	}{
		{name: "the zero value with defaults"},
		{name: "one family", config: Config{Families: IPv6}},
		{name: "a name that could leave its directory", config: Config{Name: "../x"}, wantError: `name "../x"`},
		{name: "a name too long for a socket's path", config: Config{Name: strings.Repeat("x", 21)}, wantError: "name"},
		{name: "more nodes than addresses", config: Config{Nodes: 81}, wantError: "81 nodes"},
		{name: "a family that doesn't exist", config: Config{Families: "ipv5"}, wantError: `"ipv5"`},
		{
			name:      "the address of a node that isn't there",
			config:    Config{NodeIPs: map[string]string{"node4": "::1"}},
			wantError: "node4",
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			test.config.Defaults()
			err := test.config.Validate()
			if test.wantError == "" && err != nil {
				t.Errorf("error = %v, want none", err)
			}
			if test.wantError != "" && (err == nil || !strings.Contains(err.Error(), test.wantError)) {
				t.Errorf("error = %v, want one with %q", err, test.wantError)
			}
		})
	}
}

func testLab(config Config) *Lab {
	config.Name = "x"
	config.Defaults()
	return &Lab{
		dir: "/var/lib/tandem-lab/x", config: config,
		plan: plan{name: "x", nodes: config.Nodes, families: config.Families},
	}
}

func TestControlPlaneFlags(t *testing.T) {
	for _, test := range []struct {
		name    string
		config  Config
		program string
		want    []string
	}{
		{
			name:    "the API server of a dual-stack lab has both Service ranges, IPv4 first",
			program: "kube-apiserver",
			want: []string{
				"--advertise-address=198.51.100.10", "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
			},
		},
		{
			name:    "the API server of an IPv6 lab",
			config:  Config{Families: IPv6},
			program: "kube-apiserver",
			want:    []string{"--advertise-address=2001:db8:51::10", "--service-cluster-ip-range=fd00:96::/112"},
		},
		{
			name:    "the controller manager leaves nodes to an external cloud provider",
			config:  Config{ExternalCloudProvider: true, Families: IPv4},
			program: "kube-controller-manager",
			want:    []string{"--cluster-cidr=10.244.0.0/16", "--cloud-provider=external"},
		},
		{
			name:    "the controller manager without a cloud provider",
			program: "kube-controller-manager",
			want:    []string{"--cluster-cidr=10.244.0.0/16,fd00:244::/48", "--cloud-provider="},
		},
	} {
		t.Run(test.name, func(t *testing.T) {
			got := testLab(test.config).controlPlaneFlags(test.program)
			for _, want := range test.want {
				if !slices.Contains(got, want) {
					t.Errorf("%s is not among the flags:\n%s", want, strings.Join(got, "\n"))
				}
			}
		})
	}
}

func TestCNIConfig(t *testing.T) {
	want := `{
  "cniVersion": "1.0.0",
  "name": "lab",
  "plugins": [
    {
      "bridge": "cni0",
      "hairpinMode": true,
      "ipam": {
        "ranges": [
          [
            {
              "subnet": "10.244.2.0/24"
            }
          ],
          [
            {
              "subnet": "fd00:244:0:2::/64"
            }
          ]
        ],
        "routes": [
          {
            "dst": "0.0.0.0/0"
          },
          {
            "dst": "::/0"
          }
        ],
        "type": "host-local"
      },
      "isGateway": true,
      "type": "bridge"
    },
    {
      "capabilities": {
        "portMappings": true
      },
      "type": "portmap"
    }
  ]
}`
	if diff := cmp.Diff(want, cniConfig(plan{name: "x", nodes: 3, families: Dual}, 2)); diff != "" {
		t.Errorf("network configuration (-want +got):\n%s", diff)
	}
}

func TestKubeletConfig(t *testing.T) {
	var got map[string]any
	if err := yaml.UnmarshalStrict([]byte(testLab(Config{}).kubeletConfig("node2")), &got); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"tlsCertFile":              "/var/lib/tandem-lab/x/pki/node2-server.crt",
		"containerRuntimeEndpoint": "unix:///var/lib/tandem-lab/x/node2/containerd.sock",
		"cgroupRoot":               "/tandem-lab-x/node2/pods",
		"evictionHard": map[string]any{
			"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%",
		},
	}
	for key, value := range want {
		if diff := cmp.Diff(value, got[key]); diff != "" {
			t.Errorf("%s (-want +got):\n%s", key, diff)
		}
	}
}

func TestNodeScript(t *testing.T) {
	want := `hostname node1
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/lock
mkdir -p '/var/lib/lab/x/node1/root/var/lib/lab/x'
mount --bind '/var/lib/lab/x' '/var/lib/lab/x/node1/root/var/lib/lab/x'
mount --rbind '/var/lib/lab/x/node1/root/var/lib' /var/lib
mount --rbind '/var/lib/lab/x/node1/root/var/log' /var/log
mount --make-rshared /
exec '/home/lab/.cache/pause'
`
	keep := []string{"/home/lab/.cache", "/var/lib/lab/x"}
	got := nodeScript("node1", "/var/lib/lab/x/node1/root", "/home/lab/.cache/pause", keep)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("script (-want +got):\n%s", diff)
	}
}

func TestStagingRequires(t *testing.T) {
	gomod := `module k8s.io/kubernetes

require (
	github.com/google/go-cmp v0.7.0
	k8s.io/api v0.0.0
	k8s.io/mount-utils v0.0.0 // indirect
)

replace (
	k8s.io/api => ./staging/src/k8s.io/api
	k8s.io/other => example.com/other v1.0.0
	k8s.io/mount-utils => ./staging/src/k8s.io/mount-utils
)
`
	want := `require (
	k8s.io/api v0.1.2
	k8s.io/mount-utils v0.1.2
)
`
	if diff := cmp.Diff(want, stagingRequires(gomod, "v0.1.2")); diff != "" {
		t.Errorf("requirements (-want +got):\n%s", diff)
	}
}

func prefixes(t *testing.T, texts []string) []netip.Prefix {
	t.Helper()
	var prefixes []netip.Prefix
	for _, text := range texts {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			t.Fatal(err)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes
}
