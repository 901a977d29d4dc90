package checkpoint

import (
	"bufio"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
)

// A staging folder stands beside its destination and takes its name when everything in it is complete: a destination appears
// whole or not at all.
type staging struct {
	dir, dest string
	files     map[string]FileInfo
}

// An ExistsError says that a destination is not empty.
type ExistsError struct {
	Path string
	Why  string // why it is not overwritten
}

func (e *ExistsError) Error() string { return e.Path + ": the folder is not empty" + e.Why }

// Is lets errors.Is(err, fs.ErrExist) hold.
func (e *ExistsError) Is(target error) bool { return target == fs.ErrExist }

// newStaging checks the destination and makes a staging folder.
func newStaging(dest string, overwrite bool) (*staging, error) {
	dest, err := filepath.Abs(dest)
	if err != nil {
		return nil, err
	}
	if err := checkDestination(dest, overwrite); err != nil {
		return nil, err
	}
	parent := filepath.Dir(dest)
	if err := os.MkdirAll(parent, 0o777); err != nil {
		return nil, err
	}
	s := &staging{dest: dest, dir: besides(dest, "part"), files: map[string]FileInfo{}}
	return s, os.Mkdir(s.dir, 0o777)
}

func besides(path, kind string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:8]+"."+kind)
}

// checkDestination allows what is absent, an empty folder and, to overwrite, a folder that holds files of a model only.
func checkDestination(dest string, overwrite bool) error {
	entries, err := os.ReadDir(dest)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if len(entries) == 0 {
		return nil
	}
	if !overwrite {
		return &ExistsError{Path: dest}
	}
	ours := []string{ManifestFile, Language.File(), Vision.File(), Grounding.File()}
	for _, e := range entries {
		if e.IsDir() || !slices.Contains(ours, e.Name()) {
			return &ExistsError{dest, fmt.Sprintf(", and holds %q, which is no file of a model", e.Name())}
		}
	}
	return nil
}

// commit moves the folder to its destination.
func (s *staging) commit(overwrite bool) error {
	if err := checkDestination(s.dest, overwrite); err != nil {
		return err
	}
	old := ""
	if _, err := os.Lstat(s.dest); err == nil {
		old = besides(s.dest, "old")
		if err := os.Rename(s.dest, old); err != nil {
			return err
		}
	}
	if err := os.Rename(s.dir, s.dest); err != nil {
		if old != "" {
			err = errors.Join(err, os.Rename(old, s.dest))
		}
		return err
	}
	if old != "" {
		return os.RemoveAll(old)
	}
	return nil
}

// discard removes what is left of the staging folder. It does nothing after commit.
func (s *staging) discard() { os.RemoveAll(s.dir) }

// A stagedFile is a file being written, hashed on its way.
type stagedFile struct {
	s    *staging
	name string
	f    *os.File
	buf  *bufio.Writer
	hash hash.Hash
	size int64
}

func (s *staging) create(name string) (*stagedFile, error) {
	f, err := os.OpenFile(filepath.Join(s.dir, name), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o666)
	if err != nil {
		return nil, err
	}
	out := &stagedFile{s: s, name: name, f: f, hash: sha256.New()}
	out.buf = bufio.NewWriterSize(io.MultiWriter(f, out.hash), 1<<20)
	return out, nil
}

func (f *stagedFile) Write(p []byte) (int, error) {
	f.size += int64(len(p))
	return f.buf.Write(p)
}

// finish completes the file on disk and notes its sum. close releases it without.
func (f *stagedFile) finish() error {
	if err := f.buf.Flush(); err != nil {
		return err
	}
	if err := f.f.Sync(); err != nil {
		return err
	}
	f.s.files[f.name] = FileInfo{hex.EncodeToString(f.hash.Sum(nil)), f.size}
	return f.f.Close()
}

func (f *stagedFile) close() { f.f.Close() }
