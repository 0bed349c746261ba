// SPDX-License-Identifier: Apache-2.0

package speaker

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/decision"
	"github.com/tandem-lb/tandem/speaker/internal/nettest"
	"github.com/tandem-lb/tandem/speaker/lan"
	"github.com/tandem-lb/tandem/speaker/layer2"
	"github.com/tandem-lb/tandem/speaker/membership"
)

// detectorEnv is set for a process of BenchmarkDetector: to the number of its node, the number of nodes and how many of them are alive once it is,
// as "3/100/3", or to "burn".
const detectorEnv = "TANDEM_DETECTOR"

// A finding of a node says that another is dead for it from some moment on, or alive again: where addresses would move.
type finding struct {
	By, Node string
	Dead     bool
	At       time.Time
}

// detectorNode names node i, and says how it is reached.
func detectorNode(i int) (name string, address netip.Addr, mac [6]byte) {
	return fmt.Sprint("node", i), netip.AddrFrom4([4]byte{10, 9, byte(i >> 8), byte(i)}), [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}
}

// detect runs what finds dead nodes, as the speaker of a node does: gossip and the questions to kernels. It writes its findings to standard output,
// and first one about no node, when it has found all that are alive.
func detect(encoded string) error {
	var self, count, alive int
	if _, err := fmt.Sscanf(encoded, "%d/%d/%d", &self, &count, &alive); err != nil {
		return err
	}
	klog.LogToStderr(false)
	klog.SetOutput(nowhere{})
	ctx := context.Background()
	name, address, _ := detectorNode(self)
	k := newKernels(name, lan.New(lan.Interval, nil))
	members, err := membership.Join(ctx, membership.Config{
		Node: name, Bind: address, Port: 7573, Key: []byte("key"), Registerer: prometheus.NewRegistry(), OnMessage: k.hear,
	})
	if err != nil {
		return err
	}
	addresses, targets, nodes := map[string][]netip.Addr{}, []lan.Target{}, map[string]decision.Node{}
	for i := 1; i <= count; i++ {
		other, at, mac := detectorNode(i)
		addresses[other] = []netip.Addr{at}
		nodes[other] = decision.Node{Interfaces: []decision.Interface{{Name: "eth0"}}}
		if i != self {
			targets = append(targets, lan.Target{
				Key: lan.Key{Node: other, Interface: "eth0"}, Via: "eth0", MAC: mac, Pairs: []lan.Pair{{Own: address, Target: at}},
			})
		}
	}
	members.SetPeers(addresses)
	eth0, err := net.InterfaceByName("eth0")
	if err != nil {
		return err
	}
	via := []layer2.Interface{{Name: eth0.Name, Index: eth0.Index, MAC: eth0.HardwareAddr}}
	go func() { _ = k.run(ctx) }()
	go func() { _ = k.tell(ctx, members.SendAll) }()
	roster, dead, out := newRoster(time.Now(), 30*time.Second), map[string]bool{}, json.NewEncoder(os.Stdout)
	for {
		now := time.Now()
		p := roster.Update(now, members.Alive(), seenByAPI{known: addresses, ready: func(string) bool { return true }})
		view := maps.Clone(nodes)
		away, gone := k.Update(ctx, now, p, slices.Clone(targets), via, view)
		roster.GiveUp(gone)
		if alive > 0 && len(members.Alive().Nodes) >= alive {
			alive = 0
			if err := out.Encode(finding{By: name, At: now}); err != nil {
				return err
			}
		}
		for node, n := range view {
			if is := n.Interfaces[0].Silent || !p.alive(node) && !away[node]; is != dead[node] {
				dead[node] = is
				if err := out.Encode(finding{name, node, is, now}); err != nil {
					return err
				}
			}
		}
		for waiting := true; waiting; {
			waiting = false
			select {
			case <-members.Changes():
			case <-k.changes():
			case said := <-k.heard:
				waiting = !k.Hear(time.Now(), said)
			case <-k.due.C:
			}
		}
	}
}

// nowhere takes a log.
type nowhere struct{}

func (nowhere) Write(b []byte) (int, error) { return len(b), nil }

// BenchmarkDetector runs a hundred nodes, each a process with sockets of its own in a namespace of its own, on one LAN, and has three of them
// die at once, again and again. It reports how long it takes until the last of the others has found each dead, and how often one is found dead that
// lives. It runs once on a machine that is otherwise idle, and once while two processes for each processor burn it. A node at rest costs 20 MB and
// 0.4 per cent of a processor; TANDEM_DETECTOR_NODES has the benchmark run with fewer. Run it with -benchtime=20x. Before the first death nobody dies
// for as long as TANDEM_DETECTOR_WATCH says, as 1h, and each that is found dead by then is a false death.
func BenchmarkDetector(b *testing.B) {
	const deaths = 3
	count := 100
	if n, err := strconv.Atoi(os.Getenv("TANDEM_DETECTOR_NODES")); err == nil {
		count = n
	}
	for _, load := range []string{"idle", "burnt"} {
		b.Run(load, func(b *testing.B) {
			d := newDetector(b, count)
			if load == "burnt" {
				d.burn()
			}
			d.watch()
			var each []time.Duration
			for i := 0; b.Loop(); i++ {
				var victims []int
				for v := range deaths {
					victims = append(victims, (i*deaths+v*count/deaths)%count+1)
				}
				each = append(each, d.kill(victims)...)
				d.revive(victims)
			}
			slices.Sort(each)
			b.ReportMetric(0, "ns/op")
			b.ReportMetric(float64(each[len(each)/2].Milliseconds()), "median-ms")
			b.ReportMetric(float64(each[len(each)*99/100].Milliseconds()), "p99-ms")
			b.ReportMetric(float64(each[len(each)-1].Milliseconds()), "worst-ms")
			b.ReportMetric(float64(d.mistakes), "false-deaths")
		})
	}
}

// detector are the nodes of BenchmarkDetector.
type detector struct {
	b          *testing.B
	lan        *nettest.Switch
	namespaces []*nettest.Namespace // of node 1 and so on
	processes  []*exec.Cmd
	findings   chan finding
	count      int
	mistakes   int
}

// newDetector starts nodes, and waits until all have seen each other for a while.
func newDetector(b *testing.B, count int) *detector {
	d := &detector{
		b: b, lan: nettest.NewSwitch(b, "detector-switch"), findings: make(chan finding, 1<<16), count: count,
		processes: make([]*exec.Cmd, count),
	}
	for i := 1; i <= count; i++ {
		name, address, mac := detectorNode(i)
		ns := nettest.New(b, "detector-"+name)
		d.lan.Plug(b, ns, net.HardwareAddr(mac[:]).String())
		ns.IP(b, "addr add %s/16 dev eth0", address)
		ns.IP(b, "link set lo up")
		ns.IP(b, "link set eth0 up")
		d.namespaces = append(d.namespaces, ns)
	}
	d.introduce()
	b.Cleanup(func() {
		for i := 1; i <= count; i++ {
			d.stop(i)
		}
	})
	for i := 1; i <= count; i++ { // one after the other: the processors of this machine stand for those of all nodes
		d.start(i, i)
	}
	d.settle()
	return d
}

// introduce has each node know the MACs of all others. Ten thousand neighbours are more than the kernel keeps of those that it has learnt itself, for
// all namespaces together: it would forget them, and ask all stations again and again.
func (d *detector) introduce() {
	known := ""
	for i := 1; i <= d.count; i++ {
		_, address, mac := detectorNode(i)
		known += fmt.Sprintf("neigh replace %s lladdr %s dev eth0 nud permanent\n", address, net.HardwareAddr(mac[:]))
	}
	batch := filepath.Join(d.b.TempDir(), "neighbours")
	if err := os.WriteFile(batch, []byte(known), 0o600); err != nil {
		d.b.Fatal(err)
	}
	for _, ns := range d.namespaces {
		ns.IP(d.b, "-batch %s", batch)
	}
}

// settle waits until nothing was found for ten seconds.
func (d *detector) settle() {
	for {
		select {
		case <-d.findings:
		case <-time.After(10 * time.Second):
			return
		}
	}
}

// start starts node i, and waits until it has found all that are alive, itself included.
func (d *detector) start(i, alive int) {
	cmd := d.namespaces[i-1].Command(os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d/%d/%d", detectorEnv, i, d.count, alive), fmt.Sprint("GOMAXPROCS=", Processors))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = startSlack(cmd)
	}
	if err != nil {
		d.b.Fatal(err)
	}
	d.processes[i-1] = cmd
	name, _, _ := detectorNode(i)
	complete := make(chan struct{})
	go func() {
		for in := json.NewDecoder(out); ; {
			var f finding
			if in.Decode(&f) != nil {
				return
			}
			if f.Node == "" {
				close(complete)
				continue
			}
			d.findings <- f
		}
	}()
	select {
	case <-complete:
	case <-time.After(30 * time.Second):
		d.b.Fatalf("%s does not find all %d nodes that are alive", name, alive)
	}
}

// startSlack starts a program with the timer slack that the program of a speaker has.
func startSlack(cmd *exec.Cmd) error {
	runtime.LockOSThread() // A process has the slack of the thread that starts it.
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(TimerSlack), 0, 0, 0); err != nil {
		return err
	}
	return cmd.Start()
}

func (d *detector) stop(i int) {
	if cmd := d.processes[i-1]; cmd != nil {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		d.processes[i-1] = nil
	}
}

// burn burns both processors until the benchmark ends.
func (d *detector) burn() {
	for range 4 {
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), detectorEnv+"=burn")
		if err := cmd.Start(); err != nil {
			d.b.Fatal(err)
		}
		d.b.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	}
}

// watch counts who is found dead in a time in which nobody dies. The time is that of the environment, none by default.
func (d *detector) watch() {
	text := os.Getenv("TANDEM_DETECTOR_WATCH")
	if text == "" {
		return
	}
	lasts, err := time.ParseDuration(text)
	if err != nil {
		d.b.Fatalf("TANDEM_DETECTOR_WATCH: %v; give a duration, as 1h", err)
	}
	for over := time.After(lasts); ; {
		select {
		case f := <-d.findings:
			d.mistake(f)
		case <-over:
			return
		}
	}
}

// kill takes the power of some nodes at once, and returns after how long each other node has found each of them dead.
func (d *detector) kill(victims []int) (each []time.Duration) {
	for len(d.findings) > 0 {
		d.mistake(<-d.findings)
	}
	names := map[string]bool{}
	for _, v := range victims {
		name, _, _ := detectorNode(v)
		names[name] = true
	}
	start := time.Now()
	for _, v := range victims {
		_ = d.processes[v-1].Process.Signal(syscall.SIGSTOP)
		d.lan.SetPort(d.b, d.namespaces[v-1], "down")
	}
	for missing := (d.count - len(victims)) * len(victims); missing > 0; {
		select {
		case f := <-d.findings:
			switch {
			case names[f.By]:
			case !names[f.Node]:
				d.mistake(f)
			case f.Dead:
				each = append(each, f.At.Sub(start))
				missing--
			default:
				missing++ // It has changed its mind.
			}
		case <-time.After(30 * time.Second):
			d.b.Fatalf("%d findings are missing", missing)
		}
	}
	return each
}

// mistake counts a node that is found dead and lives.
func (d *detector) mistake(f finding) {
	if f.Dead {
		d.mistakes++
		d.b.Logf("%s finds %s dead, which lives", f.By, f.Node)
	}
}

// revive starts nodes again.
func (d *detector) revive(victims []int) {
	for i, v := range victims {
		d.stop(v)
		d.lan.SetPort(d.b, d.namespaces[v-1], "up")
		d.start(v, d.count-len(victims)+i+1)
	}
	d.settle()
}
