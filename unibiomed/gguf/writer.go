package gguf

import (
	"encoding/binary"
	"fmt"
	"io"
	"math"
)

// A Writer streams one file: the header at once, then each tensor's bytes in the order of the list.
type Writer struct {
	w       io.Writer
	tensors []Tensor
	next    int   // the tensor being written
	left    int64 // its bytes to come
	pad     int64 // zero bytes after it
	size    int64
}

// NewWriter writes the header of a file with these keys and tensors. Of each tensor it takes Name, Type and Shape.
func NewWriter(w io.Writer, kv []KV, tensors []Tensor) (*Writer, error) {
	b := append([]byte(magic), 0, 0, 0, 0)
	binary.LittleEndian.PutUint32(b[4:], version)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(kv)))
	keys := map[string]bool{}
	for _, e := range kv {
		if keys[e.Key] {
			return nil, fmt.Errorf("gguf: key %q twice", e.Key)
		}
		keys[e.Key] = true
		b = appendString(b, e.Key)
		var err error
		if b, err = appendValue(b, e.Value); err != nil {
			return nil, fmt.Errorf("gguf: key %q: %w", e.Key, err)
		}
	}
	out := &Writer{w: w, tensors: make([]Tensor, len(tensors))}
	names := map[string]bool{}
	var offset int64
	for i, t := range tensors {
		if t.Name == "" || len(t.Name) > maxName || names[t.Name] {
			return nil, fmt.Errorf("gguf: tensor name %q is empty, longer than %d bytes or taken", t.Name, maxName)
		}
		names[t.Name] = true
		bytes, ok := size(t.Type, t.Shape)
		if !ok {
			return nil, fmt.Errorf("gguf: tensor %s: %s can't hold shape %v", t.Name, t.Type, t.Shape)
		}
		if bytes > math.MaxInt64-Alignment-offset {
			return nil, fmt.Errorf("gguf: tensor %s: the file would exceed 2^63 bytes", t.Name)
		}
		b = appendString(b, t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Shape)))
		for d := len(t.Shape) - 1; d >= 0; d-- {
			b = binary.LittleEndian.AppendUint64(b, uint64(t.Shape[d]))
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(t.Type))
		b = binary.LittleEndian.AppendUint64(b, uint64(offset))
		out.tensors[i] = Tensor{t.Name, t.Type, append([]int64{}, t.Shape...), offset, bytes}
		offset += align(bytes, Alignment)
	}
	b = append(b, make([]byte, align(int64(len(b)), Alignment)-int64(len(b)))...)
	for i := range out.tensors {
		out.tensors[i].Start += int64(len(b))
	}
	out.size = int64(len(b)) + offset
	if _, err := w.Write(b); err != nil {
		return nil, err
	}
	out.next = -1
	return out, out.advance()
}

// Size returns the size of the finished file.
func (w *Writer) Size() int64 { return w.size }

// advance moves to the next tensor that has bytes.
func (w *Writer) advance() error {
	for w.left == 0 && w.next < len(w.tensors) {
		if _, err := w.w.Write(make([]byte, w.pad)); err != nil {
			return err
		}
		w.pad = 0
		if w.next++; w.next < len(w.tensors) {
			t := w.tensors[w.next]
			w.left, w.pad = t.Bytes, align(t.Bytes, Alignment)-t.Bytes
		}
	}
	return nil
}

// Write writes bytes of the tensor called name, which must be the one whose turn it is; a tensor may come in pieces.
func (w *Writer) Write(name string, p []byte) error {
	if len(p) == 0 {
		return nil
	}
	if w.next >= len(w.tensors) || w.tensors[w.next].Name != name || int64(len(p)) > w.left {
		return fmt.Errorf("gguf: %d bytes of tensor %q are out of turn", len(p), name)
	}
	n, err := w.w.Write(p)
	w.left -= int64(n)
	if err != nil {
		return err
	}
	return w.advance()
}

// Close checks that every tensor is complete. It does not close the underlying writer.
func (w *Writer) Close() error {
	if w.next < len(w.tensors) {
		return fmt.Errorf("gguf: tensor %s lacks %d bytes", w.tensors[w.next].Name, w.left)
	}
	return nil
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

func appendValue(b []byte, value any) ([]byte, error) {
	var scratch []byte
	kind, count, array := 0, 0, false
	switch v := value.(type) {
	case bool:
		kind, scratch = kindBool, []byte{truth(v)}
	case string:
		kind, scratch = kindString, appendString(nil, v)
	case []string:
		kind, count, array = kindString, len(v), true
		for _, s := range v {
			scratch = appendString(scratch, s)
		}
	case []bool:
		kind, count, array = kindBool, len(v), true
		for _, x := range v {
			scratch = append(scratch, truth(x))
		}
	default:
		var ok bool
		if kind, count, array, ok = number(value); !ok {
			return nil, fmt.Errorf("a value of type %T", value)
		}
		var err error
		if scratch, err = binary.Append(nil, binary.LittleEndian, value); err != nil {
			return nil, err
		}
	}
	if array {
		b = binary.LittleEndian.AppendUint32(b, kindArray)
		b = binary.LittleEndian.AppendUint32(b, uint32(kind))
		b = binary.LittleEndian.AppendUint64(b, uint64(count))
	} else {
		b = binary.LittleEndian.AppendUint32(b, uint32(kind))
	}
	return append(b, scratch...), nil
}

func truth(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// number returns the kind of a number or of a slice of numbers.
func number(value any) (kind, count int, array, ok bool) {
	switch v := value.(type) {
	case uint8:
		return kindUint8, 0, false, true
	case int8:
		return kindInt8, 0, false, true
	case uint16:
		return kindUint16, 0, false, true
	case int16:
		return kindInt16, 0, false, true
	case uint32:
		return kindUint32, 0, false, true
	case int32:
		return kindInt32, 0, false, true
	case float32:
		return kindFloat32, 0, false, true
	case uint64:
		return kindUint64, 0, false, true
	case int64:
		return kindInt64, 0, false, true
	case float64:
		return kindFloat64, 0, false, true
	case []uint8:
		return kindUint8, len(v), true, true
	case []int8:
		return kindInt8, len(v), true, true
	case []uint16:
		return kindUint16, len(v), true, true
	case []int16:
		return kindInt16, len(v), true, true
	case []uint32:
		return kindUint32, len(v), true, true
	case []int32:
		return kindInt32, len(v), true, true
	case []float32:
		return kindFloat32, len(v), true, true
	case []uint64:
		return kindUint64, len(v), true, true
	case []int64:
		return kindInt64, len(v), true, true
	case []float64:
		return kindFloat64, len(v), true, true
	}
	return 0, 0, false, false
}
