// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/config"
	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// streaming is a client that decodes L2Announcements while the API server is still sending them. There is one for each Service, and of a kind that a
// CRD defines the API server has JSON alone: it sends 9 MB for 10,000, more than half of them managedFields, and takes longer for that than for all
// other kinds. The ordinary client begins to decode when all of it has come, and decodes managedFields too.
type streaming struct {
	client.Client
	rest rest.Interface // of the group of L2Announcement
}

// newStreaming returns a client that lists L2Announcements by a stream, and does all else by another client.
func newStreaming(c client.Client, restConfig *rest.Config, httpClient *http.Client) (*streaming, error) {
	of := rest.CopyConfig(restConfig)
	of.APIPath, of.GroupVersion = "/apis", &v1alpha1.GroupVersion
	of.NegotiatedSerializer = serializer.NewCodecFactory(config.Scheme()).WithoutConversion() // for a Status
	restClient, err := rest.RESTClientForConfigAndClient(of, httpClient)
	if err != nil {
		return nil, err
	}
	return &streaming{Client: c, rest: restClient}, nil
}

// List implements [client.Reader]. L2Announcements are without managedFields. What the API server says in answer is an error as it is of any client;
// where a stream breaks off, the other client tries again.
func (s *streaming) List(ctx context.Context, list client.ObjectList, options ...client.ListOption) error {
	announcements, ok := list.(*v1alpha1.L2AnnouncementList)
	if !ok || len(options) > 0 {
		return s.Client.List(ctx, list, options...)
	}
	err := s.listAnnouncements(ctx, announcements)
	if status := apierrors.APIStatus(nil); err == nil || ctx.Err() != nil || errors.As(err, &status) {
		return err
	}
	*announcements = v1alpha1.L2AnnouncementList{}
	return s.Client.List(ctx, list)
}

func (s *streaming) listAnnouncements(ctx context.Context, list *v1alpha1.L2AnnouncementList) error {
	stream, err := s.rest.Get().Resource("l2announcements").SetHeader("Accept", "application/json").Stream(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = stream.Close() }()
	return decodeList(stream, &list.ListMeta, func(item []byte) error {
		list.Items = append(list.Items, v1alpha1.L2Announcement{})
		return json.Unmarshal(item, &list.Items[len(list.Items)-1])
	})
}

// decodeList reads a list of objects in JSON, as the API server writes it. It decodes metadata of the list into meta, and calls each for every item as
// soon as that has come, without the managedFields of its metadata. An item is overwritten by the next. For example
//
//	{"kind": "L2AnnouncementList", "metadata": {"resourceVersion": "7"}, "items": [{"metadata": {"name": "a", "managedFields": [{}]}}, {}]}
//
// has the items {"metadata":{"name": "a"}} and {}.
func decodeList(r io.Reader, meta any, each func(item []byte) error) error {
	s := &scanner{from: r, buffer: make([]byte, 0, 64<<10)}
	s.object(s.space(), func(name []byte, _ int) error {
		switch string(name) {
		case "items":
			return s.items(each)
		case "metadata":
			return s.decode(meta)
		}
		s.value(s.space())
		return nil
	})
	return s.err
}

// scanner goes through JSON byte by byte. It finds where values begin and end, and leaves it to the decoder of those that it keeps whether they are
// right.
type scanner struct {
	from   io.Reader
	buffer []byte // what was read last
	at     int    // the next byte of it
	err    error  // the first error; all bytes after it are 0

	keep       bool // bytes are appended to kept
	kept, name []byte
}

// next returns the next byte.
func (s *scanner) next() byte {
	if s.at == len(s.buffer) {
		s.fill()
	}
	b := s.buffer[s.at]
	s.at++
	if s.keep {
		s.kept = append(s.kept, b)
	}
	return b
}

// fill reads more. At the end, and after an error, what was read is one byte 0.
func (s *scanner) fill() {
	n, err := 0, s.err
	for n == 0 && err == nil {
		n, err = s.from.Read(s.buffer[:cap(s.buffer)])
	}
	if n > 0 {
		s.buffer, s.at = s.buffer[:n], 0
		return
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	s.fail(err)
	s.buffer, s.at = append(s.buffer[:0], 0), 0
}

// fail takes in an error, nil for none, if it is the first.
func (s *scanner) fail(err error) {
	if s.err == nil {
		s.err = err
	}
}

// back takes the last byte back.
func (s *scanner) back() {
	s.at--
	if s.keep {
		s.kept = s.kept[:len(s.kept)-1]
	}
}

// space returns the next byte that is no white space.
func (s *scanner) space() byte {
	for {
		b := s.next()
		if b != ' ' && b != '\n' && b != '\r' && b != '\t' {
			return b
		}
		if s.keep {
			s.kept = s.kept[:len(s.kept)-1]
		}
	}
}

// want takes in that the byte b has to be another one.
func (s *scanner) want(b, wanted byte) {
	if b != wanted {
		s.fail(fmt.Errorf("there is %q in JSON where %q has to be", b, wanted))
	}
}

// value goes to the end of the value that begins with a byte.
func (s *scanner) value(first byte) {
	switch first {
	case '"':
		s.text()
	case '{', '[':
		for depth := 1; depth > 0 && s.err == nil; {
			switch s.next() {
			case '{', '[':
				depth++
			case '}', ']':
				depth--
			case '"':
				s.text()
			}
		}
	default: // a number, true, false or null
		for s.err == nil {
			switch s.next() {
			case ',', '}', ']', ' ', '\n', '\r', '\t':
				s.back()
				return
			}
		}
	}
}

// text goes to the end of a string whose first quotation mark was read.
func (s *scanner) text() {
	for s.err == nil {
		switch s.next() {
		case '"':
			return
		case '\\':
			s.next()
		}
	}
}

// object goes through an object that begins with a byte, and calls field for the name of each field and the length of kept before it. Field goes to the
// end of the value, and the name is overwritten by the next.
func (s *scanner) object(first byte, field func(name []byte, before int) error) {
	s.want(first, '{')
	for s.err == nil {
		before := len(s.kept)
		b := s.space()
		if b == ',' {
			if s.keep && s.kept[before-1] == '{' {
				s.kept = s.kept[:before] // The field before it was left out.
			}
			b = s.space()
		}
		if b == '}' {
			return
		}
		s.want(b, '"')
		s.name = s.name[:0]
		for b = s.next(); b != '"' && s.err == nil; b = s.next() {
			s.name = append(s.name, b)
		}
		s.want(s.space(), ':')
		if s.err == nil {
			s.fail(field(s.name, before))
		}
	}
}

// decode decodes the next value.
func (s *scanner) decode(into any) error {
	s.kept, s.keep = s.kept[:0], true
	s.value(s.space())
	s.keep = false
	if s.err != nil {
		return s.err
	}
	return json.Unmarshal(s.kept, into)
}

// items goes through the items of a list, null or an array.
func (s *scanner) items(each func(item []byte) error) error {
	first := s.space()
	if first != '[' {
		s.value(first)
		return nil
	}
	for s.err == nil {
		s.kept = s.kept[:0]
		s.keep = true
		switch b := s.space(); b {
		case ',':
		case ']':
			s.keep = false
			return nil
		default:
			s.item(b)
			s.keep = false
			if s.err == nil {
				s.fail(each(s.kept))
			}
		}
	}
	return s.err
}

// item keeps an object that begins with a byte, but for the managedFields of its metadata.
func (s *scanner) item(first byte) {
	s.object(first, func(name []byte, _ int) error {
		first := s.space()
		if string(name) != "metadata" || first != '{' {
			s.value(first)
			return nil
		}
		s.object(first, func(name []byte, before int) error {
			if string(name) != "managedFields" {
				s.value(s.space())
				return nil
			}
			s.keep = false
			s.value(s.space())
			s.kept, s.keep = s.kept[:before], true
			return nil
		})
		return nil
	})
}
