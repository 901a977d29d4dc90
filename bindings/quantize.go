package bindings

import (
	"math"
	"runtime"
)

// Types are named as by the command: f32 f16 bf16 q8_0 q6_k q5_k q4_k q5_1 q5_0 q4_1 q4_0 iq4_nl.

// RowSize is the number of bytes of a row of rowLength values, and whether the type exists and can hold such rows.
func RowSize(typ string, rowLength int) (int64, bool) {
	if rowLength < 0 {
		return 0, false
	}
	var n int64 = -1
	named(typ, func(t *byte) { n = ubRowSize(t, int64(rowLength)) })
	return max(n, 0), n >= 0
}

// TypeID is the ggml number of a type in GGUF files, and whether the type exists.
func TypeID(typ string) (int32, bool) {
	var id int32 = -1
	named(typ, func(t *byte) { id = ubTypeID(t) })
	return max(id, 0), id >= 0
}

// named calls f with a type's name as a C string, if there is a library to call and the name can be one.
func named(typ string, f func(*byte)) {
	var pin runtime.Pinner
	defer pin.Unpin()
	if t, err := pinned("", "", typ, &pin); err == nil && load() == nil {
		f(t)
	}
}

// Quantize converts src [rows, rowLength] to a type. Dst has rows times RowSize bytes. Values that are not finite are a
// Format error that names the index. Threads 0 stands for the physical cores.
func Quantize(typ string, src []float32, rows, rowLength int, dst []byte, threads int) error {
	const op = "quantize"
	if threads < 0 || threads > math.MaxInt32 {
		return invalid(op, "threads is %d, want 0 or more", threads)
	}
	size, err := block(op, typ, len(src), rows, rowLength, len(dst))
	if err != nil || size == 0 {
		return err
	}
	var e cError
	rc := int32(ok)
	named(typ, func(t *byte) {
		rc = ubQuantize(t, &src[0], int64(rows), int64(rowLength), &dst[0], uint(len(dst)), int32(threads), &e)
	})
	if rc != ok {
		return e.err(op, rc)
	}
	return nil
}

// Dequantize converts src, rows times RowSize bytes, to dst [rows, rowLength].
func Dequantize(typ string, src []byte, rows, rowLength int, dst []float32) error {
	const op = "dequantize"
	size, err := block(op, typ, len(dst), rows, rowLength, len(src))
	if err != nil || size == 0 {
		return err
	}
	var e cError
	rc := int32(ok)
	named(typ, func(t *byte) {
		rc = ubDequantize(t, &src[0], uint(len(src)), int64(rows), int64(rowLength), &dst[0], &e)
	})
	if rc != ok {
		return e.err(op, rc)
	}
	return nil
}

// block checks the two sides of a conversion against each other and returns the bytes of the quantized one.
func block(op, typ string, values, rows, rowLength, bytes int) (int, error) {
	if err := load(); err != nil {
		return 0, err
	}
	if rows < 0 || rowLength < 0 {
		return 0, invalid(op, "shape is [%d, %d], want no negative axis", rows, rowLength)
	}
	if err := length(op, "the f32 side", values, rows, rowLength); err != nil {
		return 0, err
	}
	row, known := RowSize(typ, rowLength)
	if !known {
		return 0, invalid(op, "type %q is unknown or can't hold rows of %d values", typ, rowLength)
	}
	return bytes, length(op, "the "+typ+" side", bytes, rows, int(row))
}
