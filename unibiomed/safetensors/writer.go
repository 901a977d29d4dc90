package safetensors

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
)

// A Writer makes a file of f32 tensors that come one by one, for instance the trace of an answer. Only one tensor's bytes pass
// through memory at a time. The file appears under its name when Close succeeds, whole; until then, and after Abort, there is none.
// It is safe for concurrent use.
type Writer struct {
	mu      sync.Mutex
	path    string
	spool   *os.File // the tensors' bytes, beside path; the header comes first in the file but is known last
	buf     *bufio.Writer
	entries []entry
	names   map[string]bool
	offset  int64
	err     error // the first failure; everything after it fails too
}

type entry struct {
	name  string
	shape []int
	end   int64
}

var errWriterClosed = errors.New("safetensors: the writer is closed")

// Create starts a file that Close will put at path, over a file that may be there.
func Create(path string) (*Writer, error) {
	spool, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*.part")
	if err != nil {
		return nil, err
	}
	return &Writer{path: path, spool: spool, buf: bufio.NewWriterSize(spool, 1<<18), names: map[string]bool{}}, nil
}

// Add writes a tensor, row-major, slowest axis first. data holds the product of shape; a scalar has an empty shape.
func (w *Writer) Add(name string, shape []int, data []float32) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	n := 1
	for _, s := range shape {
		if s < 0 || (s > 0 && n > math.MaxInt/s) {
			return fmt.Errorf("safetensors: %s: shape %v", name, shape)
		}
		n *= s
	}
	if n != len(data) {
		return fmt.Errorf("safetensors: %s: got %d values, want %d for shape %v", name, len(data), n, shape)
	}
	if name == "__metadata__" || w.names[name] {
		return fmt.Errorf("safetensors: name %q is taken", name)
	}
	var word [4]byte
	for _, v := range data {
		binary.LittleEndian.PutUint32(word[:], math.Float32bits(v))
		if _, err := w.buf.Write(word[:]); err != nil {
			w.err = err
			return err
		}
	}
	w.names[name] = true
	w.offset += 4 * int64(n)
	w.entries = append(w.entries, entry{name, append([]int{}, shape...), w.offset})
	return nil
}

// Close writes the header and puts the file in place. On failure nothing is left. Closing again does nothing.
func (w *Writer) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.spool == nil {
		return nil
	}
	if w.err == nil {
		w.err = w.finish()
	}
	err := w.err
	w.drop()
	return err
}

// Abort gives the file up and leaves nothing. It does nothing after Close.
func (w *Writer) Abort() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.drop()
}

func (w *Writer) drop() {
	if w.spool != nil {
		w.spool.Close()
		os.Remove(w.spool.Name())
		w.spool = nil
		w.err = errWriterClosed
	}
}

func (w *Writer) finish() (err error) {
	if err := w.buf.Flush(); err != nil {
		return err
	}
	if _, err := w.spool.Seek(0, io.SeekStart); err != nil {
		return err
	}
	out, err := os.CreateTemp(filepath.Dir(w.path), "."+filepath.Base(w.path)+".*.part")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			out.Close()
			os.Remove(out.Name())
		}
	}()
	if _, err := out.Write(header(w.entries)); err != nil {
		return err
	}
	if _, err := io.Copy(out, w.spool); err != nil {
		return err
	}
	if err := out.Chmod(0o644); err != nil {
		return err
	}
	if err := out.Close(); err != nil {
		return err
	}
	return os.Rename(out.Name(), w.path)
}

// header returns the length word and the JSON header, padded so that the data start at a multiple of 8.
func header(entries []entry) []byte {
	b := append(make([]byte, 8), `{"__metadata__":{"format":"pt"}`...)
	start := int64(0)
	for _, e := range entries {
		name, _ := json.Marshal(e.name) // a string always marshals
		shape, _ := json.Marshal(e.shape)
		b = fmt.Appendf(b, `,%s:{"dtype":"F32","shape":%s,"data_offsets":[%d,%d]}`, name, shape, start, e.end)
		start = e.end
	}
	b = append(b, '}')
	b = append(b, slices.Repeat([]byte{' '}, (8-len(b)%8)%8)...)
	binary.LittleEndian.PutUint64(b, uint64(len(b)-8))
	return b
}
