package unibiomed

import (
	"context"
	"time"
	"unicode/utf8"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed/prompt"
)

// A session is the pipeline's KV cache and what stands in it, so that the next prompt computes only what differs.
type session struct {
	native *bindings.Session
	ids    []int32  // bindings.Embedding for a row of visual
	visual [32]byte // what the embeddings were made of
}

// keep cuts the cache back to the positions that ids shares with it, leaving at least one to compute, and returns their number.
func (s *session) keep(ids []int32, visual [32]byte) (int, error) {
	n := 0
	for n < len(ids)-1 && n < len(s.ids) && ids[n] == s.ids[n] && (ids[n] != bindings.Embedding || visual == s.visual) {
		n++
	}
	s.ids = s.ids[:n]
	return n, s.native.Truncate(n)
}

// generate decodes greedily until the stop rule, the end token or a limit (spec/prompting.md 5), and keeps the hidden
// state at each [SEG] that another token follows (6).
func (a *answering) generate(ctx context.Context, ids []int32, embeddings []float32) error {
	s := a.session
	known, err := 0, error(nil)
	if a.Trace != nil {
		s.ids, err = nil, s.native.Truncate(0)
	} else {
		known, err = s.keep(ids, a.visual)
	}
	if err != nil {
		return err
	}
	a.turn.PromptTokens, a.turn.PrefixTokens = len(ids), known

	start := time.Now()
	logits, hidden := make([]float32, a.info.Vocab), make([]float32, a.info.Embd)
	out := bindings.Outputs{Logits: logits, Hidden: hidden}
	skipped := 0
	for _, id := range ids[:known] {
		if id == bindings.Embedding {
			skipped++
		}
	}
	s.visual = a.visual
	if err := s.native.Prefill(ctx, ids[known:], embeddings[skipped*a.info.Embd:], out, a.call("prefill")); err != nil {
		s.ids = s.ids[:min(len(s.ids), s.native.Length())]
		return err
	}
	s.ids = append(s.ids, ids[known:]...)
	a.turn.Timings.add("prefill", start)
	if a.Trace != nil {
		a.Trace.Add("prefill_hidden", append([]float32(nil), hidden...), len(hidden))
		a.Trace.Add("prefill_logits", append([]float32(nil), logits...), len(logits))
	}

	start = time.Now()
	var rule prompt.StopRule
	var pending []byte // bytes of a character that is not whole yet
	limit := min(a.MaxNewTokens, s.native.Capacity()-len(ids))
	a.turn.TokenIDs = []int32{}
	for {
		if a.Trace != nil {
			a.Trace.addRows("step_logits", append([]float32(nil), logits...), 1, len(logits))
		}
		id := argmax(logits)
		a.turn.TokenIDs = append(a.turn.TokenIDs, id)
		piece := a.tokenizer.Bytes(id)
		if a.Token != nil {
			pending = append(pending, piece...)
			if whole := wholeCharacters(pending); whole > 0 {
				a.Token(string(pending[:whole]))
				pending = pending[whole:]
			}
		}
		if rule.Push(piece) {
			a.turn.Stop = StopEnd
			break
		}
		if id == a.ids.eos {
			a.turn.Stop = StopEOS
			break
		}
		if len(a.turn.TokenIDs) >= limit {
			a.turn.Stop = StopLength
			break
		}
		if err := s.native.Decode(ctx, id, out); err != nil {
			return err
		}
		s.ids = append(s.ids, id)
		if id == a.ids.seg {
			a.hidden = append(a.hidden, hidden...)
		}
		if a.Progress != nil {
			a.Progress("decode", float64(len(a.turn.TokenIDs))/float64(limit))
		}
	}
	a.turn.Raw = a.tokenizer.Decode(a.turn.TokenIDs)
	a.turn.Answer = prompt.Clean(a.turn.Raw)
	a.turn.Timings.add("decode", start)
	return nil
}

// argmax returns the first index of the largest value.
func argmax(x []float32) int32 {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return int32(best)
}

// wholeCharacters returns the length of b without a cut character at its end.
func wholeCharacters(b []byte) int {
	for back := 1; back <= min(len(b), utf8.UTFMax-1); back++ {
		if c := b[len(b)-back]; utf8.RuneStart(c) {
			if !utf8.FullRune(b[len(b)-back:]) {
				return len(b) - back
			}
			break
		}
	}
	return len(b)
}
