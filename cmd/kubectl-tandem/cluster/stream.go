// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
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
// other kinds. The ordinary client begins to decode when all of it has come.
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

// List implements [client.Reader]. What the API server says in answer is an error as it is of any client;
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
	decoder := json.NewDecoder(stream)
	return decodeList(decoder, &list.ListMeta, func() error {
		var a v1alpha1.L2Announcement
		if err := decoder.Decode(&a); err != nil {
			return err
		}
		a.ManagedFields = nil // for the memory
		list.Items = append(list.Items, a)
		return nil
	})
}

// decodeList reads a list of objects, as the API server writes it. It decodes the list's metadata into meta, and calls item at the beginning of each
// item, as soon as that has come; item decodes it.
func decodeList(d *json.Decoder, meta any, item func() error) error {
	if first, err := token(d); err != nil || first != json.Delim('{') {
		return cmp.Or(err, fmt.Errorf("the answer begins with %v, and is no list", first))
	}
	for d.More() {
		name, err := token(d)
		if err != nil {
			return err
		}
		switch name {
		case "items":
			err = decodeItems(d, item)
		case "metadata":
			err = d.Decode(meta)
		default:
			err = d.Decode(&json.RawMessage{})
		}
		if err != nil {
			return err
		}
	}
	_, err := token(d)
	return err
}

// decodeItems calls item for each element of an array, or for none of null.
func decodeItems(d *json.Decoder, item func() error) error {
	first, err := token(d)
	if err != nil || first == nil {
		return err
	}
	if first != json.Delim('[') {
		return fmt.Errorf("the items begin with %v, and are no list", first)
	}
	for d.More() {
		if err := item(); err != nil {
			return err
		}
	}
	_, err = token(d)
	return err
}

// token returns the next token of an answer that is not at its end.
func token(d *json.Decoder) (json.Token, error) {
	t, err := d.Token()
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return t, err
}
