// Package bindings is Go over the C ABI of libunibiomed (csrc/include/unibiomed.h): it turns C values into Go values, and
// does nothing else. Programs import package unibiomed, which is built on it.
//
// With cgo the library is linked in. With CGO_ENABLED=0 it is loaded from, in this order: the folder of the program and the
// lib folder beside it; UNIBIOMED_LIB, a file or a folder; build/lib of the source tree that the program was compiled in; the
// system's places for libraries.
//
// # Memory
//
// Float slices are row-major with the last axis fastest. Slices are read or written during the call only, and results are
// Go memory. A Model, Session, Features or Track holds native memory until Close; a forgotten one is freed some time after it
// became unreachable. Closing a Model leaves what was made from it valid.
//
// # Goroutines
//
// A Model and Features are safe for concurrent use: the library queues the calls of a stage in their order of arrival. The
// calls of one Session or one Track queue for it. Close waits for calls in progress; calls that come after it fail with
// [InvalidArgument] and [os.ErrClosed].
//
// # Cancellation
//
// Every call with a context looks at it before it starts, and long ones look at it between blocks. They fail with [Canceled]
// and the context's own error; the objects stay usable.
package bindings

import (
	"fmt"
	"sync"
	"unsafe"
)

// abiVersion is the UB_ABI_VERSION that the Go side is written for.
const abiVersion = 2

// load makes the library's functions callable, once.
var load = sync.OnceValue(func() error {
	if err := loadNative(); err != nil {
		return &Error{Op: "load", Code: IO, Msg: err.Error()}
	}
	if v := ubABIVersion(); v != abiVersion {
		return &Error{Op: "load", Code: Unsupported, Msg: fmt.Sprintf("libunibiomed has ABI version %d, want %d", v, abiVersion)}
	}
	return nil
})

// BuildInfo is one line about the library: versions, backends, instruction sets.
func BuildInfo() (string, error) {
	if err := load(); err != nil {
		return "", err
	}
	return ubBuildInfo(), nil
}

// A DeviceType is a kind of device.
type DeviceType int32

const (
	DeviceCPU           DeviceType = 0
	DeviceGPU           DeviceType = 1
	DeviceIntegratedGPU DeviceType = 2 // shares the machine's memory
	DeviceAccelerator   DeviceType = 3 // works beside the CPU, in its memory
)

func (t DeviceType) String() string {
	switch t {
	case DeviceCPU:
		return "cpu"
	case DeviceGPU:
		return "gpu"
	case DeviceIntegratedGPU:
		return "integrated gpu"
	case DeviceAccelerator:
		return "accelerator"
	}
	return fmt.Sprintf("device type %d", int32(t))
}

// A Device is something that a model can run on.
type Device struct {
	Name        string // what Params.Device takes, such as "cpu" or "cuda0"
	Description string
	Type        DeviceType
	MemoryTotal uint64 // bytes
	MemoryFree  uint64 // bytes, at the time of the call
}

// Devices lists the devices of this machine that the library was built for.
func Devices() ([]Device, error) {
	if err := load(); err != nil {
		return nil, err
	}
	devices := make([]Device, ubDeviceCount())
	for i := range devices {
		d := cDeviceInfo{size: uint32(unsafe.Sizeof(cDeviceInfo{}))}
		var e cError
		if rc := ubDeviceGet(int32(i), &d, &e); rc != ok {
			return nil, e.err("list devices", rc)
		}
		devices[i] = Device{
			Name:        text(d.name[:]),
			Description: text(d.description[:]),
			Type:        DeviceType(d.typ),
			MemoryTotal: d.memoryTotal,
			MemoryFree:  d.memoryFree,
		}
	}
	return devices, nil
}
