package unibiomed

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"strconv"

	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
	"github.com/unibiomed/go-unibiomed/unibiomed/rle"
)

// A journal keeps the slices of a volume that are done, so that a killed run goes on where it was. It is a text file: a line
// with the run's key, then a line a slice, each with its checksum in front. Every line is on the disk before the next slice
// starts; a line that a kill cut in two is dropped.
type journal struct {
	f *os.File
}

const (
	journalSchema = "unibiomed.journal/1"
	// maxJournalLine bounds what a damaged journal can make us read at once: far above the masks of one slice.
	maxJournalLine = 64 << 20
)

type journalHeader struct {
	Schema string `json:"schema"`
	Key    string `json:"key"`
}

// A journalSlice is one line.
type journalSlice struct {
	Slice   int             `json:"slice"`
	Picture string          `json:"picture"` // of which picture
	Targets []journalTarget `json:"targets"`
}

type journalTarget struct {
	VolumeSlice
	RLE rle.RLE `json:"rle"` // in the grid of the picture, without padding
}

// A JournalError says that a journal can't be continued.
type JournalError struct {
	File string
	Msg  string
}

func (e *JournalError) Error() string { return e.File + ": " + e.Msg }

// openJournal opens or makes the journal of the run that key describes, and hands the slices it holds to have.
func openJournal(path string, key any, have func(journalSlice) error) (*journal, error) {
	text, err := json.Marshal(key)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(text)
	want := journalHeader{journalSchema, hex.EncodeToString(sum[:])}

	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	j := &journal{f: f}
	end, err := j.read(path, want, have)
	if err == nil {
		err = j.continueAt(end, want)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return j, nil
}

// read hands over the whole lines and returns where they end.
func (j *journal) read(path string, want journalHeader, have func(journalSlice) error) (end int64, err error) {
	r := bufio.NewReaderSize(j.f, 1<<16)
	first := true
	for {
		line, err := readLine(r)
		if err != nil && err != io.EOF && err != errLongLine {
			return 0, err
		}
		body, ok := checkLine(line)
		switch {
		case first && len(line) == 0:
			return 0, nil
		case first:
			var got journalHeader
			if !ok {
				if err == io.EOF && bytes.HasPrefix([]byte(encodeLine(want)), line) {
					return 0, nil // cut while it was made
				}
				return 0, &JournalError{path, "is not a journal of unibiomed: choose another folder, or remove it"}
			}
			if json.Unmarshal(body, &got) != nil || got.Schema != want.Schema {
				return 0, &JournalError{path, "is not a journal of unibiomed: choose another folder, or remove it"}
			}
			if got.Key != want.Key {
				return 0, &JournalError{path, "belongs to a run with another model, volume, targets or settings: repeat those, or remove it"}
			}
		case !ok:
			return end, nil
		default:
			var s journalSlice
			if json.Unmarshal(body, &s) != nil {
				return end, nil
			}
			if err := have(s); err != nil {
				return 0, &JournalError{path, fmt.Sprintf("slice %d: %v: remove the file to start anew", s.Slice, err)}
			}
		}
		first = false
		end += int64(len(line))
	}
}

var errLongLine = errors.New("line too long")

// readLine returns the next line with its newline, or what there is of it.
func readLine(r *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxJournalLine {
			return line, errLongLine
		}
	}
}

// checkLine returns what a whole line says.
func checkLine(line []byte) (body []byte, ok bool) {
	if len(line) < 10 || line[len(line)-1] != '\n' || line[8] != ' ' {
		return nil, false
	}
	sum, err := strconv.ParseUint(string(line[:8]), 16, 32)
	body = line[9 : len(line)-1]
	return body, err == nil && uint32(sum) == crc32.ChecksumIEEE(body)
}

func encodeLine(v any) string {
	body, err := json.Marshal(v)
	if err != nil {
		panic(err) // our own structs
	}
	return fmt.Sprintf("%08x %s\n", crc32.ChecksumIEEE(body), body)
}

// continueAt drops what follows the whole lines, and writes the header of a new journal.
func (j *journal) continueAt(end int64, header journalHeader) error {
	if err := j.f.Truncate(end); err != nil {
		return err
	}
	if _, err := j.f.Seek(end, io.SeekStart); err != nil {
		return err
	}
	if end > 0 {
		return nil
	}
	if err := j.write(header); err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(j.f.Name())); err == nil { // the name itself; not all systems can
		dir.Sync()
		dir.Close()
	}
	return nil
}

func (j *journal) write(v any) error {
	if _, err := j.f.WriteString(encodeLine(v)); err != nil {
		return err
	}
	return j.f.Sync()
}

func (j *journal) close() {
	if j != nil {
		j.f.Close()
	}
}

// pictureSum names a picture in a journal.
func pictureSum(img *imaging.RGB) string {
	key := keyOf(img, picture)
	return hex.EncodeToString(key[:16])
}
