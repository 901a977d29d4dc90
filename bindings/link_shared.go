//go:build cgo && unibiomed_shared

package bindings

// An installed libunibiomed, found by the linker; CGO_LDFLAGS=-L... helps it.

// #cgo LDFLAGS: -lunibiomed
import "C"
