// SPDX-License-Identifier: Apache-2.0

package materials

import (
	"bytes"
	"fmt"
	"strings"
	"time"

	"github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdx/v2/v2_3"
)

// Image is an image that a document describes.
type Image struct {
	// Name is the reference without digest, Digest that of its manifest: ghcr.io/tandem-lb/speaker:v0.1.0, sha256:…
	Name, Digest string
	// Platform is what it runs on, as in linux/arm/v7.
	Platform string
	Version  string
	// Created is the time of the commit that it was built from.
	Created time.Time
}

// Document returns an SPDX 2.3 document in JSON: the image, which contains the modules. The same image and modules give the same document.
func Document(image Image, modules []Module) ([]byte, error) {
	const none = "NOASSERTION"
	name, _, _ := strings.Cut(image.Name[strings.LastIndex(image.Name, "/")+1:], ":")
	hash, found := strings.CutPrefix(image.Digest, "sha256:")
	if !found {
		return nil, fmt.Errorf("digest %q of %s is not by SHA-256", image.Digest, image.Name)
	}
	root := &v2_3.Package{
		PackageName: image.Name, PackageSPDXIdentifier: "image", PackageVersion: image.Version,
		PackageSupplier:         &common.Supplier{Supplier: "Tandem", SupplierType: "Organization"},
		PackageDownloadLocation: none, PackageCopyrightText: none,
		PackageLicenseConcluded: none, PackageLicenseDeclared: "Apache-2.0",
		PackageChecksums:      []common.Checksum{{Algorithm: common.SHA256, Value: hash}},
		PrimaryPackagePurpose: "CONTAINER", PackageComment: "for " + image.Platform,
		PackageExternalReferences: []*v2_3.PackageExternalReference{{
			Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL,
			Locator: fmt.Sprintf("pkg:oci/%s@sha256%%3A%s?repository_url=%s", name, hash, strings.TrimSuffix(image.Name, ":"+image.Version)),
		}},
	}
	document := &v2_3.Document{
		SPDXVersion: v2_3.Version, DataLicense: v2_3.DataLicense, SPDXIdentifier: "DOCUMENT",
		DocumentName:      fmt.Sprintf("%s for %s", image.Name, image.Platform),
		DocumentNamespace: "https://github.com/tandem-lb/tandem/spdx/" + name + "/" + hash,
		CreationInfo: &v2_3.CreationInfo{
			Creators: []common.Creator{{Creator: "Tandem", CreatorType: "Organization"}, {Creator: "tandem-cmd-images", CreatorType: "Tool"}},
			Created:  image.Created.UTC().Format(time.RFC3339),
		},
		Packages:      []*v2_3.Package{root},
		Relationships: []*v2_3.Relationship{related("DOCUMENT", common.TypeRelationshipDescribe, "image")},
	}
	for i, m := range modules {
		id := common.ElementID(fmt.Sprintf("module-%d", i+1))
		purl := "pkg:golang/" + m.Path + "@" + m.Version
		p := &v2_3.Package{
			PackageName: m.Path, PackageSPDXIdentifier: id, PackageVersion: m.Version,
			PackageDownloadLocation: m.source(), PackageCopyrightText: none,
			PackageLicenseConcluded: none, PackageLicenseDeclared: m.Licence, PrimaryPackagePurpose: "LIBRARY",
			PackageExternalReferences: []*v2_3.PackageExternalReference{{
				Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: purl,
			}},
		}
		if m.Sum != "" {
			p.PackageSourceInfo = "checksum in go.sum: " + m.Sum
		}
		document.Packages = append(document.Packages, p)
		document.Relationships = append(document.Relationships, related("image", common.TypeRelationshipContains, id))
	}
	var b bytes.Buffer
	if err := json.Write(document, &b, json.Indent(" ")); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

func related(a common.ElementID, how string, b common.ElementID) *v2_3.Relationship {
	return &v2_3.Relationship{
		RefA: common.MakeDocElementID("", string(a)), Relationship: how, RefB: common.MakeDocElementID("", string(b)),
	}
}
