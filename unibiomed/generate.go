package unibiomed

import (
	"context"
	"slices"
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
	last   []int32  // the last answer
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
	d := decoder{session: s, vocab: a.info.Vocab, embd: a.info.Embd}
	if a.Trace == nil {
		d.guess = s.last
	}
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
		if logits, hidden, err = d.next(ctx, id); err != nil {
			return err
		}
		if id == a.ids.seg {
			a.hidden = append(a.hidden, hidden...)
		}
		if a.Progress != nil {
			a.Progress("decode", float64(len(a.turn.TokenIDs))/float64(limit))
		}
	}
	if err := d.end(); err != nil {
		return err
	}
	s.last = slices.Clone(a.turn.TokenIDs)
	a.turn.Raw = a.tokenizer.Decode(a.turn.TokenIDs)
	a.turn.Answer = prompt.Clean(a.turn.Raw)
	a.turn.Timings.add("decode", start)
	return nil
}

// A decoder feeds an answer to the session, id by id. Answers about masks are much the same from target to target, so the last one is
// taken as a guess of this one: as long as the answer goes as guessed, up to DecodeAtOnce ids are computed in one run, which reads
// the weights once. Every id is still the greedy one: what the guess had wrong is taken back. It is prompt lookup
// decoding (Saxena 2023, github.com/apoorvumang/prompt-lookup-decoding) with the last answer in the prompt's place.
type decoder struct {
	*session
	vocab, embd    int
	guess          []int32 // of the whole answer; nil once it was wrong
	fed            int     // ids of the answer that were fed
	ahead          []int32 // ids in the cache beyond those
	logits, hidden []float32
}

// next appends id and returns the logits and the hidden state at it.
func (d *decoder) next(ctx context.Context, id int32) (logits, hidden []float32, err error) {
	if len(d.ahead) > 0 && d.ahead[0] != id {
		d.guess = nil
		if err := d.end(); err != nil {
			return nil, nil, err
		}
	}
	if len(d.ahead) > 0 {
		d.ahead = d.ahead[1:]
		d.logits, d.hidden = d.logits[d.vocab:], d.hidden[d.embd:]
	} else {
		run := []int32{id}
		// The last id of an answer is never fed.
		if d.fed < len(d.guess) && d.guess[d.fed] == id {
			run = d.guess[d.fed:max(d.fed+1, len(d.guess)-1)]
		} else {
			d.guess = nil
		}
		run = run[:min(len(run), bindings.DecodeAtOnce, max(1, d.native.Capacity()-d.native.Length()))]
		d.logits, d.hidden = make([]float32, len(run)*d.vocab), make([]float32, len(run)*d.embd)
		if err := d.native.Decode(ctx, run, bindings.Outputs{Logits: d.logits, Hidden: d.hidden}); err != nil {
			return nil, nil, err
		}
		d.ahead = run[1:]
	}
	d.fed++
	d.ids = append(d.ids, id)
	return d.logits[:d.vocab], d.hidden[:d.embd], nil
}

// end takes back what was computed ahead.
func (d *decoder) end() error {
	if len(d.ahead) == 0 {
		return nil
	}
	d.ahead = nil
	return d.native.Truncate(len(d.ids))
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
