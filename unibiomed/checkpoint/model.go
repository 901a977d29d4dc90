package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
)

// Names and versions of a model folder.
const (
	ManifestFile  = "model.json"
	LanguageFile  = "language.gguf"
	VisionFile    = "vision.gguf"
	GroundingFile = "grounding.gguf"

	schemaName    = "unibiomed.model/"
	schemaVersion = "1"
	formatVersion = 1 // of vision.gguf and grounding.gguf
)

// A Manifest is the content of model.json.
type Manifest struct {
	Schema       string              `json:"schema"`
	Name         string              `json:"name"`
	Description  string              `json:"description"`
	Licence      string              `json:"licence"`
	IntendedUse  string              `json:"intended_use"`
	Source       Source              `json:"source"`
	Quantization map[string]string   `json:"quantization"` // type name of each part
	Tokens       TokenIDs            `json:"tokens"`
	Template     string              `json:"template"` // name of the prompt template
	Files        map[string]FileInfo `json:"files"`    // every file of the folder but model.json
	Parity       json.RawMessage     `json:"parity,omitempty"`
}

// A Source says what a model was made from. SHA256 is that of the lines "<sha256>  <name>\n" of Files in name order,
// what `sha256sum` prints for them.
type Source struct {
	Name   string            `json:"name"`
	SHA256 string            `json:"sha256"`
	Files  map[string]string `json:"files"` // sha256 of each file read
}

// A FileInfo identifies a file's content.
type FileInfo struct {
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// ReadModel reads model.json of a model folder. It checks the document by itself; Verify compares it with the files.
func ReadModel(dir string) (Manifest, error) {
	path := filepath.Join(dir, ManifestFile)
	data, err := readLimited(path, maxConfig)
	if err != nil {
		return Manifest{}, err
	}
	m, err := parseModel(path, data)
	if err != nil {
		return Manifest{}, err
	}
	return *m, nil
}

var (
	hexSHA256 = regexp.MustCompile(`^[0-9a-f]{64}$`)
	shortName = regexp.MustCompile(`^[A-Za-z0-9_]{1,64}$`)
)

func parseModel(path string, data []byte) (*Manifest, error) {
	// One pass for what encoding/json lets through: names twice, deep nesting, anything after the document.
	v, err := strictjson.Parse(data)
	if err != nil {
		return nil, strictjson.Problem(path, "json", err, "a model.json")
	}
	top, ok := v.(map[string]any)
	if !ok {
		return nil, fileerr.Format(path, "json", strictjson.Describe(v), "an object")
	}
	schema, _ := top["schema"].(string)
	if version, ok := strings.CutPrefix(schema, schemaName); !ok {
		return nil, fileerr.Format(path, "schema", strictjson.Describe(top["schema"]), fileerr.Quote(schemaName+schemaVersion))
	} else if version != schemaVersion {
		return nil, fileerr.Unsupported(path, "schema", fileerr.Quote(schema), fileerr.Quote(schemaName+schemaVersion))
	}
	for _, name := range []string{"name", "quantization", "tokens", "template", "files"} {
		if top[name] == nil {
			return nil, fileerr.Format(path, name, "nothing", "a value")
		}
	}
	if tokens, ok := top["tokens"].(map[string]any); ok {
		for _, f := range new(TokenIDs).fields() {
			if tokens[f.name] == nil {
				return nil, fileerr.Format(path, "tokens."+f.name, "nothing", "an id")
			}
		}
	}
	m := &Manifest{}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(m); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return nil, fileerr.Format(path, kind.Field, "a "+kind.Value, "a "+kind.Type.String())
		}
		return nil, strictjson.Problem(path, "json", err, "a model.json")
	}
	return m, m.check(path)
}

func (m *Manifest) check(path string) error {
	var problems []error
	bad := func(field string, got, want any) { problems = append(problems, fileerr.Format(path, field, got, want)) }
	if m.Name == "" || len(m.Name) > 256 {
		bad("name", fileerr.Quote(m.Name), "1 to 256 bytes")
	}
	if !shortName.MatchString(m.Template) {
		bad("template", fileerr.Quote(m.Template), "letters, digits and underscores")
	}
	for _, p := range Parts() {
		if _, ok := schemes[m.Quantization[string(p)]]; !ok {
			bad("quantization."+string(p), fileerr.Quote(m.Quantization[string(p)]), "one of "+strings.Join(Types(), " "))
		}
		info, ok := m.Files[p.File()]
		switch {
		case !ok:
			bad("files."+p.File(), "nothing", "sha256 and size")
		case !hexSHA256.MatchString(info.SHA256):
			bad("files."+p.File()+".sha256", fileerr.Quote(info.SHA256), "64 hexadecimal digits in lower case")
		case info.Size < 1:
			bad("files."+p.File()+".size", info.Size, "a positive number of bytes")
		}
	}
	if len(m.Quantization) > len(Parts()) {
		bad("quantization", fmt.Sprintf("%d parts", len(m.Quantization)), "language, vision, grounding")
	}
	if len(m.Files) > len(Parts()) {
		bad("files", fmt.Sprintf("%d files", len(m.Files)), "language.gguf, vision.gguf, grounding.gguf")
	}
	seen := map[int32]string{}
	for _, f := range m.Tokens.fields() {
		if *f.id < 0 || *f.id >= maxTokens {
			bad("tokens."+f.name, *f.id, fmt.Sprintf("0 to %d", maxTokens-1))
		}
		if other, twice := seen[*f.id]; twice {
			bad("tokens."+f.name, *f.id, "an id of its own, that one is "+other+"'s")
		}
		seen[*f.id] = f.name
	}
	return list(problems)
}

// write writes the document.
func (m *Manifest) write(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(m)
}
