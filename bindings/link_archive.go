//go:build cgo && !unibiomed_shared

package bindings

// The archive that ./build.sh build makes. What a GPU preset needs besides is in build/lib/ldflags, for CGO_LDFLAGS.

// #cgo LDFLAGS: ${SRCDIR}/../build/lib/libunibiomed.a
// #cgo linux LDFLAGS: -lstdc++ -lm -lpthread -ldl
// #cgo darwin LDFLAGS: -lc++
import "C"
