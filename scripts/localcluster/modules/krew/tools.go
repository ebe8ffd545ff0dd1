//go:build tools

// Package tools names the main packages that are built from this module.
package tools

import (
	_ "sigs.k8s.io/krew/cmd/krew"
)
