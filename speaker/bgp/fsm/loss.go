// SPDX-License-Identifier: Apache-2.0

package fsm

import (
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	packet "github.com/osrg/gobgp/v4/pkg/packet/bgp"

	"github.com/tandem-lb/tandem/speaker/bgp"
)

// loss is why a connection ends, and how.
type loss struct {
	// reason is for the user. It is empty where the user has ended the session.
	reason string
	// code and subcode are those of the NOTIFICATION that the peer is sent, with data after them; none is sent where code is 0.
	code, subcode uint8
	data          []byte
	// withdraw sends withdrawals of all routes first.
	withdraw bool
	// restart closes the connection without a NOTIFICATION if the peer has agreed to graceful restart.
	restart bool
	// wait is how long to wait before the next attempt. Where it is 0, that depends on how the attempts before went.
	wait time.Duration
}

// Error returns the reason.
func (l *loss) Error() string { return l.reason }

// breach is the loss of a connection on which the peer has done what it must not do. It is told by a NOTIFICATION.
func breach(code, subcode uint8, detail string, args ...any) *loss {
	detail = fmt.Sprintf(detail, args...)
	return &loss{
		reason: fmt.Sprintf("sent NOTIFICATION %v: %s", packet.NewNotificationErrorCode(code, subcode), detail),
		code:   code, subcode: subcode,
	}
}

// failure is the loss of a connection that cannot be written to or read from any more, or on which nothing is left to say.
func failure(reason string, args ...any) *loss { return &loss{reason: fmt.Sprintf(reason, args...)} }

// shutdownCommunication returns a text as the data of a CEASE, for the log of the router (RFC 9003 §2). It is cut after 128 bytes, which
// routers of RFC 8203 take, at the end of a character.
func shutdownCommunication(text string) []byte {
	text = strings.ToValidUTF8(text, "?")
	if most := packet.BGP_ERROR_ADMINISTRATIVE_COMMUNICATION_MAX; len(text) > most {
		for !utf8.RuneStart(text[most]) {
			most--
		}
		text = text[:most]
	}
	return append([]byte{byte(len(text))}, text...)
}

// advice says of NOTIFICATIONs what the user who reads them has to know besides.
var advice = map[packet.NotificationErrorCode]string{
	packet.NewNotificationErrorCode(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_PEER_AS): "the peer expects another AS number " +
		"than our %[1]d",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_OPEN_MESSAGE_ERROR, packet.BGP_ERROR_SUB_BAD_BGP_IDENTIFIER): "the peer, or another one of " +
		"its peers, has our router ID %[2]v",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_MAXIMUM_NUMBER_OF_PREFIXES_REACHED): "the peer takes fewer " +
		"prefixes than it was sent",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_CONNECTION_REJECTED): "the peer is not configured for this " +
		"address of ours, or refuses it for now",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_CONNECTION_COLLISION_RESOLUTION): "the peer has another " +
		"session with the same address of this node, perhaps with another program on it",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_CEASE, packet.BGP_ERROR_SUB_HARD_RESET): "a hard reset (RFC 8538)",
	packet.NewNotificationErrorCode(packet.BGP_ERROR_CEASE, subBFDDown):                      "the peer's BFD session with this node is down (RFC 9384)",
}

// subBFDDown is a subcode of CEASE (RFC 9384) that GoBGP's package does not name.
const subBFDDown = 10

// received is the loss of a connection that the peer ends with a NOTIFICATION.
func received(body []byte, peer bgp.Peer) *loss {
	var n packet.BGPNotification
	if err := n.DecodeFromBytes(body); err != nil {
		return failure("received a NOTIFICATION that cannot be read: %v", err)
	}
	code := packet.NewNotificationErrorCode(n.ErrorCode, n.ErrorSubcode)
	reason := fmt.Sprintf("received NOTIFICATION %v", code)
	if n.ErrorCode == packet.BGP_ERROR_CEASE {
		data := n.Data
		if n.ErrorSubcode == packet.BGP_ERROR_SUB_HARD_RESET && len(data) >= 2 { // the error that it stands for comes first
			data = data[2:]
		}
		if len(data) > 1 { // RFC 9003; a length that is too great is taken for the rest
			if text := data[1:]; len(text) > 0 && data[0] > 0 {
				reason += fmt.Sprintf(" %q", text[:min(len(text), int(data[0]))])
			}
		}
	}
	if text, ok := advice[code]; ok {
		if strings.Contains(text, "%[") {
			text = fmt.Sprintf(text, peer.LocalASN, peer.RouterID)
		}
		reason += ": " + text
	}
	return failure("%s", reason)
}
