package bindings

import (
	"runtime"
	"sync"
)

// A lifetime guards a native object: calls enter and leave, close waits until the last one has left.
type lifetime struct {
	mu      sync.Mutex
	left    sync.Cond // busy fell to 0; its L is &mu
	h       handle    // nil after Close
	busy    int
	closing bool
	free    func(handle)
	net     runtime.Cleanup
	object  string // for messages
}

// start takes over h. Owner is the object that holds l and is reachable as long as it is used.
func start[T any](owner *T, l *lifetime, object string, h handle, free func(handle)) {
	l.left.L = &l.mu
	l.h, l.free, l.object = h, free, object
	l.net = runtime.AddCleanup(owner, free, h) // for a forgotten Close
}

// enter returns the object for a call, which must leave.
func (l *lifetime) enter(op string) (handle, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closing || l.h == nil {
		return nil, closed(op, l.object)
	}
	l.busy++
	return l.h, nil
}

// leave ends a call. As it uses l, it also keeps the object reachable during the call.
func (l *lifetime) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.busy--; l.busy == 0 {
		l.left.Broadcast()
	}
}

func (l *lifetime) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closing = true
	for l.busy > 0 {
		l.left.Wait()
	}
	if l.h != nil {
		l.net.Stop()
		l.free(l.h)
		l.h = nil
	}
}
