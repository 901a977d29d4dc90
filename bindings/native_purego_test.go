//go:build !cgo

package bindings

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPlaces(t *testing.T) {
	exe, err := os.Executable()
	require.NoError(t, err)
	exe, err = filepath.EvalSymlinks(exe)
	require.NoError(t, err)
	folder := t.TempDir()
	named := filepath.Join(folder, "other.so")
	for env, want := range map[string]string{folder: filepath.Join(folder, libraryName()), named: named} {
		t.Setenv("UNIBIOMED_LIB", env)
		list := places()
		require.Equal(t, filepath.Join(filepath.Dir(exe), libraryName()), list[0], "beside the program")
		require.Equal(t, want, list[2], "UNIBIOMED_LIB")
		require.Equal(t, libraryName(), list[len(list)-1], "the system's places")
	}
	t.Setenv("UNIBIOMED_LIB", "")
	require.False(t, slices.Contains(places(), ""))
}

func TestLoadFromNowhere(t *testing.T) {
	folder := t.TempDir()
	text := filepath.Join(folder, "text.so")
	require.NoError(t, os.WriteFile(text, []byte("no library"), 0o600))
	absent := filepath.Join(folder, "absent.so")
	err := loadFrom([]string{absent, text})
	require.ErrorContains(t, err, absent+": no such file")
	require.ErrorContains(t, err, text)
	require.ErrorContains(t, err, "UNIBIOMED_LIB")
}
