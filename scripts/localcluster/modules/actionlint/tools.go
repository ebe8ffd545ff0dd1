//go:build tools

// Package tools names the main packages that are built from this module.
package tools

import (
	_ "github.com/rhysd/actionlint/cmd/actionlint"
)
