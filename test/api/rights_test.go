// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package api

import (
	"bufio"
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	kruntime "k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/wait"
	auditv1 "k8s.io/apiserver/pkg/apis/audit/v1"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	cloudproviderapi "k8s.io/cloud-provider/api"
	"sigs.k8s.io/controller-runtime/pkg/client"

	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
	"github.com/tandem-lb/tandem/speaker/observation"
	speakerv1alpha1 "github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// rightsNamespace is that of TestRights. The API server logs what the accounts in it ask for, in auditLog.
const rightsNamespace = "lb-rights"

var auditLog string

const auditPolicy = `
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, userGroups: ["system:serviceaccounts:` + rightsNamespace + `"]}
- {level: None}
`

// TestRights compares the roles of both programs with what the API server's audit log says of them. Both run as processes with the tokens of
// their service accounts, and do all that they can: a right that no program uses fails the test, and so does a request that is refused for
// want of one.
func TestRights(t *testing.T) {
	create(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: rightsNamespace}})
	args := install(t, rightsNamespace, "mode=cloud-provider")
	const nodeName = "rights"
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName, Labels: map[string]string{"speaks": "yes"}, Annotations: map[string]string{
			cloudproviderapi.AnnotationAlphaProvidedIPAddr: "198.51.100.11", ipamv1alpha1.AnnotationZone: "hall-1",
		}},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{
			{Key: cloudproviderapi.TaintExternalCloudProvider, Value: "true", Effect: corev1.TaintEffectNoSchedule},
		}},
	}
	create(t, node)
	patchAsAdmin(t, node, `{"status": {"conditions": [{"type": "Ready", "status": "True"}],
		"addresses": [{"type": "InternalIP", "address": "198.51.100.11"}]}}`)

	t.Cleanup(func() { // the speaker has ended by then, and no controller removes what belongs to a Node that is gone
		status := &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
		if err := client.IgnoreNotFound(apiClient.Delete(context.Background(), status)); err != nil {
			t.Error(err)
		}
	})

	m := runInstalled(t, buildProgram(t, "cloud-controller-manager"), rightsNamespace, args)
	loseSpeaker(t)
	speaker := runSpeaker(t, buildProgram(t, "speaker"), nodeName)
	use(t, m)
	speaker.readMetrics(t)
	m.get(t, "/metrics", m.token)

	for _, program := range []string{"cloud-controller-manager", "speaker"} {
		t.Run(program, func(t *testing.T) {
			account := "tandem-" + program
			may := roles(t, account)
			var unused, refused []string
			// Leases are renewed, and events written, a moment later.
			_ = wait.PollUntilContextTimeout(t.Context(), time.Second, patience/3, true, func(context.Context) (bool, error) {
				var used sets.Set[string]
				used, refused = audited(t, account)
				unused = sets.List(may.Difference(used))
				return len(unused) == 0, nil
			})
			if len(unused) > 0 {
				t.Errorf("rights that nothing uses:\n%s", strings.Join(unused, "\n"))
			}
			if len(refused) > 0 {
				t.Errorf("rights that are missing:\n%s", strings.Join(refused, "\n"))
			}
		})
	}
}

// loseSpeaker makes a Node that the DaemonSet of the speakers does not select any more, and the SpeakerStatus of the speaker that it had, which
// another speaker reports dead. It waits until the controller manager has deleted the status, for which it takes a minute.
func loseSpeaker(t *testing.T) {
	t.Helper()
	const gone = "without-speaker"
	labels := map[string]string{"app": "speaker"}
	create(t, &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "tandem-speaker", Namespace: rightsNamespace},
		Spec: appsv1.DaemonSetSpec{
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}, Spec: corev1.PodSpec{
				NodeSelector: map[string]string{"speaks": "yes"}, Containers: []corev1.Container{{Name: "speaker", Image: "speaker"}},
			}},
		},
	})
	create(t, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: gone}})
	status := &speakerv1alpha1.SpeakerStatus{ObjectMeta: metav1.ObjectMeta{Name: gone}}
	create(t, status)
	report := observation.Report(rightsNamespace, "reporter", nil, []string{gone}, time.Now())
	if err := apiClient.Create(t.Context(), report); err != nil {
		t.Fatal(err)
	}
	if err := wait.PollUntilContextTimeout(t.Context(), time.Second, 2*patience, true, func(ctx context.Context) (bool, error) {
		report.Spec.RenewTime = &metav1.MicroTime{Time: time.Now()}
		if err := apiClient.Update(ctx, report); err != nil {
			return false, err
		}
		return apierrors.IsNotFound(apiClient.Get(ctx, client.ObjectKeyFromObject(status), status)), nil
	}); err != nil {
		t.Errorf("the SpeakerStatus of a node that is to have no speaker is kept: %v", err)
	}
	if err := apiClient.Delete(t.Context(), report); err != nil {
		t.Fatal(err)
	}
}

// use has both programs use their rights.
func use(t *testing.T, m *manager) {
	t.Helper()
	for kind, rest := range map[string]string{
		"BGPPeer":                `spec: {myASN: 64512, peerASN: 64513, peerAddress: 198.51.100.1}`,
		"BGPAdvertisement":       "",
		"BFDProfile":             "",
		"Community":              `spec: {communities: [{name: a, value: "64512:1"}]}`,
		"InterfaceAdvertisement": "",
	} {
		create(t, object(t, kind, `metadata: {name: rights}`+"\n"+rest))
	}
	create(t, object(t, "AddressPool", `{metadata: {name: rights}, spec: {ipv4: {ranges: [198.51.100.200-198.51.100.209]}}}`))
	create(t, object(t, "AddressPool", `{metadata: {name: kept}, spec: {ipv4: {ranges: [198.51.100.210-198.51.100.219]}, reuseAfter: 1m}}`))
	advertisement := func() client.Object { return object(t, "L2Advertisement", `metadata: {name: rights}`) }
	if err := apiClient.Create(t.Context(), advertisement()); err != nil {
		t.Fatal(err)
	}
	record := &speakerv1alpha1.L2Announcement{}
	services := map[string]*corev1.Service{}
	for name, pool := range map[string]string{"web": "rights", "mail": "kept"} {
		svc := &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: metav1.NamespaceDefault, Annotations: map[string]string{ipamv1alpha1.AnnotationAddressPool: pool},
			},
			Spec: corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, Ports: []corev1.ServicePort{{Port: 80}}},
		}
		if err := apiClient.Create(t.Context(), svc); err != nil {
			t.Fatal(err)
		}
		services[name] = svc
		create(t, &discoveryv1.EndpointSlice{
			ObjectMeta: metav1.ObjectMeta{
				Name: name, Namespace: metav1.NamespaceDefault, Labels: map[string]string{discoveryv1.LabelServiceName: name},
			},
			AddressType: discoveryv1.AddressTypeIPv4,
			Endpoints:   []discoveryv1.Endpoint{{Addresses: []string{"10.244.0.9"}, NodeName: new("rights")}},
		})
	}
	holds := func(node string) func(context.Context) bool {
		return func(ctx context.Context) bool {
			err := apiClient.Get(ctx, client.ObjectKey{Name: "default.web"}, record)
			return err == nil && record.Status.Node == node
		}
	}
	m.until(t, "a holder of web", holds("rights"))
	// Given up and taken once more, the record is updated, and the event is written as the same once more.
	if err := apiClient.Delete(t.Context(), advertisement()); err != nil {
		t.Fatal(err)
	}
	m.until(t, "the end of the announcement", holds(""))
	create(t, advertisement())
	m.until(t, "a holder of web again", holds("rights"))
	// The same for the event of the controller manager: the Service gets the address that it had.
	for _, to := range []struct {
		kind corev1.ServiceType
		node string
	}{{corev1.ServiceTypeClusterIP, ""}, {corev1.ServiceTypeLoadBalancer, "rights"}} {
		if err := apiClient.Patch(t.Context(), services["web"],
			client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec": {"type": %q}}`, to.kind))); err != nil {
			t.Fatal(err)
		}
		m.until(t, "web as "+string(to.kind), func(ctx context.Context) bool {
			err := apiClient.Get(ctx, client.ObjectKey{Name: "default.web"}, record)
			return to.node == "" && apierrors.IsNotFound(err) || to.node != "" && err == nil && record.Status.Node == to.node
		})
	}
	for _, svc := range services {
		remove(t, svc)
	}
	m.until(t, "the end of the record", func(ctx context.Context) bool {
		return apierrors.IsNotFound(apiClient.Get(ctx, client.ObjectKey{Name: "default.web"}, record))
	})
}

// roles returns the rights that the chart's roles give an account, as "update tandem-lb.io/speakerstatuses/status". To read is one right: an
// account that may list may get and watch, and which of the three an informer uses depends on the versions of client and server.
func roles(t *testing.T, account string) sets.Set[string] {
	t.Helper()
	rendered, err := template(t, rightsNamespace, "mode=cloud-provider", "crds.install=false")
	if err != nil {
		t.Fatal(err)
	}
	may := sets.New[string]()
	for _, o := range rendered {
		if !strings.HasSuffix(o.GetKind(), "Role") || !strings.HasPrefix(o.GetName(), account) {
			continue
		}
		role := &rbacv1.ClusterRole{}
		if err := kruntime.DefaultUnstructuredConverter.FromUnstructured(o.Object, role); err != nil {
			t.Fatal(err)
		}
		for _, rule := range role.Rules {
			for _, group := range rule.APIGroups {
				for _, resource := range rule.Resources {
					for _, verb := range rule.Verbs {
						may.Insert(right(verb, group, resource))
					}
				}
			}
		}
	}
	if len(may) == 0 {
		t.Fatalf("the chart has no role for %s", account)
	}
	return may
}

func right(verb, group, resource string) string {
	if slices.Contains([]string{"get", "list", "watch"}, verb) {
		verb = "read"
	}
	return fmt.Sprintf("%s %s/%s", verb, group, resource)
}

// audited returns the rights that an account has used according to the audit log, and those that it was refused.
func audited(t *testing.T, account string) (used sets.Set[string], refused []string) {
	t.Helper()
	file, err := os.Open(auditLog)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	used = sets.New[string]()
	for lines := bufio.NewReader(file); ; {
		line, err := lines.ReadBytes('\n')
		if err != nil { // io.EOF, or the beginning of a line
			return used, refused
		}
		var event auditv1.Event
		if err := json.Unmarshal(line, &event); err != nil {
			t.Fatal(err)
		}
		if event.User.Username != "system:serviceaccount:"+rightsNamespace+":"+account || event.ObjectRef == nil {
			continue
		}
		asked := right(event.Verb, event.ObjectRef.APIGroup, strings.TrimSuffix(event.ObjectRef.Resource+"/"+event.ObjectRef.Subresource, "/"))
		if event.Annotations["authorization.k8s.io/decision"] == "allow" {
			used.Insert(asked)
		} else if !slices.Contains(refused, asked) {
			refused = append(refused, asked)
		}
	}
}

// speakerProcess is a speaker in a network namespace of its own, with an interface that leads nowhere.
type speakerProcess struct{ network, token string }

// runSpeaker starts the speaker of a node, and ends it with the test.
func runSpeaker(t *testing.T, program, node string) speakerProcess {
	t.Helper()
	s := speakerProcess{network: fmt.Sprintf("tandem-api-%d", os.Getpid()), token: speakerToken(t, rightsNamespace, node)}
	ip := func(args ...string) {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %v: %v\n%s", args, err, out)
		}
	}
	ip("netns", "add", s.network)
	t.Cleanup(func() { ip("netns", "delete", s.network) })
	for _, line := range []string{
		"link set lo up", "link add eth0 type veth peer name peer0", "link set peer0 up", "link set eth0 up",
		"addr add 198.51.100.11/24 dev eth0",
	} {
		ip(append([]string{"-n", s.network}, strings.Fields(line)...)...)
	}
	s.reachAPI(t)
	log := &buffer{}
	cmd := exec.Command("nsenter", "--net=/run/netns/"+s.network, "--", program, "--node-name="+node, "--namespace="+rightsNamespace,
		"--kubeconfig="+writeKubeconfig(t, &clientcmdapi.AuthInfo{Token: s.token}), "--health-socket="+filepath.Join(t.TempDir(), "health.sock"))
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		_ = cmd.Wait()
		if t.Failed() {
			t.Log(log.String())
		}
	})
	return s
}

// reachAPI makes the address of the API server, which is one of the loopback interface, lead to it in the network namespace too.
func (s speakerProcess) reachAPI(t *testing.T) {
	t.Helper()
	address := strings.Trim(strings.TrimPrefix(config.Host, "https://"), "/")
	listener, err := inNetwork(s.network, func() (net.Listener, error) { return net.Listen("tcp", address) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", address)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
	}()
}

// readMetrics reads the metrics of the speaker, which asks the API server about the token.
func (s speakerProcess) readMetrics(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://127.0.0.1:7574/metrics", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Authorization", "Bearer "+s.token)
	insecure := &http.Client{Transport: &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true,
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
			return inNetwork(s.network, func() (net.Conn, error) { return net.DialTimeout(network, address, time.Second) })
		},
	}}
	response, err := insecure.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusForbidden { // which is the answer to an account that is known
		t.Errorf("GET /metrics of the speaker: %s, want 403", response.Status)
	}
}

// inNetwork makes a socket in a network namespace, to which it belongs from then on.
func inNetwork[T any](network string, socket func() (T, error)) (made T, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // It is never unlocked, so that the thread ends with the goroutine.
		var handle netns.NsHandle
		if handle, err = netns.GetFromName(network); err != nil {
			return
		}
		defer handle.Close()
		if err = netns.Set(handle); err == nil {
			made, err = socket()
		}
	}()
	<-done
	return made, err
}
