package models

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/unibiomed"
	"github.com/unibiomed/go-unibiomed/unibiomed/checkpoint"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// Many callers at once get one whole folder; what is damaged or missing is written again.
func TestNanoFolder(t *testing.T) {
	base := t.TempDir()
	t.Setenv(CacheVariable, base)
	var all sync.WaitGroup
	dirs := make([]string, 8)
	errs := make([]error, len(dirs))
	for i := range dirs {
		all.Go(func() { dirs[i], errs[i] = Nano() })
	}
	all.Wait()
	for i := range dirs {
		require.NoError(t, errs[i])
		require.Equal(t, dirs[0], dirs[i])
	}
	dir := dirs[0]
	check := func() {
		m, err := checkpoint.Verify(t.Context(), dir, nil)
		require.NoError(t, err)
		require.Equal(t, NanoName, m.Name)
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		require.Len(t, entries, 4, "no temporary file is left")
	}
	check()

	language := filepath.Join(dir, checkpoint.LanguageFile)
	data, err := os.ReadFile(language)
	require.NoError(t, err)
	data[len(data)/2] ^= 1
	require.NoError(t, os.WriteFile(language, data, 0o644))
	require.NoError(t, os.Remove(filepath.Join(dir, checkpoint.ManifestFile)))
	require.NoError(t, os.Truncate(filepath.Join(dir, checkpoint.VisionFile), 100))
	_, err = Nano()
	require.NoError(t, err)
	check()

	before, err := os.Stat(language)
	require.NoError(t, err)
	_, err = Nano()
	require.NoError(t, err)
	after, err := os.Stat(language)
	require.NoError(t, err)
	require.True(t, os.SameFile(before, after), "a whole file is left alone")
}

// A folder that can't be written is one error that names it and the way out.
func TestNanoNoFolder(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	require.NoError(t, os.WriteFile(file, nil, 0o644))
	t.Setenv(CacheVariable, file)
	_, err := Nano()
	require.ErrorContains(t, err, file)
	require.ErrorContains(t, err, CacheVariable)
}

// The folder stays small enough to ship.
func TestNanoSize(t *testing.T) {
	var total int64
	entries, err := files.ReadDir(NanoName)
	require.NoError(t, err)
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		total += info.Size()
	}
	require.LessOrEqual(t, total, int64(40<<20))
}

func TestOpenNano(t *testing.T) {
	p, err := OpenNano(t.Context(), unibiomed.Options{})
	require.NoError(t, err)
	defer p.Close()
	img := imaging.NewRGB(64, 48)
	res, err := p.Segment(t.Context(), unibiomed.Input{Image: img}, []string{"liver in abdomen CT"}, unibiomed.Observers{})
	require.NoError(t, err)
	require.Equal(t, NanoName, res.Model.Name)
	require.Len(t, res.Findings, 1)
}
