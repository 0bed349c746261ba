// SPDX-License-Identifier: Apache-2.0

package report

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/cluster"
)

const (
	// logLines and logBytes bound the log of a container.
	logLines = 5000
	logBytes = 4 << 20
	// mostSpeakers is how many speakers are asked, and have their logs read: of a large cluster the first by name.
	mostSpeakers = 20
	// mostEvents is how many events of the cluster are looked through.
	mostEvents = 10000
)

// Gather reads all that a report has in it. What cannot be read is Missing, but for the error of a cluster of which nothing can be read.
func Gather(ctx context.Context, c *cluster.Cluster) (*Bundle, error) {
	s, failures := c.ReadPart(ctx)
	if s == nil {
		return nil, failures[0]
	}
	b := &Bundle{Objects: map[string][]map[string]any{}, Texts: map[string][]byte{}}
	for _, err := range failures {
		b.Missing = append(b.Missing, err.Error())
	}
	b.addState(s)
	b.readPrograms(ctx, c, s.System)
	if events, err := c.Clientset.CoreV1().Events("").List(ctx, metav1.ListOptions{Limit: mostEvents}); err != nil {
		b.miss("events", err)
	} else {
		b.addEvents(events.Items, s.System)
		if events.Continue != "" {
			b.Missing = append(b.Missing, fmt.Sprintf("events: the cluster has more than the %d that were looked through", len(events.Items)))
		}
	}
	b.askSpeakers(ctx, c, s)
	return b, nil
}

func (b *Bundle) miss(what string, err error) {
	b.Missing = append(b.Missing, fmt.Sprintf("%s: %v", what, err))
}

// readPrograms reads the Deployment, the DaemonSet, and the Pods with their logs.
func (b *Bundle) readPrograms(ctx context.Context, c *cluster.Cluster, system string) {
	if deployments, err := c.Clientset.AppsV1().Deployments(system).List(ctx, metav1.ListOptions{}); err != nil {
		b.miss("Deployments", err)
	} else {
		addAll(b, "deployments", deployments.Items)
	}
	if daemonSets, err := c.Clientset.AppsV1().DaemonSets(system).List(ctx, metav1.ListOptions{}); err != nil {
		b.miss("DaemonSets", err)
	} else {
		addAll(b, "daemonsets", daemonSets.Items)
	}
	pods, err := c.Clientset.CoreV1().Pods(system).List(ctx, metav1.ListOptions{LabelSelector: "app.kubernetes.io/name=tandem"})
	if err != nil {
		b.miss("Pods", err)
		return
	}
	addAll(b, "pods", pods.Items)
	for i := range pods.Items {
		if i == 2*mostSpeakers {
			b.Missing = append(b.Missing, fmt.Sprintf("logs of %d Pods more", len(pods.Items)-i))
			break
		}
		b.readLogs(ctx, c, &pods.Items[i])
	}
}

// readLogs reads the logs of a Pod: what runs, and what ran before in a container that has restarted.
func (b *Bundle) readLogs(ctx context.Context, c *cluster.Cluster, pod *corev1.Pod) {
	for _, status := range pod.Status.ContainerStatuses {
		for _, previous := range []bool{false, true} {
			if previous && status.RestartCount == 0 {
				continue
			}
			file := "programs/" + pod.Name + ".log"
			if previous {
				file = "programs/" + pod.Name + ".before.log"
			}
			options := &corev1.PodLogOptions{Container: status.Name, Previous: previous, TailLines: new(int64(logLines)), LimitBytes: new(int64(logBytes))}
			text, err := c.Clientset.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, options).DoRaw(ctx)
			if err != nil {
				b.miss(file, err)
				continue
			}
			b.Texts[file] = text
		}
	}
}

// askSpeakers asks the looking glasses of speakers that are alive.
func (b *Bundle) askSpeakers(ctx context.Context, c *cluster.Cluster, s *cluster.State) {
	for i := range s.Speakers.Items {
		if i == mostSpeakers {
			b.Missing = append(b.Missing, fmt.Sprintf("the looking glasses of %d speakers more", len(s.Speakers.Items)-i))
			break
		}
		node := s.Speakers.Items[i].Name
		if !s.Snapshot.Alive(node) {
			b.Missing = append(b.Missing, "speakers/"+node+": the speaker is not alive")
			continue
		}
		speaker, err := c.Speaker(ctx, s.System, node)
		if err != nil {
			b.miss("speakers/"+node, err)
			continue
		}
		b.askSpeaker(ctx, speaker, s, node)
		_ = speaker.Close() // What it has said is here.
	}
}

// askSpeaker asks one speaker for all that it tells.
func (b *Bundle) askSpeaker(ctx context.Context, speaker *cluster.Speaker, s *cluster.State, node string) {
	paths := map[string]string{"sessions": "/bgp/sessions", "bfd": "/bfd", "facts": "/facts"}
	for i := range s.Speakers.Items {
		for _, session := range s.Speakers.Items[i].Status.BGPSessions {
			if s.Speakers.Items[i].Name == node {
				paths["routes-"+session.Peer] = "/bgp/routes?peer=" + url.QueryEscape(session.Peer)
			}
		}
	}
	for name, path := range paths {
		file := "speakers/" + node + "/" + name + ".json"
		var answer json.RawMessage
		if err := speaker.Get(ctx, path, &answer); err != nil {
			b.miss(file, err)
			continue
		}
		b.Texts[file] = append(answer, '\n')
	}
}
