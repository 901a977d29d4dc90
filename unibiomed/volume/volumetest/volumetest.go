// Package volumetest helps the tests of the packages that read and write medical files.
package volumetest

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

// Shared returns the folder of shared test data (UNIBIOMED_SHARED, else ../shared from the repository root), and skips
// the test where it is absent.
func Shared(t testing.TB, elem ...string) string {
	t.Helper()
	dir := os.Getenv("UNIBIOMED_SHARED")
	if dir == "" {
		dir = filepath.Join(Root(t), "..", "shared")
	}
	dir = filepath.Join(append([]string{dir}, elem...)...)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("no shared data: set UNIBIOMED_SHARED (%v)", err)
	}
	return dir
}

// Root returns the root of the repository.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			t.Fatal("no go.mod above the working folder")
		}
		dir = up
	}
}

// Find returns the files below dir whose names end in one of the given ways.
func Find(t testing.TB, dir string, ends ...string) (files []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		for _, end := range ends {
			if err == nil && !d.IsDir() && strings.HasSuffix(path, end) {
				files = append(files, path)
				break
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return files
}

// Python runs a script in an interpreter that has all the given modules and decodes the JSON that it prints into out.
// It skips the test where there is none; UNIBIOMED_TEST_PYTHON names one to try first.
func Python(t testing.TB, modules []string, script string, out any, args ...string) {
	t.Helper()
	for _, python := range []string{os.Getenv("UNIBIOMED_TEST_PYTHON"), "python3", "/usr/bin/python3"} {
		if python == "" || exec.Command(python, "-c", "import "+strings.Join(modules, ", ")).Run() != nil {
			continue
		}
		cmd := exec.Command(python, append([]string{"-c", script}, args...)...)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		printed, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v\n%s", python, err, stderr.String())
		}
		if err := json.Unmarshal(printed, out); err != nil {
			t.Fatalf("%s printed %.200q: %v", python, printed, err)
		}
		return
	}
	t.Skipf("no python3 with %s: install python3-%s or set UNIBIOMED_TEST_PYTHON", strings.Join(modules, ", "), strings.Join(modules, " python3-"))
}

// Tool returns the path of a program, and skips the test where it is absent.
func Tool(t testing.TB, name, debian string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if errors.Is(err, exec.ErrNotFound) {
		t.Skipf("no %s: install %s", name, debian)
	}
	return path
}

// Hash returns the SHA-256 of all real-world values of v as little-endian float32, in stored order with the channel fastest.
// Every NaN counts as the same one, and -0 as 0.
func Hash(t testing.TB, v *volume.Volume) string {
	t.Helper()
	sum, buf := sha256.New(), make([]float32, v.SliceLen())
	b := make([]byte, 4*len(buf))
	for k := range v.Dims[2] {
		if err := v.ReadSlice(k, buf); err != nil {
			t.Fatal(err)
		}
		for i, x := range buf {
			bits := math.Float32bits(x + 0)
			if x == 0 {
				bits = 0
			} else if x != x {
				bits = 0x7fc00000
			}
			binary.LittleEndian.PutUint32(b[4*i:], bits)
		}
		sum.Write(b)
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// PythonHash defines vhash(a), which is Hash of an array in stored order.
const PythonHash = `
import hashlib, json, sys
import numpy as np
def vhash(a):
    with np.errstate(all="ignore"):
        a = np.ascontiguousarray(a).astype("<f4")
    a[a == 0] = 0
    a[np.isnan(a)] = np.frombuffer(b"\x00\x00\xc0\x7f", "<f4")[0]
    return hashlib.sha256(a.tobytes()).hexdigest()
`

// Near reports whether two affines agree to about the precision of a float32.
func Near(a, b volume.Affine) bool {
	for r := range a {
		for c := range a[r] {
			if math.Abs(a[r][c]-b[r][c]) > 1e-4+2e-6*math.Abs(a[r][c]) {
				return false
			}
		}
	}
	return true
}

// Orders calls fn with the affine of each of the 48 axis orders and flips, with steps of 1, 2 and 3 mm.
func Orders(fn func(a volume.Affine)) {
	for _, p := range [][3]int{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}} {
		for flips := range 8 {
			var step [3]volume.Vec
			for i := range 3 {
				step[i][p[i]] = float64(i+1) * float64(1-2*(flips>>i&1))
			}
			fn(volume.NewAffine(step[0], step[1], step[2], volume.Vec{-10, 20, 5}))
		}
	}
}

// Numbered is a volume in which each voxel holds its own offset.
func Numbered(dims [3]int, a volume.Affine) *volume.Volume {
	var b []byte
	for i := range dims[0] * dims[1] * dims[2] {
		b = binary.LittleEndian.AppendUint16(b, uint16(i))
	}
	return &volume.Volume{Dims: dims, Channels: 1, Affine: a, Placed: true,
		Voxels: &volume.Dense{Type: volume.Uint16, Data: b, Slope: 1}}
}
