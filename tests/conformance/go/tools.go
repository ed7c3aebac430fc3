//go:build tools

// Package conformance names what `cargo xtask conformance` builds, so that go.mod requires it.
package conformance

import (
	_ "github.com/onsi/ginkgo/v2/ginkgo"
	_ "k8s.io/kubernetes/test/e2e"
	_ "k8s.io/kubernetes/test/images/agnhost/netexec"
	_ "k8s.io/sample-apiserver/pkg/cmd/server"
)
