// SPDX-License-Identifier: Apache-2.0

package serving

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/time/rate"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
	"k8s.io/klog/v2"

	"github.com/tandem-lb/tandem/speaker/connections"
)

// +kubebuilder:rbac:groups=authentication.k8s.io,resources=tokenreviews,verbs=create
// +kubebuilder:rbac:groups=authorization.k8s.io,resources=subjectaccessreviews,verbs=create

const (
	// decisionTTL is how long the API server's answer for a token is good. A token that is revoked reads metrics for so long.
	decisionTTL = time.Minute
	// trustTTL is how long a token that was allowed is reviewed without a limit of its source. Otherwise a pod that shares the address of
	// Prometheus, behind one node, could use the limit up.
	trustTTL = time.Hour
	// remembered bounds the tokens and the sources that are remembered.
	remembered = 256
	// A source may have one token in two seconds reviewed, and four at once. Prometheus needs one each decisionTTL.
	reviewPeriod, reviewBurst = 2 * time.Second, 4
	reviewTimeout             = 5 * time.Second
)

// access lets requests through whose bearer token may do them, by the API server's TokenReview and SubjectAccessReview. Libraries do the same,
// with 8 MB more in the program of each node, and ask the API server for whoever sends random tokens.
type access struct {
	next    http.Handler
	reviews kubernetes.Interface
	// decisions has statuses of HTTP by digests of requests with their tokens, and trusted has those that were allowed. limiters has a
	// rate.Limiter for each source. All are bounded.
	decisions, trusted, limiters *cache.LRUExpireCache
}

func newAccess(reviews kubernetes.Interface, next http.Handler) *access {
	return &access{
		next: next, reviews: reviews, decisions: cache.NewLRUExpireCache(remembered), trusted: cache.NewLRUExpireCache(remembered),
		limiters: cache.NewLRUExpireCache(remembered),
	}
}

// ServeHTTP implements http.Handler.
func (a *access) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		w.Header().Set("WWW-Authenticate", "Bearer")
		http.Error(w, "metrics are for bearer tokens that may get the nonResourceURL /metrics", http.StatusUnauthorized)
		return
	}
	switch status := a.decide(r, token); status {
	case http.StatusOK:
		a.next.ServeHTTP(w, r)
	case http.StatusForbidden:
		http.Error(w, "the API server does not let this token get the nonResourceURL "+r.URL.Path, status)
	default:
		http.Error(w, http.StatusText(status), status)
	}
}

// decide returns the status for a request: 200 if it is allowed.
func (a *access) decide(r *http.Request, token string) int {
	key := sha256.Sum256([]byte(r.Method + " " + r.URL.Path + " " + token))
	if status, ok := a.decisions.Get(key); ok {
		return status.(int)
	}
	if _, trusted := a.trusted.Get(key); !trusted && !a.limiter(connections.Source(r.RemoteAddr)).Allow() {
		return http.StatusTooManyRequests
	}
	ctx, cancel := context.WithTimeout(r.Context(), reviewTimeout)
	defer cancel()
	status, err := a.review(ctx, token, strings.ToLower(r.Method), r.URL.Path)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Failed to ask the API server whether a token may get metrics")
		return http.StatusServiceUnavailable
	}
	a.decisions.Add(key, status, decisionTTL)
	if status == http.StatusOK {
		a.trusted.Add(key, nil, trustTTL)
	}
	return status
}

func (a *access) limiter(of netip.Prefix) *rate.Limiter {
	if limiter, ok := a.limiters.Get(of); ok {
		return limiter.(*rate.Limiter)
	}
	limiter := rate.NewLimiter(rate.Every(reviewPeriod), reviewBurst)
	a.limiters.Add(of, limiter, time.Hour)
	return limiter
}

// review asks the API server who has the token, and whether they may do the request.
func (a *access) review(ctx context.Context, token, verb, path string) (int, error) {
	who, err := a.reviews.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("TokenReview: %w", err)
	}
	if !who.Status.Authenticated {
		return http.StatusUnauthorized, nil
	}
	user := who.Status.User
	extra := map[string]authorizationv1.ExtraValue{}
	for key, values := range user.Extra {
		extra[key] = authorizationv1.ExtraValue(values)
	}
	may, err := a.reviews.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, UID: user.UID, Groups: user.Groups, Extra: extra,
			NonResourceAttributes: &authorizationv1.NonResourceAttributes{Verb: verb, Path: path},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return 0, fmt.Errorf("SubjectAccessReview: %w", err)
	}
	if !may.Status.Allowed {
		return http.StatusForbidden, nil
	}
	return http.StatusOK, nil
}
