package bindings

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"
)

// A Call carries what a long call reports to. The zero value reports nothing.
//
// Its functions run during the call, on one goroutine at a time, and hold it up. They must not call methods of the object
// that the call is of.
type Call struct {
	// Progress is called between blocks with the share that is done, 0 to 1.
	Progress func(done float32)
	// Trace is called with each stage's whole tensor, under the names and axis orders of the golden cases. It may keep data
	// and shape, whose slowest axis comes first.
	Trace func(name string, data []float32, shape []int)
}

// A running call is what the library's callbacks find under its key.
type running struct {
	Call
	ctx      context.Context
	panicked any // what Progress or Trace panicked with; raised again once the library has returned
}

var (
	calls   sync.Map // key -> *running
	lastKey atomic.Uintptr
)

// do runs f, a function of the library, with a ub_call that reports to c and stops when ctx is done.
func do(ctx context.Context, op string, c Call, f func(*cCall, *cError) int32) error {
	if ctx.Err() != nil {
		return canceled(op, ctx)
	}
	r := &running{Call: c, ctx: ctx}
	key := new(uintptr)
	*key = lastKey.Add(1)
	calls.Store(*key, r)
	defer calls.Delete(*key)

	// The library holds the key's address during the call, and gives it to the callbacks.
	var pin runtime.Pinner
	defer pin.Unpin()
	pin.Pin(key)
	call := &cCall{size: uint32(unsafe.Sizeof(cCall{})), user: key}
	progress, trace := callbacks()
	if ctx.Done() != nil || c.Progress != nil || c.Trace != nil {
		call.progress = progress
	}
	if c.Trace != nil {
		call.trace = trace
	}

	var e cError
	rc := f(call, &e)
	if r.panicked != nil {
		panic(r.panicked)
	}
	switch {
	case rc == ok:
		return nil
	case Code(rc) == Canceled && ctx.Err() != nil:
		return canceled(op, ctx)
	}
	return e.err(op, rc)
}

// onProgress and onTrace are what the one C callback of each kind calls, for all calls of the process. A panic must not
// unwind the library's frames: it cancels the call and goes on in do.

func onProgress(done float32, user *uintptr) (proceed bool) {
	v, found := calls.Load(*user)
	if !found {
		return false
	}
	r := v.(*running)
	defer r.catch(&proceed)
	if r.panicked != nil || r.ctx.Err() != nil {
		return false
	}
	if r.Progress != nil {
		r.Progress(done)
	}
	return r.ctx.Err() == nil
}

func onTrace(name *byte, data *float32, shape *int64, dims int32, user *uintptr) {
	v, found := calls.Load(*user)
	if !found {
		return
	}
	r := v.(*running)
	defer r.catch(new(bool))
	if r.panicked != nil || r.Trace == nil {
		return
	}
	s := make([]int, dims)
	n := 1
	for i, d := range unsafe.Slice(shape, dims) {
		s[i] = int(d)
		n *= int(d)
	}
	r.Trace(goString(name), slices.Clone(unsafe.Slice(data, n)), s)
}

func (r *running) catch(proceed *bool) {
	if p := recover(); p != nil {
		r.panicked = p
		*proceed = false
	}
}

func goString(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}
