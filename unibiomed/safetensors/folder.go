package safetensors

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/fileerr"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint/strictjson"
)

// Names of the files of a checkpoint folder.
const (
	SingleName = "model.safetensors"
	IndexName  = "model.safetensors.index.json"
)

// Limits of an index.
const (
	maxIndex  = 32 << 20
	maxShards = 1024
)

// A Folder is a checkpoint's tensors: one file, or shards named by an index.
type Folder struct {
	Files  []*File // in name order
	Index  bool    // whether IndexName was read
	byName map[string]*File
}

// OpenFolder opens model.safetensors, or where it is absent the shards that model.safetensors.index.json names.
// The index must agree with the shards: each tensor is in the shard that the index says, and none is anywhere twice.
func OpenFolder(dir string) (*Folder, error) {
	f := &Folder{byName: map[string]*File{}}
	path := filepath.Join(dir, SingleName)
	one, err := Open(path)
	switch {
	case err == nil:
		f.Files = []*File{one}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	default:
		if err := f.openShards(dir); err != nil {
			f.Close()
			if errors.Is(err, fs.ErrNotExist) && len(f.Files) == 0 && !f.Index {
				return nil, &os.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w, and neither is %s", fs.ErrNotExist, IndexName)}
			}
			return nil, err
		}
	}
	for _, file := range f.Files {
		for _, t := range file.Tensors {
			if other := f.byName[t.Name]; other != nil && other != file {
				f.Close()
				return nil, fileerr.Format(file.Name, "tensor "+fileerr.Quote(t.Name), "a second one", "one, that of "+filepath.Base(other.Name))
			}
			f.byName[t.Name] = file
		}
	}
	return f, nil
}

func (f *Folder) openShards(dir string) error {
	path := filepath.Join(dir, IndexName)
	weights, err := readIndex(path)
	if err != nil {
		return err
	}
	f.Index = true
	shards := slices.Compact(slices.Sorted(maps.Values(weights)))
	if len(shards) > maxShards {
		return fileerr.Unsupported(path, "weight_map", fmt.Sprintf("%d shards", len(shards)), fmt.Sprintf("at most %d", maxShards))
	}
	inShard := map[string]string{}
	for _, shard := range shards {
		if shard != filepath.Base(shard) || strings.ContainsAny(shard, `/\`) || !strings.HasSuffix(shard, ".safetensors") {
			return fileerr.Format(path, "weight_map", fileerr.Quote(shard), "the name of a .safetensors file in the same folder")
		}
		file, err := Open(filepath.Join(dir, shard))
		if err != nil {
			return err
		}
		f.Files = append(f.Files, file)
		for _, t := range file.Tensors {
			if _, ok := weights[t.Name]; !ok {
				return fileerr.Format(path, "weight_map", "no entry for "+fileerr.Quote(t.Name), "one, as "+shard+" holds it")
			}
			inShard[t.Name] = shard
			if weights[t.Name] != shard {
				return fileerr.Format(path, "weight_map "+fileerr.Quote(t.Name), weights[t.Name], shard+", which holds it")
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(weights)) {
		if _, ok := inShard[name]; !ok {
			return fileerr.Format(path, "weight_map "+fileerr.Quote(name), weights[name], "a file that holds the tensor")
		}
	}
	return nil
}

func readIndex(path string) (map[string]string, error) {
	r, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxIndex+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxIndex {
		return nil, fileerr.Unsupported(path, "size", fmt.Sprintf("more than %d bytes", maxIndex), fmt.Sprintf("at most %d", maxIndex))
	}
	return parseIndex(path, data)
}

func parseIndex(path string, data []byte) (map[string]string, error) {
	d := strictjson.NewDecoder(bytes.NewReader(data))
	var weights map[string]string
	entry := "index"
	err := d.Object(func(name string) error {
		if name != "weight_map" {
			return d.Skip()
		}
		weights = map[string]string{}
		return d.Object(func(tensor string) (err error) {
			entry = "weight_map " + fileerr.Quote(tensor)
			weights[tensor], err = d.String()
			return err
		})
	})
	if err == nil {
		err = d.End()
	}
	if err != nil {
		return nil, strictjson.Problem(path, entry, err, "a safetensors index")
	}
	if len(weights) == 0 {
		return nil, fileerr.Format(path, "weight_map", "no tensors", "at least one")
	}
	return weights, nil
}

// Tensor returns the tensor of that name and the file that holds it.
func (f *Folder) Tensor(name string) (*File, Tensor, bool) {
	file := f.byName[name]
	if file == nil {
		return nil, Tensor{}, false
	}
	t, ok := file.Tensor(name)
	return file, t, ok
}

// Close closes every file.
func (f *Folder) Close() error {
	var errs []error
	for _, file := range f.Files {
		errs = append(errs, file.Close())
	}
	return errors.Join(errs...)
}
