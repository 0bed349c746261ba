// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"k8s.io/klog/v2"
)

// healthTimeout bounds a question about health.
const healthTimeout = 5 * time.Second

// Health serves the checks, by name, on a Unix socket until the context ends. It replaces a socket that is left of a container before.
func Health(ctx context.Context, socket string, checks map[string]func() error) error {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("the health socket of an earlier start: %w", err)
	}
	listener, err := (&net.ListenConfig{}).Listen(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("health socket: %w", err)
	}
	mux := http.NewServeMux()
	for name, check := range checks {
		mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) {
			if err := check(); err != nil {
				http.Error(w, err.Error(), http.StatusServiceUnavailable)
			}
		})
	}
	return serve(ctx, newServer(klog.FromContext(ctx), mux), listener)
}

// AskHealth returns the error of a check of the speaker that serves the socket.
func AskHealth(ctx context.Context, socket, check string) error {
	ctx, cancel := context.WithTimeout(ctx, healthTimeout)
	defer cancel()
	client := http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://speaker/"+check, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 4096))
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("%s: %s", check, strings.TrimSpace(string(text)))
	}
	return nil
}
