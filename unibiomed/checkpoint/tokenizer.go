package checkpoint

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
)

// Limits of a tokenizer: the real one has 7 MB and 151,679 entries.
const (
	maxTokenizer = 64 << 20
	maxTokens    = 1 << 20
)

// Kinds of tokens in tokenizer.ggml.token_type.
const (
	tokenNormal      = 1
	tokenControl     = 3 // special added tokens: never shown
	tokenUserDefined = 4 // other added tokens
)

// qwen2Pattern splits text before byte-pair encoding; llama.cpp's pre-tokenizer "qwen2" does the same.
const qwen2Pattern = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`

// TokenIDs are the ids of the tokens that the pipeline itself places or looks for.
type TokenIDs struct {
	Seg        int32 `json:"seg"`         // [SEG]: its hidden state prompts the mask decoder
	ImgContext int32 `json:"img_context"` // <IMG_CONTEXT>: replaced by an image embedding
	ImgStart   int32 `json:"img_start"`   // <img>
	ImgEnd     int32 `json:"img_end"`     // </img>
	VPStart    int32 `json:"vp_start"`    // <vp>
	VPEnd      int32 `json:"vp_end"`      // </vp>
	EOS        int32 `json:"eos"`
}

// A tokenField is one id, its name in model.json and its token's text, which EOS has none of its own of.
type tokenField struct {
	name, text string
	id         *int32
}

func (t *TokenIDs) fields() []tokenField {
	return []tokenField{
		{"seg", "[SEG]", &t.Seg}, {"img_context", "<IMG_CONTEXT>", &t.ImgContext}, {"img_start", "<img>", &t.ImgStart},
		{"img_end", "</img>", &t.ImgEnd}, {"vp_start", "<vp>", &t.VPStart}, {"vp_end", "</vp>", &t.VPEnd}, {"eos", "", &t.EOS},
	}
}

// A tokenizer is what tokenizer.json and the files beside it say.
type tokenizer struct {
	file   string
	vocab  map[string]int // base entries, byte-level
	merges []string       // "left right", best first
	added  []addedToken
	ids    map[string]int // base and added
	tokens TokenIDs
	pad    int  // -1: none
	split  bool // whether the pre-tokenizer splits by qwen2Pattern
}

type addedToken struct {
	id      int
	content string
	special bool
}

// readTokenizer reads the tokenizer files of a checkpoint folder and compares them with each other. tokenizer.json must be there;
// added_tokens.json, vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json may be.
func readTokenizer(dir string, files map[string][]byte) (*tokenizer, error) {
	read := func(name string, limit int64) ([]byte, error) {
		data, err := readLimited(filepath.Join(dir, name), limit)
		if errors.Is(err, fs.ErrNotExist) && name != "tokenizer.json" {
			return nil, nil
		}
		if err == nil {
			files[name] = data
		}
		return data, err
	}
	content := map[string][]byte{}
	for _, f := range []struct {
		name  string
		limit int64
	}{{"tokenizer.json", maxTokenizer}, {"added_tokens.json", maxConfig}, {"vocab.json", maxTokenizer}, {"merges.txt", maxTokenizer},
		{"tokenizer_config.json", maxConfig}, {"special_tokens_map.json", maxConfig}, {"generation_config.json", maxConfig}} {
		data, err := read(f.name, f.limit)
		if err != nil {
			return nil, err
		}
		if data != nil {
			content[f.name] = data
		}
	}
	t, err := parseTokenizer(filepath.Join(dir, "tokenizer.json"), content["tokenizer.json"])
	if err != nil {
		return nil, err
	}
	return t, t.crossCheck(dir, content)
}

// parseTokenizer reads tokenizer.json: a byte-level BPE model with Qwen2's splitting.
func parseTokenizer(file string, data []byte) (*tokenizer, error) {
	t := &tokenizer{file: file, pad: -1}
	d := strictjson.NewDecoder(bytes.NewReader(data))
	entry := "json"
	err := d.Object(func(name string) error {
		entry = name
		switch name {
		case "added_tokens":
			return d.Array(func(i int) error {
				entry = fmt.Sprintf("added_tokens[%d]", i)
				return t.parseAdded(d)
			})
		case "model":
			return d.Object(func(name string) error {
				entry = "model." + name
				return t.parseModel(d, name)
			})
		case "pre_tokenizer":
			v, err := d.Value()
			if err != nil {
				return err
			}
			return t.checkPattern(v)
		}
		return d.Skip()
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return nil, strictjson.Problem(file, entry, err, "a tokenizer")
	}
	if len(t.vocab) == 0 {
		return nil, fileerr.Format(file, "model.vocab", "no entries", "a byte-level BPE vocabulary")
	}
	if !t.split {
		return nil, fileerr.Unsupported(file, "pre_tokenizer", "no Split", "Qwen2's pattern")
	}
	return t, t.index()
}

func (t *tokenizer) parseModel(d *strictjson.Decoder, name string) error {
	switch name {
	case "type":
		kind, err := d.String()
		if err == nil && kind != "BPE" {
			return fileerr.Unsupported(t.file, "model.type", fileerr.Quote(kind), `"BPE"`)
		}
		return err
	case "byte_fallback":
		v, err := d.Value()
		if err == nil && v == true {
			return fileerr.Unsupported(t.file, "model.byte_fallback", true, false)
		}
		return err
	case "vocab":
		t.vocab = map[string]int{}
		return d.Object(func(token string) error {
			id, err := d.Int(maxTokens - 1)
			if err != nil {
				return strictjson.Problem(t.file, "model.vocab "+fileerr.Quote(token), err, "an id")
			}
			t.vocab[token] = int(id)
			return nil
		})
	case "merges": // an entry is "left right", or in newer files [left, right]
		return d.Array(func(i int) error {
			if i >= maxTokens {
				return fmt.Errorf("more than %d merges", maxTokens)
			}
			field := fmt.Sprintf("model.merges[%d]", i)
			parts, err := d.Strings(2)
			if err != nil {
				return strictjson.Problem(t.file, field, err, "a merge")
			}
			written := strings.Join(parts, " ")
			left, right, _ := strings.Cut(written, " ")
			if left == "" || right == "" || strings.Contains(right, " ") {
				return fileerr.Format(t.file, field, fileerr.Quote(written), "two parts with one space between, or a pair of them")
			}
			t.merges = append(t.merges, written)
			return nil
		})
	}
	return d.Skip()
}

func (t *tokenizer) parseAdded(d *strictjson.Decoder) error {
	if len(t.added) >= maxTokens {
		return fmt.Errorf("more than %d added tokens", maxTokens)
	}
	a := addedToken{id: -1}
	err := d.Object(func(name string) (err error) {
		switch name {
		case "id":
			var id int64
			id, err = d.Int(maxTokens - 1)
			a.id = int(id)
		case "content":
			a.content, err = d.String()
		case "special":
			a.special, err = d.Bool()
		default:
			err = d.Skip()
		}
		return err
	})
	if err == nil && (a.id < 0 || a.content == "") {
		err = errors.New("id or content is missing")
	}
	t.added = append(t.added, a)
	return err
}

// checkPattern looks for the pattern of a Split pre-tokenizer, which must be Qwen2's.
func (t *tokenizer) checkPattern(v any) error {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			if err := t.checkPattern(e); err != nil {
				return err
			}
		}
	case map[string]any:
		if v["type"] == "Split" {
			pattern, _ := v["pattern"].(map[string]any)
			if pattern["Regex"] != qwen2Pattern {
				return fileerr.Unsupported(t.file, "pre_tokenizer", strictjson.Describe(pattern["Regex"]), "Qwen2's pattern")
			}
			t.split = true
		}
		return t.checkPattern(v["pretokenizers"])
	}
	return nil
}

// index fills ids, and checks that ids and texts are unique and that each merge joins two entries to a third.
func (t *tokenizer) index() error {
	t.ids = maps.Clone(t.vocab)
	texts := make(map[int]string, len(t.ids))
	for text, id := range t.vocab {
		if text == "" {
			return fileerr.Format(t.file, "model.vocab", "an empty entry", "text")
		}
		if other, taken := texts[id]; taken {
			return fileerr.Format(t.file, "model.vocab", fmt.Sprintf("id %d for %s and %s", id, fileerr.Quote(min(text, other)), fileerr.Quote(max(text, other))), "one entry an id")
		}
		texts[id] = text
	}
	for _, a := range t.added {
		field := "added_tokens " + fileerr.Quote(a.content)
		if id, ok := t.ids[a.content]; ok && id != a.id {
			return fileerr.Format(t.file, field, fmt.Sprintf("id %d", a.id), fmt.Sprintf("%d, its other id", id))
		}
		if other, taken := texts[a.id]; taken && other != a.content {
			return fileerr.Format(t.file, field, fmt.Sprintf("id %d", a.id), "an id of its own, that one is "+fileerr.Quote(other)+"'s")
		}
		t.ids[a.content], texts[a.id] = a.id, a.content
	}
	for i, m := range t.merges {
		left, right, _ := strings.Cut(m, " ")
		for _, part := range []string{left, right, left + right} {
			if _, ok := t.vocab[part]; !ok {
				return fileerr.Format(t.file, fmt.Sprintf("model.merges[%d]", i), fileerr.Quote(part), "an entry of the vocabulary")
			}
		}
	}
	return nil
}

// crossCheck compares the tokenizer with the files beside it, and finds the ids of the pipeline's tokens.
func (t *tokenizer) crossCheck(dir string, content map[string][]byte) error {
	var problems []error
	bad := func(file, field string, got, want any) {
		problems = append(problems, fileerr.Format(filepath.Join(dir, file), field, got, want))
	}
	added := map[string]int{}
	for _, a := range t.added {
		added[a.content] = a.id
	}
	for _, f := range []struct {
		name, want string
		ids        map[string]int
	}{{"added_tokens.json", "added_tokens", added}, {"vocab.json", "model.vocab", t.vocab}} {
		if content[f.name] == nil {
			continue
		}
		ids, err := parseIDs(filepath.Join(dir, f.name), content[f.name])
		if err != nil {
			return err
		}
		for _, text := range slices.Sorted(maps.Keys(ids)) {
			if id, ok := f.ids[text]; !ok {
				bad(f.name, fileerr.Quote(text), fmt.Sprintf("id %d", ids[text]), "no entry, as tokenizer.json has none in "+f.want)
			} else if id != ids[text] {
				bad(f.name, fileerr.Quote(text), fmt.Sprintf("id %d", ids[text]), fmt.Sprintf("%d, as tokenizer.json says", id))
			}
		}
		for _, text := range slices.Sorted(maps.Keys(f.ids)) {
			if _, ok := ids[text]; !ok {
				bad(f.name, fileerr.Quote(text), "no entry", fmt.Sprintf("id %d, as tokenizer.json says", f.ids[text]))
			}
		}
	}
	if data := content["merges.txt"]; data != nil {
		lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(string(data), "\r\n", "\n"), "\n"), "\n")
		if strings.HasPrefix(lines[0], "#version") {
			lines = lines[1:]
		}
		lines = slices.DeleteFunc(lines, func(l string) bool { return l == "" })
		if len(lines) != len(t.merges) {
			bad("merges.txt", "merges", len(lines), fmt.Sprintf("%d, as tokenizer.json has", len(t.merges)))
		} else if i := firstDifference(lines, t.merges); i >= 0 {
			bad("merges.txt", fmt.Sprintf("merge %d", i), fileerr.Quote(lines[i]), fileerr.Quote(t.merges[i])+", as tokenizer.json says")
		}
	}
	for _, f := range t.tokens.fields() {
		if f.text == "" {
			continue
		}
		id, ok := t.ids[f.text]
		if !ok {
			problems = append(problems, fileerr.Format(t.file, "token "+fileerr.Quote(f.text), "nothing", "an id"))
		} else if _, ok := added[f.text]; !ok {
			problems = append(problems, fileerr.Format(t.file, "token "+fileerr.Quote(f.text), "an entry of model.vocab", "one of added_tokens"))
		}
		*f.id = int32(id)
	}
	eos, err := t.named(dir, content, "eos_token", "<|im_end|>", &problems)
	if err != nil {
		return err
	}
	if t.tokens.EOS = int32(eos); eos < 0 {
		problems = append(problems, fileerr.Format(t.file, "eos_token", "nothing", "an end-of-sequence token"))
	}
	if t.pad, err = t.named(dir, content, "pad_token", "<|endoftext|>", &problems); err != nil {
		return err
	}
	return list(problems)
}

// named returns the id of a token that tokenizer_config.json and special_tokens_map.json may name, or else of fallback; -1: none.
func (t *tokenizer) named(dir string, content map[string][]byte, field, fallback string, problems *[]error) (int, error) {
	said, by := "", ""
	for _, name := range []string{"tokenizer_config.json", "special_tokens_map.json"} {
		if content[name] == nil {
			continue
		}
		path := filepath.Join(dir, name)
		o, err := parseObject(path, content[name], problems)
		if err != nil {
			return -1, err
		}
		text := ""
		switch v := o.fields[field].(type) {
		case nil:
			continue
		case string:
			text = v
		case map[string]any:
			text, _ = v["content"].(string)
		}
		if text == "" {
			o.bad(field, o.fields[field], "a token")
			continue
		}
		if by != "" && text != said {
			*problems = append(*problems, fileerr.Format(path, field, fileerr.Quote(text), fileerr.Quote(said)+", as "+by+" says"))
		}
		said, by = text, name
	}
	if by == "" {
		if id, ok := t.ids[fallback]; ok {
			return id, nil
		}
		return -1, nil
	}
	id, ok := t.ids[said]
	if !ok {
		*problems = append(*problems, fileerr.Format(filepath.Join(dir, by), field, fileerr.Quote(said), "a token of tokenizer.json"))
		return 0, nil
	}
	return id, nil
}

// parseIDs reads an object of texts and ids.
func parseIDs(file string, data []byte) (map[string]int, error) {
	d := strictjson.NewDecoder(bytes.NewReader(data))
	ids := map[string]int{}
	entry := "json"
	err := d.Object(func(text string) error {
		entry = fileerr.Quote(text)
		id, err := d.Int(maxTokens - 1)
		ids[text] = int(id)
		return err
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return nil, strictjson.Problem(file, entry, err, "an object of tokens and ids")
	}
	return ids, nil
}

func firstDifference(a, b []string) int {
	for i := range a {
		if a[i] != b[i] {
			return i
		}
	}
	return -1
}

// checkSize compares the tokenizer with the rows of the embeddings: every id from 0 to rows-1 must have its token.
func (t *tokenizer) checkSize(rows int) error {
	if len(t.ids) != rows {
		return fileerr.Format(t.file, "number of tokens", len(t.ids), fmt.Sprintf("%d, llm_config.vocab_size and the rows of the embeddings", rows))
	}
	for text, id := range t.ids {
		if id >= rows {
			return fileerr.Format(t.file, "token "+fileerr.Quote(text), fmt.Sprintf("id %d", id), fmt.Sprintf("less than %d, the number of tokens", rows))
		}
	}
	return nil
}

// arrays returns the tokens and their kinds by id.
func (t *tokenizer) arrays() (texts []string, kinds []int32) {
	texts, kinds = make([]string, len(t.ids)), make([]int32, len(t.ids))
	for text, id := range t.ids {
		texts[id], kinds[id] = text, tokenNormal
	}
	for _, a := range t.added {
		kinds[a.id] = tokenUserDefined
		if a.special {
			kinds[a.id] = tokenControl
		}
	}
	return texts, kinds
}
