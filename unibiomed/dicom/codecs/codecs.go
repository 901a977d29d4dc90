// Package codecs lets package dicom read JPEG-LS, JPEG 2000 and HTJ2K, through libunibiomed_codecs (csrc/codecs).
//
// Importing it for its effect is enough:
//
//	import _ "github.com/unibiomed/go-unibiomed/unibiomed/dicom/codecs"
//
// The library is looked for when the first such frame is read. Where it is absent these transfer syntaxes stay unsupported,
// and the error says what was missing. It is called without cgo, so builds with CGO_ENABLED=0 have it too.
package codecs

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/ebitengine/purego"

	"github.com/unibiomed/go-unibiomed/unibiomed/dicom"
	"github.com/unibiomed/go-unibiomed/unibiomed/volume"
)

const (
	jpegLS   = 1 // UBC_JPEG_LS
	jpeg2000 = 2 // UBC_JPEG_2000
)

// Syntaxes are the transfer syntaxes that this package decodes, with the codec of each.
var syntaxes = map[string]int32{
	"1.2.840.10008.1.2.4.80": jpegLS, "1.2.840.10008.1.2.4.81": jpegLS,
	"1.2.840.10008.1.2.4.90": jpeg2000, "1.2.840.10008.1.2.4.91": jpeg2000,
	"1.2.840.10008.1.2.4.201": jpeg2000, "1.2.840.10008.1.2.4.202": jpeg2000, "1.2.840.10008.1.2.4.203": jpeg2000,
}

func init() {
	for uid, codec := range syntaxes {
		dicom.RegisterCodec(uid, func(frame []byte, width, height, components int, limit int64) (*dicom.Decoded, error) {
			return decode(codec, frame, width, height, components, limit)
		})
	}
}

// cFrame is ubc_frame, and cError is ubc_error.
type cFrame struct{ width, height, components, bits, signed, reserved int32 }
type cError struct{ message [256]byte }

func (e *cError) Error() string {
	b, _, _ := bytes.Cut(e.message[:], []byte{0})
	return string(b)
}

var (
	// int32_t ubc_abi_version(void)
	ubcABIVersion func() int32
	// const char * ubc_build_info(void)
	ubcBuildInfo func() string
	// int32_t ubc_probe(int32_t codec, const uint8_t * data, uint64_t n, ubc_frame * out, ubc_error * err)
	ubcProbe func(codec int32, data *byte, n uint64, out *cFrame, err *cError) int32
	// int32_t ubc_decode(int32_t codec, const uint8_t * data, uint64_t n, const ubc_frame * want, uint8_t * dst, uint64_t dst_size, ubc_error * err)
	ubcDecode func(codec int32, data *byte, n uint64, want *cFrame, dst *byte, dstSize uint64, err *cError) int32
)

// load finds and opens the library once.
var load = sync.OnceValue(func() error {
	var tried []string
	for _, path := range places() {
		h, err := open(path)
		if err != nil {
			tried = append(tried, err.Error())
			continue
		}
		return bind(path, h)
	}
	return fmt.Errorf("codecs: %s was not found (UNIBIOMED_CODECS may name it): %s", libraryName(), strings.Join(tried, "; "))
})

// bind takes the functions out of an open library.
func bind(path string, h uintptr) (err error) {
	defer func() { // purego panics about a function that is not there
		if r := recover(); r != nil {
			err = fmt.Errorf("codecs: %s is another library: %v", path, r)
		}
	}()
	purego.RegisterLibFunc(&ubcABIVersion, h, "ubc_abi_version")
	if v := ubcABIVersion(); v != 1 {
		return fmt.Errorf("codecs: %s has ABI version %d, want 1", path, v)
	}
	purego.RegisterLibFunc(&ubcBuildInfo, h, "ubc_build_info")
	purego.RegisterLibFunc(&ubcProbe, h, "ubc_probe")
	purego.RegisterLibFunc(&ubcDecode, h, "ubc_decode")
	return nil
}

func libraryName() string {
	switch runtime.GOOS {
	case "windows":
		return "unibiomed_codecs.dll"
	case "darwin":
		return "libunibiomed_codecs.dylib"
	}
	return "libunibiomed_codecs.so"
}

// places lists where the library may be: UNIBIOMED_CODECS alone if it is set, else beside the program, in a lib folder beside it, in
// the build folders of the source tree that the program was compiled in, and in the system's places.
func places() (out []string) {
	if path := os.Getenv("UNIBIOMED_CODECS"); path != "" {
		return []string{path}
	}
	name := libraryName()
	if exe, err := os.Executable(); err == nil {
		dir := filepath.Dir(exe)
		out = append(out, filepath.Join(dir, name), filepath.Join(dir, "lib", name), filepath.Join(dir, "..", "lib", name))
	}
	if _, file, _, ok := runtime.Caller(0); ok {
		root := filepath.Join(filepath.Dir(file), "..", "..", "..")
		out = append(out, filepath.Join(root, "build", "lib", name), filepath.Join(root, "build", "codecs", name))
	}
	existing := out[:0]
	for _, path := range out {
		if _, err := os.Stat(path); err == nil {
			existing = append(existing, path)
		}
	}
	return append(existing, name)
}

// Available returns nil if the library is there, else an error that says where it was looked for.
func Available() error { return load() }

// Info returns the versions of the libraries inside, or "".
func Info() string {
	if load() != nil {
		return ""
	}
	return ubcBuildInfo()
}

func decode(codec int32, frame []byte, width, height, components int, limit int64) (*dicom.Decoded, error) {
	if err := load(); err != nil {
		return nil, &volume.UnsupportedError{Format: "dicom", Feature: err.Error() + "; decoding"}
	}
	if len(frame) == 0 {
		return nil, fmt.Errorf("codecs: an empty frame")
	}
	var f cFrame
	var e cError
	if ubcProbe(codec, &frame[0], uint64(len(frame)), &f, &e) != 0 {
		return nil, fmt.Errorf("codecs: %w", &e)
	}
	if int(f.width) != width || int(f.height) != height || int(f.components) != components {
		return nil, fmt.Errorf("codecs: the frame holds %dx%dx%d, want %dx%dx%d", f.width, f.height, f.components, width, height, components)
	}
	size := int64(1)
	if f.bits > 8 {
		size = 2
	}
	if f.bits > 16 {
		size = 4
	}
	// OpenJPEG works on 4 bytes a sample, beside the result.
	n := int64(width) * int64(height) * int64(components)
	if n*(size+4) > limit {
		return nil, fmt.Errorf("codecs: the frame needs %d bytes, the limit is %d", n*(size+4), limit)
	}
	d := &dicom.Decoded{Width: width, Height: height, Components: components, Bits: int(f.bits), Signed: f.signed != 0, Data: make([]byte, n*size)}
	if ubcDecode(codec, &frame[0], uint64(len(frame)), &f, &d.Data[0], uint64(len(d.Data)), &e) != 0 {
		return nil, fmt.Errorf("codecs: %w", &e)
	}
	return d, nil
}
