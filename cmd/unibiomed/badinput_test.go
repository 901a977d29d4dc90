package main

import (
	"bytes"
	"image"
	"image/color"
	"image/jpeg"
	"image/png"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/models"
	"github.com/unibiomed/go-unibiomed/models/examples"
)

// process is the command as a process of its own: this test program under the command's name, see TestMain. The embedded model is kept in
// the folder cache.
func process(t *testing.T, cache string, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	require.NoError(t, err)
	c := exec.Command(self, args...)
	c.Args[0] = "unibiomed"
	c.Env = append(os.Environ(), "UNIBIOMED_MODEL=", models.CacheVariable+"="+cache)
	return c
}

// requireNothing wants no file below dir.
func requireNothing(t *testing.T, dir string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			t.Errorf("left behind: %s", path)
		}
		return err
	}))
}

func writeFile(t *testing.T, dir, name string, data []byte) string {
	t.Helper()
	path := filepath.Join(dir, name)
	require.NoError(t, os.WriteFile(path, data, 0o644))
	return path
}

func pngOf(t *testing.T, img image.Image) []byte {
	t.Helper()
	var b bytes.Buffer
	require.NoError(t, png.Encode(&b, img))
	return b.Bytes()
}

// examplePicture is a file of the first example image.
func examplePicture(t *testing.T) string {
	t.Helper()
	all, err := examples.All()
	require.NoError(t, err)
	img, _, err := all[0].Open()
	require.NoError(t, err)
	var b bytes.Buffer
	require.NoError(t, img.EncodePNG(&b))
	return writeFile(t, t.TempDir(), "picture.png", b.Bytes())
}

// Pictures and prompts that can't be answered give one line that names them, exit code 1 and no file; unusual ones are answered.
func TestOddInputs(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	grey := image.NewGray(image.Rect(0, 0, 120, 90))
	for i := range grey.Pix {
		grey.Pix[i] = uint8(i * 37)
	}
	var jpg bytes.Buffer
	require.NoError(t, jpeg.Encode(&jpg, grey, nil))
	deep := image.NewGray16(image.Rect(0, 0, 120, 90))
	deep.SetGray16(1, 1, color.Gray16{Y: 40000})
	whole := pngOf(t, grey)
	good := writeFile(t, dir, "good.png", whole)
	tests := []struct {
		name string
		file string
		args []string
		want string // the message, "" where there is an answer
	}{
		{"one pixel", writeFile(t, dir, "one.png", pngOf(t, image.NewGray(image.Rect(0, 0, 1, 1)))), nil, ""},
		{"one column", writeFile(t, dir, "column.png", pngOf(t, image.NewGray(image.Rect(0, 0, 1, 20000)))), nil, ""},
		{"16-bit grey", writeFile(t, dir, "deep.png", pngOf(t, deep)), nil, "deep.png: PNG: grey levels"},
		{"16-bit grey, clipped", filepath.Join(dir, "deep.png"), []string{"--clip"}, ""},
		{"PNG cut short", writeFile(t, dir, "cut.png", whole[:len(whole)/2]), nil, "cut.png: PNG: pixels"},
		{"JPEG cut short", writeFile(t, dir, "cut.jpg", jpg.Bytes()[:jpg.Len()/2]), nil, "cut.jpg: JPEG: pixels"},
		{"empty file", writeFile(t, dir, "empty.png", nil), nil, "empty.png: file: is empty"},
		{"empty prompt", good, []string{"-p", ""}, "prompt: is empty"},
		{"a prompt of spaces", good, []string{"-p", " \n\t"}, "prompt: is empty"},
		{"invalid UTF-8", good, []string{"-p", "what\xff"}, "prompt: is not valid UTF-8 from byte 4 on"},
		{"mask token", good, []string{"-p", "It is [SEG]."}, "prompt: contains the reserved token [SEG] at byte 6"},
		{"image token", good, []string{"-p", "<IMG_CONTEXT>"}, "prompt: contains the reserved token <IMG_CONTEXT> at byte 0"},
		{"a prompt above the context", good, []string{"-p", strings.Repeat("what is this? ", 4000)}, "positions"},
		{"invalid UTF-8 in a file name", filepath.Join(dir, "no\xfffile.png"), nil, "no\xfffile.png"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"ask", tt.file, "--quiet", "--max-new-tokens", "2"}, tt.args...)
			if !strings.Contains(strings.Join(tt.args, " "), "-p") {
				args = append(args, "-p", "What is this?")
			}
			out := filepath.Join(t.TempDir(), "out")
			var stdout, stderr bytes.Buffer
			c := process(t, cache, append(args, "--out", out)...)
			c.Stdout, c.Stderr = &stdout, &stderr
			err := c.Run()
			if tt.want == "" {
				require.NoError(t, err, stderr.String())
				require.Empty(t, stderr.String())
				return
			}
			require.Equal(t, exitBad, c.ProcessState.ExitCode(), stderr.String())
			require.Contains(t, stderr.String(), tt.want)
			require.Equal(t, 1, strings.Count(stderr.String(), "\n"), stderr.String())
			require.Empty(t, stdout.String())
			if _, err := os.Stat(out); err == nil {
				requireNothing(t, out)
			}
		})
	}
}

// A disk that fills up while files are written: the error names the file, and none is left. The disk is a small memory file system in
// a mount namespace of the child's own.
func TestFullDisk(t *testing.T) {
	unshare, err := exec.LookPath("unshare")
	if err != nil {
		t.Skip("no unshare (util-linux) to make a small disk with")
	}
	small, cache := t.TempDir(), t.TempDir()
	const mount = `mount -t tmpfs -o size=$SIZE none "$DISK" || exit 99`
	try := exec.Command(unshare, "-rm", "sh", "-c", mount)
	try.Env = append(os.Environ(), "DISK="+small, "SIZE=16k")
	if out, err := try.CombinedOutput(); err != nil {
		t.Skipf("no mount namespace to make a small disk in: %v %s", err, out)
	}
	picture := examplePicture(t)
	tests := []struct {
		name, size string
		args       []string
	}{
		{"masks and overlay", "16k", []string{"segment", picture, "liver in abdomen CT", "--out", "DISK/out", "--quiet"}},
		{"trace", "1m", []string{"segment", picture, "liver in abdomen CT", "--trace", "DISK/trace.safetensors", "--quiet"}},
		{"quantize", "4m", []string{"quantize", filepath.Join("..", "..", "models", "unibiomed-nano"), "--out", "DISK/model", "--type", "f16", "--quiet"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := []string{"-rm", "sh", "-c", mount + `; "$SELF" "$@"; code=$?; find "$DISK" -type f; exit $code`, "sh"}
			for _, a := range tt.args {
				args = append(args, strings.ReplaceAll(a, "DISK", small))
			}
			link := filepath.Join(t.TempDir(), "unibiomed")
			self, err := os.Executable()
			require.NoError(t, err)
			require.NoError(t, os.Symlink(self, link))
			c := exec.Command(unshare, args...)
			c.Env = append(process(t, cache).Env, "DISK="+small, "SIZE="+tt.size, "SELF="+link)
			var stdout, stderr bytes.Buffer
			c.Stdout, c.Stderr = &stdout, &stderr
			require.Error(t, c.Run())
			require.Equal(t, exitBad, c.ProcessState.ExitCode(), stderr.String())
			require.Contains(t, stderr.String(), syscall.ENOSPC.Error())
			require.Contains(t, stderr.String(), small)
			require.NotContains(t, stdout.String(), small, "files left behind")
		})
	}
}

// A real signal: however far the command is, it ends with 130 and leaves nothing, or it had ended and everything is there.
func TestSignal(t *testing.T) {
	cache := t.TempDir()
	picture := examplePicture(t)
	tests := []struct {
		name string
		args []string
		done string // is there when the command has ended by itself
	}{
		{"segment", []string{"segment", picture, "liver in abdomen CT", "spleen in abdomen CT"}, "picture.json"},
		{"quantize", []string{"quantize", filepath.Join("..", "..", "models", "unibiomed-nano"), "--type", "f32"}, "model.json"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			command := func(out string) *exec.Cmd { return process(t, cache, append(tt.args, "--out", out, "--quiet")...) }
			start := time.Now()
			text, err := command(filepath.Join(t.TempDir(), "out")).CombinedOutput()
			require.NoError(t, err, string(text))
			whole := time.Since(start)
			interrupted := 0
			for _, part := range []float64{0.3, 0.5, 0.7, 0.9} {
				parent := t.TempDir()
				out := filepath.Join(parent, "out")
				c := command(out)
				var stdout, stderr bytes.Buffer
				c.Stdout, c.Stderr = &stdout, &stderr
				require.NoError(t, c.Start())
				time.Sleep(time.Duration(part * float64(whole)))
				require.NoError(t, c.Process.Signal(os.Interrupt))
				err := c.Wait()
				switch status := c.ProcessState.Sys().(syscall.WaitStatus); {
				case err == nil:
					require.FileExists(t, filepath.Join(out, tt.done))
				case status.Signaled(): // before the command had begun
					require.Equal(t, syscall.SIGINT, status.Signal())
					requireNothing(t, parent)
				default:
					require.Equal(t, exitInterrupted, c.ProcessState.ExitCode(), stderr.String())
					require.Equal(t, "unibiomed: interrupted\n", stderr.String())
					require.Empty(t, stdout.String())
					requireNothing(t, parent)
					interrupted++
				}
			}
			require.Positive(t, interrupted, "none of four signals met the command at work")
		})
	}
}
