package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"hash/crc32"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"github.com/unibiomed/go-unibiomed/models"
	"github.com/unibiomed/go-unibiomed/models/examples"
	"github.com/unibiomed/go-unibiomed/unibiomed/evaluation"
	"github.com/unibiomed/go-unibiomed/unibiomed/imaging"
)

// The scripts run the command as a process: this test program itself.
func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){"unibiomed": main})
}

// tidy removes the model that the tests share.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	defer func() {
		if tinyParent != "" {
			os.RemoveAll(tinyParent)
		}
	}()
	return t.m.Run()
}

// sharedDir is the folder of reference data, "" when it is absent.
func sharedDir() string {
	dir := os.Getenv("UNIBIOMED_SHARED")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return ""
	}
	if _, err := os.Stat(filepath.Join(dir, "golden", "tiny", "checkpoint")); err != nil {
		return ""
	}
	return dir
}

// tiny is the golden checkpoint as a model folder, made once by the command itself.
var tiny = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "unibiomed-test-")
	if err != nil {
		return "", err
	}
	tinyParent = dir
	model := filepath.Join(dir, "tiny")
	var stderr bytes.Buffer
	if code := run(context.Background(), []string{"convert", filepath.Join(sharedDir(), "golden", "tiny", "checkpoint"), "--out", model}, io.Discard, &stderr); code != 0 {
		return "", &usageError{stderr.String()}
	}
	return model, nil
})

var tinyParent string

// tinyModel skips the test when there is no reference data.
func tinyModel(t *testing.T) string {
	if sharedDir() == "" {
		t.Skip("no reference data: put the shared folder beside the repository or set UNIBIOMED_SHARED")
	}
	dir, err := tiny()
	require.NoError(t, err)
	return dir
}

func TestScripts(t *testing.T) {
	scripts(t, "testdata/script")
}

func TestModelScripts(t *testing.T) {
	tinyModel(t)
	scripts(t, "testdata/model")
}

func scripts(t *testing.T, dir string) {
	cache := t.TempDir() // the scripts have no home folder
	testscript.Run(t, testscript.Params{
		Dir: dir,
		Setup: func(e *testscript.Env) error {
			e.Setenv("UNIBIOMED_MODEL", "")
			e.Setenv(models.CacheVariable, cache)
			if shared := sharedDir(); shared != "" && tinyParent != "" {
				e.Setenv("SHARED", shared)
				e.Setenv("TINY", filepath.Join(tinyParent, "tiny"))
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   checkExit,
			"result":  checkResults,
			"field":   checkField,
			"png":     claimPNG,
			"damage":  damage,
			"picture": writePicture,
		},
	})
}

// exits CODE COMMAND...: the command ends with this exit code.
func checkExit(ts *testscript.TestScript, neg bool, args []string) {
	code := "0"
	if err := ts.Exec(args[1], args[2:]...); err != nil {
		var exit *exec.ExitError
		if !errors.As(err, &exit) {
			ts.Fatalf("%v", err)
		}
		code = strconv.Itoa(exit.ExitCode())
	}
	if (code == args[0]) == neg {
		ts.Fatalf("exit code %s, want %s", code, args[0])
	}
}

// result FILE [N]: FILE holds N result documents (default 1) that the strict parser accepts.
func checkResults(ts *testscript.TestScript, neg bool, args []string) {
	want := 1
	if len(args) == 2 {
		var err error
		want, err = strconv.Atoi(args[1])
		ts.Check(err)
	}
	d := json.NewDecoder(strings.NewReader(ts.ReadFile(args[0])))
	n := 0
	for ; ; n++ {
		var raw json.RawMessage
		err := d.Decode(&raw)
		if err == io.EOF {
			break
		}
		ts.Check(err)
		_, err = evaluation.ParseResult(raw)
		ts.Check(err)
	}
	if (n == want) == neg {
		ts.Fatalf("%s: %d results, want %d", args[0], n, want)
	}
}

// field FILE a.b.0 VALUE: the JSON document has this value there; a VALUE ending in * is a beginning.
func checkField(ts *testscript.TestScript, neg bool, args []string) {
	var v any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile(args[0])), &v))
	for _, name := range strings.Split(args[1], ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[name]
		case []any:
			i, err := strconv.Atoi(name)
			ts.Check(err)
			if i >= len(x) {
				ts.Fatalf("%s: %s: %d elements", args[0], args[1], len(x))
			}
			v = x[i]
		default:
			v = nil
		}
	}
	text, ok := v.(string)
	if !ok {
		data, err := json.Marshal(v)
		ts.Check(err)
		text = string(data)
	}
	beginning, open := strings.CutSuffix(args[2], "*")
	if equal := text == args[2] || open && strings.HasPrefix(text, beginning); equal == neg {
		ts.Fatalf("%s: %s is %s", args[0], args[1], text)
	}
}

// png FILE W H: a PNG that claims a size and has no pixels.
func claimPNG(ts *testscript.TestScript, neg bool, args []string) {
	var header [13]byte
	for i, arg := range args[1:] {
		n, err := strconv.Atoi(arg)
		ts.Check(err)
		binary.BigEndian.PutUint32(header[4*i:], uint32(n))
	}
	header[8], header[9] = 8, 2
	data := []byte("\x89PNG\r\n\x1a\n")
	for _, chunk := range [][]byte{append([]byte("IHDR"), header[:]...), []byte("IEND")} {
		data = binary.BigEndian.AppendUint32(data, uint32(len(chunk)-4))
		data = append(data, chunk...)
		data = binary.BigEndian.AppendUint32(data, crc32.ChecksumIEEE(chunk))
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// picture NAME FILE: the example image NAME as a PNG, or "checkers", which is no medical image, or "black".
func writePicture(ts *testscript.TestScript, neg bool, args []string) {
	var img *imaging.RGB
	if args[0] == "checkers" || args[0] == "black" {
		img = imaging.NewRGB(300, 200)
	}
	if args[0] == "checkers" {
		for i := range img.Width * img.Height {
			x, y := i%img.Width, i/img.Width
			if (x/25+y/25)%2 == 0 {
				copy(img.Pix[3*i:], []byte{20, 90, 220})
			} else {
				copy(img.Pix[3*i:], []byte{250, 220, uint8(y)})
			}
		}
	}
	all, err := examples.All()
	ts.Check(err)
	for _, e := range all {
		if e.Name == args[0] {
			img, _, err = e.Open()
			ts.Check(err)
		}
	}
	if img == nil {
		ts.Fatalf("no picture %s", args[0])
	}
	f, err := os.Create(ts.MkAbs(args[1]))
	ts.Check(err)
	ts.Check(img.EncodePNG(f))
	ts.Check(f.Close())
}

// damage FILE OFFSET: one byte is changed; a negative offset counts from the end.
func damage(ts *testscript.TestScript, neg bool, args []string) {
	data := []byte(ts.ReadFile(args[0]))
	at, err := strconv.Atoi(args[1])
	ts.Check(err)
	if at < 0 {
		at += len(data)
	}
	data[at] ^= 0x55
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), data, 0o644))
}

// What bench has measured is printed when it is interrupted in a volume or in growth, which may take long.
func TestAnInterruptedBenchPrintsWhatItHas(t *testing.T) {
	args := []string{"bench", "--model", tinyModel(t), "--repeat", "1", "--new-tokens", "1", "--masks", "1", "--slices", "1000000", "--json"}
	for wait := 4 * time.Second; wait < 5*time.Minute; wait *= 2 { // until the stages are done and the volume is under way
		ctx, cancel := context.WithTimeout(context.Background(), wait)
		var stdout, stderr bytes.Buffer
		code := run(ctx, args, &stdout, &stderr)
		cancel()
		require.Equal(t, exitInterrupted, code, stderr.String())
		if stdout.Len() == 0 {
			continue
		}
		var doc benchDocument
		require.NoError(t, json.Unmarshal(stdout.Bytes(), &doc))
		require.True(t, doc.Interrupted)
		require.NotEmpty(t, doc.Stages)
		require.NotEmpty(t, doc.Answers)
		require.NotNil(t, doc.Memory.Plan)
		require.Nil(t, doc.Volume)
		return
	}
	t.Fatal("the stages were never done")
}

// Ctrl-C cancels the context that main makes: the command ends soon, says nothing of success, and leaves no file.
func TestInterrupted(t *testing.T) {
	model := tinyModel(t)
	image := filepath.Join(sharedDir(), "data", "ultrasound", "biomedparse_20_ultrasound_breast.png")
	for _, args := range [][]string{
		{"segment", image, "tumor in breast ultrasound"},
		{"bench"},
	} {
		ctx, cancel := context.WithCancel(context.Background())
		out := t.TempDir()
		args = append(args, "--model", model)
		if args[0] == "segment" {
			args = append(args, "--out", out)
		}
		timer := time.AfterFunc(300*time.Millisecond, cancel)
		var stdout, stderr bytes.Buffer
		code := run(ctx, args, &stdout, &stderr)
		timer.Stop()
		require.Equal(t, exitInterrupted, code, stderr.String())
		require.Empty(t, stdout.String())
		require.Contains(t, stderr.String(), "interrupted")
		left, err := os.ReadDir(out)
		require.NoError(t, err)
		require.Empty(t, left)
	}
}
