package bindings

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
)

// A Code says what kind of failure an Error is. Codes are errors, for errors.Is.
type Code int32

const (
	InvalidArgument Code = 1 // an argument is out of its range, or the object is closed
	IO              Code = 2 // a file can't be opened, read or mapped
	Format          Code = 3 // a file is broken, or its parts disagree
	Unsupported     Code = 4 // a file is sound, but not of a kind that this version reads
	NoMemory        Code = 5 // the memory plan does not fit, or an allocation failed
	DeviceFailed    Code = 6 // no such device, or it failed
	ContextFull     Code = 7 // more positions than the session's context holds
	Canceled        Code = 8 // the context was done
	Internal        Code = 9 // a bug in the library
)

const ok = 0 // UB_OK

func (c Code) Error() string {
	switch c {
	case InvalidArgument:
		return "invalid argument"
	case IO:
		return "input or output failed"
	case Format:
		return "broken file"
	case Unsupported:
		return "unsupported"
	case NoMemory:
		return "not enough memory"
	case DeviceFailed:
		return "device failed"
	case ContextFull:
		return "context is full"
	case Canceled:
		return "canceled"
	case Internal:
		return "internal error"
	}
	return fmt.Sprintf("status %d", int32(c))
}

// An Error is a failure reported by the library or by these bindings.
type Error struct {
	Op   string // the operation, such as "open" or "prefill"
	Code Code
	Msg  string // one line: the file, the field and the values that disagree; may be empty

	cause error // the context's error, or os.ErrClosed
}

func (e *Error) Error() string { return e.Op + ": " + cmp.Or(e.Msg, e.Code.Error()) }

// Unwrap lets errors.Is(err, Canceled) hold, and with it context.Canceled or, after a deadline, context.DeadlineExceeded.
func (e *Error) Unwrap() []error {
	if e.cause != nil {
		return []error{e.Code, e.cause}
	}
	return []error{e.Code}
}

// err turns a filled cError into an Error. The status that the function returned decides over the code in the struct.
func (e *cError) err(op string, rc int32) *Error {
	err := &Error{Op: op, Code: Code(rc), Msg: text(e.message[:])}
	if err.Code == Canceled {
		err.cause = context.Canceled
	}
	return err
}

// canceled is the Error of a context that is done.
func canceled(op string, ctx context.Context) *Error {
	return &Error{Op: op, Code: Canceled, Msg: context.Cause(ctx).Error(), cause: ctx.Err()}
}

func invalid(op, format string, args ...any) *Error {
	return &Error{Op: op, Code: InvalidArgument, Msg: fmt.Sprintf(format, args...)}
}

func closed(op, object string) *Error {
	return &Error{Op: op, Code: InvalidArgument, Msg: "the " + object + " is closed", cause: os.ErrClosed}
}

// text is the string in a NUL-terminated array.
func text(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}
