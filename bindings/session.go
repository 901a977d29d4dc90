package bindings

import (
	"context"
	"math"
	"sync"
)

// Embedding stands in the ids of Prefill for the next row of its embeddings.
const Embedding int32 = -1

// DecodeAtOnce is how many ids one Decode takes at most.
const DecodeAtOnce = 16

// A Session is one conversation: a KV cache that Prefill and Decode append to and Truncate cuts back. Its calls queue for it.
type Session struct {
	lifetime
	turn sync.Mutex // the library serves one call at a time
	info Info
}

// Outputs are what a call writes about its positions: Prefill about the last one, Decode about each of its n ids. A slice is nil, or has
// exactly the length given here.
type Outputs struct {
	Logits []float32 // [n, Info.Vocab]
	Hidden []float32 // [n, Info.Embd]: the states after the final norm
}

func (o Outputs) check(op string, n int, i Info) error {
	if o.Logits != nil && len(o.Logits) != n*i.Vocab {
		return invalid(op, "logits has room for %d values, want %d", len(o.Logits), n*i.Vocab)
	}
	if o.Hidden != nil && len(o.Hidden) != n*i.Embd {
		return invalid(op, "hidden has room for %d values, want %d", len(o.Hidden), n*i.Embd)
	}
	return nil
}

// NewSession makes a session of so many positions; 0 stands for Params.Context.
func (m *Model) NewSession(ctx context.Context, context int) (*Session, error) {
	const op = "new session"
	if context < 0 || context > math.MaxInt32 {
		return nil, invalid(op, "context is %d, want 0 to %d", context, math.MaxInt32)
	}
	if ctx.Err() != nil {
		return nil, canceled(op, ctx)
	}
	h, err := m.enter(op)
	if err != nil {
		return nil, err
	}
	defer m.leave()
	var out handle
	var e cError
	if rc := ubSessionOpen(h, uint32(context), &out, &e); rc != ok {
		return nil, e.err(op, rc)
	}
	s := &Session{info: m.info}
	start(s, &s.lifetime, "session", out, ubSessionClose)
	return s, nil
}

// Close frees the session once the calls in progress have ended. It returns nil, and is safe on nil and to repeat.
func (s *Session) Close() error {
	if s != nil {
		s.close()
	}
	return nil
}

// Prefill appends ids, in which every Embedding takes the next row of embeddings [n, Embd].
// A call that fails or is canceled leaves the session as it was.
func (s *Session) Prefill(ctx context.Context, ids []int32, embeddings []float32, out Outputs, c Call) error {
	const op = "prefill"
	if len(ids) == 0 || len(ids) > math.MaxInt32 {
		return invalid(op, "got %d ids, want 1 or more", len(ids))
	}
	rows := 0
	for _, id := range ids {
		if id == Embedding {
			rows++
		}
	}
	if err := length(op, "embeddings", len(embeddings), rows, s.info.Embd); err != nil {
		return err
	}
	if err := out.check(op, 1, s.info); err != nil {
		return err
	}
	h, err := s.enter(op)
	if err != nil {
		return err
	}
	defer s.leave()
	s.turn.Lock()
	defer s.turn.Unlock()
	return do(ctx, op, c, func(call *cCall, e *cError) int32 {
		return ubSessionPrefill(h, &ids[0], int32(len(ids)), first(embeddings), int32(rows), first(out.Logits), first(out.Hidden), call, e)
	})
}

// Decode appends 1 to DecodeAtOnce ids in one run. Outputs are of each of them, [n, Vocab] and [n, Embd]: Hidden is the state at the
// position whose input is the id. With more than one id a guess of the next ones is checked: Truncate takes back what was wrong.
func (s *Session) Decode(ctx context.Context, ids []int32, out Outputs) error {
	const op = "decode"
	if len(ids) < 1 || len(ids) > DecodeAtOnce {
		return invalid(op, "got %d ids, want 1 to %d", len(ids), DecodeAtOnce)
	}
	if err := out.check(op, len(ids), s.info); err != nil {
		return err
	}
	h, err := s.enter(op)
	if err != nil {
		return err
	}
	defer s.leave()
	s.turn.Lock()
	defer s.turn.Unlock()
	if ctx.Err() != nil {
		return canceled(op, ctx)
	}
	var e cError
	if rc := ubSessionDecode(h, &ids[0], int32(len(ids)), first(out.Logits), first(out.Hidden), &e); rc != ok {
		return e.err(op, rc)
	}
	return nil
}

// Length is the number of positions held, 0 after Close.
func (s *Session) Length() int { return s.count(ubSessionLength) }

// Capacity is the number of positions that fit, 0 after Close.
func (s *Session) Capacity() int { return s.count(ubSessionCapacity) }

func (s *Session) count(of func(handle) int32) int {
	h, err := s.enter("")
	if err != nil {
		return 0
	}
	defer s.leave()
	s.turn.Lock()
	defer s.turn.Unlock()
	return int(of(h))
}

// Truncate forgets all positions from n on.
func (s *Session) Truncate(n int) error {
	const op = "truncate"
	if n < 0 || n > math.MaxInt32 {
		return invalid(op, "length is %d, want 0 or more", n)
	}
	h, err := s.enter(op)
	if err != nil {
		return err
	}
	defer s.leave()
	s.turn.Lock()
	defer s.turn.Unlock()
	var e cError
	if rc := ubSessionTruncate(h, int32(n), &e); rc != ok {
		return e.err(op, rc)
	}
	return nil
}

// first is the address of a slice's first element, nil for an empty one.
func first[T any](s []T) *T {
	if len(s) == 0 {
		return nil
	}
	return &s[0]
}
