// SPDX-License-Identifier: Apache-2.0

package materials

import (
	"bytes"
	"os"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdxlib"
)

// TestProductsLicences looks at the licences of all that the product links. A licence that is new here may ask for something that a release
// does not do: read it before you add it.
func TestProductsLicences(t *testing.T) {
	known := []string{"Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "ISC", "MIT", "MPL-2.0"}
	modules, err := Modules(t.Context(), os.Environ(), "../../cloud-controller-manager", "../../speaker")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(modules, func(m Module) bool { return m.Path == StandardLibrary }) || len(modules) < 50 {
		t.Fatalf("found %d modules", len(modules))
	}
	for _, m := range modules {
		for id := range strings.SplitSeq(m.Licence, " AND ") {
			if !slices.Contains(known, id) {
				t.Errorf("module %s is under %s", m.Path, id)
			}
		}
	}
	text := ThirdParty(modules)
	for _, want := range []string{
		`(?m)^github.com/hashicorp/memberlist v\S+\tMPL-2.0\thttps://proxy.golang.org/github.com/hashicorp/memberlist/@v/v\S+\.zip$`,
		`Mozilla Public License, version 2.0`, `Redistribution and use in source and binary forms`,
	} {
		if !regexp.MustCompile(want).Match(text) {
			t.Errorf("the licences' texts have no %s", want)
		}
	}
	t.Logf("%d modules, %d kB of licences", len(modules), len(text)>>10)
}

func TestVerify(t *testing.T) {
	modules := []Module{{Path: StandardLibrary, Version: "1.26.0"}, {Path: "example.com/a", Version: "v1.0.0"}}
	for name, tt := range map[string]struct {
		linked  []*debug.Module
		wantErr bool
	}{
		"the same":       {linked: []*debug.Module{{Path: "example.com/a", Version: "v1.0.0"}}},
		"one more":       {linked: []*debug.Module{{Path: "example.com/a", Version: "v1.0.0"}, {Path: "example.com/b"}}, wantErr: true},
		"an older one":   {linked: []*debug.Module{{Path: "example.com/a", Version: "v0.9.0"}}, wantErr: true},
		"nothing at all": {wantErr: true},
	} {
		t.Run(name, func(t *testing.T) {
			if err := Verify(modules, &debug.BuildInfo{Deps: tt.linked}); (err != nil) != tt.wantErr {
				t.Errorf("error = %v, want one: %t", err, tt.wantErr)
			}
		})
	}
}

func TestDocument(t *testing.T) {
	image := Image{
		Name: "ghcr.io/tandem-lb/speaker:v0.1.0", Digest: "sha256:" + strings.Repeat("ab", 32), Platform: "linux/arm/v7", Version: "v0.1.0",
		Created: time.Date(2026, 11, 27, 3, 0, 0, 0, time.UTC),
	}
	modules := []Module{
		{Path: StandardLibrary, Version: "1.26.0", Licence: "BSD-3-Clause"},
		{Path: "github.com/Azure/x", Version: "v1.2.3", Sum: "h1:abc=", Licence: "Apache-2.0 AND MIT"},
	}
	text, err := Document(image, modules)
	if err != nil {
		t.Fatal(err)
	}
	document, err := json.Read(bytes.NewReader(text))
	if err != nil {
		t.Fatalf("the library cannot read its own document: %v", err)
	}
	if err := spdxlib.ValidateDocument(document); err != nil {
		t.Error(err)
	}
	got := map[string]string{}
	for _, p := range document.Packages {
		got[p.PackageExternalReferences[0].Locator] = p.PackageLicenseDeclared + " " + p.PackageDownloadLocation
	}
	want := map[string]string{
		"pkg:oci/speaker@sha256%3A" + strings.Repeat("ab", 32) + "?repository_url=ghcr.io/tandem-lb/speaker": "Apache-2.0 NOASSERTION",
		"pkg:golang/std@1.26.0": "BSD-3-Clause https://go.dev/dl/go1.26.0.src.tar.gz",
		"pkg:golang/github.com/Azure/x@v1.2.3": "Apache-2.0 AND MIT " +
			"https://proxy.golang.org/github.com/!azure/x/@v/v1.2.3.zip",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("packages (-want +got):\n%s", diff)
	}
	again, err := Document(image, modules)
	if err != nil || !bytes.Equal(text, again) {
		t.Errorf("the same image has two documents (%v)", err)
	}
	image.Digest = "md5:00"
	if _, err := Document(image, modules); err == nil {
		t.Error("a digest that is not by SHA-256 was accepted")
	}
}
