package evaluation

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// A Header is the first line of a journal: what its records belong to. A run continues only a journal with its own header.
type Header struct {
	Schema       string `json:"schema"`
	Dataset      string `json:"dataset"`
	Format       Format `json:"format"`
	Split        string `json:"split"`
	Task         Task   `json:"task"`
	Absent       bool   `json:"absent"` // whether phrases of absent things are asked for
	Model        string `json:"model"`
	SHA256       string `json:"model_sha256"` // of the source checkpoint
	Quantization string `json:"quantization"`
}

// JournalSchema names the format of a journal.
const JournalSchema = "unibiomed.evaluation.items/1"

// A Record is one image's line.
type Record struct {
	ID           string  `json:"id"`
	Group        string  `json:"group"`
	Modality     string  `json:"modality,omitempty"`
	Items        []Item  `json:"items"`
	Milliseconds float64 `json:"ms"`

	// Error says why the image could not be scored. Such records are not written, so that a resumed run tries again.
	Error string `json:"-"`
}

// A JournalError says what is wrong with a journal.
type JournalError struct {
	File string
	Line int
	Msg  string
}

func (e *JournalError) Error() string { return fmt.Sprintf("%s: line %d: %s", e.File, e.Line, e.Msg) }

// A Journal is a file to which records are appended, one line each.
type Journal struct{ f *os.File }

// CreateJournal starts a new file; one that exists is an error.
func CreateJournal(path string, h Header) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	j := &Journal{f}
	h.Schema = JournalSchema
	if err := j.line(h); err != nil {
		j.Close()
		os.Remove(path)
		return nil, err
	}
	return j, nil
}

// ResumeJournal reads a file's records and opens it for more. A last line that was cut is dropped from the file. A file that is
// absent or has not even a header is started.
func ResumeJournal(path string, h Header) (*Journal, []Record, error) {
	h.Schema = JournalSchema
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) {
		j, err := CreateJournal(path, h)
		return j, nil, err
	}
	if err != nil {
		return nil, nil, err
	}
	have, records, end, err := readJournal(f, path)
	if err == nil && end > 0 && have != h {
		err = &JournalError{path, 1, fmt.Sprintf("belongs to %+v, this run is %+v", have, h)}
	}
	if err == nil {
		err = f.Truncate(end)
	}
	if err == nil {
		_, err = f.Seek(end, io.SeekStart)
	}
	j := &Journal{f}
	if err == nil && end == 0 {
		err = j.line(h)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return j, records, nil
}

// Append writes a record. It is on its way to the disk when Append returns: a kill later does not lose it.
func (j *Journal) Append(r Record) error { return j.line(r) }

func (j *Journal) line(v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	if _, err := j.f.Write(b.Bytes()); err != nil {
		return err
	}
	return j.f.Sync()
}

// Close closes the file.
func (j *Journal) Close() error { return j.f.Close() }

// ReadJournal reads a whole journal. A last line without its end is ignored. Errors call it name.
func ReadJournal(r io.Reader, name string) (Header, []Record, error) {
	h, records, end, err := readJournal(r, name)
	if err == nil && end == 0 {
		err = &JournalError{name, 1, "no header"}
	}
	return h, records, err
}

// readJournal also returns where the last whole line ends.
func readJournal(r io.Reader, name string) (h Header, records []Record, end int64, err error) {
	lines := bufio.NewReaderSize(r, 64<<10)
	seen := map[string]int{}
	for number := 1; ; number++ {
		line, err := readLine(lines, maxRecord)
		if errors.Is(err, io.EOF) {
			return h, records, end, nil
		}
		if err != nil {
			return h, nil, 0, &JournalError{name, number, err.Error()}
		}
		bad := func(err error) error { return &JournalError{name, number, err.Error()} }
		if number == 1 {
			if err := strict(line, &h); err != nil {
				return h, nil, 0, bad(err)
			}
			if h.Schema != JournalSchema {
				return h, nil, 0, bad(fmt.Errorf("schema %q, want %q", h.Schema, JournalSchema))
			}
		} else {
			var rec Record
			if err := strict(line, &rec); err != nil {
				return h, nil, 0, bad(err)
			}
			if err := rec.check(); err != nil {
				return h, nil, 0, bad(err)
			}
			if first, twice := seen[rec.ID]; twice {
				return h, nil, 0, bad(fmt.Errorf("%q stands there already, in line %d", rec.ID, first))
			}
			seen[rec.ID] = number
			records = append(records, rec)
		}
		end += int64(len(line)) + 1
	}
}

// maxRecord bounds a line: the answers of an image with many targets.
const maxRecord = 16 << 20

// readLine returns a line without its end, io.EOF when the last one has none.
func readLine(r *bufio.Reader, most int) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err == nil {
			return line[:len(line)-1], nil
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return nil, err
		}
		if len(line) > most {
			return nil, fmt.Errorf("longer than %d bytes", most)
		}
	}
}

// strict decodes a document without unknown names and without anything behind it.
func strict(data []byte, v any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return fmt.Errorf("%s", strings.TrimPrefix(err.Error(), "json: "))
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("something follows the document")
	}
	return nil
}

// check compares the numbers with each other, so that scores stay within 0 and 1.
func (r Record) check() error {
	if r.ID == "" {
		return errors.New("id is empty")
	}
	for i, it := range r.Items {
		if p := it.Pixels; p != nil && (p.Both < 0 || p.Pred < p.Both || p.Truth < p.Both || p.Pred > 1<<40 || p.Truth > 1<<40) {
			return fmt.Errorf("items[%d].pixels: %d predicted, %d true, %d in both", i, p.Pred, p.Truth, p.Both)
		}
		if it.Segs < 0 || it.Expected < 0 || !(it.Official >= 0 && it.Official <= 1) || !(it.Strict >= 0 && it.Strict <= 1) {
			return fmt.Errorf("items[%d]: a score outside 0 to 1, or a count below 0", i)
		}
	}
	return nil
}
