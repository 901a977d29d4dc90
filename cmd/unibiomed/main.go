// Command unibiomed answers about biomedical images in words and masks, offline. See the README.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"reflect"
	"syscall"

	"github.com/alecthomas/kong"

	"github.com/unibiomed/go-unibiomed/bindings"
	"github.com/unibiomed/go-unibiomed/unibiomed"
)

// Exit codes.
const (
	exitDone        = 0
	exitBad         = 1 // the input or the model is bad, or a result can't be written
	exitUsage       = 2
	exitDevice      = 3 // no such device, or not enough memory
	exitInterrupted = 130
)

type cli struct {
	Ask       askCmd       `cmd:"" help:"Ask anything about an image, several images, or nothing."`
	Segment   segmentCmd   `cmd:"" help:"Draw one mask a target phrase."`
	Recognize recognizeCmd `cmd:"" help:"Look for abnormalities: phrase and mask pairs."`
	Region    regionCmd    `cmd:"" help:"Say what is in a region."`
	Report    reportCmd    `cmd:"" help:"Write a grounded report, or answer about one anatomy."`
	Analyze   analyzeCmd   `cmd:"" help:"Recognize, report, and segment what was named."`
	Convert   convertCmd   `cmd:"" help:"Make a model folder from a Hugging Face checkpoint folder."`
	Quantize  quantizeCmd  `cmd:"" help:"Make a smaller model folder from another one."`
	Info      infoCmd      `cmd:"" help:"Say what a model is."`
	Verify    verifyCmd    `cmd:"" help:"Check that a model's files are whole and belong together."`
	Doctor    doctorCmd    `cmd:"" help:"Say what this machine can do, and why not."`
	Bench     benchCmd     `cmd:"" help:"Measure time, memory and rate of each stage."`
	Eval      evalCmd      `cmd:"" help:"Score a model on a set of images with masks."`
	Demo      demoCmd      `cmd:"" help:"Ask all tasks of example images, and write a page of the answers."`
	Version   versionCmd   `cmd:"" help:"Print the versions of the command and the native library."`
}

const description = `Ask about a biomedical image; get the answer and a mask of what it names. Offline, without Python.

Research use only: not a medical device, not for diagnosis or treatment.

Exit codes: 0 done; 1 the input or the model is bad; 2 wrong usage; 3 device or memory; 130 interrupted.`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run is the command without the process: tests call it.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	var c cli
	exited := -1
	parser, err := kong.New(&c,
		kong.Name("unibiomed"),
		kong.Description(description),
		kong.Writers(stdout, stderr),
		kong.Exit(func(code int) { exited = code }),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 110}),
		kong.Help(help),
		kong.KindMapper(reflect.String, kong.MapperFunc(verbatim)),
		kong.Vars{"types": "f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_0, iq4_nl"},
	)
	if err != nil {
		fmt.Fprintln(stderr, "unibiomed:", err)
		return exitUsage
	}
	if len(args) == 0 {
		args = []string{"--help"}
	}
	k, err := parser.Parse(args)
	if exited >= 0 { // --help
		return exited
	}
	if err != nil {
		fmt.Fprintf(stderr, "unibiomed: %v\nTry: unibiomed --help\n", err)
		return exitUsage
	}
	k.BindTo(ctx, (*context.Context)(nil))
	err = k.Run(&streams{out: stdout, err: stderr})
	code := exitCode(ctx, err)
	switch {
	case code == exitInterrupted:
		fmt.Fprintln(stderr, "unibiomed: interrupted")
	case err != nil && !errors.Is(err, errReported):
		fmt.Fprintln(stderr, "unibiomed:", err)
	}
	return code
}

// verbatim takes text as the shell gave it. Kong's own mapper sends it through JSON, which replaces what is no UTF-8: a prompt would
// pass unnoticed, and a file of such a name could not be opened.
func verbatim(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	target.SetString(fmt.Sprint(token.Value))
	return nil
}

// help prints what kong makes of the structs; the first screen has the notice in its description, those of the verbs get it here.
func help(o kong.HelpOptions, k *kong.Context) error {
	if err := kong.DefaultHelpPrinter(o, k); err != nil {
		return err
	}
	if k.Selected() == nil {
		return nil
	}
	_, err := fmt.Fprintf(k.Stdout, "\n%s\n", unibiomed.Notice)
	return err
}

// streams are what a verb writes to: results to out, progress and messages to err.
type streams struct{ out, err io.Writer }

// errReported is joined to an error whose text has been printed already.
var errReported = errors.New("")

// A usageError is a wrong combination or value of flags.
type usageError struct{ msg string }

func (e *usageError) Error() string { return e.msg }

func usagef(format string, args ...any) error { return &usageError{fmt.Sprintf(format, args...)} }

func exitCode(ctx context.Context, err error) int {
	var usage *usageError
	switch {
	case err == nil:
		return exitDone
	case ctx.Err() != nil || errors.Is(err, context.Canceled):
		return exitInterrupted
	case errors.As(err, &usage):
		return exitUsage
	case errors.Is(err, bindings.DeviceFailed), errors.Is(err, bindings.NoMemory):
		return exitDevice
	}
	return exitBad
}

type versionCmd struct{}

// version is set by build.sh.
var version = "0.1.0-dev"

func (versionCmd) Run(s *streams) error {
	info, err := bindings.BuildInfo()
	if err != nil {
		return err
	}
	fmt.Fprintf(s.out, "unibiomed %s\n%s\n%s\n", version, info, unibiomed.Notice)
	return nil
}
