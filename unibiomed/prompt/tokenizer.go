package prompt

import (
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A Vocabulary is a model file's tokenizer, as package bindings gives it.
type Vocabulary interface {
	// Tokenize makes ids of text. Without special, added control tokens in the text stay text.
	Tokenize(text string, special bool) ([]int32, error)
	// TokenBytes returns the bytes of a token, added tokens as their text.
	TokenBytes(id int32) ([]byte, error)
}

// A Tokenizer encodes and decodes as the reference's does: added tokens are matched first, anywhere and the longest one
// at a place, what lies between them is NFC-normalised and split by byte-level BPE (spec/prompting.md 1).
// It is safe for concurrent use.
type Tokenizer struct {
	vocab   Vocabulary
	pieces  [][]byte         // bytes of every id
	added   map[string]int32 // added tokens by text
	byFirst map[byte][]string
}

// NewTokenizer reads all n tokens of vocab. added reports which ids are added tokens.
func NewTokenizer(vocab Vocabulary, n int, added func(id int32) bool) (*Tokenizer, error) {
	t := &Tokenizer{vocab: vocab, pieces: make([][]byte, n), added: map[string]int32{}, byFirst: map[byte][]string{}}
	for id := range int32(n) {
		piece, err := vocab.TokenBytes(id)
		if err != nil {
			return nil, fmt.Errorf("token %d: %w", id, err)
		}
		t.pieces[id] = piece
		if added(id) && len(piece) > 0 {
			s := string(piece)
			t.added[s] = id
			t.byFirst[s[0]] = append(t.byFirst[s[0]], s)
		}
	}
	for _, list := range t.byFirst {
		sort.Slice(list, func(i, j int) bool { return len(list[i]) > len(list[j]) })
	}
	return t, nil
}

// ID returns the id of an added token.
func (t *Tokenizer) ID(added string) (int32, bool) {
	id, ok := t.added[added]
	return id, ok
}

// Len is the number of tokens.
func (t *Tokenizer) Len() int { return len(t.pieces) }

// Encode returns the ids of text, which may contain added tokens.
func (t *Tokenizer) Encode(text string) ([]int32, error) {
	var ids []int32
	plain := func(s string) error {
		if s == "" {
			return nil
		}
		more, err := t.vocab.Tokenize(norm.NFC.String(s), false)
		ids = append(ids, more...)
		return err
	}
	start := 0
	for i := 0; i < len(text); {
		token := t.match(text[i:])
		if token == "" {
			i++
			continue
		}
		if err := plain(text[start:i]); err != nil {
			return nil, err
		}
		ids = append(ids, t.added[token])
		i += len(token)
		start = i
	}
	if err := plain(text[start:]); err != nil {
		return nil, err
	}
	return ids, nil
}

// match returns the longest added token that s starts with.
func (t *Tokenizer) match(s string) string {
	for _, token := range t.byFirst[s[0]] {
		if strings.HasPrefix(s, token) {
			return token
		}
	}
	return ""
}

// Bytes returns the bytes of one token, nil when id is out of range. The result is shared: do not change it.
func (t *Tokenizer) Bytes(id int32) []byte {
	if id < 0 || int(id) >= len(t.pieces) {
		return nil
	}
	return t.pieces[id]
}

// Decode returns the text of ids, added tokens included. Bytes that are no UTF-8 become U+FFFD, one for each maximal
// part of a sequence, as the reference's byte-level decoder does.
func (t *Tokenizer) Decode(ids []int32) string {
	var b []byte
	for _, id := range ids {
		b = append(b, t.Bytes(id)...)
	}
	return toValidUTF8(b)
}

// toValidUTF8 replaces each maximal subpart of an ill-formed sequence by one U+FFFD (The Unicode Standard, 3.9,
// "U+FFFD Substitution of Maximal Subparts").
func toValidUTF8(b []byte) string {
	if utf8.Valid(b) {
		return string(b)
	}
	var out strings.Builder
	for len(b) > 0 {
		if r, n := utf8.DecodeRune(b); r != utf8.RuneError || n > 1 {
			out.Write(b[:n])
			b = b[n:]
			continue
		}
		out.WriteString("\uFFFD")
		b = b[subpart(b):]
	}
	return out.String()
}

// subpart returns the length of the maximal subpart at the start of b, which does not start with a whole character.
func subpart(b []byte) int {
	var need int
	lo, hi := byte(0x80), byte(0xBF) // range of the second byte (Table 3-7)
	switch c := b[0]; {
	case c >= 0xC2 && c <= 0xDF:
		need = 1
	case c >= 0xE0 && c <= 0xEF:
		need = 2
		if c == 0xE0 {
			lo = 0xA0
		} else if c == 0xED {
			hi = 0x9F
		}
	case c >= 0xF0 && c <= 0xF4:
		need = 3
		if c == 0xF0 {
			lo = 0x90
		} else if c == 0xF4 {
			hi = 0x8F
		}
	default:
		return 1
	}
	n := 1
	for n <= need && n < len(b) && b[n] >= lo && b[n] <= hi {
		lo, hi = 0x80, 0xBF
		n++
	}
	return n
}

// A StopRule decides after each token whether the answer has ended: its decoded text, without carriage returns and
// newlines, ends with <|end|> (spec/prompting.md 5). It keeps only the tail of the text.
type StopRule struct{ tail []byte }

// Push adds the bytes of a token and reports whether generation stops.
func (s *StopRule) Push(piece []byte) bool {
	for _, c := range piece {
		if c != '\r' && c != '\n' {
			s.tail = append(s.tail, c)
		}
	}
	if extra := len(s.tail) - len(EndMarker); extra > 0 {
		s.tail = s.tail[extra:]
	}
	return string(s.tail) == EndMarker
}
