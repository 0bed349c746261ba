// SPDX-License-Identifier: Apache-2.0

package gobgp

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"

	"github.com/go-logr/logr"
	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"
	"k8s.io/klog/v2"
)

// logHandler receives GoBGP's log: a record that tells why a session is not established goes to failed, and every record to
// klog, four levels down.
//
// GoBGP tells the loss of an established session by apiutil.PeerState.DisconnectMessage as well. The log stays the one source
// nevertheless: it alone has the connections that were refused, and the reason that an operator gave when shutting a session down
// (RFC 9003), such as "maintenance until 14:00".
type logHandler struct {
	slog.Handler
	failed func(string)
	muted  *atomic.Bool
}

func newLogHandler(logger klog.Logger, failed func(string)) *logHandler {
	return &logHandler{Handler: logr.ToSlogHandler(logger.V(4)), failed: failed, muted: &atomic.Bool{}}
}

func (h *logHandler) slogger() *slog.Logger { return slog.New(h) }

// mute drops everything from now on.
func (h *logHandler) mute() { h.muted.Store(true) }

// Enabled lets all levels through, since failed connections are reported at the debug level.
func (h *logHandler) Enabled(context.Context, slog.Level) bool { return !h.muted.Load() }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	if text := failure(r); text != "" {
		h.failed(text)
	}
	if !h.Handler.Enabled(ctx, r.Level) {
		return nil
	}
	return h.Handler.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &logHandler{Handler: h.Handler.WithAttrs(attrs), failed: h.failed, muted: h.muted}
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	return &logHandler{Handler: h.Handler.WithGroup(name), failed: h.failed, muted: h.muted}
}

// failure returns what has gone wrong with the session according to a record of GoBGP's log, "" if nothing has. The texts are those
// of the pinned version, which the tests against routers compare.
func failure(r slog.Record) string {
	attrs := map[string]slog.Value{}
	collect := func() {
		r.Attrs(func(a slog.Attr) bool {
			attrs[a.Key] = a.Value
			return true
		})
	}
	switch r.Message {
	case "failed to connect":
		collect()
		text := attrs["Error"].String()
		if strings.HasSuffix(text, "i/o timeout") {
			// By RFC 2385 §4.1 and RFC 5082 §3 a packet with a wrong signature or TTL is dropped, and not answered.
			text += ": no answer from the peer; a different password or TTL security looks the same"
		}
		return text
	case "outgoing connection IO error":
		return "the peer closed the connection before it sent an OPEN"
	case "sent notification", "received notification":
		collect()
		verb, _, _ := strings.Cut(r.Message, " ")
		code := packet.NewNotificationErrorCode(uint8(attrs["Code"].Int64()), uint8(attrs["Subcode"].Int64()))
		text := fmt.Sprintf("%s NOTIFICATION %v", verb, code)
		if reason, ok := attrs["Communicated-Reason"]; ok && reason.String() != "" {
			text += fmt.Sprintf(" %q", reason.String())
		}
		return text
	case "Session will be reset due to malformed BGP Header", "Session will be reset due to malformed BGP message",
		"Session will be reset due to malformed BGP update message":
		collect()
		return "the peer sent a malformed message: " + attrs["Error"].String()
	}
	return ""
}
