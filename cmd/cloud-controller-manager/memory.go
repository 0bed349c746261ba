// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"runtime/metrics"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/cloud-provider/options"
)

// Most of this program's memory are caches, to which Go's default of 100 percent of garbage adds as much again: 10,000 Services take 250 MiB
// with it. The heap may hold leastGarbage, or leastPercent of what is in use where that is more. The price is paid while much changes: to
// collect the 80 MB of 10,000 Services takes 50 ms of a processor, and happens once for about every 80 Services that get addresses; the 20 MB of
// 1,000 Services take 12 ms. startPercent holds until it is known how much is in use.
const (
	leastGarbage = 12 << 20
	leastPercent = 10
	startPercent = 20
	tunePeriod   = time.Second
)

// garbagePercent is how much garbage the heap may hold for each 100 bytes in use.
func garbagePercent(inUse uint64) int {
	return max(leastPercent, int(100*leastGarbage/max(inUse, leastGarbage)))
}

// tuneCollector keeps the garbage collector at what garbagePercent says. A program that becomes the leader reads 80 MB in two seconds.
func tuneCollector() {
	percent := startPercent
	debug.SetGCPercent(percent)
	inUse := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for range time.Tick(tunePeriod) {
		metrics.Read(inUse)
		if now := garbagePercent(inUse[0].Value.Uint64()); now != percent {
			percent = now
			debug.SetGCPercent(percent)
		}
	}
}

// eventsRemembered is of how many objects the events that are alike are put together. Client-go would remember 4,096, which takes 6 MB.
const eventsRemembered = 256

// newRecorder returns a recorder whose events name the source that the framework's name.
func newRecorder(client kubernetes.Interface) record.EventRecorder {
	broadcaster := record.NewBroadcasterWithCorrelatorOptions(record.CorrelatorOptions{LRUCacheSize: eventsRemembered})
	broadcaster.StartStructuredLogging(0)
	broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: options.CloudControllerManagerUserAgent})
}
