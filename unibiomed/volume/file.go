package volume

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"os"
	"path/filepath"
)

// WriteFile makes the file at path from what fn writes: whole, or not at all. It writes beside path and renames at the
// end, so that a reader never sees a part and a failure leaves what was there before.
func WriteFile(path string, fn func(io.Writer) error) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".writing-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := bufio.NewWriterSize(f, 1<<16)
	if err = fn(w); err != nil {
		return err
	}
	if err = w.Flush(); err != nil {
		return err
	}
	if err = f.Chmod(0o644); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	return os.Rename(f.Name(), path)
}

// OpenRegular opens a regular file and returns its size; anything else, such as a folder or a pipe, is an [UnsupportedError] that
// names format and path.
func OpenRegular(format, path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &UnsupportedError{Format: format, File: path, Feature: "a " + info.Mode().Type().String() + " that is no regular file"}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// ReadExactly reads n bytes from r in steps that grow with what arrives, so that a false n costs no memory. The error
// is io.ErrUnexpectedEOF when r ends early, with the bytes that came.
func ReadExactly(r io.Reader, n int64) ([]byte, error) {
	buf := make([]byte, 0, min(n, 1<<20))
	for int64(len(buf)) < n {
		if len(buf) == cap(buf) {
			grown := make([]byte, len(buf), min(n, 2*int64(cap(buf))))
			copy(grown, buf)
			buf = grown
		}
		m, err := io.ReadFull(r, buf[len(buf):cap(buf)])
		buf = buf[:len(buf)+m]
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return buf, err
		}
	}
	return buf, nil
}

// SwapBytes turns samples of size bytes, in place, from one byte order into the other.
func SwapBytes(b []byte, size int) {
	if size == 1 {
		return
	}
	for ; len(b) >= size; b = b[size:] {
		for i := range size / 2 {
			b[i], b[size-1-i] = b[size-1-i], b[i]
		}
	}
}

// PickSamples keeps n of every group of samples of size bytes, from the first on, and returns the shortened b.
func PickSamples(b []byte, size, group, first, n int) []byte {
	if group == n {
		return b
	}
	count := len(b) / (size * group)
	for i := range count {
		copy(b[i*n*size:(i+1)*n*size], b[(i*group+first)*size:])
	}
	return b[:count*n*size]
}

// Float32Bytes returns values as little-endian float32.
func Float32Bytes(values []float32) []byte {
	b := make([]byte, 0, 4*len(values))
	for _, x := range values {
		b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
	}
	return b
}
