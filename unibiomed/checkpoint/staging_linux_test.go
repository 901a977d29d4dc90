package checkpoint

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// TestFullDisk lets a second process, which may write files of 2 MB at most, convert a larger model: a write fails half-way, as on
// a disk that is full.
func TestFullDisk(t *testing.T) {
	if source := os.Getenv("UNIBIOMED_TEST_SOURCE"); source != "" {
		signal.Ignore(syscall.SIGXFSZ)
		require.NoError(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: 2 << 20, Max: 2 << 20}))
		_, err := Convert(context.Background(), source, os.Getenv("UNIBIOMED_TEST_DEST"), Options{})
		var path *fs.PathError
		require.ErrorAs(t, err, &path)
		require.True(t, errors.Is(err, syscall.EFBIG), "%v", err)
		return
	}
	f := newFake(40)
	f.llm()["hidden_size"], f.llm()["intermediate_size"] = 128, 2048
	dest := filepath.Join(t.TempDir(), "model")
	child := exec.Command(os.Args[0], "-test.run=^TestFullDisk$")
	child.Env = append(os.Environ(), "UNIBIOMED_TEST_SOURCE="+f.write(t), "UNIBIOMED_TEST_DEST="+dest)
	out, err := child.CombinedOutput()
	require.NoError(t, err, "%s", out)
	requireEmpty(t, filepath.Dir(dest))
}
