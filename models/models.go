// Package models holds unibiomed-nano, the small model that ships with the project, and hands it to callers in one step.
// Programs that import this package grow by the model's size; package unibiomed does not import it.
//
// unibiomed-nano has the architecture of UniBiomed in small. It is for trying, testing and teaching: unibiomed-nano/CARD.md says what
// it was trained on, how good it is, and what it can't do. Research use only.
package models

import (
	"bytes"
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
)

// NanoName is the name of the model.
const NanoName = "unibiomed-nano"

// CacheVariable names the environment variable with the folder that Nano writes to.
const CacheVariable = "UNIBIOMED_CACHE"

//go:embed unibiomed-nano/model.json unibiomed-nano/*.gguf
var files embed.FS

// OpenNano opens unibiomed-nano. Errors: those of Nano and unibiomed.Open.
func OpenNano(ctx context.Context, o unibiomed.Options) (*unibiomed.Pipeline, error) {
	dir, err := Nano()
	if err != nil {
		return nil, err
	}
	return unibiomed.Open(ctx, dir, o)
}

// Nano returns the model folder of unibiomed-nano. The native library maps files, so the first call of a user writes the model to
// the user's cache folder (os.UserCacheDir, or CacheVariable), and later calls find it there. Every call compares the files' sha256 with
// model.json and replaces what differs. Each file appears whole or not at all, and model.json comes last; any number of goroutines
// and processes may call at once. Another release's model has a folder of its own.
// Errors: no cache folder is known, or it can't be written.
func Nano() (string, error) {
	base := os.Getenv(CacheVariable)
	if base == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("%s: no folder to keep the embedded model in: set %s: %w", NanoName, CacheVariable, err)
		}
		base = filepath.Join(user, "unibiomed")
	}
	dir, err := unpack(base)
	if err != nil {
		return "", fmt.Errorf("%s: the embedded model can't be kept in %s (%s chooses another folder): %w", NanoName, base, CacheVariable, err)
	}
	return dir, nil
}

// unpack brings the model's folder below base up to date.
func unpack(base string) (string, error) {
	manifest, err := files.ReadFile(path.Join(NanoName, checkpoint.ManifestFile))
	if err != nil {
		return "", err
	}
	var m checkpoint.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		return "", err
	}
	release := sha256.Sum256(manifest)
	dir := filepath.Join(base, NanoName+"-"+hex.EncodeToString(release[:6]))
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	for _, part := range checkpoint.Parts() {
		if err := update(dir, part.File(), m.Files[part.File()].SHA256); err != nil {
			return "", err
		}
	}
	return dir, update(dir, checkpoint.ManifestFile, hex.EncodeToString(release[:]))
}

// update leaves a file alone that has this sha256, and writes it anew otherwise.
func update(dir, name, sum string) error {
	got, err := sumOf(filepath.Join(dir, name))
	if err == nil && got == sum {
		return nil
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	data, err := files.ReadFile(path.Join(NanoName, name))
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // when renamed, there is nothing to remove
	_, err = io.Copy(f, bytes.NewReader(data))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return err
	}
	return os.Rename(f.Name(), filepath.Join(dir, name))
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
