// SPDX-License-Identifier: Apache-2.0

package ui

import (
	"context"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	cdpruntime "github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/tandem-lb/tandem/cmd/kubectl-tandem/internal/fixture"
	ipamv1alpha1 "github.com/tandem-lb/tandem/ipam/v1alpha1"
)

// browse starts Debian's Chromium without a window, for as long as the test lasts. What the page throws, or what its policy keeps it from loading, fails
// the test.
func browse(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.ExecPath("chromium"), chromedp.NoSandbox, chromedp.WindowSize(1280, 900),
		chromedp.WSURLReadTimeout(time.Minute)) // of a machine that is busy
	ctx, cancel := chromedp.NewExecAllocator(t.Context(), options...)
	t.Cleanup(cancel)
	ctx, cancel = chromedp.NewContext(ctx)
	t.Cleanup(cancel)
	if err := chromedp.Listen(ctx, func(event any) {
		switch e := event.(type) {
		case *cdpruntime.EventExceptionThrown:
			t.Errorf("the page throws %s %+v", e.ExceptionDetails.Text, e.ExceptionDetails.Exception)
		case *cdpruntime.EventConsoleAPICalled:
			t.Errorf("the page says %+v", e.Args)
		}
	}); err != nil {
		t.Fatalf("starting chromium, which `make deps` installs: %v", err)
	}
	return ctx
}

// shows returns what waits until an expression of the page is true. The policy of the page lets chromedp.Poll run no function there.
func shows(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		ticker := time.NewTicker(20 * time.Millisecond)
		defer ticker.Stop()
		for {
			if is, err := chromedp.Evaluate[bool](expression)(ctx, target); err == nil && is {
				return nil
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("it is never true that %s: %w", expression, ctx.Err())
			case <-ticker.C:
			}
		}
	})
}

// frame waits until the page has drawn what was asked for before.
var frame = chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
	_, err := chromedp.Evaluate[bool](`new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(true))))`, chromedp.EvalAwaitPromise)(ctx, target)
	return err
})

// picture returns what takes a picture of the whole page, into the directory that TANDEM_SCREENSHOTS names, to be looked at.
func picture(name string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		dir := os.Getenv("TANDEM_SCREENSHOTS")
		if dir == "" {
			return nil
		}
		image, err := chromedp.FullScreenshot(100)(ctx, target)
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(dir, name+".png"), image, 0o600)
	})
}

// colours returns what has the browser ask for a theme, without motion: a picture is of a moment.
func colours(scheme string) chromedp.Action[chromedp.Void] {
	return chromedp.Func(func(ctx context.Context, target *chromedp.Target) error {
		_, err := cdp.Call(ctx, target, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: "reduce"}},
		})
		return err
	})
}

// counted has the pool say how many of its IPv4 addresses are taken and free, and that it has IPv6 addresses, too.
func (s *stage) counted(t *testing.T, taken, free int64) {
	t.Helper()
	pool := &ipamv1alpha1.AddressPool{}
	if err := s.Get(t.Context(), client.ObjectKey{Name: "lan"}, pool); err != nil {
		t.Fatal(err)
	}
	pool.Status.IPv4 = &ipamv1alpha1.PartitionStatus{Capacity: taken + free, Allocated: taken, Available: free}
	pool.Status.IPv6 = &ipamv1alpha1.PartitionStatus{Capacity: 4096, Allocated: 1, Available: 4095}
	if err := s.Client.Update(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
}

// The page sees a Service appear and move, without being loaded anew; says why on a click and by the keyboard alone; and can be read in both themes and
// on a phone.
func TestPage(t *testing.T) {
	s := newStage(t, fixture.Service("shop", "node3", everywhere, "198.51.100.210", "2001:db8:51::1010")...)
	s.counted(t, 1, 39)
	s.Server.Update(t.Context())
	server := httptest.NewServer(s.Handler())
	defer server.Close()
	defer server.CloseClientConnections()
	ctx := browse(t)
	run := func(what string, actions ...chromedp.Action[chromedp.Void]) {
		t.Helper()
		ctx, cancel := context.WithTimeout(ctx, time.Minute) // of a machine that is busy; the page needs a moment
		defer cancel()
		if err := chromedp.Do(ctx, actions...); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	run("the page loads", chromedp.Navigate(server.URL+s.Path()), shows(`document.querySelector('[data-key="service default/shop"]') !== null`),
		shows(`document.getElementById("connection").textContent === "live"`), shows(`document.querySelectorAll(".columns path").length > 0`))

	s.add(t, fixture.Service("web", "node1", everywhere, "198.51.100.200"))
	s.counted(t, 2, 38)
	s.Server.Update(t.Context())
	run("a Service appears", shows(`document.querySelector('[data-key="service default/web"] span').textContent === "198.51.100.200"`),
		shows(`document.querySelector("#events li").textContent.endsWith("default/web is new")`),
		shows(`document.querySelector("#use .number").textContent === "5%, 38 free"`))

	s.move(t, "node2")
	s.Server.Update(t.Context())
	run("it moves", shows(`document.querySelector("#events li").textContent.endsWith("default/web moved from node1 to node2")`),
		shows(`document.querySelector('[data-key="node node2"] span').textContent === "1 on layer 2"`))

	run("why, by the keyboard", chromedp.Focus(`[data-key="service default/web"] button`), chromedp.KeyEvent("\r"),
		shows(`document.getElementById("why").open && document.querySelector("#why-answer .Well") !== null`), picture("why"),
		chromedp.KeyEvent("\u001b"), shows(`!document.getElementById("why").open`),
		shows(`document.querySelector('[data-key="service default/web"] button').getAttribute("aria-pressed") === "false"`),
		shows(`document.activeElement.parentElement.dataset.key === "service default/web"`)) // where the reader was before

	// The browser tells of the closed dialog with its next frame, which may be late. What was chosen in between stays chosen.
	run("a click before the dialog has closed", chromedp.Focus(`[data-key="service default/web"] button`), chromedp.KeyEvent("\r"),
		shows(`document.getElementById("why").open && document.querySelector("#why-answer .Well") !== null`),
		shows(`document.getElementById("why").close() === undefined && document.querySelector('[data-key="node node2"] button').click() === undefined`),
		frame,
		shows(`document.querySelector('[data-key="node node2"] button').getAttribute("aria-pressed") === "true"`),
		chromedp.Click(`[data-key="node node2"] button`), shows(`document.querySelectorAll(".card.on").length === 0`))

	run("what hangs together", chromedp.Click(`[data-key="node node2"] button`), shows(`document.querySelector('[data-key="service default/web"] button').classList.contains("on")`),
		shows(`!document.querySelector('[data-key="service default/shop"] button').classList.contains("on")`), shows(`document.querySelectorAll(".columns path.on").length > 0`))

	run("the themes", colours("light"), picture("light"), colours("dark"), picture("dark"))
	run("a phone", chromedp.EmulateViewport(390, 844, chromedp.EmulateMobile), picture("phone"),
		shows(`document.documentElement.scrollWidth <= document.documentElement.clientWidth`)) // nothing to the right of the screen
	run("each control has a name", shows(`[...document.querySelectorAll("button, input")].every((e) => e.textContent.trim() !== "" || e.labels?.length > 0)`))

	const well = `document.getElementById("verdict").textContent === "✓ All is well" && document.getElementById("verdict").className === "well"`
	run("all is well", shows(well))
	s.err = context.DeadlineExceeded
	s.Server.Update(t.Context())
	const unknown = `/^– not known since \d\d:\d\d:\d\d$/.test(document.getElementById("verdict").textContent) && ` +
		`document.getElementById("verdict").className === ""`
	run("the cluster cannot be read", shows(`document.getElementById("connection").textContent.includes("cannot be read")`), shows(unknown))
	run("a filter draws the page anew", chromedp.SendKeys("#filter", "web"),
		shows(`document.querySelector('[data-key="service default/shop"]') === null`), shows(unknown))
	s.err = nil
	s.Server.Update(t.Context())
	run("the cluster can be read again", shows(`document.getElementById("connection").textContent === "live"`), shows(well))
	_ = server.Listener.Close() // so that the page cannot connect anew
	server.CloseClientConnections()
	run("the server has ended", shows(`document.getElementById("connection").textContent.includes("has ended")`), shows(unknown))
}
