// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/cli-runtime/pkg/genericclioptions"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/speaker/v1alpha1"
)

// TestDecodeList takes lists apart, however few bytes come at a time.
func TestDecodeList(t *testing.T) {
	for _, tt := range []struct {
		name, list string
		items      []string
		version    string
		wantErr    string
	}{
		{
			name: "the API server's order", version: "7",
			list:  `{"kind":"X","apiVersion":"v1","metadata":{"resourceVersion":"7"},"items":[{"metadata":{"name":"a"}},{"b":1}]}` + "\n",
			items: []string{`{"metadata":{"name":"a"}}`, `{"b":1}`},
		},
		{
			name: "another order, with white space", version: "7",
			list:  ` { "items" : [ {"a":1} , {} ] , "metadata" : { "resourceVersion" : "7" } } `,
			items: []string{`{"a":1}`, `{}`},
		},
		{name: "braces and quotation marks in strings", list: `{"x":"}]\"","items":[{"y":"\\\"{"}]}`, items: []string{`{"y":"\\\"{"}`}},
		{name: "fields of other kinds", list: `{"x":{"items":[{}]},"y":[1,2],"z":null,"items":[]}`},
		{name: "null", list: `{"items":null,"metadata":{"resourceVersion":"8"}}`, version: "8"},
		{name: "none", list: `{}`},
		{name: "cut short", list: `{"items":[{"a":1},{"b":`, items: []string{`{"a":1}`}, wantErr: "unexpected EOF"},
		{name: "cut short between items", list: `{"items":[{"a":1}`, items: []string{`{"a":1}`}, wantErr: "unexpected EOF"},
		{name: "cut short behind the items", list: `{"items":[]`, wantErr: "unexpected EOF"},
		{name: "empty", wantErr: "unexpected EOF"},
		{name: "an array", list: `[]`, wantErr: "begins with ["},
		{name: "items that are no list", list: `{"items":{}}`, wantErr: "begin with {"},
		{name: "metadata of another type", list: `{"metadata":[]}`, wantErr: "cannot unmarshal array"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(tt.list), iotest.OneByteReader(strings.NewReader(tt.list)), iotest.DataErrReader(strings.NewReader(tt.list))} {
				var meta metav1.ListMeta
				var items []string
				d := json.NewDecoder(r)
				err := decodeList(d, &meta, func() error {
					var item json.RawMessage
					err := d.Decode(&item)
					if err == nil {
						items = append(items, string(item))
					}
					return err
				})
				if tt.wantErr == "" && err != nil || tt.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tt.wantErr)) {
					t.Errorf("the error is %v, want %q", err, tt.wantErr)
				}
				if diff := cmp.Diff(tt.items, items); diff != "" {
					t.Errorf("items (-want +got):\n%s", diff)
				}
				if meta.ResourceVersion != tt.version {
					t.Errorf("the version is %q, want %q", meta.ResourceVersion, tt.version)
				}
			}
		})
	}
}

// TestListAnnouncements lists L2Announcements of an API server that says this or that.
func TestListAnnouncements(t *testing.T) {
	const list = `{"kind":"L2AnnouncementList","apiVersion":"tandem-lb.io/v1alpha1","metadata":{"resourceVersion":"7"},"items":[{
		"kind":"L2Announcement","apiVersion":"tandem-lb.io/v1alpha1","metadata":{"name":"default.web","managedFields":[{"manager":"x"}]},
		"service":{"namespace":"default","name":"web"},"status":{"node":"node1","addresses":["192.0.2.1"],"since":"2026-03-01T12:00:00.000001Z"}}]}`
	for _, tt := range []struct {
		name  string
		serve func(asked int, w http.ResponseWriter)
		is    func(error) bool // nil for no error
		asked int
	}{
		{name: "a list", serve: func(_ int, w http.ResponseWriter) { fmt.Fprint(w, list) }, asked: 1},
		{
			name: "a stream that breaks off once", asked: 2,
			serve: func(asked int, w http.ResponseWriter) {
				if asked == 1 {
					fmt.Fprint(w, list[:len(list)-9])
					return
				}
				fmt.Fprint(w, list)
			},
		},
		{
			name: "no right", asked: 1, is: apierrors.IsForbidden,
			serve: func(_ int, w http.ResponseWriter) {
				w.WriteHeader(http.StatusForbidden)
				fmt.Fprint(w, `{"kind":"Status","apiVersion":"v1","status":"Failure","reason":"Forbidden","code":403}`)
			},
		},
		{
			name: "no such kind", asked: 1, is: apierrors.IsNotFound,
			serve: func(_ int, w http.ResponseWriter) {
				w.Header().Set("Content-Type", "text/plain")
				w.WriteHeader(http.StatusNotFound)
				fmt.Fprint(w, "404 page not found")
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			asked := 0
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/apis/tandem-lb.io/v1alpha1/l2announcements" {
					t.Errorf("asked for %s", r.URL)
				}
				asked++
				w.Header().Set("Content-Type", "application/json")
				tt.serve(asked, w)
			}))
			defer server.Close()
			flags, none := genericclioptions.NewConfigFlags(false), os.DevNull
			flags.APIServer, flags.KubeConfig = &server.URL, &none
			c, err := Connect(flags, "")
			if err != nil {
				t.Fatal(err)
			}
			var got v1alpha1.L2AnnouncementList
			err = c.Client.List(t.Context(), &got)
			if asked != tt.asked {
				t.Errorf("the API server was asked %d times, want %d", asked, tt.asked)
			}
			if tt.is != nil {
				if !tt.is(err) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil || len(got.Items) != 1 || got.ResourceVersion != "7" {
				t.Fatalf("got %+v, error %v", got, err)
			}
			a := got.Items[0]
			if key := client.ObjectKeyFromObject(&a); key.Name != "default.web" || a.Kind != "L2Announcement" || a.Service.Name != "web" || a.Status.Node != "node1" ||
				len(a.Status.Addresses) != 1 || a.Status.Since == nil {
				t.Errorf("got %+v", a)
			}
		})
	}
}
